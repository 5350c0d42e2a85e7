//! Signed addresses of files that come to a plain one-port setup: `GET /files?path=…&signature=…`, opened by whoever was
//! given one, so without the headers that say which sandbox. The signature says it: it was made with the access token of
//! one sandbox. The guest agent judges it again, its expiry too.

use std::net::IpAddr;

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::GUEST_PORT;
use super::refusal::Refusal;
use super::target::Target;
use crate::app::App;

/// What was signed, as the query has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Signed {
    path: String,
    username: String,
    expiration: Option<String>,
    pub digest: Vec<u8>,
    operation: &'static str,
}

impl Signed {
    /// Nothing for a request that is no signed address.
    pub fn of<B>(request: &axum::http::Request<B>) -> Option<Self> {
        let operation = match *request.method() {
            Method::GET | Method::HEAD => "read",
            Method::POST => "write",
            _ => return None,
        };
        let query = request.uri().query().filter(|_| request.uri().path() == "/files")?;
        let mut signed = Self { operation, ..Self::default() };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "path" => signed.path = value.into_owned(),
                "username" => signed.username = value.into_owned(),
                "signature_expiration" => signed.expiration = Some(value.into_owned()),
                // A plus sign that was not encoded is read as a space.
                "signature" => {
                    let text = value.strip_prefix("v1_")?.replace(' ', "+");
                    signed.digest = STANDARD_NO_PAD.decode(text).ok()?;
                }
                _ => {}
            }
        }
        (signed.digest.len() == 32).then_some(signed)
    }

    pub fn was_made_with(&self, token: &str) -> bool {
        let Self { path, username, operation, .. } = self;
        let mut hash = Sha256::new().chain_update(format!("{path}:{operation}:{username}:{token}"));
        if let Some(expiration) = &self.expiration {
            hash.update(format!(":{expiration}"));
        }
        hash.finalize().ct_eq(self.digest.as_slice()).into()
    }
}

/// The sandbox whose token a signed address was made with.
///
/// # Errors
/// When there is none that lives.
pub async fn target(app: &App, signed: &Signed, client: Option<IpAddr>) -> Result<Option<Target>, Refusal> {
    let sandbox = app.signed.find(&app.db, signed, client).await?;
    Ok(Some(Target { asked_for: sandbox.dns_label(), sandbox, port: GUEST_PORT, name: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0";

    fn request(method: Method, uri: &str) -> axum::http::Request<()> {
        axum::http::Request::builder().method(method).uri(uri).body(()).unwrap()
    }

    #[test]
    fn a_signature_is_known_by_the_token_that_made_it() {
        let uri = "/files?path=hello.txt&username=user&signature=v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E";
        let signed = Signed::of(&request(Method::GET, uri)).unwrap();
        assert!(signed.was_made_with(TOKEN) && !signed.was_made_with("another"));
        let write = Signed::of(&request(Method::POST, uri)).unwrap();
        assert!(!write.was_made_with(TOKEN));
        let later = Signed::of(&request(Method::GET, &format!("{uri}&signature_expiration=99"))).unwrap();
        assert!(!later.was_made_with(TOKEN));
    }

    #[test]
    fn other_requests_are_none_of_its_business() {
        for uri in ["/files?path=a", "/files", "/files?signature=v1_short", "/files?signature=x", "/v1?signature=v1_gU"]
        {
            assert_eq!(Signed::of(&request(Method::GET, uri)), None, "{uri}");
        }
    }
}
