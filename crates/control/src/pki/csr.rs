//! Certificate signing requests of hosts, and the keys that they prove.
//!
//! A request is read for two things only: its public key, and that its sender holds the private one. Subject and
//! extensions are ignored. Only ECDSA P-256 is taken: one algorithm, one way to be wrong.

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use rustls::SignatureScheme;
use sha2::{Digest, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::PkiError;

/// Larger requests are refused unread.
const MAX_REQUEST: usize = 16 * 1024;

/// A host's public key, ECDSA P-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    spki: Vec<u8>,
    point: Vec<u8>,
}

/// A request whose signature has been verified.
#[derive(Debug, Clone)]
pub struct CertificateRequest {
    pub key: HostKey,
}

impl CertificateRequest {
    /// Reads and verifies a PEM request.
    ///
    /// # Errors
    /// [`PkiError::BadRequest`], saying what is wrong with it.
    pub fn from_pem(text: &str) -> Result<Self, PkiError> {
        if text.len() > MAX_REQUEST {
            return Err(PkiError::BadRequest("it is too large"));
        }
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(text.as_bytes()).map_err(|_| PkiError::BadRequest("not PEM"))?;
        if pem.label != "CERTIFICATE REQUEST" && pem.label != "NEW CERTIFICATE REQUEST" {
            return Err(PkiError::BadRequest("the PEM block is not a CERTIFICATE REQUEST"));
        }
        let (rest, request) = X509CertificationRequest::from_der(&pem.contents)
            .map_err(|_| PkiError::BadRequest("it is not a PKCS #10 request"))?;
        if !rest.is_empty() {
            return Err(PkiError::BadRequest("there is something behind it"));
        }
        let info = &request.certification_request_info;
        let key = HostKey::from_spki(info.subject_pki.raw)?;
        if request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
            return Err(PkiError::BadRequest("it is not signed with ECDSA and SHA-256"));
        }
        if !key.verify(info.raw, &request.signature_value.data) {
            return Err(PkiError::BadRequest("its signature is wrong"));
        }
        Ok(Self { key })
    }
}

impl HostKey {
    /// Reads a subject public key (SPKI, DER).
    ///
    /// # Errors
    /// [`PkiError::BadRequest`] when it is anything but an uncompressed ECDSA P-256 key.
    pub fn from_spki(spki: &[u8]) -> Result<Self, PkiError> {
        const WRONG: PkiError = PkiError::BadRequest("its key is not an ECDSA P-256 key");
        let (rest, parsed) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| WRONG)?;
        let curve = parsed.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        let point = parsed.subject_public_key.data.to_vec();
        let right = rest.is_empty()
            && parsed.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
            && curve.as_ref() == Some(&OID_EC_P256)
            && point.len() == 65
            && point[0] == 4;
        if right { Ok(Self { spki: spki.to_vec(), point }) } else { Err(WRONG) }
    }

    /// As kept in the database: hex of the SPKI.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(&self.spki)
    }

    /// # Errors
    /// When the text is not what [`HostKey::to_hex`] writes.
    pub fn from_hex(text: &str) -> Result<Self, PkiError> {
        Self::from_spki(&hex::decode(text).map_err(|_| PkiError::Damaged("a host's public key"))?)
    }

    /// SHA-256 of the SPKI: what the fleet compares a host's certificate with.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.spki).into()
    }

    /// Whether `signature` (ECDSA P-256 with SHA-256, ASN.1) over `message` was made with this key's private half.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let wanted = algorithms.mapping.iter().find(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256);
        // The mapping lists P-256 keys first, then other curves with the same hash.
        wanted
            .and_then(|(_, algorithms)| algorithms.first())
            .is_some_and(|algorithm| algorithm.verify_signature(&self.point, message, signature).is_ok())
    }
}

impl PublicKeyData for HostKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}
