//! What is in files, and what room there is.

use std::fs::File;
use std::io::IoSlice;

use atoll_rpc::volumes::MOST_DATA;
use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::abi::{Answer, Reply, WRITE_CACHE, WRITE_KILL_SUIDGID};
use super::attributes::as_writer;
use super::{Asked, Server};
use crate::storage::held_bytes;

/// The unit in which room is told.
const BLOCK: u64 = 4096;
/// How far back what was appended once is looked for.
const LOOK_BACK: u64 = 64 << 10;

impl Server {
    pub(super) fn open_file(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        let flags = OFlags::from_bits_retain(asked.body.u32()?);
        if self.read_only && flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
            return Err(Errno::ROFS);
        }
        self.tree.file(asked.header.node, OFlags::RDONLY)?;
        reply.opened();
        Ok(())
    }

    pub(super) fn read(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        asked.body.skip(8)?;
        let (offset, size) = (asked.body.u64()?, asked.body.u32()? as usize);
        let offset = place(offset)?;
        let (file, _) = self.tree.file(asked.header.node, OFlags::RDONLY)?;
        let room = reply.room(size.min(MOST_DATA));
        let most = room.len();
        let read = fill(&file, room, offset)?;
        reply.give_back(most - read);
        Ok(())
    }

    pub(super) fn write(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        let body = &mut asked.body;
        body.skip(8)?;
        let (offset, size, how) = (place(body.u64()?)?, body.u32()?, body.u32()?);
        body.skip(8)?;
        let flags = OFlags::from_bits_retain(body.u32()?);
        body.skip(4)?;
        let data = body.data(size)?;
        let (file, stat) = self.tree.file(asked.header.node, OFlags::RDWR)?;
        let appends = flags.contains(OFlags::APPEND) && how & WRITE_CACHE == 0;
        let until = kept_until(flags);
        let written = as_writer(how & WRITE_KILL_SUIDGID != 0, &stat, || match appends {
            true if asked.again && is_there(&file, data, offset)? => Ok(data.len()),
            // Others append too: where the end is, only this kernel knows.
            true => rustix::io::pwritev2(&file, &[IoSlice::new(data)], 0, until | ReadWriteFlags::APPEND),
            false => write_all(&file, data, offset, until),
        })?;
        reply.u32(written as u32).u32(0);
        Ok(())
    }

    pub(super) fn fsync(&self, mut asked: Asked<'_>) -> Answer<()> {
        asked.body.skip(8)?;
        let only_data = asked.body.u32()? & 1 != 0;
        let file = match self.tree.file(asked.header.node, OFlags::RDONLY) {
            Ok((file, _)) => file,
            Err(Errno::ISDIR) => self.tree.open(asked.header.node, OFlags::RDONLY | OFlags::DIRECTORY)?,
            Err(error) => return Err(error),
        };
        if only_data { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) }
    }

    pub(super) fn fallocate(&self, mut asked: Asked<'_>) -> Answer<()> {
        asked.body.skip(8)?;
        let (offset, length, mode) = (place(asked.body.u64()?)?, place(asked.body.u64()?)?, asked.body.u32()?);
        let (file, _) = self.tree.file(asked.header.node, OFlags::WRONLY)?;
        rustix::fs::fallocate(file, FallocateFlags::from_bits_retain(mode), offset, length)
    }

    /// Only where data or a hole is; all else the guest knows itself.
    pub(super) fn lseek(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        asked.body.skip(8)?;
        let (offset, whence) = (place(asked.body.u64()?)?, asked.body.u32()?);
        let to = match whence.cast_signed() {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let (file, _) = self.tree.file(asked.header.node, OFlags::RDONLY)?;
        reply.u64(rustix::fs::seek(file, to)?);
        Ok(())
    }

    /// The volume's size and what is free of it: of its quota, and of the pool where that has less.
    pub(super) fn statfs(&self, reply: &mut Reply<'_>) -> Answer<()> {
        let files = self.tree.files();
        let pool = rustix::fs::fstatvfs(files)?;
        let held = held_bytes(files).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let free = self.bytes.saturating_sub(held) / BLOCK;
        let free = free.min(pool.f_bavail.saturating_mul(pool.f_frsize) / BLOCK);
        reply.u64(self.bytes / BLOCK).u64(free).u64(free).u64(0).u64(0);
        reply.u32(BLOCK as u32).u32(255).u32(BLOCK as u32).zeros(28);
        Ok(())
    }
}

