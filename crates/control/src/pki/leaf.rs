//! Control's own certificates: made in memory when first needed, made anew when two thirds of their life are over.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::authority::IssuedCertificate;
use super::{Authority, PkiError};
use crate::db::Millis;

const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    Server,
    Client,
}

/// A certificate that renews itself.
pub(super) struct Leaf {
    authority: Authority,
    role: Role,
    current: Mutex<(Arc<CertifiedKey>, Millis)>,
}

impl Leaf {
    pub(super) fn new(authority: Authority, role: Role) -> Result<Self, PkiError> {
        let first = make(&authority, role)?;
        Ok(Self { authority, role, current: Mutex::new(first) })
    }

    pub(super) fn current(&self) -> Arc<CertifiedKey> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if self.authority.now() > current.1 {
            match make(&self.authority, self.role) {
                Ok(renewed) => *current = renewed,
                // The old one is good for another ten days of trying.
                Err(error) => tracing::error!(%error, role = ?self.role, "could not renew control's certificate"),
            }
        }
        Arc::clone(&current.0)
    }
}

/// The certificate, and when to make the next one.
fn make(authority: &Authority, role: Role) -> Result<(Arc<CertifiedKey>, Millis), PkiError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|source| PkiError::Certificate { attempted: "make a key for control's certificate", source })?;
    let IssuedCertificate { der, .. } = match role {
        Role::Server => authority.issue_control_server(&key, LIFETIME)?,
        Role::Client => authority.issue_control_client(&key, LIFETIME)?,
    };
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|source| PkiError::Tls { attempted: "use the key of control's certificate", source })?;
    // The CA goes along: an enrolling agent knows only its fingerprint.
    let chain = vec![der, authority.der().clone()];
    Ok((Arc::new(CertifiedKey::new(chain, key)), authority.now() + LIFETIME * 2 / 3))
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("role", &self.role).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Leaf {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Leaf {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
