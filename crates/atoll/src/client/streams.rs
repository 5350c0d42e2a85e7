//! This side's ends of a program: stdin, stdout and stderr, byte for byte.
//!
//! Each end has a thread of its own, because a terminal or a pipe may block for as long as it likes; bounded queues
//! between make the other side wait. Nothing is buffered beyond them, and nothing is translated.

use std::io;
use std::os::fd::BorrowedFd;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::{mpsc, oneshot};

const CHUNK: usize = 64 << 10;
const QUEUE: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}

/// Whether stdin is `/dev/null` (or closed): then there is nothing to pass on.
pub fn stdin_is_empty() -> bool {
    match rustix::fs::fstat(rustix::stdio::stdin()) {
        Ok(stat) => {
            let device = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice;
            device && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (1, 3)
        }
        Err(_) => true,
    }
}

/// Stdin as it comes; the queue closes at its end. An error counts as the end.
pub fn stdin() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let read = move || {
        let stdin = rustix::stdio::stdin();
        let mut buffer = vec![0; CHUNK];
        loop {
            match rustix::io::read(stdin, &mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    if sender.blocking_send(Bytes::copy_from_slice(&buffer[..length])).is_err() {
                        return;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => wait(stdin, PollFlags::IN),
                Err(_) => return,
            }
        }
    };
    // Without a thread there is no stdin: the queue closes at once.
    let _ = std::thread::Builder::new().name("stdin".to_owned()).spawn(read);
    receiver
}

/// Where output goes.
pub struct Writer {
    queue: mpsc::Sender<(Output, Bytes)>,
    result: oneshot::Receiver<io::Result<()>>,
}

impl Writer {
    pub fn start() -> io::Result<Self> {
        let (queue, mut chunks) = mpsc::channel::<(Output, Bytes)>(QUEUE);
        let (done, result) = oneshot::channel();
        let write = move || {
            let mut outcome = Ok(());
            while let Some((output, bytes)) = chunks.blocking_recv() {
                let target = match output {
                    Output::Stdout => rustix::stdio::stdout(),
                    Output::Stderr => rustix::stdio::stderr(),
                };
                if let Err(error) = write_all(target, &bytes) {
                    outcome = Err(error);
                    break;
                }
            }
            drop(chunks);
            let _ = done.send(outcome);
        };
        std::thread::Builder::new().name("output".to_owned()).spawn(write)?;
        Ok(Self { queue, result })
    }

    /// Waits for room. False when nobody reads any more.
    pub async fn write(&self, output: Output, bytes: Bytes) -> bool {
        self.queue.send((output, bytes)).await.is_ok()
    }

    /// Waits until everything is written.
    pub async fn finish(self) -> io::Result<()> {
        drop(self.queue);
        self.result.await.unwrap_or_else(|_| Err(io::Error::other("the writing thread ended early")))
    }
}

fn write_all(target: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(target, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => wait(target, PollFlags::OUT),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Someone else has made the stream non-blocking: waits until it can go on.
fn wait(stream: BorrowedFd<'_>, what: PollFlags) {
    let _ = poll(&mut [PollFd::from_borrowed_fd(stream, what)], None);
}
