//! The tunnel of a host that can't be reached from outside: a connection to control that the agent keeps open, and
//! opens again when it has ended.
//!
//! Inside it the agent is the server of HTTP/2, and each `CONNECT` of control is a new connection to its listener: the
//! same TLS, with the same proof that it is control that calls, as on a connection over TCP. The tunnel itself grants
//! nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::Router;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::Rng;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::control::HttpControl;
use super::credentials::CredentialStore;
use super::listener;

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// A tunnel that lasted this long was a good one: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(30);
const PING: Duration = Duration::from_secs(10);
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
const FRAME: u32 = 64 * 1024;

pub struct Tunnel {
    pub control: Arc<HttpControl>,
    pub store: Arc<CredentialStore>,
    pub tls: Arc<ArcSwapOption<ServerConfig>>,
    pub router: Router,
    pub max_connections: u32,
    /// Whether it is open.
    pub open: watch::Sender<bool>,
}

impl Tunnel {
    /// Keeps a tunnel open until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut wait = FIRST_WAIT;
        loop {
            let began = tokio::time::Instant::now();
            tokio::select! {
                () = self.once(&shutdown) => {}
                () = shutdown.cancelled() => return,
            }
            self.open.send_replace(false);
            if shutdown.is_cancelled() {
                return;
            }
            wait = if began.elapsed() >= GOOD { FIRST_WAIT } else { (wait * 2).min(LONGEST_WAIT) };
            let jittered = wait.mul_f64(rand::rng().random_range(0.75..=1.25));
            tokio::select! {
                () = tokio::time::sleep(jittered) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Opens one and serves it to its end.
    async fn once(&self, shutdown: &CancellationToken) {
        let Some(stored) = self.store.load() else { return };
        let identity = &stored.current;
        let opened = self.control.open_tunnel(identity.host_id(), &identity.credentials.access_token).await;
        let io = match opened {
            Ok(io) => io,
            Err(error) => {
                tracing::warn!(%error, "the tunnel to control could not be opened");
                return;
            }
        };
        tracing::info!("the tunnel to control is open");
        self.open.send_replace(true);
        self.serve(io, shutdown).await;
        tracing::info!("the tunnel to control has ended");
    }

    async fn serve(&self, io: Upgraded, shutdown: &CancellationToken) {
        // What was begun inside a tunnel ends with it.
        let streams = shutdown.child_token();
        let _end_of_streams = streams.clone().drop_guard();
        let connections = TaskTracker::new();
        let service = service_fn(|request: Request<Incoming>| {
            let status = if *request.method() == Method::CONNECT {
                self.connect(request, &connections, &streams);
                StatusCode::OK
            } else {
                StatusCode::METHOD_NOT_ALLOWED
            };
            let mut answer = Response::new(Empty::<Bytes>::new());
            *answer.status_mut() = status;
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_send_buf_size(1 << 20)
            .max_concurrent_streams(self.max_connections)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        let served = builder.serve_connection(io, service);
        tokio::pin!(served);
        tokio::select! {
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "the tunnel broke");
                }
            }
            () = shutdown.cancelled() => {
                served.as_mut().graceful_shutdown();
                let _cut = tokio::time::timeout(listener::DRAIN, served).await;
            }
        }
    }

    /// A new connection of control's.
    fn connect(&self, mut request: Request<Incoming>, connections: &TaskTracker, streams: &CancellationToken) {
        let Some(tls) = self.tls.load_full() else { return };
        let (router, streams) = (self.router.clone(), streams.clone());
        let upgrade = hyper::upgrade::on(&mut request);
        connections.spawn(async move {
            let io = match upgrade.await {
                Ok(io) => TokioIo::new(io),
                Err(error) => {
                    tracing::debug!(%error, "a stream in the tunnel did not open");
                    return;
                }
            };
            if let Err(error) = listener::connection(io, tls, router, streams).await {
                tracing::debug!(error = format!("{error:#}"), "a connection in the tunnel ended");
            }
        });
    }
}
