//! `POST /files`: one file as the body, or several in a form.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyDataStream;
use hyper::body::Incoming;
use serde::Serialize;

use super::FileError;
use super::linger::Lingering;
use super::request::{self, Query};
use super::signature::Operation;
use super::sink::{self, Target};
use super::{inflate, metadata, multipart};
use crate::guest::Guest;
use crate::paths::base_name;
use crate::server::answers::{self, Body};

#[derive(Debug, Serialize)]
pub struct Stored<'a> {
    pub path: &'a str,
    pub name: &'a str,
    #[serde(rename = "type")]
    pub kind: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: metadata::Notes,
}

impl<'a> Stored<'a> {
    pub fn file(path: &'a str, metadata: metadata::Notes) -> Self {
        Self { path, name: base_name(path), kind: "file", metadata }
    }
}

pub async fn answer(guest: &Arc<Guest>, trusted: bool, request: Request<Incoming>) -> Response<Body> {
    match write(guest, trusted, request).await {
        Ok(response) => response,
        Err(error) => {
            guest.logs.warn(format!("an upload failed: {}", error.message));
            error.answer()
        }
    }
}

async fn write(guest: &Arc<Guest>, trusted: bool, request: Request<Incoming>) -> Result<Response<Body>, FileError> {
    let (head, body) = request.into_parts();
    let body = Lingering::new(body);
    let query = Query::parse(&head.uri);
    let account = request::admit(guest, trusted, &head.headers, &query, Operation::Write)?;
    let notes = metadata::from_headers(&head.headers)?;
    let chunks = decoded(body, &head.headers)?;

    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let stored = if media_type.starts_with("multipart/") {
        let boundary = multipart::boundary(content_type)
            .ok_or_else(|| FileError::bad_request("the multipart content type has no valid boundary"))?;
        multipart::receive(guest, &account, &query.path, &notes, boundary, chunks).await?
    } else if media_type == "application/octet-stream" {
        if query.path.is_empty() {
            return Err(FileError::bad_request("the path query parameter is required for this content type"));
        }
        let path = request::resolve(guest, &query.path, &account)?;
        sink::store(guest, Target { path: path.clone(), account, as_user: query.as_user }, &notes, chunks).await?;
        vec![path]
    } else {
        return Err(FileError::bad_request(format!("unsupported content type: {content_type}")));
    };
    let entries: Vec<_> = stored.iter().map(|path| Stored::file(path, notes.clone())).collect();
    Ok(answers::json(&entries))
}

type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The body's bytes, decompressed if need be.
fn decoded(body: Lingering, headers: &HeaderMap) -> Result<Chunks, FileError> {
    let chunks = BodyDataStream::new(body)
        .map(|chunk| chunk.map_err(|error| io::Error::other(format!("the upload broke off: {error}"))));
    match headers.get(CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase()).as_deref() {
        None | Some(b"" | b"identity") => Ok(Box::pin(chunks)),
        Some(b"gzip" | b"x-gzip") => Ok(Box::pin(inflate::gunzip(chunks))),
        Some(other) => {
            Err(FileError::bad_request(format!("unsupported content encoding: {}", String::from_utf8_lossy(other))))
        }
    }
}
