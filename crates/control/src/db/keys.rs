//! Private keys that every replica must share: made once, by whoever is first, and read from the database by all.

use super::{Db, DbError, During, Millis, Tx, on};

/// A key pair as it is kept, PEM.
#[derive(Clone, sqlx::FromRow)]
pub struct StoredKey {
    pub kid: String,
    pub private_pem: String,
    pub public_pem: String,
}

/// The newest key for `purpose` that is not retired.
pub async fn current(db: &Db, purpose: &str) -> Result<Option<StoredKey>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT kid, private_pem, public_pem FROM signing_keys
         WHERE purpose = $1 AND retired_at IS NULL ORDER BY created_at DESC, kid LIMIT 1",
    )
    .bind(purpose)
    .fetch_optional(c)
    .await)
    .during("read a signing key")
}

/// The current key for `purpose`; `fresh` is kept when there is none. Two replicas that start at once end with the
/// same key: the purpose's first key has a fixed id, so the second insert does nothing.
pub async fn current_or(db: &Db, purpose: &str, fresh: StoredKey, now: Millis) -> Result<StoredKey, DbError> {
    if let Some(key) = current(db, purpose).await? {
        return Ok(key);
    }
    let kid = format!("{purpose}-1");
    on!(write db, |c| sqlx::query(
        "INSERT INTO signing_keys (kid, purpose, private_pem, public_pem, created_at)
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (kid) DO NOTHING",
    )
    .bind(&kid)
    .bind(purpose)
    .bind(&fresh.private_pem)
    .bind(&fresh.public_pem)
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("keep a signing key")?;
    on!(write db, |c| sqlx::query_as(
        "SELECT kid, private_pem, public_pem FROM signing_keys
         WHERE purpose = $1 AND retired_at IS NULL ORDER BY created_at DESC, kid LIMIT 1",
    )
    .bind(purpose)
    .fetch_one(c)
    .await)
    .during("read a signing key back")
}

/// A key that tokens are still accepted by.
#[derive(Clone, sqlx::FromRow)]
pub struct AcceptedKey {
    #[sqlx(flatten)]
    pub key: StoredKey,
    /// Accepted until then; nothing for one that signs.
    pub retired_at: Option<Millis>,
}

/// The keys for `purpose` whose time is not over.
pub async fn accepted(db: &Db, purpose: &str, now: Millis) -> Result<Vec<AcceptedKey>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT kid, private_pem, public_pem, retired_at FROM signing_keys
         WHERE purpose = $1 AND (retired_at IS NULL OR retired_at > $2) ORDER BY created_at DESC, kid LIMIT 100",
    )
    .bind(purpose)
    .bind(now)
    .fetch_all(c)
    .await)
    .during("read the signing keys")
}

/// Keeps a new key for `purpose`; those before it are accepted until `until` and sign no more.
pub async fn replace(tx: &mut Tx, purpose: &str, key: &StoredKey, until: Millis, now: Millis) -> Result<(), DbError> {
    // One whose end is near already keeps it.
    on!(tx &mut *tx, |c| sqlx::query(
        "UPDATE signing_keys SET retired_at = $2
         WHERE purpose = $1 AND (retired_at IS NULL OR retired_at > $2)",
    )
    .bind(purpose)
    .bind(until)
    .execute(c)
    .await
    .map(|_| ()))
    .during("retire signing keys")?;
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO signing_keys (kid, purpose, private_pem, public_pem, created_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&key.kid)
    .bind(purpose)
    .bind(&key.private_pem)
    .bind(&key.public_pem)
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("keep a new signing key")
}
