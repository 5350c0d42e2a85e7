//! Objects in a bucket of S3, or of a server that speaks its protocol (MinIO, Ceph, Garage): all replicas of control
//! see the same. An upload in parts becomes an object only when it is completed.

use std::fmt;
use std::io;
use std::ops::Range;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, RetryConfig};
use secrecy::{ExposeSecret, SecretString};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;

use super::web::Connector;
use super::{Content, Form, ObjectError};

/// Bytes of one part. An object may have 10,000 of them.
const PART: usize = 16 << 20;
/// Parts on their way at a time.
const PARTS_AT_ONCE: usize = 3;
/// Of one operation with all its tries.
const RETRY_WITHIN: Duration = Duration::from_secs(60);
/// For the first question, at the start.
const KNOCK_WITHIN: Duration = Duration::from_secs(15);

/// Where a bucket is, and who we are to it.
#[derive(Debug, Clone, Default)]
pub struct BucketSettings {
    pub bucket: String,
    /// Before every name; without a slash at its ends. Several Atolls can share a bucket.
    pub prefix: String,
    /// `http://` or `https://`; Amazon's own for the region when absent.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Key id and secret; those of the machine (instance or container role) when absent.
    pub key: Option<(String, SecretString)>,
    /// Beside a temporary key.
    pub session_token: Option<SecretString>,
}

impl BucketSettings {
    /// From `s3://BUCKET` or `s3://BUCKET/PREFIX`.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("s3://").ok_or("it must be s3://BUCKET or s3://BUCKET/PREFIX")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(good) {
            return Err(format!("`{bucket}` is not the name of a bucket: 3 to 63 lowercase letters, digits, - and ."));
        }
        let prefix = prefix.trim_matches('/');
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
        let parts = || prefix.split('/');
        if !prefix.bytes().all(good) || (!prefix.is_empty() && parts().any(|part| matches!(part, "" | "." | ".."))) {
            return Err(format!("`{prefix}` is not a prefix: letters, digits, - _ . with single slashes between"));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned(), ..Self::default() })
    }
}

pub(super) struct Bucket {
    store: AmazonS3,
    prefix: String,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Bucket {
    pub(super) async fn open(settings: &BucketSettings) -> Result<Self, ObjectError> {
        let retry = RetryConfig { retry_timeout: RETRY_WITHIN, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(settings.region.as_deref().unwrap_or("us-east-1"))
            .with_retry(retry)
            .with_http_connector(Connector);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        if let Some((id, secret)) = &settings.key {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret.expose_secret());
        }
        if let Some(token) = &settings.session_token {
            builder = builder.with_token(token.expose_secret());
        }
        let failed = |source| ObjectError::Bucket { action: "opening", name: settings.bucket.clone(), source };
        let bucket = Self { store: builder.build().map_err(failed)?, prefix: settings.prefix.clone() };
        let knock = async { bucket.store.list(Some(&bucket.path(""))).next().await.transpose() };
        match tokio::time::timeout(KNOCK_WITHIN, knock).await {
            Ok(answered) => answered.map_err(failed)?,
            Err(_) => return Err(ObjectError::other("asking the bucket", "it does not answer in time")),
        };
        Ok(bucket)
    }

    fn path(&self, name: &str) -> Path {
        Path::from_iter(self.prefix.split('/').chain([name]).filter(|part| !part.is_empty()))
    }

    pub(super) async fn has(&self, name: &str) -> Result<bool, ObjectError> {
        Ok(self.bytes(name).await?.is_some())
    }

    /// How many it has; none when it is not there.
    pub(super) async fn bytes(&self, name: &str) -> Result<Option<u64>, ObjectError> {
        match self.store.head(&self.path(name)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(ObjectError::Bucket { action: "looking for", name: name.to_owned(), source }),
        }
    }

    pub(super) async fn read(&self, name: &str) -> Result<Option<Content>, ObjectError> {
        self.read_from(name, 0).await
    }

    /// From its byte `from` on; it must have that one, but for the first.
    pub(super) async fn read_from(&self, name: &str, from: u64) -> Result<Option<Content>, ObjectError> {
        self.get(name, (from > 0).then_some(GetRange::Offset(from))).await
    }

    /// These bytes, which it must have.
    pub(super) async fn read_range(&self, name: &str, part: Range<u64>) -> Result<Option<Content>, ObjectError> {
        self.get(name, Some(GetRange::Bounded(part))).await
    }

    async fn get(&self, name: &str, range: Option<GetRange>) -> Result<Option<Content>, ObjectError> {
        match self.store.get_opts(&self.path(name), GetOptions { range, ..GetOptions::default() }).await {
            Ok(found) => {
                let bytes = Some(found.range.end.saturating_sub(found.range.start));
                let stream = found.into_stream().map_err(io::Error::other).boxed();
                Ok(Some(Content { bytes, form: Form::Raw, stream }))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(ObjectError::Bucket { action: "reading", name: name.to_owned(), source }),
        }
    }

    pub(super) async fn put(&self, file: NamedTempFile, name: &str) -> Result<(), ObjectError> {
        let store: std::sync::Arc<dyn ObjectStore> = std::sync::Arc::new(self.store.clone());
        let mut writer = BufWriter::with_capacity(store, self.path(name), PART).with_max_concurrency(PARTS_AT_ONCE);
        let storing = |source| ObjectError::other("storing into the bucket", source);
        let written = async {
            let mut reader = tokio::io::BufReader::with_capacity(1 << 20, tokio::fs::File::from_std(file.reopen()?));
            tokio::io::copy_buf(&mut reader, &mut writer).await?;
            writer.shutdown().await
        };
        let result: io::Result<()> = written.await;
        if let Err(error) = result {
            // What is left of it then is not seen, but costs; docs/storage.md names the bucket's rule against that.
            if let Err(error) = writer.abort().await {
                tracing::debug!(%error, name, "an upload that has failed could not be aborted");
            }
            return Err(storing(error));
        }
        Ok(())
    }

    /// Success when it is not there.
    pub(super) async fn delete(&self, name: &str) -> Result<(), ObjectError> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(ObjectError::Bucket { action: "deleting", name: name.to_owned(), source }),
        }
    }

    /// All names that begin so, with their ages by the clock of this machine.
    pub(super) async fn list(&self, begin: &str) -> Result<Vec<(String, Duration)>, ObjectError> {
        let folder = self.path("");
        let now = chrono::Utc::now();
        let listed = self.store.list(Some(&folder)).map_ok(|found| {
            let name = found.location.filename().unwrap_or_default().to_owned();
            (name, (now - found.last_modified).to_std().unwrap_or_default())
        });
        let kept = listed.try_filter(|(name, _)| std::future::ready(name.starts_with(begin)));
        let all: Result<Vec<_>, _> = kept.try_collect().await;
        all.map_err(|source| ObjectError::Bucket { action: "listing", name: begin.to_owned(), source })
    }
}
