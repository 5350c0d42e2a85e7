//! A directory on disk as a tree: the upper directory of a sandbox's overlay, kept in a read-only snapshot.
//!
//! Its names and contents are a stranger's. Nothing in it is followed: every step is taken from the descriptor of the
//! directory above, links are read and not walked, and nobody can change a read-only snapshot meanwhile.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::tree::{Content, Kind, MAX_XATTRS, Meta, Source, Tree};
use crate::{ImageError, Inode, Limits};

/// The longest value of an extended attribute that is kept, and names of all of them together.
const MAX_XATTR: usize = 64 << 10;
/// A file below a longer path can't be opened to be read.
const MAX_PATH: usize = 4096;
/// Overlay's notes to itself: of no use in a layer that lies elsewhere.
const PRIVATE: [&[u8]; 4] =
    [b"user.overlay.origin", b"user.overlay.impure", b"user.overlay.nlink", b"user.overlay.upper"];

/// Reads everything below `path`.
///
/// # Errors
/// When something can't be read, or there is more than `limits` allow.
pub fn read_directory(path: &Path, limits: Limits) -> Result<Tree, ImageError> {
    let mut tree = Tree::new(limits);
    let root = open_directory(CWD, path.as_os_str().as_bytes(), path)?;
    let stat = rustix::fs::fstat(&root).map_err(|error| at("looking at", path, error))?;
    tree.inodes[0].meta = meta(&stat, root.as_fd(), path)?;
    let mut walk = Walk { tree, links: HashMap::new() };
    walk.directory(&root, path, 0, 0)?;
    Ok(walk.tree)
}

struct Walk {
    tree: Tree,
    /// Inodes with several names, by device and number.
    links: HashMap<(u64, u64), usize>,
}

fn at(action: &'static str, path: &Path, error: Errno) -> ImageError {
    ImageError::Path { action, path: path.to_owned(), source: error.into() }
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8], shown: &Path) -> Result<OwnedFd, ImageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map_err(|error| at("opening", shown, error))
}

impl Walk {
    fn directory(&mut self, fd: &OwnedFd, path: &Path, index: usize, depth: usize) -> Result<(), ImageError> {
        if depth > self.tree.limits.depth {
            return Err(ImageError::TooLarge(format!("{} directories in each other", self.tree.limits.depth)));
        }
        let mut names = Vec::new();
        let entries = Dir::read_from(fd).map_err(|error| at("listing", path, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| at("listing", path, error))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(entry.file_name().to_owned());
            }
            if names.len() > self.tree.limits.inodes {
                return Err(ImageError::TooLarge(format!("{} files", self.tree.limits.inodes)));
            }
        }
        names.sort_unstable();
        for name in names {
            let shown = path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            self.entry(fd, &name, shown, index, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        parent: &OwnedFd,
        name: &CStr,
        path: PathBuf,
        into: usize,
        depth: usize,
    ) -> Result<(), ImageError> {
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| at("looking at", &path, error))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if stat.st_nlink > 1
            && kind != FileType::Directory
            && let Some(known) = self.links.get(&(stat.st_dev, stat.st_ino))
        {
            return self.tree.link(into, name.to_bytes(), *known);
        }
        let (numbers, size) = (device(stat.st_rdev), u64::try_from(stat.st_size).unwrap_or(0));
        let mut opened = None;
        let kind = match kind {
            FileType::Directory => {
                opened = Some(open_directory(parent.as_fd(), name.to_bytes(), &path)?);
                Kind::Directory(Default::default())
            }
            FileType::RegularFile => {
                if size > 0 && path.as_os_str().len() >= MAX_PATH {
                    return Err(ImageError::TooLarge(format!("{MAX_PATH} bytes in a file's path")));
                }
                let source = if size == 0 { Source::Empty } else { Source::Path(path.clone()) };
                Kind::File(Content { source, size })
            }
            FileType::Symlink => {
                let target = readlinkat(parent, name, Vec::new()).map_err(|error| at("reading", &path, error))?;
                Kind::Symlink(target.into_bytes())
            }
            FileType::CharacterDevice => Kind::Character(numbers.0, numbers.1),
            FileType::BlockDevice => Kind::Block(numbers.0, numbers.1),
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            _ => return Ok(()),
        };
        let meta = match (&kind, &opened) {
            (_, Some(directory)) => meta(&stat, directory.as_fd(), &path)?,
            (Kind::File(_), None) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let file = openat(parent, name, flags, Mode::empty()).map_err(|error| at("opening", &path, error))?;
                meta(&stat, file.as_fd(), &path)?
            }
            _ => plain_meta(&stat),
        };
        let index = self.tree.add(Inode::new(kind, meta))?;
        self.tree.link(into, name.to_bytes(), index)?;
        if let Some(directory) = opened {
            self.directory(&directory, &path, index, depth + 1)?;
        } else if stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), index);
        }
        Ok(())
    }
}

fn device(number: u64) -> (u32, u32) {
    (rustix::fs::major(number), rustix::fs::minor(number))
}

fn plain_meta(stat: &Stat) -> Meta {
    Meta {
        mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: stat.st_mtime,
        mtime_nsec: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ..Meta::default()
    }
}

fn meta(stat: &Stat, fd: BorrowedFd<'_>, path: &Path) -> Result<Meta, ImageError> {
    let mut meta = plain_meta(stat);
    let mut names = Vec::with_capacity(256);
    match read_xattr(&mut names, |buffer| rustix::fs::flistxattr(fd, buffer)) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP) => return Ok(meta),
        Err(error) => return Err(at("listing the attributes of", path, error)),
    }
    let mut kept = 0;
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if !is_kept(name) {
            continue;
        }
        let Ok(text) = std::str::from_utf8(name) else { continue };
        let mut value = Vec::with_capacity(256);
        read_xattr(&mut value, |buffer| rustix::fs::fgetxattr(fd, text, buffer))
            .map_err(|error| at("reading an attribute of", path, error))?;
        kept += name.len() + value.len();
        if kept > MAX_XATTRS {
            return Err(ImageError::TooLarge(format!("{MAX_XATTRS} bytes of attributes of one file")));
        }
        meta.xattrs.insert(name.to_vec(), value);
    }
    Ok(meta)
}

/// User attributes and file capabilities; nothing that the kernel or the host goes by.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    (name.starts_with(b"user.") && !PRIVATE.contains(&name)) || name == b"security.capability"
}

fn read_xattr(into: &mut Vec<u8>, read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<(), Errno> {
    let mut size = 256;
    loop {
        into.resize(size, 0);
        match read(into.as_mut_slice()) {
            Ok(length) => {
                into.truncate(length);
                return Ok(());
            }
            Err(Errno::RANGE) if size < MAX_XATTR => size = (size * 8).min(MAX_XATTR),
            Err(error) => return Err(error),
        }
    }
}
