//! Whom the agent believes to be control: TLS verification of the connections that it makes.
//!
//! Before enrolment, whoever holds the CA whose fingerprint is in the registration token; afterwards, whoever shows a
//! certificate of the stored CA for [`CONTROL_SERVER_NAME`]. Behind a public HTTPS address, a chain to the system's
//! roots for that address is accepted as well, since a proxy may stand in front; the CA that enrolment hands out must
//! match the fingerprint all the same. Nothing here is ever sent in the clear.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use atoll_model::api::hosts::CONTROL_SERVER_NAME;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

use super::registration_token::Fingerprint;

/// Names a file of certificates that are trusted at a public address instead of the machine's.
const CA_FILE: &str = "ATOLL_CA_FILE";

/// What control must prove.
#[derive(Debug, Clone)]
pub enum Trust {
    /// To hold a CA with this fingerprint, which it shows in its chain.
    Fingerprint(Fingerprint),
    /// To have a certificate of one of these.
    Ca(Vec<CertificateDer<'static>>),
}

impl Trust {
    /// Trust in the CA certificates of a PEM text.
    ///
    /// # Errors
    /// When there is none in it.
    pub fn in_ca(pem: &str) -> anyhow::Result<Self> {
        Ok(Self::Ca(certificates(pem)?))
    }
}

/// The certificates of a PEM text; at least one.
///
/// # Errors
/// When there is none, or the text is damaged.
pub fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .context("reading certificates in PEM")?;
    ensure!(!found.is_empty(), "the text holds no certificate");
    Ok(found)
}

#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    Sha256::digest(certificate.as_ref()).into()
}

/// The only provider of cryptography in this crate.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// How signatures in a handshake are checked, on either side: what a custom judgement of certificates doesn't change.
#[derive(Debug)]
pub struct Signatures(pub Arc<CryptoProvider>);

impl Signatures {
    pub fn tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    pub fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    #[must_use]
    pub fn schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A client configuration that accepts control and nobody else. `public_name` is the host of an `https` address.
///
/// # Errors
/// When the CA is unusable.
pub fn client_config(trust: &Trust, public_name: Option<&str>) -> anyhow::Result<ClientConfig> {
    let provider = provider();
    let pinned = match trust {
        Trust::Fingerprint(fingerprint) => Pinned::Fingerprint(*fingerprint),
        Trust::Ca(certificates) => Pinned::Ca(verifier_for(certificates, &provider)?),
    };
    let public = match public_name {
        Some(name) => system_verifier(&provider).zip(ServerName::try_from(name.to_owned()).ok()),
        None => None,
    };
    let internal =
        ServerName::try_from(CONTROL_SERVER_NAME).context("the internal name of control is not a DNS name")?;
    let verifier = ControlVerifier { pinned, public, internal, signatures: Signatures(provider.clone()) };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("configuring TLS 1.3")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn verifier_for(
    roots: &[CertificateDer<'_>],
    provider: &Arc<CryptoProvider>,
) -> anyhow::Result<Arc<WebPkiServerVerifier>> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone().into_owned()).context("a CA certificate is unusable")?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
        .build()
        .context("building a verifier from the CA")
}

/// For servers out there, whom nobody here has met before: judged by the machine's roots. The protocol is the caller's.
#[must_use]
pub fn public_client_config() -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider());
    // The provider has both versions that there are.
    let builder = builder.with_safe_default_protocol_versions().expect("ring speaks TLS 1.2 and 1.3");
    builder.with_root_certificates(system_roots()).with_no_client_auth()
}

/// `ATOLL_CA_FILE`, else `SSL_CERT_FILE`, else the machine's store, as everywhere in Atoll. `None` where there are no
/// roots: then only the pinned CA counts.
fn system_verifier(provider: &Arc<CryptoProvider>) -> Option<Arc<WebPkiServerVerifier>> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(system_roots()), provider.clone()).build().ok()
}

fn system_roots() -> RootCertStore {
    let mut store = RootCertStore::empty();
    match std::env::var_os(CA_FILE) {
        Some(path) => match CertificateDer::pem_file_iter(&path) {
            Ok(roots) => drop(store.add_parsable_certificates(roots.filter_map(Result::ok))),
            Err(error) => tracing::error!(path = %Path::new(&path).display(), %error, "{CA_FILE} can't be read"),
        },
        None => drop(store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    store
}

#[derive(Debug)]
enum Pinned {
    Fingerprint(Fingerprint),
    Ca(Arc<WebPkiServerVerifier>),
}

#[derive(Debug)]
struct ControlVerifier {
    pinned: Pinned,
    public: Option<(Arc<WebPkiServerVerifier>, ServerName<'static>)>,
    internal: ServerName<'static>,
    signatures: Signatures,
}

impl ControlVerifier {
    fn verify_pinned(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verifier = match &self.pinned {
            Pinned::Ca(verifier) => verifier.clone(),
            Pinned::Fingerprint(wanted) => {
                let ca = intermediates
                    .iter()
                    .find(|certificate| fingerprint(certificate) == *wanted)
                    .ok_or(CertificateError::UnknownIssuer)?;
                verifier_for(std::slice::from_ref(ca), &self.signatures.0)
                    .map_err(|error| rustls::Error::General(error.to_string()))?
            }
        };
        verifier.verify_server_cert(end_entity, intermediates, &self.internal, &[], now)
    }
}

impl ServerCertVerifier for ControlVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _asked_for: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = self.verify_pinned(end_entity, intermediates, now);
        match (&self.public, pinned) {
            (Some((verifier, name)), Err(_)) => verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now),
            (_, verdict) => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.tls12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.schemes()
    }
}
