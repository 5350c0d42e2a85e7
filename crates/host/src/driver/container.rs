//! The container driver: what the launcher, the cgroups and the kernel offer, behind [`Driver`].
//!
//! It keeps nothing about sandboxes in memory. Blocking work runs on the runtime's threads for that, a bounded number
//! at a time: more at once would only wait for each other inside the kernel.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use atoll_model::SandboxId;
use tokio::sync::{Semaphore, oneshot};

use super::files::Processors;
use super::launch::Launcher;
use super::{Driver, DriverError, InitProcess, LaunchSpec, NetworkAttach, Paused, Running, SharedVolume, Steps, Usage};
use crate::cgroup::{Cgroups, Hierarchies};
use crate::zygote::Zygote;

/// How the driver is set up.
pub struct ContainerConfig {
    /// The instance's id: part of the cgroups' name.
    pub instance: String,
    /// The guest agent, see [`super::sealed_program`].
    pub program: OwnedFd,
    /// Below which cgroup to make ours; `None`: the root of each hierarchy.
    pub cgroup_parent: Option<PathBuf>,
    /// The cgroup trees to use; `None`: those that are mounted.
    pub hierarchies: Option<Hierarchies>,
    /// Processes to clone from; one serves about a thousand launches a second.
    pub zygotes: usize,
}

impl ContainerConfig {
    #[must_use]
    pub fn new(instance: impl Into<String>, program: OwnedFd) -> Self {
        Self { instance: instance.into(), program, cgroup_parent: None, hierarchies: None, zygotes: 1 }
    }
}

/// Launches that are in the kernel's hands at the same time, per processor.
const LAUNCHES_PER_CPU: usize = 4;

/// How long a pause waits for memory to go to swap.
pub(super) const RECLAIM_PATIENCE: Duration = Duration::from_millis(500);

pub struct ContainerDriver {
    launcher: Arc<Launcher>,
    launches: Arc<Semaphore>,
}

impl fmt::Debug for ContainerDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerDriver").field("launcher", &self.launcher).finish_non_exhaustive()
    }
}

impl ContainerDriver {
    /// Makes the instance's cgroups and starts the zygote.
    ///
    /// # Errors
    /// When a cgroup controller is missing, or something can't be started or read.
    pub fn start(config: ContainerConfig) -> io::Result<Self> {
        let hierarchies = config.hierarchies.map_or_else(Hierarchies::detect, Ok)?;
        let cgroups = Cgroups::open(&hierarchies, config.cgroup_parent.as_deref(), &config.instance)?;
        let cpus = own_cpus()?;
        let launches = Arc::new(Semaphore::new(cpus.len().max(1) * LAUNCHES_PER_CPU));
        let launcher = Launcher {
            zygote: Zygote::start(config.program, config.zygotes)?,
            cgroups: Arc::new(cgroups),
            processors: Processors::of_this_machine()?,
            cpus,
            held: Mutex::default(),
        };
        Ok(Self { launcher: Arc::new(launcher), launches })
    }

    /// The zygotes' process ids.
    #[must_use]
    pub fn zygote_pids(&self) -> Vec<u32> {
        self.launcher.zygote.pids()
    }

    /// Runs something that blocks, and names the sandbox in its error.
    async fn blocking<T: Send + 'static>(
        &self,
        action: &'static str,
        id: &SandboxId,
        work: impl FnOnce(&Launcher, &str) -> io::Result<T> + Send + 'static,
    ) -> Result<T, DriverError> {
        let (launcher, id) = (Arc::clone(&self.launcher), id.clone());
        let name = id.clone();
        match tokio::task::spawn_blocking(move || work(&launcher, name.as_str())).await {
            Ok(result) => result.map_err(|source| DriverError::Operation { action, id, source }),
            Err(_) => Err(DriverError::Lost { action, id }),
        }
    }
}

