//! How a sandbox comes to life: created, found again, or started from its disk after a reboot.
//!
//! A create ends with a sandbox that answers, or leaves nothing behind; the record is the first thing made and the last
//! thing removed.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::SandboxId;
use chrono::Utc;

use super::entry::{Answer, Kept, Reply};
use super::error::OrderError;
use super::machine::{Life, Machine, MachineError};
use super::owner::{Flow, Owner};
use super::record::{Phase, State};
use super::spec::{Secrets, VolumeMount};
use crate::driver::{CLONED, Kind, LaunchSpec, Lower, Role, SharedVolume, Steps, vm};
use crate::failpoint;
use crate::network::Policy;

/// Why one stands still that was to come back after a reboot and could not be started: it has its files, nothing else.
const RESTART_FAILED: &str = "restart_failed";

/// What a machine gets beyond what any launch may take.
pub(super) const MACHINE_BOOT: Duration = Duration::from_secs(20);

/// Processes and threads of one sandbox.
pub(super) const PIDS_MAX: u32 = 2048;

impl From<MachineError> for OrderError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Full(reason) => Self::Full { reason },
            MachineError::NoImage(problem) => Self::Unsupported { what: "the template's image", problem },
            MachineError::Failed(cause) => Self::Failed { attempted: "making the sandbox", cause },
        }
    }
}

impl Owner {
    pub(super) async fn create(&mut self, secrets: Secrets, at_rest: Option<String>, reply: Reply) -> Flow {
        let created = match at_rest {
            None => self.try_create(&secrets).await,
            Some(reason) => self.try_create_at_rest(&secrets, &reason).await,
        };
        match created {
            Ok(answer) => {
                let _asker_is_gone = reply.send(Ok(answer));
                Flow::Stays
            }
            Err(error) => {
                tracing::warn!(sandbox = %self.record.id, %error, "a sandbox could not be created");
                self.entry.cut.cancel();
                self.leave_spare().await;
                // Answered when nothing is left, so that a second attempt finds a clean host; if something resists, the
                // answer does not wait for it.
                let clean = self.try_take_down().await;
                let _asker_is_gone = reply.send(Err(error));
                if !clean {
                    self.take_down().await;
                }
                Flow::Gone
            }
        }
    }

    async fn try_create(&mut self, secrets: &Secrets) -> Result<Answer, OrderError> {
        let mut steps = Steps::new();
        let give_up = self.entry.give_up.clone();
        tokio::select! {
            fetched = self.fetch_missing() => fetched?,
            () = give_up.cancelled() => return Err(OrderError::Destroyed),
        }
        let _turn = self.shared.admission.turn(&give_up).await?;
        steps.done("turn");
        let shared = self.shared.clone();
        shared.machine.admit_disk(self.record.spec.disk_bytes)?;
        self.spare = shared.spares.take(&self.record.spec);
        self.record.slot = Some(match &self.spare {
            Some(spare) => spare.slot,
            None => shared.machine.take_slot()?,
        });
        failpoint!("agent.create.after_slot");
        shared
            .records
            .begin(&self.record, secrets)
            .map_err(|error| OrderError::failed("writing the sandbox's record", &error))?;
        steps.done("record");
        failpoint!("agent.create.after_record");
        let limit = self.launch_limit();
        let launched = tokio::select! {
            launched = tokio::time::timeout(limit, self.launch(secrets, &mut steps)) => launched,
            () = give_up.cancelled() => return Err(OrderError::Destroyed),
        };
        launched.map_err(|_| OrderError::Failed {
            attempted: "making the sandbox",
            cause: format!("it was not ready within {limit:?}"),
        })??;
        failpoint!("agent.create.after_launch");
        self.record.phase = Phase::Live;
        self.record.state = State::Running;
        self.record.changed_at_ms = Utc::now().timestamp_millis();
        // One that counts as being born would be taken down by the next start of the agent.
        let written = shared.records.write(&self.record);
        written.map_err(|error| OrderError::failed("writing the sandbox's record", &error))?;
        self.show();
        shared.durable.note_record(&self.record.id);
        steps.done("record running");
        failpoint!("agent.create.after_running");
        tracing::debug!(sandbox = %self.record.id, took = ?steps.elapsed(), steps = %steps_in_words(&steps), "created");
        let goes_on = steps.as_slice().iter().any(|step| step.name == CLONED);
        let kept = if goes_on { Kept::Memory } else { Kept::Files };
        Ok(Answer { steps: steps.as_slice().to_vec(), ..self.answer(kept) })
    }

