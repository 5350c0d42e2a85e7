//! One request to the collector, and what came of it (OTLP 1.x, "OTLP/HTTP Response").

use std::error::Error;
use std::io::Write;
use std::time::Duration;

use chrono::{DateTime, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use prost::Message;

use super::OtlpSettings;
use super::wire::{ExportMetricsServiceRequest, ExportMetricsServiceResponse, Status};
use crate::fleet::said;
use crate::outbound::{self, OutboundError};

const PROTOBUF: &str = "application/x-protobuf";
/// A header's part of at least this many bytes may be a secret.
const SECRET_FROM: usize = 6;
/// Words of a collector in a log.
const MAX_WORDS: usize = 200;

/// What the collector made of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Taken,
    /// Some of it.
    Partly(String),
    /// None of it, for what is in it: another one may be taken.
    Refused(String),
    Failed(Failure),
}

/// Nothing gets through now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    /// The collector's own wish.
    pub retry_after: Option<Duration>,
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self { reason, retry_after: None }
    }
}

/// Sends a request once. `now` is for a `Retry-After` that is a date.
pub async fn send(
    settings: &OtlpSettings,
    version: &str,
    message: &ExportMetricsServiceRequest,
    now: DateTime<Utc>,
) -> Answer {
    let request = match request(settings, version, message) {
        Ok(request) => request,
        Err(reason) => return Answer::Failed(reason.into()),
    };
    match outbound::send(request).await {
        Ok(answer) => judge(&answer, &settings.headers, now),
        Err(error) => Answer::Failed(described(&error).into()),
    }
}

fn request(
    settings: &OtlpSettings,
    version: &str,
    message: &ExportMetricsServiceRequest,
) -> Result<Request<Vec<u8>>, String> {
    // Names and ids come over and over: the quickest compression makes a third of it.
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = packed.write_all(&message.encode_to_vec()).and_then(|()| packed.finish());
    let mut request = Request::new(packed.map_err(|error| format!("the request can't be compressed: {error}"))?);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = settings.target.clone();
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_str(&format!("Atoll/{version}")).map_err(|error| error.to_string())?);
    headers.extend(settings.headers.clone());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    Ok(request)
}

fn judge(answer: &Response<Vec<u8>>, secrets: &HeaderMap, now: DateTime<Utc>) -> Answer {
    let status = answer.status();
    let body = answer.body().as_slice();
    if status.is_success() {
        let partial = read::<ExportMetricsServiceResponse>(answer).and_then(|answer| answer.partial_success);
        return match partial.filter(|partial| partial.rejected_data_points > 0) {
            Some(partial) => {
                let words = words(&partial.error_message, secrets);
                Answer::Partly(format!("it rejected {} data points{words}", partial.rejected_data_points))
            }
            None => Answer::Taken,
        };
    }
    let said =
        read::<Status>(answer).map_or_else(|| String::from_utf8_lossy(body).into_owned(), |status| status.message);
    let reason = match status.is_redirection() {
        true => format!("it answered {status}; redirects are not followed"),
        false => format!("it answered {status}{}", words(&said, secrets)),
    };
    match status {
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            Answer::Refused(reason)
        }
        _ => Answer::Failed(Failure { reason, retry_after: retry_after(answer.headers(), now) }),
    }
}

fn read<M: Message + Default>(answer: &Response<Vec<u8>>) -> Option<M> {
    let is_protobuf =
        answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(PROTOBUF.as_bytes()));
    is_protobuf.then(|| M::decode(answer.body().as_slice()).ok()).flatten()
}

/// What a collector says, for a log: short, on one line, and not if it says back what proves who we are.
fn words(text: &str, secrets: &HeaderMap) -> String {
    let pieces = secrets.values().filter_map(|value| value.to_str().ok()).flat_map(str::split_whitespace);
    let text = text.trim();
    if text.is_empty() || pieces.filter(|piece| piece.len() >= SECRET_FROM).any(|piece| text.contains(piece)) {
        return String::new();
    }
    format!(": {}", said(&text[..text.floor_char_boundary(MAX_WORDS)]))
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = DateTime::parse_from_rfc2822(text).ok()?;
    Some((at.to_utc() - now).to_std().unwrap_or_default())
}

/// An error and what it came from.
fn described(error: &OutboundError) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2027-01-15T08:00:00Z";

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &[u8]) -> Answer {
        let mut answer = Response::new(body.to_vec());
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            answer.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        let secrets = HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer hidden"))]);
        judge(&answer, &secrets, NOW.parse().unwrap())
    }

    fn failed(answer: Answer) -> Failure {
        match answer {
            Answer::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_collectors_wish_when_to_come_back_is_seconds_or_a_date() {
        let wish = |value| failed(answer(503, &[("retry-after", value)], b"")).retry_after;
        assert_eq!(wish("120"), Some(Duration::from_secs(120)));
        assert_eq!(wish("Fri, 15 Jan 2027 08:05:00 GMT"), Some(Duration::from_secs(300)));
        assert_eq!(wish("Fri, 15 Jan 2027 07:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!((wish("soon"), wish("-1")), (None, None));
    }

    #[test]
    fn only_what_is_wrong_with_the_data_is_a_matter_of_one_request() {
        for (status, of_data) in
            [(400, true), (413, true), (422, true), (401, false), (404, false), (429, false), (500, false)]
        {
            assert_eq!(matches!(answer(status, &[], b""), Answer::Refused(_)), of_data, "{status}");
        }
        assert!(failed(answer(302, &[("location", "http://elsewhere/")], b"")).reason.contains("not followed"));
    }

    #[test]
    fn what_was_taken_in_part_is_known_by_the_answer() {
        let kind = [("content-type", PROTOBUF)];
        let partial = |rejected_data_points, error_message: &str| {
            let partial_success = Some(super::super::wire::ExportMetricsPartialSuccess {
                rejected_data_points,
                error_message: error_message.to_owned(),
            });
            ExportMetricsServiceResponse { partial_success }.encode_to_vec()
        };
        assert_eq!(answer(200, &kind, b""), Answer::Taken);
        assert_eq!(answer(200, &kind, &partial(0, "a hint")), Answer::Taken);
        let rejected = Answer::Partly("it rejected 3 data points: too many series".to_owned());
        assert_eq!(answer(200, &kind, &partial(3, "too many series")), rejected);
        assert_eq!(answer(200, &kind, b"\xff no protobuf"), Answer::Taken);
        assert_eq!(answer(200, &[("content-type", "application/json")], &partial(3, "")), Answer::Taken);
    }

    #[test]
    fn a_collectors_words_are_short_on_one_line_and_hold_no_secret() {
        let status = Status { message: "no such\nmetric".to_owned() }.encode_to_vec();
        let reason = |kind, body: &[u8]| failed(answer(500, &[("content-type", kind)], body)).reason;
        assert_eq!(reason(PROTOBUF, &status), "it answered 500 Internal Server Error: no such metric");
        assert_eq!(reason("text/plain", b"wrong: `hidden`"), "it answered 500 Internal Server Error");
        assert!(reason("text/plain", "ä".repeat(5000).as_bytes()).len() < 300);
    }
}
