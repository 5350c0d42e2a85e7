//! Opaque tokens: how they are made, and the hash that is kept of them. The tokens themselves are shown once and
//! stored nowhere.

use atoll_model::api::hosts::REGISTRATION_TOKEN_PREFIX;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

const REFRESH_TOKEN_PREFIX: &str = "arf_";

/// A registration token: 32 random bytes, then the fingerprint of control's CA, so that the agent that gets it enrols
/// with this control and no other.
pub fn registration_token(ca_fingerprint: &[u8; 32]) -> String {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&rand::random::<[u8; 32]>());
    bytes[32..].copy_from_slice(ca_fingerprint);
    format!("{REGISTRATION_TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// A refresh token: 32 random bytes.
pub fn refresh_token() -> String {
    format!("{REFRESH_TOKEN_PREFIX}{}", hex::encode(rand::random::<[u8; 32]>()))
}

/// What the database keeps: hex SHA-256 of the whole text. The tokens are random, so no salt or slow hash is needed.
pub fn hash(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}

/// An id for rows that nobody outside ever names: 16 random bytes, hex.
pub fn row_id() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_token_carries_the_fingerprint() {
        let token = registration_token(&[7; 32]);
        let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix("atr_").unwrap()).unwrap();
        assert_eq!(bytes.len(), 64);
        assert_eq!(bytes[32..], [7; 32]);
        assert_ne!(token, registration_token(&[7; 32]));
    }
}
