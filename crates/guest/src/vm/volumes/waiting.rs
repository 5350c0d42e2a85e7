//! What one mount's kernel has asked and has no answer to yet, and which nodes it knows. No I/O.
//!
//! A kernel counts how often it was told of a node, and says how many of those it has forgotten. The host hears of a node
//! when none is left: until then it keeps what was removed. It hears so in a request, which like all others is sent again
//! until it is answered; but a node that the kernel has come to know anew meanwhile is not in it any more.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use atoll_rpc::volumes::{AGAIN, FORGETTING, Head};

/// Of linux/fuse.h: a request's header, and an answer's.
const HEADER: usize = 40;
pub const ANSWER: usize = 16;
pub const OPCODE: Range<usize> = 4..8;
pub const UNIQUE: Range<usize> = 8..16;
const NODE: Range<usize> = 16..24;
/// Of an answer: 0, or what went wrong.
const ERROR: Range<usize> = 4..8;
/// A node and its attributes.
const ENTRY: usize = 128;
/// An entry of a directory, without its name, and where the name's length is.
const NAMED: usize = 24;
const LENGTH: Range<usize> = 16..20;

/// Nodes that one request may say are forgotten.
const MOST_FORGOTTEN: usize = 4096;

/// Of linux/fuse.h: what is about nodes that a kernel learns of, and forgets.
pub mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const LINK: u32 = 13;
    pub const CREATE: u32 = 35;
    pub const BATCH_FORGET: u32 = 42;
    pub const READDIRPLUS: u32 = 44;
}

#[derive(Default)]
pub struct Waiting {
    /// By their numbers, which the kernel counts up: so they are in order. Each as it was sent.
    requests: BTreeMap<u64, Box<[u8]>>,
    /// How often the kernel was told of a node. It knows them, so they are fewer than it has room for.
    known: HashMap<u64, u64>,
    /// What it has forgotten and the host was not told yet. Of what it once knew: so this too has a bound.
    forgotten: Vec<u64>,
    /// What the host was told is forgotten, by the number of the request, and has not answered.
    told: BTreeMap<u64, Vec<u64>>,
    last: u64,
    gone: bool,
}

impl Waiting {
    /// Requests of the kernel's.
    pub fn count(&self) -> usize {
        self.requests.len()
    }

    pub const fn is_gone(&self) -> bool {
        self.gone
    }

    /// The message of a request that waits from now on. None when there is nobody to ask any more.
    pub fn ask(&mut self, mount: usize, request: &[u8]) -> Option<Vec<u8>> {
        if self.gone {
            return None;
        }
        let message = message(mount, request);
        self.requests.insert(number(request, UNIQUE)?, message.clone().into());
        Some(message)
    }

    /// The host has answered. Only the first answer to a request counts. The nodes that the kernel is told of by it, if it is
    /// to have it.
    pub fn answered(&mut self, answer: &[u8]) -> Option<Vec<u64>> {
        let unique = number(answer, UNIQUE).filter(|_| answer.len() >= ANSWER)?;
        if unique & FORGETTING != 0 {
            self.told.remove(&unique);
            return None;
        }
        let request = self.requests.remove(&unique)?;
        let nodes = nodes(&request[Head::BYTES..], answer);
        for node in &nodes {
            *self.known.entry(*node).or_default() += 1;
        }
        Some(nodes)
    }

    /// The kernel did not take the answer that told of these.
    pub fn untold(&mut self, nodes: Vec<u64>) {
        nodes.into_iter().for_each(|node| self.forget_node(node, 1));
    }

    /// The kernel has forgotten something.
    pub fn forget(&mut self, request: &[u8]) {
        let single = number(request, OPCODE) == Some(op::FORGET.into());
        let Some(body) = request.get(HEADER..) else { return };
        if single {
            if let (Some(node), Some(times)) = (number(request, NODE), number(body, 0..8)) {
                self.forget_node(node, times);
            }
            return;
        }
        for one in body.get(8..).unwrap_or_default().chunks_exact(16) {
            if let (Some(node), Some(times)) = (number(one, 0..8), number(one, 8..16)) {
                self.forget_node(node, times);
            }
        }
    }

    fn forget_node(&mut self, node: u64, times: u64) {
        if let Some(known) = self.known.get_mut(&node) {
            *known = known.saturating_sub(times);
            if *known == 0 {
                self.known.remove(&node);
                self.forgotten.push(node);
            }
        }
    }

    /// The messages that tell the host what is forgotten and not told yet.
    pub fn tell(&mut self, mount: usize) -> Vec<Vec<u8>> {
        if self.gone {
            return Vec::new();
        }
        let known = &self.known;
        self.forgotten.retain(|node| !known.contains_key(node));
        let forgotten = std::mem::take(&mut self.forgotten);
        let messages = forgotten.chunks(MOST_FORGOTTEN).map(|nodes| {
            self.last += 1;
            let unique = FORGETTING | self.last;
            self.told.insert(unique, nodes.to_vec());
            message(mount, &forgetting(unique, nodes))
        });
        messages.collect()
    }

