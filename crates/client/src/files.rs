//! A sandbox's files: streamed both ways with flat memory, listed, made, moved, removed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use atoll_model::SandboxId;
use atoll_model::api::sandboxes::{FileEntry, FileList, ListFilesRequest, MoveFileRequest, PathRequest, WrittenFile};
use bytes::Bytes;
use futures::Stream;
use http::Method;
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::de::IgnoredAny;

use crate::transport::{DEADLINE, query};
use crate::{Client, Error, Upload};

const OCTETS: &str = "application/octet-stream";

fn of(id: &SandboxId, rest: &str) -> String {
    format!("/v1/sandboxes/{id}/files{rest}")
}

impl Client {
    /// Writes a file from a stream of any length; parent directories are made.
    pub async fn write_file(
        &self,
        id: &SandboxId,
        path: &str,
        user: Option<&str>,
        body: Upload,
    ) -> Result<WrittenFile, Error> {
        let query = query(&[("path", Some(path.to_owned())), ("user", user.map(str::to_owned))]);
        let target = of(id, &format!("/stream/write{query}"));
        let response = self.send(Method::POST, &target, Some(OCTETS), body).await?;
        let what = crate::transport::what(&Method::POST, &target);
        let answer = response.into_body().collect().await.map_err(|error| self.broken(&what, &error))?.to_bytes();
        serde_json::from_slice(&answer).map_err(|error| Error::NotAtoll { what, cause: error.to_string() })
    }

    /// Writes a file from bytes in memory.
    pub async fn write_file_bytes(
        &self,
        id: &SandboxId,
        path: &str,
        bytes: impl Into<Bytes>,
    ) -> Result<WrittenFile, Error> {
        let body = Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync();
        self.write_file(id, path, None, body).await
    }

    /// Reads a file as a stream.
    pub async fn read_file(&self, id: &SandboxId, path: &str, user: Option<&str>) -> Result<Download, Error> {
        let request = PathRequest { path: path.to_owned(), user: user.map(str::to_owned) };
        let body = serde_json::to_vec(&request).unwrap_or_default();
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        let target = of(id, "/stream/read");
        let response = self.send(Method::POST, &target, Some("application/json"), body).await?;
        let length = response.body().size_hint().exact();
        Ok(Download { body: response.into_body(), length })
    }

    /// Reads a whole file into memory.
    pub async fn read_file_bytes(&self, id: &SandboxId, path: &str) -> Result<Bytes, Error> {
        let download = self.read_file(id, path, None).await?;
        let what = format!("reading {path}");
        Ok(download.body.collect().await.map_err(|error| self.broken(&what, &error))?.to_bytes())
    }

    pub async fn list_files(&self, id: &SandboxId, request: &ListFilesRequest) -> Result<Vec<FileEntry>, Error> {
        self.post::<FileList>(&of(id, "/list"), request).await.map(|list| list.items)
    }

    pub async fn make_directory(&self, id: &SandboxId, path: &str) -> Result<(), Error> {
        let request = PathRequest { path: path.to_owned(), user: None };
        self.post::<IgnoredAny>(&of(id, "/mkdir"), &request).await.map(drop)
    }

    /// Removes a file, or a directory with all that is in it.
    pub async fn remove_file(&self, id: &SandboxId, path: &str) -> Result<(), Error> {
        let request = PathRequest { path: path.to_owned(), user: None };
        self.json::<IgnoredAny>(Method::POST, &of(id, "/remove"), Some(&request), DEADLINE).await.map(drop)
    }

    pub async fn move_file(&self, id: &SandboxId, source: &str, destination: &str) -> Result<(), Error> {
        let request = MoveFileRequest { source: source.to_owned(), destination: destination.to_owned(), user: None };
        self.post::<IgnoredAny>(&of(id, "/move"), &request).await.map(drop)
    }
}

/// A file on its way here: a stream of its bytes.
#[derive(Debug)]
pub struct Download {
    body: Incoming,
    length: Option<u64>,
}

impl Download {
    /// Bytes of the whole file, when the server says so.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.length
    }
}

impl Stream for Download {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            return match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => Poll::Ready(None),
                Some(Err(error)) => Poll::Ready(Some(Err(io::Error::other(error)))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Poll::Ready(Some(Ok(data))),
                    Err(_) => continue,
                },
            };
        }
    }
}
