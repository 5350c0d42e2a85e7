//! What comes from the host on the port of volumes, read as it is needed.

use std::fs::File;
use std::io::{self, Read};

use atoll_rpc::channel::letter_length;

/// What comes from the host.
pub struct Reader {
    port: File,
    buffer: Vec<u8>,
    /// What is before was read already.
    start: usize,
}

impl Reader {
    pub const fn new(port: File) -> Self {
        Self { port, buffer: Vec::new(), start: 0 }
    }

    pub fn have(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    pub fn skip(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.buffer.len());
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
    }

    pub fn take_all(&mut self) -> Vec<u8> {
        let all = self.buffer.split_off(self.start);
        self.give(Vec::new());
        all
    }

    pub fn give(&mut self, bytes: Vec<u8>) {
        self.buffer = bytes;
        self.start = 0;
    }

    /// Reads once; false when the host is away.
    pub fn more(&mut self) -> io::Result<bool> {
        // A port gives a page at a time.
        const MOST: usize = 4096;
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let length = self.buffer.len();
        self.buffer.resize(length + MOST, 0);
        let read = loop {
            match self.port.read(&mut self.buffer[length..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(length + read.as_ref().map_or(0, |read| *read));
        Ok(read? > 0)
    }

    /// Until there is so much; false when the host is gone before.
    pub fn fill(&mut self, bytes: usize) -> io::Result<bool> {
        while self.have().len() < bytes {
            if !self.more()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// None for what is none, or breaks off.
    pub fn letter(&mut self) -> io::Result<Option<Vec<u8>>> {
        if !self.fill(4)? {
            return Ok(None);
        }
        let length = self.have().first_chunk().and_then(|head| letter_length(*head));
        let Some(length) = length else { return Ok(None) };
        if !self.fill(4 + length)? {
            return Ok(None);
        }
        let text = self.have()[4..4 + length].to_vec();
        self.skip(4 + length);
        Ok(Some(text))
    }
}
