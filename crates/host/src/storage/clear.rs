//! Deletes trees: of any depth, with few directories open at once, and whatever somebody still adds to them.

use std::collections::VecDeque;
use std::fs::File;
use std::io;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

/// Directories that are open at once. What lies deeper is taken up to the top first.
const DEPTH: usize = 32;
/// A directory that is not empty after so many attempts has somebody in it who goes on writing.
const ROUNDS: usize = 1000;

/// A name that nobody else has.
pub fn fresh_name() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

/// Deletes what has this name in `top`, a directory that no sandbox sees.
///
/// # Errors
/// The kernel's.
pub fn tree(top: &File, name: std::ffi::CString) -> io::Result<()> {
    let mut waiting = VecDeque::from([name]);
    while let Some(name) = waiting.pop_front() {
        remove(top, &name, top, DEPTH, &mut waiting)?;
    }
    Ok(())
}

fn remove(
    dir: &File,
    name: &std::ffi::CStr,
    top: &File,
    depth: usize,
    waiting: &mut VecDeque<std::ffi::CString>,
) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    if depth == 0 {
        let higher = std::ffi::CString::new(fresh_name()).map_err(io::Error::other)?;
        rustix::fs::renameat(dir, name, top, &higher)?;
        waiting.push_back(higher);
        return Ok(());
    }
    for _ in 0..ROUNDS {
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let child = File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
        for inside in names(&child)? {
            remove(&child, &inside, top, depth - 1, waiting)?;
        }
    }
    Err(busy())
}

fn busy() -> io::Error {
    io::Error::other("somebody goes on writing to a directory that is being deleted")
}

/// Some of what a directory holds: a bounded number, since the rest comes in the next round.
/// What a directory holds; no more than the first so many.
///
/// # Errors
/// The kernel's.
pub fn names(dir: &File) -> io::Result<Vec<std::ffi::CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
        if names.len() == 10_000 {
            break;
        }
    }
    Ok(names)
}
