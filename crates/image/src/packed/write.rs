//! Packs an image, chunk by chunk.

use std::io::{self, Read};

use sha2::{Digest, Sha256};
use zstd::bulk::Compressor;

use super::index::{Chunk, Index};
use super::{CHUNK, ENTRY, FOOTER, SEEKABLE_MAGIC, TABLE_MAGIC};

/// zstd's default: what higher ones save is not worth their time to anybody who waits.
const LEVEL: i32 = 3;

/// Makes chunks, and at last their table.
pub struct Packer {
    compressor: Compressor<'static>,
    sizes: Vec<[u32; 2]>,
    /// Digests of the chunks, if an index is wanted.
    digests: Option<Vec<[u8; 32]>>,
    /// Of the image, that are no whole chunk yet.
    rest: Vec<u8>,
}

impl Packer {
    /// # Errors
    /// When there is no memory for it.
    pub fn new() -> io::Result<Self> {
        Ok(Self { compressor: Compressor::new(LEVEL)?, sizes: Vec::new(), digests: None, rest: Vec::new() })
    }

    /// One that makes an index as well.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn indexing() -> io::Result<Self> {
        Ok(Self { digests: Some(Vec::new()), ..Self::new()? })
    }

    /// What is to be written for these further bytes of the image: nothing until they fill a chunk.
    ///
    /// # Errors
    /// zstd's.
    pub fn push(&mut self, mut bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut packed = Vec::new();
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.rest.len()));
            self.rest.extend_from_slice(now);
            bytes = later;
            if self.rest.len() == CHUNK {
                packed.append(&mut self.chunk()?);
            }
        }
        Ok(packed)
    }

    /// What is to be written at the end.
    ///
    /// # Errors
    /// zstd's.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        self.finish_indexed().map(|(packed, _)| packed)
    }

    /// What is to be written at the end, and the index, if it was asked for.
    ///
    /// # Errors
    /// zstd's.
    pub fn finish_indexed(mut self) -> io::Result<(Vec<u8>, Option<Index>)> {
        let mut packed = if self.rest.is_empty() { Vec::new() } else { self.chunk()? };
        let too_many = |_| io::Error::other("an image of too many chunks");
        let count = u32::try_from(self.sizes.len()).map_err(too_many)?;
        let length = u32::try_from(self.sizes.len() * ENTRY + FOOTER).map_err(too_many)?;
        for number in [TABLE_MAGIC, length].iter().chain(self.sizes.iter().flatten()) {
            packed.extend(number.to_le_bytes());
        }
        packed.extend(count.to_le_bytes());
        packed.push(0);
        packed.extend(SEEKABLE_MAGIC.to_le_bytes());
        let index = self.digests.map(|digests| {
            let chunks = self.sizes.iter().zip(digests);
            Index::new(chunks.map(|([packed, raw], sha256)| Chunk { packed: *packed, raw: *raw, sha256 }).collect())
        });
        Ok((packed, index))
    }

    fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let packed = self.compressor.compress(&self.rest)?;
        let size = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
        self.sizes.push([size(packed.len())?, size(self.rest.len())?]);
        if let Some(digests) = &mut self.digests {
            digests.push(Sha256::digest(&self.rest).into());
        }
        self.rest.clear();
        Ok(packed)
    }
}

/// An image that is packed while it is read: pieces of the result, in order.
pub struct Packing<R> {
    image: R,
    packer: Option<Packer>,
}

impl<R: Read> Packing<R> {
    /// # Errors
    /// When there is no memory for it.
    pub fn new(image: R) -> io::Result<Self> {
        Ok(Self { image, packer: Some(Packer::new()?) })
    }
}

impl<R: Read> Iterator for Packing<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut packer = self.packer.take()?;
        let mut bytes = Vec::with_capacity(CHUNK);
        let piece = (&mut self.image).take(CHUNK as u64).read_to_end(&mut bytes).and_then(|length| match length {
            0 => packer.finish(),
            _ => packer.push(&bytes).inspect(|_| self.packer = Some(packer)),
        });
        match piece {
            // Fewer bytes than a chunk has: the next look finds the end.
            Ok(piece) if piece.is_empty() => self.next(),
            piece => Some(piece),
        }
    }
}