    /// All that has no answer, for another talk: first what is forgotten, then the requests, marked as what may have been
    /// carried out.
    pub fn again(&mut self, mount: usize) -> Vec<Vec<u8>> {
        let told = std::mem::take(&mut self.told);
        self.forgotten.extend(told.into_values().flatten());
        let mut messages = self.tell(mount);
        messages.extend(self.requests.values().map(|asked| {
            let mut again = message(mount, &asked[Head::BYTES..]);
            let request = &mut again[Head::BYTES..];
            let unique = number(request, UNIQUE).unwrap_or_default() | AGAIN;
            request[UNIQUE].copy_from_slice(&unique.to_ne_bytes());
            again
        }));
        messages
    }

    /// Nobody answers any more: the numbers of those who wait.
    pub fn end(&mut self) -> Vec<u64> {
        self.gone = true;
        self.known.clear();
        self.forgotten.clear();
        self.told.clear();
        std::mem::take(&mut self.requests).into_keys().collect()
    }
}

fn message(mount: usize, request: &[u8]) -> Vec<u8> {
    [&Head { length: request.len(), mount }.encode(), request].concat()
}

fn forgetting(unique: u64, nodes: &[u64]) -> Vec<u8> {
    let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
    let length = HEADER + 8 + 16 * nodes.len();
    let mut request = Vec::with_capacity(length);
    request.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    request.extend(op::BATCH_FORGET.to_ne_bytes());
    request.extend(unique.to_ne_bytes());
    request.resize(HEADER, 0);
    request.extend([count.to_ne_bytes(), [0; 4]].concat());
    for node in nodes {
        request.extend(node.to_ne_bytes());
        request.extend(1_u64.to_ne_bytes());
    }
    request
}

/// The nodes of which an answer tells a kernel.
fn nodes(request: &[u8], answer: &[u8]) -> Vec<u64> {
    let body = answer.get(ANSWER..).unwrap_or_default();
    if number(answer, ERROR) != Some(0) || body.len() < ENTRY {
        return Vec::new();
    }
    let mut nodes = Vec::new();
    match number(request, OPCODE).and_then(|opcode| u32::try_from(opcode).ok()) {
        Some(op::LOOKUP | op::SYMLINK | op::MKNOD | op::MKDIR | op::LINK | op::CREATE) => {
            nodes.extend(number(body, 0..8));
        }
        Some(op::READDIRPLUS) => {
            let mut rest = body;
            while let Some((entry, named)) = rest.split_at_checked(ENTRY) {
                nodes.extend(number(entry, 0..8));
                let name = number(named, LENGTH).and_then(|length| usize::try_from(length).ok());
                let end = name.map(|length| (NAMED + length).next_multiple_of(8));
                let Some(next) = end.and_then(|end| named.get(end..)) else { break };
                rest = next;
            }
        }
        _ => {}
    }
    // A name of which no more was told.
    nodes.retain(|node| *node != 0);
    nodes
}

