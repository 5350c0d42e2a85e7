//! What host agent and guest agent say on a virtio-serial port before HTTP/2 begins.
//!
//! Such a port has no connections: whoever opens it may find the other end in mid-sentence, of a talk with an agent
//! that is gone, or from before a snapshot. So each talk begins with an epoch, a random number of the host's:
//!
//! ```text
//! host                                   guest
//!   | -- Hello(epoch), again and again ->  |   whatever came before it is skipped
//!   | <- Ack(epoch) ---------------------  |   whatever came before the first is skipped
//!   | -- Go(epoch) ---------------------->  |   further Hellos are skipped
//!   | <- Go(epoch) ----------------------  |   from here on both ends are in step
//!   | -- orders, a letter --------------->  |
//!   | <- its answer, a letter -----------  |
//!   | == HTTP/2: the guest is the server ==|
//! ```
//!
//! The guest answers the last of those Hellos that it reads at a time: a slow one may have thousands before it, since they are
//! what carries it over a message that was broken off.
//!
//! A guest that has just booted is told its ground first, the disks that it stands on, and then, in a talk of its own,
//! who it is: between the two it can be copied for every sandbox that stands on the same.
//!
//! Each `CONNECT` in it is a new connection to the guest, as one over a sandbox's unix socket is; `POST /sync` answers when
//! all that was written inside has reached the disk. Only words and bytes here, no I/O.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// No HTTP/2 frame may begin like this (its length would be above every limit), so a server that is still in another
/// talk gives up when it reads one.
const MAGIC: [u8; 8] = [0xff, 0xff, 0xff, 0x61, 0x74, 0x6f, 0x6c, 0x6c];
/// Bytes of a [`Frame`].
pub const FRAME: usize = MAGIC.len() + 1 + 16;
/// The longest letter: a guest's configuration is a megabyte at most.
pub const MAX_LETTER: usize = 4 << 20;
/// The port's name, by which the guest finds it.
pub const PORT: &str = "atoll";
/// What the kernel passes to a first process that is to say that it runs, and end the machine.
pub const PROOF: &str = "prove";
/// What that says on the console.
pub const PROVEN: &str = "atoll-guest: the machine runs programs";

pub type Epoch = [u8; 16];

/// What a guest knows from earlier talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knows {
    Nothing,
    /// What it stands on, and not who it is.
    Ground,
    Itself,
}

/// One word of the greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Hello,
    Ack(Knows),
    Go,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub word: Word,
    pub epoch: Epoch,
}

impl Frame {
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME] {
        let mut bytes = [0; FRAME];
        bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
        bytes[MAGIC.len()] = match self.word {
            Word::Hello => 1,
            Word::Ack(Knows::Nothing) => 2,
            Word::Ack(Knows::Itself) => 3,
            Word::Go => 4,
            Word::Ack(Knows::Ground) => 5,
        };
        bytes[MAGIC.len() + 1..].copy_from_slice(&self.epoch);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, epoch) = bytes.get(MAGIC.len()..FRAME)?.split_first()?;
        let word = match kind {
            1 => Word::Hello,
            2 => Word::Ack(Knows::Nothing),
            3 => Word::Ack(Knows::Itself),
            4 => Word::Go,
            5 => Word::Ack(Knows::Ground),
            _ => return None,
        };
        Some(Self { word, epoch: epoch.try_into().ok()? })
    }
}

/// Finds frames among bytes that may be anything.
#[derive(Debug, Default)]
pub struct Finder {
    bytes: Vec<u8>,
}

impl Finder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next frame among what was pushed; what lies before it is dropped.
    pub fn next_frame(&mut self) -> Option<Frame> {
        // Dropped once at the end: whoever sends nothing but false beginnings must not cost more than other noise.
        let mut passed = 0;
        let found = loop {
            let rest = &self.bytes[passed..];
            let Some(start) = rest.windows(MAGIC.len()).position(|window| window == MAGIC) else {
                // The beginning of a frame may be among the last bytes.
                passed += rest.len() - rest.len().min(MAGIC.len() - 1);
                break None;
            };
            passed += start;
            if rest.len() - start < FRAME {
                break None;
            }
            if let Some(frame) = Frame::decode(&rest[start..]) {
                passed += FRAME;
                break Some(frame);
            }
            passed += 1;
        };
        self.bytes.drain(..passed);
        found
    }

    /// Bytes that may be the beginning of a frame.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.bytes.len()
    }

    /// What was pushed behind the last frame.
    #[must_use]
    pub fn rest(self) -> Vec<u8> {
        self.bytes
    }
}

/// The guest's side of a greeting.
#[derive(Debug, Default)]
pub struct Greeting {
    finder: Finder,
    /// Of a Hello that is not answered yet.
    heard: Option<Epoch>,
    answered: Option<Epoch>,
}

/// What a guest does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Says Ack.
    Answer(Epoch),
    /// Says Go: from here on both are in step.
    Begin(Epoch),
    Read,
}

impl Greeting {
    /// What was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.finder.push(bytes);
    }

    #[must_use]
    pub fn step(&mut self) -> Step {
        while let Some(Frame { word, epoch }) = self.finder.next_frame() {
            match word {
                Word::Hello => self.heard = Some(epoch),
                Word::Go if self.answered == Some(epoch) => return Step::Begin(epoch),
                Word::Go | Word::Ack(_) => {}
            }
        }
        match self.heard.take() {
            Some(epoch) => {
                self.answered = Some(epoch);
                Step::Answer(epoch)
            }
            None => Step::Read,
        }
    }

    /// What was read behind the Go.
    #[must_use]
    pub fn rest(self) -> Vec<u8> {
        self.finder.rest()
    }
}

