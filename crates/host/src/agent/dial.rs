//! Connections from the agent to control: TCP, then TLS, always.
//!
//! Control's port presents a certificate of its own CA when asked for [`CONTROL_SERVER_NAME`]. A proxy in front of an
//! `https` address may not know that name, so there the public name is tried next; which of the two worked is
//! remembered. What may be accepted at all is decided in [`super::trust`].

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use atoll_model::api::hosts::CONTROL_SERVER_NAME;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::endpoint::Endpoint;

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
const READ_AHEAD: usize = 128 * 1024;

/// Dials control; shared by all requests.
#[derive(Clone)]
pub struct ControlDialer {
    endpoint: Arc<Endpoint>,
    tls: Arc<ArcSwap<ClientConfig>>,
    by_public_name: Arc<AtomicBool>,
}

impl ControlDialer {
    #[must_use]
    pub fn new(endpoint: Arc<Endpoint>, tls: ClientConfig) -> Self {
        Self { endpoint, tls: Arc::new(ArcSwap::from_pointee(tls)), by_public_name: Arc::new(AtomicBool::new(false)) }
    }

    /// New connections are judged by this from now on.
    pub fn replace_trust(&self, tls: ClientConfig) {
        self.tls.store(Arc::new(tls));
    }

    async fn dial(&self) -> io::Result<ControlStream> {
        let public = self.endpoint.public_name();
        let names = match public {
            None => vec![CONTROL_SERVER_NAME],
            Some(public) if self.by_public_name.load(Ordering::Relaxed) => vec![public, CONTROL_SERVER_NAME],
            Some(public) => vec![CONTROL_SERVER_NAME, public],
        };
        let mut last = io::Error::other("no name to ask for");
        for name in names {
            // A control that can't be reached at all is the same by either name.
            let tcp = self.connect().await?;
            match self.handshake(tcp, name).await {
                Ok(stream) => {
                    self.by_public_name.store(Some(name) == public, Ordering::Relaxed);
                    return Ok(ControlStream(TokioIo::new(stream)));
                }
                Err(error) => last = error,
            }
        }
        Err(io::Error::new(last.kind(), format!("TLS with {}: {last}", self.endpoint.authority())))
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let tcp = TcpStream::connect((self.endpoint.host(), self.endpoint.port())).await.map_err(|error| {
            io::Error::new(error.kind(), format!("connecting to {}: {error}", self.endpoint.authority()))
        })?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    async fn handshake(&self, tcp: TcpStream, name: &str) -> io::Result<TlsStream<BufReader<TcpStream>>> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        // Images come this way, and rustls by itself reads 4 KiB at a time.
        TlsConnector::from(self.tls.load_full()).connect(name, BufReader::with_capacity(READ_AHEAD, tcp)).await
    }
}

impl tower::Service<Uri> for ControlDialer {
    type Response = ControlStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<ControlStream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move {
            tokio::time::timeout(DIAL_TIMEOUT, dialer.dial()).await.unwrap_or_else(|_| {
                let text = format!("{} did not answer within {DIAL_TIMEOUT:?}", dialer.endpoint.authority());
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            })
        })
    }
}

/// A verified connection to control.
pub struct ControlStream(TokioIo<TlsStream<BufReader<TcpStream>>>);

impl ControlStream {
    fn inner(self: Pin<&mut Self>) -> Pin<&mut TokioIo<TlsStream<BufReader<TcpStream>>>> {
        Pin::new(&mut self.get_mut().0)
    }
}

impl Connection for ControlStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for ControlStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buffer)
    }
}

impl Write for ControlStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}
