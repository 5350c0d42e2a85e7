//! Signed URLs: a link that carries the permission to read or write one path.
//!
//! `v1_` and the unpadded base64 of SHA-256 over `path:operation:username:token`, with `:expiration` if there is one;
//! path and username exactly as in the query. The scheme is the E2B protocol's.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::HeaderMap;
use sha2::{Digest, Sha256};

use super::request::{FileError, Query};
use crate::auth;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Passes a request that carries the token, or a signature made with it that hasn't expired.
pub fn check(token: &str, headers: &HeaderMap, query: &Query, operation: Operation) -> Result<(), FileError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    check_at(now, token, headers, query, operation)
}

fn check_at(now: u64, token: &str, headers: &HeaderMap, query: &Query, operation: Operation) -> Result<(), FileError> {
    if headers.contains_key(auth::ACCESS_TOKEN) {
        return match auth::given_token(headers) {
            Some(given) if auth::same_secret(given, token) => Ok(()),
            _ => Err(FileError::unauthorized(auth::UNAUTHORIZED)),
        };
    }
    let Some(given) = &query.signature else {
        return Err(FileError::unauthorized("missing signature query parameter"));
    };
    let expected = sign(&query.path, operation, &query.username, token, query.expiration.as_deref());
    // A plus sign that wasn't percent-encoded arrives as a space.
    if !auth::same_secret(&given.replace(' ', "+"), &expected) {
        return Err(FileError::unauthorized("invalid signature"));
    }
    match query.expiration.as_deref().map(str::parse::<u64>) {
        None => Ok(()),
        Some(Ok(expiration)) if expiration >= now => Ok(()),
        Some(Ok(_)) => Err(FileError::unauthorized("signature is already expired")),
        Some(Err(_)) => Err(FileError::unauthorized("invalid signature expiration")),
    }
}

fn sign(path: &str, operation: Operation, username: &str, token: &str, expiration: Option<&str>) -> String {
    let mut text = format!("{path}:{}:{username}:{token}", operation.as_str());
    if let Some(expiration) = expiration {
        text.push(':');
        text.push_str(expiration);
    }
    format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0";

    fn query(signature: String, expiration: Option<&str>) -> Query {
        Query {
            path: "hello.txt".into(),
            username: "user".into(),
            signature: Some(signature),
            expiration: expiration.map(ToOwned::to_owned),
            as_user: false,
        }
    }

    fn refusal(query: &Query, operation: Operation) -> Option<String> {
        check_at(1000, TOKEN, &HeaderMap::new(), query, operation).err().map(|error| error.message)
    }

    #[test]
    fn the_published_test_vector_holds() {
        let signature = sign("hello.txt", Operation::Read, "user", TOKEN, None);
        assert_eq!(signature, "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E");
        assert_eq!(refusal(&query(signature.clone(), None), Operation::Read), None);
        assert_eq!(refusal(&query(signature, None), Operation::Write).as_deref(), Some("invalid signature"));
    }

    #[test]
    fn a_signature_ends_when_it_says() {
        let signed = |expiration: &str| {
            query(sign("hello.txt", Operation::Read, "user", TOKEN, Some(expiration)), Some(expiration))
        };
        assert_eq!(refusal(&signed("1000"), Operation::Read), None);
        assert_eq!(refusal(&signed("999"), Operation::Read).as_deref(), Some("signature is already expired"));
        assert_eq!(refusal(&signed("soon"), Operation::Read).as_deref(), Some("invalid signature expiration"));
        let prolonged = Query { expiration: Some("2000".into()), ..signed("1000") };
        assert_eq!(refusal(&prolonged, Operation::Read).as_deref(), Some("invalid signature"));
    }

    #[test]
    fn a_token_in_the_header_is_decisive() {
        let mut headers = HeaderMap::new();
        headers.insert(auth::ACCESS_TOKEN, TOKEN.parse().expect("a value"));
        assert!(check_at(1000, TOKEN, &headers, &Query::default(), Operation::Read).is_ok());
        headers.insert(auth::ACCESS_TOKEN, "other".parse().expect("a value"));
        let signature = sign("hello.txt", Operation::Read, "user", TOKEN, None);
        assert!(check_at(1000, TOKEN, &headers, &query(signature, None), Operation::Read).is_err());
        assert_eq!(refusal(&Query::default(), Operation::Read).as_deref(), Some("missing signature query parameter"));
    }

    proptest! {
        #[test]
        fn a_signature_holds_for_nothing_but_what_was_signed(
            path in ".{0,20}", other in ".{0,20}", user in "[a-z]{0,8}", token in "[a-z0-9]{1,32}",
        ) {
            let signature = sign(&path, Operation::Read, &user, &token, None);
            let ask = |path: &str| Query {
                path: path.to_owned(), username: user.clone(), signature: Some(signature.clone()), expiration: None,
                as_user: false,
            };
            let check = |query: &Query| check_at(0, &token, &HeaderMap::new(), query, Operation::Read).is_ok();
            prop_assert!(check(&ask(&path)));
            prop_assert_eq!(check(&ask(&other)), path == other);
        }
    }
}
