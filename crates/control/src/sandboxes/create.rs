//! Creating a sandbox: a row, a host, and either a sandbox that answers or nothing at all.
//!
//! 1. The template is looked up and a host is picked.
//! 2. In one transaction: the row, `starting` on that host with generation 1, and the audit entry.
//! 3. The host builds it and answers when the guest agent inside is ready.
//! 4. The row becomes `running`.
//!
//! A host that drains or is being deleted by the time of the row takes nothing: another is picked.
//!
//! A host that fails is told to destroy whatever it may have made (with a newer generation, so that a create that still
//! travels is refused), and the create is tried on another host, once. When that fails too the row ends as `stopped`,
//! reason `create_failed`.
//!
//! All of it runs in a task of its own: a client that goes away does not leave it half done. A sandbox that nobody is
//! there to be told of is destroyed again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::sandbox::OnReboot;
use atoll_model::{HostId, OnTimeout, SandboxId, SandboxStatus, TeamId};
use atoll_rpc::atoll::host::v1::{self as wire, CreateSandboxRequest};
use atoll_rpc::connectrpc::ConnectError;
use atoll_rpc::connectrpc::ErrorCode as RpcCode;
use atoll_rpc::connectrpc::client::CallOptions;
use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::types::Json;
use tokio::sync::oneshot;

use super::lifetime;
use super::record::{OnRebootName, OnTimeoutName};
use super::store::{self, Change};
use super::timing::StepTimes;
use super::turns::Turn;
use super::{Filling, HOST_DEADLINE, MadeOf, Network, Owner, SandboxError, SandboxRecord, Sandboxes};
use crate::audit::{self, Entry};
use crate::db::{DbError, Text};
use crate::fleet::{ANY_DRIVER, Demand, FleetError};
use crate::layers::{self, LayerRow};
use crate::templates::store::{self as templates, Template};
use crate::volumes::{self, Mount, Wish};

/// How long a create waits for a template's ready command, and between two tries.
const READY_PATIENCE: Duration = Duration::from_secs(60);
const READY_AGAIN: Duration = Duration::from_millis(100);
pub const DEFAULT_VCPUS: u32 = 1;
pub const DEFAULT_MEMORY_MB: u64 = 512;
pub const DEFAULT_DISK_MB: u64 = 5120;
/// The drivers by their names.
pub const CONTAINER: &str = "container";
pub const VM: &str = "vm";

/// What a sandbox begins with, of a snapshot of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFrom {
    Memory,
    Files,
}

impl StartFrom {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Files => "files",
        }
    }
}

/// What is asked for, validated.
#[derive(Debug, Clone)]
pub struct NewSandbox {
    pub template: String,
    pub vcpus: Option<u32>,
    pub memory_mb: Option<u64>,
    pub disk_mb: Option<u64>,
    pub timeout_sec: u64,
    /// Seconds after which it ends whatever it does.
    pub lifetime_sec: Option<u64>,
    pub on_timeout: OnTimeout,
    pub auto_resume: bool,
    pub on_reboot: OnReboot,
    /// None: the template's.
    pub driver: Option<String>,
    /// None: memory, if there is any to go on with.
    pub start_from: Option<StartFrom>,
    /// Passed to the host and kept nowhere here.
    pub env: BTreeMap<String, String>,
    /// Variables, and the team's secrets that they get their values from.
    pub secrets: BTreeMap<String, String>,
    pub volumes: Vec<Wish>,
    pub metadata: BTreeMap<String, String>,
    pub network: Network,
    /// The client will ask again with the same key if it goes away, so the sandbox is kept for it.
    pub keep_if_abandoned: bool,
    /// `build` and the build's id for sandboxes of control's own, else empty.
    pub purpose: String,
    /// Filled with where the time went.
    pub times: StepTimes,
}

pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Sandboxes {
    /// Ends with a running sandbox, or with an error and nothing left behind.
    pub async fn create(&self, owner: &Owner, new: NewSandbox) -> Result<SandboxRecord, SandboxError> {
        let named = self.named(&owner.team, &new.template).await?;
        let (mut template, layers) =
            named.map(Arc::unwrap_or_clone).ok_or_else(|| SandboxError::NoTemplate { name: new.template.clone() })?;
        if template.digest.is_empty() && template.team_id.is_none() {
            template = self.shipped(&template.name).await?;
        }
        if template.digest.is_empty() {
            return Err(SandboxError::NotBuilt { name: new.template });
        }
        self.create_from(owner, new, template, layers).await
    }

    /// Creates mostly ask for the same few, which seldom change.
    async fn named(&self, team: &TeamId, name: &str) -> Result<Option<Arc<(Template, Vec<LayerRow>)>>, DbError> {
        let read = async {
            let Some((template, holder)) = templates::resolve(&self.db, name, team).await? else { return Ok(None) };
            let layers = self.layers.chain(&holder).await?;
            Ok(Some(Arc::new((template, layers))))
        };
        self.named.read(&self.db, (team.clone(), name.to_owned()), read).await
    }

    /// A template that ships, with its image; built when it is wanted for the first time.
    pub(crate) async fn shipped(&self, name: &str) -> Result<Template, SandboxError> {
        let found = match &self.shipped {
            Some(shipped) => shipped.with_image(name).await?,
            None => None,
        };
        found.ok_or_else(|| SandboxError::NotBuilt { name: name.to_owned() })
    }

    /// The same, from this template and these layers above it.
    pub async fn create_from(
        &self,
        owner: &Owner,
        new: NewSandbox,
        template: Template,
        layers: Vec<LayerRow>,
    ) -> Result<SandboxRecord, SandboxError> {
        let turn = self.turn(&owner.team).await?;
        let (tell, told) = oneshot::channel();
        let (service, owner) = (self.clone(), owner.clone());
        self.tasks.spawn(async move {
            let keep = new.keep_if_abandoned;
            let result = service.create_now(&owner, new, template, layers, turn).await;
            if let Err(Ok(orphan)) = tell.send(result)
                && !keep
            {
                tracing::info!(sandbox = %orphan.id.0, "nobody waits for the new sandbox any more: destroying it");
                service.destroy_now(&orphan.id.0, "client_gone").await;
            }
        });
        told.await.map_err(|_| SandboxError::Interrupted)?
    }

    async fn create_now(
        &self,
        owner: &Owner,
        new: NewSandbox,
        template: Template,
        layers: Vec<LayerRow>,
        turn: Turn,
    ) -> Result<SandboxRecord, SandboxError> {
        let (started, times) = (Instant::now(), new.times.clone());
        let mounts = volumes::find_all(&self.db, &owner.team, &new.volumes).await?;
        let mut demand = demand(owner, &new, &template);
        if template.driver != ANY_DRIVER && template.driver != demand.driver {
            return Err(SandboxError::WrongDriver { template: template.name, driver: template.driver });
        }
        layers::allowed(&layers, &owner.team, owner.team_is_byoc)?;
        demand.only = layers::pinned(&layers)?;
        demand.vm_version = memory_of(new.start_from, &template, &layers, &demand)?;
        demand.volumes_on = volumes::hosts_of(&mounts)?;
        let mut env = new.env.clone();
        for (variable, value) in self.secrets.environment(&owner.team, &new.secrets).await? {
            env.insert(variable, value.expose_secret().to_owned());
        }
        let filling = new.network.filling(&self.secrets, &owner.team).await?;
        let ground = Ground { template: &template, layers: &layers, mounts: &mounts, filling: &filling };
        let any_driver = demand.driver == ANY_DRIVER;
        let mut placing = started;
        let (host, record) = loop {
            let host = self.placer.place(&demand).await?;
            if any_driver {
                // From here on it is that one, wherever it is tried.
                demand.driver = self.placer.preferred_driver(&host).unwrap_or_else(|| CONTAINER.to_owned());
            }
            times.end("place", placing);
            let inserting = Instant::now();
            let inserted = self.row_of(self.insert(owner, &new, &demand, &host, &ground)).await?;
            times.end("insert", inserting);
            if let Some(record) = inserted {
                break (host, record);
            }
            // It was chosen by a list that is a moment old, and takes nothing new any more.
            self.placer.failed(&host);
            demand.tried.push(host);
            if any_driver {
                ANY_DRIVER.clone_into(&mut demand.driver);
            }
            placing = Instant::now();
        };
        let start_from = new.start_from.map_or("", StartFrom::as_str).to_owned();
        let spec = wire::SandboxSpec { start_from, ..spec(&record, env, &ground) };
        let (record, first) = match self.start_on(record, &host, &spec, &times).await? {
            Ok(running) => {
                // What it waits for from here on is the sandbox's own doing.
                drop(turn);
                self.await_ready(&running, &template).await;
                tracing::debug!(sandbox = %running.id.0, %host, elapsed = ?started.elapsed(), "created");
                return Ok(running);
            }
            Err(failed) => failed,
        };
        demand.tried.push(host.clone());
        self.placer.failed(&host);
        let (record, other) = loop {
            let Ok(other) = self.placer.place(&demand).await else {
                return Err(self.give_up(&record, first).await);
            };
            match self.move_to(&record, &other, &mounts).await? {
                Moved::There(record) => break (*record, other),
                Moved::HostLeaves => {
                    self.placer.failed(&other);
                    demand.tried.push(other);
                }
                Moved::VolumesStay => return Err(self.give_up(&record, first).await),
                Moved::Changed => return Err(SandboxError::Changed { attempted: "create" }),
            }
        };
        tracing::warn!(sandbox = %record.id.0, %host, %other, error = %first, "create failed: trying another host");
        match self.start_on(record, &other, &spec, &times).await? {
            Ok(running) => {
                drop(turn);
                self.await_ready(&running, &template).await;
                Ok(running)
            }
            Err((record, second)) => {
                self.placer.failed(&other);
                Err(self.give_up(&record, second).await)
            }
        }
    }

    /// Gives the row to another host, with a new generation.
    async fn move_to(&self, record: &SandboxRecord, host: &HostId, mounts: &[Mount]) -> Result<Moved, SandboxError> {
        if !mounts.is_empty() && !volumes::move_along(&self.db, &record.id, host, mounts).await? {
            return Ok(Moved::VolumesStay);
        }
        let mut tx = self.db.begin().await?;
        if !store::takes_something_new(&mut tx, host).await? {
            return Ok(Moved::HostLeaves);
        }
        let change = Change { host: Some(host), ..self.decision(record, SandboxStatus::Starting, None) };
        let Some(record) = store::change_in(&mut tx, &change).await? else { return Ok(Moved::Changed) };
        tx.commit().await?;
        Ok(Moved::There(Box::new(record)))
    }

    /// The row and all that goes with it; none when the host takes nothing new any more.
    async fn insert(
        &self,
        owner: &Owner,
        new: &NewSandbox,
        demand: &Demand,
        host: &HostId,
        ground: &Ground<'_>,
    ) -> Result<Option<SandboxRecord>, SandboxError> {
        let (now, template) = (self.clock.now(), ground.template);
        let record = SandboxRecord {
            id: Text(SandboxId::new()),
            team_id: Text(owner.team.clone()),
            host_id: Some(Text(host.clone())),
            template: template.name.clone(),
            template_id: template.id.clone(),
            digest: template.digest.clone(),
            status: Text(SandboxStatus::Starting),
            former_status: None,
            reason: None,
            generation: 1,
            driver: demand.driver.clone(),
            vcpus: i64::from(demand.vcpus),
            memory_mb: signed(demand.memory_mb),
            disk_mb: signed(demand.disk_mb),
            timeout_sec: signed(new.timeout_sec),
            on_timeout: Text(OnTimeoutName(new.on_timeout)),
            auto_resume: new.auto_resume,
            on_reboot: Text(OnRebootName(new.on_reboot)),
            metadata: Json(new.metadata.clone()),
            network: Json(new.network.clone()),
            mounts: Json(volumes::shown_in(ground.mounts)),
            access_token: hex::encode(rand::random::<[u8; 16]>()),
            created_by: owner.actor.id().map(str::to_owned),
            created_at: now,
            started_at: None,
            last_active_at: now,
            status_changed_at: now,
            network_generation: 0,
        };
        let mut tx = self.db.begin().await?;
        if !self.insert_row(&mut tx, &record, &MadeOf::of(template)).await? {
            return Ok(None);
        }
        if !ground.layers.is_empty() {
            layers::stand(&mut tx, record.id.as_str(), ground.layers).await?;
        }
        volumes::attach(&mut tx, &record.id, host, ground.mounts).await?;
        if let Some(seconds) = new.lifetime_sec {
            lifetime::set(&mut tx, &record.id, signed(seconds), now).await?;
        }
        if !new.purpose.is_empty() {
            store::set_purpose(&mut tx, &record.id, &new.purpose).await?;
        }
        let entry = Entry {
            team: Some(&owner.team),
            actor: &owner.actor,
            origin: &owner.origin,
            action: "sandbox.create",
            target_kind: "sandbox",
            target_id: Some(record.id.as_str()),
            result: "ok",
            details: details(&record, new, ground.mounts),
        };
        audit::record(&mut tx, now, &entry).await?;
        tx.commit().await?;
        Ok(Some(record))
    }

    /// Lets `host` build it. The inner error is the host's failure, after it was told to undo, with the row as it is.
    #[allow(clippy::type_complexity)]
    async fn start_on(
        &self,
        record: SandboxRecord,
        host: &HostId,
        spec: &wire::SandboxSpec,
        times: &StepTimes,
    ) -> Result<Result<SandboxRecord, (SandboxRecord, FleetError)>, SandboxError> {
        self.start_like(record, host, spec, None, times).await
    }

    /// The same, with the environment of another sandbox of the host beneath its own.
    #[allow(clippy::type_complexity)]
    pub(super) async fn start_like(
        &self,
        record: SandboxRecord,
        host: &HostId,
        spec: &wire::SandboxSpec,
        env_of: Option<&SandboxId>,
        times: &StepTimes,
    ) -> Result<Result<SandboxRecord, (SandboxRecord, FleetError)>, SandboxError> {
        crate::failpoint!("control::create::before_host");
        let request = CreateSandboxRequest {
            id: record.id.to_string(),
            generation: record.host_generation(),
            spec: spec.clone().into(),
            env_of: env_of.map(ToString::to_string).unwrap_or_default(),
            ..Default::default()
        };
        let options = CallOptions::default().with_timeout(HOST_DEADLINE);
        let calling = Instant::now();
        let answer = self.fleet.host_client(host).create_sandbox_with_options(request, options).await;
        times.end("host", calling);
        match answer {
            Ok(answer) => times.add_host(&answer.into_owned().steps),
            Err(error) => return self.undo_start(record, host, error).await.map(Err),
        }
        crate::failpoint!("control::create::after_host");
        let finishing = Instant::now();
        let running = Change {
            id: &record.id,
            from: SandboxStatus::Starting,
            generation: record.generation,
            to: SandboxStatus::Running,
            reason: None,
            decided: false,
            host: None,
            at: self.clock.now(),
        };
        let running = self.change(&running).await?;
        times.end("finish", finishing);
        if let Some(running) = running {
            return Ok(Ok(running));
        }
        self.after_it_changed(&record, host).await.map(Ok)
    }

    /// A host could not build it: it is told to undo what it may have made, and the row gets a newer generation.
    async fn undo_start(
        &self,
        record: SandboxRecord,
        host: &HostId,
        error: ConnectError,
    ) -> Result<(SandboxRecord, FleetError), SandboxError> {
        let error = FleetError::from_rpc(host, "create a sandbox", error);
        // What the host may still be making is refused or destroyed by a newer generation.
        let Some(record) = self.decide(&record, SandboxStatus::Starting, None).await? else {
            self.destroy_now(&record.id.0, "create_failed").await;
            return Err(error.into());
        };
        if !error.never_arrived() {
            self.tell_host_to_destroy(host, &record, "create_failed").await;
        }
        Ok((record, error))
    }

    /// The row moved on while the host was building: the monitor may have found it running already, or somebody
    /// deleted it.
    async fn after_it_changed(&self, record: &SandboxRecord, host: &HostId) -> Result<SandboxRecord, SandboxError> {
        let now = store::get_any(&self.db, &record.id).await?.ok_or(SandboxError::NotFound)?;
        match now.status() {
            SandboxStatus::Stopped => {
                self.tell_host_to_destroy(host, &now, "deleted").await;
                Err(SandboxError::Changed { attempted: "create" })
            }
            SandboxStatus::Missing => {
                let found = Change {
                    id: &now.id,
                    from: SandboxStatus::Missing,
                    generation: now.generation,
                    to: SandboxStatus::Running,
                    reason: None,
                    decided: false,
                    host: None,
                    at: self.clock.now(),
                };
                self.change(&found).await?.ok_or(SandboxError::Changed { attempted: "create" })
            }
            _ => Ok(now),
        }
    }

    /// Asks the template's ready command until it succeeds, for a while. A sandbox that runs and is not ready is given
    /// out all the same: its owner can see why.
    async fn await_ready(&self, running: &SandboxRecord, template: &Template) {
        let (Some(command), Some(host)) = (&template.ready_cmd, running.host()) else { return };
        if only_sleeps(command) {
            return;
        }
        let deadline = Instant::now() + READY_PATIENCE;
        let guest = self.fleet.guest_client(host, &running.id);
        loop {
            let request = atoll_rpc::atoll::guest::v1::ExecRequest {
                cmd: "/bin/sh".to_owned(),
                args: vec!["-c".to_owned(), command.clone()],
                timeout_ms: READY_PATIENCE.as_millis() as u32,
                max_output_bytes: 4096,
                ..Default::default()
            };
            let options = CallOptions::default().with_timeout(READY_PATIENCE);
            match guest.exec_with_options(request, options).await.map(|answer| answer.into_owned().exit_code) {
                Ok(0) => return,
                Ok(_) if Instant::now() < deadline => {}
                _ => {
                    tracing::warn!(sandbox = %running.id.0, "a new sandbox runs, but its ready command does not succeed");
                    return;
                }
            }
            tokio::time::sleep(READY_AGAIN).await;
        }
    }

    /// Both tries failed: the row ends as `stopped`, and the error is what the client learns.
    pub(super) async fn give_up(&self, record: &SandboxRecord, error: FleetError) -> SandboxError {
        let decided = self.decide(record, SandboxStatus::Stopped, Some("create_failed")).await;
        if let Err(error) = volumes::give_back(&self.db, &record.id).await {
            tracing::warn!(sandbox = %record.id.0, %error, "its volumes stay on the host where it could not be made");
        }
        match decided {
            Ok(_) => match error {
                FleetError::Agent { code: RpcCode::ResourceExhausted, message, .. } => SandboxError::Full(message),
                error => error.into(),
            },
            Err(database) => database,
        }
    }

    /// A decision about the row: compare-and-set, with a new generation.
    pub(super) async fn decide(
        &self,
        record: &SandboxRecord,
        to: SandboxStatus,
        reason: Option<&str>,
    ) -> Result<Option<SandboxRecord>, SandboxError> {
        Ok(self.change(&self.decision(record, to, reason)).await?)
    }

    pub(super) fn decision<'a>(
        &self,
        record: &'a SandboxRecord,
        to: SandboxStatus,
        reason: Option<&'a str>,
    ) -> Change<'a> {
        Change {
            id: &record.id,
            from: record.status(),
            generation: record.generation,
            to,
            reason,
            decided: true,
            host: None,
            at: self.clock.now(),
        }
    }
}

