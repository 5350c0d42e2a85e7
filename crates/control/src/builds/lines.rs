//! SQL of the lines of builds' logs.

use atoll_model::BuildId;

use crate::db::{Db, DbError, During, Millis, Sql, on};

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct LogRow {
    pub seq: i64,
    pub at: Millis,
    pub level: String,
    pub step: Option<String>,
    pub message: String,
}

/// Writes lines; those that are there already stay as they are.
pub async fn append(db: &Db, build: &BuildId, rows: &[LogRow]) -> Result<(), DbError> {
    let mut tx = db.begin().await?;
    for row in rows {
        on!(tx &mut tx, |c| sqlx::query(
            "INSERT INTO template_build_logs (build_id, seq, at, level, step, message) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (build_id, seq) DO NOTHING"
        )
        .bind(build.as_str())
        .bind(row.seq)
        .bind(row.at)
        .bind(&row.level)
        .bind(&row.step)
        .bind(&row.message)
        .execute(c)
        .await
        .map(|_| ()))
        .during("write a build's log")?;
    }
    tx.commit().await
}

/// Lines from the one with this number on.
pub async fn list(db: &Db, build: &BuildId, from: i64, limit: i64) -> Result<Vec<LogRow>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT seq, at, level, step, message FROM template_build_logs WHERE build_id = $1 AND seq >= $2
         ORDER BY seq LIMIT $3"
    )
    .bind(build.as_str())
    .bind(from)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("read a build's log")
}

/// What of a build's log is wanted.
#[derive(Debug, Clone, Default)]
pub struct Excerpt {
    /// The least level, of `debug`, `info`, `warn`, `error`.
    pub least: usize,
    pub from: Option<Millis>,
    pub until: Option<Millis>,
    /// The latest lines first.
    pub backward: bool,
    pub offset: i64,
    pub limit: i64,
}

pub const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];

/// Lines of a build's log.
pub async fn excerpt(db: &Db, build: &BuildId, wanted: &Excerpt) -> Result<Vec<LogRow>, DbError> {
    let mut sql = Sql::new("SELECT seq, at, level, step, message FROM template_build_logs");
    sql.with(" WHERE build_id = ?", build.as_str());
    for level in &LEVELS[..wanted.least.min(LEVELS.len())] {
        sql.with(" AND level <> ?", *level);
    }
    sql.with_some(" AND at >= ?", wanted.from).with_some(" AND at <= ?", wanted.until);
    sql.push(if wanted.backward { " ORDER BY seq DESC" } else { " ORDER BY seq" });
    sql.with(" LIMIT ?", wanted.limit).with(" OFFSET ?", wanted.offset);
    sql.fetch_all(db, "read lines of a build's log").await
}
