//! Who may ask, and as which user a request acts.
//!
//! A sandbox may have an access token; then every request carries it, but for the few whose answers are open or that
//! have a check of their own (`server` and `files::signature` know which). Names of users come in as HTTP Basic with an
//! empty password; they choose an account and prove nothing.

use std::time::Duration;

use base64::Engine;
use connectrpc::{ConnectError, RequestContext};
use http::HeaderMap;
use subtle::ConstantTimeEq;

use crate::guest::Guest;
use crate::users::{self, Account, LookupError};

pub const ACCESS_TOKEN: &str = "x-access-token";
/// Set by the host agent for the control plane's own calls, and stripped from all others.
pub const TRUSTED: &str = "x-atoll-trusted";

pub const UNAUTHORIZED: &str =
    "unauthorized access, please provide a valid access token or method signing if supported";

/// Compares secrets in a time that doesn't tell where they differ.
pub fn same_secret(given: &str, expected: &str) -> bool {
    given.as_bytes().ct_eq(expected.as_bytes()).into()
}

/// The token that a request carries.
pub fn given_token(headers: &HeaderMap) -> Option<&str> {
    headers.get(ACCESS_TOKEN).and_then(|value| value.to_str().ok())
}

/// Whether a request may pass: no token is set, or it carries the right one.
pub fn has_access(guest: &Guest, headers: &HeaderMap) -> bool {
    match guest.settings().access_token() {
        None => true,
        Some(expected) => given_token(headers).is_some_and(|given| same_secret(given, expected)),
    }
}

/// The account that an RPC acts as: the one in its `Authorization: Basic` header, else the default one.
pub fn rpc_account(guest: &Guest, context: &RequestContext) -> Result<Account, ConnectError> {
    let name = match context.header(http::header::AUTHORIZATION).map(|value| value.as_bytes()) {
        None => guest.default_user(),
        Some(value) => basic_user(value)
            .ok_or_else(|| ConnectError::unauthenticated("the Authorization header isn't HTTP Basic"))?,
    };
    users::by_name(&name).map_err(|error| match error {
        LookupError::Unknown(name) => ConnectError::unauthenticated(format!("invalid username: '{name}'")),
        LookupError::Unreadable { .. } => ConnectError::internal(error.to_string()),
    })
}

/// Set by callers who want the user's own rights for work with files, instead of the guest's on the user's behalf.
const RIGHTS: &str = "x-atoll-rights";

/// Whose rights an RPC about files has: the account's own when it is asked for, else the guest's, as E2B's protocol has it.
pub fn rpc_rights<'a>(context: &RequestContext, account: &'a Account) -> Option<&'a Account> {
    let asked = context.header(RIGHTS).is_some_and(|value| value.as_bytes() == b"user");
    asked.then_some(account)
}

/// The user name in `Basic base64(name:password)`.
fn basic_user(value: &[u8]) -> Option<String> {
    let (scheme, encoded) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    Some(text.split(':').next().unwrap_or_default().to_owned())
}

/// How long a stream may be silent before a keepalive is sent.
pub fn keepalive(context: &RequestContext) -> Duration {
    const USUAL: u64 = 90;
    let asked = context.header("keepalive-ping-interval").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    Duration::from_secs(asked.filter(|seconds| *seconds > 0).unwrap_or(USUAL).min(3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_taken_from_a_basic_header() {
        assert_eq!(basic_user(b"Basic cm9vdDo=").as_deref(), Some("root"));
        assert_eq!(basic_user(b"basic dXNlcg==").as_deref(), Some("user"));
        assert_eq!(basic_user(b"Bearer cm9vdDo="), None);
        assert_eq!(basic_user(b"Basic !!"), None);
    }
}
