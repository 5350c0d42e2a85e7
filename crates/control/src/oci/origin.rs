//! Where manifests and blobs of an image come from: a registry elsewhere, or what was pushed here.

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use sha2::{Digest, Sha256};

use super::registry::OciError;

/// Manifests, configurations, tokens.
pub(super) const MAX_DOCUMENT: usize = 4 << 20;

pub type Bytestream = BoxStream<'static, Result<Bytes, OciError>>;

/// One image's side of a pull.
#[async_trait]
pub trait Origin: Send {
    /// A manifest by tag or digest, with the digest of its bytes.
    async fn manifest(&mut self, version: &str) -> Result<(Vec<u8>, String), OciError>;

    /// A blob, to be read and checked by the caller.
    async fn blob(&mut self, digest: &str) -> Result<Bytestream, OciError>;
}

/// A small blob, checked.
pub(super) async fn small_blob(origin: &mut dyn Origin, digest: &str) -> Result<Vec<u8>, OciError> {
    let (mut content, mut bytes) = (origin.blob(digest).await?, Vec::new());
    while let Some(chunk) = content.try_next().await? {
        if bytes.len() + chunk.len() > MAX_DOCUMENT {
            return Err(OciError::Invalid(format!("the blob {digest} is too large for a configuration")));
        }
        bytes.extend_from_slice(&chunk);
    }
    if format!("sha256:{}", hex::encode(Sha256::digest(&bytes))) != digest {
        return Err(OciError::Invalid(format!("the blob {digest} has another digest")));
    }
    Ok(bytes)
}
