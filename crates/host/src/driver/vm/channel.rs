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

use atoll_rpc::atoll::guest::v1::ExecRequest;
use atoll_rpc::buffa::Message;
use atoll_rpc::channel::{
    Answer, Beginning, Epoch, FRAME, Finder, Frame, Ground, Knows, Orders, Word, letter, letter_length,
};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::client::conn::http1;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::driver::connectable;

/// Until another Hello: the first is the one that counts, unless the guest was in mid-sentence. Longer each time, since a
/// guest that gets hardly any processor has to answer all that have gathered.
const HELLO_AGAIN: Duration = Duration::from_millis(100);
const SELDOM: Duration = Duration::from_secs(1);
/// What carries a guest that waits for the rest of a frame of HTTP/2 over its end, and when: after some five seconds.
pub(super) const INSISTENCE: usize = 17 << 10;
const INSIST_AT: u32 = 10;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A talk that a bridge begins again: the guest may be frozen, and is tried for ever, one attempt after the other.
const AGAIN: Duration = Duration::from_secs(20);
const SYNC: Duration = Duration::from_secs(10);
const EXEC: &str = "/atoll.guest.v1.GuestService/Exec";
const EXEC_MS: u32 = 10_000;
const MAX_ANSWER: usize = 64 << 10;

/// The kind of error that is a guest's own answer.
pub(super) const ANSWERED: io::ErrorKind = io::ErrorKind::InvalidInput;

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

/// A guest that listens.
pub(super) struct Met {
    stream: UnixStream,
    finder: Finder,
    epoch: Epoch,
    pub knows: Knows,
}

impl Talk {
    /// Greets the guest behind the port, which knows who it is.
    pub async fn begin(port: &Path) -> io::Result<Self> {
        Self::with(Met::at(port, INSISTENCE).await?, None).await
    }

