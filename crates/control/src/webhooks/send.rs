//! One attempt to deliver: resolve, check, connect to what was checked, send, look at the status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::signature::signature;
use super::{Target, TargetError};
use crate::config::Network;
use crate::db::Millis;

const DEADLINE: Duration = Duration::from_secs(10);

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub response_status: Option<i64>,
    /// None: it was delivered.
    pub error: Option<String>,
    pub duration_ms: i64,
}

/// What is sent.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    pub id: &'a str,
    pub url: &'a str,
    /// The present one first.
    pub secrets: Vec<&'a str>,
    pub body: &'a str,
}

/// Makes attempts. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    tls: Arc<ClientConfig>,
    allowed: Arc<[Network]>,
    version: &'static str,
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("could not connect")]
    Connect(#[source] std::io::Error),
    #[error("the request could not be made")]
    Request(#[source] http::Error),
    #[error("no answer came")]
    Answer(#[source] hyper::Error),
}

impl Sender {
    /// With the machine's own certificate authorities.
    #[must_use]
    pub fn new(allowed: &[Network], version: &'static str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        // The provider has the default versions: what it can't do it would not be built with.
        let tls = match versions {
            Ok(builder) => builder.with_root_certificates(roots).with_no_client_auth(),
            Err(_) => ClientConfig::builder().with_root_certificates(roots).with_no_client_auth(),
        };
        Self { tls: Arc::new(tls), allowed: allowed.into(), version }
    }

    /// Where a webhook may point to: its form, and for an address that is written as one, whether it is private.
    pub fn check(&self, url: &str) -> Result<(), TargetError> {
        let target = Target::parse(url)?;
        target.check_literal(&self.allowed)
    }

    /// Tries to deliver. Whatever goes wrong is in the answer.
    pub async fn attempt(&self, message: &Message<'_>, now: Millis) -> Attempt {
        let began = Instant::now();
        let result = tokio::time::timeout(DEADLINE, self.exchange(message, now)).await;
        let duration_ms = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
        let (response_status, error) = match result {
            Ok(Ok(status)) if status.is_success() => (Some(i64::from(status.as_u16())), None),
            Ok(Ok(status)) if status.is_redirection() => {
                (Some(i64::from(status.as_u16())), Some(format!("answered {status}; redirects are not followed")))
            }
            Ok(Ok(status)) => (Some(i64::from(status.as_u16())), Some(format!("answered {status}"))),
            Ok(Err(error)) => (None, Some(describe(&error))),
            Err(_) => (None, Some(format!("no answer within {} s", DEADLINE.as_secs()))),
        };
        Attempt { response_status, error, duration_ms }
    }

    async fn exchange(&self, message: &Message<'_>, now: Millis) -> Result<StatusCode, SendError> {
        let target = Target::parse(message.url)?;
        let address = target.resolve(&self.allowed).await?;
        let stream = TcpStream::connect(address).await.map_err(SendError::Connect)?;
        let seconds = now.0 / 1000;
        let request = Request::post(target.path.as_str())
            .header("host", target.authority())
            .header("content-type", "application/json")
            .header("user-agent", format!("Atoll-Webhook/{}", self.version))
            .header("atoll-webhook-id", message.id)
            .header("atoll-webhook-timestamp", seconds)
            .header("atoll-webhook-signature", signature(&message.secrets, seconds, message.body))
            .body(Full::new(Bytes::copy_from_slice(message.body.as_bytes())))
            .map_err(SendError::Request)?;
        if !target.secure {
            return status_of(stream, request).await;
        }
        let name = ServerName::try_from(target.host.clone()).map_err(|_| TargetError::Form)?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, stream).await.map_err(SendError::Connect)?;
        status_of(stream, request).await
    }
}

async fn status_of<S>(stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode, SendError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::Builder::new().max_buf_size(64 * 1024).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(SendError::Answer)?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    // What the answer's body holds is nobody's business here.
    driver.abort();
    Ok(answer.map_err(SendError::Answer)?.status())
}

fn describe(error: &SendError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}").chars().take(300).collect()
}
