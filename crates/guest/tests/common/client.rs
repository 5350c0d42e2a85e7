//! A small HTTP/1.1 and Connect client: one connection per request, so that dropping an answer hangs up.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};

#[derive(Clone)]
pub enum Client {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

type Sent = http::Response<Incoming>;

impl Client {
    pub fn unix(path: &Path) -> Self {
        Self::Unix(path.to_owned())
    }

    pub fn tcp(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }

    /// Sends a request whose body may be anything; none if there is no connection to be had, or it broke.
    pub async fn try_request(&self, request: Request<BoxBody<Bytes, std::io::Error>>) -> Option<Sent> {
        let mut sender = match self {
            Self::Unix(path) => connect(UnixStream::connect(path).await.ok()?).await?,
            Self::Tcp(address) => connect(TcpStream::connect(address).await.ok()?).await?,
        };
        tokio::time::timeout(super::PATIENCE, sender.send_request(request)).await.expect("the guest isn't stuck").ok()
    }

    pub async fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Option<Answer> {
        let body = Full::new(body.into()).map_err(|never| match never {}).boxed();
        let response = self.try_request(build(method, path, headers, body)).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        self.try_send(method, path, headers, body).await.expect("an answer")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Bytes::new()).await
    }

    /// A unary call with JSON.
    pub async fn rpc(&self, method: &str, request: Value) -> Answer {
        self.rpc_with(method, request, &[]).await
    }

    pub async fn rpc_with(&self, method: &str, request: Value, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("content-type", "application/json"), ("connect-protocol-version", "1")];
        all.extend(headers);
        self.send("POST", &format!("/{method}"), &all, request.to_string()).await
    }

    /// A call that is answered with a stream of JSON messages.
    pub async fn stream(&self, method: &str, request: Value, headers: &[(&str, &str)]) -> Events {
        let mut all = vec![("content-type", "application/connect+json"), ("connect-protocol-version", "1")];
        all.extend(headers);
        let body = Full::new(envelope(0, request.to_string().as_bytes())).map_err(|never| match never {}).boxed();
        let response = self.try_request(build("POST", &format!("/{method}"), &all, body)).await.expect("an answer");
        Events { status: response.status().as_u16(), body: response.into_body(), buffer: BytesMut::new() }
    }
}

async fn connect<T>(stream: T) -> Option<hyper::client::conn::http1::SendRequest<BoxBody<Bytes, std::io::Error>>>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    Some(sender)
}

pub fn build(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: BoxBody<Bytes, std::io::Error>,
) -> Request<BoxBody<Bytes, std::io::Error>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "guest");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).expect("a request")
}

pub fn envelope(flags: u8, message: &[u8]) -> Bytes {
    let mut data = vec![flags];
    data.extend_from_slice(&u32::try_from(message.len()).expect("short").to_be_bytes());
    data.extend_from_slice(message);
    data.into()
}

/// A stream of messages; dropping it hangs up.
pub struct Events {
    pub status: u16,
    body: Incoming,
    buffer: BytesMut,
}

impl Events {
    /// The next message, or `{"END": ...}` for the one that ends the stream; none after that or if it broke off.
    pub async fn next(&mut self) -> Option<Value> {
        let raw = self.next_raw().await?;
        let value: Value = serde_json::from_slice(&raw.1).expect("JSON");
        Some(if raw.0 & 2 == 0 { value } else { serde_json::json!({ "END": value }) })
    }

    pub async fn next_raw(&mut self) -> Option<(u8, Bytes)> {
        loop {
            if self.buffer.len() >= 5 {
                let length = u32::from_be_bytes(self.buffer[1..5].try_into().expect("four bytes")) as usize;
                if self.buffer.len() >= 5 + length {
                    let flags = self.buffer[0];
                    self.buffer.advance(5);
                    return Some((flags, self.buffer.split_to(length).freeze()));
                }
            }
            let frame = tokio::time::timeout(super::PATIENCE, self.body.frame())
                .await
                .expect("the stream isn't stuck")?
                .ok()?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// All messages to the end.
    pub async fn all(mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Some(message) = self.next().await {
            all.push(message);
        }
        all
    }

    /// Reads on until a message satisfies, and returns it.
    pub async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message = self.next().await.expect("the stream goes on");
            if wanted(&message) {
                return message;
            }
        }
    }

    pub async fn pid(&mut self) -> u64 {
        let first = self.next().await.expect("a first message");
        first["event"]["start"]["pid"].as_u64().unwrap_or_else(|| panic!("not a start: {first}"))
    }
}
