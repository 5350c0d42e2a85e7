//! Objects as files in a folder of control's own: written beside, put into place by a rename, on the disk by then.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::NamedTempFile;
use tokio::fs::File;

use super::ObjectError;

/// Names of what is being written; what a crash leaves of it is removed at the next start.
const DRAFT_PREFIX: &str = ".draft-";

#[derive(Debug, Clone)]
pub(super) struct Folder(Arc<PathBuf>);

impl Folder {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        for entry in std::fs::read_dir(&path)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(DRAFT_PREFIX.as_bytes()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self(Arc::new(path)))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn temporary(&self) -> Result<NamedTempFile, ObjectError> {
        let made = tempfile::Builder::new().prefix(DRAFT_PREFIX).tempfile_in(&*self.0);
        made.map_err(ObjectError::io("making a file in", &self.0))
    }

    pub(super) async fn has(&self, name: &str) -> Result<bool, ObjectError> {
        let path = self.0.join(name);
        tokio::fs::try_exists(&path).await.map_err(ObjectError::io("looking for", &path))
    }

    pub(super) async fn bytes(&self, name: &str) -> Result<Option<u64>, ObjectError> {
        let path = self.0.join(name);
        match tokio::fs::metadata(&path).await {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ObjectError::io("looking for", &path)(error)),
        }
    }

    pub(super) async fn read(&self, name: &str) -> Result<Option<File>, ObjectError> {
        let path = self.0.join(name);
        match File::open(&path).await {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ObjectError::io("opening", &path)(error)),
        }
    }

    pub(super) async fn keep(&self, file: NamedTempFile, name: &str) -> Result<(), ObjectError> {
        let (folder, path) = (self.clone(), self.0.join(name));
        let keeping = tokio::task::spawn_blocking(move || {
            file.as_file().sync_all().map_err(ObjectError::io("writing out", &path))?;
            file.persist(&path).map_err(|error| ObjectError::io("putting into place", &path)(error.error))?;
            let synced = std::fs::File::open(folder.path()).and_then(|folder| folder.sync_all());
            synced.map_err(ObjectError::io("writing out", folder.path()))
        });
        keeping.await.map_err(|error| ObjectError::other("storing a file", error))?
    }

    /// Success when it is not there.
    pub(super) async fn delete(&self, name: &str) -> Result<(), ObjectError> {
        let path = self.0.join(name);
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ObjectError::io("deleting", &path)(error)),
            _ => Ok(()),
        }
    }

    /// All names but those of drafts, with their ages.
    pub(super) async fn list(&self) -> Result<Vec<(String, Duration)>, ObjectError> {
        let folder = self.clone();
        let listing = tokio::task::spawn_blocking(move || {
            let list = || -> io::Result<Vec<_>> {
                let mut found = Vec::new();
                for entry in std::fs::read_dir(folder.path())? {
                    let entry = entry?;
                    let Ok(name) = entry.file_name().into_string() else { continue };
                    if name.starts_with(DRAFT_PREFIX) {
                        continue;
                    }
                    let modified = match entry.metadata().and_then(|metadata| metadata.modified()) {
                        // Deleted meanwhile.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        modified => modified?,
                    };
                    found.push((name, modified.elapsed().unwrap_or_default()));
                }
                Ok(found)
            };
            list().map_err(ObjectError::io("listing", folder.path()))
        });
        listing.await.map_err(|error| ObjectError::other("listing a folder", error))?
    }
}
