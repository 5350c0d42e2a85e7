//! The identity of one data directory on this machine.
//!
//! Every object that an agent makes in the kernel (nft table, cgroup, claim on a block) bears the instance's id,
//! so that any number of Atolls run side by side. The id is made once and kept in `<data>/instance`. The data
//! directory is 0700: image layers in it hold setuid files of the real root that nobody else may reach.
//! This file never looks at anything but the data directory itself.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::Rng;
use rustix::fs::FlockOperation;

const ID_LENGTH: usize = 8;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// One data directory and its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    id: String,
    data_dir: PathBuf,
}

/// Held while an agent works on the data directory. Released by the kernel when the process ends, however it ends.
#[derive(Debug)]
pub struct InstanceLock {
    _file: File,
}

impl Instance {
    /// Opens the data directory, making it (0700) and its id when they are missing.
    ///
    /// # Errors
    /// When the directory can't be made, or `<data>/instance` holds something that is not an id.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let context = |what: &str, path: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .map_err(|error| context("making the data directory", data_dir, error))?;
        fs::set_permissions(data_dir, fs::Permissions::from_mode(0o700))
            .map_err(|error| context("closing the data directory to others", data_dir, error))?;
        let data_dir = data_dir.canonicalize().map_err(|error| context("resolving", data_dir, error))?;
        let path = data_dir.join("instance");
        let id = match fs::read_to_string(&path) {
            Ok(text) => parse_id(&text).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{} holds no instance id", path.display()))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_id(&data_dir, &path).map_err(|error| context("writing the instance id to", &path, error))?
            }
            Err(error) => return Err(context("reading", &path, error)),
        };
        Ok(Self { id, data_dir })
    }

    /// Eight lower-case letters and digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The absolute path of the data directory, without symbolic links.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The name of everything of this instance that has one name: nft table, cgroup.
    #[must_use]
    pub fn name(&self, separator: char) -> String {
        format!("atoll{separator}{}", self.id)
    }

    /// Takes the data directory for this process.
    ///
    /// # Errors
    /// `WouldBlock` when another agent has it.
    pub fn lock(&self) -> io::Result<InstanceLock> {
        let path = self.data_dir.join("lock");
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
        rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("another agent works on {}: {error}", self.data_dir.display()))
        })?;
        Ok(InstanceLock { _file: file })
    }
}

/// The id in the file at `<data_dir>/instance`, if there is one.
#[must_use]
pub(crate) fn id_of(data_dir: &Path) -> Option<String> {
    fs::read_to_string(data_dir.join("instance")).ok().and_then(|text| parse_id(&text))
}

fn parse_id(text: &str) -> Option<String> {
    let id = text.trim_end();
    let valid = id.len() == ID_LENGTH && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    valid.then(|| id.to_owned())
}

/// Writes a new id; when two processes race, both end with the same one.
fn make_id(data_dir: &Path, path: &Path) -> io::Result<String> {
    let mut rng = rand::rng();
    let id: String = (0..ID_LENGTH).map(|_| ALPHABET[rng.random_range(0..ALPHABET.len())] as char).collect();
    let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
    writeln!(file, "{id}")?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => {
            File::open(data_dir)?.sync_all()?;
            Ok(id)
        }
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            id_of(data_dir).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it holds no instance id"))
        }
        Err(error) => Err(error.error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let first = Instance::open(&data).unwrap();
        assert_eq!(first.id().len(), ID_LENGTH);
        assert_eq!(Instance::open(&data).unwrap(), first);
        assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn two_that_open_a_new_directory_at_once_agree_on_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| Instance::open(dir.path()).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap().id).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }

    #[test]
    fn a_second_agent_on_the_same_directory_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::open(dir.path()).unwrap();
        let lock = instance.lock().unwrap();
        assert_eq!(instance.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        instance.lock().unwrap();
    }

    #[test]
    fn a_file_that_holds_no_id_is_an_error_and_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("instance"), "../../etc").unwrap();
        assert_eq!(Instance::open(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(fs::read_to_string(dir.path().join("instance")).unwrap(), "../../etc");
    }
}
