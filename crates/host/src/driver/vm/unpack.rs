//! The kernel out of the image that unpacks itself: QEMU starts it by the entry that it has for hypervisors (PVH), and a
//! guest without hardware help does not spend its first tenths of a second on unpacking.
//!
//! Formats: <https://docs.kernel.org/arch/x86/boot.html> (the header in front of the image),
//! <https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md> (its "legacy frame"), and the note `XEN_ELFNOTE_PHYS32_ENTRY`
//! of the kernel's `include/xen/interface/elfnote.h`.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

/// Of the header: how many sectors it has, its name, its version, and where the packed kernel is.
const SECTORS: usize = 0x1f1;
const NAME: (usize, &[u8]) = (0x202, b"HdrS");
const VERSION: usize = 0x206;
const PAYLOAD: usize = 0x248;
/// The first version that says where it is.
const WITH_PAYLOAD: u32 = 0x208;
const SECTOR: usize = 512;
/// Behind the packed kernel: how large it is unpacked.
const SIZE: usize = 4;
/// No kernel is as large.
const LARGEST: u32 = 512 << 20;

const LZ4: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
/// Of a block of LZ4's, unpacked.
const BLOCK: usize = 8 << 20;
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ: &[u8] = b"\xfd7zXZ\0";

/// The kernel as an ELF file that has such an entry; none where the image is another's, or packed in a way that is not
/// known here.
pub(super) fn kernel(image: &[u8]) -> Option<Vec<u8>> {
    let named = image.get(NAME.0..)?.starts_with(NAME.1);
    let version = number(image, VERSION, 2)?;
    if !named || version < WITH_PAYLOAD {
        return None;
    }
    // None stands for four: very old images did not say.
    let sectors = match *image.get(SECTORS)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let at = (sectors + 1) * SECTOR + number(image, PAYLOAD, 4)? as usize;
    let length = number(image, PAYLOAD + 4, 4)? as usize;
    let packed = image.get(at..)?.get(..length)?;
    let (packed, size) = packed.split_at_checked(length.checked_sub(SIZE)?)?;
    let size = number(size, 0, 4).filter(|size| *size <= LARGEST)? as usize;
    let kernel = match packed.strip_prefix(LZ4) {
        Some(blocks) => unpacked(blocks, size)?,
        None if packed.starts_with(ZSTD) => {
            let mut kernel = Vec::with_capacity(size);
            let frame = zstd::stream::Decoder::with_buffer(packed).ok()?.single_frame();
            frame.take(size as u64 + 1).read_to_end(&mut kernel).ok()?;
            kernel
        }
        None if packed.starts_with(XZ) => piped("xz", packed, size).ok()?,
        None => return None,
    };
    (kernel.len() == size && starts_by_itself(&kernel)).then_some(kernel)
}

/// A number of so many bytes, the least first.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.get(..length)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte)))
}

/// Blocks, each with its length before it.
fn unpacked(mut blocks: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut kernel = Vec::with_capacity(size);
    while !blocks.is_empty() {
        let length = number(blocks, 0, 4)? as usize;
        let (block, rest) = blocks.get(4..)?.split_at_checked(length)?;
        kernel.extend(lz4_flex::block::decompress(block, BLOCK.min(size - kernel.len())).ok()?);
        if kernel.len() > size {
            return None;
        }
        blocks = rest;
    }
    Some(kernel)
}

/// No more than `size` and one byte.
fn piped(program: &str, packed: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let mut child =
        Command::new(program).arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let mut unpacked = Vec::with_capacity(size);
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(packed)));
        // Its end of the pipe is closed behind this: one that has more to say ends by that.
        stdout.map_or(Ok(0), |stdout| stdout.take(size as u64 + 1).read_to_end(&mut unpacked))
    })?;
    if child.wait()?.success() { Ok(unpacked) } else { Err(io::Error::other(format!("{program} failed"))) }
}

/// Whether it is an ELF file for this kind of processor with the note that says where a hypervisor enters it.
fn starts_by_itself(kernel: &[u8]) -> bool {
    const MAGIC: &[u8] = b"\x7fELF\x02\x01";
    const NOTE: u32 = 4;
    let headers = || {
        let (first, each) = (number(kernel, 0x20, 4)? as usize, number(kernel, 0x36, 2)? as usize);
        let count = number(kernel, 0x38, 2)? as usize;
        Some((0..count).filter_map(move |index| kernel.get(first + index * each..)))
    };
    let has_entry = |header: &[u8]| {
        let (at, length) = (number(header, 8, 4)? as usize, number(header, 32, 4)? as usize);
        let notes = (number(header, 0, 4)? == NOTE).then(|| kernel.get(at..)?.get(..length))??;
        Some(says_entry(notes))
    };
    kernel.starts_with(MAGIC) && headers().is_some_and(|mut headers| headers.any(|it| has_entry(it) == Some(true)))
}

