//! Layers: what sandboxes have written, kept read-only, for others to stand on.
//!
//! A layer is made on a sandbox's host in one moment and without copying; it lies in that host's pool. Layers that a
//! snapshot or template stands on are packed as images and fetched into the object store behind everybody's back
//! ([`work`]), so that any host can have them; until then what stands on them starts on that one host. Who stands on
//! what is counted by reference ([`store`]), and what nobody stands on goes ([`collect`]).
//!
//! A stack that has grown is packed into one layer in the background, remembered beside its holder for whoever comes
//! next; the holder itself goes on as it is. Nothing here decides what a sandbox, a snapshot or a template is.

mod collect;
mod garbage;
#[cfg(test)]
mod garbage_tests;
pub mod store;
#[cfg(test)]
mod tests;
mod work;

use std::sync::Arc;
use std::time::Duration;

use atoll_model::{HostId, LayerId, SandboxId, TeamId};
use atoll_rpc::atoll::host::v1 as wire;
use atoll_rpc::connectrpc::client::CallOptions;
use tokio::sync::Notify;

pub use collect::Dead;
pub use store::LayerRow;
pub use work::never_will;

use crate::clock::Clock;
use crate::db::{Db, DbError, Text, Tx};
use crate::fleet::{Fleet, FleetError};
use crate::objects::{ObjectError, Objects};

/// A stack of so many layers is packed into one.
pub const SQUASH_AT: usize = 8;
/// The most that a host mounts above a template.
pub const MAX_LAYERS: usize = 15;
/// Making one takes milliseconds; its host may be busy.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(30);

/// Memory is written to the disk, of large machines gigabytes.
const MEMORY_DEADLINE: Duration = Duration::from_secs(120);

/// Why a layer could not be made or had.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error(transparent)]
    Host(#[from] FleetError),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Layers of one stack that lie on different machines and are not stored yet.
    #[error("its files lie on another host and are not stored yet; try again in a moment")]
    Elsewhere,
    /// Not stored, and the host that had it was deleted.
    #[error("its files were on a host that was deleted before they were stored: they are lost")]
    Lost,
    /// Somebody took away what was to be stood on, at that very moment.
    #[error("what it stands on was deleted meanwhile")]
    Gone,
    /// It came from a machine of a team, and must not be loaded on another's.
    #[error("it was made on a machine of a team's own, and is loaded on machines of that team alone")]
    NotForTheseHosts,
}

/// What is to be kept of a sandbox beside its files, and for whom.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Its processes, if its host can keep them.
    pub memory: bool,
    /// So many are to be made of it at once.
    pub children: u32,
}

/// A layer that a host has just made of a sandbox.
pub struct Made {
    pub layer: LayerRow,
    /// Which of the sandbox's layers it stands on; the others are in it. None from agents that don't say: then on all.
    standing: Option<Vec<String>>,
}

impl Made {
    /// Of these layers of the sandbox, those that it stands on.
    #[must_use]
    pub fn below(&self, own: &[LayerRow]) -> Vec<LayerRow> {
        let stands =
            |layer: &&LayerRow| self.standing.as_ref().is_none_or(|ids| ids.iter().any(|id| id == layer.id.0.as_str()));
        own.iter().filter(stands).cloned().collect()
    }
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Layers {
    db: Db,
    clock: Clock,
    fleet: Fleet,
    objects: Objects,
    /// Something is to be stored, or may be nobody's any more.
    due: Arc<Notify>,
    loose: Arc<Notify>,
}

impl Layers {
    #[must_use]
    pub fn new(db: Db, clock: Clock, fleet: Fleet, objects: Objects) -> Self {
        Self { db, clock, fleet, objects, due: Arc::default(), loose: Arc::default() }
    }

    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Keeps what a sandbox has written so far. Its row is there before its host is asked, so nothing that the host makes
    /// can be forgotten.
    pub async fn make(
        &self,
        team: &TeamId,
        byoc: bool,
        sandbox: &SandboxId,
        host: &HostId,
        wanted: Wanted,
    ) -> Result<Made, LayerError> {
        let mut layer = LayerRow {
            id: Text(LayerId::new()),
            team_id: Text(team.clone()),
            host_id: Some(Text(host.clone())),
            byoc,
            digest: None,
            stored: false,
            size_bytes: 0,
            memory: false,
            vm_version: None,
            lost: false,
            attempts: 0,
            problem: None,
            created_at: self.clock.now(),
        };
        let mut tx = self.db.begin().await?;
        store::insert(&mut tx, &layer).await?;
        tx.commit().await?;
        crate::failpoint!("control::snapshot::before_host");
        let request = wire::SnapshotSandboxRequest {
            id: sandbox.to_string(),
            layer_id: layer.id.to_string(),
            memory: wanted.memory,
            children: wanted.children,
            ..Default::default()
        };
        let options =
            CallOptions::default().with_timeout(if wanted.memory { MEMORY_DEADLINE } else { SNAPSHOT_DEADLINE });
        let answer = self.fleet.host_client(host).snapshot_sandbox_with_options(request, options).await;
        let answer = answer.map_err(|error| FleetError::from_rpc(host, "keep a sandbox's files", error))?;
        crate::failpoint!("control::snapshot::after_host");
        let answer = answer.into_owned();
        layer.size_bytes = i64::try_from(answer.size_bytes).unwrap_or(i64::MAX);
        layer.memory = answer.kept == "memory";
        layer.vm_version = Some(answer.vm_version).filter(|version| !version.is_empty());
        store::set_made(&self.db, &layer).await?;
        Ok(Made { layer, standing: answer.standing.into_option().map(|standing| standing.layer_ids) })
    }

