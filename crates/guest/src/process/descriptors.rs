//! Reading and writing a child's pipes and terminal without blocking, and without a buffer per waiting reader.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

use crate::async_fd::watch;

/// The most that is read at once from a pipe, and so the largest chunk of stdout or stderr.
pub const PIPE_CHUNK: usize = 32 * 1024;
/// The same for a terminal.
pub const TERMINAL_CHUNK: usize = 16 * 1024;

thread_local! {
    /// One buffer for all reads of the thread: a process that is silent holds none.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The reading end of a pipe or terminal.
pub struct Output {
    fd: Arc<AsyncFd<OwnedFd>>,
    chunk: usize,
}

impl Output {
    pub fn pipe(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { fd: Arc::new(watch(fd, Interest::READABLE)?), chunk: PIPE_CHUNK })
    }

    pub fn terminal(fd: Arc<AsyncFd<OwnedFd>>) -> Self {
        Self { fd, chunk: TERMINAL_CHUNK }
    }

    /// The next piece of output, or none at its end.
    pub async fn next(&self) -> Option<Bytes> {
        loop {
            let mut ready = self.fd.readable().await.ok()?;
            let read = ready.try_io(|fd| {
                SCRATCH.with_borrow_mut(|scratch| {
                    scratch.resize(PIPE_CHUNK, 0);
                    let length = rustix::io::read(fd.get_ref(), &mut scratch[..self.chunk])?;
                    Ok(Bytes::copy_from_slice(&scratch[..length]))
                })
            });
            match read {
                Ok(Ok(data)) if data.is_empty() => return None,
                Ok(Ok(data)) => return Some(data),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // EIO is how a terminal says that its last user has gone; nothing else is to be had either way.
                Ok(Err(_)) => return None,
                Err(_would_block) => {}
            }
        }
    }
}

/// What can't be written, and why.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("the process's standard input is closed, or was never opened (start it with stdin)")]
    Closed,
    #[error("the process has a terminal: send pty input, not stdin")]
    IsTerminal,
    #[error("the process has no terminal: send stdin, not pty input")]
    NoTerminal,
    #[error("writing to the process's input failed: {0}")]
    Io(#[from] io::Error),
}

/// The writing end of a process's input. Writers take turns.
pub enum Input {
    Pipe(Mutex<Option<AsyncFd<OwnedFd>>>),
    Terminal { fd: Arc<AsyncFd<OwnedFd>>, turn: Mutex<()> },
}

impl Input {
    pub fn pipe(fd: Option<OwnedFd>) -> io::Result<Self> {
        Ok(Self::Pipe(Mutex::new(fd.map(|fd| watch(fd, Interest::WRITABLE)).transpose()?)))
    }

    pub fn terminal_input(fd: Arc<AsyncFd<OwnedFd>>) -> Self {
        Self::Terminal { fd, turn: Mutex::new(()) }
    }

    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Terminal { fd, .. } => Some(fd.get_ref().as_fd()),
            Self::Pipe(_) => None,
        }
    }

    /// Writes all of `data`, waiting for as long as the process doesn't read.
    pub async fn write(&self, data: &[u8], to_terminal: bool) -> Result<(), InputError> {
        match (self, to_terminal) {
            (Self::Pipe(_), true) => Err(InputError::NoTerminal),
            (Self::Terminal { .. }, false) => Err(InputError::IsTerminal),
            (Self::Pipe(pipe), false) => {
                let pipe = pipe.lock().await;
                Ok(write_all(pipe.as_ref().ok_or(InputError::Closed)?, data).await?)
            }
            (Self::Terminal { fd, turn }, true) => {
                let _turn = turn.lock().await;
                Ok(write_all(fd, data).await?)
            }
        }
    }

    /// Closes a pipe, so that the process reads its end; closing twice is no error. False for a terminal.
    pub async fn close(&self) -> bool {
        match self {
            Self::Pipe(pipe) => {
                *pipe.lock().await = None;
                true
            }
            Self::Terminal { .. } => false,
        }
    }
}

async fn write_all(fd: &AsyncFd<OwnedFd>, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let mut ready = fd.writable().await?;
        match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), data)?)) {
            Ok(Ok(0)) => return Err(Errno::PIPE.into()),
            Ok(Ok(written)) => data = &data[written..],
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    Ok(())
}
