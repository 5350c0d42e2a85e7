//! Programs that the guest runs for its callers: the process service of the E2B protocol and what it stands on.
//!
//! - `table`: which processes there are, found by pid or tag, and those that ended a moment ago.
//! - this file: one process: its configuration, who listens to it, its input, its signals.
//! - `pump`: the task that carries output to the listeners and tells them the end.
//! - `descriptors`: reading and writing pipes and terminals without blocking.
//! - `transcript`: what of the output goes into the log.
//! - `service`: the RPCs. `start` is the way in for them and for `exec`.

mod descriptors;
mod pump;
pub mod service;
mod start;
mod stream;
pub mod table;
mod transcript;

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use atoll_rpc::process::ProcessConfig;
use bytes::Bytes;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::sync::{Notify, mpsc};

pub use descriptors::Input;
pub use start::{Request, start};

use crate::reaper::Exit;
use crate::spawn::{TerminalSize, resize};

/// Events that wait for one listener; with chunks of 32 KiB this is what a slow reader can hold back.
const LISTENER_EVENTS: usize = 4;

/// Listeners of one process.
const MAX_LISTENERS: usize = 64;

#[derive(Debug, Clone)]
pub enum Event {
    Stdout(Bytes),
    Stderr(Bytes),
    Terminal(Bytes),
    End(End),
}

/// How a process ended, as its listeners are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub exit: Exit,
    /// Its time was up, and it was killed for that.
    pub timed_out: bool,
}

/// Who listens; closed once the end has been told.
enum Listeners {
    Open(Vec<mpsc::Sender<Event>>),
    Ended(End),
}

pub struct Process {
    pub pid: u32,
    pub config: ProcessConfig,
    pub tag: Option<String>,
    pub input: Input,
    listeners: Mutex<Listeners>,
    /// What still holds its output open isn't waited for once it has ended: somebody asked for its end, or it was
    /// started so.
    hurried: AtomicBool,
    signal_sent: Notify,
    /// The process itself has been collected, though others may still hold its output.
    exited: AtomicBool,
}

/// What came of asking to listen.
pub enum Listening {
    Events(mpsc::Receiver<Event>),
    Ended(End),
    TooMany,
}

impl Process {
    /// A process and the first listener's events.
    fn new(
        pid: u32,
        config: ProcessConfig,
        tag: Option<String>,
        input: Input,
        ends_with_process: bool,
    ) -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(LISTENER_EVENTS);
        let process = Self {
            pid,
            config,
            tag,
            input,
            listeners: Mutex::new(Listeners::Open(vec![sender])),
            hurried: AtomicBool::new(ends_with_process),
            signal_sent: Notify::new(),
            exited: AtomicBool::new(false),
        };
        (process, receiver)
    }

    /// Listens to what the process puts out from now on.
    pub fn listen(&self) -> Listening {
        match &mut *crate::lock(&self.listeners) {
            Listeners::Ended(end) => Listening::Ended(*end),
            Listeners::Open(senders) => {
                senders.retain(|sender| !sender.is_closed());
                if senders.len() >= MAX_LISTENERS {
                    return Listening::TooMany;
                }
                let (sender, receiver) = mpsc::channel(LISTENER_EVENTS);
                senders.push(sender);
                Listening::Events(receiver)
            }
        }
    }

    /// Hands an event to every listener, waiting for the slow ones and forgetting those that went.
    async fn publish(&self, event: Event) {
        let senders = match &*crate::lock(&self.listeners) {
            Listeners::Open(senders) => senders.clone(),
            Listeners::Ended(_) => return,
        };
        let mut gone = false;
        for sender in &senders {
            gone |= sender.send(event.clone()).await.is_err();
        }
        if gone && let Listeners::Open(senders) = &mut *crate::lock(&self.listeners) {
            senders.retain(|sender| !sender.is_closed());
        }
    }

    /// Tells the end to all listeners, once; nobody can listen afterwards.
    async fn publish_end(&self, end: End) {
        let before = std::mem::replace(&mut *crate::lock(&self.listeners), Listeners::Ended(end));
        if let Listeners::Open(senders) = before {
            for sender in senders {
                let _ = sender.send(Event::End(end)).await;
            }
        }
    }

    /// Sends a signal to the process, or to all of its group.
    pub fn signal(&self, signal: Signal, group: bool) -> io::Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        if matches!(signal, Signal::KILL | Signal::TERM) {
            self.hurried.store(true, Ordering::Relaxed);
            self.signal_sent.notify_one();
        }
        // Once the process is collected its number may be another's. Its group keeps the number in use while it has
        // members, and if it has none there is nobody to signal.
        if group {
            match kill_process_group(pid, signal) {
                Err(Errno::SRCH) if self.exited.load(Ordering::Relaxed) => Ok(()),
                other => Ok(other?),
            }
        } else if self.exited.load(Ordering::Relaxed) {
            Err(Errno::SRCH.into())
        } else {
            Ok(kill_process(pid, signal)?)
        }
    }

    /// Ends the process and its group, at once.
    pub fn kill(&self) {
        // The only way to fail is that nobody is left.
        let _ = self.signal(Signal::KILL, true);
    }

    /// Changes the size of the process's terminal; false when it has none.
    pub fn resize(&self, size: TerminalSize) -> io::Result<bool> {
        match self.input.terminal() {
            Some(terminal) => resize(terminal, size).map(|()| true).map_err(Into::into),
            None => Ok(false),
        }
    }
}
