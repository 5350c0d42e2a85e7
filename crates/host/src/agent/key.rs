//! The host's key pair: made here, never leaves the host.
//!
//! ECDSA P-256. It proves who the host is in three places: the certificate on the listener, the signing request, and
//! the signature under every refresh.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A private key. `Debug` shows nothing of it.
pub struct HostKey(KeyPair);

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostKey(..)")
    }
}

impl HostKey {
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self)
    }

    /// # Errors
    /// When the text is not a P-256 key in PEM.
    pub fn from_pem(pem: &str) -> Result<Self, rcgen::Error> {
        KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256).map(Self)
    }

    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// A certificate signing request, PEM. Control chooses the subject, so it names none.
    ///
    /// # Errors
    /// When signing fails.
    pub fn signing_request(&self) -> Result<String, rcgen::Error> {
        CertificateParams::new(Vec::<String>::new())?.serialize_request(&self.0)?.pem()
    }

    /// The value of `X-Host-Signature` for a body: base64 of an ASN.1 signature over its exact bytes.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(&self, body: &[u8]) -> Result<String, rcgen::Error> {
        self.0.sign(body).map(|signature| STANDARD.encode(signature))
    }

    /// For rustls.
    #[must_use]
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialize_der()))
    }
}
