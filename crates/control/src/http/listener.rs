//! One TCP port for everything: the first byte tells TLS (0x16) from plain HTTP, both speak HTTP/1.1 and HTTP/2.
//!
//! TLS shows control's internal certificate to agents, which ask for it by its name, and the operator's certificate,
//! if there is one, to everybody else. Connections are bounded; each must send its request's head in time; at the end
//! all are asked to finish what they are doing.

use std::io::{self, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::caller::Peer;
use super::site::OverTls;
use crate::app::App;
use crate::config::{Network, TlsFiles};
use crate::pki::{Authority, internal_server_config};
use crate::shares::Shares;

/// The first byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// After an accept failed (out of descriptors, for example).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that have not finished by then are cut.
const DRAIN: Duration = Duration::from_secs(8);

/// What is shown on TLS connections.
#[derive(Clone)]
pub struct Tls {
    internal: Arc<ServerConfig>,
    /// The operator's own.
    public: Option<Arc<ServerConfig>>,
}

impl Tls {
    /// Makes control's internal certificate and loads the operator's files.
    pub fn load(authority: &Authority, files: Option<&TlsFiles>) -> anyhow::Result<Self> {
        let internal = internal_server_config(authority)?;
        let public = files.map(load_files).transpose()?.map(Arc::new);
        Ok(Self { internal, public })
    }

    /// The certificate for the name that the client asks for.
    fn choose(&self, name: Option<&str>) -> Arc<ServerConfig> {
        match &self.public {
            Some(public) if name != Some(atoll_model::api::hosts::CONTROL_SERVER_NAME) => Arc::clone(public),
            _ => Arc::clone(&self.internal),
        }
    }
}

fn load_files(files: &TlsFiles) -> anyhow::Result<ServerConfig> {
    use rustls_pki_types::pem::PemObject;
    let shown = |path: &std::path::Path| format!("reading {}", path.display());
    let open = |path: &std::path::Path| std::fs::File::open(path).map(BufReader::new).with_context(|| shown(path));
    let chain: Vec<_> = rustls_pki_types::CertificateDer::pem_reader_iter(open(&files.certificate)?)
        .collect::<Result<_, _>>()
        .with_context(|| shown(&files.certificate))?;
    let key = rustls_pki_types::PrivateKeyDer::from_pem_reader(open(&files.key)?).with_context(|| shown(&files.key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the certificate and the key don't fit together")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts connections until the shutdown, then waits a moment for those that are open.
pub async fn serve(app: App, listener: TcpListener, tls: Tls, router: Router) {
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(app.config.http.max_connections));
    let addresses = Shares::halved(app.config.http.max_connections);
    loop {
        let accepted = tokio::select! {
            () = app.shutdown.cancelled() => break,
            accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
                listener.accept().await.map(|(stream, peer)| (slot, stream, peer))
            } => accepted,
        };
        match accepted {
            Ok((slot, stream, peer)) => {
                let share = match share(&addresses, peer.ip(), &app.config.trusted_proxies) {
                    Ok(share) => share,
                    Err(_) => {
                        tracing::debug!(%peer, "an address has too many connections: one was closed");
                        continue;
                    }
                };
                let (app, tls, router) = (app.clone(), tls.clone(), router.clone());
                connections.spawn(async move {
                    app.metrics.connections.fetch_add(1, Ordering::Relaxed);
                    connection(&app, stream, peer, &tls, router).await;
                    app.metrics.connections.fetch_sub(1, Ordering::Relaxed);
                    drop((slot, share));
                });
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::info!(open = connections.len(), "connections were still open at the end");
    }
}

/// The address's part of the connections. Behind a trusted proxy is everybody.
fn share(
    addresses: &Shares<IpAddr>,
    peer: IpAddr,
    trusted: &[Network],
) -> Result<Option<crate::shares::Share<IpAddr>>, crate::shares::Full> {
    if trusted.iter().any(|network| network.contains(peer)) {
        return Ok(None);
    }
    let holder = match peer.to_canonical() {
        // Whoever has one IPv6 address has its whole /64.
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    };
    addresses.take(&holder, 1).map(Some)
}

async fn connection(app: &App, stream: TcpStream, peer: SocketAddr, tls: &Tls, router: Router) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "could not set TCP_NODELAY");
    }
    let limit = app.config.http.header_timeout;
    let mut first = [0];
    match tokio::time::timeout(limit, stream.peek(&mut first)).await {
        Ok(Ok(1)) => {}
        // Closed, broken or silent.
        _ => return,
    }
    if first[0] != TLS_HANDSHAKE {
        return http(app, stream, peer, false, router).await;
    }
    let handshake = async {
        let started = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let config = tls.choose(started.client_hello().server_name());
        started.into_stream(config).await
    };
    match tokio::time::timeout(limit, handshake).await {
        Ok(Ok(stream)) => http(app, stream, peer, true, router).await,
        Ok(Err(error)) => {
            app.metrics.handshake_failures.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%peer, %error, "TLS handshake failed");
        }
        Err(_) => {
            app.metrics.handshake_failures.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%peer, "TLS handshake took too long");
        }
    }
}

async fn http<S>(app: &App, stream: S, peer: SocketAddr, tls: bool, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(app.config.http.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(2048)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    let (limit, first) = (app.config.http.header_timeout, Arc::new(Notify::new()));
    let begun = Arc::clone(&first);
    let service = service_fn(move |mut request: Request<Incoming>| {
        begun.notify_one();
        request.extensions_mut().insert(Peer(peer));
        if tls {
            request.extensions_mut().insert(OverTls);
        }
        router.clone().oneshot(request)
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // HTTP/1 has a limit for each request's head. What is neither it nor HTTP/2 yet has none, nor has HTTP/2.
    let silent = async {
        if tokio::time::timeout(limit, first.notified()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = silent => {
            tracing::debug!(%peer, "a connection brought no request in time");
            return;
        }
        () = app.shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error = &*error, "a connection ended with an error");
    }
}

#[cfg(test)]
mod tests;
