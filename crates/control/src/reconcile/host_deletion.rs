//! Deleting a host.
//!
//! Without force only an empty host goes; with force its sandboxes go with it. The steps are the same, and each is
//! idempotent; the intent is in the host's row (`deletion_id`), so whoever finds it there finishes it, after a crash
//! between any two:
//!
//! 1. the row is marked and draining, so nothing new lands on it (without force, in the transaction that finds it empty)
//! 2. each sandbox is destroyed on the host
//! 3. the agent is told to terminate
//! 4. in one transaction: sandboxes `stopped` with reason `host_deleted`, refresh tokens kept with a tombstone, the row
//!    deleted (with it go tokens and tags), event
//! 5. the pooled connections are dropped
//!
//! A host that could not be reached in 2 and 3 learns of it from its tombstone, and then destroys everything itself.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::{HostId, UserId};
use futures::FutureExt;
use serde_json::json;

use super::bounded;
use super::judge::Row;
use super::views::{Agents, Records};
use crate::audit::{self, Actor, Entry, Origin};
use crate::clock::Clock;
use crate::db::{Db, DbError, During, Millis, Text, Tx, on};
use crate::fleet::Fleet;
use crate::hosts::holdings::Holdings;
use crate::hosts::tombstone::{self, Deceased};
use crate::hosts::{Directory, HostError, HostRow, store};

/// Sandboxes destroyed at once on the host that is being deleted.
const PARALLEL: usize = 16;
/// What all of them may take in all: a host that answers none of it destroys them by itself when it learns that it was
/// deleted.
const DESTROYING: Duration = Duration::from_secs(60);
/// Deletions that are finished at once.
const HOSTS: usize = 8;

/// Deletes hosts. Cheap to clone.
#[derive(Clone)]
pub struct HostDeletion {
    pub db: Db,
    pub clock: Clock,
    pub fleet: Fleet,
    pub directory: Arc<Directory>,
    pub records: Arc<dyn Records>,
    pub agents: Arc<dyn Agents>,
}

/// On whose behalf.
#[derive(Debug, Clone)]
pub struct Requester {
    pub actor: Actor,
    pub origin: Origin,
}

