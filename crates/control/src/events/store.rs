//! SQL of reading the outbox.

use atoll_model::TeamId;

use crate::db::{Db, DbError, During, Millis, Text, on};

/// An event as it was written.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Row {
    pub id: i64,
    pub at: Millis,
    pub team_id: Option<Text<TeamId>>,
    #[sqlx(rename = "type")]
    pub kind: String,
    pub subject_id: String,
}

/// Which transactions were under way when something was read: all that are older than `oldest` have ended, and all
/// that have not begun yet will be `next` or newer. SQLite has one writer, so there is never one under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    pub oldest: i64,
    pub next: i64,
}

const NONE: Horizon = Horizon { oldest: 0, next: 0 };

/// The id of the last event, or 0.
pub async fn last(db: &Db) -> Result<i64, DbError> {
    let row: (i64,) = on!(read db, |c| sqlx::query_as("SELECT COALESCE(MAX(id), 0) FROM events").fetch_one(c).await)
        .during("read the last event's id")?;
    Ok(row.0)
}

/// The id of the first event that is kept.
pub async fn first(db: &Db) -> Result<Option<i64>, DbError> {
    let row: (Option<i64>,) = on!(read db, |c| sqlx::query_as("SELECT MIN(id) FROM events").fetch_one(c).await)
        .during("read the first event's id")?;
    Ok(row.0)
}

pub async fn horizon(db: &Db) -> Result<Horizon, DbError> {
    let Db::Postgres(pool) = db else { return Ok(NONE) };
    let row: (i64, i64) = sqlx::query_as(
        "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint FROM pg_current_snapshot() s",
    )
    .fetch_one(pool)
    .await
    .during("read which transactions are under way")?;
    Ok(Horizon { oldest: row.0, next: row.1 })
}

/// Events after `after`, in order, and which transactions were under way at that moment.
pub async fn after(db: &Db, after: i64, limit: i64) -> Result<(Vec<Row>, Horizon), DbError> {
    const PLAIN: &str = "SELECT id, at, team_id, type, subject_id FROM events WHERE id > $1 ORDER BY id LIMIT $2";
    // One statement, so that rows and horizon are of one moment.
    const WITH_HORIZON: &str = "SELECT e.id, e.at, e.team_id, e.type, e.subject_id,
             pg_snapshot_xmin(s)::text::bigint AS oldest, pg_snapshot_xmax(s)::text::bigint AS next
         FROM pg_current_snapshot() s, events e WHERE e.id > $1 ORDER BY e.id LIMIT $2";
    #[derive(sqlx::FromRow)]
    struct Dated {
        #[sqlx(flatten)]
        row: Row,
        oldest: i64,
        next: i64,
    }
    match db {
        Db::Sqlite { readers, .. } => {
            let rows = sqlx::query_as(PLAIN).bind(after).bind(limit).fetch_all(readers).await;
            rows.map(|rows| (rows, NONE))
        }
        Db::Postgres(pool) => {
            let rows: Result<Vec<Dated>, _> =
                sqlx::query_as(WITH_HORIZON).bind(after).bind(limit).fetch_all(pool).await;
            rows.map(|rows| {
                let horizon = rows.first().map_or(NONE, |row| Horizon { oldest: row.oldest, next: row.next });
                (rows.into_iter().map(|row| row.row).collect(), horizon)
            })
        }
    }
    .during("read events")
}
