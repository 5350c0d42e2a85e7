//! Writing a tree as an uncompressed erofs image, as the kernel's fs/erofs/erofs_fs.h describes it.
//!
//! ```text
//! block 0     the super block, at byte 1024
//! 1 ...       contents: whole blocks of files, directories and long links, one after the other
//! meta ...    inodes (64 bytes each, the root first), each followed by its attributes and, where it fits, the last
//!             partial block of its content; none of them crosses a block
//! ```
//!
//! The same tree gives the same bytes, so an image's digest is that of its content.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::spool::Spool;
use crate::tree::{Kind, Source, Tree};
use crate::{ImageError, Inode, failed};

const BLOCK: u64 = 4096;
const BLOCK_BITS: u8 = 12;
const MAGIC: u32 = 0xe0f5_e1e2;
const SUPER_OFFSET: usize = 1024;
const INODE: usize = 64;
const SLOT: u64 = 32;
/// The last partial block of a content stands behind its inode up to this size.
const MAX_TAIL: usize = 2048;
const EXTENDED: u16 = 1;
const FLAT_PLAIN: u16 = 0;
const FLAT_INLINE: u16 = 2 << 1;
const DIRENT: usize = 12;

/// An image, on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// SHA-256 of its bytes, hex.
    pub digest: String,
    pub size_bytes: u64,
}

/// Where an inode is, and what of its content stands with it.
struct Placed {
    /// In units of 32 bytes from the beginning of the inodes.
    nid: u64,
    block: u32,
    size: u64,
    tail: Vec<u8>,
    inline: bool,
    xattrs: Vec<u8>,
}

/// Writes what is reachable from the tree's root to `file`, which must be empty.
///
/// # Errors
/// When a content can't be read, or the disk refuses.
pub fn write(tree: &Tree, spool: &mut Spool, file: &mut File) -> Result<Written, ImageError> {
    let order = reachable(tree);
    let links = link_counts(tree, &order);
    let mut out = Out { file: BufWriter::with_capacity(1 << 20, file), block: 1 };
    out.file.seek(SeekFrom::Start(BLOCK)).map_err(failed("writing the image"))?;
    let mut placed: BTreeMap<usize, Placed> = BTreeMap::new();
    let mut next_slot = 0_u64;

    // Sizes of directories follow from names alone, so every inode has its place before any directory is written.
    for &index in &order {
        let inode = tree.inode(index);
        let xattrs = xattrs(inode)?;
        let (size, block, tail) = match &inode.kind {
            Kind::File(content) => {
                let (block, tail) = out.copy(&content.source, content.size, spool)?;
                (content.size, block, tail)
            }
            Kind::Symlink(target) => {
                let (block, tail) = out.data(target)?;
                (target.len() as u64, block, tail)
            }
            // Filled in later: only its length counts now.
            Kind::Directory(entries) => {
                let size = directory_size(entries);
                (size, 0, vec![0; usize::try_from(size % BLOCK).unwrap_or(0)])
            }
            _ => (0, 0, Vec::new()),
        };
        let head = INODE + xattrs.len();
        let inline = !tail.is_empty() && tail.len() <= MAX_TAIL && head + tail.len() <= BLOCK as usize;
        if inline && size >= BLOCK && !inode.is_directory() {
            // It stands behind its inode, so the room behind its whole blocks is free again.
            out.block = out.block.saturating_sub(1);
        }
        let length = head + if inline { tail.len() } else { 0 };
        next_slot = place(next_slot, length);
        let slots = (length as u64).div_ceil(SLOT);
        placed.insert(index, Placed { nid: next_slot, block, size, tail, inline, xattrs });
        next_slot += slots;
    }
    fill_directories(tree, &order, &mut placed, &mut out)?;
    // What did not fit behind its inode gets a block of its own.
    for &index in &order {
        let Some(place) = placed.get_mut(&index) else { continue };
        if place.inline || place.tail.is_empty() {
            continue;
        }
        let whole = place.size / BLOCK;
        if whole > 0 {
            // The tail must follow the whole blocks: contents and directories have left room for it.
            out.at(u64::from(place.block) + whole, &place.tail)?;
        } else {
            place.block = out.append(&place.tail)?;
        }
    }
    let meta = out.block;
    let blocks = out.inodes(tree, &order, &links, &placed, next_slot)?;
    let root = placed.get(&0).map_or(0, |root| root.nid);
    out.super_block(meta, blocks, order.len() as u64, root)?;
    let file = out.file.into_inner().map_err(|error| failed("writing the image")(error.into_error()))?;
    hash(file)
}

