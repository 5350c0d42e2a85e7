//! The object store: images of layers and templates by the SHA-256 of their bytes, and the files of builds' `COPY`.
//!
//! What is written becomes visible whole or not at all, and an image only if it is what its name says. It is a folder
//! of control's own ([`folder`]), or a bucket that all replicas share ([`bucket`]); drafts always lie in the folder.
//! Hosts fetch from it over HTTP (`http/agent_files.rs`). Who may have what, and when something goes, is decided
//! elsewhere.

mod bucket;
mod folder;
#[cfg(test)]
mod tests;
mod web;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::fs::File;

use self::bucket::Bucket;
pub use self::bucket::BucketSettings;
use self::folder::Folder;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("{action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{action} {name} in the bucket")]
    Bucket { action: &'static str, name: String, source: object_store::Error },
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
    folder: Folder,
    bucket: Option<Arc<Bucket>>,
}

/// An image, and how long ago it was written.
#[derive(Debug, Clone)]
pub struct Listed {
    pub digest: String,
    pub age: Duration,
}

/// What is in an object, from its beginning.
pub struct Content {
    /// How many.
    pub bytes: u64,
    pub stream: BoxStream<'static, io::Result<Bytes>>,
}

/// An image that is being written.
pub struct Draft {
    objects: Objects,
    digest: String,
    state: Option<(NamedTempFile, Sha256)>,
}

fn image_name(digest: &str) -> String {
    format!("{digest}.erofs")
}

/// The digest, if the name is an image's.
fn image_digest(name: &str) -> Option<&str> {
    let digest = name.strip_suffix(".erofs")?;
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_digest.then_some(digest)
}

/// Names of all that builds copy from begin so.
const FILES_PREFIX: &str = "files-";

