//! Collects every process that ends: the guest's own children, and as PID 1 all orphans of the sandbox.
//!
//! There is one collector (`waitpid(-1)` on SIGCHLD) and one registry of who waits for which pid. A child is started
//! and registered under the registry's lock, and the collector takes the same lock before it collects, so that an exit
//! is never seen before somebody waits for it. Neighbour: `spawn` starts children.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    fn from_status(status: WaitStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            // Neither: `wait` without the options for stops and continues doesn't report such a thing.
            (None, None) => Self::Code(-1),
        }
    }
}

#[derive(Default)]
pub struct Reaper {
    waiters: Mutex<HashMap<u32, oneshot::Sender<Exit>>>,
}

impl Reaper {
    /// Starts a child with `start` and returns its pid with a receiver that yields its exit.
    pub fn start<E>(&self, start: impl FnOnce() -> Result<u32, E>) -> Result<(u32, oneshot::Receiver<Exit>), E> {
        let mut waiters = crate::lock(&self.waiters);
        let pid = start()?;
        let (sender, receiver) = oneshot::channel();
        waiters.insert(pid, sender);
        Ok((pid, receiver))
    }

    /// Collects all that have ended. Returns false when there are no children at all.
    fn collect(&self) -> bool {
        loop {
            let mut waiters = crate::lock(&self.waiters);
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let waiter = waiters.remove(&pid.as_raw_nonzero().get().unsigned_abs());
                    drop(waiters);
                    if let Some(waiter) = waiter {
                        // Whoever waited may have gone; the process is collected all the same.
                        let _ = waiter.send(Exit::from_status(status));
                    }
                }
                Ok(None) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Listens for SIGCHLD; must exist before the first child does.
    pub fn listen() -> io::Result<Signal> {
        signal(SignalKind::child())
    }

    /// Collects for as long as the guest lives.
    pub async fn run(self: Arc<Self>, mut children: Signal) {
        self.collect();
        while children.recv().await.is_some() {
            self.collect();
        }
    }
}
