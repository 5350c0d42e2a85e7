//! Forking: children that start from the files that a sandbox has now.
//!
//! 1. The sandbox's host keeps its files as a layer: milliseconds, whatever their size; the sandbox goes on. Of a virtual
//!    machine it keeps memory too, and the children go on with its very processes.
//! 2. In one transaction: the children's rows, `starting` on that host, and what they stand on.
//! 3. The host builds them side by side. Each has a result of its own.
//!
//! Children have the parent's template, size, network policy, environment, lifetime and shared volumes, and identities of their own: id, address,
//! tokens, host name, boot and machine id. They stay on the parent's host until their layers are stored.

use std::collections::BTreeMap;

use atoll_model::api::volumes::VolumeMode;
use atoll_model::{HostId, SandboxId, SandboxStatus};
use futures::{FutureExt, StreamExt};
use serde_json::json;
use sqlx::types::Json;

use super::ground::{Ground, spec};
use super::store;
use super::timing::StepTimes;
use super::wanted::signed;
use super::{Keep, MadeOf, Owner, SandboxError, SandboxRecord, Sandboxes, lifetime};
use crate::audit::{self, Entry};
use crate::db::{Text, Tx};
use crate::fleet::{Demand, NoHost};
use crate::layers::{self, Made, Wanted};
use crate::quotas::{self, Ask, QuotaError};
use crate::templates::store::{self as templates, Template};
use crate::volumes::{self, VolumeError};

pub const MAX_CHILDREN: u32 = 100;
/// Children that a host builds at once.
const AT_ONCE: usize = 16;

/// What is asked for, checked.
#[derive(Debug, Clone)]
pub struct Fork {
    /// 1 to [`MAX_CHILDREN`].
    pub count: u32,
    /// None: the parent's.
    pub timeout_sec: Option<u64>,
    /// The children's lifetime. None: the parent's, where the idle timeout is the parent's too.
    pub lifetime_sec: Option<u64>,
    /// None: the parent's.
    pub metadata: Option<BTreeMap<String, String>>,
}

pub type Child = Result<SandboxRecord, SandboxError>;

pub struct Children {
    /// They go on with the parent's processes; else they start from its files.
    pub memory: bool,
    pub each: Vec<Child>,
}

impl Sandboxes {
    /// Forks a team's running or paused sandbox. One result per child, in a task of its own: a client that goes away
    /// leaves children that run.
    pub async fn fork(&self, owner: &Owner, id: &SandboxId, fork: Fork) -> Result<Children, SandboxError> {
        let listed = self.listed(&owner.team, id).await?.ok_or(SandboxError::NotFound)?;
        let inherited = listed.lifetime_sec.filter(|_| fork.timeout_sec.is_none());
        let lifetime = fork.lifetime_sec.map(signed).or(inherited).map(|seconds| (seconds, listed.keep()));
        let parent = listed.record;
        let turn = self.turn(&owner.team).await?;
        let (service, owner) = (self.clone(), owner.clone());
        let task = self.tasks.spawn(async move {
            let _turn = turn;
            service.fork_now(&owner, parent, fork, lifetime).await
        });
        task.await.map_err(|_| SandboxError::Interrupted)?
    }

