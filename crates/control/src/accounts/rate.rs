//! Bounds on guessing and flooding: so many attempts per key in a fixed window, counted in the database so that
//! replicas share them. An attempt that succeeds can be given back.
//!
//! Who is over a limit is remembered until the window ends, so that a flood costs no more writes than were allowed.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::audit::Origin;
use crate::db::{Db, DbError, During, Millis, on};

/// The longest window of any limit.
const LONGEST: Duration = Duration::from_secs(3600);
/// Keys that are remembered to be over their limit, at most.
const MOST_BLOCKED: usize = 10_000;

const MINUTE: Duration = Duration::from_secs(60);
const QUARTER: Duration = Duration::from_secs(900);

/// A limit on one kind of attempt.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    kind: &'static str,
    most: i64,
    window: Duration,
}

/// Sign-ins; those that succeed don't count.
pub const LOGIN_ACCOUNT: Limit = Limit { kind: "login account", most: 10, window: MINUTE };
pub const LOGIN_ADDRESS: Limit = Limit { kind: "login address", most: 60, window: MINUTE };
/// New accounts.
pub const SIGNUP_ADDRESS: Limit = Limit { kind: "signup address", most: 20, window: MINUTE };
pub const SIGNUP_ACCOUNT: Limit = Limit { kind: "signup account", most: 10, window: MINUTE };
/// Setup tokens that were wrong.
pub const SETUP_ADDRESS: Limit = Limit { kind: "setup address", most: 20, window: MINUTE };
/// Sign-ins elsewhere that were begun.
pub const SIGN_IN_ADDRESS: Limit = Limit { kind: "sign-in address", most: 60, window: MINUTE };
/// Invitations by one person.
pub const INVITE: Limit = Limit { kind: "invite", most: 60, window: MINUTE };
/// Links that set a new password, asked for by whoever.
pub const RESET_ACCOUNT: Limit = Limit { kind: "reset account", most: 3, window: QUARTER };
pub const RESET_ADDRESS: Limit = Limit { kind: "reset address", most: 20, window: QUARTER };
/// Tokens of such links, and of invitations, that were wrong.
pub const LINK_ADDRESS: Limit = Limit { kind: "link address", most: 60, window: MINUTE };
/// Programs that ask to be let in.
pub const DEVICE_ADDRESS: Limit = Limit { kind: "device address", most: 30, window: MINUTE };
/// Questions of such programs that came too soon, or with a code that is none.
pub const DEVICE_POLL_ADDRESS: Limit = Limit { kind: "device poll address", most: 60, window: MINUTE };
/// Codes of such programs that one person types.
pub const DEVICE_CODE: Limit = Limit { kind: "device code", most: 20, window: MINUTE };
/// Registrations and refreshes of hosts that were refused.
pub const HOST_ADDRESS: Limit = Limit { kind: "host address", most: 300, window: MINUTE };
/// Registrations and refreshes with one token, refused or not.
pub const HOST_TOKEN: Limit = Limit { kind: "host token", most: 60, window: MINUTE };
/// The current password, asked for by a change of it.
pub const PASSWORD: Limit = Limit { kind: "password account", most: 10, window: MINUTE };
/// Test events to one webhook.
pub const WEBHOOK_TEST: Limit = Limit { kind: "webhook test", most: 20, window: MINUTE };
/// Addresses that one person may try to add to teams: the answer says whether there is an account.
pub const ADD_MEMBER: Limit = Limit { kind: "add member", most: 30, window: MINUTE };

impl Limit {
    /// The limit for one account, address or other thing.
    #[must_use]
    pub fn of(self, what: &str) -> Bound {
        Bound { key: key(self.kind, what), limit: self }
    }

    /// The limit for an address. An IPv6 network of a household counts as one.
    #[must_use]
    pub fn of_address(self, address: &str) -> Bound {
        match address.parse() {
            Ok(IpAddr::V6(address)) => {
                let [a, b, c, d, ..] = address.segments();
                self.of(&Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).to_string())
            }
            _ => self.of(address),
        }
    }
}

