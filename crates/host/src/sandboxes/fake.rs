//! A machine without a kernel: it keeps count of what a real one would have, fails where it is told to, and outlives the
//! keeper, as processes outlive an agent.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use atoll_model::{LayerId, SandboxId, VolumeId};
use tokio::sync::watch;

use crate::driver::{
    DriverError, Exit, InitProcess, LaunchSpec, Paused, RESTORED, Role, SharedVolume, Steps, host_boot_id,
};
use crate::network::Policy;
use crate::sandboxes::machine::{ImageLease, Life, Machine, MachineError, Use};
use crate::sandboxes::spec::Layer;
use crate::slots::{SandboxNetwork, Slot};
use crate::storage::Import;

/// Of the memory of what stands still, it gives up so many bytes.
pub const RECLAIMED: u64 = 3 << 20;

#[derive(Default)]
pub struct FakeDriver {
    state: Mutex<State>,
    hangs: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    next: u8,
    slots: BTreeSet<Slot>,
    volumes: BTreeSet<SandboxId>,
    /// Authorities that guests were told of.
    trusted: Vec<String>,
    layers: BTreeSet<LayerId>,
    /// Of these, those that came from other hosts, the longest unused first.
    imports: Vec<Import>,
    links: BTreeSet<Slot>,
    cgroups: BTreeMap<SandboxId, Cgroup>,
    fails: BTreeSet<&'static str>,
    /// Images whose fetch takes for ever.
    lacking: BTreeSet<String>,
    /// How often all files were written out.
    written_out: usize,
    committed: usize,
    /// Pauses go to the disk.
    stores: bool,
    stored: BTreeSet<SandboxId>,
    pid: i32,
    readings: usize,
}

struct Cgroup {
    init: InitProcess,
    exit: watch::Sender<Option<Exit>>,
    paused: bool,
    cannot_pause: bool,
    oom_kills: u64,
    used: Use,
}

struct FakeLife {
    init: InitProcess,
    exit: watch::Receiver<Option<Exit>>,
}

#[async_trait]
impl Life for FakeLife {
    fn init(&self) -> InitProcess {
        self.init.clone()
    }

    fn is_alive(&self) -> bool {
        self.exit.borrow().is_none()
    }

    async fn exited(&self) -> io::Result<Exit> {
        let mut exit = self.exit.clone();
        let exit = exit.wait_for(Option::is_some).await.map_err(io::Error::other)?;
        exit.ok_or_else(|| io::Error::other("no exit"))
    }
}

impl FakeDriver {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn fail_at(&self, step: &'static str) {
        self.state().fails.insert(step);
    }

    pub fn heal(&self) {
        self.state().fails.clear();
    }

    /// A layer that came from another host as this image.
    pub fn import(&self, digest: &str, bytes: u64) -> LayerId {
        let (layer, mut state) = (LayerId::new(), self.state());
        state.layers.insert(layer.clone());
        let used = SystemTime::UNIX_EPOCH + Duration::from_secs(state.imports.len() as u64);
        state.imports.push(Import { layer: layer.clone(), digest: digest.to_owned(), bytes, used });
        layer
    }

    pub fn has_layer(&self, layer: &LayerId) -> bool {
        self.state().layers.contains(layer)
    }

    pub fn committed(&self) -> usize {
        self.state().committed
    }

    pub fn written_out(&self) -> usize {
        self.state().written_out
    }

    /// Fetching this image comes to no end until [`Self::arrive`].
    pub fn lack(&self, digest: &str) {
        self.state().lacking.insert(digest.to_owned());
    }

    pub fn arrive(&self, digest: &str) {
        self.state().lacking.remove(digest);
    }

    /// Pauses from now on go to the disk.
    pub fn store_pauses(&self) {
        self.state().stores = true;
    }

    pub fn lose_stored(&self) {
        self.state().stored.clear();
    }

    /// Launches from now on come to no end before [`Self::go_on`].
    pub fn hang(&self) {
        self.hangs.send_replace(true);
    }

    pub fn go_on(&self) {
        self.hangs.send_replace(false);
    }

    pub fn refuse_to_pause(&self, id: &SandboxId) {
        self.state().cgroups.get_mut(id).unwrap().cannot_pause = true;
    }

    pub fn let_pause(&self, id: &SandboxId) {
        self.state().cgroups.get_mut(id).unwrap().cannot_pause = false;
    }

    /// The first process ends by itself.
    pub fn exit(&self, id: &SandboxId, exit: Exit) {
        self.state().cgroups[id].exit.send_replace(Some(exit));
    }

    /// The process ends while no agent looks; its cgroup stays.
    pub fn vanish(&self, id: &SandboxId, oom_kills: u64) {
        let mut state = self.state();
        let cgroup = state.cgroups.get_mut(id).unwrap();
        cgroup.init.pid = -1;
        cgroup.oom_kills = oom_kills;
    }

