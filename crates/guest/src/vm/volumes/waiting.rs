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

struct Request {
    message: Box<[u8]>,
    /// Somebody may have carried it out.
    sent: bool,
}

#[derive(Default)]
pub struct Waiting {
    /// By their numbers, which the kernel counts up: so they are in order.
    requests: BTreeMap<u64, Request>,
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

    /// The message of a request that waits from now on, and is `sent` at once or when there is a talk again. None when there
    /// is nobody to ask any more.
    pub fn ask(&mut self, mount: usize, request: &[u8], sent: bool) -> Option<Vec<u8>> {
        if self.gone {
            return None;
        }
        let message = message(mount, request);
        self.requests.insert(number(request, UNIQUE)?, Request { message: message.clone().into(), sent });
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
        let nodes = nodes(&request.message[Head::BYTES..], answer);
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

    /// All that has no answer, for another talk: first what is forgotten, then the requests; those that were sent before are
    /// marked as what may have been carried out.
    pub fn again(&mut self, mount: usize) -> Vec<Vec<u8>> {
        let told = std::mem::take(&mut self.told);
        self.forgotten.extend(told.into_values().flatten());
        let mut messages = self.tell(mount);
        messages.extend(self.requests.values_mut().map(|asked| {
            let mut again = message(mount, &asked.message[Head::BYTES..]);
            if std::mem::replace(&mut asked.sent, true) {
                let request = &mut again[Head::BYTES..];
                let unique = number(request, UNIQUE).unwrap_or_default() | AGAIN;
                request[UNIQUE].copy_from_slice(&unique.to_ne_bytes());
            }
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
mod tests;
