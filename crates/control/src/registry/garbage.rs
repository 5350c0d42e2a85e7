//! What goes by itself: uploads that were left, manifests that nobody used, blobs that no manifest names, objects without a
//! row.
//!
//! Rows go first, each in a statement that judges once more, and the objects that they named after that. A manifest that
//! comes at that moment finds no blob, and its client is told so; what a crash leaves in between is found by looking through the store.

use std::collections::BTreeSet;
use std::time::Duration;

use super::uploads::parts;
use super::{LOOSE_KEPT, Registry, RegistryError, UNUSED_KEPT, UPLOAD_KEPT, store};
use crate::db::{DbError, Millis};

/// Of each kind, at a time.
const BATCH: i64 = 200;
/// Of blobs, in one round.
const MAX_BATCHES: usize = 50;
/// An object without a row may be a part that is just being noted.
const STRAY_AGE: Duration = Duration::from_secs(24 * 3600);

impl Registry {
    /// One round.
    ///
    /// # Errors
    /// The database's, or the store's.
    pub async fn tend(&self) -> Result<(), RegistryError> {
        let now = self.clock.now();
        for upload in store::old_uploads(&self.db, now - UPLOAD_KEPT, BATCH).await? {
            match self.cancel(&upload).await {
                // Something came for it at that moment.
                Ok(()) | Err(RegistryError::NoUpload) => {}
                Err(error) => return Err(error),
            }
        }
        let old = store::old_manifests(&self.db, now - UNUSED_KEPT, now - LOOSE_KEPT, BATCH).await?;
        for (team, repository, digest, tagged) in old {
            let at = (&team.0, repository.as_str(), digest.as_str());
            let mut tx = self.db.begin().await?;
            store::hold_team(&mut tx, &team.0).await?;
            if tagged {
                store::remove_tags(&mut tx, at).await?;
            }
            if still_named(store::remove_manifest(&mut tx, at, now - LOOSE_KEPT).await)? {
                tx.commit().await?;
            }
        }
        for _ in 0..MAX_BATCHES {
            if self.bury_blobs(now - LOOSE_KEPT).await? < BATCH {
                break;
            }
        }
        self.sweep().await
    }

    /// How many were looked at.
    async fn bury_blobs(&self, before: Millis) -> Result<i64, RegistryError> {
        let loose = store::loose_blobs(&self.db, before, BATCH).await?;
        let count = i64::try_from(loose.len()).unwrap_or(i64::MAX);
        for (team, digest, parts) in loose {
            let mut tx = self.db.begin().await?;
            store::hold_team(&mut tx, &team.0).await?;
            if still_named(store::remove_blob(&mut tx, &team, &digest, before).await)? {
                tx.commit().await?;
                self.delete_parts(&parts).await?;
            }
        }
        Ok(count)
    }

    /// Deletes parts that no row names.
    async fn sweep(&self) -> Result<(), RegistryError> {
        let mut old = self.objects.list_parts().await?;
        old.retain(|(_, age)| *age >= STRAY_AGE);
        if old.is_empty() {
            return Ok(());
        }
        let rows = store::all_parts(&self.db).await?;
        let named: BTreeSet<&str> = rows.iter().flat_map(|(row,)| parts(row)).collect();
        for (name, _) in old.iter().filter(|(name, _)| !named.contains(name.as_str())) {
            tracing::info!(part = name, "a part of a blob that no row names was deleted");
            self.objects.delete_part(name).await?;
        }
        Ok(())
    }
}

/// What is named at that very moment stays.
fn still_named(removed: Result<bool, DbError>) -> Result<bool, DbError> {
    match removed {
        Err(error) if error.is_foreign_key_violation() => Ok(false),
        removed => removed,
    }
}
