//! Finds the sandbox that a signed address of a file is for. The address names none: it has a hash over path, user and
//! the sandbox's access token, so the tokens of living sandboxes have to be tried, and no index can take their place.
//!
//! What that may cost is bounded: one looks at a time, and whoever waits shares what was read meanwhile; who was found
//! is remembered by the signature; and a client whose signatures fit nothing has only so many tries in a minute.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_model::SandboxId;
use tokio::sync::Semaphore;

use super::refusal::Refusal;
use super::signed::Signed;
use crate::db::{Db, DbError, Text};
use crate::sandboxes::store;

/// Signatures that are remembered.
const REMEMBERED: usize = 10_000;
/// Clients whose tries are counted.
const COUNTED: usize = 10_000;
/// Tries of one client that found nothing, within [`WINDOW`].
const TRIES: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);
/// Look, or wait to look.
const WAITING: usize = 64;
/// Tokens that are tried before others get a turn.
const AT_ONCE: usize = 2000;

/// Living sandboxes with their tokens, as they were at a moment.
struct Tokens {
    read_at: Instant,
    all: Vec<(Text<SandboxId>, String)>,
}

pub struct Lookup {
    found: Mutex<HashMap<Vec<u8>, SandboxId>>,
    misses: Mutex<HashMap<IpAddr, (Instant, u32)>>,
    tokens: tokio::sync::Mutex<Option<Tokens>>,
    places: Semaphore,
}

impl Default for Lookup {
    fn default() -> Self {
        Self {
            found: Mutex::default(),
            misses: Mutex::default(),
            tokens: tokio::sync::Mutex::default(),
            places: Semaphore::new(WAITING),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lookup {
    /// The sandbox whose token `signed` was made with.
    ///
    /// # Errors
    /// When there is none that lives, and when too much is asked.
    pub async fn find(&self, db: &Db, signed: &Signed, client: Option<IpAddr>) -> Result<SandboxId, Refusal> {
        if let Some(id) = locked(&self.found).get(&signed.digest) {
            return Ok(id.clone());
        }
        let began = Instant::now();
        if client.is_some_and(|client| self.has_tried_enough(client, began)) {
            return Err(Refusal::TooManyTries);
        }
        let _place = self.places.try_acquire().map_err(|_| Refusal::Overloaded)?;
        match self.search(db, signed, began).await? {
            Some(id) => {
                let mut found = locked(&self.found);
                if found.len() >= REMEMBERED {
                    found.clear();
                }
                found.insert(signed.digest.clone(), id.clone());
                Ok(id)
            }
            None => {
                if let Some(client) = client {
                    self.note_miss(client, began);
                }
                Err(Refusal::NotFound)
            }
        }
    }

    async fn search(&self, db: &Db, signed: &Signed, began: Instant) -> Result<Option<SandboxId>, DbError> {
        let mut tokens = self.tokens.lock().await;
        if let Some(known) = &*tokens
            && let Some(id) = fitting(&known.all, signed).await
        {
            return Ok(Some(id));
        }
        // What was read after this request came has every sandbox that it can be for.
        if tokens.as_ref().is_some_and(|tokens| tokens.read_at >= began) {
            return Ok(None);
        }
        let read_at = Instant::now();
        let all = store::access_tokens(db).await?;
        let found = fitting(&all, signed).await;
        *tokens = Some(Tokens { read_at, all });
        Ok(found)
    }

    fn has_tried_enough(&self, client: IpAddr, now: Instant) -> bool {
        let misses = locked(&self.misses);
        misses.get(&client).is_some_and(|(since, count)| *count >= TRIES && now.duration_since(*since) < WINDOW)
    }

    fn note_miss(&self, client: IpAddr, now: Instant) {
        let mut misses = locked(&self.misses);
        if misses.len() >= COUNTED {
            misses.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        }
        if misses.len() >= COUNTED {
            misses.clear();
        }
        let entry = misses.entry(client).or_insert((now, 0));
        if now.duration_since(entry.0) >= WINDOW {
            *entry = (now, 0);
        }
        entry.1 += 1;
    }
}

async fn fitting(tokens: &[(Text<SandboxId>, String)], signed: &Signed) -> Option<SandboxId> {
    for some in tokens.chunks(AT_ONCE) {
        if let Some((id, _)) = some.iter().find(|(_, token)| signed.was_made_with(token)) {
            return Some(id.0.clone());
        }
        tokio::task::yield_now().await;
    }
    None
}
