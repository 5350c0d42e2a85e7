//! A machine's memory: while it runs, a memfd of QEMU's own, which is reached through /proc; at rest, a sparse file.
//!
//! QEMU maps what it has made itself and nothing else: no file of the host is ever open in it for the sake of memory.
//! So a copy is filled from outside, page by page that isn't zero: by the process that made the jail, so that it counts
//! as the sandbox's own. (A private mapping of one file for all copies would
//! spare that. QEMU before 8.2 wants such a file open for writing and punches holes into it when a guest gives pages
//! back, so one machine that broke out of its emulator could change what all later ones begin with.)

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{
    CWD, Dir, FallocateFlags, Mode, OFlags, SeekFrom, fallocate, fcntl_get_seals, openat, readlinkat, seek,
};

/// What the kernel says of the memfd of a `memory-backend-memfd`.
const LINK: &[u8] = b"/memfd:memory-backend-memfd";
const LOOK_AGAIN: Duration = Duration::from_millis(1);

pub(super) const PAGE: usize = 4096;
/// Copied at a time: fits into a processor's cache.
const STRIDE: usize = 256 << 10;
/// That copy side by side, at most.
const THREADS: usize = 4;

/// Of a directory of processes, which may be mounted nowhere any more.
pub(super) fn proc() -> io::Result<OwnedFd> {
    Ok(openat(CWD, "/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The memory of the machine that the process `pid` runs, `bytes` large if that is known; waits until QEMU has made it.
pub(super) fn of_process(proc: BorrowedFd<'_>, pid: i32, bytes: Option<u64>, patience: Duration) -> io::Result<File> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(memory) = find(proc, pid, bytes)? {
            return Ok(memory);
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::NotFound, "QEMU has no such memory"));
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// None while there is none. What a hostile process shows under that name is at worst a memfd with its own content.
fn find(proc: BorrowedFd<'_>, pid: i32, bytes: Option<u64>) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(proc, format!("{pid}/fd"), flags, Mode::empty())?;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if !readlinkat(&folder, name, Vec::new()).is_ok_and(|link| link.as_bytes().starts_with(LINK)) {
            continue;
        }
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let Ok(file) = openat(&folder, name, flags, Mode::empty()) else { continue };
        let file = File::from(file);
        let meta = file.metadata()?;
        // Only a memfd, or what lies in one, can say anything of seals.
        let whole = bytes.map_or(meta.len() > 0, |bytes| meta.len() == bytes);
        if meta.is_file() && whole && fcntl_get_seals(&file).is_ok() {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// Makes `to` what `from` is, and writes only where it is not so yet: pages that differ, or in a `fresh` one, which is
/// all zero, those that are not zero. How many bytes were written.
pub(super) fn copy(from: &File, to: &File, fresh: bool) -> io::Result<u64> {
    let size = from.metadata()?.len();
    if to.metadata()?.len() != size {
        to.set_len(size)?;
    }
    if fresh {
        return copy_range(from, to, true, 0..size);
    }
    // Somebody stands still for it.
    let parts = thread::available_parallelism().map_or(1, |count| count.get().min(THREADS)) as u64;
    let part = size.div_ceil(parts).next_multiple_of(PAGE as u64).max(PAGE as u64);
    thread::scope(|scope| {
        let begins = (0..size).step_by(usize::try_from(part).unwrap_or(usize::MAX));
        let work = begins.map(|at| scope.spawn(move || copy_range(from, to, false, at..size.min(at + part))));
        let work: Vec<_> = work.collect();
        let panicked = |_| Err(io::Error::other("a thread that copied memory has panicked"));
        work.into_iter().map(|part| part.join().unwrap_or_else(panicked)).sum()
    })
}

fn copy_range(from: &File, to: &File, fresh: bool, range: Range<u64>) -> io::Result<u64> {
    let (mut there, mut at, mut written) = (vec![0; STRIDE], range.start, 0);
    let clear = |at: u64, until: u64| match until > at && !fresh {
        true => fallocate(to, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, until - at),
        false => Ok(()),
    };
    extents(from, range.clone(), |place, bytes| {
        clear(at, place)?;
        let there = &mut there[..bytes.len()];
        if !fresh {
            to.read_exact_at(there, place)?;
        }
        written += write_changed(to, place, bytes, there)?;
        at = place + bytes.len() as u64;
        Ok(())
    })?;
    clear(at, range.end)?;
    Ok(written)
}

/// Shows all that is no hole, in pieces, and where each is.
pub(super) fn extents(
    file: &File,
    range: Range<u64>,
    mut show: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let (mut buffer, mut at) = (vec![0; STRIDE], range.start);
    while at < range.end {
        at = extent(file, SeekFrom::Data(at), range.end)?;
        let end = extent(file, SeekFrom::Hole(at), range.end)?;
        while at < end {
            let length = usize::try_from(end - at).map_or(STRIDE, |left| left.min(STRIDE));
            file.read_exact_at(&mut buffer[..length], at)?;
            show(at, &buffer[..length])?;
            at += length as u64;
        }
    }
    Ok(())
}

/// Where the next data or hole begins; the end when there is none.
fn extent(file: &File, from: SeekFrom, size: u64) -> io::Result<u64> {
    match seek(file, from) {
        Ok(at) => Ok(at.min(size)),
        Err(rustix::io::Errno::NXIO) => Ok(size),
        Err(error) => Err(error.into()),
    }
}

/// Pages that lie side by side go in one piece.
fn write_changed(to: &File, at: u64, new: &[u8], old: &[u8]) -> io::Result<u64> {
    let mut written = 0;
    let mut write = |from: usize, until: usize| {
        written += (until - from) as u64;
        to.write_all_at(&new[from..until], at + from as u64)
    };
    let mut begun = None;
    for (number, (page, other)) in new.chunks(PAGE).zip(old.chunks(PAGE)).enumerate() {
        match (page != other, begun) {
            (true, None) => begun = Some(number * PAGE),
            (false, Some(from)) => {
                write(from, number * PAGE)?;
                begun = None;
            }
            _ => {}
        }
    }
    if let Some(from) = begun {
        write(from, new.len())?;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    fn memfd(pages: &[u8]) -> File {
        let file = File::from(memfd_create("memory-backend-memfd", MemfdFlags::CLOEXEC).unwrap());
        file.set_len((pages.len() * PAGE) as u64).unwrap();
        paint(&file, pages);
        file
    }

    /// Each number fills a page; 0 is a page of zeros that is there, 255 one that is not.
    fn paint(file: &File, pages: &[u8]) {
        for (number, page) in pages.iter().enumerate() {
            let at = (number * PAGE) as u64;
            match page {
                255 => {
                    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    fallocate(file.as_fd(), punch, at, PAGE as u64).unwrap();
                }
                page => file.write_all_at(&[*page; PAGE], at).unwrap(),
            }
        }
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_second_copy_brings_what_has_changed_and_nothing_else(
            (first, second) in (1_usize..200).prop_flat_map(|count| {
                let pages = || proptest::collection::vec(prop_oneof![Just(255), Just(0), 1_u8..4], count);
                (pages(), pages())
            }),
        ) {
            let memory = memfd(&first);
            let kept = tempfile::tempfile_in("/var/tmp").unwrap();
            copy(&memory, &kept, true).unwrap();
            prop_assert!(bytes(&memory) == bytes(&kept));
            paint(&memory, &second);
            let changed = first.iter().zip(&second).filter(|(old, new)| old != new && **new != 255).count();
            let written = copy(&memory, &kept, false).unwrap();
            prop_assert!(bytes(&memory) == bytes(&kept));
            prop_assert!(written <= (changed * PAGE) as u64, "{written} for {changed} pages");
        }
    }

    #[test]
    fn zeros_take_no_room() {
        let memory = memfd(&[0; 300]);
        let kept = tempfile::tempfile_in("/var/tmp").unwrap();
        assert_eq!(copy(&memory, &kept, true).unwrap(), 0);
        assert_eq!((kept.metadata().unwrap().len(), kept.metadata().unwrap().blocks()), (300 * PAGE as u64, 0));
    }

    #[test]
    fn a_process_is_asked_for_memory_of_the_right_size_only() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let _memory = memfd(&[1; 777]);
        let proc = proc().unwrap();
        let of_process = |pages: usize| of_process(proc.as_fd(), pid, Some((pages * PAGE) as u64), Duration::ZERO);
        assert_eq!(bytes(&of_process(777).unwrap()), vec![1; 777 * PAGE]);
        assert!(of_process(778).is_err());
    }
}