    /// One that comes from another host: it has what it stands on, a volume, of a virtual machine what it had in memory, and a
    /// record, and no process. Control has its
    /// former host forget it then, so it is on the disk before the answer.
    async fn try_create_at_rest(&mut self, secrets: &Secrets, reason: &str) -> Result<Answer, OrderError> {
        if self.record.spec.layers.iter().any(|layer| layer.digest.is_empty()) {
            return Err(OrderError::Invalid {
                field: "layers.digest",
                problem: "must be there: what comes from elsewhere is fetched".to_owned(),
            });
        }
        let give_up = self.entry.give_up.clone();
        tokio::select! {
            fetched = self.fetch_missing() => fetched?,
            () = give_up.cancelled() => return Err(OrderError::Destroyed),
        }
        let shared = self.shared.clone();
        shared.machine.admit_disk(self.record.spec.disk_bytes)?;
        let begun = shared.records.begin(&self.record, secrets);
        begun.map_err(|error| OrderError::failed("writing the sandbox's record", &error))?;
        failpoint!("agent.at_rest.after_record");
        shared.machine.create_volume(&self.record.id, self.record.spec.volume_bytes()).await?;
        failpoint!("agent.at_rest.after_volume");
        if self.record.spec.kind() == Kind::Vm {
            // A machine's disk is in the topmost layer alone; without any it begins with an empty one, as any other.
            if let Some(layer) = self.record.spec.layers.first() {
                // The file that it comes in may be here already, under another layer's name.
                shared.machine.layer(layer).await?;
                self.record.stored = shared.machine.lay_down(&self.record.id, &layer.id).await?;
            }
        }
        self.record.phase = Phase::Live;
        self.record.state = State::Paused;
        reason.clone_into(&mut self.record.reason);
        self.record.changed_at_ms = Utc::now().timestamp_millis();
        shared.machine.write_out().await?;
        let (records, record) = (shared.records.clone(), self.record.clone());
        let writing = tokio::task::spawn_blocking(move || {
            records.write(&record)?;
            records.write_out(&record.id)
        });
        let written = writing.await.map_err(std::io::Error::other).and_then(|written| written);
        written.map_err(|error| OrderError::failed("writing the sandbox's record", &error))?;
        failpoint!("agent.at_rest.after_written");
        self.show();
        Ok(self.answer(self.kept()))
    }

    /// Gets what it stands on before it takes a turn: a launch is short, and others must not wait for a slow network. What
    /// takes longer goes on, for whoever asks next.
    ///
    /// # Errors
    /// When it can't be had, or not yet.
    pub(super) async fn fetch_missing(&self) -> Result<(), OrderError> {
        let spec = &self.record.spec;
        let machine = &self.shared.machine;
        let limit = self.shared.limits.launch;
        let deadline = tokio::time::Instant::now() + limit;
        let late = |digest: &str| OrderError::NotAccepting {
            reason: format!("it is still fetching image {digest}, which takes longer than {limit:?}; try again"),
        };
        // A machine's disk that was brought here is no image any more.
        let layers = spec.layers.iter().filter(|layer| !machine.is_disk(&layer.id) && machine.lacks(&layer.digest));
        for layer in layers {
            tokio::time::timeout_at(deadline, machine.layer(layer)).await.map_err(|_| late(&layer.digest))??;
        }
        let digest = &spec.image.digest;
        if machine.lacks(digest) {
            tokio::time::timeout_at(deadline, machine.image(digest)).await.map_err(|_| late(digest))??;
        }
        Ok(())
    }

    /// A machine boots, which without hardware help takes seconds of a processor.
    fn launch_limit(&self) -> Duration {
        let limit = self.shared.limits.launch;
        if self.record.spec.kind() == Kind::Vm { limit + MACHINE_BOOT } else { limit }
    }

