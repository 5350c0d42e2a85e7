//! The vm driver: each sandbox a virtual machine of its own, with its own kernel, run by QEMU's `microvm`.
//!
//! Above the driver nothing differs from a container: the same guest agent answers on the same unix socket, the sandbox
//! has the same address behind the same rules. docs/vm.md says how it is built. Files: [`launch`] the order of a start, [`origin`] what one begins with, [`said`] why one failed,
//! [`jail`] where QEMU runs, [`qemu`] what it is told, [`qmp`] its own protocol, [`channel`] the talk with the guest, [`volumes`] what it mounts of the host's,
//! [`disk`] the writable disk, [`memory`] how memory is copied, [`stored`] pauses, [`kept`] memory for forks and snapshots, [`bundle`] how it
//! travels and [`version`] where it goes on, [`waiting`] what spares most machines a boot, [`spares`] those that have come up already, [`patience`] how long a guest may be silent, [`kernel`] and [`initramfs`] what is booted, [`accel`] hardware or software.
//!
//! QEMU is nobody's child. After an agent's restart it is found by pid, start time and boot id, and a new [`channel`]
//! begins; nothing about machines is kept in memory but those channels, and spares, which end with the agent.

mod accel;
pub mod bundle;
mod channel;
pub mod disk;
#[cfg(feature = "failpoints")]
pub(super) mod doomed;
mod initramfs;
mod jail;
mod kept;
mod kernel;
mod launch;
mod memory;
mod origin;
mod patience;
mod qemu;
mod qmp;
mod said;
mod spares;
mod stored;
#[cfg(test)]
mod tests;
mod unpack;
mod version;
mod volumes;
mod waiting;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use atoll_model::{LayerId, SandboxId};
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};

use super::container::{RECLAIM_PATIENCE, has_swap};
use super::{
    Driver, DriverError, InitProcess, LaunchSpec, NetworkAttach, Paused, Role, Running, SharedVolume, Steps, Usage,
    program, socket,
};
use crate::cgroup::{Cgroups, Hierarchies};
use crate::driver::launch::failpoint;
pub use accel::Accel;
use channel::Bridge;
pub use jail::{ARGUMENT as JAIL, jail_main};
pub use kernel::Kernel;
pub use launch::{CLONED, RESTORED};
pub(crate) use qemu::{FIRMWARE, kernel_command_line};
use spares::{GROUP, Spare};
use stored::BEGUN;
use version::Version;
use volumes::Volumes;
use waiting::Waiting;

/// Guests that boot at the same time, per processor: each keeps one busy for a second where there is no hardware help.
const LAUNCHES_PER_CPU: usize = 2;

const GUEST_SOCKET: &str = "guest.sock";
const PORT_SOCKET: &str = "port.sock";
const QMP_SOCKET: &str = "qmp.sock";
const VOLUMES_SOCKET: &str = "volumes.sock";

/// How the driver is set up.
pub struct VmConfig {
    /// The instance's id: part of the cgroups' name.
    pub instance: String,
    /// Where each sandbox has a directory of its name, for its sockets.
    pub sandboxes: PathBuf,
    /// Where what machines had in memory is kept, for who stands on their layers.
    pub memories: PathBuf,
    pub kernel: Kernel,
    pub accel: Accel,
    pub hierarchies: Option<Hierarchies>,
    /// A program that ends up in [`jail_main`] when it is called with the word [`JAIL`].
    pub jail: PathBuf,
}

impl VmConfig {
    #[must_use]
    pub fn new(instance: &str, sandboxes: PathBuf, kernel: Kernel, accel: Accel) -> Self {
        // This very executable, also after its file was replaced by an upgrade.
        let jail = PathBuf::from("/proc/self/exe");
        let memories = sandboxes.with_file_name("memories");
        Self { instance: instance.to_owned(), sandboxes, memories, kernel, accel, hierarchies: None, jail }
    }
}

/// Whether QEMU, and what makes disks for it, is on this machine.
///
/// # Errors
/// What to do when it is not.
pub fn has_qemu() -> Result<(), &'static str> {
    if !cfg!(target_arch = "x86_64") {
        return Err("virtual machines are offered on x86-64 only");
    }
    program(qemu::PROGRAM).ok_or("QEMU is not installed: run `apt-get install qemu-system-x86`")?;
    program(disk::MAKER).map(drop).ok_or("mkfs.ext4 is not installed: run `apt-get install e2fsprogs`")
}