    /// What somebody who starts from a layer that was made of `sandbox` stands on: it, and what it stands on itself.
    pub async fn over(&self, sandbox: &SandboxId, made: Made) -> Result<Vec<LayerRow>, LayerError> {
        let holder = sandbox.as_str();
        let own = store::own(&self.db, holder).await?;
        let mut below = made.below(&own);
        // All of them may also be had in one.
        if below.len() == own.len() {
            below = self.chain(holder).await?;
        }
        if below.len() >= MAX_LAYERS {
            let host = made.layer.host_id.as_ref().map(|host| &host.0);
            below = vec![self.squash(holder, &below, host).await?];
        }
        below.insert(0, made.layer);
        Ok(below)
    }

    /// What somebody who comes next to `holder` stands on: its layers, or all of them in one.
    pub async fn chain(&self, holder: &str) -> Result<Vec<LayerRow>, DbError> {
        store::chain(&self.db, holder).await
    }

    /// There is something to be stored, or something that may be nobody's any more.
    pub fn nudge(&self) {
        self.due.notify_one();
        self.loose.notify_one();
    }

    /// Waits until there may be something to be stored.
    pub async fn due(&self) {
        self.due.notified().await;
    }

    /// Waits until something may be nobody's any more.
    pub async fn loose(&self) {
        self.loose.notified().await;
    }
}

/// Notes that a new `holder` stands on these layers, topmost first.
///
/// # Errors
/// [`LayerError::Gone`] when one of them was taken away meanwhile; the database's.
pub async fn stand(tx: &mut Tx, holder: &str, layers: &[LayerRow]) -> Result<(), LayerError> {
    store::stand(tx, holder, layers).await.map_err(work::gone)
}

/// Whether sandboxes of this team may stand on these layers: what a team's own machine has written is loaded on machines of
/// that team alone, whoever may use the template.
///
/// # Errors
/// [`LayerError::NotForTheseHosts`].
pub fn allowed(chain: &[LayerRow], team: &TeamId, team_is_byoc: bool) -> Result<(), LayerError> {
    let foreign = |layer: &LayerRow| layer.byoc && (!team_is_byoc || layer.team_id.0 != *team);
    if chain.iter().any(foreign) { Err(LayerError::NotForTheseHosts) } else { Ok(()) }
}

/// The one host that has these layers; none when every host can have them.
pub fn pinned(chain: &[LayerRow]) -> Result<Option<HostId>, LayerError> {
    if chain.iter().any(|layer| layer.lost) {
        return Err(LayerError::Lost);
    }
    let mut only: Option<&HostId> = None;
    for layer in chain.iter().filter(|layer| !layer.stored) {
        let host = layer.host_id.as_ref().map(|host| &host.0).ok_or(LayerError::Elsewhere)?;
        if only.is_some_and(|only| only != host) {
            return Err(LayerError::Elsewhere);
        }
        only = Some(host);
    }
    Ok(only.cloned())
}

/// As hosts are told.
#[must_use]
pub fn to_wire(chain: &[LayerRow]) -> Vec<wire::Layer> {
    let one = |layer: &LayerRow| wire::Layer {
        id: layer.id.to_string(),
        digest: layer.digest.clone().unwrap_or_default(),
        size_bytes: u64::try_from(layer.size_bytes).unwrap_or(0),
        ..Default::default()
    };
    chain.iter().map(one).collect()
}
