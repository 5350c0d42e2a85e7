//! Root file systems as data: read from tar archives ([`tar`]) and directories ([`walk`]), merged ([`merge`]), and
//! written as erofs images ([`erofs`]); how those are stored and sent ([`packed`]), and which
//! parts of them are wanted before any file is read ([`metadata`]).
//!
//! Nothing is ever unpacked: an archive becomes a [`Tree`] in memory and its contents lie in one spool file, so names,
//! links, owners and devices that a stranger chose are data and never reach the file system of the machine. No
//! privileges are needed, and there is nothing to escape from. Everything has a bound ([`Limits`]).
#![forbid(unsafe_code)]

mod erofs;
mod merge;
mod metadata;
pub mod packed;
mod spool;
mod tar;
#[cfg(test)]
mod tests;
mod tree;
mod walk;

use std::io;
use std::path::PathBuf;

pub use erofs::{Written, write};
pub use metadata::{Pieces, read_metadata};
pub use spool::Spool;
pub use tar::apply_tar;
pub use tree::{Content, Inode, Kind, Meta, OPAQUE, Source, Tree};
pub use walk::read_directory;

/// What a tree may hold at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all files together, holes included.
    pub bytes: u64,
    /// Files, directories and whatever else.
    pub inodes: usize,
    /// Directories above a name.
    pub depth: usize,
    /// Bytes of names, links' targets and attributes, which are all in memory.
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 32 << 30, inodes: 2_000_000, depth: 256, memory: 1 << 30 }
    }
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// An archive that is no archive, or holds what can't be in an image.
    #[error("the archive is not valid: {0}")]
    Archive(String),
    #[error("it holds more than {0}")]
    TooLarge(String),
    #[error("{action} {path}: {source}", path = path.display())]
    Path { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{action}: {source}")]
    Io { action: &'static str, source: io::Error },
}

impl ImageError {
    pub(crate) fn archive(problem: impl Into<String>) -> Self {
        Self::Archive(problem.into())
    }
}

pub(crate) fn failed(action: &'static str) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::Io { action, source }
}
