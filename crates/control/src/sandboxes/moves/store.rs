//! SQL of moves: which paused sandboxes are to leave their hosts, and how far each has come.

use atoll_model::{HostId, SandboxId, SandboxStatus};

use crate::db::{Db, DbError, During, Millis, Text, Tx, on};
use crate::layers::LayerRow;
use crate::sandboxes::SandboxRecord;
use crate::sandboxes::store::COLUMNS;

/// A move, as it is written down.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Move {
    pub sandbox_id: Text<SandboxId>,
    pub id: String,
    pub generation: i64,
    pub attempts: i64,
}

impl Move {
    /// Who holds the layers that its files are.
    pub fn holder(&self) -> String {
        format!("mov-{}", self.id)
    }
}

/// Paused sandboxes of hosts that drain and can be reached, which are due to be tried: the least often tried first.
///
/// Those that their hosts have paused for loss of contact go on there, where control resumes such ones.
pub async fn due(db: &Db, now: Millis, resumed: bool, limit: i64) -> Result<Vec<Text<SandboxId>>, DbError> {
    let rows: Vec<(Text<SandboxId>,)> = on!(read db, |c| sqlx::query_as(
        "SELECT s.id FROM hosts h JOIN sandboxes s ON s.host_id = h.id AND s.status = 'paused'
         LEFT JOIN sandbox_moves m ON m.sandbox_id = s.id
         WHERE h.draining AND h.deletion_id IS NULL AND h.status = 'online'
         AND (NOT $3 OR COALESCE(s.reason, '') <> 'host_disconnected') AND COALESCE(m.try_at, 0) <= $1
         ORDER BY COALESCE(m.attempts, 0), s.status_changed_at, s.id LIMIT $2"
    )
    .bind(now)
    .bind(limit)
    .bind(resumed)
    .fetch_all(c)
    .await)
    .during("look for sandboxes that are to move")?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// Hosts that drain no more keep what they have.
pub async fn end_needless(db: &Db) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query(
        "DELETE FROM sandbox_moves WHERE NOT EXISTS (SELECT 1 FROM sandboxes s JOIN hosts h ON h.id = s.host_id
         WHERE s.id = sandbox_moves.sandbox_id AND s.status = 'paused' AND h.draining)"
    )
    .execute(c)
    .await
    .map(|_| ()))
    .during("end moves that nobody needs")
}

/// Whether there is a move at all: nearly never.
pub async fn any(db: &Db) -> Result<bool, DbError> {
    let row: Option<(i64,)> =
        on!(read db, |c| sqlx::query_as("SELECT CAST(1 AS BIGINT) FROM sandbox_moves LIMIT 1").fetch_optional(c).await)
            .during("look for moves")?;
    Ok(row.is_some())
}

/// When the next of those that wait is tried again.
pub async fn next(db: &Db, now: Millis) -> Result<Option<Millis>, DbError> {
    let row: (Option<Millis>,) =
        on!(read db, |c| sqlx::query_as("SELECT MIN(try_at) FROM sandbox_moves WHERE try_at > $1")
            .bind(now)
            .fetch_one(c)
            .await)
        .during("look for moves that wait")?;
    Ok(row.0)
}

/// The sandbox's move, if its files are still those that it began with.
pub async fn find(db: &Db, record: &SandboxRecord) -> Result<Option<Move>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT sandbox_id, id, generation, attempts FROM sandbox_moves WHERE sandbox_id = $1 AND generation = $2"
    )
    .bind(record.id.as_str())
    .bind(record.generation)
    .fetch_optional(c)
    .await)
    .during("read a sandbox's move")
}

