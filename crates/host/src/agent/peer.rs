//! Who may call this agent: control, proven by a certificate of its CA in the control role, and nobody else.
//!
//! Hosts hold certificates of the same CA, so the chain alone proves nothing: the certificate must name
//! [`CONTROL_URI`] and be made for clients. A host's names another URI and is made for servers only.

use std::sync::Arc;

use anyhow::Context;
use atoll_model::api::hosts::CONTROL_URI;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::credentials::Identity;
use super::trust::{Signatures, certificates, provider};

/// The listener's TLS: this host's certificate, and control alone on the other side.
///
/// # Errors
/// When the credentials are damaged, or the certificate is not of the host's key.
pub fn server_config(identity: &Identity) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = provider();
    let mut roots = RootCertStore::empty();
    for ca in certificates(&identity.credentials.ca).context("reading control's CA")? {
        roots.add(ca).context("control's CA is unusable")?;
    }
    let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .context("building a verifier from control's CA")?;
    let certificate = certificates(&identity.credentials.certificate).context("reading this host's certificate")?;
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("configuring TLS 1.3")?
        .with_client_cert_verifier(Arc::new(ControlOnly { chain, signatures: Signatures(provider) }))
        .with_single_cert(certificate, identity.key()?.to_der())
        .context("this host's certificate does not go with its key")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Every connection shows its certificate anew, so that one that is no longer valid opens no further connection.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct ControlOnly {
    chain: Arc<dyn ClientCertVerifier>,
    signatures: Signatures,
}

/// Whether a certificate is control's, by name and purpose. Its chain is another question.
fn is_in_control_role(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let named = parsed.subject_alternative_name().ok().flatten().is_some_and(|names| {
        names.value.general_names.iter().any(|name| matches!(name, GeneralName::URI(uri) if *uri == CONTROL_URI))
    });
    let for_clients = parsed.extended_key_usage().ok().flatten().is_some_and(|usage| usage.value.client_auth);
    named && for_clients
}

impl ClientCertVerifier for ControlOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        if is_in_control_role(end_entity) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
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

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};

    fn certificate(uri: &str, purpose: ExtendedKeyUsagePurpose) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![purpose];
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn only_a_client_certificate_that_names_control_is_in_the_control_role() {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        assert!(is_in_control_role(&certificate(CONTROL_URI, ClientAuth)));
        assert!(!is_in_control_role(&certificate(CONTROL_URI, ServerAuth)));
        assert!(!is_in_control_role(&certificate("spiffe://atoll/host/host-a", ClientAuth)));
        assert!(!is_in_control_role(&certificate("spiffe://atoll/control/x", ClientAuth)));
        assert!(!is_in_control_role(&CertificateDer::from(vec![1, 2, 3])));
    }
}
