//! What requests may say of a proxy of one's own for what sandboxes send out.

use atoll_model::api::sandboxes::EgressProxy;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::error::{ApiError, ApiResult};
use super::validate::{is_name, secret_name};
use crate::secrets::egress_proxy::{KeptProxy, MAX_LOGIN, Sealer};
use crate::secrets::headers::{Piece, pieces};

const FIELD: &str = "network.egress_proxy";
const PASSWORD: &str = "network.egress_proxy.password";
/// Of certificates in PEM.
const MAX_CERTIFICATES: usize = 64 << 10;
/// With the names of secrets in it.
const MAX_PASSWORD: usize = 1024;

/// The proxy as it is kept. `former` is the one that it takes the place of.
pub fn kept(sealer: &Sealer<'_>, proxy: EgressProxy, former: Option<&KeptProxy>) -> ApiResult<KeptProxy> {
    let username = proxy.username.filter(|text| !text.is_empty());
    if username.as_ref().is_some_and(|text| text.len() > MAX_LOGIN || text.contains('\0')) {
        let message = format!("`username` must have at most {MAX_LOGIN} bytes and no NUL");
        return Err(ApiError::invalid("network.egress_proxy.username", message));
    }
    if let Some(password) = proxy.password.as_deref().filter(|text| !text.is_empty()) {
        if username.is_none() {
            return Err(ApiError::invalid(PASSWORD, "a `password` goes with a `username`"));
        }
        check_password(password)?;
    }
    if let Some(tls) = &proxy.tls {
        if tls.server_name.as_ref().is_some_and(|name| !is_host(name)) {
            let message = "`tls.server_name` must be a name or an IPv4 address";
            return Err(ApiError::invalid("network.egress_proxy.tls.server_name", message));
        }
        if tls.ca_cert.as_ref().is_some_and(|pem| !is_certificates(pem)) {
            let message = "`tls.ca_cert` must be certificates in PEM, of at most 64 KiB";
            return Err(ApiError::invalid("network.egress_proxy.tls.ca_cert", message));
        }
    }
    let proxy = EgressProxy { address: address(&proxy.address)?, username, ..proxy };
    Ok(sealer.keep(proxy, former)?)
}

/// `HOST:PORT`, in small letters.
fn address(text: &str) -> ApiResult<String> {
    let split = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    match split {
        // Written as numbers are: no sign and no zeros before them.
        Some((host, port)) if port != 0 && text.ends_with(&format!(":{port}")) && is_host(host) => {
            Ok(text.to_ascii_lowercase())
        }
        _ => {
            let message = "`address` must be HOST:PORT, with a name or an IPv4 address (proxy.example.com:1080)";
            Err(ApiError::invalid(FIELD, message))
        }
    }
}

fn is_host(text: &str) -> bool {
    text.parse::<std::net::Ipv4Addr>().is_ok() || (is_name(text) && !text.starts_with('*'))
}

fn is_certificates(pem: &str) -> bool {
    let mut found = CertificateDer::pem_slice_iter(pem.as_bytes()).peekable();
    pem.len() <= MAX_CERTIFICATES && !pem.contains('\0') && found.peek().is_some() && found.all(|one| one.is_ok())
}

fn check_password(password: &str) -> ApiResult<()> {
    let Some(pieces) = pieces(password) else {
        return Err(ApiError::invalid(PASSWORD, "a secret in a `password` is written `${secrets.NAME}`"));
    };
    let mut plain = 0;
    for piece in pieces {
        match piece {
            Piece::Plain(text) => plain += text.len(),
            Piece::Secret(name) => secret_name(PASSWORD, name)?,
            Piece::Identity(_) => return Err(ApiError::invalid(PASSWORD, "identities are for added headers alone")),
        }
    }
    if plain > MAX_LOGIN || password.len() > MAX_PASSWORD || password.contains(['\r', '\n', '\0']) {
        let message = format!("`password` must have at most {MAX_LOGIN} bytes, and no line break or NUL");
        return Err(ApiError::invalid(PASSWORD, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use atoll_model::TeamId;
    use atoll_model::api::sandboxes::EgressProxyTls;
    use proptest::prelude::*;

    use super::*;
    use crate::secrets::cipher::Cipher;

    fn field(proxy: EgressProxy) -> Option<String> {
        let (cipher, team) = (Cipher::for_tests(1), TeamId::new());
        let kept = kept(&Sealer::new(&cipher, &team), proxy, None);
        kept.err().and_then(|error| error.field).map(|field| field.into_owned())
    }

    fn at(address: &str) -> EgressProxy {
        EgressProxy { address: address.to_owned(), ..EgressProxy::default() }
    }

    fn with(username: &str, password: &str) -> EgressProxy {
        let (username, password) = (Some(username.to_owned()), Some(password.to_owned()));
        EgressProxy { username, password, ..at("a.example:1") }
    }

    fn over(server_name: Option<&str>, ca_cert: Option<&str>) -> EgressProxy {
        let (server_name, ca_cert) = (server_name.map(str::to_owned), ca_cert.map(str::to_owned));
        EgressProxy { tls: Some(EgressProxyTls { server_name, ca_cert }), ..at("a.example:1") }
    }

    #[test]
    fn what_is_no_proxy_is_refused_by_name() {
        for good in ["proxy.example.com:1080", "192.0.2.1:65535", "localhost:1"] {
            assert_eq!(field(at(good)), None, "{good}");
        }
        for bad in
            ["", "a", "a:", ":1", "a:0", "a:65536", "a:+1", "a:01", "*.a:1", "[::1]:1", "a b:1", "u@a:1", "s://a:1"]
        {
            assert_eq!(field(at(bad)).as_deref(), Some(FIELD), "{bad}");
        }
        assert_eq!(field(with("ann", "hunter2 ${secrets.a.b}")), None);
        assert_eq!(field(with(&"a".repeat(255), &"b".repeat(255))), None);
        assert_eq!(field(with("", "")), None);
        for bad in ["x\ny", "x\0", &"b".repeat(256), "${secrets.a", "${secrets. }"] {
            assert_eq!(field(with("ann", bad)).as_deref(), Some(PASSWORD), "{bad}");
        }
        assert_eq!(field(with("", "x")).as_deref(), Some(PASSWORD), "whose password?");
        assert!(field(with(&"a".repeat(256), "")).unwrap().ends_with(".username"));
        let pem = "-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----\n";
        assert_eq!(field(over(Some("proxy.example.com"), Some(pem))), None);
        assert!(field(over(Some("a b"), None)).unwrap().ends_with(".server_name"));
        let large = pem.repeat(2000);
        for bad in ["", "x", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", large.as_str()] {
            assert!(field(over(None, Some(bad))).unwrap().ends_with(".ca_cert"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(address in ".{0,40}", password in ".{0,40}", pem in ".{0,80}") {
            let tls = Some(EgressProxyTls { server_name: Some(address.clone()), ca_cert: Some(pem) });
            field(EgressProxy { address, username: Some("a".to_owned()), password: Some(password), tls });
        }
    }
}
