//! The object store: images of layers and templates by the SHA-256 of their bytes, the files of builds' `COPY`, and what
//! clients push as blobs of container images.
//!
//! What is written becomes visible whole or not at all, and an image only if it is what its name says. It is a folder
//! of control's own ([`folder`]), or a bucket that all replicas share ([`bucket`]); drafts always lie in the folder.
//! Hosts fetch from it over HTTP (`http/agent_files.rs`). Who may have what, and when something goes, is decided
//! elsewhere.
//!
//! Images lie packed (`atoll_image::packed`) as `DIGEST.erofs.zst`. Those of before are raw, `DIGEST.erofs`, and are read
//! as well. Beside a packed one lies its index (`DIGEST.erofs.idx`: where each chunk is, and its digest), for hosts that fetch
//! chunks as they need them ([`index`]).

mod bucket;
mod draft;
mod folder;
mod index;
mod packing;
#[cfg(test)]
mod tests;
mod web;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use tempfile::NamedTempFile;
use tokio::fs::File;

use self::bucket::Bucket;
pub use self::bucket::BucketSettings;
pub use self::draft::{Draft, Form};
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
    #[error("what came as image {0} is larger than it may be")]
    TooLarge(String),
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
    /// Whoever makes an index of an image that has none.
    indexing: Arc<tokio::sync::Semaphore>,
}

/// An image, and how long ago it was written.
#[derive(Debug, Clone)]
pub struct Listed {
    pub digest: String,
    pub age: Duration,
}

/// What is in an object, from its beginning where nothing else was asked for.
pub struct Content {
    /// How many, if that is known.
    pub bytes: Option<u64>,
    /// What they are.
    pub form: Form,
    pub stream: BoxStream<'static, io::Result<Bytes>>,
}

fn image_name(digest: &str) -> String {
    format!("{digest}.erofs.zst")
}

fn raw_name(digest: &str) -> String {
    format!("{digest}.erofs")
}

fn index_name(digest: &str) -> String {
    format!("{digest}.erofs.idx")
}

/// The digest, if the name is an image's, or its index's: so one that has lost its image goes as a stray image does.
fn image_digest(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".zst").or(name.strip_suffix(".idx")).unwrap_or(name);
    let digest = name.strip_suffix(".erofs")?;
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_digest.then_some(digest)
}

/// Names of all that builds copy from begin so.
const FILES_PREFIX: &str = "files-";
/// Names of all that was pushed as parts of blobs begin so.
const PART_PREFIX: &str = "blob-";

