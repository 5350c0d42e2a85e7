//! From what the kernel tells to what callers are told.
//!
//! A kernel event names a directory and mostly a name in it. A directory tells of itself as well, but only a watcher's
//! root does so to callers: for all below, the parent tells. In a recursive watch a new directory is watched from then
//! on, and what was put into it before that was so is looked up and told as new.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use atoll_rpc::filesystem::{EventType, FilesystemEvent};
use rustix::fs::inotify::{ReadFlags, Reader};
use rustix::io::Errno;

use super::registration::{add_directory, join, remove_tree};
use super::{ALL_BUFFER_EVENTS, BUFFER_EVENTS, Interested, Sink, State, WatcherId};
use crate::filesystem::entry::describe;
use crate::users::Names;

/// Room for about a hundred events at a time.
const READ_BYTES: usize = 4096;

/// In the order in which several types of one event are told.
const TYPES: [(ReadFlags, EventType); 5] = [
    (ReadFlags::CREATE.union(ReadFlags::MOVED_TO), EventType::EVENT_TYPE_CREATE),
    (ReadFlags::MOVED_FROM.union(ReadFlags::MOVE_SELF), EventType::EVENT_TYPE_RENAME),
    (ReadFlags::ATTRIB, EventType::EVENT_TYPE_CHMOD),
    (ReadFlags::MODIFY, EventType::EVENT_TYPE_WRITE),
    (ReadFlags::DELETE.union(ReadFlags::DELETE_SELF), EventType::EVENT_TYPE_REMOVE),
];

/// Passes on all that is queued.
pub(super) fn drain(state: &mut State, inotify: &OwnedFd) {
    let mut buffer = [MaybeUninit::<u8>::uninit(); READ_BYTES];
    let mut reader = Reader::new(inotify, &mut buffer);
    let mut names = None;
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
                handle(state, event.wd(), event.events(), name, &mut names);
            }
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    // All that happened while new directories were looked through has been read by now.
    state.announced.clear();
}

fn handle(state: &mut State, directory: i32, flags: ReadFlags, name: Option<String>, names: &mut Option<Names>) {
    if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
        for id in state.watchers.keys().copied().collect::<Vec<_>>() {
            mark_lost(state, id);
        }
        return;
    }
    if flags.contains(ReadFlags::IGNORED) {
        for interested in state.directories.remove(&directory).unwrap_or_default() {
            if let Some(watcher) = state.watchers.get_mut(&interested.watcher) {
                watcher.directories.remove(&directory);
            }
        }
        return;
    }
    for Interested { watcher, below } in state.directories.get(&directory).cloned().unwrap_or_default() {
        match &name {
            Some(name) => in_directory(state, watcher, join(&below, name), flags, names),
            None if below.is_empty() => tell_all(state, watcher, ".", flags, names),
            None => {}
        }
    }
}

/// Something happened to `path`, which is below the watcher's root.
fn in_directory(state: &mut State, id: WatcherId, path: String, flags: ReadFlags, names: &mut Option<Names>) {
    if flags.contains(ReadFlags::CREATE) && state.announced.remove(&(id, path.clone())) {
        return;
    }
    tell_all(state, id, &path, flags, names);
    let recursive = state.watchers.get(&id).is_some_and(|watcher| watcher.recursive);
    if !recursive || !flags.contains(ReadFlags::ISDIR) {
        return;
    }
    if flags.contains(ReadFlags::MOVED_FROM) {
        remove_tree(state, id, &path);
    } else if flags.contains(ReadFlags::CREATE) {
        add_new(state, id, path, true, names);
    } else if flags.contains(ReadFlags::MOVED_TO) {
        add_new(state, id, path, false, names);
    }
}

/// Watches a directory that has appeared, with all below it; what is in it is told of if it is `new`.
fn add_new(state: &mut State, id: WatcherId, path: String, new: bool, names: &mut Option<Names>) {
    let mut pending = vec![path];
    while let Some(path) = pending.pop() {
        match add_directory(state, id, &path) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(_) => {
                mark_lost(state, id);
                return;
            }
        }
        let Some(folder) = state.watchers.get(&id).map(|watcher| join(&watcher.root, &path)) else { return };
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let Ok(meta) = entry.metadata() else { continue };
            let child = join(&path, &entry.file_name().to_string_lossy());
            if new {
                state.announced.insert((id, child.clone()));
                tell(state, id, &child, EventType::EVENT_TYPE_CREATE, names);
                if meta.is_file() && meta.len() > 0 {
                    tell(state, id, &child, EventType::EVENT_TYPE_WRITE, names);
                }
            }
            if meta.is_dir() {
                pending.push(child);
            }
        }
    }
}

fn tell_all(state: &mut State, id: WatcherId, path: &str, flags: ReadFlags, names: &mut Option<Names>) {
    for (bits, kind) in TYPES {
        if flags.intersects(bits) {
            tell(state, id, path, kind, names);
        }
    }
}

fn tell(state: &mut State, id: WatcherId, path: &str, kind: EventType, names: &mut Option<Names>) {
    use EventType::{EVENT_TYPE_CHMOD as CHMOD, EVENT_TYPE_CREATE as CREATE, EVENT_TYPE_WRITE as WRITE};

    let Some(watcher) = state.watchers.get_mut(&id) else { return };
    // Of what is gone there is nothing to describe, and what was just there may be gone by now.
    let entry = (watcher.include_entry && matches!(kind, CREATE | WRITE | CHMOD))
        .then(|| {
            let path = if path == "." { watcher.root.clone() } else { join(&watcher.root, path) };
            describe(&path, names.get_or_insert_with(Names::load)).ok()
        })
        .flatten();
    let event = FilesystemEvent {
        name: path.to_owned(),
        r#type: kind.into(),
        entry: entry.map_or_else(Default::default, Into::into),
        ..Default::default()
    };
    let kept = match &mut watcher.sink {
        Sink::Stream(events) => events.try_send(event).is_ok(),
        Sink::Buffer { events, .. } if events.len() < BUFFER_EVENTS && state.buffered < ALL_BUFFER_EVENTS => {
            events.push(event);
            state.buffered += 1;
            true
        }
        Sink::Buffer { .. } | Sink::Broken => false,
    };
    if !kept {
        mark_lost(state, id);
    }
}

fn mark_lost(state: &mut State, id: WatcherId) {
    if let Some(watcher) = state.watchers.get_mut(&id) {
        match &mut watcher.sink {
            Sink::Buffer { lost, .. } => *lost = true,
            // Without its sender a stream ends, with the reason, once it has told what it still holds.
            sink => *sink = Sink::Broken,
        }
    }
}