/// Depth first from the root, each once; the root is first.
fn reachable(tree: &Tree) -> Vec<usize> {
    let mut seen = vec![false; tree.len()];
    let mut order = Vec::new();
    let mut work = vec![0];
    while let Some(index) = work.pop() {
        if std::mem::replace(&mut seen[index], true) {
            continue;
        }
        order.push(index);
        if let Some(entries) = tree.entries(index) {
            work.extend(entries.values().rev());
        }
    }
    order
}

fn link_counts(tree: &Tree, order: &[usize]) -> BTreeMap<usize, u32> {
    let mut counts = BTreeMap::new();
    for &index in order {
        let Some(entries) = tree.entries(index) else { continue };
        *counts.entry(index).or_insert(0) += 2;
        for &child in entries.values() {
            if tree.inode(child).is_directory() {
                *counts.entry(index).or_insert(0) += 1;
            } else {
                *counts.entry(child).or_insert(0) += 1;
            }
        }
    }
    counts
}

/// The first slot from `next` on at which `length` bytes don't cross a block; longer ones begin a block.
fn place(next: u64, length: usize) -> u64 {
    let per_block = BLOCK / SLOT;
    let within = next % per_block * SLOT;
    if within + length as u64 <= BLOCK { next } else { next.next_multiple_of(per_block) }
}

fn names(entries: &BTreeMap<Vec<u8>, usize>) -> Vec<&[u8]> {
    let mut names: Vec<&[u8]> = entries.keys().map(Vec::as_slice).chain([b".".as_slice(), b"..".as_slice()]).collect();
    names.sort_unstable();
    names
}

/// The names of a directory, cut into blocks.
fn blocks_of<'a>(names: &[&'a [u8]]) -> Vec<Vec<&'a [u8]>> {
    let mut blocks = vec![Vec::new()];
    let mut used = 0;
    for name in names {
        let length = DIRENT + name.len();
        if used + length > BLOCK as usize {
            blocks.push(Vec::new());
            used = 0;
        }
        used += length;
        if let Some(block) = blocks.last_mut() {
            block.push(*name);
        }
    }
    blocks
}

fn block_length(names: &[&[u8]]) -> usize {
    names.iter().map(|name| DIRENT + name.len()).sum()
}

fn directory_size(entries: &BTreeMap<Vec<u8>, usize>) -> u64 {
    let names = names(entries);
    let blocks = blocks_of(&names);
    let last = blocks.last().map_or(0, |block| block_length(block));
    (blocks.len() as u64 - 1) * BLOCK + last as u64
}

fn file_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => 1,
        Kind::Directory(_) => 2,
        Kind::Character(..) => 3,
        Kind::Block(..) => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink(_) => 7,
    }
}

/// Now that every inode has its number.
fn fill_directories(
    tree: &Tree,
    order: &[usize],
    placed: &mut BTreeMap<usize, Placed>,
    out: &mut Out<'_>,
) -> Result<(), ImageError> {
    let mut parents: BTreeMap<usize, usize> = BTreeMap::from([(0, 0)]);
    for &index in order {
        let Some(entries) = tree.entries(index) else { continue };
        for &child in entries.values().filter(|child| tree.inode(**child).is_directory()) {
            parents.insert(child, index);
        }
        let parent = parents.get(&index).copied().unwrap_or(0);
        let names = names(entries);
        let mut bytes = Vec::new();
        for block in blocks_of(&names) {
            bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
            let mut name_at = block.len() * DIRENT;
            for name in &block {
                let target = match *name {
                    b"." => index,
                    b".." => parent,
                    name => entries.get(name).copied().unwrap_or(0),
                };
                let nid = placed.get(&target).map_or(0, |place| place.nid);
                bytes.extend(nid.to_le_bytes());
                bytes.extend(u16::try_from(name_at).unwrap_or(0).to_le_bytes());
                bytes.extend([file_type(&tree.inode(target).kind), 0]);
                name_at += name.len();
            }
            block.iter().for_each(|name| bytes.extend_from_slice(name));
        }
        let whole = bytes.len() / BLOCK as usize * BLOCK as usize;
        let Some(place) = placed.get_mut(&index) else { continue };
        place.tail = bytes.split_off(whole);
        if whole > 0 {
            place.block = out.append(&bytes)?;
            if !place.inline && !place.tail.is_empty() {
                out.skip_block();
            }
        }
    }
    Ok(())
}

