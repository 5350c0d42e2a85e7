//! Layers that came from other hosts: disks of machines, which are no images and lie here like those that were made here.
//!
//! Each is filled under another name and gets its own when it is whole. A file beside the disk says what it came as, and
//! its time of change when it was used last: what came can come again, so the longest unused make room.

use std::collections::HashSet;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use atoll_model::LayerId;

use super::layers::FOLDER;
use super::{Pool, StorageError, StorageFull, btrfs, io_error};

/// Before the names of those that are being filled.
const DRAFT: &str = ".importing-";
/// The digest of the file that it came in, and that file's size.
const ORIGIN: &str = "origin";
/// The pool's own bound holds.
const NO_LIMIT: u64 = 1 << 60;

/// One that came from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    pub layer: LayerId,
    /// What it came as.
    pub digest: String,
    pub bytes: u64,
    pub used: SystemTime,
}

impl Pool {
    /// Makes a layer that is the disk of a machine and came in a file of so many `bytes`, with what `fill` writes. Success
    /// when the layer is there already.
    ///
    /// # Errors
    /// [`StorageError::Full`] when the pool has no room for it, those of `fill`, or the kernel refuses; nothing is left then.
    pub fn import_disk(
        &self,
        layer: &LayerId,
        digest: &str,
        bytes: u64,
        fill: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<(), StorageError> {
        let draft = format!("{DRAFT}{layer}");
        let path = self.imports_below().join(&draft);
        if self.layer(layer).is_some() {
            return Ok(());
        }
        let available = self.available_bytes()?;
        if available < bytes {
            return Err(StorageFull { available, wanted: bytes }.into());
        }
        self.delete_in(FOLDER, &draft)?;
        let parent = self.folder(FOLDER)?;
        btrfs::create_subvolume(parent.as_fd(), &draft, NO_LIMIT, self.group).map_err(io_error("making", &path))?;
        let make = || -> io::Result<()> {
            fs::DirBuilder::new().mode(0o700).create(path.join("up"))?;
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            let disk = options.open(path.join("disk"))?;
            fill(&disk)?;
            disk.sync_all()?;
            let mut origin = options.open(path.join(ORIGIN))?;
            write!(origin, "{digest} {bytes}")?;
            origin.sync_all()?;
            fs::rename(&path, path.with_file_name(layer.as_str()))
        };
        make().map_err(io_error("filling", &path)).inspect_err(|_| {
            if let Err(error) = self.delete_in(FOLDER, &draft) {
                tracing::warn!(%error, "removing a layer that could not be filled");
            }
        })
    }

    fn imports_below(&self) -> PathBuf {
        self.backing.dir.join(FOLDER)
    }

    /// Layers of this pool that came from elsewhere.
    ///
    /// # Errors
    /// When the pool can't be read.
    pub fn imports(&self) -> Result<Vec<Import>, StorageError> {
        let below = self.imports_below();
        let imports = self.list_layers()?.into_iter().filter_map(|layer| {
            let origin = below.join(layer.as_str()).join(ORIGIN);
            read(&origin).map(|(digest, bytes, used)| Import { layer, digest, bytes, used })
        });
        Ok(imports.collect())
    }

    /// Somebody stands on this layer from now on. Nothing happens to one that was made here.
    pub fn note_use(&self, layer: &LayerId) {
        let origin = self.imports_below().join(layer.as_str()).join(ORIGIN);
        let noted = File::open(&origin).and_then(|it| it.set_times(FileTimes::new().set_modified(SystemTime::now())));
        match noted {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(%layer, %error, "the use of a layer can't be noted");
            }
            _ => {}
        }
    }

    /// Removes what an agent that died has left half filled.
    pub(super) fn sweep_imports(&self) -> Result<(), StorageError> {
        let drafts = self.names_in(FOLDER)?.into_iter().filter(|name| name.starts_with(DRAFT));
        drafts.into_iter().try_for_each(|name| self.delete_in(FOLDER, &name))
    }
}

fn read(origin: &Path) -> Option<(String, u64, SystemTime)> {
    let text = fs::read_to_string(origin).ok()?;
    let (digest, bytes) = text.split_once(' ')?;
    Some((digest.to_owned(), bytes.parse().ok()?, fs::metadata(origin).ok()?.modified().ok()?))
}

/// Which of them go so that no more than `most` bytes are left: the longest unused first, and none that somebody stands on.
#[must_use]
pub fn surplus(mut imports: Vec<Import>, in_use: &HashSet<LayerId>, most: u64) -> Vec<LayerId> {
    imports.sort_by_key(|import| import.used);
    let mut total: u64 = imports.iter().map(|import| import.bytes).sum();
    let mut gone = Vec::new();
    for import in imports.into_iter().filter(|import| !in_use.contains(&import.layer)) {
        if total <= most {
            break;
        }
        total -= import.bytes;
        gone.push(import.layer);
    }
    gone
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_longest_unused_go_and_none_that_somebody_stands_on() {
        let import = |age: u64, bytes: u64| Import {
            layer: LayerId::new(),
            digest: String::new(),
            bytes,
            used: SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age),
        };
        let all = vec![import(10, 5), import(40, 7), import(30, 1), import(20, 3)];
        let names: Vec<_> = all.iter().map(|import| import.layer.clone()).collect();
        let gone = |in_use: &[usize], most: u64| {
            let in_use = in_use.iter().map(|place| names[*place].clone()).collect();
            let gone = surplus(all.clone(), &in_use, most);
            gone.iter().map(|layer| names.iter().position(|name| name == layer).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(gone(&[], 16), [0_usize; 0]);
        assert_eq!(gone(&[], 15), [1]);
        assert_eq!(gone(&[], 8), [1, 2]);
        assert_eq!(gone(&[], 0), [1, 2, 3, 0]);
        assert_eq!(gone(&[1, 3], 0), [2, 0]);
    }
}
