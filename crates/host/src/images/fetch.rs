//! Getting an image that this machine lacks: into a draft, hashed and bounded on the way, into place only when whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use atoll_image::packed::{Index, Unpacker};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::{ImageError, ImageOptions, io_error};
use crate::failpoint;

pub(super) const DRAFT_PREFIX: &str = ".fetching-";
/// How often the free space is looked at.
pub(super) const SPACE_CHECK_BYTES: u64 = 64 << 20;

/// Gets an image that this machine lacks.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// Writes the whole image to the sink, in order. The sink bounds it; its digest is checked by the image store.
    async fn fetch(&self, digest: &str, sink: &mut ImageSink) -> Result<(), FetchError>;

    /// What the packed image consists of; none where the image can only be had whole.
    async fn index(&self, digest: &str) -> Result<Option<Index>, FetchError>;

    /// These bytes of the packed image.
    async fn part(&self, digest: &str, part: Range<u64>) -> Result<Bytes, FetchError>;
}

/// Why an image could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("fetching image {digest}: {reason}")]
pub struct FetchError {
    pub digest: String,
    pub reason: String,
    /// Whether the source says that there is no such image.
    pub not_found: bool,
}

/// Where fetched bytes go: a draft that vanishes unless it turns out to be the image that was wanted.
#[derive(Debug)]
pub struct ImageSink {
    draft: Option<Draft>,
}

#[derive(Debug)]
struct Draft {
    file: NamedTempFile,
    hasher: Sha256,
    written: u64,
    checked_at: u64,
    most: u64,
    reserve: u64,
    unpacker: Option<Unpacker>,
}

impl ImageSink {
    /// What is written from now on is the image packed (`atoll_image::packed`).
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn comes_packed(&mut self) -> io::Result<()> {
        let draft = self.draft.as_mut().ok_or_else(|| io::Error::other("an earlier write has failed"))?;
        draft.unpacker = Some(Unpacker::new()?);
        Ok(())
    }

    /// Appends to the image. Hashing and writing happen off the async threads.
    ///
    /// # Errors
    /// When the disk is too full, the image is larger than allowed, or an earlier write has failed.
    pub async fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        let mut draft = self.draft.take().ok_or_else(|| io::Error::other("an earlier write has failed"))?;
        let writing = tokio::task::spawn_blocking(move || draft.write(&chunk).map(|()| draft));
        self.draft = Some(writing.await.map_err(io::Error::other)??);
        Ok(())
    }
}

impl Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(mut unpacker) = self.unpacker.take() else { return self.append(bytes) };
        unpacker.push(bytes, &mut |image| self.append(image))?;
        self.unpacker = Some(unpacker);
        Ok(())
    }

    fn append(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.written += chunk.len() as u64;
        if self.written > self.most {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("the image is larger than {} bytes", self.most),
            ));
        }
        if self.written >= self.checked_at {
            self.checked_at = self.written + SPACE_CHECK_BYTES;
            let room = rustix::fs::fstatvfs(self.file.as_file())?;
            if room.f_bavail * room.f_frsize < self.reserve.saturating_add(SPACE_CHECK_BYTES) {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    format!("less than {} bytes would be left on the disk", self.reserve),
                ));
            }
        }
        self.hasher.update(chunk);
        self.file.write_all(chunk)?;
        failpoint!("agent.fetch.halfway", Err(io::Error::other("a failpoint")));
        Ok(())
    }

    /// Puts the draft into place if it is the image that was wanted.
    fn finish(mut self, digest: &str, store: &Path) -> Result<PathBuf, ImageError> {
        let whole = self.unpacker.take().map_or(Ok(()), Unpacker::finish);
        whole.map_err(io_error("unpacking what came for", &store.join(digest)))?;
        let found = hex::encode(self.hasher.finalize());
        if found != digest {
            return Err(ImageError::WrongDigest { wanted: digest.to_owned(), found });
        }
        let path = store.join(format!("{digest}.erofs"));
        self.file.as_file().sync_all().map_err(io_error("writing out", &path))?;
        failpoint!("agent.fetch.before_persist", Err(ImageError::Lost));
        self.file.persist(&path).map_err(|error| io_error("putting into place", &path)(error.error))?;
        failpoint!("agent.fetch.after_persist", Err(ImageError::Lost));
        File::open(store).and_then(|dir| dir.sync_all()).map_err(io_error("writing out", store))?;
        Ok(path)
    }
}

/// Fetches the image into `store`.
pub(super) async fn fetch(
    digest: &str,
    source: &dyn Fetch,
    store: &Path,
    options: &ImageOptions,
) -> Result<PathBuf, ImageError> {
    let file = tempfile::Builder::new()
        .prefix(DRAFT_PREFIX)
        .tempfile_in(store)
        .map_err(io_error("making a file to fetch into in", store))?;
    let (most, reserve) = (options.max_image_bytes, options.reserve);
    let draft = Draft { file, hasher: Sha256::new(), written: 0, checked_at: 0, most, reserve, unpacker: None };
    let mut sink = ImageSink { draft: Some(draft) };
    source.fetch(digest, &mut sink).await?;
    let Some(draft) = sink.draft else {
        return Err(FetchError {
            digest: digest.to_owned(),
            reason: "it could not be written".to_owned(),
            not_found: false,
        }
        .into());
    };
    let (name, store) = (digest.to_owned(), store.to_owned());
    let finishing = tokio::task::spawn_blocking(move || draft.finish(&name, &store)).await;
    finishing.map_err(|error| FetchError { digest: digest.to_owned(), reason: error.to_string(), not_found: false })?
}

/// Removes what interrupted fetches have left.
pub(super) fn remove_drafts(store: &Path) -> io::Result<()> {
    for entry in fs::read_dir(store)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(DRAFT_PREFIX.as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
