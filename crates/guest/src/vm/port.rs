//! The host's port: greeted on, then HTTP/2, of which each `CONNECT` is a new connection to this guest.
//!
//! When the host's end goes away (an agent is replaced) or what comes makes no sense, the talk has ended: the guest
//! waits for the next greeting, and nothing that runs here notices.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use atoll_rpc::channel::{Frame, Greeting, Knows, MAX_LETTER, Orders, Step, Word, letter_length};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::sync::mpsc;

use super::{During, identity};
use crate::async_fd;
use crate::guest::Guest;

const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Between two looks for a host that is away.
const HOST_AWAY: Duration = Duration::from_millis(10);
/// A new connection each: as many as a listener has.
const MAX_STREAMS: u32 = 4096;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// A connection that came through the port.
pub type Stream = TokioIo<hyper::upgrade::Upgraded>;

#[derive(Clone)]
pub struct Port(Arc<OwnedFd>);

impl Port {
    /// The one of this name.
    pub fn find(name: &str) -> io::Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(path) = Self::path(name) {
                let file = File::options().read(true).write(true).open(&path).during(&path.display().to_string())?;
                return Ok(Self(Arc::new(file.into())));
            }
            if Instant::now() >= deadline {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the machine has no such port"));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn path(name: &str) -> Option<PathBuf> {
        let ports = fs::read_dir("/sys/class/virtio-ports").ok()?.flatten();
        let named = |entry: &fs::DirEntry| {
            fs::read_to_string(entry.path().join("name")).is_ok_and(|its| its.trim_end() == name)
        };
        let entry = ports.into_iter().find(named)?;
        Some(PathBuf::from("/dev").join(entry.file_name())).filter(|path| path.exists())
    }

    /// For who waits for it on a thread of their own.
    pub fn into_file(self) -> io::Result<File> {
        self.set_nonblocking(false)?;
        Ok(File::from(self.0.try_clone()?))
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        let flags = fcntl_getfl(&self.0)?;
        let wanted = if nonblocking { flags | OFlags::NONBLOCK } else { flags - OFlags::NONBLOCK };
        Ok(fcntl_setfl(&self.0, wanted)?)
    }

