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

use std::sync::Arc;
use std::time::Instant;

use atoll_model::{HostId, SandboxId, SandboxStatus, TeamId};
use atoll_rpc::atoll::host::v1 as wire;
use secrecy::ExposeSecret;
use sqlx::types::Json;
use tokio::sync::oneshot;

use super::ground::{Ground, spec};
use super::lifetime;
use super::record::{OnRebootName, OnTimeoutName};
use super::start::Moved;
use super::store;
use super::turns::Turn;
use super::wanted::{CONTAINER, MIN_MACHINE_MB, NewSandbox, StartFrom, VM, demand, details, memory_of, signed};
use super::{MadeOf, Owner, SandboxError, SandboxRecord, Sandboxes};
use crate::audit::{self, Entry};
use crate::db::{DbError, Text};
use crate::fleet::{ANY_DRIVER, Demand};
use crate::layers::{self, LayerRow};
use crate::templates::store::{self as templates, Template};
use crate::volumes;

impl Sandboxes {
    /// Ends with a running sandbox, or with an error and nothing left behind.
    pub async fn create(&self, owner: &Owner, new: NewSandbox) -> Result<SandboxRecord, SandboxError> {
        let named = self.named(&owner.team, &new.template).await?;
        let (mut template, layers) = named.map(Arc::unwrap_or_clone).ok_or_else(|| match new.template.as_str() {
            "base" => SandboxError::NoBase,
            name => SandboxError::NoTemplate { name: name.to_owned() },
        })?;
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
        let small = demand.memory_mb < MIN_MACHINE_MB;
        if small && demand.driver == VM {
            return Err(SandboxError::TooSmall);
        }
        let only_fits_containers = small && demand.driver == ANY_DRIVER;
        if only_fits_containers {
            CONTAINER.clone_into(&mut demand.driver);
        }
        let any_driver = demand.driver == ANY_DRIVER;
        let mut placing = started;
        let mut start_from = new.start_from;
        let (host, record) = loop {
            let host = match self.placer.place(&demand).await {
                // What a template has in memory its start command makes anew, where no host can go on with it.
                Err(SandboxError::NoHost(_))
                    if demand.vm_version.is_some() && start_from.is_none() && template.kind == "template" =>
                {
                    demand.vm_version = None;
                    start_from = Some(StartFrom::Files);
                    continue;
                }
                Err(SandboxError::NoHost(none)) if only_fits_containers && none.has_no_driver() => {
                    return Err(SandboxError::TooSmall);
                }
                placed => placed?,
            };
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
        let start_from = start_from.map_or("", StartFrom::as_str).to_owned();
        let spec = wire::SandboxSpec { start_from, ..spec(&record, env, &ground) };
        let had_memory = layers.first().is_some_and(|top| top.memory);
        let (record, first) = match self.start_on(record, &host, &spec, &times).await? {
            Ok(running) => {
                let running = running.of_memory(had_memory);
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
                let running = running.of_memory(had_memory);
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
            // With a bandwidth it counts as a change: a host whose agent knew nothing of those is told again when it does.
            network_generation: i64::from(new.network.bandwidth_bytes_per_second.is_some()),
            begun_with: None,
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
}
