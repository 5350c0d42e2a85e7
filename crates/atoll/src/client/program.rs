//! Attached to a program in a sandbox until it ends: bytes in both directions, signals, the size of the terminal, and
//! the exit code.
//!
//! Sending has a task of its own, so that a program that does not read its input can't keep its output from being
//! read. A signal must not wait behind such input either: once the stream may be stuck, it goes by a request of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use atoll_client::model::SandboxId;
use atoll_client::{Client, Error, Event, Input, Receiver, Sender, Session, Start};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::signals::{Caught, Signals};
use super::streams::{self, Output, Writer};
use super::terminal::{self, RawTerminal};

/// Atoll itself failed.
pub const FAILED: u8 = 125;
/// As of timeout(1).
const OUT_OF_TIME: u8 = 124;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// A shell's exit code for a program that wrote to a closed pipe.
const BROKEN_PIPE: u8 = 128 + 13;
/// How long a program may take to end after the command was told to.
const PATIENCE: Duration = Duration::from_secs(10);
/// Ctrl-C pressed so often ends the command whatever the program does.
const INSISTENCE: u32 = 3;
/// So much input fits into the pipe to the program, so a signal behind it does not have to wait.
const NEVER_STUCK: u64 = 64 << 10;

/// Refuses a terminal where there is none, before anything is created.
pub fn check_tty(tty: bool) -> anyhow::Result<()> {
    if tty { RawTerminal::enter().map(drop) } else { Ok(()) }
}

/// Starts the program and stays with it to its end. Signals that came before go to it too.
pub async fn run(
    client: &Client,
    id: &SandboxId,
    mut start: Start,
    tty: bool,
    signals: &mut Signals,
    deadline: Option<Duration>,
) -> anyhow::Result<u8> {
    let raw = if tty { Some(RawTerminal::enter()?) } else { None };
    let input = if tty {
        start.size = terminal::size();
        start.stdin = true;
        if let Ok(term) = std::env::var("TERM") {
            start.env.entry("TERM".to_owned()).or_insert(term);
        }
        true
    } else {
        start.stdin = !streams::stdin_is_empty();
        start.stdin
    };
    let session = if tty { client.pty(id, start).await } else { client.exec_stream(id, start).await }?;
    let result = Attached::new(client, id, session, input).stay(signals, deadline).await;
    drop(raw);
    result
}

/// The exit code for a failure of `run`, `exec` and `shell`, as shells and container tools have it: 127 when there is no
/// such program, 126 when it can't be executed where and as whom it should, 125 for everything else.
pub fn exit_code_of(error: &anyhow::Error) -> u8 {
    match error.chain().find_map(|cause| cause.downcast_ref::<Error>()) {
        Some(Error::Stream { field: Some(field), reason: Some(reason), .. }) => match (field.as_str(), reason.as_str())
        {
            ("cmd", "not_found") => NOT_FOUND,
            ("cmd" | "cwd", _) => NOT_EXECUTABLE,
            _ => FAILED,
        },
        _ => FAILED,
    }
}

struct Attached<'a> {
    client: &'a Client,
    id: &'a SandboxId,
    pid: Option<u32>,
    receiver: Receiver,
    sending: Sending,
}

