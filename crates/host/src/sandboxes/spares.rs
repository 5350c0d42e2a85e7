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
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_model::SandboxId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::birth::{MACHINE_BOOT, PIDS_MAX};
use super::machine::{ImageLease, Life, MachineError};
use super::spec::Spec;
use crate::driver::{Kind, LaunchSpec, Lower, Role, StartFrom, Steps};
use crate::network::Policy;
use crate::slots::Slot;

/// A shape that nobody has asked for in this time needs no spare.
const WANTED_FOR: Duration = Duration::from_mins(10);
/// From so many on within that time, it pays.
const WANTED_TIMES: u32 = 2;
/// One whose kind was asked for this lately does not make room for another kind.
const ASKED_LATELY: Duration = Duration::from_mins(3);
/// After an attempt that failed; twice as long after each further one.
const AGAIN_AFTER: Duration = Duration::from_mins(1);
/// Between attempts to end a launch that is given up.
const END_AGAIN: Duration = Duration::from_millis(300);
/// For it to come to its end.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at what is wanted, when nobody asks.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// While launches are under way, or there is more to do.
const QUIET: Duration = Duration::from_millis(100);
/// What the machine must have left beside a spare, and what a spare takes beyond its guest's memory.
const SPARE_MEMORY: u64 = 1 << 30;

/// What sandboxes have in common of which one may be made of the other's spare: all that goes into that.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Shape {
    image: String,
    vcpus: u32,
    memory_bytes: u64,
    disk_bytes: u64,
    volume_bytes: u64,
    /// As whom it rehearses.
    default_user: String,
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
            volume_bytes: spec.volume_bytes(),
            default_user: spec.default_user.clone(),
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
        self.life.is_alive()
    }
}

/// Why none was made, and whether for want of room alone.
struct Unmade {
    why: String,
    for_now: bool,
}

/// How often a shape was asked for, and when last.
struct Wanted {
    times: u32,
    last: Instant,
    /// Attempts in a row that have failed, and until when there is no other.
    failures: u32,
    not_before: Option<Instant>,
}

impl Wanted {
    fn pays(&self) -> bool {
        self.times >= WANTED_TIMES && self.last.elapsed() < WANTED_FOR
    }

    /// The machine has no room for it now.
    fn is_refused(&mut self) {
        self.not_before = Some(Instant::now() + AGAIN_AFTER);
    }

    fn has_failed(&mut self) {
        self.not_before = Some(Instant::now() + AGAIN_AFTER * 2_u32.pow(self.failures.min(5)));
        self.failures += 1;
    }
}

#[derive(Default)]
struct State {
    wanted: HashMap<Shape, Wanted>,
    ready: Vec<Spare>,
    /// What is left of some that could not be removed yet.
    going: Vec<(SandboxId, Slot)>,
}

impl State {
    fn count(&self, shape: &Shape) -> usize {
        self.ready.iter().filter(|spare| spare.shape == *shape).count()
    }

