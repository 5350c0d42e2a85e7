//! Deleting a template's or snapshot's image on every host.
//!
//! Every host gets a pending deletion first, in the caller's transaction with the row's own deletion; then the hosts
//! that are online are asked, and each that has done it is struck off. Whoever could not be reached does it when it is
//! back (`host_pass`). The same goes for layers and volumes, which have ids in place of digests.

use std::sync::Arc;

use atoll_model::HostId;
use futures::FutureExt;

use super::bounded;
use super::views::Agents;
#[cfg(test)]
use crate::clock::Clock;
#[cfg(test)]
use crate::db::Tx;
use crate::db::{Db, DbError, During, Text, on};

/// Hosts asked at once.
const PARALLEL: usize = 64;

/// Cheap to clone.
#[derive(Clone)]
pub struct ImageDeletion {
    pub db: Db,
    #[cfg(test)]
    pub clock: Clock,
    pub agents: Arc<dyn Agents>,
}

impl ImageDeletion {
    /// Notes that every host is to delete the image, in the transaction that deletes its template's row. No row may
    /// name the digest any more afterwards.
    ///
    /// # Errors
    /// The database's.
    #[cfg(test)]
    pub async fn note(&self, tx: &mut Tx, digest: &str) -> Result<(), DbError> {
        crate::layers::store::note_everywhere(tx, digest, self.clock.now()).await
    }

    /// Asks all hosts that are online, after the transaction was committed. How many are still to do it.
    ///
    /// # Errors
    /// The database's.
    pub async fn broadcast(&self, digest: &str) -> Result<usize, DbError> {
        let hosts: Vec<(Text<HostId>, bool)> = on!(read & self.db, |c| sqlx::query_as(
            "SELECT h.id, h.status = 'online' FROM pending_deletions p JOIN hosts h ON h.id = p.host_id
             WHERE p.digest = $1 ORDER BY h.id"
        )
        .bind(digest)
        .fetch_all(c)
        .await)
        .during("list hosts that are to delete an image")?;
        let all = hosts.len();
        let asked = hosts.into_iter().filter(|(_, online)| *online).map(|(host, _)| self.ask(host.0, digest).boxed());
        let done: Vec<_> = bounded(PARALLEL, asked.collect()).await.into_iter().flatten().collect();
        for host in &done {
            on!(write & self.db, |c| sqlx::query("DELETE FROM pending_deletions WHERE host_id = $1 AND digest = $2")
                .bind(host.as_str())
                .bind(digest)
                .execute(c)
                .await
                .map(|_| ()))
            .during("remove a pending deletion")?;
        }
        Ok(all - done.len())
    }
    /// The host, if it has deleted the image.
    async fn ask(&self, host: HostId, digest: &str) -> Option<HostId> {
        match self.agents.delete_image(&host, digest).await {
            Ok(()) => Some(host),
            Err(error) => {
                tracing::info!(%host, digest, %error, "the image will be deleted there later");
                None
            }
        }
    }
}
