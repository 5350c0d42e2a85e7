//! One image that is not whole yet: which of its chunks are there, and how the others come.
//!
//! A chunk is fetched once, whoever waits for it, and only written when it is what the index says. Several that follow each
//! other come in one request. What an earlier agent has left in the file counts when its digest is right, so nothing about
//! it need be written down.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_image::packed::Index;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::super::{Fetch, FetchError};

/// Packed bytes of one request.
const RUN_BYTES: u64 = 1 << 20;
/// Parts of the patience of readers that pass between two tries, at first and at most.
const PAUSES: (u32, u32) = (300, 6);
/// Tries one after the other that bring what is wrong, or nothing where there should be an image.
const MAX_WRONG: usize = 8;
/// Requests for what nobody waits for yet.
pub(super) const BACKGROUND: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Missing,
    Coming,
    There,
}

/// Why a chunk did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("chunk {0} of it: {1}")]
    Chunk(usize, io::Error),
    #[error("it was given up")]
    GivenUp,
}

impl Problem {
    /// Whether another try will hardly help.
    fn is_final(&self) -> bool {
        match self {
            Self::Fetch(error) => error.not_found,
            Self::Chunk(_, error) => error.kind() == io::ErrorKind::InvalidData,
            Self::GivenUp => true,
        }
    }
}

/// Where an image comes from, for all that are under way.
pub(super) struct Supply {
    pub source: Arc<dyn Fetch>,
    /// Requests at a time; each takes some megabytes of memory.
    pub requests: Semaphore,
    pub patience: Duration,
}

impl Supply {
    /// Between two tries, at first and at most.
    fn pauses(&self) -> (Duration, Duration) {
        (self.patience / PAUSES.0, self.patience / PAUSES.1)
    }
}

pub(super) struct Filling {
    pub digest: String,
    pub index: Index,
    /// Opened before the file was marked: nobody is asked about what is done through it.
    pub file: File,
    pub path: PathBuf,
    /// Nothing of an earlier agent is in the file.
    is_new: bool,
    states: Mutex<Vec<State>>,
    /// A chunk came, or did not.
    changed: Notify,
    /// Readers that wait.
    urgent: AtomicUsize,
    /// Where to go on: behind what was wanted last.
    cursor: AtomicUsize,
    given_up: AtomicBool,
}

/// Chunks that somebody brings; those that are not there in the end are missing again.
struct Claim<'a>(&'a Filling, Range<usize>);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut states = self.0.states();
        states[self.1.clone()].iter_mut().filter(|it| **it == State::Coming).for_each(|it| *it = State::Missing);
        drop(states);
        self.0.changed.notify_waiters();
    }
}

struct Urgent<'a>(&'a Filling);

impl<'a> Urgent<'a> {
    fn new(filling: &'a Filling) -> Self {
        filling.urgent.fetch_add(1, Ordering::Relaxed);
        Self(filling)
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.urgent.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_waiters();
    }
}

impl Filling {
    pub fn new(digest: &str, index: Index, file: File, path: PathBuf, is_new: bool) -> Self {
        let states = Mutex::new(vec![State::Missing; index.chunks().len()]);
        let (changed, digest) = (Notify::new(), digest.to_owned());
        let (urgent, cursor, given_up) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        Self { digest, index, file, path, is_new, states, changed, urgent, cursor, given_up }
    }

    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Nothing more comes; who waits gets an error.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    fn is_complete(&self) -> bool {
        self.states().iter().all(|state| *state == State::There)
    }

