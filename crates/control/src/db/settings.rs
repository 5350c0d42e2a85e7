//! Small values of the installation as a whole.

use super::{Db, DbError, During, Millis, Tx, on};

pub async fn get(db: &Db, name: &str) -> Result<Option<String>, DbError> {
    let row: Option<(String,)> =
        on!(read db, |c| sqlx::query_as("SELECT value FROM settings WHERE name = $1").bind(name).fetch_optional(c).await)
            .during("read a setting")?;
    Ok(row.map(|row| row.0))
}

pub async fn set(db: &Db, name: &str, value: &str, now: Millis) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query(SET).bind(name).bind(value).bind(now).execute(c).await.map(|_| ()))
        .during("write a setting")
}

/// The same in a transaction.
pub async fn set_in(tx: &mut Tx, name: &str, value: &str, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(SET).bind(name).bind(value).bind(now).execute(c).await.map(|_| ()))
        .during("write a setting")
}

const SET: &str = "INSERT INTO settings (name, value, updated_at) VALUES ($1, $2, $3)
     ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at";