impl Objects {
    /// In a folder of control's data directory.
    ///
    /// # Errors
    /// When it can't be made or read.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        Ok(Self { folder: Folder::open(data_dir.join("objects"))?, bucket: None })
    }

    /// In a bucket, with what is not whole yet in a folder of control's data directory. Asks the bucket once.
    ///
    /// # Errors
    /// When the folder can't be made, or the bucket does not let us in.
    pub async fn open_bucket(data_dir: &Path, settings: &BucketSettings) -> Result<Self, ObjectError> {
        let path = data_dir.join("objects");
        let folder = Folder::open(path.clone()).map_err(ObjectError::io("making", &path))?;
        Ok(Self { folder, bucket: Some(Arc::new(Bucket::open(settings).await?)) })
    }

    /// Where temporary files of any size may lie.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether all replicas see the same objects.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.bucket.is_some()
    }

    pub async fn has(&self, digest: &str) -> Result<bool, ObjectError> {
        self.has_name(&image_name(digest)).await
    }

    /// The image; none when it is not there.
    pub async fn read(&self, digest: &str) -> Result<Option<Content>, ObjectError> {
        let name = image_name(digest);
        match &self.bucket {
            Some(bucket) => bucket.read(&name).await,
            None => match self.folder.read(&name).await? {
                Some(file) => Content::of_file(file).await.map(Some).map_err(ObjectError::io("reading", self.folder())),
                None => Ok(None),
            },
        }
    }

    /// Begins to write the image with this digest.
    pub fn draft(&self, digest: &str) -> Result<Draft, ObjectError> {
        let file = self.temporary()?;
        Ok(Draft { objects: self.clone(), digest: digest.to_owned(), state: Some((file, Sha256::new())) })
    }

    /// A file in the store's folder that is not an object yet.
    pub fn temporary(&self) -> Result<NamedTempFile, ObjectError> {
        self.folder.temporary()
    }

    /// Takes a file from [`Self::temporary`] in, whose digest the caller has just computed.
    pub async fn adopt(&self, file: NamedTempFile, digest: &str) -> Result<(), ObjectError> {
        self.keep(file, image_name(digest)).await
    }

    /// Takes an image in that lies elsewhere on this machine, if it is not there yet.
    pub async fn import(&self, path: &Path, digest: &str) -> Result<(), ObjectError> {
        if self.has(digest).await? {
            return Ok(());
        }
        let mut file = File::open(path).await.map_err(ObjectError::io("opening", path))?;
        let mut draft = self.draft(digest)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = tokio::io::AsyncReadExt::read(&mut file, &mut buffer).await;
            match read.map_err(ObjectError::io("reading", path))? {
                0 => return draft.finish().await,
                length => draft.write(Bytes::copy_from_slice(&buffer[..length])).await?,
            }
        }
    }

    /// All images.
    pub async fn list(&self) -> Result<Vec<Listed>, ObjectError> {
        let all = match &self.bucket {
            Some(bucket) => bucket.list("").await?,
            None => self.folder.list().await?,
        };
        let images = all.into_iter().filter_map(|(name, age)| {
            let digest = image_digest(&name)?.to_owned();
            Some(Listed { digest, age })
        });
        Ok(images.collect())
    }

    /// Success when it is not there.
    pub async fn delete(&self, digest: &str) -> Result<(), ObjectError> {
        self.delete_name(&image_name(digest)).await
    }

    /// Takes a file from [`Self::temporary`] in as what builds copy from.
    ///
    /// `key`: letters, digits, hyphens.
    pub async fn keep_files(&self, file: NamedTempFile, key: &str) -> Result<(), ObjectError> {
        self.keep(file, files_name(key)).await
    }

    pub async fn has_files(&self, key: &str) -> Result<bool, ObjectError> {
        self.has_name(&files_name(key)).await
    }

    /// The file; none when it is not there.
    pub async fn files(&self, key: &str) -> Result<Option<File>, ObjectError> {
        let name = files_name(key);
        let Some(bucket) = &self.bucket else { return self.folder.read(&name).await };
        let Some(mut content) = bucket.read(&name).await? else { return Ok(None) };
        let draft = self.temporary()?;
        let failed = || ObjectError::io("writing into", self.folder.path());
        let mut file = File::from_std(draft.reopen().map_err(failed())?);
        while let Some(chunk) = futures::StreamExt::next(&mut content.stream).await {
            tokio::io::AsyncWriteExt::write_all(&mut file, &chunk.map_err(failed())?).await.map_err(failed())?;
        }
        tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(failed())?;
        tokio::io::AsyncSeekExt::rewind(&mut file).await.map_err(failed())?;
        Ok(Some(file))
    }

    /// Deletes what builds copied from and is older than this.
    pub async fn sweep_files(&self, kept: Duration) -> Result<(), ObjectError> {
        let all = match &self.bucket {
            Some(bucket) => bucket.list(FILES_PREFIX).await?,
            None => self.folder.list().await?,
        };
        for (name, age) in all {
            if name.starts_with(FILES_PREFIX) && age > kept {
                self.delete_name(&name).await?;
            }
        }
        Ok(())
    }

    async fn has_name(&self, name: &str) -> Result<bool, ObjectError> {
        match &self.bucket {
            Some(bucket) => bucket.has(name).await,
            None => self.folder.has(name).await,
        }
    }

    async fn delete_name(&self, name: &str) -> Result<(), ObjectError> {
        match &self.bucket {
            Some(bucket) => bucket.delete(name).await,
            None => self.folder.delete(name).await,
        }
    }

    async fn keep(&self, file: NamedTempFile, name: String) -> Result<(), ObjectError> {
        match &self.bucket {
            Some(bucket) => bucket.put(file, &name).await,
            None => self.folder.keep(file, &name).await,
        }
    }
}

fn files_name(key: &str) -> String {
    format!("{FILES_PREFIX}{key}.tar")
}

impl Content {
    const CHUNK: usize = 256 * 1024;

    pub async fn of_file(file: File) -> io::Result<Self> {
        let bytes = file.metadata().await?.len();
        let stream = tokio_util::io::ReaderStream::with_capacity(file, Self::CHUNK);
        Ok(Self { bytes, stream: Box::pin(stream) })
    }
}

impl Draft {
    /// Appends. Hashing and writing happen off the async threads.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), ObjectError> {
        let lost = || ObjectError::other("storing an image", "an earlier write has failed");
        let (mut file, mut hasher) = self.state.take().ok_or_else(lost)?;
        let folder = self.objects.folder().to_owned();
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
        self.objects.adopt(file, &found).await
    }
}
