//! Memory that is a private mapping of a file: what the machine has written to are pages of its own, all others are the
//! file's. The kernel tells which is which (`/proc/PID/pagemap`).

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ioctl_ficlone, openat, statat};

use super::MOST_BYTES;
use super::sparse::{PAGE, STRIDE, copy_range, in_parts, write_changed};

/// Of a page in `pagemap`, eight bytes each: it is in memory, or in swap.
const THERE: u64 = 0b11 << 62;
/// It is a file's, or shared.
const OF_FILE: u64 = 1 << 61;
/// Strides of which the kernel is asked at a time.
const ASKED: usize = 64;

/// As many as a word has bits.
const PAGES: usize = STRIDE / PAGE;
const _: () = assert!(PAGES == 64);

pub(in super::super) struct Private {
    /// What it began with, which nobody changes.
    file: File,
    size: u64,
    /// Where it is mapped in `process`.
    address: u64,
    process: File,
    map: File,
}

/// The pages that were the machine's own at some time, a word for each stride.
pub(in super::super) struct Taken(Vec<u64>);

impl Taken {
    /// Nothing is known: each may have been.
    pub fn all(memory: &Private) -> Self {
        Self(vec![u64::MAX; strides(memory.size)])
    }
}

fn strides(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(STRIDE as u64)).unwrap_or(usize::MAX)
}

impl Private {
    /// That of the process with this directory in /proc and these open files, of which `number` is what it maps.
    pub fn of(folder: &OwnedFd, open: &OwnedFd, number: &str) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let reach = |folder: &OwnedFd, name: &str| openat(folder, name, flags, Mode::empty()).map(File::from);
        let strange = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
        // Whatever is opened, it is no device.
        if FileType::from_raw_mode(statat(open, number, AtFlags::empty())?.st_mode) != FileType::RegularFile {
            return Err(strange("its memory is no file"));
        }
        let file = reach(open, number)?;
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() > MOST_BYTES {
            return Err(strange("its memory is no machine's"));
        }
        let mut maps = String::new();
        reach(folder, "maps")?.read_to_string(&mut maps)?;
        let address = address_in(&maps, meta.ino(), meta.len());
        let address = address.ok_or_else(|| strange("its memory is not mapped as a whole"))?;
        Ok(Self { file, size: meta.len(), address, process: reach(folder, "mem")?, map: reach(folder, "pagemap")? })
    }

    /// As [`super::Memory::begin`].
    pub(super) fn begin(&self, to: &File) -> io::Result<Taken> {
        to.set_len(self.size)?;
        // Shares its blocks where the file system can.
        if ioctl_ficlone(to, self.file.as_fd()).is_err() {
            copy_range(&self.file, to, true, 0..self.size)?;
        }
        let (mut taken, mut there) = (vec![0; strides(self.size)], vec![0; STRIDE]);
        self.own(0..self.size, |place, mask, own| {
            taken[strides(place)] = mask;
            own.show(|at, bytes| {
                let there = &mut there[..bytes.len()];
                self.file.read_exact_at(there, at)?;
                write_changed(to, at, bytes, there).map(drop)
            })
        })?;
        Ok(Taken(taken))
    }

    /// As [`super::Memory::finish`].
    pub(super) fn finish(&self, to: &File, taken: &Taken) -> io::Result<u64> {
        in_parts(self.size, |range| {
            let (mut there, mut here, mut written) = (vec![0; STRIDE], vec![0; STRIDE], 0);
            self.own(range, |place, mask, own| {
                own.show(|at, bytes| {
                    let there = &mut there[..bytes.len()];
                    to.read_exact_at(there, at)?;
                    written += write_changed(to, at, bytes, there)?;
                    Ok(())
                })?;
                // Given back meanwhile: they are what they were at first.
                runs(place, taken.0[strides(place)] & !mask, self.size, |at, length| {
                    let (there, here) = (&mut there[..length], &mut here[..length]);
                    self.file.read_exact_at(here, at)?;
                    to.read_exact_at(there, at)?;
                    written += write_changed(to, at, here, there)?;
                    Ok(())
                })
            })?;
            Ok(written)
        })
    }

    /// Shows where each stride of `range` is and which of its pages are the machine's own.
    fn own(&self, range: Range<u64>, mut show: impl FnMut(u64, u64, &mut Own<'_>) -> io::Result<()>) -> io::Result<()> {
        let (mut buffer, mut words) = (vec![0; STRIDE], vec![0; ASKED * PAGES * 8]);
        for place in range.clone().step_by(ASKED * STRIDE) {
            let bytes = (range.end - place).min((ASKED * STRIDE) as u64);
            let words = &mut words[..usize::try_from(bytes.div_ceil(PAGE as u64)).unwrap_or(0) * 8];
            self.map.read_exact_at(words, (self.address + place) / PAGE as u64 * 8)?;
            for (place, words) in (place..).step_by(STRIDE).zip(words.chunks(PAGES * 8)) {
                let pages = words.as_chunks().0.iter().enumerate();
                let own = pages.filter(|(_, word)| is_own(u64::from_ne_bytes(**word)));
                let mask = own.fold(0, |mask, (number, _)| mask | 1 << number);
                show(place, mask, &mut Own { memory: self, place, mask, buffer: &mut buffer })?;
            }
        }
        Ok(())
    }
}

