//! Accepting connections and serving HTTP/1.1 on them.

use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore, mpsc};

use super::{Door, Router};
use crate::guest::Guest;
use crate::vm::port::{Port, Stream};

/// Connections per listener. Each stream has one of its own, and there may be a thousand watches and more.
const MAX_CONNECTIONS: usize = 4096;

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json; charset=utf-8\r\n\
connection: close\r\ncontent-length: 68\r\n\r\n{\"code\":503,\"message\":\"the guest has as many connections as it may\"}";

/// Connections through a port that wait to be accepted.
const BACKLOG: usize = 64;

/// A pause after a failed accept (no descriptors left), in which others may end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub struct Listener {
    socket: Socket,
    door: Door,
}

enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
    /// Of a virtual machine.
    Port(Mutex<mpsc::Receiver<Stream>>),
}

impl Listener {
    pub fn control(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { socket: Socket::Unix(UnixListener::from_std(listener)?), door: Door::Control })
    }

    pub async fn tcp(address: &str) -> io::Result<Self> {
        Ok(Self { socket: Socket::Tcp(TcpListener::bind(address).await?), door: Door::Tcp })
    }

    pub async fn loopback(port: u16) -> io::Result<Self> {
        Ok(Self { socket: Socket::Tcp(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?), door: Door::Tcp })
    }

    /// The host's port of a virtual machine; to be called inside the runtime. Without its port the machine is lost.
    pub fn port(port: Port, guest: Arc<Guest>) -> Self {
        let (streams, receiver) = mpsc::channel(BACKLOG);
        tokio::spawn(async move {
            if let Err(error) = port.serve(streams, guest).await {
                eprintln!("atoll-guest: the host's port is lost: {error}");
                std::process::exit(1);
            }
        });
        Self { socket: Socket::Port(Mutex::new(receiver)), door: Door::Control }
    }

    async fn accept(&self) -> io::Result<Connection> {
        match &self.socket {
            Socket::Unix(listener) => Ok(Connection::Unix(listener.accept().await?.0)),
            Socket::Port(streams) => match streams.lock().await.recv().await {
                Some(stream) => Ok(Connection::Port(stream)),
                None => std::future::pending().await,
            },
            Socket::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                // Small answers must not wait for the peer's acknowledgement.
                stream.set_nodelay(true)?;
                Ok(Connection::Tcp(stream))
            }
        }
    }
}

/// Serves a listener for as long as the guest lives.
pub async fn serve(guest: Arc<Guest>, listener: Listener) {
    let router = Router::new(guest.clone());
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let door = listener.door;
    loop {
        let mut connection = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                guest.logs.warn(format!("accepting a connection failed: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            tokio::spawn(async move { connection.write_all(FULL).await });
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| router.clone().answer(door, request));
            // An error here is the peer's going away or not speaking HTTP; nobody is left to be told.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
            drop(permit);
        });
    }
}

enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream),
    Port(Stream),
}

macro_rules! either {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Unix($stream) => $call,
            Self::Tcp($stream) => $call,
            Self::Port($stream) => $call,
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(context, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use super::FULL;

    #[test]
    fn the_answer_to_one_connection_too_many_is_well_formed() {
        let text = std::str::from_utf8(FULL).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
