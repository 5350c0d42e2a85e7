//! Passwords: argon2id with the crate's defaults (19 MiB, 2 passes), off the async threads, a bounded number at once.

use std::sync::{Arc, LazyLock};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

/// Longest password that is hashed: beyond this it costs time and adds nothing.
pub const MAX_LENGTH: usize = 1024;
pub const MIN_LENGTH: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum HashError {
    #[error("could not hash a password: {0}")]
    Hash(String),
    #[error("the thread that hashes passwords ended")]
    Thread(#[from] tokio::task::JoinError),
    #[error("passwords are no longer hashed: shutting down")]
    Closed,
}

/// What an unknown account is compared with, so that it takes as long as a known one.
static NOBODY: LazyLock<Option<String>> = LazyLock::new(|| hash_now(&rand::random::<u128>().to_string()).ok());

fn hash_now(password: &str) -> Result<String, HashError> {
    Argon2::default()
        .hash_password(password.as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|error| HashError::Hash(error.to_string()))
}

pub async fn hash(limit: &Arc<Semaphore>, password: SecretString) -> Result<String, HashError> {
    let _permit = limit.acquire().await.map_err(|_| HashError::Closed)?;
    tokio::task::spawn_blocking(move || hash_now(password.expose_secret())).await?
}

/// Whether `password` is the one that `stored` was made from. Without a stored hash the answer is no, and takes as
/// long.
pub async fn verify(limit: &Arc<Semaphore>, password: SecretString, stored: Option<String>) -> Result<bool, HashError> {
    let _permit = limit.acquire().await.map_err(|_| HashError::Closed)?;
    Ok(tokio::task::spawn_blocking(move || {
        let known = stored.is_some();
        let Some(hash) = stored.or_else(|| NOBODY.clone()) else { return false };
        let matches = PasswordHash::new(&hash).is_ok_and(|parsed| {
            Argon2::default().verify_password(password.expose_secret().as_bytes(), &parsed).is_ok()
        });
        known && matches
    })
    .await?)
}
