//! The real machine below the keeper: driver, network, storage pool, images and slots, put together.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufReader};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use atoll_image::{Limits, Written};
use atoll_model::{LayerId, SandboxId, VolumeId};
use futures::FutureExt;

use super::machine::{ImageLease, Life, Machine, MachineError, Use};
use super::spec::Layer;
use crate::driver::{
    Driver, DriverError, Exit, InitProcess, LaunchSpec, NetworkAttach, Paused, Running, SharedVolume, Steps, vm,
};
use crate::images::{Fetch, ImageError, Images, Mounted};
use crate::network::{Network, Policy, Tap};
use crate::slots::{Slot, Slots};
use crate::storage::{Import, Pool, StorageError};

/// From so many children on a layer is packed for them, if it is small: to pack it costs about as much as some clones, and
/// more with each file.
const MANY: u32 = 8;
const BYTES_PER_CHILD: u64 = 128 << 10;
const FILES_PER_CHILD: usize = 32;

/// Everything that sandboxes are made of on this machine.
pub struct Floor {
    pub driver: Arc<dyn Driver>,
    /// On offer, the preferred one first.
    pub drivers: Vec<String>,
    pub network: Arc<Network>,
    pub pool: Arc<Pool>,
    pub images: Arc<Images>,
    pub slots: Arc<Slots>,
    pub fetch: Arc<dyn Fetch>,
    /// Held while a layer is unpacked.
    pub importing: Arc<tokio::sync::Mutex<()>>,
}

