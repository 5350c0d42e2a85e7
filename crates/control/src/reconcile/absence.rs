//! The passive phase: hosts that have not been heard of become `unreachable`, and the sandboxes of hosts that are away
//! become `missing`. Reversible, all of it: nothing here ever ends a sandbox.

use std::time::Duration;

use atoll_model::{HostId, TeamId};
use serde_json::json;

use crate::db::{Db, DbError, During, Millis, Text, on};
use crate::events;

/// Hosts handled per transaction.
const CHUNK: i64 = 500;
/// Sandboxes changed in one statement: others write in between.
const AT_ONCE: i64 = 10_000;

/// Marks hosts whose last heartbeat is from before `now - stale_after` as unreachable. Their ids.
pub async fn mark_unreachable(db: &Db, now: Millis, stale_after: Duration) -> Result<Vec<HostId>, DbError> {
    let before = now - stale_after;
    let mut marked = Vec::new();
    loop {
        let mut tx = db.begin().await?;
        // The heartbeat is looked at again in the update itself: one that came in meanwhile wins.
        let rows: Vec<(Text<HostId>, Option<Text<TeamId>>)> = on!(tx &mut tx, |c| sqlx::query_as(
            "UPDATE hosts SET status = 'unreachable', status_changed_at = $2, ready = $3, updated_at = $2
             WHERE status = 'online' AND last_heartbeat_at < $1 AND id IN (
                 SELECT id FROM hosts WHERE status = 'online' AND last_heartbeat_at < $1 ORDER BY id LIMIT $4)
             RETURNING id, team_id"
        )
        .bind(before)
        .bind(now)
        .bind(false)
        .bind(CHUNK)
        .fetch_all(c)
        .await)
        .during("mark hosts unreachable")?;
        if rows.is_empty() {
            return Ok(marked);
        }
        for (host, team) in &rows {
            let team = team.as_ref().map(|team| &team.0);
            events::publish(&mut tx, now, team, "host.unreachable", host.as_str(), json!({})).await?;
        }
        tx.commit().await?;
        marked.extend(rows.into_iter().map(|row| row.0.0));
    }
}

/// Makes the live sandboxes of all hosts that are away `missing`, keeping what they were. How many.
pub async fn mark_missing(db: &Db, now: Millis) -> Result<u64, DbError> {
    let mut marked = 0;
    loop {
        let some = on!(write db, |c| sqlx::query(
            "UPDATE sandboxes SET former_status = status, status = 'missing', status_changed_at = $1,
                 reason = CASE (SELECT h.status FROM hosts h WHERE h.id = sandboxes.host_id)
                     WHEN 'offline' THEN 'host_offline' ELSE 'host_unreachable' END
             WHERE status IN ('pending', 'starting', 'running', 'pausing', 'resuming')
                 AND id IN (SELECT s.id FROM sandboxes s
                     WHERE s.status IN ('pending', 'starting', 'running', 'pausing', 'resuming')
                     AND s.host_id IN (SELECT id FROM hosts WHERE status IN ('unreachable', 'offline')) LIMIT $2)"
        )
        .bind(now)
        .bind(AT_ONCE)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))
        .during("mark sandboxes missing")?;
        marked += some;
        if some == 0 {
            return Ok(marked);
        }
    }
}

/// Rows that were never given to a host by whoever made them (it crashed): an error says so. How many.
pub async fn fail_unplaced(db: &Db, before: Millis, now: Millis) -> Result<u64, DbError> {
    on!(write db, |c| sqlx::query(
        "UPDATE sandboxes SET status = 'error', reason = 'create_interrupted', status_changed_at = $2
         WHERE status IN ('pending', 'starting') AND host_id IS NULL AND status_changed_at < $1"
    )
    .bind(before)
    .bind(now)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))
    .during("fail sandboxes that were never placed")
}

/// Sandboxes that came to a host while it was being deleted. How many were stopped.
pub async fn stop_on_deleted_hosts(db: &Db, since: Millis, now: Millis) -> Result<u64, DbError> {
    on!(write db, |c| sqlx::query(
        "UPDATE sandboxes SET status = 'stopped', reason = 'host_deleted', generation = generation + 1,
             status_changed_at = $2
         WHERE status <> 'stopped' AND id IN (SELECT s.id FROM sandboxes s
             JOIN host_tombstones t ON t.host_id = s.host_id
             WHERE t.deleted_at >= $1 AND s.status <> 'stopped' LIMIT $3)"
    )
    .bind(since)
    .bind(now)
    .bind(AT_ONCE)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))
    .during("stop sandboxes of deleted hosts")
}

/// Hosts that are online, draining ones too.
pub async fn online(db: &Db) -> Result<Vec<HostId>, DbError> {
    let rows: Vec<(Text<HostId>,)> =
        on!(read db, |c| sqlx::query_as("SELECT id FROM hosts WHERE status = 'online' ORDER BY id").fetch_all(c).await)
            .during("list online hosts")?;
    Ok(rows.into_iter().map(|row| row.0.0).collect())
}