/// A place in a file that the kernel can count to.
fn place(offset: u64) -> Answer<u64> {
    i64::try_from(offset).map_err(|_| Errno::INVAL)?;
    Ok(offset)
}

/// As much as there is.
fn fill(file: &File, room: &mut [u8], offset: u64) -> Answer<usize> {
    let mut done = 0;
    while done < room.len() {
        match rustix::io::pread(file, &mut room[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(Errno::INTR) => {}
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// What has to be on the disk before a write is answered: as the file was opened inside.
fn kept_until(flags: OFlags) -> ReadWriteFlags {
    // The library's name for the second means the first, which has the bit of the second in it.
    let has = |flag: libc::c_int| flags.bits() & flag.cast_unsigned() == flag.cast_unsigned();
    if has(libc::O_SYNC) {
        ReadWriteFlags::SYNC
    } else if has(libc::O_DSYNC) {
        ReadWriteFlags::DSYNC
    } else {
        ReadWriteFlags::empty()
    }
}

fn write_all(file: &File, data: &[u8], offset: u64, until: ReadWriteFlags) -> Answer<usize> {
    let mut done = 0;
    while done < data.len() {
        match rustix::io::pwritev2(file, &[IoSlice::new(&data[done..])], offset + done as u64, until) {
            Ok(0) => break,
            Ok(written) => done += written,
            Err(Errno::INTR) => {}
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Whether what was to be appended stands at the end already, or where the guest took the end to be, or close behind.
fn is_there(file: &File, data: &[u8], offset: u64) -> Answer<bool> {
    let end = rustix::fs::fstat(file)?.st_size.cast_unsigned();
    let last = end.saturating_sub(data.len() as u64 + LOOK_BACK);
    let from = offset.min(end).max(last);
    let mut tail = vec![0; usize::try_from(end - from).map_err(|_| Errno::FBIG)?];
    let read = fill(file, &mut tail, from)?;
    Ok(!data.is_empty() && has_in_it(&tail[..read], data))
}

/// Whether one text has another in it, in time that grows as their lengths do: after Knuth, Morris and Pratt.
fn has_in_it(text: &[u8], part: &[u8]) -> bool {
    if part.is_empty() {
        return true;
    }
    // How much of the part's beginning ends at each of its bytes.
    let mut borders = vec![0_usize; part.len()];
    let longer = |mut border: usize, byte: u8, borders: &[usize]| {
        while border > 0 && part[border] != byte {
            border = borders[border - 1];
        }
        border + usize::from(part[border] == byte)
    };
    for at in 1..part.len() {
        borders[at] = longer(borders[at - 1], part[at], &borders);
    }
    let mut found = 0;
    for byte in text {
        found = longer(found, *byte, &borders);
        if found == part.len() {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_appended_is_found_wherever_it_stands(
            text in proptest::collection::vec(0_u8..3, 0..60),
            part in proptest::collection::vec(0_u8..3, 1..6),
        ) {
            prop_assert_eq!(has_in_it(&text, &part), text.windows(part.len()).any(|window| window == part));
        }
    }

    #[test]
    fn the_most_that_a_guest_can_send_is_looked_for_in_no_time() {
        // Compared place by place this would be eight thousand million bytes.
        let part = vec![b'a'; MOST_DATA];
        let mut text = vec![b'a'; MOST_DATA - 1];
        text.push(b'b');
        text.resize(MOST_DATA + LOOK_BACK as usize, b'a');
        assert!(!has_in_it(&text, &part));
        text.resize(2 * MOST_DATA, b'a');
        assert!(has_in_it(&text, &part));
    }

    #[test]
    fn a_file_that_was_opened_to_be_on_the_disk_is_written_so() {
        let flags = |flags: i32| kept_until(OFlags::from_bits_retain(flags.cast_unsigned()));
        assert_eq!(flags(libc::O_WRONLY | libc::O_APPEND), ReadWriteFlags::empty());
        assert_eq!(flags(libc::O_RDWR | libc::O_DSYNC), ReadWriteFlags::DSYNC);
        assert_eq!(flags(libc::O_SYNC), ReadWriteFlags::SYNC);
    }
}
