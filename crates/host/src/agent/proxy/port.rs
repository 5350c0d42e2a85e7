//! Connections to programs that listen in a sandbox: one TCP connection per request, HTTP/1.1.
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
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
    request: Request<Body>,
    cut: CancellationToken,
) -> Result<Response<Incoming>, PortError> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
    let Ok(Ok(stream)) = connecting.await else { return Err(PortError::Closed) };
    let _best_effort = stream.set_nodelay(true);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| PortError::Broken)?;
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
