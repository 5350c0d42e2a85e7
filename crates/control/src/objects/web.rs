//! The HTTP client of the bucket: connections are kept and used again, certificates judged as everywhere in control.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::outbound;

/// To connect and shake hands.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// From a request to the head of its answer; a part of 16 MB is sent in it.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Between two pieces of an answer.
const STALL: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Web(Client::builder(TokioExecutor::new()).build(Dial))))
    }
}

#[derive(Debug)]
struct Web(Client<Dial, HttpRequestBody>);

#[async_trait::async_trait]
impl HttpService for Web {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answering = tokio::time::timeout(ANSWER_WITHIN, self.0.request(request)).await;
        let answer = answering.map_err(|error| HttpError::new(HttpErrorKind::Timeout, error))?.map_err(|error| {
            let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
            HttpError::new(kind, error)
        })?;
        let (head, body) = answer.into_parts();
        let body = body.into_data_stream();
        let bounded = tokio_stream::StreamExt::timeout(body, STALL);
        let frames = futures::StreamExt::map(bounded, |piece| match piece {
            Ok(Ok(data)) => Ok(hyper::body::Frame::data(data)),
            Ok(Err(error)) => Err(HttpError::new(HttpErrorKind::Interrupted, error)),
            Err(error) => Err(HttpError::new(HttpErrorKind::Timeout, error)),
        });
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(http_body_util::StreamBody::new(frames))))
    }
}

/// Opens connections.
#[derive(Debug, Clone)]
struct Dial;

/// A connection, with TLS or without.
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl tower::Service<Uri> for Dial {
    type Response = TokioIo<Wire>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<TokioIo<Wire>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let dialing = tokio::time::timeout(CONNECT_WITHIN, dial(&uri));
            dialing.await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?.map(TokioIo::new)
        })
    }
}

async fn dial(uri: &Uri) -> std::io::Result<Wire> {
    let wrong = || std::io::Error::new(std::io::ErrorKind::InvalidInput, format!("{uri} names no server"));
    let tls = uri.scheme_str() == Some("https");
    let host = uri.host().ok_or_else(wrong)?.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(if tls { 443 } else { 80 }))).await?;
    stream.set_nodelay(true)?;
    if !tls {
        return Ok(Wire::Plain(stream));
    }
    let name = rustls_pki_types::ServerName::try_from(host.to_owned()).map_err(|_| wrong())?;
    let connector = outbound::connector().map_err(std::io::Error::other)?;
    Ok(Wire::Tls(Box::new(connector.connect(name, stream).await?)))
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
