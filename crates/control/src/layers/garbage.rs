//! What nobody names any more: images that were pulled and not used for a week, and objects without a row.
//!
//! Whoever needs an object names it in a row *before* it looks whether the object is there. An object is deleted while no
//! row can be written ([`store::hold_names`]) and none names it, so there is no moment at which one that somebody counts on
//! goes. What a crash leaves without a row (a deletion that was not finished, an image whose row never came) is found by
//! looking through the store itself.

use std::time::Duration;

use super::{LayerError, Layers, store};
use crate::objects::ObjectError;

/// Pulled images that no template was made of for so long are pulled again when they are wanted.
const PULLED_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// An object without a row may be one that is just being taken in.
const STRAY_AGE: Duration = Duration::from_secs(24 * 3600);
const BATCH: i64 = 200;

impl Layers {
    /// Forgets pulled images that nobody has used for a while; whoever stands on one keeps its object. Answers the digests
    /// that hosts are to delete.
    ///
    /// # Errors
    /// The database's.
    pub async fn forget_pulled(&self) -> Result<Vec<String>, LayerError> {
        let now = self.clock.now();
        let mut gone = Vec::new();
        for (manifest, digest) in store::unused_pulled(&self.db, now - PULLED_KEPT, BATCH).await? {
            let mut tx = self.db.begin().await?;
            if !store::delete_pulled(&mut tx, &manifest, now - PULLED_KEPT).await? {
                continue;
            }
            let named = store::is_named(&mut tx, &digest).await?;
            if !named {
                store::note_everywhere(&mut tx, &digest, now).await?;
            }
            tx.commit().await?;
            if !named {
                self.delete_object(&digest).await?;
                gone.push(digest);
            }
        }
        Ok(gone)
    }

    /// Deletes objects that no row names. How many.
    ///
    /// # Errors
    /// The database's, or the store's.
    pub async fn sweep(&self) -> Result<usize, LayerError> {
        let mut old = self.objects.list().await?;
        old.retain(|object| object.age >= STRAY_AGE);
        // Nearly all of them are named: whoever isn't is judged again while nobody can name it.
        let named = if old.is_empty() { Default::default() } else { store::named(&self.db).await? };
        let mut deleted = 0;
        for object in old {
            if !named.contains(&object.digest) && self.delete_object(&object.digest).await? {
                tracing::info!(digest = object.digest, "an object that nobody names was deleted");
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    /// Deletes an object, unless a row names it. Whether it did.
    pub(super) async fn delete_object(&self, digest: &str) -> Result<bool, LayerError> {
        let mut tx = self.db.begin().await?;
        store::hold_names(&mut tx).await?;
        let named = store::is_named(&mut tx, digest).await?;
        if !named {
            // A power cut must not bring back the rows that named it.
            let written = self.db.write_out().await;
            written.map_err(|error| ObjectError::other("writing out rows before an object goes", error))?;
            self.objects.delete(digest).await?;
        }
        // Nothing was written: it ends with the transaction.
        drop(tx);
        Ok(!named)
    }
}
