//! Memory in files with holes: copied from one to another, and only where they differ.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::thread;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

pub(in super::super) const PAGE: usize = 4096;
/// Copied at a time: fits into a processor's cache.
pub(super) const STRIDE: usize = 256 << 10;
/// That copy side by side, at most.
const THREADS: usize = 4;

/// Makes `to` what `from` is, and writes only where it is not so yet: pages that differ, or in a `fresh` one, which is
/// all zero, those that are not zero. How many bytes were written.
pub(in super::super) fn copy(from: &File, to: &File, fresh: bool) -> io::Result<u64> {
    let size = from.metadata()?.len();
    if to.metadata()?.len() != size {
        to.set_len(size)?;
    }
    if fresh {
        return copy_range(from, to, true, 0..size);
    }
    in_parts(size, |range| copy_range(from, to, false, range))
}

/// By several at once: somebody stands still for it. The sum of what they say.
pub(super) fn in_parts(size: u64, work: impl Fn(Range<u64>) -> io::Result<u64> + Sync) -> io::Result<u64> {
    let parts = thread::available_parallelism().map_or(1, |count| count.get().min(THREADS)) as u64;
    let part = size.div_ceil(parts).next_multiple_of(STRIDE as u64).max(STRIDE as u64);
    let work = &work;
    thread::scope(|scope| {
        let begins = (0..size).step_by(usize::try_from(part).unwrap_or(usize::MAX));
        let parts: Vec<_> = begins.map(|at| scope.spawn(move || work(at..size.min(at + part)))).collect();
        let panicked = |_| Err(io::Error::other("a thread that copied memory has panicked"));
        parts.into_iter().map(|part| part.join().unwrap_or_else(panicked)).sum()
    })
}

pub(super) fn copy_range(from: &File, to: &File, fresh: bool, range: Range<u64>) -> io::Result<u64> {
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
pub(in super::super) fn extents(
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
pub(super) fn write_changed(to: &File, at: u64, new: &[u8], old: &[u8]) -> io::Result<u64> {
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
        let file = File::from(memfd_create("memory", MemfdFlags::CLOEXEC).unwrap());
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
}