/// A new move, in place of any other. Nothing when the sandbox isn't what was read any more.
pub async fn begin(db: &Db, record: &SandboxRecord, now: Millis) -> Result<Option<Move>, DbError> {
    let id = hex::encode(rand::random::<[u8; 10]>());
    let mut tx = db.begin().await?;
    // Nothing new, but nobody resumes it before this is written down: else there were a move of what runs.
    on!(tx &mut tx, |c| sqlx::query("UPDATE sandboxes SET generation = generation WHERE id = $1")
        .bind(record.id.as_str())
        .execute(c)
        .await
        .map(|_| ()))
    .during("hold a sandbox")?;
    on!(tx &mut tx, |c| sqlx::query("DELETE FROM sandbox_moves WHERE sandbox_id = $1")
        .bind(record.id.as_str())
        .execute(c)
        .await
        .map(|_| ()))
    .during("end an older move")?;
    let begun = on!(tx &mut tx, |c| sqlx::query_as(
        "INSERT INTO sandbox_moves (sandbox_id, id, generation, attempts, try_at)
         SELECT s.id, $3, s.generation, 0, $4 FROM sandboxes s
         WHERE s.id = $1 AND s.status = 'paused' AND s.generation = $2
         RETURNING sandbox_id, id, generation, attempts"
    )
    .bind(record.id.as_str())
    .bind(record.generation)
    .bind(&id)
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("begin a move")?;
    tx.commit().await?;
    Ok(begun)
}

/// Why it is not there yet, and when that is tried again. It is on its way to no host then.
pub async fn set_problem(db: &Db, it: &Move, problem: &str, again: Millis) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query(
        "UPDATE sandbox_moves SET problem = $3, try_at = $4, attempts = attempts + 1, to_host = NULL
         WHERE sandbox_id = $1 AND id = $2 AND generation = $5"
    )
    .bind(it.sandbox_id.as_str())
    .bind(&it.id)
    .bind(problem)
    .bind(again)
    .bind(it.generation)
    .execute(c)
    .await
    .map(|_| ()))
    .during("note why a sandbox does not move")
}

/// Whether the move is still what it was; it can't end before `tx` does.
pub async fn hold(tx: &mut Tx, it: &Move) -> Result<bool, DbError> {
    let changed = on!(tx tx, |c| sqlx::query(
        "UPDATE sandbox_moves SET problem = NULL WHERE sandbox_id = $1 AND id = $2 AND generation = $3"
    )
    .bind(it.sandbox_id.as_str())
    .bind(&it.id)
    .bind(it.generation)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))
    .during("hold a move")?;
    Ok(changed == 1)
}

/// `host` is going to be asked for it: what it makes is no orphan from now on. The generation rises by two, so that
/// what is left of this attempt can be destroyed with one that is newer than it and older than the next. Nothing when
/// the sandbox has not stood still since.
pub async fn aim(tx: &mut Tx, it: &Move, host: &HostId) -> Result<Option<(Move, SandboxRecord)>, DbError> {
    let statement = format!(
        "UPDATE sandboxes SET generation = generation + 2 WHERE id = $1 AND status = 'paused' AND generation = $2
         RETURNING {COLUMNS}"
    );
    let statement = sqlx::AssertSqlSafe(statement);
    let record: Option<SandboxRecord> = on!(tx &mut *tx, |c| sqlx::query_as(statement)
        .bind(it.sandbox_id.as_str())
        .bind(it.generation)
        .fetch_optional(c)
        .await)
    .during("aim a move")?;
    let Some(record) = record else { return Ok(None) };
    let aimed = on!(tx &mut *tx, |c| sqlx::query_as(
        "UPDATE sandbox_moves SET to_host = $3, generation = $4, problem = NULL WHERE sandbox_id = $1 AND id = $2
         RETURNING sandbox_id, id, generation, attempts"
    )
    .bind(it.sandbox_id.as_str())
    .bind(&it.id)
    .bind(host.as_str())
    .bind(record.generation)
    .fetch_optional(c)
    .await)
    .during("write down where a sandbox moves")?;
    Ok(aimed.map(|aimed| (aimed, record)))
}