/// A field.
pub fn number(message: &[u8], field: Range<usize>) -> Option<u64> {
    match message.get(field)? {
        [a, b, c, d] => Some(u32::from_ne_bytes([*a, *b, *c, *d]).into()),
        [a, b, c, d, e, f, g, h] => Some(u64::from_ne_bytes([*a, *b, *c, *d, *e, *f, *g, *h])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, unique: u64, node: u64, body: &[u64]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + 8 * body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(opcode.to_ne_bytes());
        bytes.extend(unique.to_ne_bytes());
        bytes.extend(node.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(body.iter().flat_map(|number| number.to_ne_bytes()));
        bytes
    }

    fn answer(unique: u64, error: i32, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(ANSWER + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(error.to_ne_bytes());
        bytes.extend(unique.to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    fn entry(node: u64) -> Vec<u8> {
        let mut bytes = node.to_ne_bytes().to_vec();
        bytes.resize(ENTRY, 0);
        bytes
    }

    fn learn(waiting: &mut Waiting, unique: u64, node: u64) {
        waiting.ask(0, &request(op::LOOKUP, unique, 1, &[])).unwrap();
        assert_eq!(waiting.answered(&answer(unique, 0, &entry(node))), Some(vec![node]));
    }

    /// What the host is told is forgotten, and under which number.
    fn heard(messages: &[Vec<u8>]) -> Vec<(u64, Vec<u64>)> {
        let of = |message: &Vec<u8>| {
            let request = &message[Head::BYTES..];
            assert_eq!(number(request, 0..4), Some(request.len() as u64));
            assert_eq!(number(request, OPCODE), Some(op::BATCH_FORGET.into()));
            let pairs = request[HEADER + 8..].chunks_exact(16);
            assert_eq!(number(request, HEADER..HEADER + 4), Some(pairs.len() as u64));
            (number(request, UNIQUE).unwrap(), pairs.map(|pair| number(pair, 0..8).unwrap()).collect())
        };
        messages.iter().map(of).collect()
    }

    #[test]
    fn a_node_is_forgotten_when_nothing_of_it_is_left() {
        let mut waiting = Waiting::default();
        for unique in [2, 4, 6] {
            learn(&mut waiting, unique, 77);
        }
        waiting.forget(&request(op::FORGET, 8, 77, &[2]));
        assert!(waiting.tell(0).is_empty());
        waiting.forget(&request(op::BATCH_FORGET, 8, 0, &[2, 77, 1, 99, 1]));
        let told = heard(&waiting.tell(0));
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].1, [77], "what it was never told of is nobody's business");
        assert!(waiting.tell(0).is_empty(), "once");
        // An answer that never came, or that says no, is none of a node.
        waiting.ask(0, &request(op::CREATE, 10, 1, &[])).unwrap();
        assert_eq!(waiting.answered(&answer(10, -17, &[])), Some(Vec::new()));
        assert_eq!(waiting.answered(&answer(10, 0, &entry(78))), None);
        waiting.forget(&request(op::FORGET, 12, 78, &[1]));
        assert!(waiting.tell(0).is_empty());
        learn(&mut waiting, 14, 79);
        waiting.untold(vec![79]);
        assert_eq!(heard(&waiting.tell(0))[0].1, [79]);
    }

    #[test]
    fn a_directory_tells_of_all_that_is_in_it() {
        let mut waiting = Waiting::default();
        waiting.ask(0, &request(op::READDIRPLUS, 2, 1, &[])).unwrap();
        let mut body = Vec::new();
        for (node, name) in [(0, "."), (5, "one"), (6, "a longer name"), (5, "another")] {
            body.extend(entry(node));
            let mut named = vec![0; NAMED];
            named[LENGTH].copy_from_slice(&u32::try_from(name.len()).unwrap().to_ne_bytes());
            named.extend(name.as_bytes());
            named.resize(named.len().next_multiple_of(8), 0);
            body.extend(named);
        }
        assert_eq!(waiting.answered(&answer(2, 0, &body)), Some(vec![5, 6, 5]));
        waiting.forget(&request(op::BATCH_FORGET, 4, 0, &[2, 5, 1, 6, 1]));
        assert_eq!(heard(&waiting.tell(0))[0].1, [6]);
        waiting.forget(&request(op::FORGET, 6, 5, &[1]));
        assert_eq!(heard(&waiting.tell(0))[0].1, [5]);
    }

    #[test]
    fn what_was_forgotten_while_the_host_was_away_is_said_until_it_is_answered_and_not_of_what_is_known_anew() {
        let mut waiting = Waiting::default();
        for node in [10, 11, 12] {
            learn(&mut waiting, 2 * node, node);
            waiting.forget(&request(op::FORGET, 2 * node + 100, node, &[1]));
        }
        let first = heard(&waiting.tell(0));
        assert_eq!(first[0].1, [10, 11, 12]);
        // The host has gone without a word. Another talk, in which one is known again.
        let second = heard(&waiting.again(0));
        assert_eq!(second[0].1, [10, 11, 12]);
        assert_ne!(second[0].0, first[0].0);
        learn(&mut waiting, 200, 11);
        let third = heard(&waiting.again(0));
        assert_eq!(third[0].1, [10, 12]);
        assert_eq!(waiting.answered(&answer(third[0].0, 0, &[])), None, "the kernel has not asked for that");
        assert!(waiting.again(0).is_empty());
        // More than fits into one.
        for node in 0..5000 {
            learn(&mut waiting, 10_000 + 2 * node, 1000 + node);
            waiting.forget(&request(op::FORGET, 1, 1000 + node, &[1]));
        }
        let told = heard(&waiting.tell(3));
        assert_eq!(told.iter().map(|(_, nodes)| nodes.len()).collect::<Vec<_>>(), [4096, 904]);
    }

    #[test]
    fn requests_are_sent_again_marked_in_their_order_and_under_the_new_place_of_their_mount() {
        let mut waiting = Waiting::default();
        for unique in [6, 2, 4] {
            assert!(waiting.ask(0, &request(15, unique, 9, &[unique])).is_some());
        }
        assert_eq!(waiting.answered(&answer(4, 0, b"data")), Some(Vec::new()));
        let again = waiting.again(1);
        let uniques: Vec<_> = again.iter().map(|it| number(&it[Head::BYTES..], UNIQUE).unwrap()).collect();
        assert_eq!(uniques, [2 | AGAIN, 6 | AGAIN]);
        for message in &again {
            let head = Head::decode(*message.first_chunk().unwrap(), 2).unwrap();
            assert_eq!((head.mount, head.length), (1, message.len() - Head::BYTES));
        }
    }

    #[test]
    fn nothing_is_asked_of_a_mount_that_has_ended() {
        let mut waiting = Waiting::default();
        learn(&mut waiting, 2, 5);
        waiting.ask(0, &request(15, 4, 9, &[])).unwrap();
        waiting.forget(&request(op::FORGET, 6, 5, &[1]));
        assert_eq!(waiting.end(), [4]);
        assert!(waiting.is_gone() && waiting.ask(0, &request(15, 8, 9, &[])).is_none());
        assert_eq!(waiting.answered(&answer(4, 0, &[])), None);
        assert!(waiting.again(0).is_empty() && waiting.tell(0).is_empty());
    }
}
