//! Signed links: a URL that opens one port of one private sandbox, or all of them, until it expires.
//!
//! Nothing is stored. A link's token is `{expiry}.{port}.{signature}` (expiry in seconds since 1970, port 0 for all),
//! signed by HMAC-SHA256 under the sandbox's own access token: so it ends with the sandbox, and a link to one sandbox
//! says nothing of another. A browser that comes with the token in its address is sent on without it and with a cookie
//! of that host name alone, so that the token is in neither history nor referrer for long.

use std::time::Duration;

use atoll_model::SandboxId;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::db::Millis;
use crate::sandboxes::SandboxRecord;

/// The query parameter that carries a link's token.
pub const PARAMETER: &str = "atoll_link";
/// The cookie that takes its place. `__Host-` would need HTTPS, which a plain setup doesn't have.
pub const COOKIE: &str = "atoll_link";

/// A token for `port` (0: any) of the sandbox.
#[must_use]
pub fn token(record: &SandboxRecord, port: u16, expires: Millis) -> String {
    let seconds = expires.0 / 1000;
    let signature = signature(record, &purpose(seconds, port)).finalize().into_bytes();
    format!("{seconds}.{port}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// How much longer a token opens this port, if it does.
#[must_use]
pub fn opens(record: &SandboxRecord, port: u16, token: &str, now: Millis) -> Option<Duration> {
    let (seconds, rest) = token.split_once('.')?;
    let (for_port, given) = rest.split_once('.')?;
    let (seconds, for_port) = (seconds.parse::<i64>().ok()?, for_port.parse::<u16>().ok()?);
    let given = URL_SAFE_NO_PAD.decode(given).ok()?;
    // Compares in constant time.
    signature(record, &purpose(seconds, for_port)).verify_slice(&given).ok()?;
    let left = seconds.checked_sub(now.0 / 1000).filter(|left| *left > 0)?;
    (for_port == 0 || for_port == port).then(|| Duration::from_secs(left.unsigned_abs()))
}

/// What opens all ports of a sandbox for as long as it lives: E2B's traffic access token.
#[must_use]
pub fn traffic_token(record: &SandboxRecord) -> String {
    hex::encode(signature(record, "traffic").finalize().into_bytes())
}

/// Whether `given` is the sandbox's traffic token.
#[must_use]
pub fn is_traffic_token(record: &SandboxRecord, given: &str) -> bool {
    hex::decode(given).is_ok_and(|given| signature(record, "traffic").verify_slice(&given).is_ok())
}

fn purpose(seconds: i64, port: u16) -> String {
    format!("link {seconds} {port}")
}

fn signature(record: &SandboxRecord, purpose: &str) -> Hmac<Sha256> {
    sign(&record.access_token, &record.id.0, purpose)
}

fn sign(secret: &str, sandbox: &SandboxId, purpose: &str) -> Hmac<Sha256> {
    // HMAC takes keys of any length; `new_from_slice` can't fail, and an empty key would only come of an error.
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())
        .unwrap_or_else(|_| Hmac::<Sha256>::new(&hmac::digest::Key::<Hmac<Sha256>>::default()));
    mac.update(sandbox.as_str().as_bytes());
    mac.update(b"\0");
    mac.update(purpose.as_bytes());
    mac
}