    /// Claims missing chunks that follow each other: those from the first of `within` on that can come in one request.
    fn claim(&self, within: Range<usize>) -> Option<Claim<'_>> {
        let mut states = self.states();
        let first = within.clone().find(|chunk| states.get(*chunk) == Some(&State::Missing))?;
        let fits = |end: &usize| {
            let place = self.index.packed(&(first..*end + 1));
            states.get(*end) == Some(&State::Missing) && place.end - place.start <= RUN_BYTES
        };
        let end = (first + 1..within.end).take_while(fits).last().map_or(first + 1, |last| last + 1);
        states[first..end].fill(State::Coming);
        Some(Claim(self, first..end))
    }

    /// Until these chunks are there.
    ///
    /// # Errors
    /// When one doesn't come at the first try.
    pub async fn need(self: &Arc<Self>, chunks: Range<usize>, supply: &Supply) -> Result<(), Problem> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.states()[chunks.clone()].iter().all(|state| *state == State::There) {
                return Ok(());
            }
            if self.is_given_up() {
                return Err(Problem::GivenUp);
            }
            match self.claim(chunks.clone()) {
                Some(claim) => self.bring(claim, supply).await?,
                None => changed.await,
            }
        }
    }

    /// For a reader that waits: whether it may go on.
    pub async fn wanted(self: &Arc<Self>, offset: u64, count: u64, supply: &Supply) -> bool {
        let chunks = self.index.holding(offset, count);
        self.cursor.store(chunks.end, Ordering::Relaxed);
        let (deadline, (mut pause, longest)) = (Instant::now() + supply.patience, supply.pauses());
        loop {
            let needed = {
                let _urgent = Urgent::new(self);
                tokio::time::timeout_at(deadline, self.need(chunks.clone(), supply)).await
            };
            match needed {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => {
                    let image = &self.digest;
                    if matches!(error, Problem::GivenUp) || Instant::now() + pause >= deadline {
                        tracing::error!(image, %error, "a part of an image that is read can't be had: an I/O error");
                        return false;
                    }
                    tracing::warn!(image, %error, "a part of an image that is read did not come; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(longest);
                }
                Err(_) => {
                    tracing::error!(image = self.digest, "a part of an image that is read is late: an I/O error");
                    return false;
                }
            }
        }
    }

    /// Brings what nobody waits for yet, until all is there. False when it was given up.
    pub async fn fill(self: &Arc<Self>, supply: &Supply) -> bool {
        let wrong = AtomicUsize::new(0);
        let workers = (0..BACKGROUND).map(|_| self.fill_in_turn(supply, &wrong));
        futures::future::join_all(workers).await.into_iter().all(|whole| whole)
    }

    async fn fill_in_turn(self: &Arc<Self>, supply: &Supply, wrong: &AtomicUsize) -> bool {
        let (shortest, longest) = supply.pauses();
        let mut pause = shortest;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_given_up() || self.is_complete() {
                return !self.is_given_up();
            }
            // Who waits goes first.
            if self.urgent.load(Ordering::Relaxed) > 0 {
                changed.await;
                continue;
            }
            let (begin, end) = (self.cursor.load(Ordering::Relaxed), self.index.chunks().len());
            let Some(claim) = self.claim(begin.min(end)..end).or_else(|| self.claim(0..end)) else {
                changed.await;
                continue;
            };
            self.cursor.store(claim.1.end, Ordering::Relaxed);
            let Err(error) = self.bring(claim, supply).await else {
                wrong.store(0, Ordering::Relaxed);
                pause = shortest;
                continue;
            };
            tracing::warn!(image = self.digest, %error, "the rest of an image in use does not come; trying again");
            if error.is_final() && wrong.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_WRONG {
                tracing::error!(
                    image = self.digest,
                    "an image in use is given up: what is missing of it is an I/O error"
                );
                self.give_up();
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    async fn bring(self: &Arc<Self>, claim: Claim<'_>, supply: &Supply) -> Result<(), Problem> {
        let chunks = claim.1.clone();
        // Never closed.
        let _request = supply.requests.acquire().await.ok();
        if !self.is_new && self.look_for(chunks.clone()).await? {
            return Ok(());
        }
        let place = self.index.packed(&chunks);
        let bytes = supply.source.part(&self.digest, place).await?;
        let filling = Arc::clone(self);
        let writing = tokio::task::spawn_blocking(move || filling.write(chunks, &bytes)).await;
        writing.map_err(|error| Problem::Chunk(claim.1.start, io::Error::other(error)))?
    }

    fn write(&self, chunks: Range<usize>, bytes: &[u8]) -> Result<(), Problem> {
        let begin = self.index.packed(&chunks).start;
        for number in chunks {
            let place = self.index.packed(&(number..number + 1));
            let written = (|| {
                let part = usize::try_from(place.start - begin).ok().zip(usize::try_from(place.end - begin).ok());
                let packed = part.and_then(|(from, to)| bytes.get(from..to)).ok_or(io::ErrorKind::UnexpectedEof)?;
                let raw = self.index.chunks()[number].unpack(packed)?;
                self.file.write_all_at(&raw, number as u64 * self.index.chunk_bytes())
            })();
            written.map_err(|error| Problem::Chunk(number, error))?;
            self.states()[number] = State::There;
            self.changed.notify_waiters();
        }
        Ok(())
    }

    /// Whether all these chunks are in the file already, and right. Those that are need not come.
    async fn look_for(self: &Arc<Self>, chunks: Range<usize>) -> Result<bool, Problem> {
        let (filling, first) = (Arc::clone(self), chunks.start);
        let looking = tokio::task::spawn_blocking(move || {
            let mut all = true;
            for number in chunks {
                let chunk = &filling.index.chunks()[number];
                let mut raw = vec![0; chunk.raw as usize];
                filling.file.read_exact_at(&mut raw, number as u64 * filling.index.chunk_bytes())?;
                if chunk.is(&raw) {
                    filling.states()[number] = State::There;
                    filling.changed.notify_waiters();
                } else {
                    all = false;
                }
            }
            Ok(all)
        });
        let looked = looking.await.map_err(io::Error::other).and_then(|looked| looked);
        looked.map_err(|error| Problem::Chunk(first, error))
    }

    /// The digest of the whole file, on the disk by then. Blocks.
    pub fn settle(&self) -> io::Result<String> {
        let (mut hasher, mut buffer, mut at) = (Sha256::new(), vec![0; 1 << 20], 0);
        loop {
            match self.file.read_at(&mut buffer, at)? {
                0 => break,
                read => {
                    hasher.update(&buffer[..read]);
                    at += read as u64;
                }
            }
        }
        self.file.sync_all()?;
        Ok(hex::encode(hasher.finalize()))
    }
}