    /// With a guest that was met already: tells it who it is, if that is to be told, and waits for its answer.
    pub async fn with(met: Met, start: Option<&Beginning>) -> io::Result<Self> {
        let (stream, _) = met.tell(&orders(None, start.cloned())).await?;
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

    /// Runs a program in the guest as control has it done for people, and waits for its end, whichever that is.
    pub async fn exec(&mut self, program: &str, args: &[&str]) -> io::Result<()> {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let asked = ExecRequest { cmd: program.to_owned(), args, timeout_ms: EXEC_MS, ..Default::default() };
        let request = Request::post(EXEC)
            .header("host", "guest")
            .header("content-type", "application/proto")
            .header("x-atoll-trusted", "1")
            .body(Full::new(Bytes::from(asked.encode_to_vec())));
        let request = request.map_err(io::Error::other)?;
        let stream = connect(&mut self.requests).await?;
        let (mut sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(io::Error::other)?;
            Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(io::Error::other).map(drop)
        };
        tokio::select! {
            answer = answer => answer,
            ended = connection => Err(ended.err().map_or(io::ErrorKind::UnexpectedEof.into(), io::Error::other)),
        }
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

fn orders(ground: Option<Ground>, start: Option<Beginning>) -> Orders {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    Orders { now_ns, entropy: rand::random(), ground, start }
}

impl Met {
    /// Says Hello until the guest behind the port answers; one that is in mid-sentence hears so many bytes of it.
    pub async fn at(port: &Path, insistence: usize) -> io::Result<Self> {
        let name = connectable(port)?;
        Self::on(UnixStream::connect(name.path()).await?, insistence).await
    }

    /// Tells a guest that knows nothing what it stands on, and meets it again.
    pub async fn stand(self, ground: Ground) -> io::Result<Self> {
        let (stream, _) = self.tell(&orders(Some(ground), None)).await?;
        Self::on(stream, INSISTENCE).await
    }

    async fn on(stream: UnixStream, insistence: usize) -> io::Result<Self> {
        let mut met = Self { stream, finder: Finder::default(), epoch: rand::random(), knows: Knows::Nothing };
        let hello = Frame { word: Word::Hello, epoch: met.epoch }.encode();
        met.stream.write_all(&hello).await?;
        let (mut attempt, mut pause) = (0, HELLO_AGAIN);
        loop {
            while let Some(frame) = met.finder.next_frame() {
                if let (Word::Ack(knows), true) = (frame.word, frame.epoch == met.epoch) {
                    met.knows = knows;
                    return Ok(met);
                }
            }
            if let Ok(read) = tokio::time::timeout(pause, met.read()).await {
                read?;
                continue;
            }
            attempt += 1;
            pause = (pause * 3 / 2).min(SELDOM);
            // A guest that has yet to boot reads nothing: what is written then only fills the socket.
            let words = hello.repeat(if attempt == INSIST_AT { insistence.div_ceil(hello.len()) } else { 1 });
            let _full = tokio::time::timeout(HELLO_AGAIN, met.stream.write_all(&words)).await;
        }
    }

    /// Gives it a letter, and waits for its answer: what follows is the talk.
    pub async fn tell(mut self, words: &impl serde::Serialize) -> io::Result<(UnixStream, Epoch)> {
        // The guest reads its letter behind this word, whether or not it has said the same yet.
        let go = Frame { word: Word::Go, epoch: self.epoch };
        let opening = [&go.encode()[..], &letter(&serde_json::to_vec(words)?)].concat();
        self.stream.write_all(&opening).await?;
        self.agree(go).await?;
        let mut stream = self.stream;
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let length = letter_length(head).ok_or_else(|| io::Error::other("the guest's answer makes no sense"))?;
        let mut text = vec![0; length];
        stream.read_exact(&mut text).await?;
        let answer: Answer = serde_json::from_slice(&text)?;
        match answer.error {
            Some(error) => Err(io::Error::new(ANSWERED, format!("the guest: {}", shortened(&error)))),
            None => Ok((stream, self.epoch)),
        }
    }

    /// From here on both are in step. Since it has answered it sends whole frames, and behind this one its answer, and more:
    /// nothing of that is read here.
    async fn agree(&mut self, go: Frame) -> io::Result<()> {
        loop {
            while let Some(frame) = self.finder.next_frame() {
                if frame == go {
                    return match self.finder.held() {
                        0 => Ok(()),
                        _ => Err(io::Error::other("the guest speaks between two words")),
                    };
                }
            }
            let mut frame = [0; FRAME];
            let missing = &mut frame[self.finder.held().min(FRAME - 1)..];
            self.stream.read_exact(missing).await?;
            self.finder.push(missing);
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 16 << 10];
        match self.stream.read(&mut buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.finder.push(&buffer[..read]);
                Ok(())
            }
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
            None => match tokio::time::timeout(AGAIN, Talk::begin(port)).await {
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

/// A new connection to the guest.
async fn connect(requests: &mut Requests) -> io::Result<Upgraded> {
    let request = Request::builder().method(Method::CONNECT).uri("guest:1").body(Empty::new());
    let answer = requests.send_request(request.map_err(io::Error::other)?).await.map_err(io::Error::other)?;
    hyper::upgrade::on(answer).await.map_err(io::Error::other)
}

/// One connection, to its end.
async fn carry(mut stream: UnixStream, mut requests: Requests) {
    match connect(&mut requests).await {
        Ok(upgraded) => {
            let _ended = tokio::io::copy_bidirectional(&mut stream, &mut TokioIo::new(upgraded)).await;
        }
        Err(error) => tracing::debug!(%error, "a connection to a guest could not be opened"),
    }
}

/// Of what a guest says of its troubles, so much is passed on.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 500;
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// What a guest gets to read in its first minutes, at which times, when it never answers.
    async fn unanswered(time: Duration) -> Vec<(Duration, usize)> {
        let dir = tempfile::tempdir().unwrap();
        let port = dir.path().join("port.sock");
        let listener = UnixListener::bind(&port).unwrap();
        let (begun, heard) = (tokio::time::Instant::now(), Arc::new(Mutex::new(Vec::new())));
        let noted = heard.clone();
        let guest = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 64 << 10];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                noted.lock().unwrap().push((begun.elapsed(), read));
            }
        });
        assert!(tokio::time::timeout(time, Met::at(&port, INSISTENCE)).await.is_err());
        guest.await.unwrap();
        Arc::try_unwrap(heard).unwrap().into_inner().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_is_slow_is_not_buried_in_greetings_and_one_in_mid_sentence_is_carried_over_it() {
        let heard = unanswered(Duration::from_secs(120)).await;
        let frame = Frame { word: Word::Hello, epoch: [0; 16] }.encode().len();
        let total: usize = heard.iter().map(|(_, bytes)| bytes).sum();
        assert!(total <= 131 * frame + INSISTENCE, "{} greetings in two minutes", total / frame);
        // The longest frame of HTTP/2 is covered well before a copy would be given up.
        let early = heard.iter().take_while(|(at, _)| *at < Duration::from_secs(8));
        assert!(early.map(|(_, bytes)| bytes).sum::<usize>() > 16 << 10, "{heard:?}");
        // Who is merely asked while it finishes its last talk hears the next one soon.
        assert!(heard[1].0 <= HELLO_AGAIN + Duration::from_millis(5), "{heard:?}");
    }
}