/// Ends machines that an agent has left which had this driver, where there is none now.
///
/// # Errors
/// When something resists.
pub fn end_strays(instance: &str) -> io::Result<()> {
    let cgroups = cgroups(&Hierarchies::detect()?, instance)?;
    let ended = cgroups.names().into_iter().map(|name| {
        tracing::warn!(sandbox = name, "ending a machine that no record knows");
        cgroups.kill(&name).and_then(|()| cgroups.remove(&name))
    });
    // All of them, whichever resists.
    let ended: Vec<_> = ended.collect();
    cgroups.remove_base();
    ended.into_iter().collect()
}

fn cgroups(hierarchies: &Hierarchies, instance: &str) -> io::Result<Cgroups> {
    Cgroups::open(hierarchies, None, &format!("{instance}-vm"))
}

struct Shared {
    cgroups: Arc<Cgroups>,
    sandboxes: PathBuf,
    memories: PathBuf,
    kernel: Kernel,
    accel: Accel,
    qemu: PathBuf,
    version: Version,
    jail: PathBuf,
    bridges: Mutex<HashMap<SandboxId, Bridge>>,
    volumes: Mutex<HashMap<SandboxId, Volumes>>,
    spares: Mutex<HashMap<SandboxId, Spare>>,
    waiting: Arc<Waiting>,
}

impl Shared {
    fn bridges(&self) -> MutexGuard<'_, HashMap<SandboxId, Bridge>> {
        self.bridges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn volumes(&self) -> MutexGuard<'_, HashMap<SandboxId, Volumes>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spares(&self) -> MutexGuard<'_, HashMap<SandboxId, Spare>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing that a machine has asked about its volumes is under way after this. Blocks.
    fn end_volumes(&self, id: &SandboxId) {
        let volumes = self.volumes().remove(id);
        if let Some(volumes) = volumes {
            volumes.end();
        }
    }

    fn socket(&self, id: &SandboxId, name: &str) -> PathBuf {
        self.sandboxes.join(id.as_str()).join(name)
    }

    /// Ends whatever there is of a machine, and removes what it had. Blocks.
    fn remove(&self, id: &SandboxId) -> io::Result<()> {
        self.bridges().remove(id);
        self.spares().remove(id);
        self.cgroups.kill(id.as_str())?;
        self.end_volumes(id);
        for name in [GUEST_SOCKET, PORT_SOCKET, VOLUMES_SOCKET, QMP_SOCKET, BEGUN] {
            remove_file(&self.socket(id, name))?;
        }
        // Last: as long as it is there, the machine is known to be ours. And then whose it was.
        self.cgroups.remove(id.as_str())?;
        remove_file(&self.socket(id, GROUP))
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub struct VmDriver {
    shared: Arc<Shared>,
    launches: Arc<Semaphore>,
}

impl fmt::Debug for VmDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmDriver").field("accel", &self.shared.accel).finish_non_exhaustive()
    }
}

impl VmDriver {
    /// Makes the instance's cgroups for machines.
    ///
    /// # Errors
    /// When QEMU is missing, or a cgroup controller.
    pub fn start(config: VmConfig) -> io::Result<Self> {
        has_qemu().map_err(io::Error::other)?;
        let qemu = program(qemu::PROGRAM).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let hierarchies = config.hierarchies.map_or_else(Hierarchies::detect, Ok)?;
        let cgroups = cgroups(&hierarchies, &config.instance)?;
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let shared = Shared {
            cgroups: Arc::new(cgroups),
            sandboxes: config.sandboxes,
            memories: config.memories,
            waiting: Arc::new(Waiting::of_kernel(&config.kernel.image)),
            kernel: config.kernel,
            accel: config.accel,
            version: Version::new(&qemu, config.accel),
            qemu,
            jail: config.jail,
            bridges: Mutex::default(),
            volumes: Mutex::default(),
            spares: Mutex::default(),
        };
        spares::call_by_name(&shared.cgroups, &shared.sandboxes);
        Ok(Self { shared: Arc::new(shared), launches: Arc::new(Semaphore::new(cpus * LAUNCHES_PER_CPU)) })
    }

    /// Whether this is a machine of this driver: something of it is in the kernel.
    #[must_use]
    pub fn owns(&self, id: &SandboxId) -> bool {
        self.shared.cgroups.has(id.as_str())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        action: &'static str,
        id: &SandboxId,
        work: impl FnOnce(&Shared, &SandboxId) -> io::Result<T> + Send + 'static,
    ) -> Result<T, DriverError> {
        let (shared, name) = (Arc::clone(&self.shared), id.clone());
        match tokio::task::spawn_blocking(move || work(&shared, &name)).await {
            Ok(result) => result.map_err(|source| DriverError::Operation { action, id: id.clone(), source }),
            Err(_) => Err(DriverError::Lost { action, id: id.clone() }),
        }
    }
}

