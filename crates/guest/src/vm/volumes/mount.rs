//! One mount: what this kernel asks about it, and what of that waits for an answer.
//!
//! Where files are and what is in them is the host's to say. A few requests that say nothing to it are answered here: the
//! opening of directories and the closing of anything, since the host keeps nothing open; and those that this kernel need
//! not make at all.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use atoll_rpc::volumes::{self, MOST_DATA, MOST_MESSAGE};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use super::Relay;
use super::place::Place;
use super::waiting::{ANSWER, OPCODE, UNIQUE, Waiting, number};
use crate::vm::During;

const DEVICE: &str = "/dev/fuse";
/// Requests without an answer. What the kernel has more of waits with it.
const MOST_WAITING: usize = 64;

/// Of linux/fuse.h, what is not the host's.
mod op {
    pub use super::super::waiting::op::{BATCH_FORGET, FORGET};
    pub const RELEASE: u32 = 18;
    pub const FLUSH: u32 = 25;
    pub const OPENDIR: u32 = 27;
    pub const RELEASEDIR: u32 = 29;
    pub const INTERRUPT: u32 = 36;
}

pub struct Mount {
    pub wish: volumes::Mount,
    /// Where it is, without links.
    pub path: PathBuf,
    /// The mount itself: it is taken away by this, whatever has become of the path.
    root: OwnedFd,
    device: OwnedFd,
    /// Its place in the host's list, which may change from talk to talk.
    number: AtomicUsize,
    waiting: Mutex<Waiting>,
    room: Condvar,
    /// Ends the thread.
    over: OwnedFd,
}

impl Mount {
    pub fn make(wish: &volumes::Mount, place: Place) -> io::Result<Arc<Self>> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = rustix::fs::open(DEVICE, flags, Mode::empty()).during("this kernel's FUSE")?;
        let (over, number) = (eventfd(0, EventfdFlags::CLOEXEC)?, device.as_raw_fd().to_string());
        let new = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let most = MOST_DATA.to_string();
        for (key, value) in [
            ("source", "volume"),
            ("subtype", "atoll"),
            ("fd", number.as_str()),
            ("rootmode", "40000"),
            ("user_id", "0"),
            ("group_id", "0"),
            ("max_read", most.as_str()),
        ] {
            fsconfig_set_string(&new, key, value).during(key)?;
        }
        let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let mut set = vec!["allow_other", "default_permissions"];
        if wish.read_only {
            set.push("ro");
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        for key in set {
            fsconfig_set_flag(&new, key).during(key)?;
        }
        fsconfig_create(&new)?;
        let root = fsmount(&new, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        let (from, to) = (MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH, MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH);
        move_mount(&root, "", &place.dir, "", from | to)?;
        Ok(Arc::new(Self {
            wish: wish.clone(),
            path: place.path,
            root,
            device,
            number: AtomicUsize::new(0),
            waiting: Mutex::default(),
            room: Condvar::new(),
            over,
        }))
    }

    /// Takes its place in the list. While nothing is sent to the host.
    pub fn take_number(&self, number: usize) {
        self.number.store(number, Ordering::Relaxed);
    }

    fn number(&self) -> usize {
        self.number.load(Ordering::Relaxed)
    }

    /// The way to the kernel, for the thread.
    pub fn kernel(&self) -> io::Result<File> {
        Ok(self.device.try_clone()?.into())
    }

    /// Reads what the kernel asks, for as long as this is mounted.
    pub fn serve(&self, kernel: &File, relay: &Relay) {
        let mut buffer = vec![0; MOST_MESSAGE];
        while self.has_room() {
            match rustix::io::read(kernel, &mut buffer[..]) {
                Ok(length) => self.take(&buffer[..length], relay),
                Err(Errno::AGAIN) => {
                    let mut fds = [
                        PollFd::from_borrowed_fd(kernel.as_fd(), PollFlags::IN),
                        PollFd::from_borrowed_fd(self.over.as_fd(), PollFlags::IN),
                    ];
                    let _woken = poll(&mut fds, None);
                }
                Err(Errno::INTR | Errno::NOENT) => {}
                // It is mounted no more.
                Err(_) => return,
            }
        }
    }

    /// Waits for room for one more. False when this has ended.
    fn has_room(&self) -> bool {
        let mut waiting = crate::lock(&self.waiting);
        while waiting.count() >= MOST_WAITING {
            waiting = self.room.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        !waiting.is_gone()
    }

    fn take(&self, request: &[u8], relay: &Relay) {
        let (Some(opcode), Some(unique)) = (number(request, OPCODE), number(request, UNIQUE)) else { return };
        let forgets = match opcode as u32 {
            op::RELEASE | op::RELEASEDIR => return self.answer_here(unique, 0, &[]),
            op::OPENDIR => return self.answer_here(unique, 0, &[0; 16]),
            op::FLUSH | op::INTERRUPT => return self.refuse(unique, Errno::NOSYS),
            op::FORGET | op::BATCH_FORGET => true,
            _ => false,
        };
        // Held, so that whoever sends again what waits does so before or after this as a whole.
        let mut line = crate::lock(&relay.line);
        let messages = {
            let mut waiting = crate::lock(&self.waiting);
            if forgets {
                waiting.forget(request);
            }
            let mut messages = if line.open { waiting.tell(self.number()) } else { Vec::new() };
            if !forgets {
                match waiting.ask(self.number(), request, line.open) {
                    Some(message) => messages.push(message),
                    // It was read before this ended, and another mount may have its place in the list.
                    None => return self.refuse(unique, Errno::NOTCONN),
                }
            }
            messages
        };
        if line.open && line.write(&messages).is_err() {
            line.open = false;
        }
    }

    fn refuse(&self, unique: u64, error: Errno) {
        self.answer_here(unique, -error.raw_os_error(), &[]);
    }

    fn answer_here(&self, unique: u64, error: i32, body: &[u8]) {
        let length = u32::try_from(ANSWER + body.len()).unwrap_or(u32::MAX);
        let mut answer = length.to_ne_bytes().to_vec();
        answer.extend(error.to_ne_bytes());
        answer.extend(unique.to_ne_bytes());
        answer.extend(body);
        self.tell_kernel(&answer);
    }

    /// Whether it took it: whoever asked may be gone.
    fn tell_kernel(&self, answer: &[u8]) -> bool {
        rustix::io::write(&self.device, answer).is_ok()
    }

    /// Everything that waits for an answer.
    pub fn again(&self) -> Vec<Vec<u8>> {
        crate::lock(&self.waiting).again(self.number())
    }

    /// From the host.
    pub fn answer(&self, answer: &[u8]) {
        // The kernel may forget a node as soon as it was told of it: so that it was is noted before.
        let Some(nodes) = crate::lock(&self.waiting).answered(answer) else { return };
        self.room.notify_one();
        if !self.tell_kernel(answer) {
            crate::lock(&self.waiting).untold(nodes);
        }
    }

    /// Takes it away, whoever still has something open there: they are told that it is gone.
    pub fn end(&self) {
        if let Err(error) = unmount(format!("/proc/self/fd/{}", self.root.as_raw_fd()), UnmountFlags::DETACH) {
            eprintln!("atoll-guest: unmounting {}: {error}", self.wish.path);
        }
        let waiting = crate::lock(&self.waiting).end();
        for unique in waiting {
            self.refuse(unique, Errno::NOTCONN);
        }
        self.room.notify_all();
        // With the thread goes the last descriptor, and with that the connection: so whoever asks later is told, too.
        let _told = rustix::io::write(&self.over, &1_u64.to_ne_bytes());
    }
}
