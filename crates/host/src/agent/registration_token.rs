//! The text of a registration token: `atr_`, then base64url of 32 random bytes and the SHA-256 of control's CA.
//!
//! The fingerprint lets an agent that knows nothing yet enrol with the control plane that made the token and nobody else.

use atoll_model::api::hosts::REGISTRATION_TOKEN_PREFIX;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

const RANDOM_BYTES: usize = 32;

/// SHA-256 of a CA certificate's DER.
pub type Fingerprint = [u8; 32];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a registration token: expected `atr_` and 86 characters, as `POST /v1/hosts` returns it")]
pub struct BadToken;

/// A token that has the right form.
#[derive(Clone)]
pub struct RegistrationToken {
    text: SecretString,
    ca: Fingerprint,
}

impl RegistrationToken {
    /// # Errors
    /// When the text is something else.
    pub fn parse(text: &SecretString) -> Result<Self, BadToken> {
        let exposed = text.expose_secret().trim();
        let coded = exposed.strip_prefix(REGISTRATION_TOKEN_PREFIX).ok_or(BadToken)?;
        let bytes = URL_SAFE_NO_PAD.decode(coded).map_err(|_| BadToken)?;
        let ca = bytes.get(RANDOM_BYTES..).and_then(|tail| tail.try_into().ok()).ok_or(BadToken)?;
        Ok(Self { text: SecretString::from(exposed.to_owned()), ca })
    }

    #[must_use]
    pub fn expose(&self) -> &str {
        self.text.expose_secret()
    }

    /// The CA that the control plane which made this token must prove to have.
    #[must_use]
    pub const fn ca(&self) -> Fingerprint {
        self.ca
    }

    /// Tells this token from others without keeping it.
    #[must_use]
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(self.expose().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_carries_the_fingerprint_of_the_ca() {
        let mut bytes = [7_u8; 64];
        bytes[32..].fill(9);
        let text = format!("atr_{}", URL_SAFE_NO_PAD.encode(bytes));
        let token = RegistrationToken::parse(&SecretString::from(format!("{text}\n"))).unwrap();
        assert_eq!(token.ca(), [9; 32]);
        assert_eq!(token.expose(), text);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "atr_", "atl_abc", "atr_AAAA", &format!("atr_{}", URL_SAFE_NO_PAD.encode([1_u8; 65]))] {
            assert!(RegistrationToken::parse(&SecretString::from(text.to_owned())).is_err(), "{text}");
        }
    }
}
