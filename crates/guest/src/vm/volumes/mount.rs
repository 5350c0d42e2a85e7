//! One mount: what this kernel asks about it, and what of that waits for an answer.
//!
//! Where files are and what is in them is the host's to say. A few requests that say nothing to it are answered here: the
//! opening of directories and the closing of anything, since the host keeps nothing open; and those that this kernel need
//! not make at all.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use atoll_rpc::volumes::{self, AGAIN, Head, MOST_DATA, MOST_MESSAGE};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::Relay;
use crate::vm::During;

const DEVICE: &str = "/dev/fuse";
/// Requests without an answer. What the kernel has more of waits with it.
const MOST_WAITING: usize = 64;
/// Of an answer: its length, an error, the request's number.
const ANSWER: usize = 16;
const OPCODE: std::ops::Range<usize> = 4..8;
const UNIQUE: std::ops::Range<usize> = 8..16;

/// Of linux/fuse.h, what is not the host's.
mod op {
    pub const FORGET: u32 = 2;
    pub const RELEASE: u32 = 18;
    pub const FLUSH: u32 = 25;
    pub const OPENDIR: u32 = 27;
    pub const RELEASEDIR: u32 = 29;
    pub const INTERRUPT: u32 = 36;
    pub const BATCH_FORGET: u32 = 42;
}

pub struct Mount {
    pub wish: volumes::Mount,
    device: OwnedFd,
    /// Its place in the host's list, which may change from talk to talk.
    number: AtomicUsize,
    waiting: Mutex<Waiting>,
    room: Condvar,
    /// Ends the thread.
    over: OwnedFd,
}

#[derive(Default)]
struct Waiting {
    /// By their numbers, which the kernel counts up: so they are in order. Each with room for its head in front.
    requests: BTreeMap<u64, Arc<[u8]>>,
    started: bool,
}