impl From<StorageError> for MachineError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Full(full) => Self::Full(full.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<ImageError> for MachineError {
    fn from(error: ImageError) -> Self {
        match &error {
            ImageError::NotADigest(_) => Self::NoImage(error.to_string()),
            ImageError::Fetch(fetch) if fetch.not_found => Self::NoImage(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

fn lost(_: tokio::task::JoinError) -> MachineError {
    MachineError::Failed("the task was lost".to_owned())
}

fn lease(mounted: Arc<Mounted>) -> ImageLease {
    ImageLease { path: mounted.path.clone(), file: Some(mounted.file.clone()), held: Some(mounted) }
}

struct Attach(Arc<Network>);

impl NetworkAttach for Attach {
    fn attach(&self, slot: &Slot, netns: BorrowedFd<'_>) -> io::Result<()> {
        self.0.attach(*slot, netns)
    }

    fn tap(&self, slot: &Slot) -> io::Result<Option<Tap>> {
        self.0.tap(*slot).map(Some)
    }
}

#[async_trait]
impl Life for Running {
    fn init(&self) -> InitProcess {
        self.init.clone()
    }

    fn is_alive(&self) -> bool {
        Running::is_alive(self)
    }

    async fn exited(&self) -> io::Result<Exit> {
        Running::exited(self).await
    }
}

#[async_trait]
impl Machine for Floor {
    fn drivers(&self) -> Vec<String> {
        self.drivers.clone()
    }

    fn take_slot(&self) -> Result<Slot, MachineError> {
        self.slots.take().map_err(|error| MachineError::Full(error.to_string()))
    }

    fn give_back_slot(&self, slot: Slot) {
        self.slots.give_back(slot);
    }

    fn admit_disk(&self, bytes: u64) -> Result<(), MachineError> {
        self.pool.admit(bytes).map_err(|full| MachineError::Full(full.to_string()))
    }

    async fn create_volume(&self, id: &SandboxId, bytes: u64) -> Result<PathBuf, MachineError> {
        let (pool, id) = (self.pool.clone(), id.clone());
        let made = tokio::task::spawn_blocking(move || pool.create_volume(&id, bytes)).await.map_err(lost)?;
        Ok(made?.path)
    }

    async fn clone_layer(&self, id: &SandboxId, layer: &LayerId, bytes: u64) -> Result<PathBuf, MachineError> {
        let (pool, id, layer) = (self.pool.clone(), id.clone(), layer.clone());
        let made = tokio::task::spawn_blocking(move || pool.clone_layer(&id, &layer, bytes)).await.map_err(lost)?;
        Ok(made?.path)
    }

    async fn rename_volume(&self, from: &SandboxId, to: &SandboxId) -> Result<PathBuf, MachineError> {
        Ok(self.pool.rename_volume(from, to)?.path)
    }

    fn find_volume(&self, id: &SandboxId) -> Option<PathBuf> {
        self.pool.open_volume(id).map(|volume| volume.path)
    }

    async fn delete_volume(&self, id: &SandboxId) -> Result<(), MachineError> {
        let (pool, id) = (self.pool.clone(), id.clone());
        Ok(tokio::task::spawn_blocking(move || pool.delete_volume(&id)).await.map_err(lost)??)
    }

    fn lacks(&self, digest: &str) -> bool {
        !digest.is_empty() && matches!(self.images.file(digest), Ok(None))
    }

    async fn image(&self, digest: &str) -> Result<ImageLease, MachineError> {
        if !self.lacks(digest) {
            return Ok(lease(self.images.mounted(digest, &*self.fetch).await?));
        }
        let (images, fetch, digest) = (self.images.clone(), self.fetch.clone(), digest.to_owned());
        let fetching = tokio::spawn(async move { images.mounted(&digest, &*fetch).await });
        Ok(lease(fetching.await.map_err(lost)??))
    }

    async fn set_policy(&self, slot: Slot, policy: &Policy) -> Result<(), MachineError> {
        let (network, policy) = (self.network.clone(), policy.clone());
        tokio::task::spawn_blocking(move || network.set_policy(slot, &policy))
            .await
            .map_err(lost)?
            .map_err(|error| MachineError::Failed(format!("setting what the sandbox may reach: {error}")))
    }

    async fn egress_authority(&self) -> Result<String, MachineError> {
        let network = self.network.clone();
        let pem = tokio::task::spawn_blocking(move || network.egress_authority()).await.map_err(lost)?;
        pem.map_err(|error| MachineError::Failed(format!("the authority of the egress proxy: {error}")))
    }

    async fn trust(&self, socket: &Path, authority: &str) -> Result<(), MachineError> {
        super::guest::trust(socket, authority)
            .await
            .map_err(|error| MachineError::Failed(format!("having the guest trust the egress proxy: {error:#}")))
    }

    async fn snapshot(&self, id: &SandboxId, layer: &LayerId, memory: bool) -> Result<bool, MachineError> {
        if self.pool.layer(layer).is_some() {
            return Ok(self.driver.has_memory(layer));
        }
        let (pool, volume, name) = (self.pool.clone(), id.clone(), layer.clone());
        let (made, known) = tokio::sync::oneshot::channel();
        let files = async move {
            let making = tokio::task::spawn_blocking(move || pool.snapshot_volume(&volume, &name));
            let result = making.await.map_err(lost).and_then(|result| result.map_err(MachineError::from));
            let is_made = result.is_ok();
            let _nobody_asks = made.send(result);
            is_made
        };
        let kept = self.driver.keep(id, layer, memory, files.boxed()).await;
        let kept = match kept {
            Ok(kept) => kept,
            // Whoever asked takes it for not made.
            Err(error) => {
                if let Err(error) = Machine::delete_layer(self, layer).await {
                    tracing::warn!(%layer, %error, "a layer that could not be finished stays for a while");
                }
                return Err(MachineError::Failed(error.to_string()));
            }
        };
        known.await.map_err(|_| MachineError::Failed("its files were not kept".to_owned()))??;
        Ok(kept)
    }

    async fn spread(&self, layer: &LayerId, children: u32) {
        let directory = self.pool.layer(layer).filter(|path| vm::disk::of_layer(path).is_none());
        let Some(directory) = directory.filter(|_| children >= MANY) else { return };
        let limits = Limits {
            bytes: u64::from(children) * BYTES_PER_CHILD,
            inodes: children as usize * FILES_PER_CHILD,
            ..Limits::default()
        };
        if let Err(error) = self.images.pack_layer(layer, directory, limits).await {
            tracing::debug!(%layer, %error, "a layer is not packed: those who stand on it begin as clones");
        }
    }

    async fn layer(&self, layer: &Layer) -> Result<ImageLease, MachineError> {
        let here = self.pool.layer(&layer.id).map(|path| ImageLease { path, file: None, held: None });
        if let Some(here) = here.as_ref().filter(|_| self.is_disk(&layer.id)) {
            self.pool.note_use(&layer.id);
            return Ok(here.clone());
        }
        match (layer.digest.as_str(), here) {
            ("", Some(here)) => Ok(self.images.layer(&layer.id).await?.map_or(here, lease)),
            ("", None) => {
                Err(MachineError::NoImage(format!("layer {} is not on this host and can't be fetched", layer.id)))
            }
            (digest, Some(here)) => self.image(digest).await.or(Ok(here)),
            (digest, None) if self.images.is_mounted(digest) => self.image(digest).await,
            (digest, None) => match self.import(&layer.id, digest).await? {
                Some(imported) => Ok(imported),
                None => self.image(digest).await,
            },
        }
    }

    async fn pack_machine(&self, layer: &LayerId) -> Result<Option<Written>, MachineError> {
        let disk = self.pool.layer(layer).and_then(|path| vm::disk::of_layer(&path));
        let Some(disk) = disk else { return Ok(None) };
        let (driver, layer) = (self.driver.clone(), layer.clone());
        let packing = self.images.keep(move |into| driver.pack_machine(&layer, &disk, into));
        Ok(Some(packing.await?))
    }

    fn is_disk(&self, layer: &LayerId) -> bool {
        self.pool.layer(layer).is_some_and(|path| vm::disk::of_layer(&path).is_some())
    }

    fn vm_version(&self, layer: &LayerId) -> Option<String> {
        let version = || self.driver.memory_version(layer).or_else(|| self.driver.vm_version());
        self.is_disk(layer).then(version).flatten()
    }

    async fn lay_down(&self, id: &SandboxId, layer: &LayerId) -> Result<bool, MachineError> {
        let disk = self.pool.layer(layer).and_then(|path| vm::disk::of_layer(&path));
        let disk = disk.ok_or_else(|| MachineError::NoImage(format!("layer {layer} is no machine's disk")))?;
        let volume = self.find_volume(id);
        let volume = volume.ok_or_else(|| MachineError::Failed("it has no volume to have its disk in".to_owned()))?;
        let (driver, id, layer) = (self.driver.clone(), id.clone(), layer.clone());
        let laying = tokio::task::spawn_blocking(move || driver.lay_down(&id, &volume, &layer, &disk));
        let laid = laying.await.map_err(lost)?;
        laid.map_err(|error| MachineError::Failed(format!("laying down its disk and memory: {error}")))
    }

    async fn imports(&self) -> Result<Vec<Import>, MachineError> {
        let pool = self.pool.clone();
        Ok(tokio::task::spawn_blocking(move || pool.imports()).await.map_err(lost)??)
    }

    async fn delete_layer(&self, layer: &LayerId) -> Result<(), MachineError> {
        self.images.delete_layer(layer).await?;
        let (pool, driver, layer) = (self.pool.clone(), self.driver.clone(), layer.clone());
        let deleting = tokio::task::spawn_blocking(move || {
            let forgotten = driver.forget_memory(&layer);
            forgotten.map_err(|error| MachineError::Failed(format!("removing the memory of {layer}: {error}")))?;
            Ok(pool.delete_layer(&layer)?)
        });
        deleting.await.map_err(lost)?
    }

    async fn shared_volume(&self, id: &VolumeId, bytes: u64) -> Result<PathBuf, MachineError> {
        let (pool, id) = (self.pool.clone(), id.clone());
        Ok(tokio::task::spawn_blocking(move || pool.shared_volume(&id, bytes)).await.map_err(lost)??)
    }

    async fn clear_unlinked(&self, volume: &VolumeId, sandbox: &SandboxId) -> Result<(), MachineError> {
        let (pool, volume, sandbox) = (self.pool.clone(), volume.clone(), sandbox.clone());
        let clearing = tokio::task::spawn_blocking(move || pool.clear_unlinked(&volume, &sandbox));
        Ok(clearing.await.map_err(lost)??)
    }

    async fn reclaim(&self, id: &SandboxId) -> u64 {
        self.driver.reclaim(id).await
    }

    async fn launch(&self, spec: LaunchSpec, steps: &mut Steps) -> Result<Arc<dyn Life>, DriverError> {
        let attach = Arc::new(Attach(self.network.clone()));
        let running = self.driver.launch(spec, attach, steps).await?;
        Ok(Arc::new(running))
    }

    async fn adopt(&self, id: &SandboxId, init: &InitProcess, volumes: Vec<SharedVolume>) -> Option<Arc<dyn Life>> {
        let running = self.driver.adopt(id, init, volumes).await?;
        Some(Arc::new(running))
    }

    async fn settle(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.driver.settle(id).await
    }

    async fn pause(&self, id: &SandboxId) -> Result<Paused, DriverError> {
        self.driver.pause(id).await
    }

    async fn resume(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.driver.resume(id).await
    }

    fn is_paused(&self, id: &SandboxId) -> bool {
        self.driver.is_paused(id)
    }

    fn is_stored(&self, id: &SandboxId) -> bool {
        self.driver.is_stored(id)
    }

    fn begun(&self, id: &SandboxId) -> Option<InitProcess> {
        self.driver.begun(id)
    }

    async fn kill(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.driver.kill(id).await
    }

    async fn clean_up(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.driver.clean_up(id).await
    }

    async fn detach(&self, slot: Slot) -> Result<(), MachineError> {
        let network = self.network.clone();
        tokio::task::spawn_blocking(move || network.detach(slot))
            .await
            .map_err(lost)?
            .map_err(|error| MachineError::Failed(format!("removing the sandbox's link: {error}")))
    }

    async fn commit(&self) -> Result<(), MachineError> {
        let pool = self.pool.clone();
        Ok(tokio::task::spawn_blocking(move || pool.commit()).await.map_err(lost)??)
    }

    async fn write_out(&self) -> Result<(), MachineError> {
        let pool = self.pool.clone();
        Ok(tokio::task::spawn_blocking(move || pool.write_out()).await.map_err(lost)??)
    }

    fn cpu_usec(&self, id: &SandboxId) -> Option<u64> {
        self.driver.cpu_usec(id).ok()
    }

    fn usage(&self, id: &SandboxId, slot: Option<Slot>) -> Use {
        let used = self.driver.usage(id).unwrap_or_default();
        let traffic = slot.and_then(|slot| self.network.counters(slot).ok()).unwrap_or_default();
        Use {
            cpu_usec: used.cpu_usec,
            memory_bytes: used.memory_bytes,
            disk_bytes: self.pool.usage(id).unwrap_or(0),
            received_bytes: traffic.received,
            sent_bytes: traffic.sent,
            processes: used.processes,
            oom_kills: used.oom_kills,
        }
    }
}

impl Floor {
    /// A machine's layer of another host, brought here by its digest; none when the digest is of an image. From then on it
    /// is as if it had been made here, and the file that it came in is not needed any more. Goes on when nobody waits.
    async fn import(&self, layer: &LayerId, digest: &str) -> Result<Option<ImageLease>, MachineError> {
        let (images, fetch, importing) = (self.images.clone(), self.fetch.clone(), self.importing.clone());
        let (pool, driver, layer, digest) = (self.pool.clone(), self.driver.clone(), layer.clone(), digest.to_owned());
        let import = async move {
            if pool.layer(&layer).is_none() {
                if images.comes_lazily(&digest).await? {
                    return Ok(None);
                }
                let (mut file, mut magic) = (images.opened(&digest, &*fetch).await?, [0; vm::bundle::MAGIC.len()]);
                if file.read_exact_at(&mut magic, 0).is_err() || magic != vm::bundle::MAGIC {
                    return Ok(None);
                }
                // Two that come at once: the second finds it.
                let _turn = importing.lock().await;
                let (into, name, origin) = (pool.clone(), layer.clone(), digest.clone());
                let unpacking = tokio::task::spawn_blocking(move || {
                    let bytes = file.metadata().map_or(0, |it| it.len());
                    let unpack = |disk: &_| {
                        let unpacked = driver.unpack_machine(&name, &mut BufReader::new(&mut file), disk);
                        // What it had in memory before the file made no sense.
                        unpacked.inspect_err(|_| drop(driver.forget_memory(&name)))
                    };
                    into.import_disk(&name, &origin, bytes, unpack)
                });
                unpacking.await.map_err(lost)??;
                match images.delete(&digest).await {
                    Ok(()) | Err(ImageError::InUse(_)) => {}
                    Err(error) => tracing::warn!(%layer, %error, "the file that a layer came in can't be deleted"),
                }
            }
            Ok::<_, MachineError>(pool.layer(&layer).map(|path| ImageLease { path, file: None, held: None }))
        };
        tokio::spawn(import).await.map_err(lost)?
    }

    /// Removes what is in the kernel or the pool without belonging to any sandbox with a record.
    pub async fn remove_strays(&self, known: &HashSet<SandboxId>) {
        for id in self.driver.leftovers().into_iter().filter(|id| !known.contains(id)) {
            tracing::warn!(sandbox = %id, "removing processes and cgroups that no record knows");
            if let Err(error) = self.driver.clean_up(&id).await {
                tracing::error!(sandbox = %id, %error, "a stray could not be removed");
            }
        }
        let taken: HashSet<Slot> = self.slots.in_use().into_iter().collect();
        match self.network.leftovers() {
            Ok(links) => {
                // A link that is not of one of our blocks is none of ours.
                let ours = self.slots.blocks().into_iter().flat_map(|(block, network)| {
                    (1..=u8::MAX).filter_map(move |index| Slot::new(network, block, index))
                });
                let ours: HashMap<String, Slot> = ours.map(|slot| (slot.link_name(), slot)).collect();
                for link in links {
                    let Some(slot) = ours.get(&link).copied().filter(|slot| !taken.contains(slot)) else { continue };
                    tracing::warn!(link, "removing a link that no record knows");
                    if let Err(error) = self.detach(slot).await {
                        tracing::error!(link, %error, "a stray link could not be removed");
                    }
                }
            }
            Err(error) => tracing::error!(%error, "stray links can't be looked for"),
        }
        self.remove_stray_memories();
        match self.pool.list_volumes() {
            Ok(volumes) => {
                for id in volumes.into_iter().filter(|id| !known.contains(id)) {
                    tracing::warn!(sandbox = %id, "deleting a volume that no record knows");
                    if let Err(error) = self.delete_volume(&id).await {
                        tracing::error!(sandbox = %id, %error, "a stray volume could not be deleted");
                    }
                }
            }
            Err(error) => tracing::error!(%error, "stray volumes can't be looked for"),
        }
    }

    /// Removes memory that is kept for layers which are not there, and what is not whole: an agent has died before it made
    /// them.
    fn remove_stray_memories(&self) {
        let stray = |layer: &LayerId| self.pool.layer(layer).is_none() || !self.driver.has_memory(layer);
        for layer in self.driver.memories().into_iter().filter(stray) {
            tracing::warn!(%layer, "removing memory that is kept for no layer, or not whole");
            if let Err(error) = self.driver.forget_memory(&layer) {
                tracing::error!(%layer, %error, "stray memory could not be removed");
            }
        }
    }

    /// The agent ends: with no sandbox left nothing of this data directory stays in the kernel.
    pub async fn shut_down(&self, sandboxes_left: bool) {
        self.driver.shut_down().await;
        if let Err(error) = self.network.shutdown(sandboxes_left).await {
            tracing::error!(%error, "the network could not be brought down");
        }
        match self.images.unmount_all().await {
            Ok(0) => {}
            Ok(left) if sandboxes_left => tracing::debug!(left, "images stay mounted"),
            Ok(left) => tracing::warn!(left, "images stay mounted though no sandbox is left"),
            Err(error) => tracing::error!(%error, "images could not be unmounted"),
        }
        if sandboxes_left {
            return;
        }
        let pool = self.pool.clone();
        match tokio::task::spawn_blocking(move || pool.close()).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => tracing::warn!("the storage pool stays mounted: volumes are left in it"),
            Ok(Err(error)) => tracing::error!(%error, "the storage pool could not be unmounted"),
            Err(error) => tracing::error!(%error, "the storage pool could not be unmounted"),
        }
        if let Err(error) = self.slots.release_all() {
            tracing::error!(%error, "the claim on the machine's slots could not be given up");
        }
    }
}
