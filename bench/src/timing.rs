//! A create over a bare connection, to see its `Server-Timing` header, which the typed client doesn't show.

use anyhow::{Context, Result, bail};
use atoll_client::Credentials;
use atoll_model::SandboxId;
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One kept-alive HTTP/1.1 connection.
pub struct Connection {
    stream: TcpStream,
    head: String,
}

impl Connection {
    pub async fn open(credentials: &Credentials) -> Result<Self> {
        let address = credentials.url.strip_prefix("http://").context("the bench speaks plain HTTP")?;
        let address = address.trim_end_matches('/');
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let key = credentials.api_key.as_ref().context("no API key in the credentials")?.expose_secret();
        let head = format!(
            "POST /v1/sandboxes HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {key}\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        Ok(Self { stream, head })
    }

    /// Creates a sandbox; the second value holds the server's steps in milliseconds.
    pub async fn create(&mut self) -> Result<(SandboxId, Vec<(String, f64)>)> {
        self.stream.write_all(self.head.as_bytes()).await?;
        let mut answer = Vec::with_capacity(4096);
        loop {
            if self.stream.read_buf(&mut answer).await? == 0 {
                bail!("the server closed the connection");
            }
            let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&answer[..end])?;
            let length: usize = header(head, "content-length").context("no Content-Length")?.parse()?;
            if answer.len() < end + 4 + length {
                continue;
            }
            let body = &answer[end + 4..];
            if !head.starts_with("HTTP/1.1 201") {
                bail!("create answered {}: {}", head.lines().next().unwrap_or(""), String::from_utf8_lossy(body));
            }
            let sandbox: atoll_model::api::sandboxes::Sandbox = serde_json::from_slice(body)?;
            return Ok((sandbox.id, header(head, "server-timing").map(parse).unwrap_or_default()));
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// `name;dur=1.25, other;dur=2`
fn parse(value: &str) -> Vec<(String, f64)> {
    let metric = |text: &str| {
        let mut parts = text.trim().split(';');
        let name = parts.next()?.to_owned();
        let duration = parts.find_map(|part| part.trim().strip_prefix("dur=")?.parse().ok())?;
        Some((name, duration))
    };
    value.split(',').filter_map(metric).collect()
}
