//! The two TLS configurations that stand on the CA. TLS 1.3 only: both ends are ours.

use std::sync::Arc;

use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};

use super::leaf::{Leaf, Role};
use super::{Authority, PkiError};

fn failed(attempted: &'static str) -> impl FnOnce(rustls::Error) -> PkiError {
    move |source| PkiError::Tls { attempted, source }
}

/// For control's listener, when a caller asks for the name `control.atoll.internal`. Agents prove who they are with
/// tokens and signatures, not with a certificate: theirs are server-only.
///
/// # Errors
/// When no certificate can be made.
pub fn internal_server_config(authority: &Authority) -> Result<Arc<ServerConfig>, PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed("set up TLS for agents"))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Leaf::new(authority.clone(), Role::Server)?));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For calls to hosts: shows control's certificate, trusts control's CA and nothing else. The fleet adds the check
/// that the host's key is the registered one.
///
/// # Errors
/// When no certificate can be made.
pub fn agent_client_config(authority: &Authority) -> Result<ClientConfig, PkiError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).map_err(failed("trust the CA"))?;
    let mut provider = rustls::crypto::ring::default_provider();
    // The caller's order decides: AES-128 is as safe here, and a third faster for file contents.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Ok(ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed("set up TLS towards hosts"))?
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(Leaf::new(authority.clone(), Role::Client)?)))
}
