//! One file, directory or link as callers see it.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use atoll_rpc::buffa_types::google::protobuf::Timestamp;
use atoll_rpc::filesystem::{EntryInfo, FileType};

use crate::files::metadata;
use crate::paths::base_name;
use crate::users::Names;

/// What a directory takes, where its file system says nothing or next to nothing: a block, as most do.
const DIRECTORY: u64 = 4096;

/// Describes what is at `path`. A link is described by its target's type and mode, and by its own size, time and owner.
pub fn describe(path: &str, names: &Names) -> io::Result<EntryInfo> {
    let own = std::fs::symlink_metadata(path)?;
    let (kind, mode, symlink_target) = if own.is_symlink() {
        let (kind, mode) = match std::fs::metadata(path) {
            Ok(target) => (kind_of(&target), target.mode() & 0o7777),
            Err(_) => (FileType::FILE_TYPE_UNSPECIFIED, own.mode() & 0o7777),
        };
        let target = std::fs::canonicalize(path).or_else(|_| std::fs::read_link(path))?;
        (kind, mode, Some(target.to_string_lossy().into_owned()))
    } else {
        (kind_of(&own), own.mode() & 0o7777, None)
    };
    let metadata = if own.is_file() { metadata::read(Path::new(path)).unwrap_or_default() } else { Vec::new() };
    Ok(EntryInfo {
        name: base_name(path).to_owned(),
        r#type: kind.into(),
        path: path.to_owned(),
        size: i64::try_from(if own.is_dir() { own.len().max(DIRECTORY) } else { own.len() }).unwrap_or(i64::MAX),
        mode: mode & 0o777,
        permissions: permissions(own.mode()),
        owner: names.user(own.uid()),
        group: names.group(own.gid()),
        modified_time: Timestamp::from_unix(own.mtime(), i32::try_from(own.mtime_nsec()).unwrap_or(0)).into(),
        symlink_target,
        metadata: metadata.into_iter().collect(),
        ..Default::default()
    })
}

fn kind_of(meta: &Metadata) -> FileType {
    if meta.is_dir() {
        FileType::FILE_TYPE_DIRECTORY
    } else if meta.is_file() {
        FileType::FILE_TYPE_FILE
    } else {
        FileType::FILE_TYPE_UNSPECIFIED
    }
}

/// The mode in words, as Go prints it: the letters of what is special, then who may do what.
fn permissions(mode: u32) -> String {
    let kind = match mode & libc::S_IFMT {
        libc::S_IFDIR => "d",
        libc::S_IFLNK => "L",
        libc::S_IFBLK => "D",
        libc::S_IFCHR => "Dc",
        libc::S_IFIFO => "p",
        libc::S_IFSOCK => "S",
        _ => "",
    };
    let (device, character) = kind.split_at(kind.len().min(1));
    let mut text = device.to_owned();
    for (bit, letter) in [(libc::S_ISUID, 'u'), (libc::S_ISGID, 'g')] {
        if mode & bit != 0 {
            text.push(letter);
        }
    }
    text.push_str(character);
    if mode & libc::S_ISVTX != 0 {
        text.push('t');
    }
    if text.is_empty() {
        text.push('-');
    }
    for shift in (0..9).rev() {
        let letter = ['x', 'w', 'r'][shift % 3];
        text.push(if mode >> shift & 1 == 1 { letter } else { '-' });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_written_as_go_does() {
        for (mode, expected) in [
            (libc::S_IFREG | 0o644, "-rw-r--r--"),
            (libc::S_IFDIR | 0o755, "drwxr-xr-x"),
            (libc::S_IFLNK | 0o777, "Lrwxrwxrwx"),
            (libc::S_IFDIR | 0o1777, "dtrwxrwxrwx"),
            (libc::S_IFREG | 0o4755, "urwxr-xr-x"),
            (libc::S_IFCHR | 0o666, "Dcrw-rw-rw-"),
        ] {
            assert_eq!(permissions(mode), expected);
        }
    }

    #[test]
    fn links_are_described_by_their_targets() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = std::fs::canonicalize(folder.path()).expect("exists");
        let path = |name: &str| root.join(name).to_str().expect("text").to_owned();
        std::fs::create_dir(path("dir")).expect("made");
        std::os::unix::fs::symlink("dir", path("link")).expect("made");
        std::os::unix::fs::symlink("missing", path("dangling")).expect("made");
        let names = Names::default();

        let link = describe(&path("link"), &names).expect("described");
        assert_eq!(link.r#type.as_known(), Some(FileType::FILE_TYPE_DIRECTORY));
        assert_eq!(link.symlink_target, Some(path("dir")));
        assert!(link.permissions.starts_with('L'));
        let dangling = describe(&path("dangling"), &names).expect("described");
        assert_eq!(dangling.r#type.as_known(), Some(FileType::FILE_TYPE_UNSPECIFIED));
        assert_eq!(dangling.symlink_target.as_deref(), Some("missing"));
        assert!(describe(&path("missing"), &names).is_err());
    }
}
