//! Reads all that a kernel reads of an erofs image besides the contents of files: the super block, the inodes with what
//! stands behind them (attributes, the ends of files), and directories.
//!
//! Whoever gets an image in pieces asks for these first. Only plain images can be walked, such as [`write`](crate::write)
//! makes: of one block size, not compressed, with attributes that are not shared.

use std::collections::HashSet;
use std::io;

const BLOCK: u64 = 4096;
const MAGIC: u32 = 0xe0f5_e1e2;
const SUPER_OFFSET: u64 = 1024;
const SUPER: usize = 128;
const COMPACT: usize = 32;
const EXTENDED: usize = 64;
const SLOT: u64 = 32;
const DIRENT: usize = 12;
const FLAT_PLAIN: u16 = 0;
const FLAT_INLINE: u16 = 2;
/// Inodes of one image.
const MAX_INODES: usize = 4_000_000;
/// Bytes of the names of one directory.
const MAX_DIRECTORY: u64 = 1 << 30;

/// An image of which pieces may have to be brought first.
pub trait Pieces {
    /// Fills `into` with what lies at `offset`.
    ///
    /// # Errors
    /// When it can't be had.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// From `offset` on everything will be wanted.
    fn all_from(&mut self, offset: u64);
}

/// Reads all metadata of the image of `size` bytes. False when it is of another kind, or none.
///
/// # Errors
/// Those of reading, and `InvalidData` when it is an image that makes no sense.
pub fn read_metadata(image: &mut dyn Pieces, size: u64) -> io::Result<bool> {
    if size < SUPER_OFFSET + SUPER as u64 {
        return Ok(false);
    }
    let mut head = [0; SUPER];
    image.read(SUPER_OFFSET, &mut head)?;
    let of_other_kinds = &head[80..84];
    if word(&head, 0) != MAGIC || u32::from(head[12]) != BLOCK.ilog2() || of_other_kinds != [0; 4] {
        return Ok(false);
    }
    let (root, meta) = (u64::from(half(&head, 14)), u64::from(word(&head, 40)) * BLOCK);
    // The kernel reads whole blocks.
    image.read(0, &mut [0; BLOCK as usize])?;
    if meta > 0 {
        image.all_from(meta);
    }
    let mut walk = Walk { image, size, meta, seen: HashSet::from([root]), left: vec![root] };
    while let Some(inode) = walk.left.pop() {
        if !walk.visit(inode)? {
            return Ok(false);
        }
    }
    Ok(true)
}

struct Walk<'a> {
    image: &'a mut dyn Pieces,
    size: u64,
    /// Where inodes are counted from.
    meta: u64,
    seen: HashSet<u64>,
    left: Vec<u64>,
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("an image that makes no sense: {what}"))
}

impl Walk<'_> {
    fn read(&mut self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = offset.checked_add(length as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(wrong("it refers to what lies behind its end"));
        }
        let mut bytes = vec![0; length];
        self.image.read(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// False when it is of another kind.
    fn visit(&mut self, number: u64) -> io::Result<bool> {
        let at = number.checked_mul(SLOT).and_then(|at| at.checked_add(self.meta)).ok_or_else(|| wrong("an inode"))?;
        let mut inode = self.read(at, COMPACT)?;
        let format = half(&inode, 0);
        let extended = format & 1 != 0;
        if extended {
            inode.extend(self.read(at + COMPACT as u64, EXTENDED - COMPACT)?);
        }
        let length = if extended {
            u64::from(word(&inode, 8)) | u64::from(word(&inode, 12)) << 32
        } else {
            u64::from(word(&inode, 8))
        };
        let layout = format >> 1 & 7;
        let attributes = match half(&inode, 2) {
            0 => 0,
            count => 12 + (usize::from(count) - 1) * 4,
        };
        let behind = at + inode.len() as u64;
        let kept = self.read(behind, attributes)?;
        if kept.get(4).is_some_and(|shared| *shared > 0) {
            return Ok(false);
        }
        let whole = match layout {
            FLAT_PLAIN => length,
            FLAT_INLINE => length.saturating_sub(1) / BLOCK * BLOCK,
            _ => return Ok(false),
        };
        let tail = usize::try_from(length - whole).map_err(|_| wrong("an inode"))?;
        let tail = if layout == FLAT_INLINE { self.read(behind + attributes as u64, tail)? } else { Vec::new() };
        let is_directory = half(&inode, 4) & 0o170_000 == 0o040_000;
        if is_directory {
            if length > MAX_DIRECTORY {
                return Err(wrong("a directory"));
            }
            let begin = u64::from(word(&inode, 16)) * BLOCK;
            let mut done = 0;
            while done < whole {
                let block = self.read(begin + done, BLOCK.min(whole - done) as usize)?;
                self.names(&block)?;
                done += block.len() as u64;
            }
            if !tail.is_empty() {
                self.names(&tail)?;
            }
        }
        Ok(true)
    }

    /// Notes the inodes that a block of a directory names.
    fn names(&mut self, block: &[u8]) -> io::Result<()> {
        let first = usize::from(half(block, 8));
        if first < DIRENT || first > block.len() || !first.is_multiple_of(DIRENT) {
            return Err(wrong("a directory"));
        }
        for entry in block[..first].chunks_exact(DIRENT) {
            let number = u64::from(word(entry, 0)) | u64::from(word(entry, 4)) << 32;
            // "." and ".." lead to what was seen.
            if self.seen.insert(number) {
                if self.seen.len() > MAX_INODES {
                    return Err(wrong("more files than any"));
                }
                self.left.push(number);
            }
        }
        Ok(())
    }
}
