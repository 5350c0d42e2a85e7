//! Streaming a file out: read ahead by one piece, on threads that may wait for the disk, through recycled buffers.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use super::CHUNK;
use crate::server::answers::Body;

/// Something that yields a file's bytes piece by piece; may wait for a disk.
pub trait Pieces: Send + 'static {
    /// The next piece, none at the end.
    fn next(&mut self) -> io::Result<Option<Bytes>>;
}

/// A response body of `pieces`. While one is sent the next is being read.
pub fn stream(pieces: impl Pieces) -> Body {
    let read = |mut pieces: Box<dyn Pieces>| {
        tokio::task::spawn_blocking(move || {
            let piece = pieces.next();
            (pieces, piece)
        })
    };
    let state = Some(read(Box::new(pieces)));
    crate::memory::give_back_soon();
    let frames = stream::unfold(state, move |reading| async move {
        match reading?.await {
            Ok((pieces, Ok(Some(piece)))) => Some((Ok(Frame::data(piece)), Some(read(pieces)))),
            Ok((_, Ok(None))) => {
                crate::memory::give_back_soon();
                None
            }
            Ok((_, Err(error))) => Some((Err(error), None)),
            Err(error) => Some((Err(io::Error::other(error)), None)),
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

impl Pieces for Box<dyn Pieces> {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        (**self).next()
    }
}

/// Buffers of one stream, used again when what was in them has been sent.
#[derive(Clone, Default)]
struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    fn take(&self) -> Lease {
        let buffer = crate::lock(&self.0).pop().unwrap_or_else(|| vec![0; CHUNK]);
        Lease { buffer, length: 0, pool: self.clone() }
    }
}

/// A buffer that goes back to its pool.
struct Lease {
    buffer: Vec<u8>,
    length: usize,
    pool: Pool,
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        crate::lock(&self.pool.0).push(std::mem::take(&mut self.buffer));
    }
}

/// A part of a file as it is.
pub struct Plain {
    file: File,
    position: u64,
    remaining: u64,
    pool: Pool,
}

impl Plain {
    pub fn new(file: File, position: u64, length: u64) -> Self {
        Self { file, position, remaining: length, pool: Pool::default() }
    }
}

impl Pieces for Plain {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.remaining == 0 {
            return Ok(None);
        }
        let mut lease = self.pool.take();
        let wanted = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(CHUNK);
        lease.length = read_at(&self.file, &mut lease.buffer[..wanted], self.position)?;
        self.position += lease.length as u64;
        self.remaining -= lease.length as u64;
        // A file that got shorter ends the body early, which breaks the connection off: the reader must know.
        Ok((lease.length > 0).then(|| Bytes::from_owner(lease)))
    }
}

/// A whole file, compressed.
pub struct Gzipped {
    file: File,
    position: u64,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Gzipped {
    pub fn new(file: File) -> Self {
        Self { file, position: 0, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl Pieces for Gzipped {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        const READ: usize = 64 * 1024;
        const ENOUGH: usize = 32 * 1024;
        let Some(encoder) = &mut self.encoder else { return Ok(None) };
        let mut buffer = vec![0; READ];
        while encoder.get_ref().len() < ENOUGH {
            let length = read_at(&self.file, &mut buffer, self.position)?;
            if length == 0 {
                let rest = self.encoder.take().map(GzEncoder::finish).transpose()?;
                return Ok(rest.map(Bytes::from));
            }
            self.position += length as u64;
            encoder.write_all(&buffer[..length])?;
        }
        Ok(Some(Bytes::from(std::mem::take(encoder.get_mut()))))
    }
}

/// A file of unknown length (as in /proc), until it ends.
pub struct UntilEnd(Plain);

impl UntilEnd {
    pub fn new(file: File) -> Self {
        Self(Plain::new(file, 0, u64::MAX))
    }
}

impl Pieces for UntilEnd {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.0.next()
    }
}

fn read_at(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, position) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
