//! The processes that the guest runs, by pid and tag, and those that ended a moment ago.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{End, Process};

/// Processes that can be tracked at once. The sandbox's own limit on pids is usually lower.
pub const MAX_PROCESSES: usize = 4096;

/// How long, and how many, ended processes are remembered for a late `Connect`.
const REMEMBERED_FOR: Duration = Duration::from_secs(30);
const MAX_REMEMBERED: usize = 256;

/// How a caller names a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    Pid(u32),
    Tag(String),
}

impl std::fmt::Display for Selector {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pid(pid) => write!(out, "process with pid {pid} not found"),
            Self::Tag(tag) => write!(out, "process with tag '{}' not found", tag.chars().take(100).collect::<String>()),
        }
    }
}

struct Ended {
    at: Instant,
    pid: u32,
    tag: Option<String>,
    end: End,
}

#[derive(Default)]
struct Inner {
    running: HashMap<u32, Arc<Process>>,
    ended: VecDeque<Ended>,
}

#[derive(Default)]
pub struct Table {
    inner: Mutex<Inner>,
}

/// The table is full.
pub struct Full;

impl Table {
    pub fn has_room(&self) -> Result<(), Full> {
        if crate::lock(&self.inner).running.len() < MAX_PROCESSES { Ok(()) } else { Err(Full) }
    }

    pub fn insert(&self, process: Arc<Process>) {
        crate::lock(&self.inner).running.insert(process.pid, process);
    }

    /// Takes an ended process out and remembers its end for a while.
    pub fn remove(&self, process: &Arc<Process>, end: End) {
        let mut inner = crate::lock(&self.inner);
        let inner = &mut *inner;
        // The pid may have been given to a new process already; only the very same one is taken out.
        if inner.running.get(&process.pid).is_some_and(|known| Arc::ptr_eq(known, process)) {
            inner.running.remove(&process.pid);
        }
        if inner.running.is_empty() {
            inner.running.shrink_to(64);
        }
        let now = Instant::now();
        while inner
            .ended
            .front()
            .is_some_and(|old| now.duration_since(old.at) > REMEMBERED_FOR || inner.ended.len() >= MAX_REMEMBERED)
        {
            inner.ended.pop_front();
        }
        inner.ended.push_back(Ended { at: now, pid: process.pid, tag: process.tag.clone(), end });
    }

    /// No late `Connect` finds one that has ended.
    pub fn forget_ended(&self) {
        crate::lock(&self.inner).ended.clear();
    }

    pub fn find(&self, selector: &Selector) -> Option<Arc<Process>> {
        let inner = crate::lock(&self.inner);
        match selector {
            Selector::Pid(pid) => inner.running.get(pid).cloned(),
            Selector::Tag(tag) => inner.running.values().find(|process| process.tag.as_ref() == Some(tag)).cloned(),
        }
    }

    /// The end of a process that isn't there any more, if it ended a moment ago.
    pub fn find_ended(&self, selector: &Selector) -> Option<(u32, End)> {
        let inner = crate::lock(&self.inner);
        let recent = inner.ended.iter().rev().take_while(|ended| ended.at.elapsed() <= REMEMBERED_FOR);
        let mut matching = recent.filter(|ended| match selector {
            Selector::Pid(pid) => ended.pid == *pid,
            Selector::Tag(tag) => ended.tag.as_ref() == Some(tag),
        });
        matching.next().map(|ended| (ended.pid, ended.end))
    }

    /// Waits, for so long, until the process is not among those that run any more.
    pub async fn gone(&self, process: &Arc<Process>, patience: Duration) {
        const LOOK: Duration = Duration::from_millis(1);
        let began = Instant::now();
        while self.find(&Selector::Pid(process.pid)).is_some_and(|known| Arc::ptr_eq(&known, process))
            && began.elapsed() < patience
        {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// All running processes, oldest pid first.
    pub fn list(&self) -> Vec<Arc<Process>> {
        let mut all: Vec<_> = crate::lock(&self.inner).running.values().cloned().collect();
        all.sort_by_key(|process| process.pid);
        all
    }

    pub fn is_empty(&self) -> bool {
        crate::lock(&self.inner).running.is_empty()
    }
}
