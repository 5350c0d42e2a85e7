//! Contents of files over plain HTTP: `GET /files`, `POST /files`, `POST /files/compose`.
//!
//! - `request`: what the query says, who may, which path is meant; and the errors of all three.
//! - `read`: answering with a file, whole, in part or compressed; `content` says what kind it is, `body` streams it.
//! - `write`: taking files in; `multipart` takes a form apart, `inflate` decompresses, `sink` writes to disk,
//!   `linger` lets a refusal arrive.
//! - `compose`: joining files. `signature`: URLs that carry their own permission. `metadata`: callers' notes on files.
//!
//! Contents stream through buffers of fixed size, whatever a file's length, and all work that may wait for a disk is
//! done on threads for that. Names and attributes are `filesystem`'s subject.

mod body;
pub mod compose;
mod content;
mod inflate;
mod linger;
pub mod metadata;
mod multipart;
pub mod read;
mod request;
mod signature;
mod sink;
pub mod write;

pub use request::FileError;

/// What is read or written at a time.
const CHUNK: usize = 256 * 1024;
