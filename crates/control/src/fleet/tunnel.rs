//! Hosts behind NAT: the host keeps one connection open to a replica of control, and control's connections to it are
//! streams inside that one.
//!
//! The connection is HTTP/2 with the roles turned round: control is its client, and each `CONNECT` is a new connection
//! to the agent's listener, on which the very same TLS runs as on one over TCP. So a tunnel proves nothing and opens
//! nothing by itself: both ends are verified inside, and a replica that only passes a stream on sees ciphertext.
//!
//! Which replica holds a host's tunnel is in the database. The other replicas ask that one for a stream (an upgraded
//! HTTP/1.1 request, with a short-lived token that only replicas can sign) and speak to the host through it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use atoll_model::HostId;
use atoll_model::api::hosts::{CONTROL_SERVER_NAME, TUNNEL_PROTOCOL};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Method, Request, StatusCode, Uri, Version};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::dial::{TunnelStreams, Wire, keep_alive};
use super::{TunnelPlace, authority};

/// The header that carries a replica's token.
pub const RELAY_HEADER: &str = "x-atoll-relay";
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
const PING: Duration = Duration::from_secs(10);

type Sender = http2::SendRequest<Empty<Bytes>>;

/// Signs what one replica says to another.
pub trait RelayTokens: Send + Sync + 'static {
    fn relay_token(&self, host: &HostId) -> Option<String>;
}

/// The tunnels of this replica, and the way to those of others. Cheap to clone.
#[derive(Clone)]
pub struct Tunnels {
    shared: Arc<Shared>,
}

struct Shared {
    replica: String,
    tls: TlsConnector,
    tokens: Arc<dyn RelayTokens>,
    open: Mutex<HashMap<HostId, (String, Sender)>>,
}

impl Tunnels {
    /// `tls` trusts control's CA alone; `replica` is this one's name.
    #[must_use]
    pub fn new(replica: String, tls: &ClientConfig, tokens: Arc<dyn RelayTokens>) -> Self {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        tls.resumption = Resumption::disabled();
        let tls = TlsConnector::from(Arc::new(tls));
        Self { shared: Arc::new(Shared { replica, tls, tokens, open: Mutex::default() }) }
    }

    fn open_ones(&self) -> MutexGuard<'_, HashMap<HostId, (String, Sender)>> {
        self.shared.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many tunnels end here.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open_ones().len()
    }

    /// A host's connection, upgraded, becomes its tunnel. Gives its name, and what runs until it has ended.
    ///
    /// # Errors
    /// When the other end does not speak HTTP/2.
    pub async fn accept(
        &self,
        host: &HostId,
        io: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    ) -> Result<(String, BoxFuture<'static, ()>), hyper::Error> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(64 * 1024)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true);
        let (sender, connection) = builder.handshake(io).await?;
        let name = hex::encode(rand::random::<[u8; 8]>());
        self.open_ones().insert(host.clone(), (name.clone(), sender));
        let (tunnels, host, connection_name) = (self.clone(), host.clone(), name.clone());
        let run = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%host, %error, "a tunnel ended");
            }
            let mut open = tunnels.open_ones();
            if open.get(&host).is_some_and(|(name, _)| *name == connection_name) {
                open.remove(&host);
            }
        };
        Ok((name, Box::pin(run)))
    }

    /// Ends a tunnel of this replica: streams inside it break.
    pub fn close(&self, host: &HostId, connection: &str) {
        let mut open = self.open_ones();
        if open.get(host).is_some_and(|(name, _)| name == connection) {
            open.remove(host);
        }
    }

    /// A new stream to a host whose tunnel ends here.
    ///
    /// # Errors
    /// When it does not, or has just ended.
    pub async fn local(&self, host: &HostId) -> io::Result<Box<dyn Wire>> {
        let sender = self.open_ones().get(host).map(|(_, sender)| sender.clone());
        let mut sender =
            sender.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the host's tunnel is not open"))?;
        let uri = Uri::builder().authority(format!("{}:443", authority(host))).build().map_err(io::Error::other)?;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        sender.ready().await.map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        if response.status() != StatusCode::OK {
            return Err(io::Error::other(format!("the host refused a stream: {}", response.status())));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }

    /// A new stream to a host whose tunnel ends at another replica.
    async fn relayed(&self, host: &HostId, place: &TunnelPlace) -> io::Result<Box<dyn Wire>> {
        let address = place.advertise.as_deref().ok_or_else(|| {
            let text = "the replica that holds the host's tunnel has no address for others (--advertise)";
            io::Error::new(io::ErrorKind::AddrNotAvailable, text)
        })?;
        let tcp = TcpStream::connect(address).await?;
        keep_alive(&tcp)?;
        let name = ServerName::try_from(CONTROL_SERVER_NAME).map_err(io::Error::other)?;
        let tls = self.shared.tls.connect(name, tcp).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(io::Error::other)?;
        tokio::spawn(connection.with_upgrades());
        let token = self.shared.tokens.relay_token(host).ok_or_else(|| io::Error::other("no token for a replica"))?;
        let request = Request::builder()
            .uri(format!("/v1/hosts/{host}/tunnel/relay"))
            .header(HOST, CONTROL_SERVER_NAME)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, TUNNEL_PROTOCOL)
            .header(RELAY_HEADER, token)
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(io::Error::other(format!("the replica at {address} refused a stream: {}", response.status())));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }
}

#[async_trait]
impl TunnelStreams for Tunnels {
    async fn open(&self, host: &HostId, place: &TunnelPlace) -> io::Result<Box<dyn Wire>> {
        if place.replica == self.shared.replica { self.local(host).await } else { self.relayed(host, place).await }
    }
}
