//! A file system as a tree in memory: names lead to inodes, several names may lead to one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::{ImageError, Limits};

/// Overlay's mark of a directory that hides what lies below it (in a user namespace, `userxattr`).
pub const OPAQUE: &[u8] = b"user.overlay.opaque";

/// Longest name of a directory entry.
pub(crate) const MAX_NAME: usize = 255;
/// Names and values of one file's attributes together: an image has no room for more.
pub(crate) const MAX_XATTRS: usize = 4096;
/// What an inode takes beside what it is called and holds.
const INODE: u64 = 192;
/// Symbolic links that may follow each other in one path.
const MAX_HOPS: usize = 40;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Empty,
    /// In the spool, from this byte on.
    Spool(u64),
    /// In a directory that nobody changes.
    Path(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub source: Source,
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Directory(BTreeMap<Vec<u8>, usize>),
    File(Content),
    Symlink(Vec<u8>),
    /// With major and minor number. 0:0 is overlay's whiteout.
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub mtime_nsec: u32,
    /// By whole name (`user.x`).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug, Clone)]
pub struct Inode {
    pub kind: Kind,
    pub meta: Meta,
    /// The archive that it came from: a later one's whiteouts remove only what is older.
    pub(crate) layer: u32,
}

impl Inode {
    #[must_use]
    pub fn new(kind: Kind, meta: Meta) -> Self {
        Self { kind, meta, layer: 0 }
    }

    #[must_use]
    pub fn is_whiteout(&self) -> bool {
        self.kind == Kind::Character(0, 0)
    }

    pub(crate) fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory(_))
    }

    /// What it takes in memory, about.
    fn weight(&self) -> u64 {
        let xattrs: usize = self.meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
        let own = match &self.kind {
            Kind::Symlink(target) => target.len(),
            Kind::File(Content { source: Source::Path(path), .. }) => path.as_os_str().len(),
            _ => 0,
        };
        INODE + (xattrs + own) as u64
    }

    pub(crate) fn is_opaque(&self) -> bool {
        self.meta.xattrs.get(OPAQUE).is_some_and(|value| value == b"y")
    }
}

/// Inode 0 is the root directory. Inodes that no name leads to any more are left out when it is written.
#[derive(Debug, Clone)]
pub struct Tree {
    pub(crate) inodes: Vec<Inode>,
    pub(crate) limits: Limits,
    pub(crate) bytes: u64,
    /// Of names and the like, at least.
    pub(crate) memory: u64,
    /// Bytes of archives that were read.
    pub(crate) inflated: u64,
    /// Steps that were taken through the tree for archives' sake.
    pub(crate) steps: u64,
}

/// A directory that an archive speaks of without describing it.
pub(crate) fn plain_directory() -> Inode {
    Inode::new(Kind::Directory(BTreeMap::new()), Meta { mode: 0o755, ..Meta::default() })
}

impl Tree {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { inodes: vec![plain_directory()], limits, bytes: 0, memory: 0, inflated: 0, steps: 0 }
    }

    #[must_use]
    pub fn root(&self) -> &Inode {
        &self.inodes[0]
    }

    #[must_use]
    pub fn inode(&self, index: usize) -> &Inode {
        &self.inodes[index]
    }

    /// How many inodes there are, unreachable ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Whether there is nothing but the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries(0).is_none_or(BTreeMap::is_empty)
    }

    pub(crate) fn entries(&self, directory: usize) -> Option<&BTreeMap<Vec<u8>, usize>> {
        match &self.inodes[directory].kind {
            Kind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn entries_mut(&mut self, directory: usize) -> Option<&mut BTreeMap<Vec<u8>, usize>> {
        match &mut self.inodes[directory].kind {
            Kind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn add(&mut self, inode: Inode) -> Result<usize, ImageError> {
        if self.inodes.len() >= self.limits.inodes {
            return Err(ImageError::TooLarge(format!("{} files", self.limits.inodes)));
        }
        if let Kind::File(content) = &inode.kind {
            self.bytes = self.bytes.saturating_add(content.size);
            if self.bytes > self.limits.bytes {
                return Err(ImageError::TooLarge(format!("{} bytes", self.limits.bytes)));
            }
        }
        self.check_xattrs(&inode.meta)?;
        self.remember(inode.weight())?;
        self.inodes.push(inode);
        Ok(self.inodes.len() - 1)
    }

    pub(crate) fn check_xattrs(&self, meta: &Meta) -> Result<(), ImageError> {
        let xattrs: usize = meta.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if xattrs > MAX_XATTRS {
            return Err(ImageError::TooLarge(format!("{MAX_XATTRS} bytes of attributes of one file")));
        }
        Ok(())
    }

    /// So much more is kept in memory.
    pub(crate) fn remember(&mut self, bytes: u64) -> Result<(), ImageError> {
        self.memory = self.memory.saturating_add(bytes);
        if self.memory > self.limits.memory {
            return Err(ImageError::TooLarge(format!("{} bytes of names and attributes", self.limits.memory)));
        }
        Ok(())
    }

    /// So many more steps were taken. Archives can be small and describe endless ways.
    pub(crate) fn walked(&mut self, steps: u64) -> Result<(), ImageError> {
        self.steps = self.steps.saturating_add(steps);
        let most = (self.limits.inodes as u64).saturating_mul(256);
        if self.steps > most {
            return Err(ImageError::TooLarge(format!("{most} steps through its directories")));
        }
        Ok(())
    }

    /// Puts an inode under a name, in place of whatever has it.
    pub(crate) fn link(&mut self, directory: usize, name: &[u8], inode: usize) -> Result<(), ImageError> {
        if name.is_empty() || name.len() > MAX_NAME || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(ImageError::archive(format!("`{}` is not a name", String::from_utf8_lossy(name))));
        }
        self.remember(name.len() as u64 + 64)?;
        match self.entries_mut(directory) {
            Some(entries) => {
                entries.insert(name.to_vec(), inode);
                Ok(())
            }
            None => Err(ImageError::archive("a name in what is no directory")),
        }
    }

    /// Where a path leads, links on the way and at the end followed inside the tree. `..` goes no higher than the root.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<usize> {
        self.walk(&split(path.as_bytes()), true)
    }

    /// As [`Self::find`]; `follow`: also a link that is the last part.
    pub(crate) fn walk(&self, path: &[Vec<u8>], follow: bool) -> Option<usize> {
        self.walk_counting(path, follow, &mut 0)
    }

    /// The same; `steps` grows by those that were taken.
    pub(crate) fn walk_counting(&self, path: &[Vec<u8>], follow: bool, steps: &mut u64) -> Option<usize> {
        // Ancestors, so that `..` can go up.
        let mut trail = vec![0_usize];
        let mut rest: Vec<Vec<u8>> = path.iter().rev().cloned().collect();
        let mut hops = 0;
        while let Some(part) = rest.pop() {
            *steps += 1;
            match part.as_slice() {
                b"." | b"" => continue,
                b".." => {
                    if trail.len() > 1 {
                        trail.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let here = *trail.last()?;
            let next = *self.entries(here)?.get(&part)?;
            match &self.inodes[next].kind {
                Kind::Symlink(target) if follow || !rest.is_empty() => {
                    hops += 1;
                    if hops > MAX_HOPS {
                        return None;
                    }
                    if target.first() == Some(&b'/') {
                        trail.truncate(1);
                    }
                    rest.extend(split(target).into_iter().rev());
                }
                _ => trail.push(next),
            }
        }
        trail.last().copied()
    }
}

/// The parts of a path, as they are.
pub(crate) fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
}
