//! Making, listing, moving and removing. All of it may wait for a disk: callers run it on a thread for that.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, lchown};
use std::path::Path;

use atoll_rpc::filesystem::EntryInfo;
use rustix::io::Errno;

use super::entry::describe;
use crate::users::{Account, Names};

/// Entries in one listing; more would not fit into a sensible answer.
pub const MAX_ENTRIES: usize = 50_000;

#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("path '{0}' does not exist")]
    Missing(String),
    #[error("path '{0}' is not a directory")]
    NotDirectory(String),
    #[error("path '{0}' exists and is not a directory")]
    ExistsAsFile(String),
    #[error("directory '{0}' already exists")]
    Exists(String),
    #[error("path '{0}' can't be followed: too many symbolic links")]
    Loop(String),
    #[error("the root directory can't be removed or moved")]
    Root,
    #[error("'{from}' can't be moved to '{to}': they are on different file systems; copy it instead")]
    OtherFilesystem { from: String, to: String },
    #[error("'{0}' is in the way: {1}")]
    InTheWay(String, &'static str),
    #[error("permission denied: {what} '{path}'")]
    Refused { what: &'static str, path: String },
    #[error("path '{0}' is not possible: {1}")]
    BadName(String, &'static str),
    #[error("no space left for '{0}'")]
    NoSpace(String),
    #[error("the listing has more than {MAX_ENTRIES} entries; list less, or less deep")]
    TooMany,
    #[error("{what} '{path}' failed: {source}")]
    Io { what: &'static str, path: String, source: io::Error },
    #[error(transparent)]
    Abandoned(#[from] io::Error),
}

fn failed(what: &'static str, path: &str) -> impl Fn(io::Error) -> TreeError {
    let path = path.to_owned();
    move |source| match source.raw_os_error() {
        Some(libc::ENOENT) => TreeError::Missing(path.clone()),
        Some(libc::ENOTDIR) => TreeError::NotDirectory(path.clone()),
        Some(libc::ELOOP) => TreeError::Loop(path.clone()),
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => TreeError::Refused { what, path: path.clone() },
        Some(libc::ENOTEMPTY) => TreeError::InTheWay(path.clone(), "a directory with something in it"),
        Some(libc::EISDIR) => TreeError::InTheWay(path.clone(), "a directory"),
        Some(libc::EEXIST) => TreeError::InTheWay(path.clone(), "something of this name"),
        Some(libc::EBUSY) => TreeError::InTheWay(path.clone(), "in use as a mount"),
        Some(libc::EINVAL) => TreeError::BadName(path.clone(), "nothing can be moved into itself"),
        Some(libc::ENAMETOOLONG) => TreeError::BadName(path.clone(), "a name in it, or the whole, is too long"),
        Some(libc::ENOSPC | libc::EDQUOT) => TreeError::NoSpace(path.clone()),
        _ => TreeError::Io { what, path: path.clone(), source },
    }
}

pub fn stat(path: &str) -> Result<EntryInfo, TreeError> {
    describe(path, &Names::load()).map_err(failed("reading the attributes of", path))
}

/// Makes `path` and whatever is missing above it, each 0755 and owned by `account`. Fine if it exists.
pub fn ensure_directory(path: &str, account: &Account) -> Result<(), TreeError> {
    let mut missing = Vec::new();
    let mut at = Path::new(path);
    loop {
        match fs::metadata(at) {
            Ok(meta) if meta.is_dir() => break,
            Ok(_) => return Err(TreeError::ExistsAsFile(at.to_string_lossy().into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(at),
            // Something above is a file: further up it is found and named.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            Err(error) => return Err(failed("looking at", &at.to_string_lossy())(error)),
        }
        match at.parent() {
            Some(parent) => at = parent,
            None => break,
        }
    }
    for directory in missing.iter().rev() {
        let shown = directory.to_string_lossy();
        match fs::DirBuilder::new().mode(0o755).create(directory) {
            Ok(()) => {
                lchown(directory, Some(account.uid), Some(account.gid))
                    .map_err(failed("changing the owner of", &shown))?;
            }
            // Somebody else was quicker, which serves as well.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            Err(error) => return Err(failed("making directory", &shown)(error)),
        }
    }
    Ok(())
}

pub fn make_directory(path: &str, account: &Account) -> Result<EntryInfo, TreeError> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return Err(TreeError::Exists(path.to_owned())),
        Ok(_) => return Err(TreeError::ExistsAsFile(path.to_owned())),
        Err(_) => ensure_directory(path, account)?,
    }
    stat(path)
}

pub fn rename(from: &str, to: &str, account: &Account) -> Result<EntryInfo, TreeError> {
    if from == "/" || to == "/" {
        return Err(TreeError::Root);
    }
    fs::symlink_metadata(from).map_err(failed("looking at", from))?;
    if let Some(parent) = Path::new(to).parent().and_then(Path::to_str) {
        ensure_directory(parent, account)?;
    }
    fs::rename(from, to).map_err(|error| match error.raw_os_error() {
        Some(libc::EXDEV) => TreeError::OtherFilesystem { from: from.to_owned(), to: to.to_owned() },
        Some(libc::ENOENT) => TreeError::Missing(from.to_owned()),
        _ => failed("moving to", to)(error),
    })?;
    stat(to)
}

/// Removes whatever is there, with everything below; nothing being there is fine.
pub fn remove(path: &str) -> Result<(), TreeError> {
    if path == "/" {
        return Err(TreeError::Root);
    }
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed.map_err(failed("removing", path)) {
        Ok(()) | Err(TreeError::Missing(_) | TreeError::NotDirectory(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lists `path` down to `depth` levels: parents before children, each directory's entries by name. Links are listed,
/// and not followed, except that `path` itself may be one.
pub fn list(path: &str, depth: u32) -> Result<Vec<EntryInfo>, TreeError> {
    let meta = fs::metadata(path).map_err(failed("looking at", path))?;
    if !meta.is_dir() {
        return Err(TreeError::NotDirectory(path.to_owned()));
    }
    let names = Names::load();
    let mut entries = Vec::new();
    // Of each directory on the way down, the names still to be listed, the next one last.
    let mut levels = vec![(path.to_owned(), sorted_names(path).map_err(failed("listing", path))?)];
    while let Some((directory, rest)) = levels.last_mut() {
        let Some(name) = rest.pop() else {
            levels.pop();
            continue;
        };
        let child = join(directory, &name);
        // What vanished since is no part of the listing.
        let Ok(info) = describe(&child, &names) else { continue };
        let descend = info.symlink_target.is_none()
            && info.permissions.starts_with('d')
            && u32::try_from(levels.len()).is_ok_and(|level| level < depth);
        if entries.len() >= MAX_ENTRIES {
            return Err(TreeError::TooMany);
        }
        entries.push(info);
        if descend {
            match sorted_names(&child) {
                Ok(children) => levels.push((child, children)),
                // What this user may not look into is listed as an entry, and what is in it is not.
                Err(error) if is_vanished(&error) || error.kind() == io::ErrorKind::PermissionDenied => {}
                Err(error) => return Err(failed("listing", &child)(error)),
            }
        }
    }
    Ok(entries)
}

fn is_vanished(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR))
}

/// The names in a directory, last first.
fn sorted_names(directory: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        if names.len() > MAX_ENTRIES {
            break;
        }
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(names)
}

fn join(directory: &str, name: &str) -> String {
    if directory.ends_with('/') { format!("{directory}{name}") } else { format!("{directory}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Account {
        Account { name: "root".into(), uid: 0, gid: 0, home: "/root".into(), groups: vec![0] }
    }

    fn folder() -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = fs::canonicalize(folder.path()).expect("exists").to_str().expect("text").to_owned();
        (folder, path)
    }

    #[test]
    fn a_listing_is_depth_first_by_name_and_keeps_the_asked_for_prefix() {
        let (_keep, root) = folder();
        for directory in ["b/x", "a", "b/w"] {
            ensure_directory(&format!("{root}/real/{directory}"), &me()).expect("made");
        }
        fs::write(format!("{root}/real/b/x/deep"), "").expect("written");
        fs::write(format!("{root}/real/c"), "").expect("written");
        std::os::unix::fs::symlink(format!("{root}/real/b"), format!("{root}/real/link")).expect("made");
        std::os::unix::fs::symlink(format!("{root}/real"), format!("{root}/via")).expect("made");
        let paths = |depth| {
            let entries = list(&format!("{root}/via"), depth).expect("listed");
            entries.into_iter().map(|entry| entry.path.replacen(&root, "", 1)).collect::<Vec<_>>()
        };
        assert_eq!(paths(1), ["/via/a", "/via/b", "/via/c", "/via/link"]);
        assert_eq!(paths(2), ["/via/a", "/via/b", "/via/b/w", "/via/b/x", "/via/c", "/via/link"]);
        assert_eq!(paths(9).len(), 7);
    }

    #[test]
    fn failures_say_what_is_wrong_with_which_path() {
        let (_keep, root) = folder();
        let file = format!("{root}/file");
        fs::write(&file, "").expect("written");
        std::os::unix::fs::symlink("loop", format!("{root}/loop")).expect("made");
        assert!(matches!(list(&format!("{root}/no"), 1), Err(TreeError::Missing(_))));
        assert!(matches!(list(&file, 1), Err(TreeError::NotDirectory(_))));
        assert!(matches!(list(&format!("{root}/loop"), 1), Err(TreeError::Loop(_))));
        assert!(matches!(make_directory(&file, &me()), Err(TreeError::ExistsAsFile(_))));
        assert!(matches!(make_directory(&format!("{file}/below"), &me()), Err(TreeError::ExistsAsFile(_))));
        assert!(matches!(make_directory(&root, &me()), Err(TreeError::Exists(_))));
        assert!(matches!(rename(&format!("{root}/no"), &file, &me()), Err(TreeError::Missing(_))));
        assert!(matches!(remove("/"), Err(TreeError::Root)));
        remove(&format!("{root}/no")).expect("nothing to remove is fine");
    }

    #[test]
    fn what_stands_in_a_moves_way_is_said() {
        let (_keep, root) = folder();
        for directory in ["one/in", "two/in"] {
            ensure_directory(&format!("{root}/{directory}"), &me()).expect("made");
        }
        fs::write(format!("{root}/file"), "").expect("written");
        let moved = |from: &str, to: &str| rename(&format!("{root}/{from}"), &format!("{root}/{to}"), &me());
        assert!(matches!(moved("one", "one/in/one"), Err(TreeError::BadName(..))));
        assert!(matches!(moved("one", "two"), Err(TreeError::InTheWay(..))));
        assert!(matches!(moved("file", "two"), Err(TreeError::InTheWay(..))));
        assert!(matches!(moved("one", "file"), Err(TreeError::NotDirectory(_))));
        let long = "x".repeat(300);
        assert!(matches!(moved("file", &long), Err(TreeError::BadName(..))));
        assert!(matches!(make_directory(&format!("{root}/{long}"), &me()), Err(TreeError::BadName(..))));
        assert!(matches!(make_directory("/proc/none", &me()), Err(TreeError::Refused { .. } | TreeError::Missing(_))));
    }

    #[test]
    fn moving_makes_what_is_missing_above_the_destination() {
        let (_keep, root) = folder();
        fs::write(format!("{root}/one"), "1").expect("written");
        let entry = rename(&format!("{root}/one"), &format!("{root}/x/y/two"), &me()).expect("moved");
        assert_eq!(entry.name, "two");
        remove(&format!("{root}/x")).expect("removed");
        assert!(!Path::new(&format!("{root}/x")).exists());
    }
}