    async fn fork_now(
        &self,
        owner: &Owner,
        parent: SandboxRecord,
        fork: Fork,
        lifetime: Option<(i64, Keep)>,
    ) -> Result<Children, SandboxError> {
        let mounts = volumes::of_sandbox(&self.db, &parent.id).await?;
        if let Some(mount) = mounts.iter().find(|mount| mount.volume.mode.0 == VolumeMode::Exclusive) {
            let (name, sandboxes) = (mount.volume.name.clone(), vec![parent.id.0.clone()]);
            return Err(VolumeError::Exclusive { name, sandboxes }.into());
        }
        // A secret that is gone is said before anything is kept.
        let filling = parent.network.filling(&self.secrets, &owner.team).await?;
        let wanted = Wanted { memory: parent.can_keep_memory(), children: fork.count };
        let (made, host) = self.keep(owner, &parent, "fork", wanted).await?;
        let memory = made.layer.memory;
        let chain = self.layers.over(&parent.id, made).await?;
        // Its template may have changed or gone since; what the parent was made from is what its children are made from.
        let template = self.template_of(&parent, owner).await?;
        let mut children = Vec::new();
        let mut refused = Vec::new();
        for _ in 0..fork.count {
            match self.place_child(owner, &parent, &host).await {
                Ok(()) => children.push(self.child(owner, &parent, &host, &fork)),
                Err(error) => refused.push(Err(error)),
            }
        }
        let ground = Ground { template: &template, layers: &chain, mounts: &mounts, filling: &filling };
        let (children, without_room) =
            self.insert_children(owner, &parent, &host, (children, lifetime), &ground).await?;
        refused.extend(without_room.into_iter().map(Err));
        crate::failpoint!("control::fork::after_rows");
        let starts = children.into_iter().map(|child| self.start_child(child, &host, &ground, &parent).boxed());
        let mut results: Vec<Child> = futures::stream::iter(starts).buffered(AT_ONCE).collect().await;
        results.extend(refused);
        let (layers, holder, host) = (self.layers.clone(), parent.id.to_string(), host.clone());
        self.tasks.spawn(async move {
            if let Err(error) = layers.squash_if_tall(&holder, Some(&host)).await {
                tracing::warn!(sandbox = holder, %error, "a stack of layers could not be packed into one yet");
            }
        });
        Ok(Children { memory, each: results })
    }

    /// A layer of what the sandbox has written so far, and the host that has it.
    pub async fn keep(
        &self,
        owner: &Owner,
        record: &SandboxRecord,
        attempted: &'static str,
        wanted: Wanted,
    ) -> Result<(Made, HostId), SandboxError> {
        if !matches!(record.status(), SandboxStatus::Running | SandboxStatus::Paused) {
            return Err(SandboxError::InvalidState { attempted, status: record.status() });
        }
        let host = record.host().cloned().ok_or(SandboxError::Changed { attempted })?;
        let made = self.layers.make(&owner.team, owner.team_is_byoc, &record.id, &host, wanted).await?;
        Ok((made, host))
    }

    /// The template as the parent was made from it: it may have been built anew since, or be gone, and the parent may have
    /// come from another of its builds.
    pub(super) async fn template_of(&self, parent: &SandboxRecord, owner: &Owner) -> Result<Template, SandboxError> {
        let found = templates::find(&self.db, parent.template_id.as_str(), &owner.team).await?;
        let mut template = match found {
            Some(template) => template,
            None => templates::find(&self.db, "base", &owner.team)
                .await?
                .map(|base| Template { start_cmd: None, env: Json(BTreeMap::new()), ..base })
                .ok_or_else(|| SandboxError::NoTemplate { name: parent.template.clone() })?,
        };
        if let Some(made_of) = store::made_of(&self.db, &parent.id).await? {
            template = made_of.on(template);
        }
        template.digest.clone_from(&parent.digest);
        template.name.clone_from(&parent.template);
        template.id.clone_from(&parent.template_id);
        Ok(template)
    }

    async fn place_child(&self, owner: &Owner, parent: &SandboxRecord, host: &HostId) -> Result<(), SandboxError> {
        let size = |value: i64| u64::try_from(value).unwrap_or(0);
        let demand = Demand {
            team: owner.team.clone(),
            team_is_byoc: owner.team_is_byoc,
            driver: parent.driver.clone(),
            vm_version: None,
            vcpus: u32::try_from(parent.vcpus).unwrap_or(1),
            memory_mb: size(parent.memory_mb),
            disk_mb: size(parent.disk_mb),
            image: Some(parent.digest.clone()),
            only: Some(host.clone()),
            volumes_on: None,
            tried: Vec::new(),
        };
        self.placer.place(&demand).await.map(|_| ())
    }

