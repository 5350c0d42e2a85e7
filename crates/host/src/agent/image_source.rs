//! Images that this machine lacks come from control, with the host's own token.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use atoll_image::packed::{self, Index};
use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http_body_util::BodyExt;

use super::control::HttpControl;
use super::credentials::CredentialStore;
use crate::images::{Fetch, FetchError, ImageSink};

/// How long a fetch may stand still.
const STALL: std::time::Duration = std::time::Duration::from_secs(30);
const NOT_ENROLLED: &str = "this host is not enrolled";

pub struct ControlImages {
    pub control: Arc<HttpControl>,
    pub store: Arc<CredentialStore>,
}

#[async_trait]
impl Fetch for ControlImages {
    async fn fetch(&self, digest: &str, sink: &mut ImageSink) -> Result<(), FetchError> {
        let fail = |reason: String| FetchError { digest: digest.to_owned(), not_found: false, reason };
        let stored = self.store.load().ok_or_else(|| fail(NOT_ENROLLED.to_owned()))?;
        let credentials = &stored.current.credentials;
        let answer = self.control.image(&credentials.host_id, &credentials.access_token, digest).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Err(FetchError { not_found: error.status == Some(404), ..fail(error.to_string()) }),
        };
        if answer.headers().get(CONTENT_ENCODING).is_some_and(|it| it == packed::ENCODING) {
            sink.comes_packed().map_err(|error| fail(error.to_string()))?;
        }
        let mut body = answer.into_body();
        loop {
            let frame = tokio::time::timeout(STALL, body.frame())
                .await
                .map_err(|_| fail(format!("nothing came for {STALL:?}")))?;
            let Some(frame) = frame else { return Ok(()) };
            let frame = frame.map_err(|error| fail(error.to_string()))?;
            if let Ok(chunk) = frame.into_data() {
                sink.write(chunk).await.map_err(|error| fail(error.to_string()))?;
            }
        }
    }
    async fn index(&self, digest: &str) -> Result<Option<Index>, FetchError> {
        let fail = |reason: String| FetchError { digest: digest.to_owned(), not_found: false, reason };
        let stored = self.store.load().ok_or_else(|| fail(NOT_ENROLLED.to_owned()))?;
        let credentials = &stored.current.credentials;
        match self.control.index_of_image(&credentials.host_id, &credentials.access_token, digest).await {
            Ok(index) => Index::decode(&index).map(Some).map_err(|error| fail(error.to_string())),
            // It has none, or doesn't know of any.
            Err(error) if error.status == Some(404) => Ok(None),
            Err(error) => Err(fail(error.to_string())),
        }
    }

    async fn part(&self, digest: &str, part: Range<u64>) -> Result<Bytes, FetchError> {
        let fail = |reason: String| FetchError { digest: digest.to_owned(), not_found: false, reason };
        let stored = self.store.load().ok_or_else(|| fail(NOT_ENROLLED.to_owned()))?;
        let credentials = &stored.current.credentials;
        let answer = self.control.part_of_image(&credentials.host_id, &credentials.access_token, digest, part).await;
        answer.map_err(|error| FetchError { not_found: error.status == Some(404), ..fail(error.to_string()) })
    }
}
