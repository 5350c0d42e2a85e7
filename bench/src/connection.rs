//! One kept-alive HTTP/1.1 connection that costs the measured machine as little as it can: whole requests are written as
//! they were prepared, and of an answer only its length is understood.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer. Its body is lent until the next request.
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

/// A request as it goes over the wire. `headers` are whole lines, each ended.
pub fn request(method: &str, address: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body.as_bytes()].concat()
}

impl Connection {
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(64 << 10) })
    }

    pub async fn send(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let (mut head, mut whole) = (None, usize::MAX);
        while self.buffer.len() < whole {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server closed the connection");
            }
            if head.is_none()
                && let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n")
            {
                head = Some(end + 4);
                whole = end + 4 + length(&self.buffer[..end])?;
            }
        }
        let status = self.buffer.get(9..12).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let status = status.context("an answer without a status")?;
        Ok(Answer { status, body: &self.buffer[head.unwrap_or_default()..] })
    }

    /// A request whose answer has to be a success in JSON.
    pub async fn json(&mut self, request: &[u8]) -> Result<serde_json::Value> {
        let answer = self.send(request).await?;
        if !(200..300).contains(&answer.status) {
            bail!("an answer {}: {}", answer.status, String::from_utf8_lossy(answer.body));
        }
        Ok(serde_json::from_slice(if answer.body.is_empty() { b"null" } else { answer.body })?)
    }
}

fn length(head: &[u8]) -> Result<usize> {
    let head = std::str::from_utf8(head)?;
    for line in head.split("\r\n").skip(1) {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            return Ok(value.trim().parse()?);
        }
    }
    // 204 has none.
    Ok(0)
}