/// The letter that begins each talk.
#[derive(Clone, Serialize, Deserialize)]
pub struct Orders {
    /// The host's clock, nanoseconds since 1970.
    pub now_ns: u64,
    /// Fresh randomness: a copy must not go on with that of its original.
    pub entropy: [u8; 32],
    /// For a guest that knows nothing yet; then it is all that it is told.
    #[serde(default)]
    pub ground: Option<Ground>,
    /// Who this is; for a guest that does not know yet.
    pub start: Option<Beginning>,
}

/// What a guest stands on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ground {
    /// Read-only disks below the writable one; `lower0` is the topmost.
    pub lowers: usize,
    /// What programs inside are shown.
    pub vcpus: u32,
    pub memory_bytes: u64,
    /// Whether it is going to be kept for others, so that what programs are made of is read once for all of them.
    #[serde(default)]
    pub warm: bool,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Beginning {
    /// The guest agent's configuration, JSON.
    pub guest: String,
    pub hostname: String,
    /// 32 hex digits.
    pub machine_id: String,
    pub network: Option<Network>,
    /// As in its [`Ground`]: guests of former agents, which a machine may go on with, read no letter without it.
    pub lowers: usize,
    /// Whether there is anything to mount: the port of volumes says what ([`crate::volumes`]).
    #[serde(default)]
    pub volumes: bool,
    /// Whoever the guest has been was a rehearsal, with the same network: nothing is to be seen of that, and what a sandbox
    /// does at its start is still to be done.
    #[serde(default)]
    pub rehearsed: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Network {
    pub address: Ipv4Addr,
    pub gateway: Ipv4Addr,
    pub mtu: u32,
    /// A machine that was made from another has the other's until it is told.
    pub mac: [u8; 6],
}

/// The answer to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    pub error: Option<String>,
}

/// A letter: its length, then its text.
#[must_use]
pub fn letter(text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), text].concat()
}

/// The length of a letter whose first four bytes these are; none when it is too long to be one.
#[must_use]
pub fn letter_length(head: [u8; 4]) -> Option<usize> {
    let length = u32::from_be_bytes(head) as usize;
    (length <= MAX_LETTER).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let acks = [Knows::Nothing, Knows::Ground, Knows::Itself].map(Word::Ack);
        let words = [&[Word::Hello, Word::Go][..], &acks].concat();
        (proptest::sample::select(words), any::<Epoch>()).prop_map(|(word, epoch)| Frame { word, epoch })
    }

    #[test]
    fn a_guest_that_has_thousands_of_greetings_before_it_answers_few() {
        let epochs = [[1; 16], [2; 16]];
        let [earlier, hello] = epochs.map(|epoch| Frame { word: Word::Hello, epoch }.encode());
        let go = Frame { word: Word::Go, epoch: epochs[1] }.encode();
        let text = [&b"the end of a message"[..], &earlier, &hello.repeat(5000), &go, b"rest"].concat();
        let (mut greeting, mut answers, mut pieces) = (Greeting::default(), 0, text.chunks(4096));
        let begun = loop {
            match greeting.step() {
                Step::Answer(epoch) => {
                    assert_eq!(epoch, epochs[1]);
                    answers += 1;
                }
                Step::Begin(epoch) => break epoch,
                Step::Read => greeting.push(pieces.next().unwrap()),
            }
        };
        assert_eq!((begun, greeting.rest()), (epochs[1], b"rest".to_vec()));
        assert!(answers <= text.len().div_ceil(4096), "{answers}");
        // A Go that nobody has waited for begins nothing.
        let mut greeting = Greeting::default();
        greeting.push(&[&hello[..], &go].concat());
        assert_eq!(greeting.step(), Step::Answer(epochs[1]));
        assert_eq!(greeting.step(), Step::Read);
    }

    proptest! {
        #[test]
        fn frames_are_found_among_anything_however_it_is_cut(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            frames in proptest::collection::vec(frame(), 1..4),
            cut in 1_usize..40,
        ) {
            // Noise that holds the mark of a frame is no noise.
            prop_assume!(!noise.windows(MAGIC.len()).any(|window| window == MAGIC));
            let mut text = noise;
            text.push(0);
            frames.iter().for_each(|frame| text.extend(frame.encode()));
            text.extend(*b"rest");
            let mut finder = Finder::default();
            let mut found = Vec::new();
            for piece in text.chunks(cut) {
                finder.push(piece);
                while found.len() < frames.len() {
                    let Some(frame) = finder.next_frame() else { break };
                    found.push(frame);
                }
            }
            prop_assert_eq!(found, frames);
            prop_assert_eq!(finder.rest(), b"rest");
        }

        #[test]
        fn noise_is_never_kept(noise in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let mut finder = Finder::default();
            finder.push(&noise);
            while finder.next_frame().is_some() {}
            prop_assert!(finder.rest().len() < FRAME);
        }
    }

    #[test]
    fn a_letter_that_is_too_long_is_none() {
        assert_eq!(letter(b"ab"), [0, 0, 0, 2, b'a', b'b']);
        assert_eq!(letter_length([0, 0, 0, 2]), Some(2));
        assert_eq!(letter_length([0xff; 4]), None);
    }
}
