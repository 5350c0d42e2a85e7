//! Nodes by number: within one subvolume of the pool, and of that only what is mounted.
//!
//! The kernel finds an inode by the subvolume's id, its own number and its generation; the first is the host's word, the
//! others are in the node's number. So no number leads into another subvolume. The few directories of the subvolume that no
//! sandbox sees are left out by their numbers.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::abi::{Answer, ROOT};
use crate::storage::HOSTS_OWN;

/// How btrfs names an inode without its parent.
const KIND: i32 = 0x4d;
const FID: usize = 20;
/// The top of every subvolume.
const TOP: u64 = 256;
/// A name that is given to something else all the time is given up.
const ATTEMPTS: usize = 16;

#[derive(Debug)]
pub struct Tree {
    files: File,
    root: Fid,
    /// The mount that all of it is in.
    mount: i32,
    hidden: Vec<u64>,
}

/// An inode of a btrfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fid {
    inode: u64,
    subvolume: u64,
    generation: u32,
}

#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    fid: [u8; FID],
}

impl Fid {
    /// Of a name in a directory, whatever that is: nothing is followed. An empty name is the directory itself.
    fn of(dir: impl AsFd, name: &CStr) -> Answer<(Self, i32)> {
        let mut handle = Handle { bytes: FID as u32, kind: 0, fid: [0; FID] };
        let mut mount = 0;
        let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
        // SAFETY: the name is a C string, and the handle has as much room behind its head as it says; the kernel writes to
        // nothing else but the number of the mount.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                dir.as_fd().as_raw_fd(),
                name.as_ptr(),
                &raw mut handle,
                &raw mut mount,
                flags,
            )
        };
        if result < 0 {
            return Err(last_error());
        }
        if (handle.kind, handle.bytes as usize) != (KIND, FID) {
            return Err(Errno::NOTSUP);
        }
        let [a, b] = [&handle.fid[..8], &handle.fid[8..16]].map(|part| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(part);
            u64::from_ne_bytes(bytes)
        });
        let mut generation = [0; 4];
        generation.copy_from_slice(&handle.fid[16..]);
        Ok((Self { inode: a, subvolume: b, generation: u32::from_ne_bytes(generation) }, mount))
    }

    fn open(self, in_mount: &File, flags: OFlags) -> Answer<File> {
        let mut handle = Handle { bytes: FID as u32, kind: KIND, fid: [0; FID] };
        handle.fid[..8].copy_from_slice(&self.inode.to_ne_bytes());
        handle.fid[8..16].copy_from_slice(&self.subvolume.to_ne_bytes());
        handle.fid[16..].copy_from_slice(&self.generation.to_ne_bytes());
        let flags = (flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK).bits();
        // SAFETY: the handle is whole, with as many bytes behind its head as it says; the kernel only reads it.
        let fd = unsafe {
            libc::syscall(libc::SYS_open_by_handle_at, in_mount.as_raw_fd(), &raw const handle, flags as libc::c_int)
        };
        match i32::try_from(fd) {
            // SAFETY: the kernel has just made this descriptor, for us alone.
            Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into()),
            _ => Err(last_error()),
        }
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

impl Tree {
    /// Of what is in `files`; `top`, and what lies in it, is the host's own, and is there.
    pub fn new(files: File, top: &File) -> io::Result<Self> {
        let (root, mount) = Fid::of(&files, c"")?;
        let mut hidden = vec![TOP];
        for own in HOSTS_OWN {
            let name = CString::new(own)?;
            hidden.push(Fid::of(top, &name)?.0.inode);
        }
        Ok(Self { files, root, mount, hidden })
    }

    /// The directory that is mounted.
    pub const fn files(&self) -> &File {
        &self.files
    }

    /// Opens a node, whatever it is.
    pub fn open(&self, node: u64, flags: OFlags) -> Answer<File> {
        if node == ROOT {
            return self.root.open(&self.files, flags);
        }
        let (inode, generation) = (node >> 32, node as u32);
        if inode < TOP || generation == 0 || self.hidden.contains(&inode) {
            return Err(Errno::STALE);
        }
        Fid { inode, generation, ..self.root }.open(&self.files, flags)
    }

    /// A directory, to name something in it.
    pub fn directory(&self, node: u64) -> Answer<File> {
        self.open(node, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// A regular file, to read or write it. Nothing else is opened for its contents, not even to see what it is: it may be
    /// anybody's pipe.
    pub fn file(&self, node: u64, flags: OFlags) -> Answer<(File, Stat)> {
        let stat = rustix::fs::fstat(self.open(node, OFlags::PATH)?)?;
        match FileType::from_raw_mode(stat.st_mode) {
            // A node's number is that of one file for ever.
            FileType::RegularFile => Ok((self.open(node, flags)?, stat)),
            FileType::Directory => Err(Errno::ISDIR),
            FileType::Symlink => Err(Errno::LOOP),
            _ => Err(Errno::INVAL),
        }
    }

    fn number(&self, (fid, mount): (Fid, i32)) -> Answer<u64> {
        if fid == self.root {
            return Ok(ROOT);
        }
        // Another subvolume, or something that was mounted.
        if fid.subvolume != self.root.subvolume || mount != self.mount {
            return Err(Errno::XDEV);
        }
        let inode = u32::try_from(fid.inode).map_err(|_| Errno::OVERFLOW)?;
        Ok(u64::from(inode) << 32 | u64::from(fid.generation))
    }

    /// The number of what is open.
    pub fn number_of(&self, file: &File) -> Answer<u64> {
        self.number(Fid::of(file, c"")?)
    }

    /// What has this name.
    pub fn find(&self, dir: &File, name: &CStr) -> Answer<(u64, Stat)> {
        for _ in 0..ATTEMPTS {
            let found = Fid::of(dir, name)?;
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if stat.st_ino == found.0.inode {
                return Ok((self.number(found)?, stat));
            }
        }
        Err(Errno::STALE)
    }
}
