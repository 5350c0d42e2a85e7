//! Who may in over HTTP: every request brings an API key, which the server is asked about, and a session is of use only
//! to the key that began it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_client::{Auth, Client, Error, ListSandboxes};
use hmac::{Hmac, Mac};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use secrecy::SecretString;
use sha2::{Digest, Sha256};

/// How long a key that was good is let in. What it may do is asked anew by every call.
const BELIEVED: Duration = Duration::from_secs(30);
const MAX_REMEMBERED: usize = 4096;
/// Sessions of one key, and of all.
const MAX_SESSIONS_EACH: usize = 64;
const MAX_SESSIONS: usize = 1024;

/// Whose key a request bore.
#[derive(Clone)]
pub struct Caller {
    key: SecretString,
    hash: [u8; 32],
}

impl Caller {
    pub fn auth(&self) -> Auth {
        Auth::ApiKey(self.key.clone())
    }

    /// `Authorization: Bearer KEY` or `X-API-Key: KEY`.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key)
        });
        let key = bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()))?.trim();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        Some(Self { key: key.to_owned().into(), hash: Sha256::digest(key).into() })
    }
}

pub struct Gate {
    client: Client,
    /// When keys, by their hashes, were last good.
    good: Mutex<HashMap<[u8; 32], Instant>>,
    /// What session ids are signed with; of this process, like the sessions.
    secret: [u8; 64],
    seats: Seats,
}

impl Gate {
    /// `client` says whose server it is.
    pub fn new(client: Client) -> Self {
        Self { client, good: Mutex::default(), secret: rand::random(), seats: Seats::default() }
    }

    pub fn seats(&self) -> &Seats {
        &self.seats
    }

    /// Whether the server lets the key look at sandboxes; the error says why not.
    pub async fn try_key(&self, caller: &Caller) -> Result<(), Error> {
        let fresh = |since: &Instant| since.elapsed() < BELIEVED;
        if self.good().get(&caller.hash).is_some_and(fresh) {
            return Ok(());
        }
        let one = ListSandboxes { limit: Some(1), ..ListSandboxes::default() };
        self.client.with_auth(caller.auth()).list_sandboxes(&one).await?;
        let mut good = self.good();
        if good.len() >= MAX_REMEMBERED {
            good.retain(|_, since| fresh(since));
        }
        if good.len() < MAX_REMEMBERED {
            good.insert(caller.hash, Instant::now());
        }
        Ok(())
    }

    fn good(&self) -> MutexGuard<'_, HashMap<[u8; 32], Instant>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of a session as its caller gets it: with a proof that it is theirs.
    pub fn sealed(&self, id: &str, caller: &Caller) -> String {
        format!("{id}.{}", hex::encode(self.proof(id, caller).finalize().into_bytes()))
    }

    /// The session's own id, when it is this caller's.
    pub fn unsealed<'a>(&self, sealed: &'a str, caller: &Caller) -> Option<&'a str> {
        let (id, proof) = sealed.rsplit_once('.')?;
        // In constant time.
        self.proof(id, caller).verify_slice(&hex::decode(proof).ok()?).is_ok().then_some(id)
    }

    fn proof(&self, id: &str, caller: &Caller) -> Hmac<Sha256> {
        let mut proof = <Hmac<Sha256> as Mac>::new((&self.secret).into());
        proof.update(&caller.hash);
        proof.update(id.as_bytes());
        proof
    }
}

/// How many sessions each key has. Cheap to clone.
#[derive(Clone, Default)]
pub struct Seats(Arc<Mutex<HashMap<[u8; 32], usize>>>);

impl Seats {
    /// A place for one more session of this caller's.
    pub fn take(&self, caller: &Caller) -> Result<Seat, String> {
        let mut taken = self.taken();
        if taken.get(&caller.hash).is_some_and(|&count| count >= MAX_SESSIONS_EACH) {
            return Err(format!("this API key has {MAX_SESSIONS_EACH} sessions here already; end one of them first"));
        }
        if taken.values().sum::<usize>() >= MAX_SESSIONS {
            return Err(format!("there are {MAX_SESSIONS} sessions here already; try again later"));
        }
        *taken.entry(caller.hash).or_default() += 1;
        Ok(Seat { seats: self.clone(), hash: caller.hash })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<[u8; 32], usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place; free again when it is dropped.
pub struct Seat {
    seats: Seats,
    hash: [u8; 32],
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if let Some(count) = taken.get_mut(&self.hash) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_client::Endpoint;
    use http::HeaderValue;

    fn caller(name: &'static str, value: &str) -> Option<Caller> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        Caller::of(&headers)
    }

    fn key(key: &str) -> Caller {
        caller("x-api-key", key).unwrap()
    }

    #[test]
    fn a_key_comes_in_either_header() {
        assert!(caller("authorization", "bearer atl_1").is_some());
        assert_eq!(caller("authorization", "Bearer atl_1").unwrap().hash, key("atl_1").hash);
        assert!(caller("authorization", "Basic YTpi").is_none());
        assert!(caller("authorization", "Bearer ").is_none());
        assert!(caller("x-api-key", "two words").is_none());
    }

    #[test]
    fn a_session_is_of_use_only_to_the_key_that_began_it() {
        let gate = Gate::new(Client::to(Endpoint::parse("127.0.0.1:1").unwrap(), Auth::Nobody).unwrap());
        let (hers, his) = (key("atl_hers"), key("atl_his"));
        let sealed = gate.sealed("5f1c-44.x", &hers);
        assert_eq!(gate.unsealed(&sealed, &hers), Some("5f1c-44.x"));
        assert_eq!(gate.unsealed(&sealed, &his), None);
        for forged in ["5f1c-44.x", "5f1c-44.", "", &sealed[..sealed.len() - 2], &format!("a{sealed}")] {
            assert_eq!(gate.unsealed(forged, &hers), None, "{forged}");
        }
    }

    #[test]
    fn no_key_takes_all_the_room() {
        let seats = Seats::default();
        let taken: Vec<_> =
            (0..MAX_SESSIONS_EACH).map(|_| seats.take(&key("atl_1")).unwrap_or_else(|it| panic!("{it}"))).collect();
        assert!(seats.take(&key("atl_1")).is_err());
        assert!(seats.take(&key("atl_2")).is_ok());
        drop(taken);
        assert!(seats.take(&key("atl_1")).is_ok());
        assert!(seats.taken().is_empty());
    }
}