    /// All processes are gone, as after a reboot; volumes stay.
    pub fn reboot(&self) {
        let mut state = self.state();
        state.cgroups.clear();
        state.links.clear();
    }

    /// What it uses from now on.
    pub fn set_use(&self, id: &SandboxId, used: Use) {
        self.state().cgroups.get_mut(id).unwrap().used = used;
    }

    /// How often all that a sandbox uses was read.
    pub fn readings(&self) -> usize {
        self.state().readings
    }

    pub fn force_paused(&self, id: &SandboxId, paused: bool) {
        self.state().cgroups.get_mut(id).unwrap().paused = paused;
    }

    pub fn running(&self) -> Vec<SandboxId> {
        self.state().cgroups.keys().cloned().collect()
    }

    /// What is left of anything, in words.
    pub fn leftovers(&self) -> Vec<String> {
        let state = self.state();
        let slots = state.slots.iter().map(|slot| format!("slot {slot}"));
        let volumes = state.volumes.iter().map(|id| format!("volume {id}"));
        let links = state.links.iter().map(|slot| format!("link {slot}"));
        let cgroups = state.cgroups.keys().map(|id| format!("cgroup {id}"));
        slots.chain(volumes).chain(links).chain(cgroups).collect()
    }

    fn step(&self, step: &'static str) -> Result<(), MachineError> {
        if self.state().fails.contains(step) { Err(MachineError::Failed(format!("{step} fails"))) } else { Ok(()) }
    }

    fn driver_step(&self, step: &'static str, id: &SandboxId) -> Result<(), DriverError> {
        self.step(step).map_err(|error| DriverError::Operation {
            action: step,
            id: id.clone(),
            source: io::Error::other(error.to_string()),
        })
    }
}

#[async_trait]
impl Machine for FakeDriver {
    fn drivers(&self) -> Vec<String> {
        vec!["container".to_owned(), "vm".to_owned()]
    }

    fn take_slot(&self) -> Result<Slot, MachineError> {
        self.step("slot").map_err(|error| MachineError::Full(error.to_string()))?;
        let mut state = self.state();
        state.next += 1;
        let slot = Slot::new(SandboxNetwork::default(), 0x70, state.next).unwrap();
        state.slots.insert(slot);
        Ok(slot)
    }

    fn give_back_slot(&self, slot: Slot) {
        assert!(self.state().slots.remove(&slot), "{slot} was given back twice");
    }

    fn admit_disk(&self, _: u64) -> Result<(), MachineError> {
        self.step("admit").map_err(|error| MachineError::Full(error.to_string()))
    }

    async fn create_volume(&self, id: &SandboxId, _: u64) -> Result<PathBuf, MachineError> {
        self.step("volume")?;
        assert!(self.state().volumes.insert(id.clone()), "{id} has a volume already");
        Ok(PathBuf::from("/volume"))
    }

    async fn clone_layer(&self, id: &SandboxId, layer: &LayerId, bytes: u64) -> Result<PathBuf, MachineError> {
        assert!(self.state().layers.contains(layer), "{layer} is not here");
        self.create_volume(id, bytes).await
    }

    async fn rename_volume(&self, from: &SandboxId, to: &SandboxId) -> Result<PathBuf, MachineError> {
        self.step("rename")?;
        let mut state = self.state();
        assert!(state.volumes.remove(from) && state.volumes.insert(to.clone()), "{from} is renamed to {to}");
        Ok(PathBuf::from("/volume"))
    }

    fn find_volume(&self, id: &SandboxId) -> Option<PathBuf> {
        self.state().volumes.contains(id).then(|| PathBuf::from("/volume"))
    }

    async fn delete_volume(&self, id: &SandboxId) -> Result<(), MachineError> {
        self.step("delete")?;
        self.state().volumes.remove(id);
        Ok(())
    }

    fn lacks(&self, digest: &str) -> bool {
        self.state().lacking.contains(digest)
    }

    async fn image(&self, digest: &str) -> Result<ImageLease, MachineError> {
        self.step("image")?;
        if self.lacks(digest) {
            std::future::pending::<()>().await;
        }
        Ok(ImageLease { path: PathBuf::from("/image"), file: None, held: None })
    }

    async fn set_policy(&self, _: Slot, _: &Policy) -> Result<(), MachineError> {
        self.step("egress")
    }

    async fn egress_authority(&self) -> Result<String, MachineError> {
        Ok("an authority".to_owned())
    }

    async fn trust(&self, _: &Path, authority: &str) -> Result<(), MachineError> {
        self.state().trusted.push(authority.to_owned());
        self.step("trust")
    }

    async fn snapshot(&self, id: &SandboxId, layer: &LayerId, _memory: bool) -> Result<bool, MachineError> {
        self.step("snapshot")?;
        assert!(self.state().volumes.contains(id), "{id} has no volume to keep");
        self.state().layers.insert(layer.clone());
        Ok(false)
    }

