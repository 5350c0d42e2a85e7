//! Blobs as they are sent: all of one, or the bytes that a request wants (RFC 9110, section 14), which is one range. Who asks
//! for several gets all of it, as does who asks in another way.

use std::io;
use std::ops::Range;

use atoll_model::ErrorCode;
use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, IF_RANGE, RANGE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;

use super::{headed, said, tag_of};
use crate::app::App;
use crate::http::error::{ApiError, ApiResult};
use crate::registry::Blob;

const BYTES: &str = "application/octet-stream";

/// The headers of a blob, of which any bytes can be asked for.
pub fn headed_blob(blob: &Blob) -> ApiResult<HeaderMap> {
    let mut headers = headed(&blob.digest, BYTES, blob.size_bytes)?;
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    Ok(headers)
}

/// What is in a blob, or the bytes of it that are asked for.
pub fn content_of(app: &App, blob: &Blob, asked: &HeaderMap) -> ApiResult<Response> {
    let text = |text: String| HeaderValue::from_str(&text).map_err(ApiError::internal);
    let size = u64::try_from(blob.size_bytes).unwrap_or(0);
    let mut headers = headed_blob(blob)?;
    let (status, range) = match wanted(asked, size, &tag_of(&blob.digest)) {
        Wanted::All => (StatusCode::OK, None),
        Wanted::Bytes(range) => {
            let (first, last) = (range.start, range.end.saturating_sub(1));
            headers.insert(CONTENT_RANGE, text(format!("bytes {first}-{last}/{size}"))?);
            headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
            (StatusCode::PARTIAL_CONTENT, Some(range))
        }
        Wanted::Nothing => {
            let mut error = said(ErrorCode::InvalidRequest, "SIZE_INVALID", format!("the blob has {size} bytes"));
            error.status = Some(StatusCode::RANGE_NOT_SATISFIABLE);
            let mut response = error.into_response();
            response.headers_mut().insert(CONTENT_RANGE, text(format!("bytes */{size}"))?);
            return Ok(response);
        }
    };
    let content = app.registry.read(blob, range).map_err(io::Error::other);
    Ok((status, headers, Body::from_stream(content)).into_response())
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Bytes(Range<u64>),
    /// Bytes that it doesn't have.
    Nothing,
}

/// Of a blob with so many bytes and this tag.
fn wanted(headers: &HeaderMap, size: u64, etag: &str) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(range) = text(RANGE) else { return Wanted::All };
    // What the client has is of another blob.
    if headers.contains_key(IF_RANGE) && text(IF_RANGE) != Some(etag) {
        return Wanted::All;
    }
    match parse(range) {
        None => Wanted::All,
        Some((Some(first), _)) if first >= size => Wanted::Nothing,
        Some((Some(first), last)) => Wanted::Bytes(first..last.map_or(size, |last| size.min(last.saturating_add(1)))),
        Some((None, Some(0) | None)) => Wanted::Nothing,
        Some((None, Some(_))) if size == 0 => Wanted::Nothing,
        Some((None, Some(last))) => Wanted::Bytes(size.saturating_sub(last)..size),
    }
}

/// `bytes=FIRST-LAST`, `bytes=FIRST-`, or the last ones: `bytes=-COUNT`.
fn parse(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, range) = text.split_once('=')?;
    let (first, last) = range.trim().split_once('-').filter(|_| unit.trim().eq_ignore_ascii_case("bytes"))?;
    let number = |text: &str| match text {
        "" => Some(None),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok().map(Some),
        _ => None,
    };
    match (number(first)?, number(last)?) {
        (None, None) => None,
        (Some(first), Some(last)) if first > last => None,
        range => Some(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_what_it_says_and_all_else_is_the_whole_blob() {
        let of = |range: &str, size| {
            let headers = HeaderMap::from_iter([(RANGE, range.parse().unwrap())]);
            wanted(&headers, size, "\"x\"")
        };
        for (range, bytes) in [
            ("bytes=0-0", 0..1),
            ("bytes=2-4", 2..5),
            ("bytes=2-", 2..10),
            ("bytes=2-100", 2..10),
            ("Bytes= 9-9", 9..10),
            ("bytes=-3", 7..10),
            ("bytes=-30", 0..10),
            ("bytes=0-18446744073709551615", 0..10),
        ] {
            assert_eq!(of(range, 10), Wanted::Bytes(bytes), "{range}");
        }
        for range in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
            assert_eq!(of(range, 10), Wanted::Nothing, "{range}");
        }
        assert_eq!((of("bytes=0-", 0), of("bytes=-5", 0)), (Wanted::Nothing, Wanted::Nothing));
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-2",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(of(range, 10), Wanted::All, "{range}");
        }
    }

    #[test]
    fn a_range_counts_for_what_the_client_has_a_part_of() {
        for (has, bytes) in
            [("\"x\"", Wanted::Bytes(0..1)), ("\"y\"", Wanted::All), ("Mon, 30 Nov 2026 04:00:00 GMT", Wanted::All)]
        {
            let headers =
                HeaderMap::from_iter([(RANGE, "bytes=0-0".parse().unwrap()), (IF_RANGE, has.parse().unwrap())]);
            assert_eq!(wanted(&headers, 10, "\"x\""), bytes, "{has}");
        }
    }
}