/// A limit and the key that is counted under it.
#[derive(Debug, Clone)]
pub struct Bound {
    key: String,
    limit: Limit,
}

/// The limits of what is counted by address and by account, in the order in which they are taken: an address that is over
/// its limit costs nothing more, whatever accounts it names.
#[must_use]
pub fn both(by_address: Limit, origin: &Origin, by_account: Limit, account: &str) -> Vec<Bound> {
    let address = origin.address.as_deref().map(|address| by_address.of_address(address));
    address.into_iter().chain([by_account.of(account)]).collect()
}

/// Hashed, so that the table holds neither addresses nor account names.
fn key(kind: &str, what: &str) -> String {
    hex::encode(Sha256::digest(format!("{kind}\0{what}")))
}

/// Counts attempts. Cheap to clone; clones share what they remember.
#[derive(Clone)]
pub struct Rates {
    db: Db,
    blocked: Arc<Mutex<HashMap<String, Millis>>>,
}

impl Rates {
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db, blocked: Arc::default() }
    }

    /// Counts an attempt. Answers how long to wait when there were too many in this window.
    pub async fn take(&self, bound: &Bound, now: Millis) -> Result<Option<Duration>, DbError> {
        if let Some(until) = self.blocked_until(&bound.key, now) {
            return Ok(Some(until.since(now).max(Duration::from_secs(1))));
        }
        let window = bound.limit.window;
        let row: (Millis, i64) = on!(write & self.db, |c| sqlx::query_as(
            "INSERT INTO rate_limits (key, window_start, count) VALUES ($1, $2, 1)
             ON CONFLICT (key) DO UPDATE SET
                 count = CASE WHEN rate_limits.window_start <= $3 THEN 1 ELSE rate_limits.count + 1 END,
                 window_start = CASE WHEN rate_limits.window_start <= $3 THEN $2 ELSE rate_limits.window_start END
             RETURNING window_start, count",
        )
        .bind(&bound.key)
        .bind(now)
        .bind(now - window)
        .fetch_one(c)
        .await)
        .during("count an attempt")?;
        let (start, count) = row;
        if count <= bound.limit.most {
            return Ok(None);
        }
        let until = start + window;
        self.block(&bound.key, until, now);
        Ok(Some(until.since(now).max(Duration::from_secs(1))))
    }

    /// How long to wait, if this replica knows the limit to be exceeded. Costs no query.
    #[must_use]
    pub fn blocked(&self, bound: &Bound, now: Millis) -> Option<Duration> {
        self.blocked_until(&bound.key, now).map(|until| until.since(now).max(Duration::from_secs(1)))
    }

    pub async fn give_back(&self, bound: &Bound) -> Result<(), DbError> {
        on!(write & self.db, |c| sqlx::query("UPDATE rate_limits SET count = count - 1 WHERE key = $1 AND count > 0")
            .bind(&bound.key)
            .execute(c)
            .await
            .map(|_| ()))
        .during("give an attempt back")
    }

    fn blocked_until(&self, key: &str, now: Millis) -> Option<Millis> {
        let blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        blocked.get(key).copied().filter(|until| *until > now)
    }

    fn block(&self, key: &str, until: Millis, now: Millis) {
        let mut blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        if blocked.len() >= MOST_BLOCKED {
            blocked.retain(|_, until| *until > now);
        }
        if blocked.len() < MOST_BLOCKED {
            blocked.insert(key.to_owned(), until);
        }
    }
}

/// Removes windows that are over.
pub async fn prune(db: &Db, now: Millis) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query("DELETE FROM rate_limits WHERE window_start < $1")
        .bind(now - LONGEST)
        .execute(c)
        .await
        .map(|_| ()))
    .during("remove old attempt counts")
}
