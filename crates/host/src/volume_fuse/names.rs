//! Names: found, given, taken away.

use std::ffi::CStr;
use std::fs::File;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::abi::{Answer, Reply, op};
use super::owner::acting_as;
use super::{Asked, GOOD_FOR, Server};

const PERMISSIONS: u32 = 0o7777;

/// Whether this is what a request would have made that came before, and of which nobody knows the answer.
fn is_own_work(asked: &Asked<'_>, stat: &Stat, kind: FileType) -> bool {
    asked.again && FileType::from_raw_mode(stat.st_mode) == kind && stat.st_uid == asked.header.uid && stat.st_size == 0
}

impl Server {
    pub(super) fn lookup(&self, mut asked: Asked<'_>, reply: &mut Reply<'_>) -> Answer<()> {
        let name = asked.body.name()?;
        let (node, stat) = self.tree.find(&self.tree.directory(asked.header.node)?, name)?;
        self.tell(reply, node, &stat);
        Ok(())
    }

    /// Answers what a name leads to.
    pub(super) fn tell<'a, 'b>(&self, reply: &'a mut Reply<'b>, node: u64, stat: &Stat) -> &'a mut Reply<'b> {
        reply.entry(GOOD_FOR, node, &self.asides.told(node, stat))
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
        self.tell(reply, node, &stat);
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
        self.make(&asked, name, FileType::Symlink, reply, |dir| match rustix::fs::symlinkat(target, dir, name) {
            Err(Errno::EXIST) if asked.again => {
                // One that leads elsewhere was made by somebody else.
                let same = rustix::fs::readlinkat(dir, name, Vec::new()).is_ok_and(|there| *there == *target);
                if same { Ok(()) } else { Err(Errno::EXIST) }
            }
            made => made,
        })
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
            // Somebody was faster. Whether it may be opened, and is to be emptied, is for the guest's kernel to say, which
            // looks it up when it hears that what it knew of the name is old.
            Err(Errno::EXIST) => match self.tree.find(&dir, name) {
                Ok((node, stat)) if is_own_work(&asked, &stat, FileType::RegularFile) => (node, stat),
                _ if OFlags::from_bits_retain(flags).contains(OFlags::EXCL) => return Err(Errno::EXIST),
                _ => return Err(Errno::STALE),
            },
            Err(error) => return Err(error),
        };
        self.tell(reply, node, &stat).opened();
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
        self.tell(reply, node, &stat);
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
        let kept = is_last_of_file(&stat) && self.set_aside(node);
        // Whatever has the name by now. A directory is refused.
        let removed = rustix::fs::unlinkat(&dir, name, AtFlags::empty());
        if removed.is_err() && kept {
            self.asides.forget(node);
        }
        removed.or_else(gone)
    }

    /// Has a file outlive its last name. Where there is no room for that it does not: that is what makes room. Whether it
    /// was done now.
    fn set_aside(&self, node: u64) -> bool {
        let file = self.tree.open(node, OFlags::PATH);
        file.and_then(|file| self.asides.keep(node, &file)).unwrap_or(false)
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
        // An exchange that was done twice would be none.
        if !RenameFlags::NOREPLACE.contains(flags) {
            return Err(Errno::INVAL);
        }
        let (old, new) = (asked.body.name()?, asked.body.name()?);
        let (from, to) = (self.tree.directory(asked.header.node)?, self.tree.directory(to)?);
        // What is replaced may be open.
        let replaced = if flags.is_empty() { self.tree.find(&to, new).ok() } else { None };
        let kept = replaced.filter(|(node, stat)| {
            is_last_of_file(stat)
                && self.tree.find(&from, old).is_ok_and(|(moved, _)| moved != *node)
                && self.set_aside(*node)
        });
        let renamed = rustix::fs::renameat_with(&from, old, &to, new, flags);
        if let (Err(_), Some((node, _))) = (renamed, kept) {
            self.asides.forget(node);
        }
        match renamed {
            Err(Errno::NOENT) if asked.again && self.tree.find(&to, new).is_ok() => Ok(()),
            result => result,
        }
    }
}

/// Whether a file goes with this name of it, also for who has it open.
fn is_last_of_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1
}
