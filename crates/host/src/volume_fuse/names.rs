//! Names: found, given, taken away.

use std::ffi::{CStr, CString};
use std::fs::File;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::abi::{Answer, ROOT, Reply, op};
use super::owner::acting_as;
use super::{Asked, GOOD_FOR, Server};

const PERMISSIONS: u32 = 0o7777;

/// Whether this is what a request would have made that came before, and of which nobody knows the answer.
fn is_own_work(asked: &Asked<'_>, stat: &Stat, kind: FileType) -> bool {
    asked.again
        && FileType::from_raw_mode(stat.st_mode) == kind
        && stat.st_uid == asked.header.uid
        && (kind != FileType::RegularFile || stat.st_size == 0)
}

impl Server {
    pub(super) fn lookup(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        let name = asked.body.name()?;
        let (node, stat) = self.tree.find(&self.tree.directory(asked.header.node)?, name)?;
        reply.entry(GOOD_FOR, node, &stat);
        Ok(())
    }

    pub(super) fn readlink(&self, asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        let link = self.tree.open(asked.header.node, OFlags::PATH)?;
        let target = rustix::fs::readlinkat(&link, c"", Vec::new())?;
        reply.bytes(target.to_bytes());
        Ok(())
    }

    /// Makes something under a new name, and answers what it is.
    fn make(
        &self,
        asked: &Asked<'_>,
        name: &CStr,
        kind: FileType,
        reply: &mut Reply<'_>,
        work: impl FnOnce(&File) -> Answer<()>,
    ) -> Answer<()> {
        let dir = self.tree.directory(asked.header.node)?;
        let made = acting_as(asked.header.uid, asked.header.gid, || work(&dir));
        let found = self.tree.find(&dir, name);
        match (made, &found) {
            (Ok(()), _) => {}
            (Err(Errno::EXIST), Ok((_, stat))) if is_own_work(asked, stat, kind) => {}
            (Err(error), _) => return Err(error),
        }
        let (node, stat) = found?;
        reply.entry(GOOD_FOR, node, &stat);
        Ok(())
    }

    pub(super) fn mkdir(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        let (mode, _umask) = (asked.body.u32()?, asked.body.u32()?);
        let name = asked.body.name()?;
        let mode = Mode::from_raw_mode(mode & PERMISSIONS);
        self.make(&asked, name, FileType::Directory, reply, |dir| rustix::fs::mkdirat(dir, name, mode))
    }

    pub(super) fn symlink(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        let (name, target) = (asked.body.name()?, asked.body.text()?);
        self.make(&asked, name, FileType::Symlink, reply, |dir| rustix::fs::symlinkat(target, dir, name))
    }

    /// Files, pipes and sockets. A device would be the host's.
    pub(super) fn mknod(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        let mode = asked.body.u32()?;
        asked.body.skip(12)?;
        let name = asked.body.name()?;
        let kind = match FileType::from_raw_mode(mode) {
            kind @ (FileType::RegularFile | FileType::Fifo | FileType::Socket) => kind,
            _ => return Err(Errno::PERM),
        };
        let mode = Mode::from_raw_mode(mode & PERMISSIONS);
        self.make(&asked, name, kind, reply, |dir| rustix::fs::mknodat(dir, name, kind, mode, 0))
    }

