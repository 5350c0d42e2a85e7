//! Which directories are watched for whom.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::inotify::{self, WatchFlags};
use rustix::io::Errno;

use super::{Hub, Interested, MAX_WATCHERS, Sink, State, WatchError, Watcher, WatcherId, Wish};

/// What is asked of the kernel for every directory; the same for all, since a directory has one watch for all watchers.
const ALL_CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::ONLYDIR);

impl Hub {
    /// Adds a watcher with all its directories, or nothing.
    pub(super) async fn register(self: Arc<Self>, wish: Wish, sink: Sink) -> Result<WatcherId, WatchError> {
        self.open().map_err(|source| WatchError::Io { path: wish.path.clone(), source })?;
        let id = {
            let mut state = crate::lock(&self.state);
            if state.watchers.len() >= MAX_WATCHERS {
                return Err(WatchError::TooManyWatchers);
            }
            state.last_id += 1;
            let id = state.last_id;
            let Wish { path, recursive, include_entry, .. } = &wish;
            let watcher = Watcher {
                root: path.clone(),
                recursive: *recursive,
                include_entry: *include_entry,
                sink,
                directories: Default::default(),
            };
            state.watchers.insert(id, watcher);
            id
        };
        // Dropped without success, for whatever reason, it takes the watcher away again.
        let mut registration = Registration { hub: self.clone(), id, done: false };
        crate::blocking(move || {
            check(&wish.path, wish.allow_network)?;
            self.add_existing(id, &wish)
        })
        .await?;
        registration.done = true;
        Ok(id)
    }

    /// The root, and all directories below it if the watcher is recursive. The lock is held for one at a time only.
    fn add_existing(&self, id: WatcherId, wish: &Wish) -> Result<(), WatchError> {
        let mut pending = vec![String::new()];
        while let Some(below) = pending.pop() {
            match add_directory(&mut crate::lock(&self.state), id, &below) {
                Ok(()) => {}
                // Gone since it was listed.
                Err(Errno::NOENT | Errno::NOTDIR) if !below.is_empty() => continue,
                Err(Errno::NOSPC) => return Err(WatchError::TooManyDirectories),
                Err(error) => return Err(WatchError::Io { path: wish.path.clone(), source: error.into() }),
            }
            if wish.recursive {
                pending.extend(directories_in(&wish.path, &below));
            }
        }
        Ok(())
    }

    /// Ends a watch; what nobody is interested in any more isn't watched any longer.
    pub(super) fn forget(&self, id: WatcherId) {
        let mut state = crate::lock(&self.state);
        let state = &mut *state;
        let Some(watcher) = state.watchers.remove(&id) else { return };
        if let Sink::Buffer { events, .. } = &watcher.sink {
            state.buffered -= events.len();
        }
        if state.watchers.is_empty() {
            // Dropping the kernel's side ends all its watches at once.
            *state = State { last_id: state.last_id, ..State::default() };
            return;
        }
        for directory in watcher.directories {
            release(state, directory, id, |_| true);
        }
    }
}

struct Registration {
    hub: Arc<Hub>,
    id: WatcherId,
    done: bool,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.done {
            self.hub.forget(self.id);
        }
    }
}

/// The names, below a watcher's root, of the directories in one that is `below` it.
pub(super) fn directories_in(root: &str, below: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(join(root, below)) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| join(below, &entry.file_name().to_string_lossy()))
        .collect()
}

pub(super) fn join(folder: &str, name: &str) -> String {
    match (folder, name) {
        ("", name) => name.to_owned(),
        (folder, "") => folder.to_owned(),
        (folder, name) if folder.ends_with('/') => format!("{folder}{name}"),
        (folder, name) => format!("{folder}/{name}"),
    }
}

/// Makes a watcher interested in a directory below its root.
pub(super) fn add_directory(state: &mut State, id: WatcherId, below: &str) -> Result<(), Errno> {
    let (Some(kernel), Some(watcher)) = (&state.kernel, state.watchers.get_mut(&id)) else { return Ok(()) };
    // Only the root may be a link: below it they aren't followed.
    let flags = if below.is_empty() { ALL_CHANGES } else { ALL_CHANGES | WatchFlags::DONT_FOLLOW };
    let directory = inotify::add_watch(kernel.inotify.get_ref().as_fd(), join(&watcher.root, below), flags)?;
    watcher.directories.insert(directory);
    let interested = state.directories.entry(directory).or_default();
    match interested.iter_mut().find(|known| known.watcher == id) {
        // The same directory under a new name.
        Some(known) => known.below = below.to_owned(),
        None => interested.push(Interested { watcher: id, below: below.to_owned() }),
    }
    Ok(())
}

/// A directory has gone from below a watcher's root, and all below it.
pub(super) fn remove_tree(state: &mut State, id: WatcherId, gone: &str) {
    let Some(watcher) = state.watchers.get(&id) else { return };
    let prefix = format!("{gone}/");
    for directory in watcher.directories.iter().copied().collect::<Vec<_>>() {
        release(state, directory, id, |below| below == gone || below.starts_with(&prefix));
    }
}

/// Ends a watcher's interest in a directory, if it is known under a name that `matches`.
fn release(state: &mut State, directory: i32, id: WatcherId, matches: impl Fn(&str) -> bool) {
    let Some(interested) = state.directories.get_mut(&directory) else { return };
    let before = interested.len();
    interested.retain(|known| known.watcher != id || !matches(&known.below));
    if interested.len() == before {
        return;
    }
    if let Some(watcher) = state.watchers.get_mut(&id) {
        watcher.directories.remove(&directory);
    }
    if interested.is_empty() {
        state.directories.remove(&directory);
        if let Some(kernel) = &state.kernel {
            // It may have gone by itself already.
            let _ = inotify::remove_watch(kernel.inotify.get_ref().as_fd(), directory);
        }
    }
}

/// Whether a path can be watched at all.
fn check(path: &str, allow_network: bool) -> Result<(), WatchError> {
    let meta = fs::metadata(path).map_err(|source| match source.raw_os_error() {
        Some(libc::ENOENT) => WatchError::Missing(path.to_owned()),
        Some(libc::ENOTDIR) => WatchError::NotDirectory(path.to_owned()),
        Some(libc::ELOOP) => WatchError::Loop(path.to_owned()),
        _ => WatchError::Io { path: path.to_owned(), source },
    })?;
    if !meta.is_dir() {
        return Err(WatchError::NotDirectory(path.to_owned()));
    }
    if !allow_network && is_network(path).map_err(|source| WatchError::Io { path: path.to_owned(), source })? {
        return Err(WatchError::Network(path.to_owned()));
    }
    Ok(())
}

fn is_network(path: &str) -> io::Result<bool> {
    /// Magic numbers of statfs(2): NFS, SMB, CIFS, SMB2, FUSE, 9P, AFS, Ceph, Coda.
    const NETWORK: [i64; 9] =
        [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x0102_1997, 0x5346_414f, 0x00c3_6400, 0x7375_7245];
    Ok(NETWORK.contains(&rustix::fs::statfs(path)?.f_type))
}
