//! What control remembers of callers between requests, without ever acting on a right that has been taken away.
//!
//! Everything that can take a right away (a session ended, a person demoted, deactivated or removed, a team deleted, a
//! key retired) raises one number in the database, in its own transaction; see `auth_version` in the migrations. Every
//! request has the number read anew, and what is remembered counts only if it was read under that very number. So a
//! demotion acts at the next request, on every replica, and yet a request costs no query of its own: requests that
//! arrive while the number is being read share the next read, which begins after they came.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use atoll_model::UserId;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::session_store::LiveSession;
use crate::api_keys::LiveKey;
use crate::db::{Db, DbError, Fresh, Millis, Topic, auth_version};
use crate::teams::TeamRow;

/// People and keys remembered at most; beyond it all are forgotten.
const MOST: usize = 20_000;

/// The SHA-256 of what a caller showed.
pub type Shown = [u8; 32];

/// The digest by which a credential is remembered. `kind` keeps tokens and cookies apart.
#[must_use]
pub fn shown(kind: &str, credential: &str) -> Shown {
    Sha256::new().chain_update(kind).chain_update([0]).chain_update(credential).finalize().into()
}

/// A signed-in person as the database has them, and until when that can hold at all.
pub struct Person {
    pub session: LiveSession,
    /// The credential's or the session's end, whichever comes first.
    pub until: Millis,
}

#[derive(Default)]
struct Known {
    version: i64,
    people: HashMap<Shown, Arc<Person>>,
    keys: HashMap<Shown, Arc<LiveKey>>,
    /// The first page of a person's teams.
    teams: HashMap<UserId, Arc<[TeamRow]>>,
}

/// Cheap to clone; clones share what they know.
#[derive(Clone)]
pub struct Rights(Arc<Inner>);

struct Inner {
    db: Db,
    known: Mutex<Known>,
    reading: Mutex<Reading>,
    version: Fresh<(), i64>,
}

#[derive(Default)]
struct Reading {
    under_way: bool,
    waiting: Vec<oneshot::Sender<Result<i64, DbError>>>,
}

impl Rights {
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self(Arc::new(Inner {
            db,
            known: Mutex::default(),
            reading: Mutex::default(),
            version: Fresh::about(Topic::Rights),
        }))
    }

    /// The number as it is now: read at or after the moment of this call, or since the last change of the database.
    pub async fn version(&self) -> Result<i64, DbError> {
        self.0.version.read(&self.0.db, (), self.read_with_others()).await
    }

    async fn read_with_others(&self) -> Result<i64, DbError> {
        let (sender, receiver) = oneshot::channel();
        let lead = {
            let mut reading = self.0.reading.lock().unwrap_or_else(PoisonError::into_inner);
            reading.waiting.push(sender);
            !std::mem::replace(&mut reading.under_way, true)
        };
        if lead {
            tokio::spawn(read_for_all(Arc::clone(&self.0)));
        }
        match receiver.await {
            Ok(version) => version,
            // Whoever read for all has panicked.
            Err(_) => auth_version::read(&self.0.db).await,
        }
    }

    fn known<T>(&self, version: i64, look: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.version < version || known.people.len() + known.keys.len() + known.teams.len() > MOST {
            *known = Known { version, ..Known::default() };
        }
        if known.version == version {
            return look(&mut known);
        }
        // A slower request, with an older number than others have seen since: it neither reads nor writes here.
        look(&mut Known::default())
    }

    #[must_use]
    pub fn person(&self, version: i64, shown: &Shown, now: Millis) -> Option<Arc<Person>> {
        self.known(version, |known| known.people.get(shown).cloned()).filter(|person| person.until > now)
    }

    /// `person` was read after `version` was.
    pub fn remember(&self, version: i64, shown: Shown, person: &Arc<Person>) {
        self.known(version, |known| known.people.insert(shown, Arc::clone(person)));
    }

    /// The API key that has this digest.
    #[must_use]
    pub fn key(&self, version: i64, shown: &Shown, now: Millis) -> Option<Arc<LiveKey>> {
        self.known(version, |known| known.keys.get(shown).cloned()).filter(|key| key.is_live(now))
    }

    /// `key` was read after `version` was.
    pub fn remember_key(&self, version: i64, shown: Shown, key: &Arc<LiveKey>) {
        self.known(version, |known| known.keys.insert(shown, Arc::clone(key)));
    }

    #[must_use]
    pub fn teams(&self, version: i64, user: &UserId) -> Option<Arc<[TeamRow]>> {
        self.known(version, |known| known.teams.get(user).cloned())
    }

    pub fn remember_teams(&self, version: i64, user: &UserId, teams: &Arc<[TeamRow]>) {
        self.known(version, |known| known.teams.insert(user.clone(), Arc::clone(teams)));
    }
}

/// Reads the number for all who wait, until nobody does.
async fn read_for_all(inner: Arc<Inner>) {
    loop {
        let waiting = {
            let mut reading = inner.reading.lock().unwrap_or_else(PoisonError::into_inner);
            if reading.waiting.is_empty() {
                reading.under_way = false;
                return;
            }
            std::mem::take(&mut reading.waiting)
        };
        let version = auth_version::read(&inner.db).await.map_err(Arc::new);
        for waiter in waiting {
            let _ = waiter.send(version.clone().map_err(DbError::Shared));
        }
    }
}
