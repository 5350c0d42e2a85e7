//! Reads a packed image as it comes, from anybody.

use std::fmt;
use std::io;

use sha2::{Digest, Sha256};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::index::{Chunk, Index};
use super::{ENTRY, FOOTER, FRAME_MAGIC, MAX_CHUNK, MAX_CHUNKS, MIN_CHUNK, SEEKABLE_MAGIC, TABLE_MAGIC, bound};

/// Shown at a time.
const PIECE: usize = 128 << 10;
/// Magic numbers, and the length behind the table's.
const WORD: usize = 4;

/// Takes bytes in any portions. Its memory has a bound whatever they are.
pub struct Unpacker {
    decoder: Decoder<'static>,
    piece: Vec<u8>,
    /// Sizes of the chunks so far: packed, and as they are.
    sizes: Vec<[u32; 2]>,
    now: Now,
    indexing: Option<Indexing>,
}

/// Digests of the chunks so far, and of the present one.
#[derive(Default)]
struct Indexing {
    hasher: Sha256,
    digests: Vec<[u8; 32]>,
}

#[derive(Debug)]
enum Now {
    /// Between frames, with the first bytes of the next one.
    Between(Vec<u8>),
    Chunk {
        packed: usize,
        raw: usize,
    },
    Table(Vec<u8>),
    Whole,
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacker").field("chunks", &self.sizes.len()).finish_non_exhaustive()
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a packed image: {what}"))
}

impl Unpacker {
    /// # Errors
    /// When there is no memory for it.
    pub fn new() -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(MAX_CHUNK.ilog2()))?;
        Ok(Self { decoder, piece: vec![0; PIECE], sizes: Vec::new(), now: Now::Between(Vec::new()), indexing: None })
    }

    /// One that makes an index as well.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn indexing() -> io::Result<Self> {
        Ok(Self { indexing: Some(Indexing::default()), ..Self::new()? })
    }

    /// The index of what came so far, if it was asked for.
    #[must_use]
    pub fn index(&self) -> Option<Index> {
        let digests = &self.indexing.as_ref()?.digests;
        let chunks = self.sizes.iter().zip(digests);
        Some(Index::new(
            chunks.map(|([packed, raw], sha256)| Chunk { packed: *packed, raw: *raw, sha256: *sha256 }).collect(),
        ))
    }

    /// Takes further bytes in, and shows those of the image.
    ///
    /// # Errors
    /// When they are of no packed image, and those of `show`.
    pub fn push(&mut self, mut bytes: &[u8], show: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = match &mut self.now {
                Now::Between(word) => {
                    let rest = fill(word, WORD, bytes);
                    if word.len() == WORD {
                        self.enter(show)?;
                    }
                    rest
                }
                Now::Chunk { .. } => {
                    let taken = self.decode(bytes, show)?;
                    &bytes[taken..]
                }
                Now::Table(table) => {
                    let rest = fill(table, WORD + self.sizes.len() * ENTRY + FOOTER, bytes);
                    if let Some(true) = is_table(table, &self.sizes)? {
                        self.now = Now::Whole;
                    }
                    rest
                }
                Now::Whole => return Err(wrong("bytes behind its end")),
            };
        }
        Ok(())
    }

    /// Whether all of it came.
    ///
    /// # Errors
    /// When not.
    pub fn finish(self) -> io::Result<()> {
        match self.now {
            Now::Whole => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the packed image is not whole")),
        }
    }

    /// The next frame begins.
    fn enter(&mut self, show: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let Now::Between(word) = &self.now else { return Ok(()) };
        let word = word.clone();
        match number(&word, 0) {
            Some(TABLE_MAGIC) => self.now = Now::Table(Vec::new()),
            Some(FRAME_MAGIC) => {
                let sizes = &self.sizes;
                if sizes.len() >= MAX_CHUNKS {
                    return Err(wrong("too many chunks"));
                }
                // So the one before is not the last: then it has the size of all.
                let uneven = sizes.last().map(|last| last[1]) != sizes.first().map(|first| first[1]);
                if uneven || sizes.first().is_some_and(|first| (first[1] as usize) < MIN_CHUNK) {
                    return Err(wrong("chunks of other sizes"));
                }
                self.now = Now::Chunk { packed: 0, raw: 0 };
                self.decode(&word, show)?;
            }
            _ => return Err(wrong("neither a chunk nor a table")),
        }
        Ok(())
    }

    /// Goes on with a chunk; how many bytes belong to it.
    fn decode(&mut self, bytes: &[u8], show: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<usize> {
        let mut input = InBuffer::around(bytes);
        loop {
            let before = input.pos();
            let mut output = OutBuffer::around(&mut self.piece[..]);
            let hint = self.decoder.run(&mut input, &mut output).map_err(|error| wrong(&error.to_string()))?;
            let (came, full) = (output.pos(), output.pos() == PIECE);
            let Now::Chunk { packed, raw } = &mut self.now else { return Err(wrong("no chunk")) };
            *packed += input.pos() - before;
            *raw += came;
            let largest = self.sizes.first().map_or(MAX_CHUNK, |first| first[1] as usize);
            if *raw > largest || *packed > bound(MAX_CHUNK) {
                return Err(wrong("a chunk that is too large"));
            }
            let size = [*packed, *raw].map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
            if let Some(indexing) = &mut self.indexing {
                indexing.hasher.update(&self.piece[..came]);
            }
            show(&self.piece[..came])?;
            if hint == 0 {
                if size[1] == 0 {
                    return Err(wrong("an empty chunk"));
                }
                self.sizes.push(size);
                if let Some(indexing) = &mut self.indexing {
                    indexing.digests.push(indexing.hasher.finalize_reset().into());
                }
                self.now = Now::Between(Vec::new());
                return Ok(input.pos());
            }
            if input.pos() == bytes.len() && !full {
                return Ok(bytes.len());
            }
        }
    }
}

/// Takes what is missing to so many bytes; what is left.
fn fill<'a>(into: &mut Vec<u8>, length: usize, bytes: &'a [u8]) -> &'a [u8] {
    let (now, later) = bytes.split_at(bytes.len().min(length.saturating_sub(into.len())));
    into.extend_from_slice(now);
    later
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Whether it is whole, if it is the table of chunks of these sizes so far.
fn is_table(table: &[u8], sizes: &[[u32; 2]]) -> io::Result<Option<bool>> {
    let length = sizes.len() * ENTRY + FOOTER;
    if number(table, 0).is_some_and(|said| said as usize != length) {
        return Err(wrong("a table of another size"));
    }
    if table.len() < WORD + length {
        return Ok(None);
    }
    let mut expected = table[..WORD].to_vec();
    sizes.iter().flatten().for_each(|size| expected.extend(size.to_le_bytes()));
    expected.extend(u32::try_from(sizes.len()).unwrap_or(u32::MAX).to_le_bytes());
    expected.push(0);
    expected.extend(SEEKABLE_MAGIC.to_le_bytes());
    if table == expected { Ok(Some(true)) } else { Err(wrong("a table of other chunks")) }
}
