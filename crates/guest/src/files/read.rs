//! `GET /files`: a file's content, whole, in part, or compressed.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    IF_MODIFIED_SINCE, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE, VARY,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::FileError;
use super::body::{Gzipped, Plain, UntilEnd, stream};
use super::content::{self, Encoding, Part};
use super::request::{self, Query};
use super::signature::Operation;
use crate::guest::Guest;
use crate::paths::base_name;
use crate::server::answers::{self, Body};

/// Files up to this size are read at once.
const SMALL: usize = 64 * 1024;

pub async fn answer(guest: &Arc<Guest>, trusted: bool, request: Request<Incoming>) -> Response<Body> {
    match read(guest, trusted, request.uri(), request.headers()).await {
        Ok(response) => response,
        Err(error) => error.answer(),
    }
}

async fn read(
    guest: &Arc<Guest>,
    trusted: bool,
    uri: &http::Uri,
    headers: &HeaderMap,
) -> Result<Response<Body>, FileError> {
    let query = Query::parse(uri);
    let account = request::admit(guest, trusted, headers, &query, Operation::Read)?;
    let path = request::resolve(guest, &query.path, &account)?;
    let plain_only =
        [RANGE, IF_RANGE, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE].iter().any(|name| headers.contains_key(name));
    let encoding = content::accepted_encoding(headers).ok_or_else(|| {
        FileError::new(StatusCode::NOT_ACCEPTABLE, "no acceptable encoding: the file can be had as it is or as gzip")
    })?;
    let opened = crate::blocking({
        let (path, as_user) = (path.clone(), query.as_user);
        move || crate::rights::with(as_user.then_some(&account), || Opened::open(&path))
    })
    .await?;

    if let Some(status) = opened.unmet_condition(headers) {
        return Ok(answers::status(status));
    }
    let mut common = HeaderMap::new();
    common.insert(CONTENT_TYPE, header(content::media_type(&path, &opened.head)));
    common.insert(CONTENT_DISPOSITION, header(content::disposition(base_name(&path))));
    common.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Some(modified) = opened.modified {
        common.insert(LAST_MODIFIED, header(httpdate::fmt_http_date(modified)));
    }
    let compress = match encoding {
        Encoding::Gzip { only } if !plain_only => only || opened.is_worth_compressing(),
        _ => false,
    };
    let mut response = if compress {
        common.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        opened.compressed()
    } else {
        common.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        opened.plain(headers)?
    };
    response.headers_mut().extend(common);
    Ok(response)
}

fn header(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"))
}

struct Opened {
    file: File,
    /// None for a file that doesn't know its length, as those in /proc.
    length: Option<u64>,
    modified: Option<SystemTime>,
    /// The beginning: all of a small file.
    head: Bytes,
}

impl Opened {
    fn open(path: &str) -> Result<Self, FileError> {
        let failed = |error: io::Error| FileError::io("reading", path, &error);
        // Without blocking, so that a named pipe is refused and not waited for.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if meta.is_dir() {
            return Err(FileError::bad_request(format!("path '{path}' is a directory")));
        }
        if !meta.is_file() {
            return Err(FileError::bad_request(format!("path '{path}' is not a regular file")));
        }
        let mut head = vec![0; SMALL.min(usize::try_from(meta.len()).unwrap_or(SMALL).max(1))];
        let mut filled = 0;
        while filled < head.len() {
            match file.read_at(&mut head[filled..], filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        head.truncate(filled);
        let length = if meta.len() == 0 && filled > 0 { None } else { Some(meta.len()) };
        Ok(Self { file, length, modified: meta.modified().ok(), head: head.into() })
    }

    /// What the request's conditions lead to instead of an answer with content.
    fn unmet_condition(&self, headers: &HeaderMap) -> Option<StatusCode> {
        let modified = whole_seconds(self.modified?);
        let date = |name| headers.get(name).and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok());
        if date(IF_UNMODIFIED_SINCE).is_some_and(|since| modified > since) {
            return Some(StatusCode::PRECONDITION_FAILED);
        }
        date(IF_MODIFIED_SINCE).filter(|since| modified <= *since).map(|_| StatusCode::NOT_MODIFIED)
    }

    /// Short texts always, others if their beginning gets a good deal shorter.
    fn is_worth_compressing(&self) -> bool {
        const ALWAYS: usize = 1024;
        if self.head.len() <= ALWAYS {
            return true;
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder
            .write_all(&self.head)
            .and_then(|()| encoder.finish())
            .is_ok_and(|compressed| compressed.len() < self.head.len() / 10 * 9)
    }

    fn compressed(self) -> Response<Body> {
        Response::new(stream(Gzipped::new(self.file)))
    }

    fn plain(self, headers: &HeaderMap) -> Result<Response<Body>, FileError> {
        let Some(length) = self.length else { return Ok(Response::new(stream(UntilEnd::new(self.file)))) };
        let part = match headers.get(RANGE).and_then(|range| range.to_str().ok()) {
            Some(range) if self.range_applies(headers) => content::requested_part(range, length),
            _ => Part::Whole,
        };
        let (status, first, part_length) = match part {
            Part::Whole => (StatusCode::OK, 0, length),
            Part::Bytes { first, length } => (StatusCode::PARTIAL_CONTENT, first, length),
            Part::Unsatisfiable => {
                let mut response = answers::error(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    &format!("the file has {length} bytes, and none of them are in the range that was asked for"),
                );
                response.headers_mut().insert(CONTENT_RANGE, header(format!("bytes */{length}")));
                return Ok(response);
            }
        };
        let body = match usize::try_from(first + part_length) {
            Ok(end) if end <= self.head.len() => answers::full(self.head.slice(first as usize..end)),
            _ => {
                // Only a hint.
                let _ = rustix::fs::fadvise(&self.file, first, None, rustix::fs::Advice::Sequential);
                stream(Plain::new(self.file, first, part_length))
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_LENGTH, header(part_length.to_string()));
        if status == StatusCode::PARTIAL_CONTENT {
            let last = first + part_length - 1;
            response.headers_mut().insert(CONTENT_RANGE, header(format!("bytes {first}-{last}/{length}")));
        }
        Ok(response)
    }

    /// A range counts only if the file is still the one that the reader has a part of.
    fn range_applies(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(IF_RANGE) else { return true };
        let date = value.to_str().ok().and_then(|value| httpdate::parse_http_date(value).ok());
        date.zip(self.modified).is_some_and(|(date, modified)| whole_seconds(modified) == date)
    }
}

/// HTTP's dates have no fractions.
fn whole_seconds(time: SystemTime) -> SystemTime {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(time, |since| SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs()))
}
