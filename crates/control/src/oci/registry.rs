//! The distribution protocol of registries, as much of it as pulling takes: manifests, blobs, and the tokens for them.
//!
//! One connection per request: pulls are few and long. Every address is judged before it is dialled, after each redirect
//! anew, so a name that leads into the operator's own network leads nowhere.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::header::{ACCEPT, AUTHORIZATION, HOST, LOCATION, USER_AGENT, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Reference;
use super::origin::{Bytestream, MAX_DOCUMENT, Origin};
use super::reference::is_digest;

const DIAL: Duration = Duration::from_secs(10);
/// From a request to its answer's head.
const HEAD: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 5;

/// Why an image could not be pulled. What it says is for whoever asked for the image.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    #[error("{registry}: {problem}")]
    Registry { registry: String, problem: String },
    #[error("{registry} says {status} to {what}: is the name right, and may you have it?")]
    Refused { registry: String, status: u16, what: String },
    #[error(
        "{host} is at {address}, a private address: the operator must allow it (--registry-allow {host}) before it is asked"
    )]
    Private { host: String, address: IpAddr },
    #[error("the image is not valid: {0}")]
    Invalid(String),
    #[error("the image can't be used: {0}")]
    Image(#[from] atoll_image::ImageError),
    #[error("the image could not be stored: {0}")]
    Store(#[from] crate::objects::ObjectError),
    #[error(transparent)]
    Db(#[from] crate::db::DbError),
}

/// Name and password for a registry.
#[derive(Debug, Clone)]
pub struct Login {
    pub username: String,
    pub password: SecretString,
}

/// Speaks with registries. Cheap to clone.
#[derive(Clone)]
pub struct Registries {
    tls: TlsConnector,
    /// Hosts (`name` or `name:port`) that may be at private addresses and speak plain HTTP.
    allowed: Arc<Vec<String>>,
}

/// The registry's side of one pull.
pub(super) struct Session<'a> {
    registries: &'a Registries,
    reference: &'a Reference,
    login: Option<&'a Login>,
    token: Option<SecretString>,
}

impl Registries {
    /// # Errors
    /// When TLS can't be set up.
    pub fn new(allowed: Vec<String>) -> Result<Self, rustls::Error> {
        let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), allowed: Arc::new(allowed) })
    }

    fn is_allowed(&self, authority: &str) -> bool {
        let name = authority.rsplit_once(':').map_or(authority, |(name, _)| name);
        self.allowed.iter().any(|allowed| allowed == authority || allowed == name)
    }

    pub(super) fn session<'a>(&'a self, reference: &'a Reference, login: Option<&'a Login>) -> Session<'a> {
        Session { registries: self, reference, login, token: None }
    }

    /// Sends one request to where its URI says.
    async fn send(&self, uri: &Uri, headers: &[(http::HeaderName, String)]) -> Result<Response<Incoming>, OciError> {
        let host = uri.host().unwrap_or_default().to_owned();
        let authority = uri.authority().map_or_else(String::new, |it| it.as_str().to_owned());
        let failed = |problem: String| OciError::Registry { registry: host.clone(), problem };
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if self.is_allowed(&authority) => false,
            _ => {
                return Err(failed("it wants to be asked without TLS, which only --registry-allow permits".to_owned()));
            }
        };
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let address = self.address(&host, &authority, port).await?;
        let dialled = tokio::time::timeout(DIAL, TcpStream::connect(address)).await;
        let stream = dialled.map_err(|_| failed(format!("{address} does not answer")))?;
        let stream = stream.map_err(|error| failed(format!("{address}: {error}")))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::get(path).header(HOST, &authority).header(USER_AGENT, "atoll");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| failed(error.to_string()))?;
        let answer = async {
            if secure {
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                converse(self.tls.connect(name, stream).await?, request).await
            } else {
                converse(stream, request).await
            }
        };
        let answer = tokio::time::timeout(HEAD, answer).await.map_err(|_| failed("no answer in time".to_owned()))?;
        answer.map_err(|error| failed(error.to_string()))
    }

    /// Where a host is, if it may be asked.
    async fn address(&self, host: &str, authority: &str, port: u16) -> Result<SocketAddr, OciError> {
        let failed = |problem: String| OciError::Registry { registry: host.to_owned(), problem };
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let found = tokio::net::lookup_host((name, port)).await.map_err(|error| failed(error.to_string()))?;
        let mut private = None;
        for address in found {
            if self.is_allowed(authority) || is_public(address.ip()) {
                return Ok(address);
            }
            private = Some(address.ip());
        }
        match private {
            Some(address) => Err(OciError::Private { host: authority.to_owned(), address }),
            None => Err(failed("it has no address".to_owned())),
        }
    }
}

