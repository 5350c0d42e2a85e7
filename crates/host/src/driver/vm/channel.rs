//! The agent's end of a machine's port: greets, gives orders, and makes of one stream the unix socket that every other
//! part of the agent knows a guest by.
//!
//! A [`Bridge`] listens on the sandbox's socket; each connection to it becomes a `CONNECT` in the HTTP/2 that runs on the
//! port. When the talk breaks it begins another one. It is a task of the agent, not part of the machine: the next agent
//! makes its own.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_rpc::channel::{Answer, Beginning, Finder, Frame, Orders, Word, letter, letter_length};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Empty;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::driver::connectable;

/// Until another Hello: the first is the one that counts, unless the guest was in mid-sentence.
const HELLO_AGAIN: Duration = Duration::from_millis(100);
/// What carries a guest that waits for the rest of a frame over its end.
const INSISTENCE: usize = 700;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A talk that a bridge begins again: the guest may be frozen, and is tried for ever, one attempt after the other.
const AGAIN: Duration = Duration::from_secs(20);
const SYNC: Duration = Duration::from_secs(10);

type Requests = SendRequest<Empty<Bytes>>;

/// A talk that has begun: HTTP/2 with the guest as its server.
pub(super) struct Talk {
    requests: Requests,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Talk {
    /// Greets the guest behind the port, tells it who it is if it doesn't know, and waits for its answer.
    pub async fn begin(port: &Path, start: Option<&Beginning>) -> io::Result<Self> {
        let name = connectable(port)?;
        let mut stream = UnixStream::connect(name.path()).await?;
        let configured = greet(&mut stream).await?;
        let start = if configured { None } else { start.cloned() };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let orders = Orders { now_ns, entropy: rand::random(), start };
        stream.write_all(&letter(&serde_json::to_vec(&orders)?)).await?;
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let length = letter_length(head).ok_or_else(|| io::Error::other("the guest's answer makes no sense"))?;
        let mut text = vec![0; length];
        stream.read_exact(&mut text).await?;
        let answer: Answer = serde_json::from_slice(&text)?;
        if let Some(error) = answer.error {
            return Err(io::Error::other(format!("the guest: {error}")));
        }
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(256 << 10)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let connection = tokio::spawn(async move {
            let _ended = connection.await;
        });
        Ok(Self { requests, connection })
    }

    /// Has the guest write everything to its disk.
    async fn sync(requests: &mut Requests) -> io::Result<()> {
        let request = Request::builder().method(Method::POST).uri("http://guest/sync").body(Empty::new());
        let request = request.map_err(io::Error::other)?;
        let answer = requests.send_request(request).await.map_err(io::Error::other)?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(io::Error::other("the guest could not write to its disk"))
        }
    }
}

/// Whether the guest is configured.
async fn greet(stream: &mut UnixStream) -> io::Result<bool> {
    let epoch = rand::random();
    let hello = Frame { word: Word::Hello, epoch }.encode();
    let mut finder = Finder::default();
    let mut buffer = vec![0; 16 << 10];
    stream.write_all(&hello).await?;
    let mut attempt = 0;
    let mut configured = None;
    loop {
        while let Some(frame) = finder.next_frame() {
            match frame.word {
                _ if frame.epoch != epoch => {}
                Word::Ack { configured: told } if configured.is_none() => {
                    configured = Some(told);
                    stream.write_all(&Frame { word: Word::Go, epoch }.encode()).await?;
                }
                Word::Go => {
                    if let Some(configured) = configured {
                        return Ok(configured);
                    }
                }
                _ => {}
            }
        }
        match tokio::time::timeout(HELLO_AGAIN, stream.read(&mut buffer)).await {
            Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => finder.push(&buffer[..read?]),
            Err(_) if configured.is_none() => {
                attempt += 1;
                // A guest that has yet to boot reads nothing: what is written then only fills the socket.
                let words = hello.repeat(if attempt == 50 { INSISTENCE } else { 1 });
                let _full = tokio::time::timeout(HELLO_AGAIN, stream.write_all(&words)).await;
            }
            Err(_) => {}
        }
    }
}

/// The sandbox's socket, for as long as this is held.
pub(super) struct Bridge {
    stop: CancellationToken,
    requests: Arc<tokio::sync::watch::Sender<Option<Requests>>>,
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Bridge {
    /// Serves connections on `listener`. Without a talk it begins one.
    pub fn start(listener: OwnedFd, port: PathBuf, talk: Option<Talk>) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let stop = CancellationToken::new();
        let requests = Arc::new(tokio::sync::watch::channel(None).0);
        let (stopped, shown) = (stop.clone(), requests.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = serve(&listener, &port, talk, &shown) => {}
                () = stopped.cancelled() => {}
            }
            shown.send_replace(None);
        });
        Ok(Self { stop, requests })
    }

    /// Has the guest write everything to its disk.
    pub fn sync(&self) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let mut requests = self.requests.subscribe();
        async move {
            let work = async {
                let found = requests.wait_for(Option::is_some).await.map_err(io::Error::other)?.clone();
                let mut requests = found.ok_or(io::ErrorKind::NotConnected)?;
                Talk::sync(&mut requests).await
            };
            tokio::time::timeout(SYNC, work).await?
        }
    }
}

async fn serve(
    listener: &UnixListener,
    port: &Path,
    mut talk: Option<Talk>,
    shown: &tokio::sync::watch::Sender<Option<Requests>>,
) {
    let mut wait = FIRST_WAIT;
    loop {
        let mut current = match talk.take() {
            Some(talk) => talk,
            None => match tokio::time::timeout(AGAIN, Talk::begin(port, None)).await {
                Ok(Ok(talk)) => {
                    wait = FIRST_WAIT;
                    talk
                }
                _ => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                    continue;
                }
            },
        };
        shown.send_replace(Some(current.requests.clone()));
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(tokio::spawn(carry(stream, current.requests.clone()))),
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection to a guest");
                        tokio::time::sleep(FIRST_WAIT).await;
                    }
                },
                _ended = &mut current.connection => break,
            }
        }
        shown.send_replace(None);
    }
}

/// One connection, to its end.
async fn carry(mut stream: UnixStream, mut requests: Requests) {
    let Ok(request) = Request::builder().method(Method::CONNECT).uri("guest:1").body(Empty::new()) else { return };
    let opened = async {
        let answer = requests.send_request(request).await.map_err(io::Error::other)?;
        hyper::upgrade::on(answer).await.map_err(io::Error::other)
    };
    match opened.await {
        Ok(upgraded) => {
            let _ended = tokio::io::copy_bidirectional(&mut stream, &mut TokioIo::new(upgraded)).await;
        }
        Err(error) => tracing::debug!(%error, "a connection to a guest could not be opened"),
    }
}
