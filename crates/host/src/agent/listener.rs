//! The agent's listener: TLS 1.3 with both ends verified, HTTP/1.1 and HTTP/2, for control alone.
//!
//! The certificate is exchanged while connections live on: each handshake takes what [`Listener::replace`] set last.
//! Connections, handshakes and idle times are bounded. What is served is the caller's router.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests under way may take to end at a shutdown.
pub(super) const DRAIN: Duration = Duration::from_secs(2);

/// Room in flight: enough for a fast stream over a far link.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const FRAME: u32 = 64 * 1024;
const HTTP1_BUFFER: usize = 512 * 1024;
const READ_AHEAD: usize = 128 * 1024;
const WRITE_BEHIND: usize = 256 * 1024;

pub struct Listener {
    socket: TcpListener,
    bound: SocketAddr,
    tls: Arc<ArcSwapOption<ServerConfig>>,
}

impl Listener {
    /// Binds; nothing is answered until [`Self::serve`].
    ///
    /// # Errors
    /// When the address can't be had.
    pub async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        let bound = socket.local_addr().context("reading the listener's address")?;
        Ok(Self { socket, bound, tls: Arc::new(ArcSwapOption::empty()) })
    }

    #[must_use]
    pub const fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// What handshakes use from now on.
    #[must_use]
    pub fn tls(&self) -> Arc<ArcSwapOption<ServerConfig>> {
        self.tls.clone()
    }

    /// Serves until `shutdown`, then lets what is under way end for a moment.
    pub async fn serve(self, router: Router, max_connections: usize, shutdown: CancellationToken) {
        let room = Arc::new(Semaphore::new(max_connections));
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "could not set TCP_NODELAY");
                    }
                    stream
                }
                Err(error) => {
                    // Out of descriptors, or a connection that ended before it was taken: neither ends the agent.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let Ok(permit) = room.clone().try_acquire_owned() else {
                tracing::warn!(max_connections, "too many connections: one was closed");
                continue;
            };
            let Some(tls) = self.tls.load_full() else { continue };
            let (router, shutdown) = (router.clone(), shutdown.clone());
            connections.spawn(async move {
                if let Err(error) = connection(stream, tls, router, shutdown).await {
                    tracing::debug!(error = format!("{error:#}"), "a connection ended");
                }
                drop(permit);
            });
        }
        connections.close();
        let _late_ones_are_cut = tokio::time::timeout(DRAIN, connections.wait()).await;
    }
}

pub(super) async fn connection<S>(
    stream: S,
    tls: Arc<ServerConfig>,
    router: Router,
    shutdown: CancellationToken,
) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // rustls reads 4 KiB at a time and writes 64 KiB: too many system calls for a stream at full speed.
    let handshake = TlsAcceptor::from(tls).accept(BufReader::with_capacity(READ_AHEAD, stream));
    let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
    let mut stream = accepted.context("waiting for the TLS handshake")??;
    stream.get_mut().1.set_buffer_limit(Some(WRITE_BEHIND));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HTTP1_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buf_size(1 << 20)
        .max_concurrent_streams(4096)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .enable_connect_protocol();
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(served);
    tokio::select! {
        ended = served.as_mut() => return ended.map_err(|error| anyhow::anyhow!(error)),
        () = shutdown.cancelled() => served.as_mut().graceful_shutdown(),
    }
    served.await.map_err(|error| anyhow::anyhow!(error))
}
