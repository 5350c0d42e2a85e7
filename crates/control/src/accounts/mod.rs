//! People: accounts, passwords, sessions and the tokens that prove them.
//!
//! `login` signs in and out, `setup` makes the first admin, `password` hashes, `token` signs user JWTs, `rate` bounds
//! guessing, `store` has the SQL. Who may do what with a session is decided in `http/caller.rs`.

mod login;
mod password;
pub(crate) mod rate;
mod setup;
pub(crate) mod store;
#[cfg(test)]
mod tests;
pub(crate) mod token;

use std::sync::Arc;
use std::time::Duration;

use atoll_model::{TeamId, UserId};
use secrecy::SecretString;
use tokio::sync::Semaphore;

pub use login::LoginError;
pub use setup::{FirstAdmin, SetupError};
pub use token::{TokenError, UserTokens};

use crate::clock::Clock;
use crate::db::Db;

pub use rate::prune as prune_attempts;

/// Password hashes under way at once: each takes 19 MiB and tens of milliseconds of a core.
const HASHES_AT_ONCE: usize = 2;

/// Signs people in and out. Cheap to clone.
#[derive(Clone)]
pub struct Accounts {
    db: Db,
    clock: Clock,
    tokens: Arc<UserTokens>,
    session_ttl: Duration,
    hashing: Arc<Semaphore>,
}

/// A person who has signed in.
pub struct SignedIn {
    pub token: SecretString,
    pub user_id: UserId,
    pub team_id: TeamId,
    pub email: String,
    pub name: String,
}

impl Accounts {
    #[must_use]
    pub fn new(db: Db, clock: Clock, tokens: UserTokens, session_ttl: Duration) -> Self {
        let hashing = Arc::new(Semaphore::new(HASHES_AT_ONCE));
        Self { db, clock, tokens: Arc::new(tokens), session_ttl, hashing }
    }

    #[must_use]
    pub fn tokens(&self) -> &UserTokens {
        &self.tokens
    }
}