/// Pages of a stride.
struct Own<'a> {
    memory: &'a Private,
    place: u64,
    mask: u64,
    buffer: &'a mut [u8],
}

impl Own<'_> {
    /// Those that lie side by side, in one piece.
    fn show(&mut self, mut show: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
        runs(self.place, self.mask, self.memory.size, |at, length| {
            let buffer = &mut self.buffer[..length];
            self.memory.process.read_exact_at(buffer, self.memory.address + at)?;
            show(at, buffer)
        })
    }
}

/// Where pages of a stride lie that are set in its `mask`, and how many bytes side by side.
fn runs(place: u64, mut mask: u64, size: u64, mut show: impl FnMut(u64, usize) -> io::Result<()>) -> io::Result<()> {
    let mut number = 0;
    while mask != 0 {
        let skip = mask.trailing_zeros();
        let count = (mask >> skip).trailing_ones();
        let at = place + u64::from(number + skip) * PAGE as u64;
        let length = (u64::from(count) * PAGE as u64).min(size - at);
        show(at, usize::try_from(length).unwrap_or(STRIDE))?;
        number += skip + count;
        mask = mask.checked_shr(skip + count).unwrap_or(0);
    }
    Ok(())
}

const fn is_own(page: u64) -> bool {
    page & THERE != 0 && page & OF_FILE == 0
}

