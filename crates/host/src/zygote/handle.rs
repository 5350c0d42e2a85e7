//! The zygotes of an agent.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Pid;
use rustix::thread::{sched_getaffinity, sched_getcpu, sched_setaffinity};

use atoll_launch::wire::{self, CloneRequest};
use atoll_launch::{ENVIRONMENT, NAME};

#[derive(Debug)]
struct Process {
    requests: OwnedFd,
    child: Child,
}

impl Process {
    fn ask(&self, request: &CloneRequest, fds: &[BorrowedFd<'_>]) -> io::Result<u32> {
        self.wake_elsewhere();
        wire::send(self.requests.as_fd(), request, fds)?;
        Ok(self.child.id())
    }

    /// Whoever is woken by a socket is run on the processor of the one who wrote, where it would keep the agent from
    /// its own share of a launch instead of working beside it. So this processor is closed to the zygote, which opens
    /// it again when it has a request.
    fn wake_elsewhere(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let (Ok(mut set), here) = (sched_getaffinity(None), sched_getcpu()) else { return };
        if set.count() > 1 {
            set.unset(here);
            let _as_good_as_it_gets = sched_setaffinity(pid, &set);
        }
    }
}

/// A few zygotes, asked in turn. Requests may be made from any thread, any number at a time.
#[derive(Debug)]
pub struct Zygote {
    /// The guest agent: called by its bare [`NAME`], it ends up in [`atoll_launch::zygote_main`].
    program: OwnedFd,
    processes: Vec<Mutex<Option<Process>>>,
    next: AtomicUsize,
}

impl Zygote {
    /// Starts `count` of them.
    ///
    /// # Errors
    /// When the program can't be started.
    pub fn start(program: OwnedFd, count: usize) -> io::Result<Self> {
        let processes = (0..count.max(1)).map(|_| Mutex::new(None)).collect();
        let zygote = Self { program, processes, next: AtomicUsize::new(0) };
        for process in &zygote.processes {
            zygote.running(&mut lock(process))?;
        }
        Ok(zygote)
    }

    /// Asks for a clone. The answer comes over the other end of `status`: [`wire::Report::Cloned`], a failure, or the
    /// end of the stream if the zygote dies before. Tells which process was asked.
    pub(crate) fn request(
        &self,
        request: &CloneRequest,
        status: BorrowedFd<'_>,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> io::Result<u32> {
        let fds: Vec<_> = std::iter::once(status).chain(cgroup).collect();
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.processes.len();
        let mut process = lock(&self.processes[turn]);
        let running = self.running(&mut process)?;
        match running.ask(request, &fds) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => {
                tracing::warn!("the zygote has died; starting another");
                stop(process.take());
                self.running(&mut process)?.ask(request, &fds)
            }
            asked => asked,
        }
    }

    /// Ends the zygote with this process id, which let a request fall: it is dying, or as good as dead. Others that
    /// were waiting for it ask again, as the caller will.
    pub(crate) fn retire(&self, pid: u32) {
        for process in &self.processes {
            let mut process = lock(process);
            if let Some(running) = process.as_mut().filter(|it| it.child.id() == pid) {
                let _ended_already = running.child.kill();
                stop(process.take());
            }
        }
    }

    /// The process ids, for tests and for people.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().filter_map(|process| lock(process).as_ref().map(|it| it.child.id())).collect()
    }

    /// Ends all of them. A later request starts one again.
    pub fn stop(&self) {
        for process in &self.processes {
            stop(lock(process).take());
        }
    }

    fn running<'a>(&self, process: &'a mut Option<Process>) -> io::Result<&'a Process> {
        let ended = process.as_mut().is_some_and(|it| !matches!(it.child.try_wait(), Ok(None)));
        if ended {
            tracing::warn!("the zygote has ended; starting another");
            *process = None;
        }
        match process {
            Some(running) => Ok(running),
            None => Ok(process.insert(self.spawn()?)),
        }
    }

    fn spawn(&self) -> io::Result<Process> {
        let (requests, theirs) = wire::pair()?;
        // The child has it under the same number until it executes it. Nothing of the agent's environment, where secrets
        // may be, goes along.
        let child = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()))
            .arg0(NAME)
            .env_clear()
            .envs(ENVIRONMENT)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .current_dir("/")
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("starting the zygote: {error}")))?;
        Ok(Process { requests, child })
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Closes the socket, upon which the zygote ends by itself, and reaps it.
fn stop(process: Option<Process>) {
    if let Some(Process { requests, mut child }) = process {
        drop(requests);
        let _reaped = child.wait();
    }
}

fn lock(process: &Mutex<Option<Process>>) -> MutexGuard<'_, Option<Process>> {
    // The value is whole between any two statements, so a panic elsewhere under the lock spoils nothing.
    process.lock().unwrap_or_else(PoisonError::into_inner)
}