    /// Image, volume, network, processes. What it made is removed by whoever called, when it fails.
    pub(super) async fn launch(&mut self, secrets: &Secrets, steps: &mut Steps) -> Result<(), OrderError> {
        let shared = self.shared.clone();
        let machine = &shared.machine;
        let id = self.record.id.clone();
        let slot = match self.record.slot {
            Some(slot) => slot,
            None => {
                let slot = machine.take_slot()?;
                self.record.slot = Some(slot);
                self.save();
                slot
            }
        };
        let spare = self.spare.as_ref().map(|spare| spare.id.clone());
        let found = machine.find_volume(&id);
        if found.is_none() && self.record.spec.kind() == Kind::Container {
            self.record.cloned = self.begins_as_clone().await?;
        }
        let (spec, cloned) = (&self.record.spec, self.record.cloned);
        let volume = async {
            match (found, &spare, spec.layers.first().filter(|_| cloned)) {
                (Some(volume), _, _) => Ok(volume),
                (None, Some(spare), _) => machine.rename_volume(spare, &id).await,
                (None, None, Some(layer)) => machine.clone_layer(&id, &layer.id, spec.volume_bytes()).await,
                (None, None, None) => machine.create_volume(&id, spec.volume_bytes()).await,
            }
        };
        let below = spec.layers.iter().skip(usize::from(cloned));
        let layers = futures::future::try_join_all(below.map(|layer| machine.layer(layer)));
        let shared_volumes = shared_volumes(&**machine, &spec.volumes);
        let (image, layers, volumes, volume) =
            tokio::try_join!(machine.image(&spec.image.digest), layers, shared_volumes, volume)?;
        if spec.kind() == Kind::Container
            && layers.iter().any(|layer| layer.file.is_none() && vm::disk::of_layer(&layer.path).is_some())
        {
            return Err(disk_of_a_machine());
        }
        steps.done("image and volume");
        failpoint!("agent.create.after_volume");
        let policy = spec.network_policy();
        if policy != Policy::default() {
            machine.set_policy(slot, &policy).await?;
            steps.done("egress");
        }
        let authority = match policy.headers.is_empty() {
            true => None,
            false => Some(machine.egress_authority().await?),
        };
        let socket_path = shared.records.directory_of(&id).join("guest.sock");
        let launch = LaunchSpec {
            id: id.clone(),
            kind: spec.kind(),
            slot,
            lowers: layers
                .iter()
                .chain([&image])
                .map(|it| Lower { path: it.path.clone(), file: it.file.clone() })
                .collect(),
            volume,
            disk_bytes: spec.disk_bytes,
            volumes,
            vcpus: spec.vcpus,
            memory_bytes: spec.memory_bytes,
            pids_max: PIDS_MAX,
            start_from: spec.start_from,
            role: spare.map_or(Role::Sandbox, Role::TakesOver),
            hostname: spec.hostname.clone(),
            guest_config: guest_config(&id, self, secrets, authority.as_deref()),
            socket_path,
        };
        let launched = machine.launch(launch, steps).await;
        if let Err(error) = &launched
            && self.spare.is_some()
        {
            tracing::warn!(sandbox = %id, %error, "a spare machine could not be taken over: the sandbox starts as others do");
            self.leave_spare().await;
            machine.clean_up(&id).await.map_err(|error| OrderError::failed("removing a spare machine", &error))?;
            machine.detach(slot).await?;
            machine.delete_volume(&id).await?;
            return Box::pin(self.launch(secrets, steps)).await;
        }
        let life = launched.map_err(|error| OrderError::failed("launching the sandbox", &error))?;
        if let Some(spare) = self.spare.take() {
            // Nothing else of it is there under its name.
            let _the_next_agent_does = std::fs::remove_dir_all(shared.records.directory_of(&spare.id));
        }
        self.record.init = Some(life.init());
        self.life = Some(life);
        self.images = layers.into_iter().chain([image]).collect();
        Ok(())
    }

    /// Removes what there is of its spare under that one's name. What it has taken over is the sandbox's.
    async fn leave_spare(&mut self) {
        if let Some(spare) = self.spare.as_ref().map(|spare| spare.id.clone()) {
            self.shared.remove_spare(spare, None).await;
            self.spare = None;
        }
    }

    /// Whether the volume is to begin as a clone of the topmost layer: where that has no image that could be mounted below
    /// it. Written down before there is a volume.
    async fn begins_as_clone(&mut self) -> Result<bool, OrderError> {
        let Some(top) = self.record.spec.layers.first() else { return Ok(false) };
        let lease = self.shared.machine.layer(top).await?;
        if lease.file.is_none() && vm::disk::of_layer(&lease.path).is_some() {
            return Err(disk_of_a_machine());
        }
        if lease.file.is_none() && !self.record.cloned {
            self.record.cloned = true;
            self.save();
        }
        Ok(lease.file.is_none())
    }

    /// The agent was started again and has found the processes; record and kernel are brought to agree.
    pub(super) async fn adopted(&mut self, life: Arc<dyn Life>) {
        self.life = Some(life);
        let id = self.record.id.clone();
        let machine = self.shared.machine.clone();
        let frozen = machine.is_paused(&id);
        let result = match (self.record.state, frozen) {
            // A pause writes first and freezes then: the crash came in between.
            (State::Paused, false) => self.stand_still().await.map(drop),
            (State::Paused, true) => Ok(()),
            (_, true) => machine.resume(&id).await,
            (_, false) => Ok(()),
        };
        if let Err(error) = result {
            tracing::error!(sandbox = %id, %error, "an adopted sandbox is not as its record says");
        }
        if self.record.state == State::Starting {
            self.set_state(State::Running, "");
        }
        let spec = self.record.spec.clone();
        let image = machine.image(&spec.image.digest).await;
        let below = spec.layers.iter().skip(usize::from(self.record.cloned));
        let layers = futures::future::join_all(below.map(|layer| machine.layer(layer))).await;
        for lease in layers.into_iter().chain([image]) {
            match lease {
                Ok(lease) => self.images.push(lease),
                // It runs on what it has mounted; only a restart from disk will need the image again.
                Err(error) => tracing::warn!(sandbox = %id, %error, "an image of an adopted sandbox can't be held"),
            }
        }
    }