/// The task that sends; it ends when this is dropped.
struct Sending {
    task: AbortHandle,
    /// Ahead of the input.
    orders: mpsc::Sender<Input>,
    /// Bytes of input sent so far.
    bytes: Arc<AtomicU64>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<'a> Attached<'a> {
    fn new(client: &'a Client, id: &'a SandboxId, session: Session, input: bool) -> Self {
        let (sender, receiver) = session.split();
        let (orders, ordered) = mpsc::channel(4);
        let bytes = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(send(sender, input.then(streams::stdin), ordered, bytes.clone())).abort_handle();
        Self { client, id, pid: None, receiver, sending: Sending { task, orders, bytes } }
    }

    async fn stay(mut self, signals: &mut Signals, deadline: Option<Duration>) -> anyhow::Result<u8> {
        let writer = Writer::start().context("starting the thread that writes output")?;
        let far = Instant::now() + Duration::from_secs(365 * 24 * 3600);
        let out_of_time = deadline.map_or(far, |deadline| Instant::now() + deadline);
        let mut gives_up: Option<(Instant, u8)> = None;
        let mut interrupts = 0;
        let code = loop {
            tokio::select! {
                event = self.receiver.next() => match event? {
                    Some(Event::Started { pid }) => self.pid = Some(pid),
                    Some(Event::Stdout(bytes)) => if !writer.write(Output::Stdout, bytes).await {
                        break BROKEN_PIPE;
                    },
                    Some(Event::Stderr(bytes)) => if !writer.write(Output::Stderr, bytes).await {
                        break BROKEN_PIPE;
                    },
                    // Exit codes have eight bits everywhere.
                    Some(Event::Exited { code, .. }) => break (code & 0xff) as u8,
                    None => break FAILED,
                },
                caught = signals.next() => {
                    if caught == Caught::Interrupt {
                        interrupts += 1;
                    }
                    if interrupts >= INSISTENCE {
                        break 128 + caught.number();
                    }
                    if caught.ends() && caught != Caught::Interrupt && gives_up.is_none() {
                        gives_up = Some((Instant::now() + PATIENCE, 128 + caught.number()));
                    }
                    self.pass_on(caught).await;
                }
                () = sleep_until(gives_up.map_or(far, |(when, _)| when)) => {
                    break gives_up.map_or(FAILED, |(_, code)| code);
                }
                () = sleep_until(out_of_time), if deadline.is_some() => {
                    eprintln!("atoll: the program was ended: it ran for {} s", deadline.unwrap_or_default().as_secs());
                    break OUT_OF_TIME;
                }
            }
        };
        if matches!(code, BROKEN_PIPE | OUT_OF_TIME) {
            self.order(Input::Stop).await;
        }
        // Everything that came is written before the command ends.
        match writer.finish().await {
            Ok(()) => Ok(code),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(BROKEN_PIPE),
            Err(error) => Err(error).context("writing the program's output"),
        }
    }

    async fn pass_on(&self, caught: Caught) {
        match caught {
            Caught::Resized => {
                if let Some((cols, rows)) = terminal::size() {
                    self.order(Input::Resize { cols, rows }).await;
                }
            }
            signal => self.order(Input::Signal(signal.name().to_owned())).await,
        }
    }

    /// Sends ahead of the input; past input that may be stuck, by a request of its own.
    async fn order(&self, order: Input) {
        let signal = match &order {
            Input::Signal(name) => Some(name.as_str()),
            Input::Stop => Some("SIGTERM"),
            _ => None,
        };
        let stuck = self.sending.bytes.load(Ordering::Relaxed) > NEVER_STUCK;
        if let (true, Some(signal), Some(pid)) = (stuck, signal, self.pid) {
            let pid = pid.to_string();
            let request = self.client.signal_process(self.id, &pid, Some(signal));
            let _ = timeout(PATIENCE, request).await;
        } else {
            // Full only when the stream no longer moves: then its end is what is noticed next.
            let _ = self.sending.orders.try_send(order);
        }
    }
}

/// Passes on what is typed or piped, and whatever is urgent ahead of it.
async fn send(
    mut sender: Sender,
    mut stdin: Option<mpsc::Receiver<Bytes>>,
    mut orders: mpsc::Receiver<Input>,
    sent: Arc<AtomicU64>,
) {
    loop {
        let input = tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(order) => order,
                None => return,
            },
            bytes = next(&mut stdin) => match bytes {
                Some(bytes) => {
                    sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    Input::Bytes(bytes)
                }
                None => {
                    stdin = None;
                    Input::CloseStdin
                }
            },
        };
        // A stream that is over is noticed where it is read.
        if sender.send(input).await.is_err() {
            return;
        }
    }
}

async fn next(stdin: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match stdin {
        Some(stdin) => stdin.recv().await,
        None => std::future::pending().await,
    }
}