    /// Waits until a host has something to say, and what. Blocks as long as it takes. The answer is still due.
    pub fn greet(&self, knows: Knows) -> io::Result<(File, Orders)> {
        self.set_nonblocking(false)?;
        let mut talk = File::from(self.0.try_clone()?);
        'again: loop {
            let mut greeting = Greeting::default();
            loop {
                match greeting.step() {
                    Step::Answer(epoch) => {
                        talk.write_all(&Frame { word: Word::Ack(knows), epoch }.encode())?;
                    }
                    Step::Begin(epoch) => {
                        talk.write_all(&Frame { word: Word::Go, epoch }.encode())?;
                        break;
                    }
                    Step::Read => greeting.push(&self.some(&mut talk)?),
                }
            }
            let mut text = greeting.rest();
            loop {
                let head = text.first_chunk::<4>().copied();
                match head.map(letter_length) {
                    Some(None) => continue 'again,
                    Some(Some(length)) if text.len() >= length + 4 => {
                        text.drain(..4);
                        text.truncate(length);
                        match serde_json::from_slice(&text) {
                            Ok(orders) => return Ok((talk, orders)),
                            Err(_) => continue 'again,
                        }
                    }
                    _ => {
                        let more = read_once(&mut talk)?;
                        if more.is_empty() || text.len() > MAX_LETTER {
                            // The host is gone before it had said everything.
                            continue 'again;
                        }
                        text.extend(more);
                    }
                }
            }
        }
    }

    /// What comes next, from whichever host.
    fn some(&self, talk: &mut File) -> io::Result<Vec<u8>> {
        loop {
            let bytes = read_once(talk)?;
            if !bytes.is_empty() {
                return Ok(bytes);
            }
            std::thread::sleep(HOST_AWAY);
        }
    }

    /// Serves talk after talk: in the first it is told which sandbox this is. New connections go to `streams`.
    pub async fn serve(self, streams: mpsc::Sender<Stream>, guest: Arc<Guest>) -> io::Result<()> {
        let mut knows = Knows::Ground;
        loop {
            let (port, its) = (self.clone(), guest.clone());
            let greeted = crate::blocking(move || -> io::Result<(File, Option<bool>)> {
                let _first = Urgent::begin();
                loop {
                    let (mut talk, orders) = port.greet(knows)?;
                    let obeyed = identity::take(&orders).and_then(|()| match (&orders.start, knows) {
                        (Some(start), Knows::Itself) => super::become_another(&its, start),
                        (Some(start), _) => super::begin(&its, start),
                        (None, Knows::Itself) => Ok(()),
                        (None, _) => Err(io::Error::other("the second letter doesn't say who this is")),
                    });
                    match obeyed {
                        Ok(()) => return Ok((talk, orders.start.map(|start| start.rehearsed))),
                        // It waits for the next greeting, whoever has heard this.
                        error => drop(super::answer(&mut talk, error)),
                    }
                }
            });
            let (mut talk, rehearsed) = greeted.await?;
            let first = knows != Knows::Itself;
            if first {
                knows = Knows::Itself;
                crate::prepare(&guest).await;
            }
            // A port takes so little as a whole, or says at once that the host reads too slowly.
            let answered = match self.set_nonblocking(true).and_then(|()| super::answer(&mut talk, Ok(()))) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.set_nonblocking(false)?;
                    crate::blocking(move || super::answer(&mut talk, Ok(()))).await
                }
                answered => answered,
            };
            match rehearsed {
                Some(_) if first => crate::begin(&guest),
                Some(true) => crate::startup::begin(&guest),
                Some(false) | None => {}
            }
            if answered.is_ok() {
                self.talk(&streams).await?;
            }
        }
    }

    /// HTTP/2, to its end.
    async fn talk(&self, streams: &mpsc::Sender<Stream>) -> io::Result<()> {
        self.set_nonblocking(true)?;
        let io = TokioIo::new(Line::new(self.0.clone())?);
        let service = service_fn(|mut request: Request<Incoming>| {
            let streams = streams.clone();
            async move {
                let mut answer = Response::new(Empty::<bytes::Bytes>::new());
                match (request.method(), request.uri().path()) {
                    (&Method::CONNECT, _) => {
                        let upgrade = hyper::upgrade::on(&mut request);
                        tokio::spawn(async move {
                            if let Ok(stream) = upgrade.await {
                                let _guest_ends = streams.send(TokioIo::new(stream)).await;
                            }
                        });
                    }
                    (&Method::POST, "/sync") => {
                        let synced = crate::blocking(|| -> io::Result<()> {
                            rustix::fs::sync();
                            Ok(())
                        });
                        if synced.await.is_err() {
                            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                        }
                    }
                    _ => *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED,
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .max_send_buf_size(256 << 10)
            .serve_connection(io, service);
        // However it ended, the next greeting begins anew.
        let _ended = served.await;
        Ok(())
    }
}

/// This thread goes before all others for as long as this is held: whoever gets a machine is waiting, and what runs in it,
/// and has just been copied or stood still, can wait a moment longer.
struct Urgent;

impl Urgent {
    fn begin() -> Self {
        Self::set(-20);
        Self
    }

    /// Without the power to, nothing changes.
    fn set(nice: libc::c_int) {
        // SAFETY: it takes numbers only; 0 is the calling thread.
        let _unchanged = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        Self::set(0);
    }
}

/// This thread is one among others, whoever has made it.
pub fn be_ordinary() {
    Urgent::set(0);
}

fn read_once(talk: &mut File) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 16 << 10];
    let length = talk.read(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// The port as a stream, for one talk. Its end is the host's going away.
struct Line {
    port: Arc<OwnedFd>,
    watched: AsyncFd<OwnedFd>,
}

impl Line {
    fn new(port: Arc<OwnedFd>) -> io::Result<Self> {
        let watched = watch(&port)?;
        Ok(Self { port, watched })
    }

    /// Does something that may have to wait. "Closed" sticks to a registration, so after a host that went and came back
    /// there must be another one.
    fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        reading: bool,
        mut work: impl FnMut(&OwnedFd) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            let result = if reading {
                let mut guard = ready!(self.watched.poll_read_ready(context))?;
                let closed = guard.ready().is_read_closed();
                guard.try_io(|fd| work(fd.get_ref())).map_err(|_| closed)
            } else {
                let mut guard = ready!(self.watched.poll_write_ready(context))?;
                let closed = guard.ready().is_write_closed();
                guard.try_io(|fd| work(fd.get_ref())).map_err(|_| closed)
            };
            match result {
                Ok(result) => return Poll::Ready(result),
                Err(false) => {}
                Err(true) if is_away(&self.port)? => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Err(true) => self.watched = watch(&self.port)?,
            }
        }
    }
}

fn watch(port: &Arc<OwnedFd>) -> io::Result<AsyncFd<OwnedFd>> {
    async_fd::watch(port.try_clone()?, Interest::READABLE | Interest::WRITABLE)
}

fn is_away(port: &OwnedFd) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: port.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd, as the count says; it doesn't wait.
    let result = unsafe { libc::poll(&raw mut poll, 1, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(poll.revents & libc::POLLHUP != 0) }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buffer.initialize_unfilled();
        let read = ready!(self.get_mut().poll(context, true, |fd| Ok(rustix::io::read(fd.as_fd(), &mut *room)?)));
        Poll::Ready(read.map(|length| buffer.advance(length)))
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll(context, false, |fd| Ok(rustix::io::write(fd.as_fd(), data)?))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
