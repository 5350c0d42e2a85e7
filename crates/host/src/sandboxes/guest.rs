//! What the keeper itself says to a guest agent: little, since control speaks to guests through the proxy.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

const TRUST: &str = "/atoll.guest.v1.GuestService/Trust";
/// A guest is not to be waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_ANSWER: usize = 4096;

/// Has a guest trust an authority, in PEM.
pub async fn trust(socket: &Path, authority: &str) -> anyhow::Result<()> {
    let body = serde_json::json!({ "authorityPem": authority }).to_string();
    let request = Request::post(TRUST)
        .header("host", "guest")
        .header("content-type", "application/json")
        .header("x-atoll-trusted", "1")
        .body(Full::new(bytes::Bytes::from(body)))?;
    let asked = async {
        let stream = UnixStream::connect(socket).await.context("connecting to its socket")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let talk = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            ensure!(status.is_success(), "it answers {status}: {}", String::from_utf8_lossy(&body).escape_debug());
            Ok(())
        };
        tokio::select! {
            result = talk => result,
            ended = connection => { ended?; anyhow::bail!("it ended the connection") }
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.context("it does not answer")?
}
