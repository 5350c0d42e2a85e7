//! What a packed image consists of, so that any chunk of it can be fetched alone and checked before it is used.
//!
//! ```text
//! "ATOLLIX1", the number of chunks; of each chunk: its size packed, its size as it is, the SHA-256 of that
//! ```
//! Numbers have four bytes, the lowest first. Where a chunk lies follows from the sizes of those before it.

use std::io;
use std::ops::Range;

use sha2::{Digest, Sha256};

use super::{MAX_CHUNK, MAX_CHUNKS, MIN_CHUNK, bound};

const MAGIC: &[u8; 8] = b"ATOLLIX1";
const HEAD: usize = MAGIC.len() + 4;
const ENTRY: usize = 4 + 4 + 32;
/// As many bytes may an index have.
pub const MAX_INDEX: usize = HEAD + MAX_CHUNKS * ENTRY;

/// One chunk of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub packed: u32,
    pub raw: u32,
    /// Of its raw bytes.
    pub sha256: [u8; 32],
}

impl Chunk {
    /// Its raw bytes, and only if they are what they should be.
    ///
    /// # Errors
    /// When they are not.
    pub fn unpack(&self, packed: &[u8]) -> io::Result<Vec<u8>> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        if packed.len() != self.packed as usize {
            return Err(wrong("a chunk of another length"));
        }
        let raw = zstd::bulk::decompress(packed, self.raw as usize).map_err(|error| wrong(&error.to_string()))?;
        if !self.is(&raw) {
            return Err(wrong("a chunk with another digest"));
        }
        Ok(raw)
    }

    /// Whether these are its raw bytes.
    #[must_use]
    pub fn is(&self, raw: &[u8]) -> bool {
        raw.len() == self.raw as usize && Sha256::digest(raw)[..] == self.sha256
    }
}

/// The chunks of an image, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    chunks: Vec<Chunk>,
    /// Where each begins in the packed image, and the end of the last.
    begins: Vec<u64>,
}

impl Index {
    pub(super) fn new(chunks: Vec<Chunk>) -> Self {
        let mut begins = Vec::with_capacity(chunks.len() + 1);
        let mut at = 0;
        for chunk in &chunks {
            begins.push(at);
            at += u64::from(chunk.packed);
        }
        begins.push(at);
        Self { chunks, begins }
    }

    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Bytes of the image itself.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.raw)).sum()
    }

    /// Bytes of all chunks but the last.
    #[must_use]
    pub fn chunk_bytes(&self) -> u64 {
        self.chunks.first().map_or(1, |chunk| u64::from(chunk.raw))
    }

    /// Where these chunks lie in the packed image.
    #[must_use]
    pub fn packed(&self, chunks: &Range<usize>) -> Range<u64> {
        let at = |chunk: usize| self.begins.get(chunk).or(self.begins.last()).copied().unwrap_or(0);
        at(chunks.start)..at(chunks.end)
    }

    /// The chunks that have these bytes of the image.
    #[must_use]
    pub fn holding(&self, offset: u64, length: u64) -> Range<usize> {
        let size = self.chunk_bytes();
        let number = |chunk: u64| usize::try_from(chunk).unwrap_or(usize::MAX).min(self.chunks.len());
        let first = number(offset / size);
        first..number(offset.saturating_add(length).div_ceil(size)).max(first)
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + self.chunks.len() * ENTRY);
        bytes.extend(MAGIC);
        bytes.extend(u32::try_from(self.chunks.len()).unwrap_or(u32::MAX).to_le_bytes());
        for chunk in &self.chunks {
            bytes.extend(chunk.packed.to_le_bytes());
            bytes.extend(chunk.raw.to_le_bytes());
            bytes.extend(chunk.sha256);
        }
        bytes
    }

    /// # Errors
    /// When it is none, or of an image that the other readers of this module would refuse.
    pub fn decode(bytes: &[u8]) -> io::Result<Self> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not an image's index: {what}"));
        let number = |bytes: &[u8], at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let count = number(bytes, MAGIC.len()).filter(|_| bytes.starts_with(MAGIC)).ok_or_else(|| wrong("its head"))?;
        let count = count as usize;
        if count == 0 || count > MAX_CHUNKS || bytes.len() != HEAD + count * ENTRY {
            return Err(wrong("its length"));
        }
        let mut chunks = Vec::with_capacity(count);
        for entry in bytes[HEAD..].chunks_exact(ENTRY) {
            let (Some(packed), Some(raw), Ok(sha256)) = (number(entry, 0), number(entry, 4), entry[8..].try_into())
            else {
                return Err(wrong("a chunk"));
            };
            chunks.push(Chunk { packed, raw, sha256 });
        }
        let size = chunks.first().map_or(0, |chunk: &Chunk| chunk.raw as usize);
        let good = chunks.iter().enumerate().all(|(number, chunk)| {
            let raw = chunk.raw as usize;
            let is_last = number + 1 == count;
            let sized = if is_last { (1..=size).contains(&raw) } else { raw == size && raw >= MIN_CHUNK };
            sized && raw <= MAX_CHUNK && chunk.packed > 0 && chunk.packed as usize <= bound(MAX_CHUNK)
        });
        if good { Ok(Self::new(chunks)) } else { Err(wrong("chunks of other sizes")) }
    }
}
