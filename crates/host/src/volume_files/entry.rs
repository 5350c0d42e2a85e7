//! What is known of a file or a directory, in the shape that E2B's SDKs read.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use chrono::{DateTime, Utc};
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp};
use serde::Serialize;

use super::Named;

/// Of a link: of itself, not of what it leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// From the volume's root.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Rights alone.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub atime: DateTime<Utc>,
    pub mtime: DateTime<Utc>,
    pub ctime: DateTime<Utc>,
    /// Where a link leads, as it is written in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl Entry {
    /// Of `name` in a directory; of the directory itself when the name is empty.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(dir: impl AsFd, name: &Path, named: &Named) -> io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let found = rustix::fs::statx(&dir, name, flags, StatxFlags::BASIC_STATS)?;
        let mut entry = Self::shown(&found, named);
        if entry.kind == "symlink" {
            let target = rustix::fs::readlinkat(&dir, name, Vec::new())?;
            entry.target = Some(target.to_string_lossy().into_owned());
        }
        Ok(entry)
    }

    fn shown(found: &Statx, named: &Named) -> Self {
        let mode = u32::from(found.stx_mode);
        let kind = match FileType::from_raw_mode(mode) {
            FileType::RegularFile => "file",
            FileType::Directory => "directory",
            FileType::Symlink => "symlink",
            _ => "unknown",
        };
        Self {
            name: named.name().unwrap_or("/").to_owned(),
            kind,
            path: named.shown(),
            size: found.stx_size,
            mode: mode & 0o7777,
            uid: found.stx_uid,
            gid: found.stx_gid,
            atime: time(found.stx_atime),
            mtime: time(found.stx_mtime),
            ctime: time(found.stx_ctime),
            target: None,
        }
    }
}

fn time(at: StatxTimestamp) -> DateTime<Utc> {
    DateTime::from_timestamp(at.tv_sec, at.tv_nsec).unwrap_or_default()
}