#[async_trait]
impl Driver for VmDriver {
    async fn launch(
        &self,
        spec: LaunchSpec,
        network: Arc<dyn NetworkAttach>,
        trace: &mut Steps,
    ) -> Result<Running, DriverError> {
        let lost = DriverError::Lost { action: "launching", id: spec.id.clone() };
        // To take over a machine is no work.
        let permit = match &spec.role {
            Role::TakesOver(_) => None,
            Role::Sandbox | Role::Spare => match Arc::clone(&self.launches).acquire_owned().await {
                Ok(permit) => Some(permit),
                Err(_) => return Err(lost),
            },
        };
        trace.done("wait for a turn");
        let (shared, mut own) = (Arc::clone(&self.shared), trace.fork());
        let (answer, answered) = oneshot::channel();
        // A task of its own, so that a launch that nobody waits for any more is undone all the same.
        tokio::spawn(async move {
            let id = spec.id.clone();
            let launched = shared.clone().launch(spec, network, &|| answer.is_closed(), &mut own).await;
            if let Err((Ok(_), _)) = answer.send((launched, own)) {
                shared.undo(id).await;
            }
            drop(permit);
        });
        let Ok((result, own)) = answered.await else { return Err(lost) };
        trace.absorb(own);
        result
    }

    async fn adopt(&self, id: &SandboxId, init: &InitProcess, volumes: Vec<SharedVolume>) -> Option<Running> {
        let pidfd = init.open()?;
        #[cfg(feature = "failpoints")]
        doomed::note(init.pid);
        let (socket, port) = (self.shared.socket(id, GUEST_SOCKET), self.shared.socket(id, PORT_SOCKET));
        let bridge = socket::listener(&socket).and_then(|listener| Bridge::start(listener, port, None));
        match bridge {
            Ok(bridge) => drop(self.shared.bridges().insert(id.clone(), bridge)),
            // It runs, and is listed; nobody can reach into it until the next start of the agent.
            Err(error) => tracing::error!(sandbox = %id, %error, "the socket of an adopted machine can't be made"),
        }
        // Adopted anew by this very agent: what is under way goes first.
        let ended = self.blocking("ending the volumes of", id, |shared, id| {
            shared.end_volumes(id);
            Ok(())
        });
        if let Err(error) = ended.await {
            tracing::error!(sandbox = %id, %error, "what an adopted machine has asked for may be under way twice");
        }
        if let Some(volumes) = Volumes::start(self.shared.socket(id, VOLUMES_SOCKET), id, &volumes) {
            self.shared.volumes().insert(id.clone(), volumes);
        }
        // The former agent may have died while it kept its memory. One that is stored takes no step any more.
        if !self.is_stored(id)
            && let Err(error) = self.shared.go_on(id).await
        {
            tracing::error!(sandbox = %id, %error, "whether an adopted machine stands still is not known");
        }
        Some(Running::new(id.clone(), init.clone(), pidfd, Arc::clone(&self.shared.cgroups)))
    }

    async fn pause(&self, id: &SandboxId) -> Result<Paused, DriverError> {
        let ready = self.shared.begin_anew(id).await;
        ready.map_err(|source| DriverError::Operation { action: "storing", id: id.clone(), source })?;
        // While it stands still it can't be asked any more, and its files may be wanted.
        if let Err(error) = self.settle(id).await {
            tracing::warn!(sandbox = %id, %error, "a machine is paused with files that its disk does not have yet");
        }
        let asked = failpoint("vm::pause::settled");
        asked.map_err(|source| DriverError::Operation { action: "storing", id: id.clone(), source })?;
        let freed_bytes = self.usage(id).map_or(0, |usage| usage.memory_bytes);
        let storing = self.shared.store(id).await;
        storing.map_err(|source| DriverError::Operation { action: "storing", id: id.clone(), source })?;
        self.blocking("removing the emptied machine of", id, Shared::remove).await?;
        Ok(Paused::Stored { freed_bytes })
    }

    async fn resume(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.blocking("resuming", id, |shared, id| shared.cgroups.thaw(id.as_str())).await?;
        // One whose storing failed half way stands still although it is not frozen.
        let gone_on = self.shared.go_on(id).await;
        gone_on.map_err(|source| DriverError::Operation { action: "resuming", id: id.clone(), source })
    }

