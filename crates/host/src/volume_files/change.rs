//! What changes a volume: directories, owners and rights, files' contents, removal.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;

use super::{Entry, FileError, Named, Volume, failed};
use crate::storage::clear::{self, fresh_name};

/// The user that templates have, and whose a new file is when nobody says.
const USER: u32 = 1000;
const MAX_ID: u32 = 65_535;
const MAX_MODE: u32 = 0o7777;
const MAX_LINKS: usize = 16;

/// Whose something is to be, and with which rights; what is absent stays, or is what a new thing has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mode: Option<u32>,
}

impl Owner {
    /// # Errors
    /// When a number is none that a sandbox knows.
    pub fn check(self) -> Result<Self, FileError> {
        let bounds = [("uid", self.uid, MAX_ID), ("gid", self.gid, MAX_ID), ("mode", self.mode, MAX_MODE)];
        for (field, number, most) in bounds {
            if number.is_some_and(|number| number > most) {
                let problem = if field == "mode" {
                    "must be at most 0o7777".to_owned()
                } else {
                    format!("must be at most {most}")
                };
                return Err(FileError::Invalid { field, problem });
            }
        }
        Ok(self)
    }

    fn or(self, uid: u32, gid: u32, mode: u32) -> Self {
        Self {
            uid: Some(self.uid.unwrap_or(uid)),
            gid: Some(self.gid.unwrap_or(gid)),
            mode: Some(self.mode.unwrap_or(mode)),
        }
    }

    /// `at` may be open as a mere place.
    fn give(self, at: &File) -> io::Result<()> {
        if self.uid.is_some() || self.gid.is_some() {
            let (uid, gid) = (self.uid.map(Uid::from_raw), self.gid.map(Gid::from_raw));
            rustix::fs::chownat(at, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        // Last: a change of owner takes rights away.
        if let Some(mode) = self.mode {
            let place = format!("/proc/self/fd/{}", at.as_raw_fd());
            rustix::fs::chmodat(CWD, place, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        Ok(())
    }
}

impl Volume {
    /// Makes a directory; with `parents`, those on the way too, and one that is there already will do.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn make_dir(&self, named: &Named, owner: Owner, parents: bool) -> Result<Entry, FileError> {
        let owner = owner.or(USER, USER, 0o755);
        if parents {
            for dir in named.on_the_way() {
                match self.make_one(&dir, owner) {
                    Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                        let is = self.open(&dir.path(), OFlags::PATH | OFlags::DIRECTORY);
                        is.map_err(|_| FileError::Exists(dir.shown()))?;
                    }
                    made => made.map_err(failed("making", &dir))?,
                }
            }
        } else {
            self.make_one(named, owner).map_err(failed("making", named))?;
        }
        self.stat(named)
    }

    fn make_one(&self, named: &Named, owner: Owner) -> io::Result<()> {
        let name = named.name().ok_or(Errno::EXIST)?;
        let parent = self.parent(named)?;
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        owner.give(&File::from(rustix::fs::openat(&parent, name, flags, Mode::empty())?))
    }

    /// Changes whose something is, and its rights. A link's own rights are nothing that there is.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn update(&self, named: &Named, owner: Owner) -> Result<Entry, FileError> {
        if owner.mode.is_some() && self.stat(named)?.kind == "symlink" {
            return Err(FileError::Invalid { field: "mode", problem: "a link has no rights of its own".to_owned() });
        }
        let change = || match named.name() {
            Some(name) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(self.parent(named)?, name, flags, Mode::empty())?;
                owner.give(&File::from(opened))
            }
            None => owner.give(&self.dirs.files),
        };
        change().map_err(failed("changing", named))?;
        self.stat(named)
    }

