//! The secrets in links and of waiting programs: 32 random bytes, of which only the hash is kept.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use sha2::{Digest, Sha256};

/// Longer texts are none of ours.
const MAX: usize = 128;

#[must_use]
pub fn secret() -> SecretString {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()).into()
}

/// What the database keeps of it. The secrets are random, so no salt or slow hash is needed.
#[must_use]
pub fn hash(secret: &str) -> String {
    let secret = if secret.len() > MAX { "" } else { secret };
    hex::encode(Sha256::digest(secret))
}
