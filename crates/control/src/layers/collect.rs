//! Taking away what nobody stands on: first the row, with a note of who is to delete what, then the bytes.
//!
//! A row goes only while no reference to it exists, judged in the statement that deletes it; a reference that comes at
//! the same moment finds no row and fails. A crash in between leaves notes, which hosts obey when they are heard next.

use std::time::Duration;

use super::{LayerError, LayerRow, Layers, store};

/// Layers that are being made have no references yet; one that others are packed into is made for this long at most
/// ([`super::work::PACK_DEADLINE`]).
const GRACE: Duration = Duration::from_secs(1800);
/// Deleted in one round.
const BATCH: i64 = 200;

/// What is gone, and must be deleted where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dead {
    /// On the host that a note names.
    Layer(String),
    /// Everywhere.
    Image(String),
}

impl Layers {
    /// Deletes rows of layers that nobody stands on. The caller tells the hosts.
    ///
    /// # Errors
    /// The database's.
    pub async fn collect(&self) -> Result<Vec<Dead>, LayerError> {
        let now = self.clock.now();
        let mut dead = Vec::new();
        store::release_gone(&self.db).await?;
        for layer in store::unused(&self.db, now - GRACE, BATCH).await? {
            dead.extend(self.bury(&layer).await?);
        }
        for gone in &dead {
            if let Dead::Image(digest) = gone {
                self.delete_object(digest).await?;
            }
        }
        Ok(dead)
    }

    async fn bury(&self, layer: &LayerRow) -> Result<Vec<Dead>, LayerError> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        if !store::delete_unused(&mut tx, &layer.id.0).await? {
            return Ok(Vec::new());
        }
        // What it was to be packed from.
        store::release(&mut tx, layer.id.as_str()).await?;
        let mut dead = Vec::new();
        if let Some(host) = &layer.host_id {
            store::note_deletion(&mut tx, &host.0, layer.id.as_str(), now).await?;
            dead.push(Dead::Layer(layer.id.to_string()));
        }
        if let Some(digest) = &layer.digest
            && !store::is_named(&mut tx, digest).await?
        {
            store::note_everywhere(&mut tx, digest, now).await?;
            dead.push(Dead::Image(digest.clone()));
        }
        tx.commit().await?;
        Ok(dead)
    }
}
