//! Sandboxes: what control decides about them, and the rows that say so.
//!
//! One file per verb: `create`, `destroy`, `pause`, `resume`; of a create, `wanted` is what was asked for, `ground` what it
//! is made of, `start` the host's part. `store` has the SQL, `record` a row's shape, `activity` the idle clock, `reaper`
//! acts when it runs out, `placer` is the seam to the scheduler. Every decision raises the row's generation and is a
//! compare-and-set on (status, generation), so a late answer never overwrites a newer truth; what a host then really does
//! is told by its answer, or found out by `reconcile`. Events are written by the database's triggers.
//!
//! What this never does: look at HTTP, decide who may do what, or keep anything in memory that may not be lost.

mod activity;
mod asked;
mod create;
mod destroy;
mod error;
mod fork;
mod ground;
mod lifetime;
pub mod moves;
mod network;
mod pause;
mod placer;
mod reaper;
mod record;
mod resume;
mod start;
pub mod store;
#[cfg(test)]
mod tests;
mod timing;
mod turns;
mod volume_host;
mod wanted;

use std::sync::Arc;
use std::time::Duration;

use atoll_model::{SandboxId, TeamId};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

pub use activity::{Activity, OpenGuard};
pub use error::SandboxError;
pub use fork::{Child, Fork, MAX_CHILDREN};
pub use lifetime::{Listed, Wanted};
pub use pause::{Keep, Kept, Paused};
pub use placer::Placer;
pub use record::{Filling, Inbound, MadeOf, Network, SandboxRecord};
pub use resume::Resumed;
pub use timing::StepTimes;
use turns::{Turn, Turns};
pub use wanted::{CONTAINER, DEFAULT_DISK_MB, DEFAULT_MEMORY_MB, DEFAULT_VCPUS, NewSandbox, StartFrom, VM};

pub use crate::audit::Owner;
use crate::clock::Clock;
use crate::db::{Db, DbError, Fresh, Topic, Tx};
use crate::fleet::{Demand, Fleet};
use crate::layers::{LayerRow, Layers};
use crate::quotas::{self, Ask, Limits};
use crate::secrets::Secrets;
use crate::templates::shipped::Shipped;
use crate::templates::store::Template;

/// How long a host may take to create, pause or resume a sandbox.
const HOST_DEADLINE: Duration = Duration::from_secs(60);

/// What sandboxes are made from, besides templates.
pub struct Sources {
    pub layers: Layers,
    pub secrets: Secrets,
}

/// Rows of sandboxes by their teams and ids.
type Used = Fresh<(TeamId, SandboxId), Option<Arc<SandboxRecord>>>;
/// What teams mean by a template's name: the template, and the layers above its image.
type Named = Fresh<(TeamId, String), Option<Arc<(Template, Vec<LayerRow>)>>>;
/// What no change of a sandbox's row touches.
const UNTOUCHED: &[Topic] = &[Topic::Rights, Topic::Templates];

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Sandboxes {
    db: Db,
    clock: Clock,
    fleet: Fleet,
    placer: Arc<dyn Placer>,
    layers: Layers,
    secrets: Secrets,
    activity: Arc<Activity>,
    /// Creates under way at once.
    creates: Turns,
    queue_timeout: Duration,
    /// What teams may have that have no limits of their own.
    quotas: Limits,
    /// Templates that are built at their first use.
    shipped: Option<Shipped>,
    /// Sandboxes as they were when they were last used.
    used: Arc<Used>,
    named: Arc<Named>,
    /// Something paused may have to leave its host.
    moves: Arc<Notify>,
    /// Work that must be finished although nobody waits for it any more.
    tasks: TaskTracker,
}

impl Sandboxes {
    #[must_use]
    pub fn new(
        db: Db,
        clock: Clock,
        fleet: Fleet,
        placer: Arc<dyn Placer>,
        sources: Sources,
        limits: &crate::config::HttpLimits,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            activity: Arc::new(Activity::new(clock.clone())),
            db,
            clock,
            fleet,
            placer,
            layers: sources.layers,
            secrets: sources.secrets,
            creates: Turns::new(limits.max_creates),
            queue_timeout: limits.queue_timeout,
            quotas: Limits::default(),
            shipped: None,
            used: Arc::new(Used::about(Topic::Sandboxes)),
            named: Arc::new(Named::about(Topic::Templates)),
            moves: Arc::default(),
            tasks,
        }
    }

    /// The same with limits for teams that have none of their own.
    #[must_use]
    pub fn with_quotas(self, quotas: Limits) -> Self {
        Self { quotas, ..self }
    }

    /// The same with the templates that ship.
    #[must_use]
    pub fn with_shipped(self, shipped: Shipped) -> Self {
        Self { shipped: Some(shipped), ..self }
    }

    /// Whether some host would take this now.
    pub(crate) async fn has_place_for(&self, demand: &Demand) -> bool {
        self.placer.place(demand).await.is_ok()
    }

    /// The hosts' rows have just said that this can be placed.
    pub(crate) fn can_be_placed(&self, demand: &Demand) {
        self.placer.can_be_placed(demand);
    }

    /// The driver that builds for this team run on: containers where there are any, else virtual machines.
    ///
    /// # Errors
    /// When the hosts could not be listed.
    pub(crate) async fn driver_for_builds(&self, owner: &Owner) -> Result<&'static str, SandboxError> {
        let offered = self.placer.offered(&owner.team, owner.team_is_byoc).await?;
        Ok(if offered.contains(VM) && !offered.contains(CONTAINER) { VM } else { CONTAINER })
    }

    /// Inserts a new sandbox's row, if the team's quotas have room for it. False when its host takes nothing new any more.
    async fn insert_row(&self, tx: &mut Tx, record: &SandboxRecord, made_of: &MadeOf) -> Result<bool, SandboxError> {
        let ask = Ask { sandboxes: 1, vcpus: record.vcpus, memory_mb: record.memory_mb, disk_mb: record.disk_mb };
        quotas::reserve(tx, &record.team_id, &self.quotas, ask).await?;
        Ok(store::insert(tx, record, made_of).await?)
    }

    /// Waits until it is the team's turn to have a sandbox made.
    async fn turn(&self, team: &TeamId) -> Result<Turn, SandboxError> {
        let turn = tokio::time::timeout(self.queue_timeout, self.creates.next(team)).await;
        turn.map_err(|_| SandboxError::Queue)?.ok_or(SandboxError::Interrupted)
    }

    /// Does what changes one sandbox's row, or makes it, and remembers the row as it is now. None when nothing was changed.
    async fn row_of<E>(
        &self,
        change: impl Future<Output = Result<Option<SandboxRecord>, E>>,
    ) -> Result<Option<SandboxRecord>, E> {
        let Some((row, landed)) = self.db.write_keeping(UNTOUCHED, change).await? else { return Ok(None) };
        if let Some(landed) = landed {
            self.used.changed(&landed, (row.team_id.0.clone(), row.id.0.clone()), Some(Arc::new(row.clone())));
        }
        Ok(Some(row))
    }

    /// The change of a row, if it still is what the caller saw.
    async fn change(&self, change: &store::Change<'_>) -> Result<Option<SandboxRecord>, DbError> {
        self.row_of(store::change(&self.db, change)).await
    }

    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// What sandboxes stand on.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Work that must be finished although nobody waits for it any more.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Living sandboxes of builds that are over.
    pub async fn left_by_builds(&self) -> Result<Vec<atoll_model::SandboxId>, crate::db::DbError> {
        Ok(store::left_by_builds(&self.db).await?.into_iter().map(|id| id.0).collect())
    }

    #[must_use]
    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}
