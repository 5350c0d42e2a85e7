//! Template images: erofs files named by their SHA-256, each mounted once per data directory.
//!
//! An image comes from the machine-wide cache (`<cache>/images/<digest>.erofs`), from the data directory
//! (`<data>/images/<digest>.erofs`), or is fetched there. Who fetches and from where is the [`Fetch`] that the caller
//! brings; this module checks what it got.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

/// Gets an image that this machine lacks.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// Writes the whole image to the sink, in order. Digest and size are checked by the sink's owner.
    async fn fetch(&self, digest: &str, sink: &mut ImageSink) -> Result<(), FetchError>;
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

/// Where fetched bytes go: a temporary file, hashed and bounded on the way.
#[derive(Debug)]
pub struct ImageSink {}

impl ImageSink {
    /// # Errors
    /// When the disk is full or the image is larger than allowed.
    pub async fn write(&mut self, _chunk: bytes::Bytes) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}

/// Settings of the image store.
#[derive(Debug, Clone)]
pub struct ImageOptions {
    /// The largest image that is fetched.
    pub max_image_bytes: u64,
    /// Mount through a loop device where the kernel could mount the file itself (tests of what old kernels do).
    pub force_loop: bool,
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self { max_image_bytes: 32 << 30, force_loop: false }
    }
}

/// Why an image can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("`{0}` is not a SHA-256 in hex")]
    NotADigest(String),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("image {wanted} has the digest {found}")]
    WrongDigest { wanted: String, found: String },
    #[error("image {0} is in use")]
    InUse(String),
}

/// A mounted image; it can't be unmounted while somebody holds it.
#[derive(Debug)]
pub struct Mounted {
    pub path: PathBuf,
}

/// The images of one data directory.
#[derive(Debug)]
pub struct Images {}

impl Images {
    /// # Errors
    /// When the directories can't be made or read.
    pub fn open(_data_dir: &Path, _cache_dir: &Path, _options: ImageOptions) -> Result<Self, ImageError> {
        Ok(Self {})
    }

    /// The image, mounted; fetched first when it isn't here. Callers that come at once wait for one fetch.
    ///
    /// # Errors
    /// When it can't be fetched, isn't what its digest says, or can't be mounted.
    pub async fn mounted(&self, digest: &str, _fetch: &dyn Fetch) -> Result<Arc<Mounted>, ImageError> {
        Err(ImageError::NotADigest(digest.to_owned()))
    }

    /// Deletes the data directory's copy. Success when there is none; one of the machine-wide cache is left alone.
    ///
    /// # Errors
    /// `InUse` while somebody holds the mount.
    pub async fn delete(&self, digest: &str) -> Result<(), ImageError> {
        Err(ImageError::NotADigest(digest.to_owned()))
    }

    /// The digests that are here, in either place.
    ///
    /// # Errors
    /// When a directory can't be read.
    pub fn list(&self) -> Result<Vec<String>, ImageError> {
        Ok(Vec::new())
    }

    /// Unmounts what nobody holds; the number of mounts that stay.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn unmount_all(&self) -> Result<usize, ImageError> {
        Ok(0)
    }
}
