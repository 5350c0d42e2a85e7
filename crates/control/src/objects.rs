//! The object store: images of layers and templates, by the SHA-256 of their bytes.
//!
//! What is written becomes visible whole or not at all, and only if it is what its name says. The folder is control's
//! own; hosts fetch from it over HTTP (`http/agent_files.rs`). Who may have what, and when something goes, is decided
//! elsewhere.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::fs::File;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("{action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("what came as image {wanted} has the digest {found}")]
    WrongDigest { wanted: String, found: String },
    #[error("{action}")]
    Other { action: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
}

impl ObjectError {
    pub fn other(action: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other { action, source: source.into() }
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// The store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Objects {
    folder: Arc<PathBuf>,
}

/// An object, and how long ago it was written.
#[derive(Debug, Clone)]
pub struct Listed {
    pub digest: String,
    pub age: Duration,
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Names of what is being written; what a crash leaves of it is removed at the next start.
const DRAFT_PREFIX: &str = ".draft-";

/// An object that is being written.
pub struct Draft {
    folder: Arc<PathBuf>,
    digest: String,
    state: Option<(NamedTempFile, Sha256)>,
}

impl Objects {
    /// A folder in control's data directory.
    ///
    /// # Errors
    /// When it can't be made or read.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let folder = data_dir.join("objects");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(DRAFT_PREFIX.as_bytes()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { folder: Arc::new(folder) })
    }

    /// Where temporary files of any size may lie.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}.erofs"))
    }

    pub async fn has(&self, digest: &str) -> Result<bool, ObjectError> {
        let path = self.path(digest);
        tokio::fs::try_exists(&path).await.map_err(ObjectError::io("looking for", &path))
    }

    /// The object, to be read from its beginning; none when it is not there.
    pub async fn read(&self, digest: &str) -> Result<Option<File>, ObjectError> {
        let path = self.path(digest);
        match File::open(&path).await {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ObjectError::io("opening", &path)(error)),
        }
    }

    /// Begins to write the object with this digest.
    pub async fn draft(&self, digest: &str) -> Result<Draft, ObjectError> {
        let file = self.temporary()?;
        Ok(Draft { folder: self.folder.clone(), digest: digest.to_owned(), state: Some((file, Sha256::new())) })
    }

    /// A file in the store's folder that is not an object yet.
    pub fn temporary(&self) -> Result<NamedTempFile, ObjectError> {
        tempfile::Builder::new()
            .prefix(DRAFT_PREFIX)
            .tempfile_in(&*self.folder)
            .map_err(ObjectError::io("making a file in", &self.folder))
    }

    /// Takes a file from [`Self::temporary`] in, whose digest the caller has just computed.
    pub async fn adopt(&self, file: NamedTempFile, digest: &str) -> Result<(), ObjectError> {
        let (folder, path) = (self.folder.clone(), self.path(digest));
        let adopting = tokio::task::spawn_blocking(move || keep(file, &path, &folder));
        adopting.await.map_err(|error| ObjectError::other("storing an image", error))?
    }

    /// All objects.
    pub async fn list(&self) -> Result<Vec<Listed>, ObjectError> {
        let folder = self.folder.clone();
        let listing = tokio::task::spawn_blocking(move || {
            let list = || -> io::Result<Vec<Listed>> {
                let mut found = Vec::new();
                for entry in std::fs::read_dir(&*folder)? {
                    let entry = entry?;
                    let name = entry.file_name();
                    let digest = name.to_str().and_then(|name| name.strip_suffix(".erofs"));
                    let Some(digest) = digest.filter(|digest| is_digest(digest)) else { continue };
                    let modified = match entry.metadata().and_then(|metadata| metadata.modified()) {
                        // Deleted meanwhile.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        modified => modified?,
                    };
                    found.push(Listed { digest: digest.to_owned(), age: modified.elapsed().unwrap_or_default() });
                }
                Ok(found)
            };
            list().map_err(ObjectError::io("listing", &folder))
        });
        listing.await.map_err(|error| ObjectError::other("listing images", error))?
    }

    /// Success when it is not there.
    pub async fn delete(&self, digest: &str) -> Result<(), ObjectError> {
        let path = self.path(digest);
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ObjectError::io("deleting", &path)(error)),
            _ => Ok(()),
        }
    }
}

fn keep(file: NamedTempFile, path: &Path, folder: &Path) -> Result<(), ObjectError> {
    file.as_file().sync_all().map_err(ObjectError::io("writing out", path))?;
    file.persist(path).map_err(|error| ObjectError::io("putting into place", path)(error.error))?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(ObjectError::io("writing out", folder))
}

impl Draft {
    /// Appends. Hashing and writing happen off the async threads.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), ObjectError> {
        let lost = || ObjectError::other("storing an image", "an earlier write has failed");
        let (mut file, mut hasher) = self.state.take().ok_or_else(lost)?;
        let folder = self.folder.clone();
        let writing = tokio::task::spawn_blocking(move || {
            hasher.update(&chunk);
            let written = io::Write::write_all(file.as_file_mut(), &chunk);
            written.map_err(ObjectError::io("writing into", &folder)).map(|()| (file, hasher))
        });
        self.state = Some(writing.await.map_err(|error| ObjectError::other("storing an image", error))??);
        Ok(())
    }

    /// Puts it into place, if it is what its name says.
    pub async fn finish(mut self) -> Result<(), ObjectError> {
        let lost = || ObjectError::other("storing an image", "an earlier write has failed");
        let (file, hasher) = self.state.take().ok_or_else(lost)?;
        let found = hex::encode(hasher.finalize());
        if found != self.digest {
            return Err(ObjectError::WrongDigest { wanted: self.digest, found });
        }
        let (folder, path) = (self.folder.clone(), self.folder.join(format!("{found}.erofs")));
        let keeping = tokio::task::spawn_blocking(move || keep(file, &path, &folder));
        keeping.await.map_err(|error| ObjectError::other("storing an image", error))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_has_its_digest_becomes_an_object() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path()).unwrap();
        let digest = hex::encode(Sha256::digest(b"image"));
        let mut wrong = objects.draft(&digest).await.unwrap();
        wrong.write(Bytes::from_static(b"imagx")).await.unwrap();
        assert!(matches!(wrong.finish().await, Err(ObjectError::WrongDigest { .. })));
        assert!(!objects.has(&digest).await.unwrap());
        let mut right = objects.draft(&digest).await.unwrap();
        for chunk in [&b"im"[..], b"age"] {
            right.write(Bytes::from_static(chunk)).await.unwrap();
        }
        right.finish().await.unwrap();
        assert!(objects.has(&digest).await.unwrap());
        // A draft that a crash has left goes with the next start; objects stay.
        std::fs::write(objects.folder().join(".draft-x"), b"half").unwrap();
        let objects = Objects::open(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(objects.folder()).unwrap().count(), 1);
        objects.delete(&digest).await.unwrap();
        objects.delete(&digest).await.unwrap();
        assert!(objects.read(&digest).await.unwrap().is_none());
    }
}
