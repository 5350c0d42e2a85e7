//! The process that holds the kernel's questions while images are incomplete: `atoll image-holder`.
//!
//! It outlives the agent, since the kernel lets everybody read what is not there yet once nobody holds them. It reads the
//! questions itself, so that one which an agent had taken is not lost with it, and tells whichever agent is connected;
//! readers wait while there is none. It holds a descriptor of each incomplete file, opened before the file was marked: an
//! agent writes through that, and the next one is given it. It fetches nothing, and knows of images only their names.
//!
//! It ends when the agent says so, or by itself when it has no agent and none of its files has a name any more.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use atoll_launch::{sys, wire};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{Resource, Rlimit, chdir, getrlimit, setrlimit, setsid};
use serde::{Deserialize, Serialize};

use super::events::Group;

/// The word that makes an `atoll` this.
pub const ARGUMENT: &str = "image-holder";

/// Readers that wait at a time, each with a descriptor; the kernel keeps further ones waiting.
const MAX_WAITING: usize = 3000;
/// Of files that are whole.
const LATELY: usize = 64;
/// Descriptors besides those.
const OTHERS: u64 = 600;
const TICK: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
const BREATH: Duration = Duration::from_millis(10);

/// What an agent says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// The first word, with the group and the socket to listen on.
    Begin,
    /// Marks the file that comes along.
    Keep {
        digest: String,
    },
    /// The file is whole, or given up. Whoever waits goes on, or gets an error.
    Let {
        digest: String,
        whole: bool,
    },
    Answer {
        number: u64,
        go_on: bool,
    },
    End,
}

/// What the holder says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Tell {
    /// To a new agent, with the group.
    Group,
    /// To a new agent, with the file.
    Kept {
        digest: String,
    },
    /// To a new agent: there are no more.
    All,
    Keeping {
        digest: String,
        errno: i32,
    },
    LetGo {
        digest: String,
    },
    Wanted {
        number: u64,
        digest: String,
        offset: u64,
        count: u64,
    },
}

struct Kept {
    file: OwnedFd,
    identity: (u64, u64),
}

struct Waiting {
    file: OwnedFd,
    digest: String,
    offset: u64,
    count: u64,
}

struct Holder {
    group: Group,
    listener: OwnedFd,
    agent: Option<OwnedFd>,
    kept: BTreeMap<String, Kept>,
    /// Files that became whole lately: a question about one may still be on its way.
    whole: VecDeque<(u64, u64)>,
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
    /// Yet to be told.
    outbox: VecDeque<Tell>,
    most: usize,
}

/// What `atoll image-holder` does. Must be called first thing in `main`, while the process has one thread.
pub fn holder_main() -> ! {
    sys::exit_now(i32::from(begin().and_then(Holder::serve).is_err()))
}

fn identity(file: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn begin() -> io::Result<Holder> {
    let agent = rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?;
    // Not the agent's terminal's; nor what goes when memory is short, where root may say so.
    let _of_its_own = setsid();
    let _for_people = fs::write("/proc/self/comm", "atoll-images");
    let _as_the_agent_has_it = fs::write("/proc/self/oom_score_adj", "-1000");
    chdir("/")?;
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 16);
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    let missing = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let Some((Ask::Begin, fds)) = wire::receive(agent.as_fd())? else { return Err(missing()) };
    let Ok([group, listener]) = <[OwnedFd; 2]>::try_from(fds) else { return Err(missing()) };
    rustix::io::ioctl_fionbio(&agent, true)?;
    rustix::io::ioctl_fionbio(&listener, true)?;
    let most = usize::try_from(limit.saturating_sub(OTHERS)).unwrap_or(MAX_WAITING).clamp(1, MAX_WAITING);
    Ok(Holder {
        group: group.into(),
        listener,
        agent: Some(agent),
        kept: BTreeMap::new(),
        whole: VecDeque::new(),
        waiting: BTreeMap::new(),
        next: 0,
        outbox: VecDeque::new(),
        most,
    })
}

