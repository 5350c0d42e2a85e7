//! The certificate authority itself: made once, read by every replica, issuing for hosts and for control.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::HostId;
use atoll_model::api::hosts::{CONTROL_SERVER_NAME, CONTROL_URI, HOST_URI_PREFIX};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SigningKey,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::PkiError;
use super::csr::HostKey;
use crate::clock::Clock;
use crate::db::{Db, Millis, keys};

/// Certificates are valid from well before they are made: a host whose clock is a day late, or in another time zone, must
/// not be locked out for it.
const SKEW: Duration = Duration::from_secs(48 * 3600);
const CA_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
const PURPOSE: &str = "ca";

/// The CA. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
    fingerprint: [u8; 32],
    clock: Clock,
}

/// A certificate for somebody.
#[derive(Debug, Clone)]
pub struct IssuedCertificate {
    pub der: CertificateDer<'static>,
    pub pem: String,
    pub expires_at: Millis,
    /// Hex SHA-256 of the DER.
    pub fingerprint: String,
}

fn failed(attempted: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |source| PkiError::Certificate { attempted, source }
}

fn at(time: Millis) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.0.div_euclid(1000)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

impl Authority {
    /// The installation's CA. Whoever starts first makes it; replicas that start at once end with the same one.
    ///
    /// # Errors
    /// When the database fails or holds something that is no CA.
    pub async fn open(db: &Db, clock: Clock) -> Result<Self, PkiError> {
        let stored = match keys::current(db, PURPOSE).await? {
            Some(stored) => stored,
            None => keys::current_or(db, PURPOSE, Self::generate(clock.now())?, clock.now()).await?,
        };
        Self::from_pem(&stored.private_pem, &stored.public_pem, clock)
    }

    fn generate(now: Millis) -> Result<keys::StoredKey, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("make the CA's key"))?;
        let mut params = base(now, now + CA_LIFETIME);
        let name = format!("Atoll CA {}", hex::encode(rand::random::<[u8; 4]>()));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(failed("make the CA's certificate"))?;
        let (private_pem, public_pem) = (key.serialize_pem(), certificate.pem());
        Ok(keys::StoredKey { kid: format!("{PURPOSE}-1"), private_pem, public_pem })
    }

    fn from_pem(private_pem: &str, certificate_pem: &str, clock: Clock) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(private_pem).map_err(|_| PkiError::Damaged("its private key"))?;
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| PkiError::Damaged("its certificate"))?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|_| PkiError::Damaged("its certificate"))?;
        let fingerprint = Sha256::digest(&der).into();
        Ok(Self { inner: Arc::new(Inner { issuer, der, pem: certificate_pem.to_owned(), fingerprint, clock }) })
    }

    /// A CA of its own that no database knows.
    #[cfg(test)]
    pub fn for_tests(clock: Clock) -> Self {
        let stored = Self::generate(clock.now()).expect("a CA");
        Self::from_pem(&stored.private_pem, &stored.public_pem, clock).expect("a readable CA")
    }

    #[must_use]
    pub fn pem(&self) -> &str {
        &self.inner.pem
    }

    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.inner.der
    }

    /// SHA-256 of the certificate's DER: what a registration token carries, so that an agent enrols with nobody else.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.inner.fingerprint
    }

    pub(super) fn now(&self) -> Millis {
        self.inner.clock.now()
    }

    /// A certificate for a host's key. Everything in it is chosen here; of the host's request only the key counts.
    ///
    /// # Errors
    /// When signing fails.
    pub fn issue_host(&self, host: &HostId, key: &HostKey, lifetime: Duration) -> Result<IssuedCertificate, PkiError> {
        let name = crate::fleet::authority(host);
        let names = [dns(&name)?, uri(&format!("{HOST_URI_PREFIX}{host}"))?];
        self.issue(host.as_str(), names.into(), ExtendedKeyUsagePurpose::ServerAuth, key, lifetime)
    }

    /// The certificate that agents see when they call control by its internal name.
    pub(super) fn issue_control_server(
        &self,
        key: &impl PublicKeyData,
        lifetime: Duration,
    ) -> Result<IssuedCertificate, PkiError> {
        let names = vec![dns(CONTROL_SERVER_NAME)?];
        self.issue("Atoll control", names, ExtendedKeyUsagePurpose::ServerAuth, key, lifetime)
    }

    /// The certificate with which control calls hosts.
    pub(super) fn issue_control_client(
        &self,
        key: &impl PublicKeyData,
        lifetime: Duration,
    ) -> Result<IssuedCertificate, PkiError> {
        let names = vec![uri(CONTROL_URI)?];
        self.issue("Atoll control", names, ExtendedKeyUsagePurpose::ClientAuth, key, lifetime)
    }

    fn issue(
        &self,
        common_name: &str,
        names: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        key: &impl PublicKeyData,
        lifetime: Duration,
    ) -> Result<IssuedCertificate, PkiError> {
        let now = self.now();
        let expires_at = now + lifetime;
        let mut params = base(now, expires_at);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.inner.issuer).map_err(failed("issue a certificate"))?;
        let der = certificate.der().clone();
        let fingerprint = hex::encode(Sha256::digest(&der));
        Ok(IssuedCertificate { der, pem: certificate.pem(), expires_at, fingerprint })
    }

    /// Signs `text` with the CA's own key: ECDSA P-256 with SHA-256, ASN.1.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(&self, text: &[u8]) -> Result<Vec<u8>, PkiError> {
        self.inner.issuer.key().sign(text).map_err(failed("sign"))
    }
}

fn base(now: Millis, expires_at: Millis) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = at(now - SKEW);
    params.not_after = at(expires_at);
    // Positive, and never one that was used before.
    let mut serial = rand::random::<[u8; 16]>();
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn dns(name: &str) -> Result<SanType, PkiError> {
    Ia5String::try_from(name).map(SanType::DnsName).map_err(failed("write a certificate's name"))
}

fn uri(name: &str) -> Result<SanType, PkiError> {
    Ia5String::try_from(name).map(SanType::URI).map_err(failed("write a certificate's name"))
}
