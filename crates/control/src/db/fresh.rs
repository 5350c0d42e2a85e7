//! What was read, remembered for as long as nothing has changed that it is about.
//!
//! SQLite keeps the state of its write-ahead log in the first bytes of `<database>-shm`, for all processes that have the
//! database open, and every commit changes them (<https://sqlite.org/walformat.html>, "The WAL-Index Header"). Reading
//! them costs a system call and no connection, so a request that nothing has been written before answers what the last
//! one has read. PostgreSQL has no such bytes: there, everything is read anew.
//!
//! A commit of our own that says what it leaves as it was ([`Db::write_keeping`]) ends only what is about the rest: among
//! those bytes is a count of commits, which shows that it was the only one. Any other commit ends everything.

use std::collections::HashMap;
use std::fs::File;
use std::hash::Hash;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Db;

/// Answers remembered at most, of a kind; beyond it all are forgotten.
const MOST: usize = 10_000;
/// The header stands there twice, and is written second copy first: while a commit is under way they differ.
const HEADER: usize = 48;
/// In the header: the count of commits, whether it has been filled, what tells one log from the next, and where its own
/// checksum is.
const COMMITS: usize = 8;
const IS_FILLED: usize = 12;
const SALTS: Range<usize> = 32..40;
const CHECKSUM: usize = 40;

/// What answers can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Who may do what: whatever raises the version of rights.
    Rights,
    /// Templates and snapshots, what they are called, and the layers that they stand on.
    Templates,
    /// Rows of sandboxes.
    Sandboxes,
}

const TOPICS: [Topic; 3] = [Topic::Rights, Topic::Templates, Topic::Sandboxes];

/// The state of a topic between two changes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u64);

/// The state of a database between two commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header([u8; HEADER]);

impl Header {
    /// Whether there was one commit in between, and no more.
    fn follows(&self, before: &Self) -> bool {
        let commits = |header: &Self| u32::from_ne_bytes(std::array::from_fn(|at| header.0[COMMITS + at]));
        self.0[SALTS] == before.0[SALTS] && commits(self) == commits(before).wrapping_add(1)
    }
}

/// The log as this process has last seen it, and how often each topic may have changed until then.
#[derive(Debug, Default)]
struct Seen {
    at: Option<Header>,
    changes: [u64; TOPICS.len()],
}

impl Seen {
    fn catch_up(&mut self, now: Header) {
        if self.at != Some(now) {
            self.at = Some(now);
            self.changes.iter_mut().for_each(|changes| *changes += 1);
        }
    }

    fn moments(&self) -> [Moment; TOPICS.len()] {
        self.changes.map(Moment)
    }
}

/// The write-ahead log of an open database.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    index: WalIndex,
    /// As long-lived as the descriptor beside it.
    seen: &'static Mutex<Seen>,
}

impl Log {
    /// None when there is none.
    pub(super) fn of(database: &Path) -> Option<Self> {
        WalIndex::of(database).map(|index| Self { index, seen: Box::leak(Box::default()) })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another one after each commit; none while one is under way.
    pub(super) fn header(&self) -> Option<Header> {
        self.index.header()
    }

    fn moment(&self, topic: Topic) -> Option<Moment> {
        let now = self.index.header()?;
        let mut seen = self.seen();
        seen.catch_up(now);
        Some(seen.moments()[topic as usize])
    }

    /// Where a commit of ours begins from.
    fn begin(&self) -> Option<Header> {
        let now = self.index.header()?;
        self.seen().catch_up(now);
        Some(now)
    }

    /// Our commit has left these topics as they were. None when it was not the only one since `before`: whoever asks next
    /// finds everything changed.
    fn end(&self, before: Header, kept: &[Topic]) -> Option<Landed> {
        let now = self.index.header()?;
        let mut seen = self.seen();
        if seen.at != Some(before) || !now.follows(&before) {
            return None;
        }
        let from = seen.moments();
        TOPICS.iter().filter(|topic| !kept.contains(topic)).for_each(|topic| seen.changes[*topic as usize] += 1);
        seen.at = Some(now);
        Some(Landed { from, to: seen.moments() })
    }
}

/// A commit of our own, alone between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Landed {
    from: [Moment; TOPICS.len()],
    to: [Moment; TOPICS.len()],
}