/// What came of giving a row to another host.
enum Moved {
    There(Box<SandboxRecord>),
    /// That host takes nothing new any more either.
    HostLeaves,
    /// What it mounts lies on the former host.
    VolumesStay,
    /// Somebody decided something else meanwhile.
    Changed,
}

fn demand(owner: &Owner, new: &NewSandbox, template: &Template) -> Demand {
    let size = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
    let driver = new.driver.as_deref().filter(|driver| *driver != ANY_DRIVER).unwrap_or(&template.driver);
    Demand {
        team: owner.team.clone(),
        team_is_byoc: owner.team_is_byoc,
        driver: driver.to_owned(),
        vm_version: None,
        vcpus: new
            .vcpus
            .or_else(|| size(template.vcpus).and_then(|value| u32::try_from(value).ok()))
            .unwrap_or(DEFAULT_VCPUS),
        memory_mb: new.memory_mb.or_else(|| size(template.memory_mb)).unwrap_or(DEFAULT_MEMORY_MB),
        disk_mb: new.disk_mb.or_else(|| size(template.disk_mb)).unwrap_or(DEFAULT_DISK_MB),
        image: Some(template.digest.clone()),
        only: None,
        volumes_on: None,
        tried: Vec::new(),
    }
}

/// What machines must run on for what this begins with in memory to go on; none when it begins with files: nothing was
/// kept in memory, or that of a machine of another size.
fn memory_of(
    start_from: Option<StartFrom>,
    template: &Template,
    layers: &[LayerRow],
    demand: &Demand,
) -> Result<Option<String>, SandboxError> {
    let size = (Some(i64::from(demand.vcpus)), Some(signed(demand.memory_mb)));
    let top = layers.first().filter(|top| top.memory && start_from != Some(StartFrom::Files));
    let refused = match top {
        Some(top) if size == (template.vcpus, template.memory_mb) => return Ok(top.vm_version.clone()),
        Some(_) => "memory goes on with the `vcpus` and `memory_mb` that it was kept with alone".to_owned(),
        None => format!("`{}` has no memory to go on with", template.name),
    };
    if start_from == Some(StartFrom::Memory) { Err(SandboxError::NoMemory(refused)) } else { Ok(None) }
}