impl Requester {
    fn user(&self) -> Option<&UserId> {
        match &self.actor {
            Actor::User(user) => Some(user),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sandboxes {
    MustBeNone,
    AreDestroyed,
}

impl HostDeletion {
    /// Deletes a host that has no sandboxes, volumes, and images that are stored nowhere else.
    ///
    /// # Errors
    /// [`HostError::HasSandboxes`] with all that would be lost.
    pub async fn graceful(&self, host: &HostId, requester: &Requester) -> Result<(), HostError> {
        self.mark_and_carry_out(host, requester, Sandboxes::MustBeNone).await
    }

    /// Deletes a host with everything on it.
    ///
    /// # Errors
    /// [`HostError::NotFound`], or the database's.
    pub async fn forced(&self, host: &HostId, requester: &Requester) -> Result<(), HostError> {
        self.mark_and_carry_out(host, requester, Sandboxes::AreDestroyed).await
    }

    async fn mark_and_carry_out(
        &self,
        host: &HostId,
        requester: &Requester,
        sandboxes: Sandboxes,
    ) -> Result<(), HostError> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        let row = store::lock(&mut tx, host).await?.ok_or(HostError::NotFound)?;
        if row.deletion_id.is_none() {
            if sandboxes == Sandboxes::MustBeNone {
                let has = Holdings::of(&mut tx, host).await?;
                if !has.is_empty() {
                    return Err(HostError::HasSandboxes(Box::new(has)));
                }
            }
            self.mark(&mut tx, &row, requester, sandboxes, now).await?;
        }
        tx.commit().await?;
        crate::failpoint!("hosts::delete::marked");
        self.carry_out(host).await
    }

    async fn mark(
        &self,
        tx: &mut Tx,
        row: &HostRow,
        requester: &Requester,
        sandboxes: Sandboxes,
        now: Millis,
    ) -> Result<(), DbError> {
        on!(tx &mut *tx, |c| sqlx::query(
            "UPDATE hosts SET draining = $2, deletion_id = $3, deletion_requested_by = $4, deletion_requested_at = $5,
                 updated_at = $5 WHERE id = $1"
        )
        .bind(row.id.as_str())
        .bind(true)
        .bind(new_deletion_id())
        .bind(requester.user().map(UserId::as_str))
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
        .during("mark a host for deletion")?;
        let entry = Entry {
            team: row.team_id.as_ref().map(|team| &team.0),
            actor: &requester.actor,
            origin: &requester.origin,
            action: "host.delete",
            target_kind: "host",
            target_id: Some(row.id.as_str()),
            result: "ok",
            details: json!({ "name": row.name, "force": sandboxes == Sandboxes::AreDestroyed }),
        };
        audit::record(tx, now, &entry).await
    }

    /// Finishes every deletion that somebody has begun.
    ///
    /// # Errors
    /// The database's.
    pub async fn finish_all(&self) -> Result<(), HostError> {
        let pending: Vec<(Text<HostId>,)> = on!(read & self.db, |c| sqlx::query_as(
            "SELECT id FROM hosts WHERE deletion_id IS NOT NULL ORDER BY deletion_requested_at LIMIT 100"
        )
        .fetch_all(c)
        .await)
        .during("list hosts that are being deleted")?;
        bounded(HOSTS, pending.iter().map(|(host,)| self.finish(&host.0).boxed()).collect()).await;
        Ok(())
    }

    async fn finish(&self, host: &HostId) {
        if let Err(error) = self.carry_out(host).await {
            tracing::error!(%host, error = &error as &dyn std::error::Error, "could not finish deleting a host");
        }
    }

    /// Steps 2 to 5 for a host that is marked. Nothing to do when it is gone already.
    async fn carry_out(&self, host: &HostId) -> Result<(), HostError> {
        let rows = self.records.on_host(host).await?;
        let destroys = rows.iter().map(|row| self.destroy(host, row).boxed()).collect();
        if tokio::time::timeout(DESTROYING, bounded(PARALLEL, destroys)).await.is_err() {
            tracing::warn!(%host, "a host that is being deleted does not destroy its sandboxes one by one in time");
        }
        crate::failpoint!("hosts::delete::destroyed");
        if let Err(error) = self.agents.terminate(host, "host_deleted").await {
            tracing::info!(%host, %error, "the agent could not be told to terminate; its tombstone will");
        }
        crate::failpoint!("hosts::delete::terminated");

        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        let Some(row) = store::lock(&mut tx, host).await? else { return Ok(()) };
        let Some(deletion_id) = &row.deletion_id else { return Ok(()) };
        on!(tx &mut tx, |c| sqlx::query(
            "UPDATE sandboxes SET status = 'stopped', reason = 'host_deleted', generation = generation + 1,
                 status_changed_at = $2 WHERE host_id = $1 AND status <> 'stopped'"
        )
        .bind(host.as_str())
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
        .during("stop a deleted host's sandboxes")?;
        let team = row.team_id.as_ref().map(|team| &team.0);
        let deleted_by = row.deletion_requested_by.as_ref().map(|user| &user.0);
        let deceased = Deceased { host, kind: row.kind.0, team, deletion_id, deleted_by };
        tombstone::bury(&mut tx, &deceased, now).await?;
        crate::failpoint!("hosts::delete::before_commit");
        tx.commit().await?;
        self.forget(host);
        Ok(())
    }

    async fn destroy(&self, host: &HostId, row: &Row) {
        if let Err(error) = self.agents.destroy(host, &row.id, row.generation + 1, "host_deleted").await {
            tracing::info!(sandbox = %row.id, %host, %error, "not destroyed one by one; its host will do it");
        }
    }

    fn forget(&self, host: &HostId) {
        self.directory.forget(host);
        self.fleet.evict(host);
    }
}

fn new_deletion_id() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}
