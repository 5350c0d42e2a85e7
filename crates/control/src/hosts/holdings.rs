//! What would be lost with a host: it is there alone.

use atoll_model::{HostId, SandboxId, VolumeId};

use crate::db::{DbError, During, Text, Tx, on};

/// Of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Not stopped. Paused ones count: they live on its disk.
    pub sandboxes: Vec<SandboxId>,
    pub volumes: Vec<VolumeId>,
    /// Snapshots and templates with layers that are stored nowhere else yet.
    pub images: Vec<String>,
}

impl Holdings {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.volumes.is_empty() && self.images.is_empty()
    }

    /// What the host has as this transaction sees it.
    ///
    /// # Errors
    /// The database's.
    pub async fn of(tx: &mut Tx, host: &HostId) -> Result<Self, DbError> {
        let sandboxes: Vec<(Text<SandboxId>,)> = on!(tx tx, |c| sqlx::query_as(
            "SELECT id FROM sandboxes WHERE host_id = $1 AND status <> 'stopped' ORDER BY id"
        )
        .bind(host.as_str())
        .fetch_all(c)
        .await)
        .during("list a host's sandboxes")?;
        let volumes: Vec<(Text<VolumeId>,)> =
            on!(tx tx, |c| sqlx::query_as("SELECT id FROM volumes WHERE host_id = $1 ORDER BY id")
                .bind(host.as_str())
                .fetch_all(c)
                .await)
            .during("list a host's volumes")?;
        // Those of its sandboxes are counted with them, and what was built on the way to a template can be built again.
        let images: Vec<(String,)> = on!(tx tx, |c| sqlx::query_as(
            "SELECT DISTINCT holder FROM layer_refs WHERE layer_id IN
                 (SELECT id FROM layers WHERE host_id = $1 AND NOT stored AND NOT lost)
                 AND (holder LIKE 'snap-%' OR holder LIKE 'tpl-%') ORDER BY holder"
        )
        .bind(host.as_str())
        .fetch_all(c)
        .await)
        .during("list what of a host is not stored")?;
        Ok(Self {
            sandboxes: sandboxes.into_iter().map(|row| row.0.0).collect(),
            volumes: volumes.into_iter().map(|row| row.0.0).collect(),
            images: images.into_iter().map(|row| row.0).collect(),
        })
    }

    /// In words: `2 sandboxes, 1 volume and 3 images`.
    #[must_use]
    pub fn in_words(&self) -> String {
        let count = |count: usize, what: &str| match count {
            0 => None,
            1 => Some(format!("1 {what}")),
            more => Some(format!("{more} {what}{}", if what.ends_with('x') { "es" } else { "s" })),
        };
        let parts = [
            count(self.sandboxes.len(), "sandbox"),
            count(self.volumes.len(), "volume"),
            count(self.images.len(), "image"),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        match parts.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
            Some((last, _)) => last.clone(),
            None => "nothing".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_in_words() {
        let of = |sandboxes: usize, volumes: usize, images: usize| {
            Holdings {
                sandboxes: (0..sandboxes).map(|_| SandboxId::new()).collect(),
                volumes: (0..volumes).map(|_| VolumeId::new()).collect(),
                images: vec![String::new(); images],
            }
            .in_words()
        };
        assert_eq!(of(2, 1, 3), "2 sandboxes, 1 volume and 3 images");
        assert_eq!((of(1, 0, 0).as_str(), of(0, 2, 1).as_str()), ("1 sandbox", "2 volumes and 1 image"));
        assert_eq!(of(0, 0, 0), "nothing");
    }
}
