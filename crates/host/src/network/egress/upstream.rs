//! The way to a real server: a name of the policy, resolved by the host's resolvers, judged address by address, with TLS.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::socks::{self, Leg};
use super::{Client, Shared, is_own, may_reach};

const CONNECT: Duration = Duration::from_secs(10);
const PORT: u16 = 443;
/// Of one answer.
const MAX_ADDRESSES: usize = 16;

/// Why there is no connection. What the sandbox is told.
#[derive(Debug, thiserror::Error)]
pub enum NoWay {
    #[error("its name has no IPv4 address")]
    NoAddress,
    #[error("its address {0} is none that this sandbox may reach")]
    Denied(IpAddr),
    #[error("connecting to {address}: {source}")]
    Connect { address: IpAddr, source: io::Error },
    #[error("through the sandbox's own proxy: {0}")]
    Proxy(#[from] socks::Failure),
    #[error("TLS with {address}: {source}")]
    Tls { address: IpAddr, source: io::Error },
}

/// Connects to one name, whatever address it is asked for.
#[derive(Clone)]
pub struct Connector {
    pub shared: Arc<Shared>,
    pub client: Arc<Client>,
    pub name: String,
    /// Something else will be spoken after an upgrade, which HTTP/2 has not.
    pub only_http1: bool,
}

impl tower::Service<Uri> for Connector {
    type Response = Upstream;
    type Error = NoWay;
    type Future = Pin<Box<dyn Future<Output = Result<Upstream, NoWay>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoWay>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await })
    }
}

impl Connector {
    async fn connect(&self) -> Result<Upstream, NoWay> {
        let addresses = self.shared.resolver.resolve(&self.name, MAX_ADDRESSES).await;
        let mut failure = NoWay::NoAddress;
        for address in addresses {
            match self.connect_to(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn connect_to(&self, address: Ipv4Addr) -> Result<Upstream, NoWay> {
        let ip = IpAddr::V4(address);
        if !may_reach(&self.client, &self.shared.allowed, &self.name, address) || is_own(address) {
            return Err(NoWay::Denied(ip));
        }
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let stream: Leg = match &self.client.policy.own_proxy {
            Some(proxy) => socks::connect(&self.shared, &self.client, proxy, SocketAddrV4::new(address, PORT)).await?,
            None => {
                let connect = |source| NoWay::Connect { address: ip, source };
                let stream = timeout(CONNECT, TcpStream::connect(SocketAddr::new(ip, PORT))).await.map_err(late);
                let stream = stream.and_then(|result| result).map_err(connect)?;
                stream.set_nodelay(true).map_err(connect)?;
                Box::new(stream)
            }
        };

        let tls = |source| NoWay::Tls { address: ip, source };
        let name = ServerName::try_from(self.name.clone()).map_err(|error| tls(io::Error::other(error)))?;
        let mut config = self.shared.tls();
        if self.only_http1 {
            Arc::make_mut(&mut config).alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        let stream = timeout(CONNECT, TlsConnector::from(config).connect(name, stream)).await.map_err(late);
        Ok(Upstream(TokioIo::new(stream.and_then(|result| result).map_err(tls)?)))
    }
}

/// A connection to a real server.
pub struct Upstream(TokioIo<TlsStream<Leg>>);

impl Connection for Upstream {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        match self.0.inner().get_ref().1.alpn_protocol() {
            Some(b"h2") => connected.negotiated_h2(),
            _ => connected,
        }
    }
}

impl Read for Upstream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for Upstream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
