//! Drivers: what turns a record into running processes, and back into nothing.
//!
//! [`Driver`] is the seam between the keeper of sandboxes (above: records, queue per sandbox, storage volumes, images)
//! and one way of running them. [`container::ContainerDriver`] is the default: namespaces, an overlay, cgroups and a
//! seccomp profile, made by a launcher of our own (see `docs/isolation.md`). [`vm::VmDriver`] runs virtual machines. A driver makes and removes only what
//! lives in the kernel and the sandbox's socket; it never touches records, volumes or images, and it never decides
//! *whether* something should run.
//!
//! ```text
//! launch --> Running --(guest ends, or kill)--> exited() says why --> clean_up
//!              ^  pause / resume: frozen and thawed where it stands; or stored, and launched again
//! adopt -------+  after an agent's restart: the same process, found by pid, start time and boot id
//! ```
//!
//! Every method may be called again after a crash in its middle: `kill` and `clean_up` succeed when there is nothing.

mod both;
pub mod check;
pub mod container;
pub(crate) mod dev;
mod files;
pub mod kvm;
mod launch;
mod mounts;
mod process;
mod running;
mod socket;
mod spec;
mod steps;
#[cfg(test)]
mod tests;
pub mod vm;
mod wait;

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use atoll_model::{LayerId, SandboxId};
use futures::future::BoxFuture;

pub use both::Both;
pub use check::{Check, check};
pub use container::{ContainerConfig, ContainerDriver};
pub use files::sealed_program;
pub use process::{InitProcess, host_boot_id};
pub use running::{Exit, Running};
pub use socket::{SocketName, connectable};
pub use spec::{Kind, LaunchSpec, Lower, Role, SharedVolume, StartFrom};
pub use steps::{Step, Steps};
pub use vm::{CLONED, RESTORED};

use crate::network::Tap;
use crate::slots::Slot;

/// Where a program of the system's is: administrators' tools too, whatever the path of whoever has started this.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// Gives a new network namespace its link, address and routes. Called once per launch from a blocking thread, while
/// the child is still mounting; must undo what it made when it fails. What it made in the namespace dies with it.
pub trait NetworkAttach: Send + Sync {
    /// # Errors
    /// When the namespace could not be connected; the launch fails with it.
    fn attach(&self, slot: &Slot, netns: BorrowedFd<'_>) -> std::io::Result<()>;

    /// The same link for a machine, as a device that goes when the last descriptor of it is closed. `None`: no network.
    ///
    /// # Errors
    /// When it could not be made; nothing is left then.
    fn tap(&self, slot: &Slot) -> std::io::Result<Option<Tap>>;
}

/// What a sandbox uses, from its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Processor time since it was made.
    pub cpu_usec: u64,
    /// Without page cache that the kernel would give up first.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub processes: u32,
    /// Processes that the kernel killed because the sandbox's memory was full.
    pub oom_kills: u64,
}

/// How a sandbox stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paused {
    /// Its processes are there, and do nothing.
    Standing,
    /// It lies on the disk, memory and all, and nothing of it is in the kernel: the next launch goes on with it.
    Stored { freed_bytes: u64 },
}