async fn converse<S>(stream: S, request: Request<Empty<Bytes>>) -> io::Result<Response<Incoming>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends with the answer's body, or with whoever reads it.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(io::Error::other)
}

/// Whether the address is one of the public internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_documentation()
                || v4.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && v4.octets()[2] == 0)
                || (a == 198 && (18..20).contains(&b))
                || v4.octets() == [168, 63, 129, 16])
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_public(v4.into()),
            // Global unicast, without what embeds or tunnels IPv4 addresses.
            None => {
                let first = v6.segments()[0];
                (0x2000..0x4000).contains(&first) && first != 0x2002 && !(first == 0x2001 && v6.segments()[1] < 0x200)
            }
        },
    }
}

#[async_trait]
impl Origin for Session<'_> {
    async fn manifest(&mut self, version: &str) -> Result<(Vec<u8>, String), OciError> {
        const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
            application/vnd.docker.distribution.manifest.v2+json, \
            application/vnd.docker.distribution.manifest.list.v2+json";
        let path = format!("/v2/{}/manifests/{version}", self.reference.repository);
        let answer = self.get(&path, Some(ACCEPTED), "the image's manifest").await?;
        let bytes = self.document(answer).await?;
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        if is_digest(version) && version != digest {
            return Err(OciError::Invalid(format!("the manifest {version} has the digest {digest}")));
        }
        Ok((bytes, digest))
    }

    async fn blob(&mut self, digest: &str) -> Result<Bytestream, OciError> {
        let path = format!("/v2/{}/blobs/{digest}", self.reference.repository);
        let answer = self.get(&path, None, "a layer").await?;
        let registry = self.reference.registry.clone();
        let broken = move |error: hyper::Error| {
            let problem = format!("what it sends broke off: {error}");
            OciError::Registry { registry: registry.clone(), problem }
        };
        Ok(answer.into_body().into_data_stream().map_err(broken).boxed())
    }
}

