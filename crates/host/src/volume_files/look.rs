//! What changes nothing: stat, list, open for reading.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags};

use super::{Entry, FileError, Named, Volume, failed};

/// More is told as too much, not built up in memory.
const MAX_ENTRIES: usize = 50_000;
/// Of their paths and targets together.
const MAX_BYTES: usize = 8 << 20;
/// As many directories are open at once.
const MAX_DEPTH: u32 = 100;

impl Volume {
    /// What is there.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn stat(&self, named: &Named) -> Result<Entry, FileError> {
        let look = || match named.name() {
            Some(name) => Entry::of(self.parent(named)?, Path::new(name), named),
            None => Entry::of(&self.dirs.files, Path::new(""), named),
        };
        look().map_err(failed("looking at", named))
    }

    /// What a directory holds, `depth` levels of it: parents before children, and by name.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn list(&self, named: &Named, depth: u32) -> Result<Vec<Entry>, FileError> {
        if !(1..=MAX_DEPTH).contains(&depth) {
            let problem = format!("must be between 1 and {MAX_DEPTH}");
            return Err(FileError::Invalid { field: "depth", problem });
        }
        let failed = failed("listing", named);
        let dir = self.open(&named.path(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK);
        let dir = dir.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTDIR) if self.stat(named).is_ok() => {
                FileError::Invalid { field: "path", problem: "is not a directory".to_owned() }
            }
            _ => failed(error),
        })?;
        let mut listing = Listing::default();
        walk(&dir, named, depth, &mut listing).map_err(failed)?;
        if listing.too_much() {
            let problem = format!("holds more than {MAX_ENTRIES} entries, or {} MiB of names", MAX_BYTES >> 20);
            let problem = format!("{problem}: list less deep, or its directories");
            return Err(FileError::Invalid { field: "path", problem });
        }
        Ok(listing.entries)
    }

    /// A file and its length.
    ///
    /// # Errors
    /// [`FileError`]; what is no regular file has no contents.
    pub fn read(&self, named: &Named) -> Result<(File, u64), FileError> {
        let failed = failed("reading", named);
        let file = self.open(&named.path(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).map_err(&failed)?;
        let found = file.metadata().map_err(failed)?;
        if found.is_file() {
            return Ok((file, found.len()));
        }
        let problem = if found.is_dir() { "is a directory" } else { "is not a regular file" };
        Err(FileError::Invalid { field: "path", problem: problem.to_owned() })
    }
}

/// What was found so far, and how much that is with what is still to be looked at, on all levels.
#[derive(Default)]
struct Listing {
    entries: Vec<Entry>,
    names: usize,
    bytes: usize,
}

impl Listing {
    const fn too_much(&self) -> bool {
        self.names > MAX_ENTRIES || self.bytes > MAX_BYTES
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += entry.path.len() + entry.target.as_ref().map_or(0, String::len);
        self.entries.push(entry);
    }
}

fn walk(dir: &File, named: &Named, depth: u32, listing: &mut Listing) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
            listing.names += 1;
        }
        if listing.too_much() {
            return Ok(());
        }
    }
    names.sort();
    for name in names {
        let shown = named.child(&name.to_string_lossy());
        let path = Path::new(OsStr::from_bytes(name.to_bytes()));
        // What is gone meanwhile is not there.
        let Ok(entry) = Entry::of(dir, path, &shown) else { continue };
        let below = depth > 1 && entry.kind == "directory";
        listing.push(entry);
        if listing.too_much() {
            return Ok(());
        }
        if below {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            if let Ok(child) = rustix::fs::openat(dir, path, flags, Mode::empty()) {
                walk(&File::from(child), &shown, depth - 1, listing)?;
            }
        }
    }
    Ok(())
}