/// What the audit trail says of a create: of secrets and volumes, what they are called.
fn details(record: &SandboxRecord, new: &NewSandbox, mounts: &[Mount]) -> serde_json::Value {
    let mut details = json!({ "template": record.template, "driver": record.driver });
    if !new.secrets.is_empty() {
        details["secrets"] = json!(new.secrets.values().collect::<Vec<_>>());
    }
    if !record.network.identities.is_empty() {
        details["identities"] = json!(record.network.identities);
    }
    if !record.network.headers.is_empty() {
        details["headers"] = record.network.audited()["headers"].take();
    }
    if let Some(proxy) = &record.network.egress_proxy {
        details["egress_proxy"] = proxy.audited();
    }
    if !mounts.is_empty() {
        details["volumes"] = json!(mounts.iter().map(|mount| mount.volume.name.as_str()).collect::<Vec<_>>());
    }
    details
}

const MIB: u64 = 1 << 20;

/// What a sandbox is made of.
pub(super) struct Ground<'a> {
    pub template: &'a Template,
    pub layers: &'a [LayerRow],
    pub mounts: &'a [Mount],
    pub filling: &'a Filling,
}

/// What a host is told to make.
pub(super) fn spec(record: &SandboxRecord, env: BTreeMap<String, String>, ground: &Ground<'_>) -> wire::SandboxSpec {
    let template = ground.template;
    let env = template.env.0.clone().into_iter().chain(env);
    let size = |value: i64| u64::try_from(value).unwrap_or(0);
    wire::SandboxSpec {
        template: wire::Image {
            digest: template.digest.clone(),
            size_bytes: size(template.size_bytes),
            name: template.name.clone(),
            ..Default::default()
        }
        .into(),
        driver: record.driver.clone(),
        vcpus: u32::try_from(record.vcpus).unwrap_or(1),
        memory_bytes: size(record.memory_mb).saturating_mul(MIB),
        disk_bytes: size(record.disk_mb).saturating_mul(MIB),
        env: env.collect(),
        hostname: record.id.dns_label(),
        default_user: template.default_user.clone(),
        default_workdir: template.default_workdir.clone(),
        access_token: record.access_token.clone(),
        on_reboot: record.on_reboot.0.0.as_str().to_owned(),
        network: record.network.to_wire(ground.filling, &record.id).into(),
        network_generation: record.host_network_generation(),
        layers: layers::to_wire(ground.layers),
        volumes: volumes::to_wire(ground.mounts),
        startup: template
            .start_cmd
            .clone()
            .map(|cmd| wire::Startup {
                cmd,
                user: template.default_user.clone(),
                cwd: template.default_workdir.clone(),
                ..Default::default()
            })
            .into(),
        ..Default::default()
    }
}

/// Such a ready command says how long a build is to wait. It has nothing to tell of a new sandbox.
fn only_sleeps(command: &str) -> bool {
    command.trim().strip_prefix("sleep ").is_some_and(|rest| rest.trim().parse::<f64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::only_sleeps;

    #[test]
    fn a_ready_command_that_only_sleeps_is_told_from_others() {
        assert!(only_sleeps("sleep 20") && only_sleeps(" sleep 0.5 "));
        assert!(!only_sleeps("sleep 1; curl -f localhost") && !only_sleeps("sleep") && !only_sleeps("true"));
    }
}
