//! Watching directories for changes.
//!
//! All watchers share one inotify instance, which exists only while somebody watches: instances are scarce, and an
//! idle guest shall have nothing to wake up for. The [`Hub`] knows which watchers want to know of which directory;
//! `registration` adds and removes directories, `events` turns what the kernel tells into what callers are told.
//!
//! A watcher either streams (its channel is bounded; who doesn't keep up is told that events were lost) or buffers
//! until asked (bounded as well). Before a buffer is handed out, what the kernel has queued is read, so that a change
//! that was made before the question is in the answer.

mod events;
mod registration;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use atoll_rpc::filesystem::FilesystemEvent;
use rustix::fs::inotify;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Watchers at once, of both kinds.
const MAX_WATCHERS: usize = 4096;
/// Events that wait in one stream.
const STREAM_EVENTS: usize = 1024;
/// Events that wait in one buffer, and in all of them.
const BUFFER_EVENTS: usize = 8192;
const ALL_BUFFER_EVENTS: usize = 65_536;

/// What somebody wants to watch.
#[derive(Debug, Clone)]
pub struct Wish {
    pub path: String,
    pub recursive: bool,
    pub include_entry: bool,
    pub allow_network: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("path '{0}' does not exist")]
    Missing(String),
    #[error("path '{0}' is not a directory")]
    NotDirectory(String),
    #[error("path '{0}' can't be followed: too many symbolic links")]
    Loop(String),
    #[error(
        "path '{0}' is on a network file system, where changes by others aren't seen; allow network mounts to watch it all the same"
    )]
    Network(String),
    #[error("watcher '{0}' not found")]
    UnknownWatcher(String),
    #[error("there are {MAX_WATCHERS} watchers already; remove some first")]
    TooManyWatchers,
    #[error("the sandbox's limit on watched directories is reached")]
    TooManyDirectories,
    #[error("events were lost because they weren't taken quickly enough; look at the directory anew")]
    Lost,
    #[error("watching '{path}' failed: {source}")]
    Io { path: String, source: io::Error },
    #[error(transparent)]
    Abandoned(#[from] io::Error),
}

type WatcherId = u64;

/// Where a watcher's events go.
enum Sink {
    Stream(mpsc::Sender<FilesystemEvent>),
    Buffer {
        events: Vec<FilesystemEvent>,
        lost: bool,
    },
    /// A stream that didn't keep up, until it notices.
    Broken,
}

struct Watcher {
    root: String,
    recursive: bool,
    include_entry: bool,
    sink: Sink,
    directories: HashSet<i32>,
}

/// A watcher's interest in a directory, which is `below` its root (empty: the root itself).
#[derive(Clone)]
struct Interested {
    watcher: WatcherId,
    below: String,
}

#[derive(Default)]
struct State {
    kernel: Option<Kernel>,
    watchers: HashMap<WatcherId, Watcher>,
    directories: HashMap<i32, Vec<Interested>>,
    last_id: WatcherId,
    buffered: usize,
    /// What was found in new directories and told already, though the kernel may tell it as well.
    announced: HashSet<(WatcherId, String)>,
}

struct Kernel {
    inotify: Arc<AsyncFd<OwnedFd>>,
    reader: AbortHandle,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[derive(Default)]
pub struct Hub {
    state: Mutex<State>,
}

/// A stream's end of a watch; dropping it ends the watch.
pub struct Streamed {
    hub: Arc<Hub>,
    id: WatcherId,
    events: mpsc::Receiver<FilesystemEvent>,
}

impl Streamed {
    pub async fn next(&mut self) -> Result<FilesystemEvent, WatchError> {
        self.events.recv().await.ok_or(WatchError::Lost)
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.hub.forget(self.id);
    }
}

impl Hub {
    /// Watches and streams events from now on.
    pub async fn stream(self: &Arc<Self>, wish: Wish) -> Result<Streamed, WatchError> {
        let (sender, events) = mpsc::channel(STREAM_EVENTS);
        let id = self.clone().register(wish, Sink::Stream(sender)).await?;
        Ok(Streamed { hub: self.clone(), id, events })
    }

    /// Watches and keeps events until they are asked for with the returned name.
    pub async fn buffer(self: &Arc<Self>, wish: Wish) -> Result<String, WatchError> {
        let sink = Sink::Buffer { events: Vec::new(), lost: false };
        Ok(name_of(self.clone().register(wish, sink).await?))
    }

    /// All events since the last call. If some had to be dropped, says so once instead of the incomplete rest.
    pub fn take_buffered(&self, name: &str) -> Result<Vec<FilesystemEvent>, WatchError> {
        self.catch_up();
        let mut state = crate::lock(&self.state);
        let state = &mut *state;
        let (_, watcher) = find_buffered(&mut state.watchers, name)?;
        let Sink::Buffer { events, lost } = &mut watcher.sink else {
            return Err(WatchError::UnknownWatcher(name.to_owned()));
        };
        state.buffered -= events.len();
        let events = std::mem::take(events);
        if std::mem::take(lost) { Err(WatchError::Lost) } else { Ok(events) }
    }

    pub fn remove_buffered(&self, name: &str) -> Result<(), WatchError> {
        let id = find_buffered(&mut crate::lock(&self.state).watchers, name)?.0;
        self.forget(id);
        Ok(())
    }

    /// Reads what the kernel has queued and passes it on. Cheap when nothing is watched.
    pub fn catch_up(&self) {
        let mut state = crate::lock(&self.state);
        if let Some(kernel) = &state.kernel {
            let inotify = kernel.inotify.clone();
            events::drain(&mut state, inotify.get_ref());
        }
    }

    /// Opens the kernel's side if it isn't, with a task that reads it.
    fn open(self: &Arc<Self>) -> io::Result<()> {
        let mut state = crate::lock(&self.state);
        if state.kernel.is_some() {
            return Ok(());
        }
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let inotify = Arc::new(crate::async_fd::watch(fd, Interest::READABLE)?);
        let reader = tokio::spawn({
            let (hub, inotify) = (self.clone(), inotify.clone());
            async move {
                while let Ok(mut ready) = inotify.readable().await {
                    hub.catch_up();
                    ready.clear_ready();
                }
            }
        });
        state.kernel = Some(Kernel { inotify, reader: reader.abort_handle() });
        Ok(())
    }
}

fn name_of(id: WatcherId) -> String {
    format!("w{id}")
}

fn find_buffered<'a>(
    watchers: &'a mut HashMap<WatcherId, Watcher>,
    name: &str,
) -> Result<(WatcherId, &'a mut Watcher), WatchError> {
    let unknown = || WatchError::UnknownWatcher(name.chars().take(100).collect());
    let id = name.strip_prefix('w').and_then(|id| id.parse().ok()).ok_or_else(unknown)?;
    match watchers.get_mut(&id) {
        Some(watcher) if matches!(watcher.sink, Sink::Buffer { .. }) => Ok((id, watcher)),
        _ => Err(unknown()),
    }
}
