//! Logins of programs, as RFC 8628 has them: the program shows a code, a person who is signed in lets it in, and the
//! program, which asks every few seconds, gets a session of theirs. It lasts 30 days and is listed and ended like any.

use std::time::Duration;

use atoll_model::{TeamId, UserId};
use rand::Rng;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::device_store::{self as store, DeviceRow, NewDevice};
use super::session::{SessionError, SignedIn, Visit};
use super::{Accounts, LoginError, link, rate, store as people};
use crate::audit::{self, Actor, Entry, Origin};
use crate::db::{DbError, Millis};

const TTL: Duration = Duration::from_secs(900);
const INTERVAL: Duration = Duration::from_secs(5);
/// What a program that asks too often has to wait longer (RFC 8628, 3.5).
const SLOWER: i64 = 5000;
/// A program's clock and the network are not exact.
const JITTER: i64 = 250;
/// Between two questions at most.
const SLOWEST: i64 = 60_000;
/// Letters that are not mistaken for others, and spell no words.
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const CODE_LENGTH: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("nobody has decided yet")]
    Pending,
    #[error("asked too often")]
    SlowDown { interval: Duration },
    #[error("the person said no")]
    Denied,
    #[error("the code is over; begin again")]
    Expired,
    #[error("there is no program waiting with this code")]
    NoCode,
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// What a program begins with.
pub struct Begun {
    pub device_code: SecretString,
    /// As people read it: `BCDF-GHJK`.
    pub user_code: String,
    pub expires_in: Duration,
    pub interval: Duration,
}

fn new_code() -> String {
    let mut rng = rand::rng();
    (0..CODE_LENGTH).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

fn shown(code: &str) -> String {
    match code.split_at_checked(CODE_LENGTH / 2) {
        Some((left, right)) => format!("{left}-{right}"),
        None => code.to_owned(),
    }
}

/// The code as it is kept, from how a person typed it.
fn read(typed: &str) -> Option<String> {
    let code: String = typed.chars().filter(|c| !matches!(c, '-' | ' ')).take(CODE_LENGTH + 1).collect();
    let code = code.to_ascii_uppercase();
    (code.len() == CODE_LENGTH && code.bytes().all(|byte| LETTERS.contains(&byte))).then_some(code)
}

impl Accounts {
    pub async fn begin_device(&self, client_name: &str, origin: &Origin) -> Result<Begun, DeviceError> {
        let limits: Vec<_> =
            origin.address.as_deref().map(|address| rate::DEVICE_ADDRESS.of_address(address)).into_iter().collect();
        self.take_attempts(&limits).await?;
        let (now, device_code, user_code) = (self.clock.now(), link::secret(), new_code());
        let new = NewDevice {
            device_hash: &link::hash(device_code.expose_secret()),
            user_code: &user_code,
            client_name,
            address: origin.address.as_deref(),
            created_at: now,
            expires_at: now + TTL,
            interval_ms: INTERVAL.as_millis() as i64,
        };
        store::insert(&self.db, &new).await?;
        Ok(Begun { device_code, user_code: shown(&user_code), expires_in: TTL, interval: INTERVAL })
    }

    /// The program that waits with this code, for the person who is to decide.
    pub async fn waiting_device(&self, user: &UserId, typed: &str) -> Result<DeviceRow, DeviceError> {
        self.take_attempts(&[rate::DEVICE_CODE.of(user.as_str())]).await?;
        let code = read(typed).ok_or(DeviceError::NoCode)?;
        let row = store::by_user_code(&self.db, &code, self.clock.now()).await?.ok_or(DeviceError::NoCode)?;
        Ok(DeviceRow { user_code: shown(&row.user_code), ..row })
    }

    /// Lets the program in, to act for `user` in `team`, or sends it away.
    pub async fn decide_device(
        &self,
        user: &UserId,
        team: &TeamId,
        typed: &str,
        approve: bool,
        origin: &Origin,
    ) -> Result<(), DeviceError> {
        let waiting = self.waiting_device(user, typed).await?;
        let code = read(typed).ok_or(DeviceError::NoCode)?;
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        if !store::decide(&mut tx, &code, approve, user, team, now).await? {
            return Err(DeviceError::NoCode);
        }
        let entry = Entry {
            team: Some(team),
            actor: &Actor::User(user.clone()),
            origin,
            action: if approve { "device.approve" } else { "device.deny" },
            target_kind: "user",
            target_id: Some(user.as_str()),
            result: "ok",
            details: json!({ "client_name": waiting.client_name, "address": waiting.address }),
        };
        audit::record(&mut tx, now, &entry).await?;
        tx.commit().await?;
        Ok(())
    }

    /// What the program asks every few seconds. Questions that come too soon, or with a code that is none, are counted.
    pub async fn device_token(&self, device_code: &str, visit: Visit<'_>) -> Result<SignedIn, DeviceError> {
        let (hash, now) = (link::hash(device_code), self.clock.now());
        let limits: Vec<_> =
            visit.origin.address.as_deref().map(|it| rate::DEVICE_POLL_ADDRESS.of_address(it)).into_iter().collect();
        if let Some(wait) = limits.iter().find_map(|limit| self.rates.blocked(limit, now)) {
            return Err(LoginError::TooMany(wait).into());
        }
        let row = store::by_device(&self.db, &hash).await?;
        let Some(row) = row.filter(|row| row.expires_at > now) else {
            self.take_attempts(&limits).await?;
            return Err(DeviceError::Expired);
        };
        match row.approved {
            None => {
                let told = self.asked(&row, &hash, now).await?;
                if matches!(told, DeviceError::SlowDown { .. }) {
                    self.take_attempts(&limits).await?;
                }
                return Err(told);
            }
            Some(false) => return Err(DeviceError::Denied),
            Some(true) => {}
        }
        let (Some(user), Some(team)) = (row.user_id, row.team_id) else { return Err(DeviceError::Expired) };
        // Who has left the team or was switched off in these seconds lets nobody in.
        let person = people::user_in_team(&self.db, &user, &team).await?;
        let person = person.filter(|person| person.is_active).ok_or(DeviceError::Denied)?;
        let mut tx = self.db.begin().await?;
        if !store::take(&mut tx, &hash).await? {
            return Err(DeviceError::Expired);
        }
        let signed_in = self.open_session(&mut tx, person, visit, "user.login").await?;
        tx.commit().await?;
        Ok(signed_in)
    }

    /// What a program that asked before anybody had decided is told. One that asks too soon again and again costs no write
    /// once it has to wait for as long as any.
    async fn asked(&self, row: &DeviceRow, hash: &str, now: Millis) -> Result<DeviceError, DbError> {
        let too_soon = row.polled_at.is_some_and(|polled| now.0 - polled.0 < row.interval_ms - JITTER);
        let interval_ms = if too_soon { (row.interval_ms + SLOWER).min(SLOWEST) } else { row.interval_ms };
        if !too_soon || interval_ms != row.interval_ms {
            store::polled(&self.db, hash, interval_ms, now).await?;
        }
        let interval = Duration::from_millis(u64::try_from(interval_ms).unwrap_or(0));
        Ok(if too_soon { DeviceError::SlowDown { interval } } else { DeviceError::Pending })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_however_it_is_typed() {
        let code = new_code();
        let typed = format!(" {}", shown(&code).to_lowercase().replace('-', " - "));
        assert_eq!(read(&typed), Some(code));
        for wrong in ["", "BCDF", "AAAA-AAAA", "BCDF-GHJKL", "ÄÖÜ"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