    pub(super) fn create(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        let (flags, mode) = (asked.body.u32()?, asked.body.u32()?);
        asked.body.skip(8)?;
        let name = asked.body.name()?;
        let dir = self.tree.directory(asked.header.node)?;
        let new = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & PERMISSIONS);
        let made = acting_as(asked.header.uid, asked.header.gid, || rustix::fs::openat(&dir, name, new, mode));
        let (node, stat) = match made {
            Ok(file) => {
                let file = File::from(file);
                (self.tree.number_of(&file)?, rustix::fs::fstat(&file)?)
            }
            // Somebody was faster, which only matters to who insists on being first.
            Err(Errno::EXIST) => {
                let (node, stat) = self.tree.find(&dir, name)?;
                let insists = OFlags::from_bits_retain(flags).contains(OFlags::EXCL);
                let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
                if !regular || insists && !is_own_work(&asked, &stat, FileType::RegularFile) {
                    return Err(Errno::EXIST);
                }
                (node, stat)
            }
            Err(error) => return Err(error),
        };
        reply.entry(GOOD_FOR, node, &stat).opened();
        Ok(())
    }

    pub(super) fn link(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        let old = asked.body.u64()?;
        let name = asked.body.name()?;
        let (file, dir) = (self.tree.open(old, OFlags::PATH)?, self.tree.directory(asked.header.node)?);
        let linked = rustix::fs::linkat(&file, c"", &dir, name, AtFlags::EMPTY_PATH);
        let (node, stat) = match linked {
            Ok(()) => self.tree.find(&dir, name)?,
            Err(Errno::EXIST) if asked.again => self.tree.find(&dir, name)?,
            Err(error) => return Err(error),
        };
        if node != old {
            return Err(Errno::EXIST);
        }
        reply.entry(GOOD_FOR, node, &stat);
        Ok(())
    }

    pub(super) fn unlink(&self, mut asked: Asked<'_>) -> Answer<()> {
        let name = asked.body.name()?;
        let dir = self.tree.directory(asked.header.node)?;
        let gone = |error| if error == Errno::NOENT && asked.again { Ok(()) } else { Err(error) };
        let (node, stat) = match self.tree.find(&dir, name) {
            Ok(found) => found,
            Err(error) => return gone(error),
        };
        if is_last_of_file(&stat) {
            let aside = rustix::fs::renameat(&dir, name, &self.unlinked, self.aside(node)?);
            // Where there is no room for that, it goes at once: that is what makes room.
            if aside.is_ok() {
                return Ok(());
            }
        }
        rustix::fs::unlinkat(&dir, name, AtFlags::empty()).or_else(gone)
    }

    pub(super) fn rmdir(&self, mut asked: Asked<'_>) -> Answer<()> {
        let name = asked.body.name()?;
        let dir = self.tree.directory(asked.header.node)?;
        match rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) if asked.again => Ok(()),
            result => result,
        }
    }

    pub(super) fn rename(&self, mut asked: Asked<'_>) -> Answer<()> {
        let to = asked.body.u64()?;
        let flags = if asked.header.opcode == op::RENAME2 {
            let flags = asked.body.u32()?;
            asked.body.skip(4)?;
            RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?
        } else {
            RenameFlags::empty()
        };
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        let (old, new) = (asked.body.name()?, asked.body.name()?);
        let (from, to) = (self.tree.directory(asked.header.node)?, self.tree.directory(to)?);
        // What is replaced may be open.
        let replaced = if flags.is_empty() { self.tree.find(&to, new).ok() } else { None };
        let mut kept = None;
        if let Some((node, stat)) = replaced
            && is_last_of_file(&stat)
            && self.tree.find(&from, old).is_ok_and(|(moved, _)| moved != node)
        {
            let aside = self.aside(node)?;
            let linked = rustix::fs::linkat(&to, new, &self.unlinked, &aside, AtFlags::empty());
            kept = linked.is_ok().then_some(aside);
        }
        let renamed = rustix::fs::renameat_with(&from, old, &to, new, flags);
        if let (Err(_), Some(aside)) = (renamed, kept) {
            let _nobodys = rustix::fs::unlinkat(&self.unlinked, aside, AtFlags::empty());
        }
        match renamed {
            Err(Errno::NOENT) if asked.again && self.tree.find(&to, new).is_ok() => Ok(()),
            result => result,
        }
    }

    /// The name of a removed file, until the guest has forgotten it.
    fn aside(&self, node: u64) -> Answer<CString> {
        CString::new(format!("{}.{node:016x}", self.sandbox)).map_err(|_| Errno::INVAL)
    }

    pub(super) fn unlink_for_good(&self, node: u64) {
        if node != ROOT
            && !self.read_only
            && let Ok(name) = self.aside(node)
        {
            let _was_not_removed = rustix::fs::unlinkat(&self.unlinked, name, AtFlags::empty());
        }
    }
}

/// Whether a file goes with this name of it, also for who has it open.
fn is_last_of_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1
}