/// Whether there is anywhere to put memory.
pub(super) fn has_swap() -> bool {
    // The first line is a heading.
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

fn own_cpus() -> io::Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

#[async_trait]
impl Driver for ContainerDriver {
    async fn launch(
        &self,
        spec: LaunchSpec,
        network: Arc<dyn NetworkAttach>,
        trace: &mut Steps,
    ) -> Result<Running, DriverError> {
        let lost = DriverError::Lost { action: "launching", id: spec.id.clone() };
        let Ok(permit) = Arc::clone(&self.launches).acquire_owned().await else { return Err(lost) };
        trace.done("wait for a turn");
        let launcher = Arc::clone(&self.launcher);
        let mut own = trace.fork();
        let (answer, answered) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let result = launcher.launch(&spec, &*network, &mut own);
            // Nobody waits any more: the sandbox has no record that would ever end it.
            if let Err((Ok(running), _)) = answer.send((result, own)) {
                launcher.remove(&running.id, None);
                let _gone = std::fs::remove_file(&spec.socket_path);
            }
            drop(permit);
        });
        let Ok((result, own)) = answered.await else { return Err(lost) };
        trace.absorb(own);
        result
    }

    async fn adopt(&self, id: &SandboxId, init: &InitProcess, _mounted_already: Vec<SharedVolume>) -> Option<Running> {
        let pidfd = init.open()?;
        Some(Running::new(id.clone(), init.clone(), pidfd, Arc::clone(&self.launcher.cgroups)))
    }

    async fn pause(&self, id: &SandboxId) -> Result<Paused, DriverError> {
        self.blocking("pausing", id, |launcher, name| launcher.cgroups.freeze(name)).await.map(|()| Paused::Standing)
    }

    async fn resume(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.blocking("resuming", id, |launcher, name| launcher.cgroups.thaw(name)).await
    }

    async fn reclaim(&self, id: &SandboxId) -> u64 {
        if !has_swap() {
            return 0;
        }
        let before = self.usage(id).map_or(0, |usage| usage.memory_bytes);
        let reclaiming = self.blocking("reclaiming the memory of", id, |launcher, name| launcher.cgroups.reclaim(name));
        // What takes longer goes on behind the answer.
        if let Ok(Err(error)) = tokio::time::timeout(RECLAIM_PATIENCE, reclaiming).await {
            tracing::debug!(sandbox = %id, %error, "its memory stays where it is");
        }
        before.saturating_sub(self.usage(id).map_or(before, |usage| usage.memory_bytes))
    }

    fn is_paused(&self, id: &SandboxId) -> bool {
        self.launcher.cgroups.is_frozen(id.as_str())
    }

    async fn kill(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.blocking("killing", id, Launcher::kill).await
    }

    async fn clean_up(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.blocking("cleaning up", id, |launcher, name| {
            launcher.cgroups.kill(name)?;
            launcher.release(name);
            launcher.cgroups.remove(name)
        })
        .await
    }

    fn cpu_usec(&self, id: &SandboxId) -> Result<u64, DriverError> {
        let usec = self.launcher.cgroups.cpu_usec(id.as_str());
        usec.map_err(|source| DriverError::Operation { action: "measuring", id: id.clone(), source })
    }

    fn usage(&self, id: &SandboxId) -> Result<Usage, DriverError> {
        let usage = self.launcher.cgroups.usage(id.as_str());
        usage.map_err(|source| DriverError::Operation { action: "measuring", id: id.clone(), source })
    }

    fn leftovers(&self) -> Vec<SandboxId> {
        self.launcher.cgroups.names().iter().filter_map(|name| name.parse().ok()).collect()
    }

    async fn shut_down(&self) {
        let launcher = Arc::clone(&self.launcher);
        let done = tokio::task::spawn_blocking(move || {
            launcher.zygote.stop();
            launcher.cgroups.remove_base();
        });
        let _stopped_or_runtime_gone = done.await;
    }
}