    async fn reclaim(&self, id: &SandboxId) -> u64 {
        if !has_swap() {
            return 0;
        }
        let before = self.usage(id).map_or(0, |usage| usage.memory_bytes);
        let reclaiming =
            self.blocking("reclaiming the memory of", id, |shared, id| shared.cgroups.reclaim(id.as_str()));
        // What takes longer goes on behind the answer.
        if let Ok(Err(error)) = tokio::time::timeout(RECLAIM_PATIENCE, reclaiming).await {
            tracing::debug!(sandbox = %id, %error, "its memory stays where it is");
        }
        before.saturating_sub(self.usage(id).map_or(before, |usage| usage.memory_bytes))
    }

    async fn settle(&self, id: &SandboxId) -> Result<(), DriverError> {
        if self.is_paused(id) {
            return Ok(());
        }
        let syncing = self.shared.bridges().get(id).map(Bridge::sync);
        let synced = match syncing {
            Some(syncing) => syncing.await,
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        let action = "writing to the disk of";
        synced.map_err(|source| DriverError::Operation { action, id: id.clone(), source })
    }

    async fn keep(
        &self,
        id: &SandboxId,
        layer: &LayerId,
        memory: bool,
        files: BoxFuture<'_, bool>,
    ) -> Result<bool, DriverError> {
        if self.is_stored(id) {
            files.await;
            let kept = memory && self.blocking("keeping the memory of", id, kept::stored(layer.clone())).await?;
            return Ok(kept);
        }
        self.settle(id).await?;
        if !memory {
            files.await;
            return Ok(false);
        }
        let kept = self.shared.keep_for(id, layer, files).await;
        kept.map_err(|source| DriverError::Operation { action: "keeping the memory of", id: id.clone(), source })
    }

    fn has_memory(&self, layer: &LayerId) -> bool {
        self.shared.has_kept(layer)
    }

    fn memories(&self) -> Vec<LayerId> {
        self.shared.all_kept()
    }

    fn vm_version(&self) -> Option<String> {
        let version = self.shared.version.now();
        version.inspect_err(|error| tracing::warn!(%error, "what machines run on here is not known")).ok()
    }

    fn memory_version(&self, layer: &LayerId) -> Option<String> {
        self.shared.kept_version(layer)
    }

    fn forget_memory(&self, layer: &LayerId) -> io::Result<()> {
        self.shared.forget_kept(layer)
    }

    fn pack_machine(&self, layer: &LayerId, disk: &Path, into: &mut dyn io::Write) -> io::Result<()> {
        self.shared.pack_kept(layer, disk, into)
    }

    fn unpack_machine(&self, layer: &LayerId, from: &mut dyn io::Read, disk: &File) -> io::Result<()> {
        self.shared.unpack_kept(layer, from, disk)
    }

    fn lay_down(&self, id: &SandboxId, volume: &Path, layer: &LayerId, disk: &Path) -> io::Result<bool> {
        self.shared.lay_down(id, volume, layer, disk)
    }

    fn is_paused(&self, id: &SandboxId) -> bool {
        self.shared.cgroups.is_frozen(id.as_str())
    }

    fn is_stored(&self, id: &SandboxId) -> bool {
        self.shared.is_stored(id)
    }

    fn begun(&self, id: &SandboxId) -> Option<InitProcess> {
        self.shared.begun(id)
    }

    async fn kill(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.blocking("killing", id, |shared, id| {
            shared.bridges().remove(id);
            shared.cgroups.kill(id.as_str())?;
            shared.end_volumes(id);
            Ok(())
        })
        .await
    }

    async fn clean_up(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.blocking("cleaning up", id, Shared::remove).await
    }

    fn usage(&self, id: &SandboxId) -> Result<Usage, DriverError> {
        let usage = self.shared.cgroups.usage(id.as_str());
        usage.map_err(|source| DriverError::Operation { action: "measuring", id: id.clone(), source })
    }

    fn leftovers(&self) -> Vec<SandboxId> {
        self.shared.cgroups.names().iter().filter_map(|name| name.parse().ok()).collect()
    }

    async fn shut_down(&self) {
        let shared = Arc::clone(&self.shared);
        shared.bridges().clear();
        shared.volumes().clear();
        let _runtime_gone = tokio::task::spawn_blocking(move || shared.cgroups.remove_base()).await;
    }
}
