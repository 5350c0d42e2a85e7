//! Connections to guest agents: HTTP/1.1 over the sandbox's unix socket, pooled for a short while.
//!
//! The host connects to a path of its own making; nothing inside a sandbox decides where.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use atoll_model::SandboxId;
use axum::body::Body;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;

use super::Directory;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(15);
const MAX_IDLE: usize = 8;

/// A client whose addresses are `http://<sandbox id>/...`.
pub type GuestClient = Client<GuestConnector, Body>;

#[must_use]
pub fn client(directory: Arc<dyn Directory>) -> GuestClient {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(MAX_IDLE)
        .build(GuestConnector { directory })
}

/// Finds the socket by the sandbox's id.
#[derive(Clone)]
pub struct GuestConnector {
    directory: Arc<dyn Directory>,
}

impl tower::Service<Uri> for GuestConnector {
    type Response = GuestStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<GuestStream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let id = uri.host().and_then(|host| host.parse::<SandboxId>().ok());
        let route = id.and_then(|id| self.directory.route(&id).ok());
        Box::pin(async move {
            let route = route.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the sandbox is gone"))?;
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(&route.socket)).await??;
            Ok(GuestStream(TokioIo::new(stream)))
        })
    }
}

/// A connection to a guest agent.
pub struct GuestStream(TokioIo<UnixStream>);

impl Connection for GuestStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for GuestStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for GuestStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }
}