/// Whether one of these notes is the entry's.
fn says_entry(mut notes: &[u8]) -> bool {
    const ENTRY: (u32, &[u8]) = (18, b"Xen\0");
    let mut next = || {
        let (name, text) = (number(notes, 0, 4)? as usize, number(notes, 4, 4)? as usize);
        let kind = number(notes, 8, 4)?;
        let found = (kind, notes.get(12..)?.get(..name)?) == ENTRY;
        notes = notes.get(12 + name.next_multiple_of(4)..)?.get(text.next_multiple_of(4)..)?;
        Some(found)
    };
    std::iter::from_fn(&mut next).any(|found| found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::kernel::Kernel;
    use super::super::tests::cache;
    use super::*;

    fn image() -> Vec<u8> {
        let kernel = Kernel::ensure(&cache(), atoll_assets::GUEST).unwrap();
        std::fs::read(kernel.image.with_file_name("vmlinuz")).unwrap()
    }

    #[test]
    fn the_kernel_of_this_machines_sandboxes_is_unpacked_and_starts_by_itself() {
        let kernel = kernel(&image()).expect("Debian's kernels have a PVH entry");
        assert!(kernel.len() > 20 << 20);
        assert!(!starts_by_itself(&kernel[..0x1000]), "its notes are not there");
    }

    /// As Debian packs them: in LZ4 until 12, in Zstandard from 13 on.
    #[test]
    fn the_same_packed_otherwise_is_the_same() {
        let elf = kernel(&image()).unwrap();
        let packed = |packed: Vec<u8>| {
            let mut image = vec![0; 2 * SECTOR];
            image[SECTORS] = 1;
            image[NAME.0..NAME.0 + 4].copy_from_slice(NAME.1);
            image[VERSION..VERSION + 2].copy_from_slice(&[0x0f, 0x02]);
            let length = u32::try_from(packed.len() + SIZE).unwrap();
            image[PAYLOAD + 4..PAYLOAD + 8].copy_from_slice(&length.to_le_bytes());
            image.extend(packed);
            image.extend(u32::try_from(elf.len()).unwrap().to_le_bytes());
            image
        };
        let zstd = zstd::stream::encode_all(&*elf, 1).unwrap();
        assert!(kernel(&packed(zstd.clone())).is_some_and(|kernel| kernel == elf));
        assert!(kernel(&packed(zstd[..zstd.len() / 2].to_vec())).is_none());
        let mut xz = Command::new("xz").args(["-0c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = xz.stdin.take().unwrap();
        let bytes = elf.clone();
        let writing = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
        let xz = xz.wait_with_output().unwrap().stdout;
        writing.join().unwrap();
        assert!(kernel(&packed(xz)).is_some_and(|kernel| kernel == elf));
    }

    #[test]
    fn what_is_damaged_is_nothing() {
        let whole = image();
        for at in [SECTORS, NAME.0, PAYLOAD, PAYLOAD + 5, whole.len() / 2] {
            let mut image = whole.clone();
            image[at] ^= 0x55;
            let _nothing_or_something_and_no_panic = kernel(&image);
        }
        for length in [0, 1, 0x1f1, 0x250, 4096, whole.len() / 2] {
            assert!(kernel(&whole[..length]).is_none(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_image_or_none(mut bytes in prop::collection::vec(any::<u8>(), 0..4096), named: bool) {
            if named && bytes.len() > 0x260 {
                bytes[NAME.0..NAME.0 + 4].copy_from_slice(NAME.1);
                bytes[VERSION..VERSION + 2].copy_from_slice(&[0x0f, 0x02]);
                bytes[PAYLOAD..PAYLOAD + 4].fill(0);
                bytes[SECTORS] = 1;
            }
            prop_assert!(kernel(&bytes).is_none());
        }

        #[test]
        fn notes_are_read_to_their_end(notes in prop::collection::vec(any::<u8>(), 0..200)) {
            says_entry(&notes);
        }
    }
}
