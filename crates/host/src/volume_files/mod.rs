//! What is in a shared volume, without a sandbox: look, read, write, make, change, remove.
//!
//! Names and links in a volume are its sandboxes' work, and this runs as root. So nothing here follows a path by itself:
//! every one is resolved by the kernel with the volume as its root (`openat2`), the last name only ever within a directory
//! that is open, and nothing but regular files is opened for their contents. `named` reads paths, `look` and `change` do
//! what their names say. All calls block. Owners are those that the sandboxes see: they are 0-based
//! on disk. Who may do it, and to which volume, is control's business.

mod change;
mod entry;
mod look;
mod named;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

pub use change::{Owner, Upload, Writing};
pub use entry::Entry;
pub use named::Named;

use crate::storage::SharedVolume;

/// The kernel says so when something was renamed meanwhile.
const ATTEMPTS: usize = 32;

/// Why something can't be done.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("path `{0}` does not exist")]
    NotFound(String),
    #[error("path `{0}` exists already")]
    Exists(String),
    #[error("{field}: {problem}")]
    Invalid { field: &'static str, problem: String },
    #[error("no space left in the volume")]
    Full,
    #[error("{attempted} `{path}`: {source}")]
    Io { attempted: &'static str, path: String, source: io::Error },
}

/// A volume, open.
#[derive(Debug)]
pub struct Volume {
    dirs: SharedVolume,
}

impl Volume {
    #[must_use]
    pub fn new(dirs: SharedVolume) -> Self {
        Self { dirs }
    }

    /// Opens a path within the volume: links are followed, and lead nowhere else.
    fn open(&self, path: &Path, flags: OFlags) -> io::Result<File> {
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        for _ in 0..ATTEMPTS {
            match rustix::fs::openat2(&self.dirs.files, path, flags | OFlags::CLOEXEC, Mode::empty(), within) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return Ok(File::from(opened?)),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// The directory that the last name is in.
    fn parent(&self, named: &Named) -> io::Result<File> {
        self.open(&named.parent(), OFlags::PATH | OFlags::DIRECTORY)
    }
}

/// What the kernel said, in our words.
fn failed(attempted: &'static str, named: &Named) -> impl Fn(io::Error) -> FileError + use<> {
    let path = named.shown();
    move |source| {
        let invalid = |problem: &str| FileError::Invalid { field: "path", problem: problem.to_owned() };
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR) => FileError::NotFound(path.clone()),
            Some(Errno::EXIST | Errno::NOTEMPTY) => FileError::Exists(path.clone()),
            Some(Errno::ISDIR) => invalid("is a directory"),
            Some(Errno::LOOP) => invalid("has too many links"),
            Some(Errno::NAMETOOLONG) => invalid("is too long"),
            Some(Errno::NXIO | Errno::XDEV | Errno::ACCESS | Errno::PERM) => invalid("can't be had from outside"),
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => FileError::Full,
            _ => FileError::Io { attempted, path: path.clone(), source },
        }
    }
}
