//! Passwords: argon2id, off the async threads, a bounded number at once.
//!
//! The cost is the first of those that OWASP recommends, 19 MiB and 2 passes: about 15 ms of one core of the reference
//! machine and so little memory that a flood of sign-ins can't fill it. As many hashes are under way as there are
//! cores; a few more wait their turn, and who would have to wait for long is told to come back (503). A hash that was
//! made with other costs is made anew at its owner's next sign-in.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Longest password that is hashed: beyond this it costs time and adds nothing.
pub const MAX_LENGTH: usize = 1024;
pub const MIN_LENGTH: usize = 8;

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// The beginning of every hash that is made now.
const CURRENT: &str = "$argon2id$v=19$m=19456,t=2,p=1$";
/// What an unknown account is compared with, so that it takes as long as a known one. No password has this hash.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// How long somebody waits for their turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// Those who wait, per hash under way.
const QUEUE: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum HashError {
    #[error("could not hash a password: {0}")]
    Hash(String),
    #[error("the thread that hashes passwords ended")]
    Thread(#[from] tokio::task::JoinError),
    /// Too many others are signing in.
    #[error("too many passwords are being hashed")]
    Busy,
}

/// Whether a new password has a length that is allowed.
#[must_use]
pub fn fits(password: &SecretString) -> bool {
    let password = password.expose_secret();
    // No character takes more than four bytes: a long text isn't counted.
    password.len() <= MAX_LENGTH * 4 && (MIN_LENGTH..=MAX_LENGTH).contains(&password.chars().count())
}

/// Hashes and compares passwords, so many at once. Cheap to clone.
#[derive(Clone)]
pub struct Hasher {
    at_once: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    /// Comparisons that were made, and with what costs.
    #[cfg(test)]
    compared: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(2, usize::from).max(2))
    }
}

fn argon2() -> Result<Argon2<'static>, HashError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| HashError::Hash(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

impl Hasher {
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        Self {
            at_once: Arc::new(Semaphore::new(at_once)),
            queue: Arc::new(Semaphore::new(at_once * (QUEUE + 1))),
            #[cfg(test)]
            compared: Arc::default(),
        }
    }

    async fn turn(&self) -> Result<(SemaphorePermit<'_>, SemaphorePermit<'_>), HashError> {
        let place = self.queue.try_acquire().map_err(|_| HashError::Busy)?;
        let turn = tokio::time::timeout(PATIENCE, self.at_once.acquire()).await;
        Ok((place, turn.map_err(|_| HashError::Busy)?.map_err(|_| HashError::Busy)?))
    }

    pub async fn hash(&self, password: SecretString) -> Result<String, HashError> {
        let _turn = self.turn().await?;
        tokio::task::spawn_blocking(move || {
            argon2()?
                .hash_password(password.expose_secret().as_bytes())
                .map(|hash| hash.to_string())
                .map_err(|error| HashError::Hash(error.to_string()))
        })
        .await?
    }

    /// Whether `password` is the one that `stored` was made from. Without a stored hash the answer is no, and takes as
    /// long.
    pub async fn verify(&self, password: SecretString, stored: Option<String>) -> Result<bool, HashError> {
        let _turn = self.turn().await?;
        #[cfg(test)]
        let compared = Arc::clone(&self.compared);
        tokio::task::spawn_blocking(move || {
            let too_long = password.expose_secret().len() > MAX_LENGTH * 4;
            let text = if too_long { "" } else { password.expose_secret() };
            let known = stored.is_some() && !too_long;
            let hash = stored.unwrap_or_else(|| NOBODY.to_owned());
            let parsed = PasswordHash::new(&hash).map_err(|error| HashError::Hash(error.to_string()))?;
            #[cfg(test)]
            compared.lock().unwrap().push(hash[..CURRENT.len()].to_owned());
            Ok(argon2()?.verify_password(text.as_bytes(), &parsed).is_ok() && known)
        })
        .await?
    }
}

#[cfg(test)]
impl Hasher {
    /// The costs of the comparisons since the last time that this was asked.
    pub fn take_compared(&self) -> Vec<String> {
        std::mem::take(&mut self.compared.lock().unwrap())
    }
}

/// Whether a stored hash was made with other costs than are used now.
#[must_use]
pub fn is_outdated(stored: &str) -> bool {
    !stored.starts_with(CURRENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_has_the_documented_costs_and_fits_its_password_alone() {
        let hasher = Hasher::new(1);
        let hash = hasher.hash("correct horse".into()).await.unwrap();
        assert!(!is_outdated(&hash), "{hash}");
        assert!(hasher.verify("correct horse".into(), Some(hash.clone())).await.unwrap());
        assert!(!hasher.verify("correct horsf".into(), Some(hash.clone())).await.unwrap());
        assert!(!hasher.verify("x".repeat(MAX_LENGTH * 4 + 1).into(), Some(hash)).await.unwrap());
    }

    #[tokio::test]
    async fn nobodys_hash_costs_as_much_as_anybodys() {
        assert!(!is_outdated(NOBODY) && PasswordHash::new(NOBODY).is_ok());
        assert!(!Hasher::new(1).verify("".into(), None).await.unwrap());
    }

    #[tokio::test]
    async fn more_than_can_wait_are_told_to_come_back() {
        let hasher = Hasher::new(1);
        let held = hasher.queue.acquire_many(u32::try_from(QUEUE).unwrap() + 1).await.unwrap();
        assert!(matches!(hasher.hash("correct horse".into()).await, Err(HashError::Busy)));
        drop(held);
        assert!(hasher.hash("correct horse".into()).await.is_ok());
    }
}
