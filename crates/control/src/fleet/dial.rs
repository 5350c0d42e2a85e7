//! Making a connection to a host: TCP, then TLS 1.3 with both ends verified.
//!
//! The server's certificate must chain to control's CA, be for this host's name, and be of the very key that the
//! host registered. What a host's address resolves to is judged at each dial: a name may lead elsewhere by then.
//! [`Dial`] is a trait so that a tunnel or a simulated network can take its place.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use atoll_model::HostId;
use atoll_model::api::hosts::TUNNEL_ADDRESS;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::server::ParsedCertificate;
use rustls_pki_types::ServerName;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{HostLocation, TunnelPlace, authority};

/// A connection's bytes.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Wire for T {}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http {
    One,
    Two,
}

/// Makes connections to hosts, verified: whoever is at the other end is the host.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// # Errors
    /// When the host can't be reached or is not who it should be. The caller bounds the time.
    async fn dial(&self, host: &HostId, location: &HostLocation, http: Http) -> io::Result<Box<dyn Wire>>;
}

const READ_AHEAD: usize = 128 * 1024;
const WRITE_BEHIND: usize = 256 * 1024;

/// Gives the raw bytes of a new connection to a host that is reached through its tunnel.
#[async_trait]
pub trait TunnelStreams: Send + Sync + 'static {
    /// # Errors
    /// When the tunnel is not open, or its replica can't be reached.
    async fn open(&self, host: &HostId, place: &TunnelPlace) -> io::Result<Box<dyn Wire>>;
}

/// Why nothing is ever dialled at an address, if so.
pub type Objection = Arc<dyn Fn(IpAddr) -> Option<&'static str> + Send + Sync>;

/// Dials the host's advertised address, or takes its tunnel.
pub struct TcpDialer {
    one: TlsConnector,
    two: TlsConnector,
    objection: Option<Objection>,
    tunnels: Option<Arc<dyn TunnelStreams>>,
}

impl TcpDialer {
    /// `tls` presents control's client certificate and trusts control's CA alone (`pki` makes it).
    #[must_use]
    pub fn new(tls: &ClientConfig) -> Self {
        let with = |protocol: &[u8]| {
            let mut tls = tls.clone();
            tls.alpn_protocols = vec![protocol.to_vec()];
            // A resumed session would skip looking at the certificate.
            tls.resumption = Resumption::disabled();
            TlsConnector::from(Arc::new(tls))
        };
        Self { one: with(b"http/1.1"), two: with(b"h2"), objection: None, tunnels: None }
    }

    /// Reaches hosts behind NAT as well.
    #[must_use]
    pub fn with_tunnels(mut self, tunnels: Arc<dyn TunnelStreams>) -> Self {
        self.tunnels = Some(tunnels);
        self
    }

    /// Dials no address that there is an objection to, whatever name leads to it.
    #[must_use]
    pub fn with_objection(mut self, objection: Objection) -> Self {
        self.objection = Some(objection);
        self
    }

    async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let mut failed = None;
        for at in tokio::net::lookup_host(address).await? {
            if let Some(objection) = self.objection.as_ref().and_then(|objection| objection(at.ip())) {
                let refused = format!("{address} leads to {}, which {objection}", at.ip());
                failed.get_or_insert_with(|| io::Error::new(io::ErrorKind::PermissionDenied, refused));
                continue;
            }
            match TcpStream::connect(at).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{address} leads nowhere"))))
    }

    async fn wire(&self, host: &HostId, location: &HostLocation) -> io::Result<Box<dyn Wire>> {
        if location.address != TUNNEL_ADDRESS {
            let tcp = self.connect(&location.address).await?;
            keep_alive(&tcp)?;
            return Ok(Box::new(tcp));
        }
        match (&location.tunnel, &self.tunnels) {
            (Some(place), Some(tunnels)) => tunnels.open(host, place).await,
            _ => Err(io::Error::new(io::ErrorKind::NotConnected, "the host's tunnel is not open")),
        }
    }
}

#[async_trait]
impl Dial for TcpDialer {
    async fn dial(&self, host: &HostId, location: &HostLocation, http: Http) -> io::Result<Box<dyn Wire>> {
        let wire = self.wire(host, location).await?;
        let name = ServerName::try_from(authority(host)).map_err(io::Error::other)?;
        let connector = match http {
            Http::One => &self.one,
            Http::Two => &self.two,
        };
        // rustls reads 4 KiB at a time and writes 64 KiB: too many system calls for a stream at full speed.
        let mut tls = connector.connect(name, BufReader::with_capacity(READ_AHEAD, wire)).await?;
        tls.get_mut().1.set_buffer_limit(Some(WRITE_BEHIND));
        let (_, session) = tls.get_ref();
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.ok_or_else(|| io::Error::other("the host showed no certificate"))?;
        let key = ParsedCertificate::try_from(certificate).map_err(io::Error::other)?.subject_public_key_info();
        if Sha256::digest(key.as_ref())[..] != location.key_sha256 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the host's certificate is of another key than the one it registered with",
            ));
        }
        let spoken = session.alpn_protocol();
        if http == Http::Two && spoken != Some(b"h2") {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the host does not speak HTTP/2"));
        }
        Ok(Box::new(tls))
    }
}

/// A peer that has vanished is noticed within about half a minute, whatever is or isn't being sent.
pub(super) fn keep_alive(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(tcp, true)?;
    rustix::net::sockopt::set_tcp_keepidle(tcp, Duration::from_secs(10))?;
    rustix::net::sockopt::set_tcp_keepintvl(tcp, Duration::from_secs(5))?;
    rustix::net::sockopt::set_tcp_keepcnt(tcp, 4)?;
    rustix::net::sockopt::set_tcp_user_timeout(tcp, 30_000)?;
    Ok(())
}
