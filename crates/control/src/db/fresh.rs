//! What was read, remembered for as long as the database has not changed at all.
//!
//! SQLite keeps the state of its write-ahead log in the first bytes of `<database>-shm`, for all processes that have the
//! database open, and every commit changes them (<https://sqlite.org/walformat.html>, "The WAL-Index Header"). Reading
//! them costs a system call and no connection, so a request that nothing has been written before answers what the last
//! one has read. PostgreSQL has no such bytes: there, everything is read anew.

use std::collections::HashMap;
use std::fs::File;
use std::hash::Hash;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::Db;

/// Answers remembered at most, of a kind; beyond it all are forgotten.
const MOST: usize = 10_000;
/// The header stands there twice, and is written second copy first: while a commit is under way they differ.
const HEADER: usize = 48;
/// In the header: whether it has been filled, and where its own checksum is.
const IS_FILLED: usize = 12;
const CHECKSUM: usize = 40;

/// The state of a database between two commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment([u8; HEADER]);

/// The header of an open database's write-ahead log.
#[derive(Clone, Copy, Debug)]
pub struct WalIndex(&'static File);

impl WalIndex {
    /// None when there is none. The descriptor stays open until the process ends: to close it would drop SQLite's own
    /// locks on the file, which belong to the process.
    pub(super) fn of(database: &Path) -> Option<Self> {
        let mut path = database.as_os_str().to_owned();
        path.push("-shm");
        Some(Self(Box::leak(Box::new(File::open(path).ok()?))))
    }

    /// None while a commit is under way, and when the file is not the database's any more.
    fn moment(self) -> Option<Moment> {
        let mut copies = [0; 2 * HEADER];
        self.0.read_exact_at(&mut copies, 0).ok()?;
        let (first, second) = copies.split_at(HEADER);
        let whole = first == second && first[IS_FILLED] == 1 && checksum(&first[..CHECKSUM]) == first[CHECKSUM..];
        let there = whole && self.0.metadata().is_ok_and(|file| file.nlink() > 0);
        there.then(|| Moment(std::array::from_fn(|at| first[at])))
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
    pub fn moment(&self) -> Option<Moment> {
        match self {
            Self::Sqlite { log, .. } => log.and_then(WalIndex::moment),
            Self::Postgres(_) => None,
        }
    }
}

/// Answers of one kind of read.
#[derive(Debug)]
pub struct Fresh<K, V>(Mutex<Known<K, V>>);

#[derive(Debug)]
struct Known<K, V> {
    at: Option<Moment>,
    answers: HashMap<K, V>,
}

impl<K, V> Default for Fresh<K, V> {
    fn default() -> Self {
        Self(Mutex::new(Known { at: None, answers: HashMap::new() }))
    }
}

impl<K: Eq + Hash, V: Clone> Fresh<K, V> {
    /// What `read` answers for `key`, or has answered since the last change of the database.
    pub async fn read<E>(&self, db: &Db, key: K, read: impl Future<Output = Result<V, E>>) -> Result<V, E> {
        let Some(now) = db.moment() else { return read.await };
        if let Some(known) = self.known(now, |answers| answers.get(&key).cloned()) {
            return Ok(known);
        }
        let answer = read.await?;
        // What was committed meanwhile is in it or not: it counts for the moment before, which is over then.
        self.known(now, |answers| answers.insert(key, answer.clone()));
        Ok(answer)
    }

    fn known<T>(&self, now: Moment, look: impl FnOnce(&mut HashMap<K, V>) -> T) -> T {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