/// Where a file lies as a whole, for writing and privately: the kernel may tell it in several pieces.
fn address_in(maps: &str, inode: u64, size: u64) -> Option<u64> {
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    // Another file system may have a file with this number: what does not fit is none of it.
    let pieces = maps.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (range, rights, offset) = (words.next()?, words.next()?, words.next()?);
        let is_its = words.nth(1)?.parse() == Ok(inode) && rights == "rw-p";
        let (from, until) = range.split_once('-').filter(|_| is_its)?;
        Some((number(from)?, number(until)?, number(offset)?))
    });
    let (mut begin, mut end) = (0, 0);
    for (from, until, offset) in pieces {
        if offset == 0 {
            begin = from;
        } else if from != end || from - begin != offset {
            continue;
        }
        end = until;
        if end - begin == size.next_multiple_of(PAGE as u64) {
            return Some(begin);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    use atoll_launch::lend;
    use proptest::prelude::*;

    use super::super::{Memory, proc};

    /// A private mapping of a file in this very process.
    struct Mapping {
        address: *mut u8,
        pages: usize,
    }

    impl Mapping {
        fn of(file: &File, pages: usize) -> Self {
            let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
            // SAFETY: a new mapping, at an address that the kernel chooses.
            let address = unsafe { libc::mmap(std::ptr::null_mut(), pages * PAGE, rights, flags, file.as_raw_fd(), 0) };
            assert!(address != libc::MAP_FAILED);
            Self { address: address.cast(), pages }
        }

        /// 255 gives a page back, 254 leaves it as it is, others fill it.
        fn paint(&self, pages: &[u8]) {
            for (number, page) in pages.iter().enumerate() {
                // SAFETY: inside of the mapping, of which nobody has a reference.
                unsafe {
                    let at = self.address.add(number * PAGE);
                    match page {
                        255 => assert_eq!(libc::madvise(at.cast(), PAGE, libc::MADV_DONTNEED), 0),
                        254 => {}
                        page => at.write_bytes(*page, PAGE),
                    }
                }
            }
        }

        fn bytes(&self) -> Vec<u8> {
            // SAFETY: the mapping is as long, and nobody writes to it meanwhile.
            unsafe { std::slice::from_raw_parts(self.address, self.pages * PAGE) }.to_vec()
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: it was mapped so, and nothing of it is borrowed.
            unsafe { libc::munmap(self.address.cast(), self.pages * PAGE) };
        }
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn memory() -> Private {
        let pid = i32::try_from(std::process::id()).unwrap();
        match Memory::of_process(proc().unwrap().as_fd(), pid).unwrap() {
            Some(Memory::Private(memory)) => memory,
            _ => panic!("it has no such memory"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_copy_is_what_the_machine_sees_and_the_file_stays_as_it_was(
            (file, first, second) in (1_usize..300).prop_flat_map(|count| {
                let pages = || proptest::collection::vec(prop_oneof![Just(255), Just(254), 0_u8..4], count);
                (pages(), pages(), pages())
            }),
        ) {
            let base = tempfile::tempfile_in("/var/tmp").unwrap();
            base.set_len((file.len() * PAGE) as u64).unwrap();
            for (number, page) in file.iter().enumerate().filter(|(_, page)| **page < 254) {
                base.write_all_at(&[*page; PAGE], (number * PAGE) as u64).unwrap();
            }
            let before = bytes(&base);
            // SAFETY: nothing in this process has this number.
            unsafe { atoll_launch::sys::place(base.as_fd(), lend::NUMBER).unwrap() };
            let mapping = Mapping::of(&base, file.len());
            mapping.paint(&first);
            let kept = tempfile::tempfile_in("/var/tmp").unwrap();
            let taken = memory().begin(&kept).unwrap();
            prop_assert!(bytes(&kept) == mapping.bytes());
            mapping.paint(&second);
            let changed = second.iter().filter(|page| **page != 254).count();
            let written = memory().finish(&kept, &taken).unwrap();
            prop_assert!(bytes(&kept) == mapping.bytes());
            prop_assert!(written <= (changed * PAGE) as u64, "{written} for {changed} pages");
            // Without having seen the first copy.
            kept.write_all_at(&[9; PAGE], 0).unwrap();
            memory().finish(&kept, &Taken::all(&memory())).unwrap();
            prop_assert!(bytes(&kept) == mapping.bytes() && bytes(&base) == before);
        }
    }

    #[test]
    fn only_a_whole_mapping_is_taken_for_the_memory() {
        let maps = "7f00000000-7f00001000 r-xp 00000000 08:01 7 /lib/x\n\
                    7f10000000-7f10004000 rw-p 00000000 08:01 42 /x\n\
                    7f10004000-7f10008000 rw-p 00004000 08:01 42 /x\n\
                    7f20000000-7f20001000 rw-p 00000000 00:00 0\n";
        assert_eq!(address_in(maps, 42, 0x8000), Some(0x7f_1000_0000));
        assert_eq!(address_in(maps, 42, 0x9000), None);
        assert_eq!(address_in(maps, 7, 0x1000), None, "it can't be written to");
        assert_eq!(address_in(&maps.replace("10004000-7f", "10005000-7f"), 42, 0x8000), None);
        let other = format!("7e00000000-7e00002000 rw-p 00001000 08:02 42 /y\n{maps}");
        assert_eq!(address_in(&other, 42, 0x8000), Some(0x7f_1000_0000), "another file of this number");
        assert_eq!(address_in("nonsense", 1, 1), None);
    }

    proptest! {
        #[test]
        fn runs_are_the_mask(mask: u64) {
            let mut seen = 0;
            runs(0, mask, STRIDE as u64, |at, length| {
                for page in 0..length / PAGE {
                    seen |= 1_u64 << (usize::try_from(at).unwrap() / PAGE + page);
                }
                Ok(())
            })
            .unwrap();
            prop_assert_eq!(seen, mask);
        }
    }
}