impl Session<'_> {
    fn failed(&self, problem: impl Into<String>) -> OciError {
        OciError::Registry { registry: self.reference.registry.clone(), problem: problem.into() }
    }

    async fn document(&self, answer: Response<Incoming>) -> Result<Vec<u8>, OciError> {
        let body = tokio::time::timeout(HEAD, Limited::new(answer.into_body(), MAX_DOCUMENT).collect()).await;
        let body = body.map_err(|_| self.failed("a document stopped in its middle"))?;
        Ok(body.map_err(|error| self.failed(error.to_string()))?.to_bytes().to_vec())
    }

    /// Asks the registry; a second time with a token when it wants one. Redirects are followed without credentials.
    async fn get(&mut self, path: &str, accept: Option<&str>, what: &str) -> Result<Response<Incoming>, OciError> {
        let registry = &self.reference.registry;
        let scheme = if self.registries.is_allowed(registry) && !registry.ends_with(":443") { "http" } else { "https" };
        let first: Uri = format!("{scheme}://{registry}{path}").parse().map_err(|_| self.failed("is no host name"))?;
        let mut tried = false;
        loop {
            let mut headers: Vec<_> = accept.map(|accept| (ACCEPT, accept.to_owned())).into_iter().collect();
            if let Some(token) = &self.token {
                headers.push((AUTHORIZATION, token.expose_secret().to_owned()));
            }
            let mut answer = self.registries.send(&first, &headers).await?;
            if answer.status() == StatusCode::UNAUTHORIZED && !tried {
                tried = true;
                let challenge = answer.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
                self.token = Some(self.authorize(challenge.unwrap_or_default()).await?);
                continue;
            }
            let mut at = first.clone();
            for _ in 0..MAX_REDIRECTS {
                if !answer.status().is_redirection() {
                    break;
                }
                let target = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
                at = absolute(&at, target).ok_or_else(|| self.failed("a redirect leads nowhere"))?;
                answer = self.registries.send(&at, &[]).await?;
            }
            if answer.status().is_success() {
                return Ok(answer);
            }
            let (registry, status) = (self.reference.registry.clone(), answer.status().as_u16());
            return Err(OciError::Refused { registry, status, what: what.to_owned() });
        }
    }

    /// What to send as `Authorization`, by the registry's challenge.
    async fn authorize(&self, challenge: &str) -> Result<SecretString, OciError> {
        let basic = self.login.map(|login| {
            let pair = format!("{}:{}", login.username, login.password.expose_secret());
            format!("Basic {}", STANDARD.encode(pair))
        });
        let (scheme, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return basic.map(SecretString::from).ok_or_else(|| self.failed("it wants a user name and a password"));
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(self.failed("it refuses, and does not say what it wants"));
        }
        let field = |name: &str| parameter(rest, name);
        let realm = field("realm").ok_or_else(|| self.failed("it names nobody who gives tokens"))?;
        let scope = field("scope").unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository));
        let query = {
            let mut query = form_urlencoded::Serializer::new(String::new());
            if let Some(service) = field("service") {
                query.append_pair("service", &service);
            }
            query.append_pair("scope", &scope).finish()
        };
        let separator = if realm.contains('?') { '&' } else { '?' };
        let uri: Uri = format!("{realm}{separator}{query}")
            .parse()
            .map_err(|_| self.failed("the address of who gives tokens is not valid"))?;
        let headers: Vec<_> = basic.map(|basic| (AUTHORIZATION, basic)).into_iter().collect();
        let answer = self.registries.send(&uri, &headers).await?;
        if !answer.status().is_success() {
            let (registry, status) = (self.reference.registry.clone(), answer.status().as_u16());
            return Err(OciError::Refused { registry, status, what: "a token for this image".to_owned() });
        }
        #[derive(Deserialize)]
        struct Token {
            #[serde(alias = "access_token")]
            token: String,
        }
        let token: Token =
            serde_json::from_slice(&self.document(answer).await?).map_err(|_| self.failed("the token is not valid"))?;
        Ok(format!("Bearer {}", token.token).into())
    }
}

/// `name="value"` in a challenge.
fn parameter(text: &str, name: &str) -> Option<String> {
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_start_matches([',', ' ']).trim();
        let (value, more) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = more;
    }
    None
}

fn absolute(base: &Uri, target: &str) -> Option<Uri> {
    if target.starts_with('/') && !target.starts_with("//") {
        return format!("{}://{}{target}", base.scheme_str()?, base.authority()?).parse().ok();
    }
    target.parse().ok().filter(|uri: &Uri| uri.scheme().is_some() && uri.host().is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn private_and_special_addresses_are_no_registries() {
        for address in [
            "10.0.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "0.0.0.0",
            "198.18.0.1",
            "224.0.0.1",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "2002:a00:1::",
            "2001::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["1.1.1.1", "2606:4700::1111", "8.8.8.8"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_challenge_is_read() {
        let challenge = "realm=\"https://auth.example/token\",service=\"registry, of mine\", scope=\"a:b:pull\"";
        assert_eq!(parameter(challenge, "realm").as_deref(), Some("https://auth.example/token"));
        assert_eq!(parameter(challenge, "service").as_deref(), Some("registry, of mine"));
        assert_eq!(parameter(challenge, "scope").as_deref(), Some("a:b:pull"));
        assert_eq!(parameter(challenge, "x"), None);
    }

    proptest! {
        #[test]
        fn no_challenge_and_no_redirect_makes_it_panic(text in "[ -~]{0,80}") {
            let _ = (parameter(&text, "realm"), absolute(&Uri::from_static("https://a.example/x"), &text));
        }
    }
}