/// The row goes to its new host, if the sandbox has stood still since, its policy is the one that the new host was told,
/// and its former host still drains.
pub async fn arrive(
    tx: &mut Tx,
    it: &Move,
    record: &SandboxRecord,
    host: &HostId,
) -> Result<Option<SandboxRecord>, DbError> {
    let statement = format!(
        "UPDATE sandboxes SET generation = generation + 1, host_id = $3
         WHERE id = $1 AND status = 'paused' AND generation = $2 AND network_generation = $4
         AND EXISTS (SELECT 1 FROM sandbox_moves m WHERE m.sandbox_id = $1 AND m.id = $5 AND m.to_host = $3)
         AND EXISTS (SELECT 1 FROM hosts h WHERE h.id = sandboxes.host_id AND h.draining)
         RETURNING {COLUMNS}"
    );
    let statement = sqlx::AssertSqlSafe(statement);
    on!(tx tx, |c| sqlx::query_as(statement)
        .bind(it.sandbox_id.as_str())
        .bind(it.generation)
        .bind(host.as_str())
        .bind(record.network_generation)
        .bind(&it.id)
        .fetch_optional(c)
        .await)
    .during("give a sandbox to its new host")
}

/// The move is over.
pub async fn end(tx: &mut Tx, it: &Move) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("DELETE FROM sandbox_moves WHERE sandbox_id = $1")
        .bind(it.sandbox_id.as_str())
        .execute(c)
        .await
        .map(|_| ()))
    .during("end a move")
}

/// The layer that was made for the move is on the new host now, as an image; the former has it no longer.
pub async fn take_along(tx: &mut Tx, layer: &LayerRow, host: &HostId) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("UPDATE layers SET host_id = $2 WHERE id = $1")
        .bind(layer.id.as_str())
        .bind(host.as_str())
        .execute(c)
        .await
        .map(|_| ()))
    .during("note where a layer is")
}

/// What its owner sees of it: an event in its life, and one for whoever listens.
pub async fn tell(
    tx: &mut Tx,
    moved: &SandboxRecord,
    (from, kept): (&HostId, &str),
    at: Millis,
) -> Result<(), DbError> {
    on!(tx &mut *tx, |c| sqlx::query(
        "INSERT INTO sandbox_events (sandbox_id, team_id, host_id, at, status, reason) VALUES ($1, $2, $3, $4, $5, 'moved')"
    )
    .bind(moved.id.as_str())
    .bind(moved.team_id.as_str())
    .bind(moved.host().map(HostId::as_str))
    .bind(at)
    .bind(moved.status().as_str())
    .execute(c)
    .await
    .map(|_| ()))
    .during("write a sandbox's event")?;
    let data = serde_json::json!({
        "status": moved.status(), "reason": "moved", "host_id": moved.host(), "former_host_id": from, "kept": kept,
    });
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO events (at, team_id, type, subject_id, data) VALUES ($1, $2, 'sandbox.moved', $3, $4)"
    )
    .bind(at)
    .bind(moved.team_id.as_str())
    .bind(moved.id.as_str())
    .bind(sqlx::types::Json(&data))
    .execute(c)
    .await
    .map(|_| ()))
    .during("write an event")
}

/// A sandbox that is still on a host, and how far its move has come.
#[derive(Debug, sqlx::FromRow)]
pub struct Staying {
    pub id: Text<SandboxId>,
    pub status: Text<SandboxStatus>,
    pub reason: Option<String>,
    pub to_host: Option<Text<HostId>>,
    pub problem: Option<String>,
}

/// Sandboxes of a host that are not stopped: those that wait longest first.
pub async fn staying(db: &Db, host: &HostId, limit: i64) -> Result<Vec<Staying>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT s.id, s.status, s.reason, m.to_host, m.problem FROM sandboxes s
         LEFT JOIN sandbox_moves m ON m.sandbox_id = s.id
         WHERE s.host_id = $1 AND s.status <> 'stopped' ORDER BY s.status_changed_at, s.id LIMIT $2"
    )
    .bind(host.as_str())
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("list what stays on a host")
}
