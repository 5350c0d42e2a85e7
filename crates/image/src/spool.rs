//! One temporary file that holds the contents of all files of an archive, one after the other.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::{ImageError, failed};

/// Gone when it is dropped: the file has no name.
#[derive(Debug)]
pub struct Spool {
    file: File,
    length: u64,
}

impl Spool {
    /// In a directory with room for all contents.
    ///
    /// # Errors
    /// When no file can be made there.
    pub fn create_in(directory: &Path) -> Result<Self, ImageError> {
        let file = tempfile::tempfile_in(directory).map_err(failed("making a spool file"))?;
        Ok(Self { file, length: 0 })
    }

    /// Appends exactly `size` bytes; where they begin.
    pub(crate) fn append(&mut self, from: &mut impl Read, size: u64) -> Result<u64, ImageError> {
        let start = self.length;
        let copied = io::copy(&mut from.take(size), &mut self.file).map_err(failed("reading an archive"))?;
        self.length += copied;
        if copied == size { Ok(start) } else { Err(ImageError::archive("it ends in the middle of a file")) }
    }

    /// A small text in it.
    #[must_use]
    pub fn text(&mut self, start: u64, size: u64) -> Option<String> {
        let mut text = String::new();
        self.reader(start, size).ok()?.read_to_string(&mut text).ok()?;
        Some(text)
    }

    pub(crate) fn reader(&mut self, start: u64, size: u64) -> Result<impl Read + '_, ImageError> {
        self.file.flush().and_then(|()| self.file.seek(SeekFrom::Start(start))).map_err(failed("reading the spool"))?;
        Ok((&mut self.file).take(size))
    }
}
