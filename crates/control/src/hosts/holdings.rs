//! What would be lost with a host: it is there alone.

use std::collections::BTreeSet;

use atoll_model::api::hosts::Host;
use atoll_model::{HostId, SandboxId, VolumeId};

use crate::db::{Db, DbError, During, Text, Tx, on};

macro_rules! sandboxes {
    ($host:literal) => {
        concat!("FROM sandboxes WHERE host_id = ", $host, " AND status <> 'stopped'")
    };
}

macro_rules! volumes {
    ($host:literal) => {
        concat!("FROM volumes WHERE host_id = ", $host)
    };
}

/// Those of its sandboxes are counted with them, and what was built on the way to a template can be built again.
macro_rules! images {
    ($host:literal) => {
        concat!(
            "FROM layers l JOIN layer_refs r ON r.layer_id = l.id WHERE l.host_id = ",
            $host,
            " AND NOT l.stored AND NOT l.lost AND (r.holder LIKE 'snap-%' OR r.holder LIKE 'tpl-%')"
        )
    };
}

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
        let sandboxes: Vec<(Text<SandboxId>,)> = on!(tx tx, |c| sqlx::query_as(concat!(
            "SELECT id ",
            sandboxes!("$1"),
            " ORDER BY id"
        ))
        .bind(host.as_str())
        .fetch_all(c)
        .await)
        .during("list a host's sandboxes")?;
        let volumes: Vec<(Text<VolumeId>,)> =
            on!(tx tx, |c| sqlx::query_as(concat!("SELECT id ", volumes!("$1"), " ORDER BY id"))
                .bind(host.as_str())
                .fetch_all(c)
                .await)
            .during("list a host's volumes")?;
        let images: Vec<(String,)> = on!(tx tx, |c| sqlx::query_as(concat!(
            "SELECT DISTINCT r.holder ",
            images!("$1"),
            " ORDER BY r.holder"
        ))
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

/// Hosts that are draining and hold nothing any more.
async fn drained(db: &Db) -> Result<BTreeSet<HostId>, DbError> {
    let rows: Vec<(Text<HostId>,)> = on!(read db, |c| sqlx::query_as(concat!(
        "SELECT h.id FROM hosts h WHERE h.draining AND NOT EXISTS (SELECT 1 ",
        sandboxes!("h.id"),
        ") AND NOT EXISTS (SELECT 1 ",
        volumes!("h.id"),
        ") AND NOT EXISTS (SELECT 1 ",
        images!("h.id"),
        ")"
    ))
    .fetch_all(c)
    .await)
    .during("look for hosts that are drained")?;
    Ok(rows.into_iter().map(|(id,)| id.0).collect())
}

/// Says of those that are drained that they are.
///
/// # Errors
/// The database's.
pub async fn mark_drained(db: &Db, hosts: &mut [Host]) -> Result<(), DbError> {
    if hosts.iter().any(|host| host.draining) {
        let drained = drained(db).await?;
        hosts.iter_mut().for_each(|host| host.drained = drained.contains(&host.id));
    }
    Ok(())
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