impl Holder {
    /// Until there is nothing to hold.
    fn serve(mut self) -> io::Result<()> {
        loop {
            let quiet = self.wait();
            self.take_questions();
            self.tell();
            while let Some(agent) = &self.agent {
                match wire::receive(agent.as_fd()) {
                    Ok(Some((Ask::End, _))) if self.kept.is_empty() => return Ok(()),
                    Ok(Some((ask, fds))) => self.obey(ask, fds),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Ok(None) | Err(_) => self.agent = None,
                }
            }
            if let Ok(agent) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                self.greet(agent);
            }
            self.tell();
            if quiet && self.agent.is_none() && self.is_pointless() {
                return Ok(());
            }
        }
    }

    /// Until something comes. Whether nothing did.
    fn wait(&self) -> bool {
        let mut polled = vec![PollFd::new(&self.listener, PollFlags::IN)];
        if self.waiting.len() < self.most {
            polled.push(PollFd::new(&self.group, PollFlags::IN));
        }
        if let Some(agent) = &self.agent {
            let out = if self.outbox.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            polled.push(PollFd::new(agent, PollFlags::IN | out));
        }
        match poll(&mut polled, Some(&TICK)) {
            Ok(count) => count == 0,
            // Whatever it is, who ends here lets everybody through.
            Err(_) => {
                std::thread::sleep(BREATH);
                false
            }
        }
    }

    fn take_questions(&mut self) {
        while self.waiting.len() < self.most {
            // One that can't be taken has been refused by the kernel.
            let questions = self.group.read().unwrap_or_default();
            if questions.is_empty() {
                break;
            }
            for question in questions {
                let found = identity(question.file.as_fd()).ok();
                let kept = self.kept.iter().find(|(_, kept)| Some(kept.identity) == found);
                let Some((digest, _)) = kept else {
                    // Let go of a moment ago.
                    let whole = found.is_some_and(|found| self.whole.contains(&found));
                    let _not_waiting = self.group.answer(question.file.as_fd(), whole);
                    continue;
                };
                let (number, digest) = (self.next, digest.clone());
                self.next += 1;
                let (offset, count) = (question.offset, question.count);
                if self.agent.is_some() {
                    self.outbox.push_back(Tell::Wanted { number, digest: digest.clone(), offset, count });
                }
                self.waiting.insert(number, Waiting { file: question.file, digest, offset, count });
            }
        }
    }

    /// A new agent hears of everything.
    fn greet(&mut self, agent: OwnedFd) {
        self.agent = Some(agent);
        let kept = self.kept.keys().map(|digest| Tell::Kept { digest: digest.clone() });
        let waiting = self.waiting.iter().map(|(number, it)| Tell::Wanted {
            number: *number,
            digest: it.digest.clone(),
            offset: it.offset,
            count: it.count,
        });
        self.outbox = [Tell::Group].into_iter().chain(kept).chain([Tell::All]).chain(waiting).collect();
    }

    fn obey(&mut self, ask: Ask, mut fds: Vec<OwnedFd>) {
        match ask {
            Ask::Keep { digest } => {
                let kept =
                    fds.pop().ok_or(io::ErrorKind::InvalidInput.into()).and_then(|file| self.keep(&digest, file));
                let errno = kept.err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
                self.outbox.push_back(Tell::Keeping { digest, errno });
            }
            Ask::Let { digest, whole } => {
                if let Some(kept) = self.kept.remove(&digest) {
                    let _gone_with_the_file = self.group.unmark(kept.file.as_fd());
                    if whole {
                        self.whole.push_front(kept.identity);
                        self.whole.truncate(LATELY);
                    }
                }
                let of_it: Vec<u64> =
                    self.waiting.iter().filter(|(_, it)| it.digest == digest).map(|(number, _)| *number).collect();
                of_it.into_iter().for_each(|number| self.answer(number, whole));
                self.outbox.push_back(Tell::LetGo { digest });
            }
            Ask::Answer { number, go_on } => self.answer(number, go_on),
            Ask::Begin | Ask::End => {}
        }
    }

    fn keep(&mut self, digest: &str, file: OwnedFd) -> io::Result<()> {
        let identity = identity(file.as_fd())?;
        self.group.mark(file.as_fd())?;
        self.kept.insert(digest.to_owned(), Kept { file, identity });
        Ok(())
    }

    fn answer(&mut self, number: u64, go_on: bool) {
        if let Some(waiting) = self.waiting.remove(&number) {
            // It can only fail when the reader is no more.
            let _not_waiting = self.group.answer(waiting.file.as_fd(), go_on);
        }
    }

    fn tell(&mut self) {
        while let Some(tell) = self.outbox.front() {
            let Some(agent) = &self.agent else { return self.outbox.clear() };
            let along = match tell {
                Tell::Group => Some(self.group.as_fd()),
                Tell::Kept { digest } => self.kept.get(digest).map(|kept| kept.file.as_fd()),
                _ => None,
            };
            let fds: Vec<_> = along.into_iter().collect();
            match wire::send(agent.as_fd(), tell, &fds) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.agent = None,
            }
        }
    }

    /// Whether nobody can come back for what is held: the data directory was deleted, or nothing was ever given.
    fn is_pointless(&self) -> bool {
        let has_name = |kept: &Kept| rustix::fs::fstat(&kept.file).is_ok_and(|stat| stat.st_nlink > 0);
        self.waiting.is_empty() && !self.kept.values().any(has_name)
    }
}