    fn child(&self, owner: &Owner, parent: &SandboxRecord, host: &HostId, fork: &Fork) -> SandboxRecord {
        let now = self.clock.now();
        SandboxRecord {
            id: Text(SandboxId::new()),
            host_id: Some(Text(host.clone())),
            status: Text(SandboxStatus::Starting),
            former_status: None,
            reason: None,
            generation: 1,
            timeout_sec: fork.timeout_sec.map_or(parent.timeout_sec, signed),
            metadata: fork.metadata.clone().map_or_else(|| parent.metadata.clone(), Json),
            access_token: hex::encode(rand::random::<[u8; 16]>()),
            created_by: owner.actor.id().map(str::to_owned),
            created_at: now,
            started_at: None,
            last_active_at: now,
            status_changed_at: now,
            begun_with: None,
            ..parent.clone()
        }
    }

    /// The rows of those that the team's quotas have room for, with the end that they come to; and for each other one, why
    /// not.
    async fn insert_children(
        &self,
        owner: &Owner,
        parent: &SandboxRecord,
        host: &HostId,
        (wanted, lifetime): (Vec<SandboxRecord>, Option<(i64, Keep)>),
        ground: &Ground<'_>,
    ) -> Result<(Vec<SandboxRecord>, Vec<SandboxError>), SandboxError> {
        let mut tx = self.db.begin().await?;
        let all_fit = self.has_room(&mut tx, parent, wanted.len()).await?.is_none();
        let (mut children, mut refused) = (Vec::with_capacity(wanted.len()), Vec::new());
        for child in wanted {
            if !all_fit && let Some(exceeded) = self.has_room(&mut tx, parent, 1).await? {
                refused.push(exceeded.into());
                continue;
            }
            if !store::insert(&mut tx, &child, &MadeOf::of(ground.template)).await? {
                return Err(NoHost::draining(owner.team_is_byoc).into());
            }
            layers::stand(&mut tx, child.id.as_str(), ground.layers).await?;
            volumes::attach(&mut tx, &child.id, host, ground.mounts).await?;
            if let Some((seconds, keep)) = lifetime {
                lifetime::set(&mut tx, &child.id, seconds, child.created_at).await?;
                lifetime::set_keep(&mut tx, &child.id, keep).await?;
            }
            children.push(child);
        }
        let result = match (children.is_empty(), refused.is_empty()) {
            (false, _) => "ok",
            (true, false) => "quota_exceeded",
            (true, true) => "no_hosts_available",
        };
        let ids: Vec<&str> = children.iter().map(|child| child.id.as_str()).collect();
        let entry = Entry {
            team: Some(&owner.team),
            actor: &owner.actor,
            origin: &owner.origin,
            action: "sandbox.fork",
            target_kind: "sandbox",
            target_id: Some(parent.id.as_str()),
            result,
            details: json!({ "children": ids, "refused": refused.len() }),
        };
        audit::record(&mut tx, self.clock.now(), &entry).await?;
        tx.commit().await?;
        Ok((children, refused))
    }

    /// Which quota has no room for so many like `parent`. Room that there is nobody else can take before the end of `tx`.
    async fn has_room(
        &self,
        tx: &mut Tx,
        parent: &SandboxRecord,
        count: usize,
    ) -> Result<Option<QuotaError>, SandboxError> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let times = |size: i64| size.saturating_mul(count);
        let (vcpus, memory_mb, disk_mb) = (times(parent.vcpus), times(parent.memory_mb), times(parent.disk_mb));
        let ask = Ask { sandboxes: count, vcpus, memory_mb, disk_mb };
        match quotas::reserve(tx, &parent.team_id, &self.quotas, ask).await {
            Ok(()) => Ok(None),
            Err(exceeded @ QuotaError::Exceeded { .. }) => Ok(Some(exceeded)),
            Err(error) => Err(error.into()),
        }
    }

    async fn start_child(
        &self,
        child: SandboxRecord,
        host: &HostId,
        ground: &Ground<'_>,
        parent: &SandboxRecord,
    ) -> Child {
        let mut spec = spec(&child, BTreeMap::new(), ground);
        // Its host has all of the parent's, the template's and what the parent was given itself: that counts, as it is.
        spec.env.clear();
        let had_memory = ground.layers.first().is_some_and(|top| top.memory);
        match self.start_like(child, host, &spec, Some(&parent.id), &StepTimes::default()).await? {
            Ok(running) => Ok(running.of_memory(had_memory)),
            Err((child, error)) => Err(self.give_up(&child, error).await),
        }
    }
}
