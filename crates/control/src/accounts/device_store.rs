//! SQL of programs that wait to be let in.

use atoll_model::{TeamId, UserId};

use crate::db::{Db, DbError, During, Millis, Text, Tx, on};

#[derive(sqlx::FromRow)]
pub struct DeviceRow {
    pub user_code: String,
    pub client_name: String,
    pub address: Option<String>,
    pub created_at: Millis,
    pub expires_at: Millis,
    pub interval_ms: i64,
    pub polled_at: Option<Millis>,
    pub approved: Option<bool>,
    pub user_id: Option<Text<UserId>>,
    pub team_id: Option<Text<TeamId>>,
}

pub struct NewDevice<'a> {
    pub device_hash: &'a str,
    pub user_code: &'a str,
    pub client_name: &'a str,
    pub address: Option<&'a str>,
    pub created_at: Millis,
    pub expires_at: Millis,
    pub interval_ms: i64,
}

pub async fn insert(db: &Db, new: &NewDevice<'_>) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query(
        "INSERT INTO device_logins (device_hash, user_code, client_name, address, created_at, expires_at, interval_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(new.device_hash)
    .bind(new.user_code)
    .bind(new.client_name)
    .bind(new.address)
    .bind(new.created_at)
    .bind(new.expires_at)
    .bind(new.interval_ms)
    .execute(c)
    .await
    .map(|_| ()))
    .during("keep a program's login")
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT user_code, client_name, address, created_at, expires_at, interval_ms, polled_at, approved, user_id,
                    team_id
             FROM device_logins WHERE ",
            $rest
        )
    };
}

pub async fn by_device(db: &Db, device_hash: &str) -> Result<Option<DeviceRow>, DbError> {
    on!(read db, |c| sqlx::query_as(select!("device_hash = $1")).bind(device_hash).fetch_optional(c).await)
        .during("read a program's login")
}

/// One that waits for a decision.
pub async fn by_user_code(db: &Db, user_code: &str, now: Millis) -> Result<Option<DeviceRow>, DbError> {
    on!(read db, |c| sqlx::query_as(select!("user_code = $1 AND approved IS NULL AND expires_at > $2"))
        .bind(user_code)
        .bind(now)
        .fetch_optional(c)
        .await)
    .during("read a program's login by its code")
}

/// Notes that the program has asked, and how long it has to wait from now on.
pub async fn polled(db: &Db, device_hash: &str, interval_ms: i64, now: Millis) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query(
        "UPDATE device_logins SET polled_at = $3, interval_ms = $2 WHERE device_hash = $1"
    )
    .bind(device_hash)
    .bind(interval_ms)
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("note a program's question")
}

/// Decides about one that waits for it. Answers whether there was one.
pub async fn decide(
    tx: &mut Tx,
    user_code: &str,
    approved: bool,
    user: &UserId,
    team: &TeamId,
    now: Millis,
) -> Result<bool, DbError> {
    let decided = on!(tx tx, |c| sqlx::query(
        "UPDATE device_logins SET approved = $2, user_id = $3, team_id = $4
         WHERE user_code = $1 AND approved IS NULL AND expires_at > $5",
    )
    .bind(user_code)
    .bind(approved)
    .bind(user.as_str())
    .bind(team.as_str())
    .bind(now)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))
    .during("decide about a program's login")?;
    Ok(decided == 1)
}

/// Takes a login out of the table. Answers whether it was there.
pub async fn take(tx: &mut Tx, device_hash: &str) -> Result<bool, DbError> {
    let taken = on!(tx tx, |c| sqlx::query("DELETE FROM device_logins WHERE device_hash = $1")
        .bind(device_hash)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))
    .during("take a program's login")?;
    Ok(taken == 1)
}
