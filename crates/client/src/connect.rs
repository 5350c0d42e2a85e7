//! Opens connections: TCP without delay, TLS where the address asks for it, and no name lookup for addresses
//! that need none.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{Endpoint, Error};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Where distributions keep the certificates that the machine trusts.
const TRUST_STORES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Connects to one server; cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector {
    endpoint: Arc<Endpoint>,
    /// Made at first use: reading a trust store costs more than a whole request on loopback.
    tls: Arc<OnceLock<Result<TlsConnector, String>>>,
}

impl Connector {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint, tls: Arc::default() }
    }

    /// A fresh connection.
    pub(crate) async fn connect(&self) -> io::Result<Stream> {
        let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "no connection within 10 s");
        tokio::time::timeout(CONNECT_DEADLINE, self.connect_now()).await.map_err(|_| timed_out())?
    }

    async fn connect_now(&self) -> io::Result<Stream> {
        let (host, port) = (self.endpoint.host(), self.endpoint.port());
        let tcp = match host.parse::<IpAddr>() {
            Ok(address) => TcpStream::connect(SocketAddr::new(address, port)).await?,
            Err(_) if host == "localhost" => {
                let local = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                match TcpStream::connect(local).await {
                    Ok(stream) => stream,
                    Err(_) => TcpStream::connect((host, port)).await?,
                }
            }
            Err(_) => TcpStream::connect((host, port)).await?,
        };
        tcp.set_nodelay(true)?;
        if !self.endpoint.tls() {
            return Ok(Stream::Plain(tcp));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector =
            self.tls.get_or_init(tls_connector).as_ref().map_err(|cause| io::Error::other(cause.clone()))?;
        Ok(Stream::Tls(Box::new(connector.connect(name, tcp).await?)))
    }

    /// Fails early, with the reason, when TLS is asked for and can't be had.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if !self.endpoint.tls() {
            return Ok(());
        }
        self.tls.get_or_init(tls_connector).as_ref().map(drop).map_err(|cause| Error::Tls(cause.clone()))
    }
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

impl tower::Service<http::Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Stream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await.map(TokioIo::new) })
    }
}

/// A connection, plain or encrypted.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        }
    }
}
