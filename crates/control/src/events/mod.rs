//! The outbox: what happened, in order, for live views and webhooks.
//!
//! What people look at (sandboxes, hosts, templates, keys, teams, members, webhooks) gets its events from the database's
//! own triggers (migration 21), so no change can be without one, whoever makes it. What is no change of a row calls
//! [`publish`] in its transaction. `feed` tells live views, `order` says in which order that is safe, `store` reads.

mod feed;
pub mod order;
pub mod store;
#[cfg(test)]
mod tests;

use atoll_model::TeamId;
use serde_json::Value;
use sqlx::types::Json;

pub use feed::{Feed, Notice, Subscription, Told};

use crate::db::{Db, DbError, During, Millis, Tx, on};

/// Adds an event: `kind` reads `subject.what` (`host.unreachable`), `team` is none for what is the platform's.
pub async fn publish(
    tx: &mut Tx,
    at: Millis,
    team: Option<&TeamId>,
    kind: &str,
    subject_id: &str,
    data: Value,
) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("INSERT INTO events (at, team_id, type, subject_id, data) VALUES ($1, $2, $3, $4, $5)")
        .bind(at)
        .bind(team.map(TeamId::as_str))
        .bind(kind)
        .bind(subject_id)
        .bind(Json(data))
        .execute(c)
        .await
        .map(|_| ()))
    .during("publish an event")
}

/// Removes events from before `before`, a bounded number at a time. Answers how many.
pub async fn prune(db: &Db, before: Millis) -> Result<u64, DbError> {
    on!(write db, |c| sqlx::query(
        "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < $1 ORDER BY id LIMIT 1000)"
    )
    .bind(before)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))
    .during("remove old events")
}