    async fn layer(&self, layer: &Layer) -> Result<ImageLease, MachineError> {
        match self.state().layers.contains(&layer.id) {
            true => Ok(ImageLease { path: PathBuf::from(format!("/{}", layer.id)), file: None, held: None }),
            false => Err(MachineError::NoImage(format!("no layer {}", layer.id))),
        }
    }

    async fn delete_layer(&self, layer: &LayerId) -> Result<(), MachineError> {
        let mut state = self.state();
        state.layers.remove(layer);
        state.imports.retain(|import| import.layer != *layer);
        Ok(())
    }

    async fn imports(&self) -> Result<Vec<Import>, MachineError> {
        Ok(self.state().imports.clone())
    }

    async fn shared_volume(&self, id: &VolumeId, _: u64) -> Result<PathBuf, MachineError> {
        Ok(PathBuf::from(format!("/{id}")))
    }

    async fn reclaim(&self, id: &SandboxId) -> u64 {
        if self.state().cgroups[id].paused { RECLAIMED } else { 0 }
    }

    async fn launch(&self, spec: LaunchSpec, steps: &mut Steps) -> Result<Arc<dyn Life>, DriverError> {
        self.state().links.insert(spec.slot);
        let mut hangs = self.hangs.subscribe();
        drop(hangs.wait_for(|hangs| !hangs).await);
        self.driver_step("launch", &spec.id)?;
        if let Role::TakesOver(spare) = &spec.role {
            self.driver_step("take over", &spec.id)?;
            let mut state = self.state();
            let cgroup = state.cgroups.remove(spare).unwrap_or_else(|| panic!("no spare {spare}"));
            let life = FakeLife { init: cgroup.init.clone(), exit: cgroup.exit.subscribe() };
            state.cgroups.insert(spec.id, cgroup);
            return Ok(Arc::new(life));
        }
        let mut state = self.state();
        state.pid += 1;
        let init = InitProcess { pid: state.pid, start_time: 1, host_boot_id: host_boot_id().to_owned() };
        let (exit, watched) = watch::channel(None);
        if state.stored.remove(&spec.id) {
            steps.done(RESTORED);
        }
        let used = Use::default();
        let cgroup = Cgroup { init: init.clone(), exit, paused: false, cannot_pause: false, oom_kills: 0, used };
        state.cgroups.insert(spec.id, cgroup);
        Ok(Arc::new(FakeLife { init, exit: watched }))
    }

    async fn adopt(&self, id: &SandboxId, init: &InitProcess, _: Vec<SharedVolume>) -> Option<Arc<dyn Life>> {
        let state = self.state();
        let cgroup = state.cgroups.get(id).filter(|cgroup| cgroup.init == *init)?;
        Some(Arc::new(FakeLife { init: init.clone(), exit: cgroup.exit.subscribe() }))
    }

    async fn settle(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.driver_step("settle", id)
    }

    async fn pause(&self, id: &SandboxId) -> Result<Paused, DriverError> {
        if self.state().cgroups[id].cannot_pause {
            return Err(DriverError::Lost { action: "pausing", id: id.clone() });
        }
        let mut state = self.state();
        if state.stores {
            state.cgroups.remove(id);
            state.stored.insert(id.clone());
            return Ok(Paused::Stored { freed_bytes: 1 << 20 });
        }
        state.cgroups.get_mut(id).unwrap().paused = true;
        Ok(Paused::Standing)
    }

    async fn resume(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.driver_step("resume", id)?;
        self.state().cgroups.get_mut(id).unwrap().paused = false;
        Ok(())
    }

    fn is_stored(&self, id: &SandboxId) -> bool {
        self.state().stored.contains(id)
    }

    fn is_paused(&self, id: &SandboxId) -> bool {
        self.state().cgroups.get(id).is_some_and(|cgroup| cgroup.paused)
    }

    async fn kill(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.driver_step("kill", id)
    }

    async fn clean_up(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.driver_step("clean up", id)?;
        self.state().cgroups.remove(id);
        Ok(())
    }

    async fn detach(&self, slot: Slot) -> Result<(), MachineError> {
        self.step("detach")?;
        self.state().links.remove(&slot);
        Ok(())
    }

    async fn commit(&self) -> Result<(), MachineError> {
        self.state().committed += 1;
        Ok(())
    }

    async fn write_out(&self) -> Result<(), MachineError> {
        self.state().written_out += 1;
        Ok(())
    }

    fn cpu_usec(&self, id: &SandboxId) -> Option<u64> {
        self.state().cgroups.get(id).map(|cgroup| cgroup.used.cpu_usec)
    }

    fn usage(&self, id: &SandboxId, _: Option<Slot>) -> Use {
        let mut state = self.state();
        state.readings += 1;
        state.cgroups.get(id).map_or_else(Use::default, |cgroup| Use { oom_kills: cgroup.oom_kills, ..cgroup.used })
    }
}
