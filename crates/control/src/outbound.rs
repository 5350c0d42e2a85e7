//! Requests of control to servers that its operator has named (sign-in providers). One connection per request, nothing
//! is followed, and every answer is bounded. What users name is not asked here.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, USER_AGENT};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// From the connection to the answer's last byte.
const WITHIN: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 1 << 20;
/// Where distributions keep the certificates that the machine trusts.
const TRUST_STORES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error("{0} is not an http or https address")]
    Address(String),
    #[error("{0} did not answer in time")]
    TimedOut(String),
    #[error("could not reach {address}")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Trust(String),
    #[error("talking to {address} failed")]
    Http {
        address: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Sends a request, and reads the whole answer.
pub async fn send(request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, OutboundError> {
    let address = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    tokio::time::timeout(WITHIN, send_now(request, &address)).await.map_err(|_| OutboundError::TimedOut(address))?
}

async fn send_now(request: Request<Vec<u8>>, address: &str) -> Result<Response<Vec<u8>>, OutboundError> {
    let wrong = || OutboundError::Address(request.uri().to_string());
    let tls = match request.uri().scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong()),
    };
    let host = request.uri().host().ok_or_else(wrong)?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = request.uri().port_u16().unwrap_or(if tls { 443 } else { 80 });
    let connect = |source| OutboundError::Connect { address: address.to_owned(), source };
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(connect)?;
    stream.set_nodelay(true).map_err(connect)?;
    if !tls {
        return exchange(stream, request, address).await;
    }
    let connector = connector().map_err(OutboundError::Trust)?;
    let name = ServerName::try_from(host).map_err(|_| wrong())?;
    exchange(connector.connect(name, stream).await.map_err(connect)?, request, address).await
}

async fn exchange<S>(stream: S, request: Request<Vec<u8>>, address: &str) -> Result<Response<Vec<u8>>, OutboundError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| OutboundError::Http { address: address.to_owned(), source };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(error.into()))?;
    let driving = tokio::spawn(connection);
    let (mut parts, body) = request.into_parts();
    let host = HeaderValue::from_str(address).map_err(|error| failed(error.into()))?;
    parts.headers.insert(HOST, host);
    parts.headers.entry(USER_AGENT).or_insert(HeaderValue::from_static("atoll"));
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = path.parse().map_err(|error: http::uri::InvalidUri| failed(error.into()))?;
    let sent = sender.send_request(Request::from_parts(parts, Full::new(Bytes::from(body)))).await;
    let (parts, body) = sent.map_err(|error| failed(error.into()))?.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(failed)?.to_bytes();
    driving.abort();
    Ok(Response::from_parts(parts, body.to_vec()))
}

/// TLS to servers that the operator has named. The error says what to do.
pub fn connector() -> Result<&'static TlsConnector, String> {
    static TLS: OnceLock<Result<TlsConnector, String>> = OnceLock::new();
    TLS.get_or_init(tls_connector).as_ref().map_err(Clone::clone)
}

/// Trusts `ATOLL_CA_FILE` when it is set, else `SSL_CERT_FILE`, else the machine's store.
fn tls_connector() -> Result<TlsConnector, String> {
    let named = ["ATOLL_CA_FILE", "SSL_CERT_FILE"].into_iter().find_map(|name| std::env::var(name).ok());
    let file = named
        .or_else(|| TRUST_STORES.into_iter().find(|path| std::path::Path::new(path).is_file()).map(str::to_owned))
        .ok_or("this machine has no store of trusted certificates; set ATOLL_CA_FILE")?;
    let mut roots = rustls::RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(&file).map_err(|error| format!("reading {file}: {error}"))?;
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    if roots.is_empty() {
        return Err(format!("{file} holds no certificate"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
