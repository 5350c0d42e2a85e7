//! What the keeper needs of the machine, as one trait: so that its logic can be tried without a kernel.
//!
//! [`super::floor`] is the real one: it puts driver, network, storage, images and slots together.

use std::any::Any;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use atoll_image::Written;
use atoll_model::{LayerId, SandboxId, VolumeId};

use super::spec::Layer;
use crate::driver::{DriverError, Exit, InitProcess, LaunchSpec, Paused, SharedVolume, Steps};
use crate::network::Policy;
use crate::slots::Slot;
use crate::storage::Import;

/// A sandbox's first process.
#[async_trait]
pub trait Life: Send + Sync + 'static {
    fn init(&self) -> InitProcess;

    fn is_alive(&self) -> bool;

    /// Waits until all its processes have ended.
    async fn exited(&self) -> io::Result<Exit>;
}

/// A mounted image, and what keeps it mounted.
#[derive(Clone)]
pub struct ImageLease {
    pub path: PathBuf,
    /// The image that is mounted there; none for what lies in the pool.
    pub file: Option<PathBuf>,
    pub held: Option<Arc<dyn Any + Send + Sync>>,
}

/// What failed, in words for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// A bound of the machine.
    #[error("{0}")]
    Full(String),
    /// The image is to be had nowhere.
    #[error("{0}")]
    NoImage(String),
    #[error("{0}")]
    Failed(String),
}

/// What a sandbox uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    pub cpu_usec: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub processes: u32,
    pub oom_kills: u64,
}

#[async_trait]
pub trait Machine: Send + Sync + 'static {
    /// The drivers on offer, the preferred one first.
    fn drivers(&self) -> Vec<String>;

    fn take_slot(&self) -> Result<Slot, MachineError>;

    fn give_back_slot(&self, slot: Slot);

    /// Whether another volume of this size fits.
    fn admit_disk(&self, bytes: u64) -> Result<(), MachineError>;

    async fn create_volume(&self, id: &SandboxId, bytes: u64) -> Result<PathBuf, MachineError>;

    /// A volume that begins with what a layer holds that lies on this machine.
    async fn clone_layer(&self, id: &SandboxId, layer: &LayerId, bytes: u64) -> Result<PathBuf, MachineError>;

    /// From now on it is the other's.
    async fn rename_volume(&self, from: &SandboxId, to: &SandboxId) -> Result<PathBuf, MachineError>;

    fn find_volume(&self, id: &SandboxId) -> Option<PathBuf>;

    /// Success when there is none.
    async fn delete_volume(&self, id: &SandboxId) -> Result<(), MachineError>;

    /// Whether the image would have to be fetched. False for an empty digest.
    fn lacks(&self, digest: &str) -> bool;

    /// The image, mounted; fetched first when it isn't here. Who stops waiting doesn't stop a fetch.
    async fn image(&self, digest: &str) -> Result<ImageLease, MachineError>;

    async fn set_policy(&self, slot: Slot, policy: &Policy) -> Result<(), MachineError>;

    /// The certificate, in PEM, that a sandbox must trust for headers to be added to its requests.
    async fn egress_authority(&self) -> Result<String, MachineError>;

    /// Has a running sandbox trust it.
    async fn trust(&self, socket: &Path, authority: &str) -> Result<(), MachineError>;

    /// Keeps what the sandbox has written so far as a layer, and with `memory` what its processes are, where the driver can
    /// do that: whether it was. Success also when the layer is there already.
    async fn snapshot(&self, id: &SandboxId, layer: &LayerId, memory: bool) -> Result<bool, MachineError>;

    /// Readies a layer for so many sandboxes that are to be made of it at once. Only saves time.
    async fn spread(&self, _layer: &LayerId, _children: u32) {}

    /// A layer to stand on: its image, fetched first when it isn't here, or else what lies in the pool.
    async fn layer(&self, layer: &Layer) -> Result<ImageLease, MachineError>;

    /// Packs the layer for other hosts if it is a machine's; none when it is not.
    async fn pack_machine(&self, _layer: &LayerId) -> Result<Option<Written>, MachineError> {
        Ok(None)
    }

    /// Whether the layer lies here and is a machine's disk.
    fn is_disk(&self, _layer: &LayerId) -> bool {
        false
    }

    /// What machines must run on to go on with this layer's memory, or what one ran on that has left a disk without any;
    /// none when it is not a machine's.
    fn vm_version(&self, _layer: &LayerId) -> Option<String> {
        None
    }

    /// Makes a virtual machine that comes from another host as if it had been paused here, from this layer, which was
    /// fetched, in the volume that is there. Whether it has memory to go on with.
    async fn lay_down(&self, _id: &SandboxId, _layer: &LayerId) -> Result<bool, MachineError> {
        Ok(false)
    }

    /// Layers that came from other hosts and are no images.
    async fn imports(&self) -> Result<Vec<Import>, MachineError> {
        Ok(Vec::new())
    }

    /// Success when there is none.
    async fn delete_layer(&self, layer: &LayerId) -> Result<(), MachineError>;

    /// A volume that outlives sandboxes, made when it is not there yet.
    async fn shared_volume(&self, id: &VolumeId, bytes: u64) -> Result<PathBuf, MachineError>;

    /// What a sandbox that is gone had removed from a volume, and may have had open, goes too.
    async fn clear_unlinked(&self, _volume: &VolumeId, _sandbox: &SandboxId) -> Result<(), MachineError> {
        Ok(())
    }

    /// Gives up what memory it can of a sandbox that stands still; how many bytes went. Nothing where there is no swap.
    async fn reclaim(&self, id: &SandboxId) -> u64;

    async fn launch(&self, spec: LaunchSpec, steps: &mut Steps) -> Result<Arc<dyn Life>, DriverError>;

    /// Finds one that an earlier agent launched, with these volumes.
    async fn adopt(&self, id: &SandboxId, init: &InitProcess, volumes: Vec<SharedVolume>) -> Option<Arc<dyn Life>>;

    /// Has what runs in it write its files to its disk, where the driver's sandboxes keep some to themselves.
    async fn settle(&self, id: &SandboxId) -> Result<(), DriverError>;

    async fn pause(&self, id: &SandboxId) -> Result<Paused, DriverError>;

    async fn resume(&self, id: &SandboxId) -> Result<(), DriverError>;

    fn is_paused(&self, id: &SandboxId) -> bool;

    /// Whether a pause has left its memory on the disk.
    fn is_stored(&self, id: &SandboxId) -> bool;

    /// The process that goes on with what a pause has left, if one was started to.
    fn begun(&self, _id: &SandboxId) -> Option<InitProcess> {
        None
    }

    async fn kill(&self, id: &SandboxId) -> Result<(), DriverError>;

    async fn clean_up(&self, id: &SandboxId) -> Result<(), DriverError>;

    /// Removes what is left of the sandbox's network. Success when there is nothing.
    async fn detach(&self, slot: Slot) -> Result<(), MachineError>;

    /// Has the disk take that there are the volumes that were made, whatever is in them yet.
    async fn commit(&self) -> Result<(), MachineError>;

    /// Has the disk take all that sandboxes have written.
    async fn write_out(&self) -> Result<(), MachineError>;

    /// Processor time since the sandbox was made: the cheapest sign that something ran in it. None when it can't be read.
    fn cpu_usec(&self, id: &SandboxId) -> Option<u64>;

    /// Blocks briefly; zero where nothing can be read.
    fn usage(&self, id: &SandboxId, slot: Option<Slot>) -> Use;
}