impl Objects {
    /// In a folder of control's data directory.
    ///
    /// # Errors
    /// When it can't be made or read.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        Ok(Self::new(Folder::open(data_dir.join("objects"))?, None))
    }

    /// In a bucket, with what is not whole yet in a folder of control's data directory. Asks the bucket once.
    ///
    /// # Errors
    /// When the folder can't be made, or the bucket does not let us in.
    pub async fn open_bucket(data_dir: &Path, settings: &BucketSettings) -> Result<Self, ObjectError> {
        let path = data_dir.join("objects");
        let folder = Folder::open(path.clone()).map_err(ObjectError::io("making", &path))?;
        Ok(Self::new(folder, Some(Arc::new(Bucket::open(settings).await?))))
    }

    fn new(folder: Folder, bucket: Option<Arc<Bucket>>) -> Self {
        Self { folder, bucket, indexing: Arc::new(tokio::sync::Semaphore::new(1)) }
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
        Ok(self.has_name(&image_name(digest)).await? || self.has_name(&raw_name(digest)).await?)
    }

    /// The image, in the form in which it lies here; none when it is not there.
    pub async fn read(&self, digest: &str) -> Result<Option<Content>, ObjectError> {
        match self.read_name(&image_name(digest), Form::Packed).await? {
            Some(content) => Ok(Some(content)),
            None => self.read_name(&raw_name(digest), Form::Raw).await,
        }
    }

    async fn read_name(&self, name: &str, form: Form) -> Result<Option<Content>, ObjectError> {
        self.read_from(name, 0, form).await
    }

    /// From its byte `from` on; it must have that one, but for the first.
    async fn read_from(&self, name: &str, from: u64, form: Form) -> Result<Option<Content>, ObjectError> {
        match &self.bucket {
            Some(bucket) => Ok(bucket.read_from(name, from).await?.map(|content| Content { form, ..content })),
            None => match self.folder.read(name).await? {
                Some(file) => {
                    let content = Content::of_file_from(file, from, form).await;
                    content.map(Some).map_err(ObjectError::io("reading", self.folder()))
                }
                None => Ok(None),
            },
        }
    }

    /// Begins to write the image with this digest. It may have so many bytes.
    pub fn draft(&self, digest: &str, most: u64) -> Result<Draft, ObjectError> {
        Draft::begin(self.clone(), digest, most)
    }

    /// A file in the store's folder that is not an object yet.
    pub fn temporary(&self) -> Result<NamedTempFile, ObjectError> {
        self.folder.temporary()
    }

    /// Takes an image in that lies in a file on this machine, if it is not there yet.
    pub async fn import(&self, path: &Path, digest: &str) -> Result<(), ObjectError> {
        if self.has(digest).await? {
            return Ok(());
        }
        let mut file = File::open(path).await.map_err(ObjectError::io("opening", path))?;
        let mut draft = self.draft(digest, u64::MAX)?;
        loop {
            let mut buffer = bytes::BytesMut::with_capacity(Content::CHUNK);
            let read = tokio::io::AsyncReadExt::read_buf(&mut file, &mut buffer).await;
            match read.map_err(ObjectError::io("reading", path))? {
                0 => return draft.finish().await,
                _ => draft.write(buffer.freeze()).await?,
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
        let mut images: Vec<_> = images.collect();
        // One may lie here in both forms, and has an index.
        images.sort_by(|one, other| (&one.digest, one.age).cmp(&(&other.digest, other.age)));
        images.dedup_by(|one, other| one.digest == other.digest);
        Ok(images)
    }

    /// Success when it is not there.
    pub async fn delete(&self, digest: &str) -> Result<(), ObjectError> {
        self.delete_name(&image_name(digest)).await?;
        self.delete_name(&raw_name(digest)).await?;
        self.delete_name(&index_name(digest)).await
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

    /// Takes a file from [`Self::temporary`] in as a part of a blob that somebody pushed.
    ///
    /// `name`: letters, digits, hyphens.
    pub async fn keep_part(&self, file: NamedTempFile, name: &str) -> Result<(), ObjectError> {
        self.keep(file, part_name(name)).await
    }

    /// A part of a blob from its byte `from` on, which it must have, but for the first; none when it is not there.
    pub async fn part(&self, name: &str, from: u64) -> Result<Option<Content>, ObjectError> {
        self.read_from(&part_name(name), from, Form::Raw).await
    }

    /// How many bytes a part of a blob has; none when it is not there.
    pub async fn part_bytes(&self, name: &str) -> Result<Option<u64>, ObjectError> {
        let name = part_name(name);
        match &self.bucket {
            Some(bucket) => bucket.bytes(&name).await,
            None => self.folder.bytes(&name).await,
        }
    }

    /// Success when it is not there.
    pub async fn delete_part(&self, name: &str) -> Result<(), ObjectError> {
        self.delete_name(&part_name(name)).await
    }

    /// All parts of blobs, with their ages.
    pub async fn list_parts(&self) -> Result<Vec<(String, Duration)>, ObjectError> {
        let all = match &self.bucket {
            Some(bucket) => bucket.list(PART_PREFIX).await?,
            None => self.folder.list().await?,
        };
        let part = |(name, age): (String, Duration)| Some((name.strip_prefix(PART_PREFIX)?.to_owned(), age));
        Ok(all.into_iter().filter_map(part).collect())
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

fn part_name(name: &str) -> String {
    format!("{PART_PREFIX}{name}")
}

fn files_name(key: &str) -> String {
    format!("{FILES_PREFIX}{key}.tar")
}

impl Content {
    const CHUNK: usize = 1 << 20;

    pub async fn of_file(file: File, form: Form) -> io::Result<Self> {
        Self::of_file_from(file, 0, form).await
    }

    async fn of_part(mut file: File, part: std::ops::Range<u64>, form: Form) -> io::Result<Self> {
        tokio::io::AsyncSeekExt::seek(&mut file, io::SeekFrom::Start(part.start)).await?;
        let bytes = part.end.saturating_sub(part.start);
        let stream =
            tokio_util::io::ReaderStream::with_capacity(tokio::io::AsyncReadExt::take(file, bytes), Self::CHUNK);
        Ok(Self { bytes: Some(bytes), form, stream: Box::pin(stream) })
    }

    async fn of_file_from(mut file: File, from: u64, form: Form) -> io::Result<Self> {
        let bytes = file.metadata().await?.len().saturating_sub(from);
        if from > 0 {
            tokio::io::AsyncSeekExt::seek(&mut file, io::SeekFrom::Start(from)).await?;
        }
        let stream = tokio_util::io::ReaderStream::with_capacity(file, Self::CHUNK);
        Ok(Self { bytes: Some(bytes), form, stream: Box::pin(stream) })
    }
}