/// What becomes of a request.
enum Fate {
    /// The host answers it.
    Asked,
    /// The host is told.
    Told,
    Answered(i32, &'static [u8]),
}

impl Mount {
    pub fn make(wish: &volumes::Mount) -> io::Result<Arc<Self>> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = rustix::fs::open(DEVICE, flags, Mode::empty()).during("this kernel's FUSE")?;
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&wish.path)?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read={MOST_DATA}",
            device.as_raw_fd()
        );
        let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
        if wish.read_only {
            flags |= MountFlags::RDONLY;
        }
        let options = CString::new(options).map_err(io::Error::other)?;
        mount("volume", &wish.path, "fuse.atoll", flags, options.as_c_str())?;
        Ok(Arc::new(Self {
            wish: wish.clone(),
            device,
            number: AtomicUsize::new(0),
            waiting: Mutex::default(),
            room: Condvar::new(),
            over: eventfd(0, EventfdFlags::CLOEXEC)?,
        }))
    }

    /// Takes its place in the list; the way to the kernel when it has no thread yet.
    pub fn number_for_start(&self, number: usize) -> Option<File> {
        self.number.store(number, Ordering::Relaxed);
        let mut waiting = crate::lock(&self.waiting);
        if waiting.started {
            return None;
        }
        let kernel = self.device.try_clone().ok()?;
        waiting.started = true;
        Some(kernel.into())
    }

    /// Reads what the kernel asks, for as long as this is mounted.
    pub fn serve(&self, kernel: File, relay: &Relay) {
        let mut buffer = vec![0; MOST_MESSAGE];
        loop {
            self.wait_for_room();
            match rustix::io::read(&kernel, &mut buffer[..]) {
                Ok(length) => self.take(&buffer[..length], relay),
                Err(Errno::AGAIN) => {
                    let mut fds = [
                        PollFd::from_borrowed_fd(kernel.as_fd(), PollFlags::IN),
                        PollFd::from_borrowed_fd(self.over.as_fd(), PollFlags::IN),
                    ];
                    let _woken = poll(&mut fds, None);
                    if !fds[1].revents().is_empty() {
                        return;
                    }
                }
                Err(Errno::INTR | Errno::NOENT) => {}
                // It is mounted no more.
                Err(_) => return,
            }
        }
    }

    fn wait_for_room(&self) {
        let mut waiting = crate::lock(&self.waiting);
        while waiting.requests.len() >= MOST_WAITING {
            waiting = self.room.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn take(&self, request: &[u8], relay: &Relay) {
        let (Some(opcode), Some(unique)) = (number(request, OPCODE), number(request, UNIQUE)) else { return };
        let fate = match opcode as u32 {
            op::FORGET | op::BATCH_FORGET => Fate::Told,
            op::RELEASE | op::RELEASEDIR => Fate::Answered(0, &[]),
            op::OPENDIR => Fate::Answered(0, &[0; 16]),
            op::FLUSH | op::INTERRUPT => Fate::Answered(-Errno::NOSYS.raw_os_error(), &[]),
            _ => Fate::Asked,
        };
        if let Fate::Answered(error, body) = fate {
            return self.answer_here(unique, error, body);
        }
        // Held, so that whoever sends again what waits does so before or after this as a whole.
        let mut line = crate::lock(&relay.line);
        let head = Head { length: request.len(), mount: self.number.load(Ordering::Relaxed) };
        let message: Arc<[u8]> = [&head.encode(), request].concat().into();
        if let Fate::Asked = fate {
            crate::lock(&self.waiting).requests.insert(unique, message.clone());
        }
        if line.open && line.port.write_all(&message).is_err() {
            line.open = false;
        }
    }

    fn answer_here(&self, unique: u64, error: i32, body: &[u8]) {
        let length = u32::try_from(ANSWER + body.len()).unwrap_or(u32::MAX);
        let mut answer = length.to_ne_bytes().to_vec();
        answer.extend(error.to_ne_bytes());
        answer.extend(unique.to_ne_bytes());
        answer.extend(body);
        self.tell_kernel(&answer);
    }

    fn tell_kernel(&self, answer: &[u8]) {
        // Whoever asked may be gone.
        let _unwanted = rustix::io::write(&self.device, answer);
    }

    /// Everything that waits for an answer, marked as what may have been done.
    pub fn send_again(&self, number: usize, port: &mut File) -> io::Result<()> {
        let waiting: Vec<_> = crate::lock(&self.waiting).requests.values().cloned().collect();
        waiting.iter().try_for_each(|message| {
            let mut again = message.to_vec();
            again[..Head::BYTES].copy_from_slice(&Head { length: message.len() - Head::BYTES, mount: number }.encode());
            let request = &mut again[Head::BYTES..];
            let unique = self::number(request, UNIQUE).unwrap_or_default() | AGAIN;
            request[UNIQUE].copy_from_slice(&unique.to_ne_bytes());
            port.write_all(&again)
        })
    }

    /// From the host. Only the first answer to a request counts.
    pub fn answer(&self, answer: &[u8]) {
        let Some(unique) = number(answer, UNIQUE).filter(|_| answer.len() >= ANSWER) else { return };
        let known = {
            let mut waiting = crate::lock(&self.waiting);
            let known = waiting.requests.remove(&unique).is_some();
            if waiting.requests.len() < MOST_WAITING {
                self.room.notify_one();
            }
            known
        };
        if known {
            self.tell_kernel(answer);
        }
    }

    /// Takes it away, whoever still has something open there: they are told that it is gone.
    pub fn end(&self) {
        if let Err(error) = unmount(&self.wish.path, UnmountFlags::DETACH) {
            eprintln!("atoll-guest: unmounting {}: {error}", self.wish.path);
        }
        let requests = std::mem::take(&mut crate::lock(&self.waiting).requests);
        for unique in requests.into_keys() {
            self.answer_here(unique, -Errno::NOTCONN.raw_os_error(), &[]);
        }
        self.room.notify_all();
        // With the thread goes the last descriptor, and with that the connection.
        let _told = File::from(match self.over.try_clone() {
            Ok(over) => over,
            Err(_) => return,
        })
        .write_all(&1_u64.to_ne_bytes());
    }
}

/// A field of a header.
fn number(message: &[u8], field: std::ops::Range<usize>) -> Option<u64> {
    match message.get(field)? {
        [a, b, c, d] => Some(u32::from_ne_bytes([*a, *b, *c, *d]).into()),
        [a, b, c, d, e, f, g, h] => Some(u64::from_ne_bytes([*a, *b, *c, *d, *e, *f, *g, *h])),
        _ => None,
    }
}
