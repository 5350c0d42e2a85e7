//! Machines that are made before anybody asks for them: a create of the same shape takes one over in place of starting one.
//!
//! A spare has an id, a slot and a volume of its own, and no record: whatever an agent leaves of one when it dies is
//! nobody's, and removed at the next start like everything else without a record. What it is inside is the driver's
//! business (`driver::vm`). One is made when its shape was asked for twice, whenever no launch is under way and the
//! machine has memory to spare; those that nobody asks for go after a while.
//!
//! Taking one over: the sandbox's record names its slot, then the volume gets the sandbox's name, then the driver gives it
//! the rest. When that fails, what is left of the spare goes, and the sandbox starts as any other.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_model::SandboxId;
use futures::FutureExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::birth::PIDS_MAX;
use super::machine::{ImageLease, Life};
use super::spec::Spec;
use crate::driver::{Kind, LaunchSpec, Lower, Role, StartFrom, Steps};
use crate::slots::Slot;

/// A shape that nobody has asked for in this time needs no spare.
const WANTED_FOR: Duration = Duration::from_mins(10);
/// From so many on within that time, it pays.
const WANTED_TIMES: u32 = 2;
/// After an attempt that failed.
const AGAIN_AFTER: Duration = Duration::from_mins(1);
/// Between two looks at what is wanted, when nobody asks.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// Until launches that are under way are through.
const QUIET: Duration = Duration::from_millis(100);
/// What the machine must have left beside a spare, and what a spare takes beyond its guest's memory.
const SPARE_MEMORY: u64 = 1 << 30;

/// What sandboxes have in common of which one may be made of the other's spare.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Shape {
    image: String,
    vcpus: u32,
    memory_bytes: u64,
    disk_bytes: u64,
}

impl Shape {
    /// None for a sandbox that can't be made of a spare.
    fn of(spec: &Spec) -> Option<Self> {
        let fits = spec.kind() == Kind::Vm && spec.layers.is_empty() && spec.start_from == StartFrom::Either;
        fits.then(|| Self {
            image: spec.image.digest.clone(),
            vcpus: spec.vcpus,
            memory_bytes: spec.memory_bytes,
            disk_bytes: spec.disk_bytes,
        })
    }
}

pub(super) struct Spare {
    pub id: SandboxId,
    pub slot: Slot,
    shape: Shape,
    life: Arc<dyn Life>,
    /// What it stands on.
    _image: ImageLease,
}

impl Spare {
    fn is_alive(&self) -> bool {
        self.life.exited().now_or_never().is_none()
    }
}

/// How often a shape was asked for, until when that counts, and who has asked last.
struct Wanted {
    times: u32,
    last: Instant,
    spec: Spec,
    failed: Option<Instant>,
}

#[derive(Default)]
struct State {
    wanted: HashMap<Shape, Wanted>,
    ready: Vec<Spare>,
}

impl State {
    fn count(&self, shape: &Shape) -> usize {
        self.ready.iter().filter(|spare| spare.shape == *shape).count()
    }

    /// How many there are to be of each shape: the last wanted first, one of each and then another.
    fn plan(&self, most: usize) -> Vec<(Shape, usize)> {
        let pays = |wanted: &Wanted| wanted.times >= WANTED_TIMES && wanted.last.elapsed() < WANTED_FOR;
        let mut shapes: Vec<_> = self.wanted.iter().filter(|(_, wanted)| pays(wanted)).collect();
        shapes.sort_by_key(|(_, wanted)| wanted.last.elapsed());
        let mut plan: Vec<_> = shapes.into_iter().take(most).map(|(shape, _)| (shape.clone(), 0)).collect();
        let kinds = plan.len().max(1);
        for number in 0..most {
            if let Some((_, count)) = plan.get_mut(number % kinds) {
                *count += 1;
            }
        }
        plan
    }
}

pub(super) struct Spares {
    most: usize,
    state: Mutex<State>,
    changed: Notify,
    closed: CancellationToken,
    /// Held while one is made or removed.
    working: tokio::sync::Mutex<()>,
}