/// Why a driver could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A step of a launch failed; nothing of the launch is left.
    #[error("launching {id}: {step}: {source}")]
    Launch { id: SandboxId, step: String, source: std::io::Error },
    /// The guest did not say that it was ready in time, or ended before; nothing of the launch is left.
    #[error("launching {id}: the guest agent did not become ready: {reason}")]
    NotReady { id: SandboxId, reason: String },
    #[error("{action} {id}: {source}")]
    Operation { action: &'static str, id: SandboxId, source: std::io::Error },
    /// A blocking task ended without an answer (a panic, or the runtime is shutting down).
    #[error("{action} {id}: the task was lost")]
    Lost { action: &'static str, id: SandboxId },
}

#[async_trait]
pub trait Driver: Send + Sync {
    /// Makes the sandbox and answers when its guest agent is ready and its network is attached. Leaves nothing behind
    /// when it fails, or when the future is dropped before it is done (the launch is then undone in the background).
    /// Steps with their durations are added to `trace`, also on failure.
    ///
    /// # Errors
    /// [`DriverError`] says which step failed.
    async fn launch(
        &self,
        spec: LaunchSpec,
        network: Arc<dyn NetworkAttach>,
        trace: &mut Steps,
    ) -> Result<Running, DriverError>;

    /// Finds the sandbox that an earlier agent process launched, with these volumes; `None` when that process is gone.
    async fn adopt(&self, id: &SandboxId, init: &InitProcess, volumes: Vec<SharedVolume>) -> Option<Running>;

    /// Stops every process where it stands; answers when the kernel says that all are.
    ///
    /// # Errors
    /// When the cgroup is gone or does not freeze within a few seconds. It may stand still half way: resume it.
    async fn pause(&self, id: &SandboxId) -> Result<Paused, DriverError>;

    /// # Errors
    /// When the cgroup is gone or does not thaw within a few seconds.
    async fn resume(&self, id: &SandboxId) -> Result<(), DriverError>;

    /// Gives up what memory it can of a paused sandbox, for a bounded time; how many bytes went.
    async fn reclaim(&self, id: &SandboxId) -> u64;

    /// Has what was written inside a running sandbox reach its volume, where that takes asking.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    async fn settle(&self, _id: &SandboxId) -> Result<(), DriverError> {
        Ok(())
    }

    /// Runs `files`, which keeps the sandbox's volume as `layer`, when all that was written inside is there; with `memory`
    /// at a moment at which memory and devices are kept too, if the driver can do that. Whether they were.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    async fn keep(
        &self,
        id: &SandboxId,
        _layer: &LayerId,
        _memory: bool,
        files: BoxFuture<'_, bool>,
    ) -> Result<bool, DriverError> {
        self.settle(id).await?;
        files.await;
        Ok(false)
    }

    /// Whether there is memory to go on with for who stands on this layer.
    fn has_memory(&self, _layer: &LayerId) -> bool {
        false
    }

    /// Layers with memory.
    fn memories(&self) -> Vec<LayerId> {
        Vec::new()
    }

    /// What virtual machines run on here, if there are any: memory of one goes on where it is the same. May block.
    fn vm_version(&self) -> Option<String> {
        None
    }

    /// What the machine ran on whose memory is kept for this layer.
    fn memory_version(&self, _layer: &LayerId) -> Option<String> {
        None
    }

    /// Success when there is none.
    ///
    /// # Errors
    /// When it can't be removed.
    fn forget_memory(&self, _layer: &LayerId) -> std::io::Result<()> {
        Ok(())
    }

    /// Writes a machine's layer, whose disk this is, as one file for other hosts, with memory that is kept for it.
    ///
    /// # Errors
    /// Of a driver without machines, and the disk's.
    fn pack_machine(&self, _layer: &LayerId, _disk: &Path, _into: &mut dyn io::Write) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The way back: fills `disk`, and keeps the memory that came with it.
    ///
    /// # Errors
    /// When it makes no sense; memory may be left then, for no layer.
    fn unpack_machine(&self, _layer: &LayerId, _from: &mut dyn io::Read, _disk: &File) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this host runs no virtual machines"))
    }

    /// Makes of what a layer holds a sandbox that is as if it had been paused here: its disk, a copy of this one, in
    /// `volume`, and its memory if some is kept. Whether there was.
    ///
    /// # Errors
    /// Of a driver without machines, and the disk's.
    fn lay_down(&self, _id: &SandboxId, _volume: &Path, _layer: &LayerId, _disk: &Path) -> io::Result<bool> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this host runs no virtual machines"))
    }

    /// Whether the sandbox is frozen now; false when it is not there.
    fn is_paused(&self, id: &SandboxId) -> bool;

    /// Whether a pause has left its memory on the disk.
    fn is_stored(&self, _id: &SandboxId) -> bool {
        false
    }

    /// The process that goes on with what a pause has left, which is gone from the disk then. It may have ended since.
    fn begun(&self, _id: &SandboxId) -> Option<InitProcess> {
        None
    }

    /// Kills every process, frozen or not; answers when all have ended. Success when there are none.
    ///
    /// # Errors
    /// When processes are still there after several seconds.
    async fn kill(&self, id: &SandboxId) -> Result<(), DriverError>;

    /// Removes what is left in the kernel (cgroups) once the processes are gone. Idempotent; kills what still runs.
    ///
    /// # Errors
    /// When something can't be removed; call again.
    async fn clean_up(&self, id: &SandboxId) -> Result<(), DriverError>;

    /// Processor time since the sandbox was made, and nothing else: as cheap to read as can be.
    ///
    /// # Errors
    /// When the sandbox has no cgroups.
    fn cpu_usec(&self, id: &SandboxId) -> Result<u64, DriverError> {
        self.usage(id).map(|usage| usage.cpu_usec)
    }

    /// # Errors
    /// When the sandbox has no cgroups.
    fn usage(&self, id: &SandboxId) -> Result<Usage, DriverError>;

    /// Sandboxes of which something is in the kernel, running or not.
    fn leftovers(&self) -> Vec<SandboxId>;

    /// The agent is ending: removes what belongs to the driver as a whole if no sandbox is left, and stops its helpers.
    async fn shut_down(&self);
}