/// The attributes as they stand behind an inode; nothing when there are none.
fn xattrs(inode: &Inode) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    for (name, value) in &inode.meta.xattrs {
        let (index, rest) = match (name.strip_prefix(b"user."), name.strip_prefix(b"security.")) {
            (Some(rest), _) => (1, rest),
            (_, Some(rest)) => (6, rest),
            _ => continue,
        };
        let (Ok(name_length), Ok(value_length)) = (u8::try_from(rest.len()), u16::try_from(value.len())) else {
            return Err(ImageError::archive("an extended attribute is too long"));
        };
        bytes.extend([name_length, index]);
        bytes.extend(value_length.to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    if bytes.is_empty() {
        return Ok(bytes);
    }
    let whole = [vec![0_u8; 12], bytes].concat();
    if INODE + whole.len() > BLOCK as usize {
        return Err(ImageError::TooLarge("one block of extended attributes of a file".to_owned()));
    }
    Ok(whole)
}

struct Out<'a> {
    file: BufWriter<&'a mut File>,
    /// The next free block.
    block: u32,
}

impl Out<'_> {
    fn error(error: io::Error) -> ImageError {
        failed("writing the image")(error)
    }

    fn advance(&mut self, blocks: u64) -> Result<(), ImageError> {
        let next = u64::from(self.block) + blocks;
        self.block = u32::try_from(next).map_err(|_| ImageError::TooLarge("16 TiB".to_owned()))?;
        Ok(())
    }

    fn skip_block(&mut self) {
        self.block = self.block.saturating_add(1);
    }

    fn at(&mut self, block: u64, bytes: &[u8]) -> Result<(), ImageError> {
        self.file.seek(SeekFrom::Start(block * BLOCK)).map_err(Self::error)?;
        self.file.write_all(bytes).map_err(Self::error)
    }

    /// Bytes at the next free blocks; where they begin.
    fn append(&mut self, bytes: &[u8]) -> Result<u32, ImageError> {
        let block = self.block;
        self.at(u64::from(block), bytes)?;
        self.advance((bytes.len() as u64).div_ceil(BLOCK))?;
        Ok(block)
    }

    /// Whole blocks of a small content, and what is left.
    fn data(&mut self, bytes: &[u8]) -> Result<(u32, Vec<u8>), ImageError> {
        let whole = bytes.len() / BLOCK as usize * BLOCK as usize;
        if whole == 0 {
            return Ok((0, bytes.to_vec()));
        }
        let block = self.append(&bytes[..whole])?;
        self.reserve_tail(&bytes[whole..]);
        Ok((block, bytes[whole..].to_vec()))
    }

    /// A tail that may not fit behind its inode has room behind its whole blocks.
    fn reserve_tail(&mut self, tail: &[u8]) {
        if !tail.is_empty() {
            self.skip_block();
        }
    }

    fn copy(&mut self, source: &Source, size: u64, spool: &mut Spool) -> Result<(u32, Vec<u8>), ImageError> {
        match source {
            Source::Empty => Ok((0, Vec::new())),
            Source::Spool(start) => {
                let mut reader = spool.reader(*start, size)?;
                self.copy_from(&mut reader, size, Path::new("(spool)"))
            }
            Source::Path(path) => {
                let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
                let flags = i32::try_from(flags.bits()).unwrap_or(0);
                let file = File::options().read(true).custom_flags(flags).open(path);
                let mut file =
                    file.map_err(|source| ImageError::Path { action: "opening", path: path.clone(), source })?;
                self.copy_from(&mut file, size, path)
            }
        }
    }

    fn copy_from(&mut self, from: &mut impl Read, size: u64, path: &Path) -> Result<(u32, Vec<u8>), ImageError> {
        let read = |source| ImageError::Path { action: "reading", path: path.to_owned(), source };
        let whole = size / BLOCK;
        let mut block = 0;
        if whole > 0 {
            block = self.block;
            self.file.seek(SeekFrom::Start(u64::from(block) * BLOCK)).map_err(Self::error)?;
            let mut buffer = vec![0_u8; BLOCK as usize];
            let mut holes = 0_i64;
            for _ in 0..whole {
                from.read_exact(&mut buffer).map_err(read)?;
                // Holes stay holes.
                if buffer.iter().all(|byte| *byte == 0) {
                    holes += BLOCK as i64;
                    continue;
                }
                if holes > 0 {
                    self.file.seek_relative(holes).map_err(Self::error)?;
                    holes = 0;
                }
                self.file.write_all(&buffer).map_err(Self::error)?;
            }
            self.advance(whole)?;
        }
        let mut tail = vec![0_u8; usize::try_from(size % BLOCK).unwrap_or(0)];
        from.read_exact(&mut tail).map_err(read)?;
        if whole > 0 {
            self.reserve_tail(&tail);
        }
        Ok((block, tail))
    }

    /// Writes the inodes behind everything else; how many blocks the image has.
    fn inodes(
        &mut self,
        tree: &Tree,
        order: &[usize],
        links: &BTreeMap<usize, u32>,
        placed: &BTreeMap<usize, Placed>,
        slots: u64,
    ) -> Result<u32, ImageError> {
        let base = u64::from(self.block) * BLOCK;
        for (number, index) in order.iter().enumerate() {
            let Some(place) = placed.get(index) else { continue };
            let inode = tree.inode(*index);
            self.file.seek(SeekFrom::Start(base + place.nid * SLOT)).map_err(Self::error)?;
            let links = links.get(index).copied().unwrap_or(1);
            let mut bytes = encode(inode, place, number, links);
            bytes.extend_from_slice(&place.xattrs);
            if place.inline {
                bytes.extend_from_slice(&place.tail);
            }
            self.file.write_all(&bytes).map_err(Self::error)?;
        }
        self.advance((slots * SLOT).div_ceil(BLOCK))?;
        Ok(self.block)
    }

    fn super_block(&mut self, meta: u32, blocks: u32, inodes: u64, root: u64) -> Result<(), ImageError> {
        let mut block = vec![0_u8; BLOCK as usize];
        let mut put = |at: usize, bytes: &[u8]| {
            block[SUPER_OFFSET + at..SUPER_OFFSET + at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &MAGIC.to_le_bytes());
        put(12, &[BLOCK_BITS]);
        put(14, &u16::try_from(root).unwrap_or(0).to_le_bytes());
        put(16, &inodes.to_le_bytes());
        put(36, &blocks.to_le_bytes());
        put(40, &meta.to_le_bytes());
        self.at(0, &block)?;
        // The last block is whole, whatever the last inode is.
        self.file.flush().map_err(Self::error)?;
        self.file.get_ref().set_len(u64::from(blocks) * BLOCK).map_err(Self::error)
    }
}

