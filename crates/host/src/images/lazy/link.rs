//! The agent's end of the holder: starts one, or finds the one that an earlier agent has left.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use atoll_launch::wire;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{bind, connect, listen, shutdown, socket_with};
use tokio::sync::{mpsc, oneshot};

use super::events::Group;
use super::holder::{ARGUMENT, Ask, Tell};
use crate::aside;

const SOCKET: &str = "holder.sock";
const FAREWELL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

static LINKS: AtomicU64 = AtomicU64::new(0);

/// Somebody waits for bytes of an image; or the holder has ended, although nobody told it to.
#[derive(Debug)]
pub(super) enum Told {
    /// `number` means something to this link's holder alone.
    Wanted {
        link: u64,
        number: u64,
        digest: String,
        offset: u64,
        count: u64,
    },
    Gone {
        link: u64,
    },
}

type Replies = Arc<Mutex<HashMap<String, oneshot::Sender<io::Result<()>>>>>;

/// A connection to the holder.
#[derive(Debug)]
pub(super) struct Link {
    /// Tells it from earlier ones.
    pub number: u64,
    socket: Arc<OwnedFd>,
    /// Held here as well: while one of the two processes lives, nobody reads unasked.
    group: Group,
    replies: Replies,
}

/// A directory's descriptor makes a name that fits into an address, however long its path is.
fn address(directory: &OwnedFd) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))?)
}

fn open(directory: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

impl Link {
    /// Starts a holder, for a group that exists already or for a new one.
    pub fn start(
        program: &Path,
        directory: &Path,
        group: Option<Group>,
        told: &mpsc::UnboundedSender<Told>,
    ) -> io::Result<Self> {
        let group = group.map_or_else(Group::new, Ok)?;
        match fs::remove_file(directory.join(SOCKET)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = socket()?;
        bind(&listener, &address(&open(directory)?)?)?;
        listen(&listener, 4)?;
        // The directory is for people who look at what runs.
        let (mut child, ours) = aside::start(program, &[ARGUMENT.as_ref(), directory.as_ref()])?;
        wire::send(ours.as_fd(), &Ask::Begin, &[group.as_fd(), listener.as_fd()])?;
        // Reaped when it ends, should we see that.
        std::thread::Builder::new().name("holder-reaper".to_owned()).spawn(move || child.wait())?;
        Self::over(ours, group, told)
    }

    /// The holder that is there already, and what it holds. None when there is none.
    pub fn adopt(
        directory: &Path,
        told: &mpsc::UnboundedSender<Told>,
    ) -> io::Result<Option<(Self, HashMap<String, File>)>> {
        let (socket, here) = (socket()?, open(directory)?);
        match connect(&socket, &address(&here)?) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => return Ok(None),
            connected => connected?,
        }
        let (mut group, mut kept) = (None, HashMap::new());
        loop {
            match wire::receive::<Tell>(socket.as_fd())? {
                Some((Tell::Group, mut fds)) => group = fds.pop().map(Group::from),
                Some((Tell::Kept { digest }, mut fds)) => drop(fds.pop().map(|fd| kept.insert(digest, File::from(fd)))),
                Some((Tell::All, _)) => break,
                Some(_) => {}
                None => return Ok(None),
            }
        }
        let group = group.ok_or_else(|| io::Error::other("the holder of incomplete images gives nothing away"))?;
        Ok(Some((Self::over(socket, group, told)?, kept)))
    }

    fn over(socket: OwnedFd, group: Group, told: &mpsc::UnboundedSender<Told>) -> io::Result<Self> {
        let (socket, replies, told) = (Arc::new(socket), Replies::default(), told.clone());
        let link = LINKS.fetch_add(1, Ordering::Relaxed);
        let (hears, answers) = (Arc::clone(&socket), Arc::clone(&replies));
        let listening = move || {
            while let Ok(Some((tell, _))) = wire::receive::<Tell>(hears.as_fd()) {
                let reply = |digest: &str, result| {
                    if let Some(waits) = lock(&answers).remove(digest) {
                        let _nobody_waits = waits.send(result);
                    }
                };
                match tell {
                    Tell::Keeping { digest, errno: 0 } | Tell::LetGo { digest } => reply(&digest, Ok(())),
                    Tell::Keeping { digest, errno } => reply(&digest, Err(io::Error::from_raw_os_error(errno))),
                    Tell::Wanted { number, digest, offset, count } => {
                        let _ending = told.send(Told::Wanted { link, number, digest, offset, count });
                    }
                    Tell::Group | Tell::Kept { .. } | Tell::All => {}
                }
            }
            // Whoever waits for a reply is told by its loss.
            lock(&answers).clear();
            let _ending = told.send(Told::Gone { link });
        };
        std::thread::Builder::new().name("image-holder".to_owned()).spawn(listening)?;
        Ok(Self { number: link, socket, group, replies })
    }

    async fn ask(&self, digest: &str, ask: &Ask, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let (reply, replied) = oneshot::channel();
        lock(&self.replies).insert(digest.to_owned(), reply);
        wire::send(self.socket.as_fd(), ask, fds)?;
        replied.await.unwrap_or_else(|_| Err(io::Error::other("the holder of incomplete images has ended")))
    }

    /// Whoever reads of the file from now on waits for an answer. `file` was opened before.
    pub async fn keep(&self, digest: &str, file: &File) -> io::Result<()> {
        self.ask(digest, &Ask::Keep { digest: digest.to_owned() }, &[file.as_fd()]).await
    }

    /// The file is like any other from now on.
    pub async fn let_go(&self, digest: &str, whole: bool) -> io::Result<()> {
        self.ask(digest, &Ask::Let { digest: digest.to_owned(), whole }, &[]).await
    }

    pub fn answer(&self, number: u64, go_on: bool) -> io::Result<()> {
        wire::send(self.socket.as_fd(), &Ask::Answer { number, go_on }, &[])
    }

    /// Nothing is held any more. Waits for the holder's end, which is a matter of a moment.
    pub fn end(&self, directory: &Path) {
        let _ended = wire::send(self.socket.as_fd(), &Ask::End, &[]);
        let _gone = fs::remove_file(directory.join(SOCKET));
        let _late = poll(&mut [PollFd::new(&*self.socket, PollFlags::empty())], Some(&FAREWELL));
    }

    /// What the holder's questions come through; it has ended.
    pub fn group(&self) -> io::Result<Group> {
        Ok(self.group.as_fd().try_clone_to_owned()?.into())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Wakes the thread that listens.
        let _closed = shutdown(&*self.socket, Shutdown::Both);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
