//! Verifies the one order that makes an agent destroy its sandboxes and forget its credentials.
//!
//! A tombstone counts only for this very host, and only with a signature by the key of a CA that the host already
//! trusts. A 404 or 410 from whatever stands between the host and control proves nothing.

use atoll_model::HostId;
use atoll_model::api::hosts::HostTombstone;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::SignatureScheme;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a tombstone is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotProven {
    #[error("the tombstone is another host's")]
    OtherHost,
    #[error("the tombstone's signature is not one of control's CA")]
    BadSignature,
}

/// # Errors
/// When the tombstone doesn't prove that `host` was deleted.
pub fn verify(tombstone: &HostTombstone, host: &HostId, ca: &[CertificateDer<'_>]) -> Result<(), NotProven> {
    if tombstone.host_id != *host {
        return Err(NotProven::OtherHost);
    }
    let text = HostTombstone::signed_text(&tombstone.host_id, &tombstone.deletion_id, tombstone.deleted_at_ms);
    let signature = STANDARD.decode(&tombstone.signature).map_err(|_| NotProven::BadSignature)?;
    let signed = ca.iter().any(|certificate| signed_by(certificate, text.as_bytes(), &signature));
    if signed { Ok(()) } else { Err(NotProven::BadSignature) }
}

/// Whether the key of a certificate made this ECDSA P-256 SHA-256 signature (ASN.1).
fn signed_by(certificate: &CertificateDer<'_>, message: &[u8], signature: &[u8]) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let key = &parsed.tbs_certificate.subject_pki.subject_public_key.data;
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    let Some((_, candidates)) =
        algorithms.mapping.iter().find(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256)
    else {
        return false;
    };
    // TLS 1.2 lets any curve go with the scheme; the key's own algorithm decides which one can verify.
    candidates.iter().any(|algorithm| algorithm.verify_signature(key, message, signature).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SigningKey};

    fn ca() -> (KeyPair, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        (key, certificate.der().clone())
    }

    fn tombstone(key: &KeyPair, host: &HostId) -> HostTombstone {
        let text = HostTombstone::signed_text(host, "del-1", 1_700_000_000_000);
        HostTombstone {
            host_id: host.clone(),
            deletion_id: "del-1".to_owned(),
            deleted_at_ms: 1_700_000_000_000,
            signature: STANDARD.encode(key.sign(text.as_bytes()).unwrap()),
        }
    }

    #[test]
    fn a_tombstone_signed_by_the_ca_for_this_host_is_believed() {
        let (key, certificate) = ca();
        let (_, other) = ca();
        let host = HostId::new();
        assert_eq!(verify(&tombstone(&key, &host), &host, &[other, certificate]), Ok(()));
    }

    #[test]
    fn a_tombstone_of_another_ca_or_host_or_with_anything_changed_is_not() {
        let (key, certificate) = ca();
        let (stranger, _) = ca();
        let host = HostId::new();
        let good = tombstone(&key, &host);
        let trusted = [certificate];
        assert_eq!(verify(&tombstone(&stranger, &host), &host, &trusted), Err(NotProven::BadSignature));
        assert_eq!(verify(&good, &HostId::new(), &trusted), Err(NotProven::OtherHost));
        let changed = [
            HostTombstone { deletion_id: "del-2".to_owned(), ..good.clone() },
            HostTombstone { deleted_at_ms: 1, ..good.clone() },
            HostTombstone { signature: String::new(), ..good.clone() },
            HostTombstone { signature: "???".to_owned(), ..good },
        ];
        for tombstone in changed {
            assert_eq!(verify(&tombstone, &host, &trusted), Err(NotProven::BadSignature), "{tombstone:?}");
        }
    }
}
