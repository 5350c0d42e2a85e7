//! Connections to programs that listen in a sandbox: one TCP connection per request, HTTP/1.1. Names of headers are sent
//! as people write them (`Host`), since programs that are tried out in sandboxes may look for them so.
//!
//! Not pooled: what listens there is anybody's program, and a request must not fail because such a program closed a
//! connection that was kept for later.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What is spoken at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Plain,
    Tls,
}

/// How a request to a port failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortError {
    /// Nothing listens.
    Closed,
    /// Something listened, but no answer came.
    Broken,
}

/// Sends a request; its connection ends with the answer's body, or with the sandbox.
pub async fn send(
    address: SocketAddr,
    speaks: Speaks,
    request: Request<Body>,
    cut: CancellationToken,
) -> Result<Response<Incoming>, PortError> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
    let Ok(Ok(stream)) = connecting.await else { return Err(PortError::Closed) };
    let _best_effort = stream.set_nodelay(true);
    match speaks {
        Speaks::Plain => over(stream, address, request, cut).await,
        Speaks::Tls => {
            let connecting = tls::connect(stream, request.headers(), address);
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(Ok(stream)) => over(stream, address, request, cut).await,
                _ => Err(PortError::Broken),
            }
        }
    }
}

async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    request: Request<Body>,
    cut: CancellationToken,
) -> Result<Response<Incoming>, PortError> {
    let handshake = http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|_| PortError::Broken)?;
    tokio::spawn(async move {
        tokio::select! {
            _ended = connection.with_upgrades() => {}
            () = cut.cancelled() => {}
        }
    });
    sender.send_request(request).await.map_err(|error| {
        tracing::debug!(%address, %error, "a request to a sandbox's port failed");
        PortError::Broken
    })
}