impl Spares {
    pub fn new(most: usize) -> Self {
        Self {
            most,
            state: Mutex::default(),
            changed: Notify::new(),
            closed: CancellationToken::new(),
            working: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that such a sandbox can be made of, if there is one. It is the caller's from then on.
    pub fn take(&self, spec: &Spec) -> Option<Spare> {
        let shape = Shape::of(spec).filter(|_| self.most > 0 && !self.closed.is_cancelled())?;
        let mut state = self.state();
        let wanted = state.wanted.entry(shape.clone());
        let new = || Wanted { times: 0, last: Instant::now(), spec: spec.clone(), failed: None };
        let wanted = wanted.or_insert_with(new);
        wanted.times = if wanted.last.elapsed() < WANTED_FOR { wanted.times + 1 } else { 1 };
        wanted.last = Instant::now();
        let place = state.ready.iter().position(|spare| spare.shape == shape && spare.is_alive());
        let spare = place.map(|place| state.ready.remove(place));
        drop(state);
        self.changed.notify_one();
        spare
    }

    /// Those that there are to be no more: too many, dead, or not wanted.
    fn surplus(&self) -> Vec<Spare> {
        let mut state = self.state();
        state.wanted.retain(|_, wanted| wanted.last.elapsed() < WANTED_FOR);
        let mut plan: HashMap<_, _> = state.plan(self.most).into_iter().collect();
        let (mut keep, mut surplus) = (Vec::new(), Vec::new());
        for spare in state.ready.drain(..) {
            match plan.get_mut(&spare.shape).filter(|left| **left > 0 && spare.is_alive()) {
                Some(left) => {
                    *left -= 1;
                    keep.push(spare);
                }
                None => surplus.push(spare),
            }
        }
        state.ready = keep;
        surplus
    }

    /// What the next one is to be like.
    fn missing(&self) -> Option<(Shape, Spec)> {
        let state = self.state();
        let may_try = |shape: &Shape| state.wanted[shape].failed.is_none_or(|at| at.elapsed() > AGAIN_AFTER);
        let lacks = |(shape, count): &(Shape, usize)| state.count(shape) < *count && may_try(shape);
        let (shape, _) = state.plan(self.most).into_iter().find(lacks)?;
        let spec = state.wanted[&shape].spec.clone();
        Some((shape, spec))
    }

    #[cfg(test)]
    pub fn ready(&self) -> Vec<SandboxId> {
        self.state().ready.iter().map(|spare| spare.id.clone()).collect()
    }

    /// Of their memory.
    #[cfg(test)]
    pub fn sizes(&self) -> Vec<u64> {
        self.state().ready.iter().map(|spare| spare.shape.memory_bytes).collect()
    }
}

/// Sees to it that there are as many as are to be, until the agent ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let spares = &shared.spares;
    if spares.most == 0 {
        return;
    }
    while !spares.closed.is_cancelled() {
        tokio::select! {
            () = spares.changed.notified() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = spares.closed.cancelled() => return,
        }
        let _working = spares.working.lock().await;
        for spare in spares.surplus() {
            shared.remove_spare(spare.id, Some(spare.slot)).await;
        }
        while let Some((shape, spec)) = spares.missing() {
            while !shared.admission.is_quiet() && !spares.closed.is_cancelled() {
                tokio::time::sleep(QUIET).await;
            }
            if spares.closed.is_cancelled() {
                return;
            }
            let made = shared.make_spare(&shape, &spec).await;
            let mut state = spares.state();
            match made {
                Ok(spare) => state.ready.push(spare),
                Err(why) => {
                    tracing::info!(image = shape.image, why, "no spare machine is made");
                    if let Some(wanted) = state.wanted.get_mut(&shape) {
                        wanted.failed = Some(Instant::now());
                    }
                }
            }
        }
    }
}

impl Shared {
    /// Leaves nothing behind when it fails.
    async fn make_spare(&self, shape: &Shape, spec: &Spec) -> Result<Spare, String> {
        if available_memory().unwrap_or_default() < spec.memory_bytes + SPARE_MEMORY {
            return Err("memory is short".to_owned());
        }
        self.machine.admit_disk(spec.disk_bytes).map_err(|error| error.to_string())?;
        let slot = self.machine.take_slot().map_err(|error| error.to_string())?;
        let id = SandboxId::new();
        let launched = async {
            tokio::time::timeout(self.limits.launch, self.launch_spare(&id, slot, spec))
                .await
                .unwrap_or_else(|_| Err(format!("it was not ready within {:?}", self.limits.launch)))
        };
        let launched = tokio::select! {
            launched = launched => launched,
            () = self.spares.closed.cancelled() => Err("the agent ends".to_owned()),
        };
        match launched {
            Ok((life, image)) => {
                tracing::debug!(spare = %id, image = shape.image, "a spare machine is ready");
                Ok(Spare { id, slot, shape: shape.clone(), life, _image: image })
            }
            Err(why) => {
                self.remove_spare(id, Some(slot)).await;
                Err(why)
            }
        }
    }