/// The header of an open database's write-ahead log.
#[derive(Clone, Copy, Debug)]
struct WalIndex(&'static File);

impl WalIndex {
    /// None when there is none. The descriptor stays open until the process ends: to close it would drop SQLite's own
    /// locks on the file, which belong to the process.
    fn of(database: &Path) -> Option<Self> {
        let mut path = database.as_os_str().to_owned();
        path.push("-shm");
        Some(Self(Box::leak(Box::new(File::open(path).ok()?))))
    }

    /// None while a commit is under way, and when the file is not the database's any more.
    fn header(self) -> Option<Header> {
        let mut copies = [0; 2 * HEADER];
        self.0.read_exact_at(&mut copies, 0).ok()?;
        let (first, second) = copies.split_at(HEADER);
        let whole = first == second && first[IS_FILLED] == 1 && checksum(&first[..CHECKSUM]) == first[CHECKSUM..];
        let there = whole && self.0.metadata().is_ok_and(|file| file.nlink() > 0);
        there.then(|| Header(std::array::from_fn(|at| first[at])))
    }
}

/// SQLite's own, over words in this machine's order.
fn checksum(bytes: &[u8]) -> [u8; 8] {
    let mut words = bytes.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let (mut one, mut two) = (0_u32, 0_u32);
    while let (Some(first), Some(second)) = (words.next(), words.next()) {
        one = one.wrapping_add(first).wrapping_add(two);
        two = two.wrapping_add(second).wrapping_add(one);
    }
    let mut sum = [0; 8];
    sum[..4].copy_from_slice(&one.to_ne_bytes());
    sum[4..].copy_from_slice(&two.to_ne_bytes());
    sum
}

impl Db {
    /// None when it can't be told: on PostgreSQL, and while a commit is under way.
    #[must_use]
    pub fn moment(&self, topic: Topic) -> Option<Moment> {
        self.log().and_then(|log| log.moment(topic))
    }

    const fn log(&self) -> Option<&Log> {
        match self {
            Self::Sqlite { log, .. } => log.as_ref(),
            Self::Postgres(_) => None,
        }
    }

    /// Does `work`, which is one transaction, or one statement by itself, and leaves these topics as they were. It answers
    /// none when it has written nothing, and must: the one commit that is found afterwards is taken for its own. (An UPDATE
    /// to what is there already writes nothing.) With its answer comes, where it can be told, what its commit has ended.
    ///
    /// # Errors
    /// What `work` answers.
    pub async fn write_keeping<T, E>(
        &self,
        kept: &[Topic],
        work: impl Future<Output = Result<Option<T>, E>>,
    ) -> Result<Option<(T, Option<Landed>)>, E> {
        let before = self.log().and_then(Log::begin);
        let Some(written) = work.await? else { return Ok(None) };
        let landed = self.log().zip(before).and_then(|(log, before)| log.end(before, kept));
        Ok(Some((written, landed)))
    }
}

/// Answers of one kind of read.
#[derive(Debug)]
pub struct Fresh<K, V> {
    topic: Topic,
    known: Mutex<Known<K, V>>,
}

#[derive(Debug)]
struct Known<K, V> {
    at: Option<Moment>,
    answers: HashMap<K, V>,
}

impl<K: Eq + Hash, V: Clone> Fresh<K, V> {
    /// For reads that ask about nothing else.
    #[must_use]
    pub fn about(topic: Topic) -> Self {
        Self { topic, known: Mutex::new(Known { at: None, answers: HashMap::new() }) }
    }

    /// What `read` answers for `key`, or has answered since the last change of the topic.
    pub async fn read<E>(&self, db: &Db, key: K, read: impl Future<Output = Result<V, E>>) -> Result<V, E> {
        let Some(now) = db.moment(self.topic) else { return read.await };
        if let Some(known) = self.known(now, |answers| answers.get(&key).cloned()) {
            return Ok(known);
        }
        let answer = read.await?;
        // What was committed meanwhile is in it or not: it counts for the moment before, which is over then.
        self.known(now, |answers| answers.insert(key, answer.clone()));
        Ok(answer)
    }

    /// A commit of our own has changed this answer, and no other of these.
    pub fn changed(&self, landed: &Landed, key: K, answer: V) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.at == Some(landed.from[self.topic as usize]) {
            known.at = Some(landed.to[self.topic as usize]);
            known.answers.insert(key, answer);
        }
    }

    fn known<T>(&self, now: Moment, look: impl FnOnce(&mut HashMap<K, V>) -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.at != Some(now) || known.answers.len() >= MOST {
            known.answers.clear();
            known.at = Some(now);
        }
        look(&mut known.answers)
    }
}

#[cfg(test)]
#[path = "fresh_tests.rs"]
mod tests;