fn encode(inode: &Inode, place: &Placed, number: usize, links: u32) -> Vec<u8> {
    let (kind_bits, device) = match inode.kind {
        Kind::Directory(_) => (0o040_000, None),
        Kind::File(_) => (0o100_000, None),
        Kind::Symlink(_) => (0o120_000, None),
        Kind::Character(major, minor) => (0o020_000, Some((major, minor))),
        Kind::Block(major, minor) => (0o060_000, Some((major, minor))),
        Kind::Fifo => (0o010_000, None),
        Kind::Socket => (0o140_000, None),
    };
    let format = EXTENDED | if place.inline { FLAT_INLINE } else { FLAT_PLAIN };
    let xattr_count = if place.xattrs.is_empty() { 0 } else { (place.xattrs.len() - 12) / 4 + 1 };
    let data = match device {
        Some((major, minor)) => (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
        None => place.block,
    };
    let mut bytes = Vec::with_capacity(INODE);
    bytes.extend(format.to_le_bytes());
    bytes.extend(u16::try_from(xattr_count).unwrap_or(0).to_le_bytes());
    bytes.extend((kind_bits | (inode.meta.mode & 0o7777)).to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(place.size.to_le_bytes());
    bytes.extend(data.to_le_bytes());
    bytes.extend(u32::try_from(number + 1).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(inode.meta.uid.to_le_bytes());
    bytes.extend(inode.meta.gid.to_le_bytes());
    bytes.extend(inode.meta.mtime.to_le_bytes());
    bytes.extend(inode.meta.mtime_nsec.to_le_bytes());
    bytes.extend(links.to_le_bytes());
    bytes.resize(INODE, 0);
    bytes
}

fn hash(file: &mut File) -> Result<Written, ImageError> {
    let mut hasher = Sha256::new();
    file.seek(SeekFrom::Start(0)).map_err(failed("reading the image"))?;
    let size_bytes = io::copy(file, &mut hasher).map_err(failed("reading the image"))?;
    Ok(Written { digest: hex::encode(hasher.finalize()), size_bytes })
}
