//! What a node is: its attributes, changes of them, extended ones.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::abi::{Answer, Reply, set};
use super::{Asked, GOOD_FOR, Server, owner};

/// The kernel's own bound on a value and on a list.
const MOST_XATTR: usize = 64 << 10;
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;

impl Server {
    pub(super) fn getattr(&self, asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        let node = asked.header.node;
        let stat = rustix::fs::fstat(&self.tree.open(node, OFlags::PATH)?)?;
        reply.lasting_attributes(GOOD_FOR, &self.asides.told(node, &stat));
        Ok(())
    }

    pub(super) fn setattr(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        let body = &mut asked.body;
        let valid = body.u32()?;
        body.skip(12)?;
        let size = body.u64()?;
        body.skip(8)?;
        let (atime, mtime) = (body.u64()?, body.u64()?);
        body.skip(8)?;
        let (atime_nsec, mtime_nsec) = (body.u32()?, body.u32()?);
        body.skip(4)?;
        let mode = body.u32()?;
        body.skip(4)?;
        let (uid, gid) = (body.u32()?, body.u32()?);
        let has = |what: u32| valid & what != 0;

        let node = self.tree.open(asked.header.node, OFlags::PATH)?;
        if has(set::SIZE) {
            let (file, stat) = self.tree.file(asked.header.node, OFlags::WRONLY)?;
            i64::try_from(size).map_err(|_| Errno::FBIG)?;
            as_writer(has(set::KILL_SUIDGID), &stat, || rustix::fs::ftruncate(&file, size))?;
        }
        if has(set::UID | set::GID) {
            let invalid = |_| Errno::INVAL;
            let uid = has(set::UID).then(|| owner::id(uid).map_err(invalid).map(Uid::from_raw)).transpose()?;
            let gid = has(set::GID).then(|| owner::id(gid).map_err(invalid).map(Gid::from_raw)).transpose()?;
            rustix::fs::chownat(&node, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if has(set::MODE) {
            rustix::fs::chmod(itself(&node), Mode::from_raw_mode(mode & 0o7777))?;
        }
        if has(set::ATIME | set::MTIME) {
            let time = |what: u32, now: u32, seconds: u64, nanoseconds: u32| {
                let tv_nsec = match (has(what), has(now)) {
                    (false, _) => UTIME_OMIT,
                    (true, true) => UTIME_NOW,
                    (true, false) if nanoseconds < 1_000_000_000 => nanoseconds.into(),
                    (true, false) => return Err(Errno::INVAL),
                };
                Ok(Timespec { tv_sec: seconds.cast_signed(), tv_nsec })
            };
            let times = Timestamps {
                last_access: time(set::ATIME, set::ATIME_NOW, atime, atime_nsec)?,
                last_modification: time(set::MTIME, set::MTIME_NOW, mtime, mtime_nsec)?,
            };
            rustix::fs::utimensat(&node, c"", &times, AtFlags::EMPTY_PATH)?;
        }
        let stat = rustix::fs::fstat(&node)?;
        reply.lasting_attributes(GOOD_FOR, &self.asides.told(asked.header.node, &stat));
        Ok(())
    }

    /// Who may have extended attributes: only they can be opened without harm.
    fn with_attributes(&self, asked: &Asked<'_>) -> Answer<File> {
        match self.tree.file(asked.header.node, OFlags::RDONLY) {
            Ok((file, _)) => Ok(file),
            Err(Errno::ISDIR) => self.tree.open(asked.header.node, OFlags::RDONLY | OFlags::DIRECTORY),
            Err(Errno::INVAL | Errno::LOOP | Errno::ACCESS) => Err(Errno::NOTSUP),
            Err(error) => Err(error),
        }
    }

    pub(super) fn setxattr(&self, mut asked: Asked<'_>) -> Answer<()> {
        let (size, flags) = (asked.body.u32()?, asked.body.u32()?);
        let name = of_users(asked.body.text()?)?;
        let value = asked.body.data(size)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let set = rustix::fs::fsetxattr(self.with_attributes(&asked)?, name, value, flags);
        match set {
            Err(Errno::EXIST) if asked.again => Ok(()),
            result => result,
        }
    }

    pub(super) fn getxattr(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        let size = asked.body.u32()?;
        asked.body.skip(4)?;
        let name = of_users(asked.body.text()?)?;
        let mut value = vec![0; MOST_XATTR];
        let length = rustix::fs::fgetxattr(self.with_attributes(&asked)?, name, &mut value[..])?;
        sized(reply, size, &value[..length])
    }

    pub(super) fn listxattr(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        let size = asked.body.u32()?;
        let mut names = vec![0; MOST_XATTR];
        let length = match self.with_attributes(&asked) {
            Ok(file) => rustix::fs::flistxattr(file, &mut names[..])?,
            Err(Errno::NOTSUP) => 0,
            Err(error) => return Err(error),
        };
        let names: Vec<u8> = names[..length]
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| name.starts_with(PREFIX))
            .flatten()
            .copied()
            .collect();
        sized(reply, size, &names)
    }

    pub(super) fn removexattr(&self, mut asked: Asked<'_>) -> Answer<()> {
        let name = of_users(asked.body.text()?)?;
        match rustix::fs::fremovexattr(self.with_attributes(&asked)?, name) {
            Err(Errno::NODATA) if asked.again => Ok(()),
            result => result,
        }
    }
}

const PREFIX: &[u8] = b"user.";

/// Those of users are all that a sandbox can have on a volume; the others speak to the host's kernel.
fn of_users(name: &CStr) -> Answer<&CStr> {
    if name.to_bytes().starts_with(PREFIX) { Ok(name) } else { Err(Errno::NOTSUP) }
}

/// The text, or how long it is when there is no room for any.
fn sized(reply: &mut Reply<'_>, size: u32, text: &[u8]) -> Answer<()> {
    match size as usize {
        0 => reply.u32(text.len() as u32).u32(0),
        room if room < text.len() => return Err(Errno::RANGE),
        _ => reply.bytes(text),
    };
    Ok(())
}

/// Changes what is in a file. When the guest's kernel says so, that takes from it what makes it run as its owner.
pub(super) fn as_writer<T>(takes: bool, stat: &Stat, work: impl FnOnce() -> Answer<T>) -> Answer<T> {
    if takes && stat.st_mode & (SET_UID | SET_GID) != 0 { owner::without_set_ids(work) } else { work() }
}

/// A path to what is open, which leads to nothing else.
fn itself(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}