    /// The machine was rebooted, and the sandbox is one that comes back: same id, files and address, new processes.
    pub(super) async fn restart(&mut self) -> Flow {
        let shared = self.shared.clone();
        // However long it takes; but whoever wants it destroyed doesn't wait for that, and neither does the agent's end.
        let fetched = async { while matches!(self.fetch_missing().await, Err(OrderError::NotAccepting { .. })) {} };
        tokio::select! {
            () = fetched => {}
            () = self.entry.give_up.cancelled() => return Flow::Stays,
            () = shared.stop.cancelled() => return Flow::Stays,
        }
        let Some(_turn) = shared.admission.patient_turn().await else { return Flow::Stays };
        if let Err(error) = self.start_from_disk().await {
            tracing::error!(
                sandbox = %self.record.id, %error,
                "a sandbox could not be started after the reboot; its files stay, and a resume tries again"
            );
            self.undo_start_from_disk().await;
            self.set_state(State::Paused, RESTART_FAILED);
        } else {
            tracing::info!(sandbox = %self.record.id, "a sandbox was started from its disk after the reboot");
        }
        Flow::Stays
    }

    /// Fresh processes over the files that are there.
    pub(super) async fn start_from_disk(&mut self) -> Result<Vec<crate::driver::Step>, OrderError> {
        let shared = self.shared.clone();
        let id = self.record.id.clone();
        let secrets =
            shared.records.secrets(&id).map_err(|error| OrderError::failed("reading the sandbox's secrets", &error))?;
        if shared.machine.find_volume(&id).is_none() {
            return Err(OrderError::Failed {
                attempted: "starting the sandbox from its disk",
                cause: "its disk is gone".to_owned(),
            });
        }
        // Whatever is left of its former life, such as a frozen cgroup, must not meet the new one.
        let cleaned = shared.machine.clean_up(&id).await;
        cleaned.map_err(|error| OrderError::failed("clearing what an earlier start has left", &error))?;
        if let Some(slot) = self.record.slot {
            shared.machine.detach(slot).await?;
        }
        let mut steps = Steps::new();
        let limit = self.launch_limit();
        tokio::time::timeout(limit, self.launch(&secrets, &mut steps)).await.map_err(|_| OrderError::Failed {
            attempted: "starting the sandbox from its disk",
            cause: format!("it was not ready within {limit:?}"),
        })??;
        self.set_state(State::Running, "");
        Ok(steps.as_slice().to_vec())
    }
}

fn disk_of_a_machine() -> OrderError {
    OrderError::Unsupported { what: "a layer", problem: "it is the disk of a virtual machine".to_owned() }
}

/// `name began+took` in microseconds, for the log.
fn steps_in_words(steps: &Steps) -> String {
    let words = steps.as_slice().iter();
    let words = words.map(|it| format!("{} {}+{}", it.name, it.began.as_micros(), it.took.as_micros()));
    words.collect::<Vec<_>>().join(", ")
}

/// What a sandbox mounts, made where it is not there yet.
pub(super) async fn shared_volumes(
    machine: &dyn Machine,
    mounts: &[VolumeMount],
) -> Result<Vec<SharedVolume>, MachineError> {
    let volumes = mounts.iter().map(|mount| async {
        let source = machine.shared_volume(&mount.id, mount.size_bytes).await?;
        let (id, path) = (mount.id.clone(), mount.path.clone());
        Ok(SharedVolume { id, source, bytes: mount.size_bytes, path, read_only: mount.read_only })
    });
    futures::future::try_join_all(volumes).await
}

/// What the guest agent is told.
fn guest_config(id: &SandboxId, owner: &Owner, secrets: &Secrets, authority: Option<&str>) -> serde_json::Value {
    let spec = &owner.record.spec;
    serde_json::json!({
        "sandbox_id": id.dns_label(),
        "template": spec.image.name,
        "hostname": spec.hostname,
        "env": secrets.env,
        "default_user": spec.default_user,
        "default_workdir": spec.default_workdir,
        "access_token": (!secrets.access_token.is_empty()).then_some(&secrets.access_token),
        "vcpus": spec.vcpus,
        "memory_bytes": spec.memory_bytes,
        "startup": spec.startup,
        "authority": authority,
    })
}