    /// Takes something away at once, a directory with all that is in it. What lay in a directory is deleted by
    /// [`Self::finish_removal`], which takes what this answers.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn remove(&self, named: &Named) -> Result<Option<CString>, FileError> {
        let Some(name) = named.name() else {
            return Err(FileError::Invalid { field: "path", problem: "is the volume itself".to_owned() });
        };
        let remove = || -> io::Result<Option<CString>> {
            let parent = self.parent(named)?;
            match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
                Ok(()) => return Ok(None),
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(error.into()),
            }
            let aside = CString::new(fresh_name()).map_err(io::Error::other)?;
            rustix::fs::renameat(&parent, name, &self.dirs.outgoing, &aside)?;
            Ok(Some(aside))
        };
        remove().map_err(failed("removing", named))
    }

    /// Deletes what was taken away.
    ///
    /// # Errors
    /// The kernel's.
    pub fn finish_removal(&self, aside: CString) -> io::Result<()> {
        clear::tree(&self.dirs.outgoing, aside)
    }

    /// Begins to write a file. Nobody sees it before [`Upload::finish`]: then it is there at once, whole.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn begin(self: &Arc<Self>, named: &Named, owner: Owner, way: Writing) -> Result<Upload, FileError> {
        let named = self.behind_links(named)?;
        let failed = failed("writing", &named);
        if named.name().is_none() {
            return Err(failed(Errno::ISDIR.into()));
        }
        let owner = match self.stat(&named) {
            Ok(there) if there.kind == "directory" => return Err(failed(Errno::ISDIR.into())),
            Ok(_) if way.fresh => return Err(failed(Errno::EXIST.into())),
            Ok(there) => owner.or(there.uid, there.gid, there.mode),
            Err(FileError::NotFound(_)) => owner.or(USER, USER, 0o644),
            Err(error) => return Err(error),
        };
        if way.parents {
            self.make_dir(&named.up(), Owner::default(), true)?;
        }
        self.parent(&named).map_err(&failed)?;
        let temporary = fresh_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dirs.incoming, &temporary, flags, Mode::from_raw_mode(0o600));
        let file = File::from(file.map_err(|error| failed(error.into()))?);
        Ok(Upload { volume: Arc::clone(self), named, owner, fresh: way.fresh, temporary, file })
    }

    /// The path that a path leads to when its last name is a link.
    fn behind_links(&self, named: &Named) -> Result<Named, FileError> {
        let mut named = named.clone();
        for _ in 0..MAX_LINKS {
            match self.stat(&named) {
                Ok(Entry { target: Some(target), .. }) => named = named.linked(&target),
                Ok(_) | Err(FileError::NotFound(_)) => return Ok(named),
                Err(error) => return Err(error),
            }
        }
        Err(failed("following", &named)(Errno::LOOP.into()))
    }
}

/// What a write may do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Writing {
    /// Makes the directories on the way.
    pub parents: bool,
    /// Takes no file's place.
    pub fresh: bool,
}

/// A file that is being written. Dropped before its end, it leaves nothing.
#[derive(Debug)]
pub struct Upload {
    volume: Arc<Volume>,
    named: Named,
    owner: Owner,
    fresh: bool,
    temporary: String,
    file: File,
}

impl Upload {
    /// # Errors
    /// [`FileError`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all(bytes).map_err(failed("writing", &self.named))
    }

    /// Puts the file in its place, on disk for good.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn finish(self) -> Result<Entry, FileError> {
        let place = || -> io::Result<()> {
            self.owner.give(&self.file)?;
            self.file.sync_all()?;
            let name = self.named.name().ok_or(Errno::ISDIR)?;
            let (from, parent) = (&self.volume.dirs.incoming, self.volume.parent(&self.named)?);
            let over = if self.fresh { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
            rustix::fs::renameat_with(from, &self.temporary, parent, name, over)?;
            Ok(())
        };
        place().map_err(failed("writing", &self.named))?;
        self.volume.stat(&self.named)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Not there any more when it was finished.
        let _gone = rustix::fs::unlinkat(&self.volume.dirs.incoming, &self.temporary, AtFlags::empty());
    }
}