    async fn launch_spare(
        &self,
        id: &SandboxId,
        slot: Slot,
        spec: &Spec,
    ) -> Result<(Arc<dyn Life>, ImageLease), String> {
        let directory = self.records.directory_of(id);
        DirBuilder::new().mode(0o700).create(&directory).map_err(|error| error.to_string())?;
        let image = self.machine.image(&spec.image.digest).await.map_err(|error| error.to_string())?;
        let volume = self.machine.create_volume(id, spec.volume_bytes()).await.map_err(|error| error.to_string())?;
        let launch = LaunchSpec {
            id: id.clone(),
            kind: spec.kind(),
            slot,
            lowers: vec![Lower { path: image.path.clone(), file: image.file.clone() }],
            volume,
            disk_bytes: spec.disk_bytes,
            volumes: Vec::new(),
            vcpus: spec.vcpus,
            memory_bytes: spec.memory_bytes,
            pids_max: PIDS_MAX,
            start_from: StartFrom::Either,
            role: Role::Spare,
            hostname: "spare".to_owned(),
            // As those that are made of it have, but for what is theirs alone.
            guest_config: serde_json::json!({
                "sandbox_id": id.dns_label(),
                "template": spec.image.name,
                "default_user": spec.default_user,
                "default_workdir": spec.default_workdir,
                "vcpus": spec.vcpus,
                "memory_bytes": spec.memory_bytes,
            }),
            socket_path: directory.join("guest.sock"),
        };
        let life = self.machine.launch(launch, &mut Steps::new()).await.map_err(|error| error.to_string())?;
        Ok((life, image))
    }

    /// Whatever there is of one under its own name, and its slot if that is not somebody else's. What resists is left to the
    /// next agent.
    pub(super) async fn remove_spare(&self, id: SandboxId, slot: Option<Slot>) {
        let machine = &self.machine;
        let removed = async {
            machine.clean_up(&id).await.map_err(|error| error.to_string())?;
            if let Some(slot) = slot {
                machine.detach(slot).await.map_err(|error| error.to_string())?;
            }
            machine.delete_volume(&id).await.map_err(|error| error.to_string())?;
            match fs::remove_dir_all(self.records.directory_of(&id)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
                _ => Ok(()),
            }
        };
        match (removed.await, slot) {
            (Ok(()), Some(slot)) => machine.give_back_slot(slot),
            (Ok(()), None) => {}
            (Err(error), _) => tracing::error!(spare = %id, error, "a spare machine could not be removed"),
        }
    }

    /// Makes no more, and removes those that there are.
    pub(super) async fn close_spares(&self) {
        self.spares.closed.cancel();
        let _working = self.spares.working.lock().await;
        let ready = std::mem::take(&mut self.spares.state().ready);
        for spare in ready {
            self.remove_spare(spare.id, Some(spare.slot)).await;
        }
    }
}

/// Bytes that programs could still be given, as the kernel estimates it.
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
