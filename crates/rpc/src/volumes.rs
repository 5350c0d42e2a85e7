//! What host agent and guest agent say on the port of a machine's volumes.
//!
//! It is a port of its own, so that nothing else can keep a file waiting: not the guest's main thread, which stands still
//! while a program is started from a volume. It is greeted as the other one is ([`crate::channel`]); then the host's
//! letter names all mounts, the guest makes them so and answers, and from there on requests of the guest's kernel (FUSE,
//! see linux/fuse.h) go up and answers come down, each behind a [`Head`]:
//!
//! ```text
//! guest -> host   head, request
//! host -> guest   head, answer, seal
//! ```
//!
//! The seal is the talk's epoch. A guest that stood still may have half an answer of an earlier talk; whatever came
//! behind it, the seal is not this talk's, and the answer is thrown away. A request stays with the guest until it is
//! answered. In the next talk it is sent again, marked: it may have been carried out before. What the kernel forgets is said
//! by the guest agent, which counts what was forgotten, in requests of its own: they are answered like others.

use serde::{Deserialize, Serialize};

use crate::channel::Epoch;

/// The port's name.
pub const PORT: &str = "atoll.volumes";
/// The most that one request writes or one answer brings.
pub const MOST_DATA: usize = 128 << 10;
/// Of a request or an answer as a whole.
pub const MOST_MESSAGE: usize = MOST_DATA + 4096;
/// What carries a guest that waits for the rest of a message over its end.
pub const INSISTENCE: usize = MOST_MESSAGE + 4096;
/// In a request's number when it may have been carried out before; the kernel uses the same bit for the same.
pub const AGAIN: u64 = 1 << 63;
/// In the number of a request of the guest agent's own: a kernel never counts so far.
pub const FORGETTING: u64 = 1 << 62;

/// The letter: all that is to be mounted, and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounts {
    pub mounts: Vec<Mount>,
}

/// A mount of this volume at this path stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub volume: String,
    pub path: String,
    pub read_only: bool,
}

/// In front of each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Of what follows, without a seal.
    pub length: usize,
    /// Which of the letter's mounts.
    pub mount: usize,
}

impl Head {
    pub const BYTES: usize = 8;

    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let part = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&part(self.length));
        bytes[4..].copy_from_slice(&part(self.mount));
        bytes
    }

    /// None for what is no message of a talk about so many mounts.
    #[must_use]
    pub fn decode(bytes: [u8; Self::BYTES], mounts: usize) -> Option<Self> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let mount = u32::from_le_bytes([e, f, g, h]) as usize;
        (length <= MOST_MESSAGE && mount < mounts).then_some(Self { length, mount })
    }
}

/// Behind each answer.
pub const SEAL: usize = 16;

#[must_use]
pub const fn seal(epoch: Epoch) -> [u8; SEAL] {
    epoch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Frame, Word};

    #[test]
    fn a_head_is_read_as_it_was_written_and_a_greeting_is_none() {
        let head = Head { length: MOST_MESSAGE, mount: 7 };
        assert_eq!(Head::decode(head.encode(), 8), Some(head));
        assert_eq!(Head::decode(head.encode(), 7), None);
        assert_eq!(Head::decode(Head { length: MOST_MESSAGE + 1, mount: 0 }.encode(), 8), None);
        let hello = Frame { word: Word::Hello, epoch: [0; 16] }.encode();
        let start = hello.first_chunk().copied().unwrap();
        assert_eq!(Head::decode(start, usize::MAX), None);
    }
}