    /// How many there are to be of each shape: the last wanted first, one of each and then another.
    fn plan(&self, most: usize) -> Vec<(Shape, usize)> {
        let mut shapes: Vec<_> = self.wanted.iter().filter(|(_, wanted)| wanted.pays()).collect();
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
    /// Control is in touch with this host, and wants it.
    allowed: AtomicBool,
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
            allowed: AtomicBool::new(true),
            state: Mutex::default(),
            changed: Notify::new(),
            closed: CancellationToken::new(),
            working: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether more may be made.
    pub fn allow(&self, allowed: bool) {
        self.allowed.store(allowed, Ordering::Release);
        self.changed.notify_one();
    }

    /// Whether something of one is left that resists.
    pub fn resist(&self) -> bool {
        !self.state().going.is_empty()
    }

    /// One that such a sandbox can be made of, if there is one. It is the caller's from then on.
    pub fn take(&self, spec: &Spec) -> Option<Spare> {
        let shape = Shape::of(spec).filter(|_| self.most > 0 && !self.closed.is_cancelled())?;
        let mut state = self.state();
        let wanted = state.wanted.entry(shape.clone());
        let new = || Wanted { times: 0, last: Instant::now(), failures: 0, not_before: None };
        let wanted = wanted.or_insert_with(new);
        wanted.times = if wanted.last.elapsed() < WANTED_FOR { wanted.times + 1 } else { 1 };
        wanted.last = Instant::now();
        let place = state.ready.iter().position(|spare| spare.shape == shape && spare.is_alive());
        let spare = place.map(|place| state.ready.remove(place));
        if spare.is_some()
            && let Some(wanted) = state.wanted.get_mut(&shape)
        {
            (wanted.failures, wanted.not_before) = (0, None);
        }
        drop(state);
        self.changed.notify_one();
        spare
    }

    /// Those that there are to be no more: too many, dead, or not wanted.
    fn surplus(&self) -> Vec<Spare> {
        let mut state = self.state();
        state.wanted.retain(|_, wanted| wanted.last.elapsed() < WANTED_FOR);
        // A share each: who was asked for last would have one more, and take it from another each time.
        let plan = state.plan(self.most);
        let share = self.most.div_ceil(plan.len().max(1));
        let mut plan: HashMap<_, _> = plan.into_iter().map(|(shape, _)| (shape, share)).collect();
        let (mut keep, mut surplus) = (Vec::new(), Vec::new());
        for spare in std::mem::take(&mut state.ready) {
            let wanted = state.wanted.get_mut(&spare.shape);
            if !spare.is_alive() {
                wanted.into_iter().for_each(Wanted::has_failed);
                surplus.push(spare);
                continue;
            }
            let stays = match plan.get_mut(&spare.shape) {
                Some(0) => false,
                Some(left) => {
                    *left -= 1;
                    true
                }
                // Two kinds that are asked for in turn would cost one machine each time.
                None => wanted.is_some_and(|it| it.pays() && it.last.elapsed() < ASKED_LATELY),
            };
            if stays { keep.push(spare) } else { surplus.push(spare) }
        }
        state.ready = keep;
        surplus
    }

    /// What the next one is to be like.
    fn missing(&self) -> Option<Shape> {
        let state = self.state();
        if !self.allowed.load(Ordering::Acquire) || state.ready.len() >= self.most {
            return None;
        }
        let may_try = |shape: &Shape| state.wanted[shape].not_before.is_none_or(|time| Instant::now() >= time);
        let lacks = |(shape, count): &(Shape, usize)| state.count(shape) < *count && may_try(shape);
        state.plan(self.most).into_iter().find(lacks).map(|(shape, _)| shape)
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
    let mut again = LOOK_AGAIN;
    while !spares.closed.is_cancelled() {
        tokio::select! {
            () = spares.changed.notified() => {}
            () = tokio::time::sleep(again) => {}
            () = spares.closed.cancelled() => return,
        }
        let _working = spares.working.lock().await;
        let going = std::mem::take(&mut spares.state().going);
        for (id, slot) in going {
            shared.remove_spare(id, Some(slot)).await;
        }
        for spare in spares.surplus() {
            shared.remove_spare(spare.id, Some(spare.slot)).await;
        }
        // Launches go first; what is wanted when they are through is another question.
        if !shared.admission.is_quiet() {
            again = QUIET;
            continue;
        }
        again = LOOK_AGAIN;
        if let Some(shape) = spares.missing() {
            again = QUIET;
            let made = shared.make_spare(&shape).await;
            let mut state = spares.state();
            match made {
                Ok(spare) => {
                    let id = spare.id.clone();
                    state.ready.push(spare);
                    drop(state);
                    tracing::debug!(spare = %id, image = shape.image, "a spare machine is ready");
                }
                Err(Unmade { why, for_now }) => {
                    tracing::info!(image = shape.image, why, "no spare machine is made");
                    if let Some(wanted) = state.wanted.get_mut(&shape) {
                        if for_now { wanted.is_refused() } else { wanted.has_failed() }
                    }
                }
            }
        }
    }
}

impl Shared {
    /// Leaves nothing behind when it fails.
    async fn make_spare(&self, shape: &Shape) -> Result<Spare, Unmade> {
        let no_room = |why: String| Unmade { why, for_now: true };
        if available_memory().unwrap_or_default() < shape.memory_bytes + SPARE_MEMORY {
            return Err(no_room("memory is short".to_owned()));
        }
        self.machine.admit_disk(shape.disk_bytes).map_err(|error| no_room(error.to_string()))?;
        let slot = self.machine.take_slot().map_err(|error| no_room(error.to_string()))?;
        let id = SandboxId::new();
        let limit = self.limits.launch + MACHINE_BOOT;
        let launched = {
            let mut launching = pin!(tokio::time::timeout(limit, self.launch_spare(&id, slot, shape)));
            tokio::select! {
                launched = &mut launching =>
                    launched.unwrap_or_else(|_| Err(format!("it was not ready within {limit:?}"))),
                () = self.spares.closed.cancelled() => {
                    // It fails soon without its processes; none may begin behind what is removed below.
                    let ended = async {
                        loop {
                            let _again = self.machine.clean_up(&id).await;
                            tokio::time::sleep(END_AGAIN).await;
                        }
                    };
                    tokio::select! {
                        _ended = &mut launching => {}
                        () = ended => {}
                        () = tokio::time::sleep(GIVEN_UP_WITHIN) => {}
                    }
                    Err("the agent ends".to_owned())
                }
            }
        };
        match launched {
            Ok((life, image)) => Ok(Spare { id, slot, shape: shape.clone(), life, _image: image }),
            Err(why) => {
                self.remove_spare(id, Some(slot)).await;
                Err(Unmade { why, for_now: false })
            }
        }
    }

    async fn launch_spare(
        &self,
        id: &SandboxId,
        slot: Slot,
        shape: &Shape,
    ) -> Result<(Arc<dyn Life>, ImageLease), String> {
        let failed = |error: MachineError| error.to_string();
        let directory = self.records.directory_of(id);
        DirBuilder::new().mode(0o700).create(&directory).map_err(|error| error.to_string())?;
        let image = self.machine.image(&shape.image).await.map_err(failed)?;
        let volume = self.machine.create_volume(id, shape.volume_bytes).await.map_err(failed)?;
        // Whatever the image's programs are, nobody has allowed them anything yet.
        self.machine.set_policy(slot, &Policy { closed: true, ..Policy::default() }).await.map_err(failed)?;
        let launch = LaunchSpec {
            id: id.clone(),
            kind: Kind::Vm,
            slot,
            lowers: vec![Lower { path: image.path.clone(), file: image.file.clone() }],
            volume,
            disk_bytes: shape.disk_bytes,
            volumes: Vec::new(),
            vcpus: shape.vcpus,
            memory_bytes: shape.memory_bytes,
            pids_max: PIDS_MAX,
            start_from: StartFrom::Either,
            role: Role::Spare,
            hostname: "spare".to_owned(),
            guest_config: serde_json::json!({
                "sandbox_id": id.dns_label(),
                "default_user": shape.default_user,
                "vcpus": shape.vcpus,
                "memory_bytes": shape.memory_bytes,
            }),
            socket_path: directory.join("guest.sock"),
        };
        if self.spares.closed.is_cancelled() {
            return Err("the agent ends".to_owned());
        }
        let life = self.machine.launch(launch, &mut Steps::new()).await.map_err(|error| error.to_string())?;
        self.machine.set_policy(slot, &Policy::default()).await.map_err(failed)?;
        Ok((life, image))
    }

    /// Whatever there is of one under its own name, and its slot if that is not somebody else's. What resists is tried again,
    /// and left to the next agent.
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
            (Err(error), slot) => {
                tracing::error!(spare = %id, error, "a spare machine could not be removed yet");
                self.spares.state().going.extend(slot.map(|slot| (id, slot)));
            }
        }
    }

    /// Makes no more, and removes those that there are.
    pub(super) async fn close_spares(&self) {
        self.spares.closed.cancel();
        let _working = self.spares.working.lock().await;
        let mut all = std::mem::take(&mut self.spares.state().going);
        all.extend(std::mem::take(&mut self.spares.state().ready).into_iter().map(|spare| (spare.id, spare.slot)));
        for (id, slot) in all {
            self.remove_spare(id, Some(slot)).await;
        }
    }
}

/// Bytes that programs could still be given, as the kernel estimates it.
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
