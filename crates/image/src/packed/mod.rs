//! Images as they are stored and sent: compressed in chunks that stand alone.
//!
//! It is zstd's seekable format, so `zstd -d` makes the image of it: one frame for each chunk of the image, then a
//! table in a frame that decoders skip, with the size of each chunk before and after. An image's name stays the
//! digest of its own bytes. Stricter than the format, so that readers need little memory whatever comes: all chunks but
//! the last have one size, none is empty or larger than [`MAX_CHUNK`], nothing lies between them, and the table is
//! what was seen. [`Packing`] and [`Packer`] write it, [`Unpacker`] reads it as it comes. An [`Index`] says what is in each
//! chunk, for who fetches them one by one.

mod index;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use index::{Chunk, Index, MAX_INDEX};
pub use read::Unpacker;
pub use write::{Packer, Packing};

/// Bytes of an image in one chunk of ours.
pub const CHUNK: usize = 1 << 20;
/// The largest that is read, and the smallest unless it is the only one.
pub const MAX_CHUNK: usize = 4 << 20;
const MIN_CHUNK: usize = 64 << 10;
/// Images of so many chunks: a terabyte of ours.
const MAX_CHUNKS: usize = 1 << 20;
/// In HTTP, as an encoding of the image.
pub const ENCODING: &str = "zstd";

const FRAME_MAGIC: u32 = 0xFD2F_B528;
const TABLE_MAGIC: u32 = 0x184D_2A5E;
/// Behind the table: the number of chunks, a byte of flags, and this.
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const FOOTER: usize = 9;
const ENTRY: usize = 8;

/// Largest that `raw` bytes become when they can't be made smaller, and some more.
const fn bound(raw: usize) -> usize {
    raw + (raw >> 7) + 1024
}
