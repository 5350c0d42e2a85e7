//! A machine at rest: what it had in memory and what its devices were, in two files of one directory.
//!
//! A paused one has them beside its record, and nothing of it is in the kernel. Memory is copied twice, while the
//! machine runs and then, when it stands still, the pages that have changed since: so it stands still for a moment only.
//! `devices` appears last, whole and synced, and only then the machine ends: without that file there is nothing to go on
//! with. It is removed before the machine that was made from it takes its first step: from then on the disk goes its
//! own way, and the old memory would not fit it any more.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::SandboxId;

use super::qmp::{
    Capability, Cont, GetFd, Migrate, MigrateCapabilities, MigrateIncoming, MigrateParameters, Migration, Qmp,
    QueryMigrate, QueryStatus, Stop,
};
use super::{QMP_SOCKET, Shared, memory, remove_file};
use crate::driver::launch::failpoint;

pub(super) const MEMORY: &str = "memory";
pub(super) const DEVICES: &str = "devices";
/// Beside them: it was paused on another host, and is told when it goes on that its network and clock are others.
pub(super) const MOVED: &str = "moved";
/// Behind the names of files that are not whole yet.
const DRAFT: &str = "new";
/// Between two looks at how far it is.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// A gigabyte a second on this kind of machine; far more than it takes.
const PATIENCE: Duration = Duration::from_secs(45);
/// As fast as it goes.
const BANDWIDTH: u64 = 1 << 40;

/// A machine at rest, opened.
pub(super) struct Stored {
    pub memory: File,
    pub devices: OwnedFd,
    /// It stood still on another host.
    pub moved: bool,
}

impl Stored {
    /// None when there is none, or not a whole one.
    pub fn open(directory: &Path) -> io::Result<Option<Self>> {
        let open = |name: &str| match File::open(directory.join(name)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let moved = directory.join(MOVED).exists();
        Ok(open(DEVICES)?.zip(open(MEMORY)?).map(|(devices, memory)| Self { memory, devices: devices.into(), moved }))
    }

    pub fn remove(directory: &Path) -> io::Result<()> {
        remove_file(&directory.join(DEVICES))?;
        for name in [MEMORY, DEVICES] {
            remove_file(&draft(directory, name))?;
        }
        remove_file(&directory.join(MOVED))?;
        remove_file(&directory.join(MEMORY))
    }
}

/// Files that are being written.
pub(super) struct Drafts {
    pub memory: File,
    pub devices: File,
    directory: PathBuf,
}

impl Drafts {
    pub fn make(directory: &Path) -> io::Result<Self> {
        let make = |name: &str| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true).mode(0o600).open(draft(directory, name))
        };
        Ok(Self { memory: make(MEMORY)?, devices: make(DEVICES)?, directory: directory.to_owned() })
    }

    /// They are on the disk, and what they say is so.
    pub fn keep(&self) -> io::Result<()> {
        self.memory.sync_data()?;
        self.devices.sync_data()?;
        failpoint("vm::pause::synced")?;
        self.name()?;
        File::open(&self.directory)?.sync_all()?;
        failpoint("vm::pause::kept")
    }

    pub fn name(&self) -> io::Result<()> {
        for name in [MEMORY, DEVICES] {
            fs::rename(draft(&self.directory, name), self.directory.join(name))?;
        }
        Ok(())
    }
}

fn draft(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.{DRAFT}"))
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

impl Shared {
    fn home(&self, id: &SandboxId) -> PathBuf {
        self.sandboxes.join(id.as_str())
    }

    pub(super) fn is_stored(&self, id: &SandboxId) -> bool {
        self.socket(id, DEVICES).is_file()
    }

    /// What was stored of a machine, opened; none when nothing was.
    pub(super) fn open_stored(&self, id: &SandboxId) -> io::Result<Option<Stored>> {
        Stored::open(&self.home(id))
    }

    /// From here on there is no way back to it.
    pub(super) fn forget_stored(&self, id: &SandboxId) -> io::Result<()> {
        Stored::remove(&self.home(id))
    }

    /// The memory of a machine that runs.
    pub(super) fn memory_of(&self, id: &SandboxId) -> io::Result<File> {
        let (proc, pids) = (memory::proc()?, self.cgroups.processes(id.as_str())?);
        let found = pids.into_iter().find_map(|pid| memory::of_process(proc.as_fd(), pid, None, Duration::ZERO).ok());
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no process has its memory"))
    }

    /// An agent may have died on the way, with the machine standing still and files of any age.
    pub(super) async fn begin_anew(&self, id: &SandboxId) -> io::Result<()> {
        self.forget_stored(id)?;
        self.go_on(id).await
    }

    /// Stops the machine and writes it to the disk. When that fails it goes on.
    pub(super) async fn store(&self, id: &SandboxId) -> io::Result<()> {
        let home = self.home(id);
        let mut qmp = Qmp::connect(&self.socket(id, QMP_SOCKET)).await?;
        let kept = match self.stand_still(id, &home, &mut qmp).await {
            Ok(drafts) => {
                let keeping = tokio::time::timeout(PATIENCE, blocking(move || drafts.keep())).await;
                keeping.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            }
            Err(error) => Err(error),
        };
        if kept.is_err() {
            Stored::remove(&home)?;
            if let Err(error) = go_on(&mut qmp).await {
                tracing::warn!(sandbox = %id, %error, "a machine that could not be stored does not go on");
            }
        }
        kept
    }

    /// Writes the machine into `directory`; it stands still from then on, whether that succeeds or not.
    pub(super) async fn stand_still(&self, id: &SandboxId, directory: &Path, qmp: &mut Qmp) -> io::Result<Drafts> {
        let memory = Arc::new(self.memory_of(id)?);
        let drafts = Drafts::make(directory)?;
        let from = memory.clone();
        let work = async {
            let begun = Instant::now();
            let drafts = blocking(move || {
                memory::copy(&from, &drafts.memory, true)?;
                drafts.memory.sync_data()?;
                failpoint("vm::pause::copied")?;
                Ok(drafts)
            })
            .await?;
            let still = Instant::now();
            self.stop_with_devices(qmp, &drafts.devices).await?;
            let devices = still.elapsed();
            blocking(move || {
                failpoint("vm::pause::stopped")?;
                let changed = memory::copy(&memory, &drafts.memory, false)?;
                let (ran, copied) = (still - begun, still.elapsed());
                tracing::debug!(?ran, ?devices, ?copied, changed, "a machine stands still and is written down");
                Ok(drafts)
            })
            .await
        };
        tokio::time::timeout(PATIENCE, work).await?
    }

    /// Has the machine stand still, and writes down what its devices are.
    pub(super) async fn stop_with_devices(&self, qmp: &mut Qmp, devices: &File) -> io::Result<()> {
        qmp.execute(&Stop {}).await?;
        qmp.execute_with(&GetFd { fdname: DEVICES }, Some(devices.as_fd())).await?;
        qmp.execute(&MigrateParameters { max_bandwidth: BANDWIDTH }).await?;
        leave_memory_out(qmp).await?;
        qmp.execute(&Migrate { uri: "fd:devices" }).await?;
        wait_for(qmp).await
    }

    /// Lets a machine go on that stands still without being frozen; does nothing to others.
    pub(super) async fn go_on(&self, id: &SandboxId) -> io::Result<()> {
        go_on(&mut Qmp::connect(&self.socket(id, QMP_SOCKET)).await?).await
    }

    /// A machine that was started to go on with `stored`, and has its memory: reads what its devices were.
    pub(super) async fn load(&self, id: &SandboxId, stored: &Stored) -> io::Result<Qmp> {
        let loading = async {
            let mut qmp = Qmp::connect(&self.socket(id, QMP_SOCKET)).await?;
            leave_memory_out(&mut qmp).await?;
            qmp.execute_with(&GetFd { fdname: DEVICES }, Some(stored.devices.as_fd())).await?;
            qmp.execute(&MigrateIncoming { uri: "fd:devices" }).await?;
            while qmp.execute(&QueryStatus {}).await?.status == "inmigrate" {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok(qmp)
        };
        tokio::time::timeout(PATIENCE, loading).await?
    }
}

/// Memory that is shared with a file is not written into the stream, nor looked for in it.
async fn leave_memory_out(qmp: &mut Qmp) -> io::Result<()> {
    let capability = Capability { capability: "x-ignore-shared", state: true };
    qmp.execute(&MigrateCapabilities { capabilities: [capability] }).await.map(drop)
}

/// Lets it go on if it stands still.
pub(super) async fn go_on(qmp: &mut Qmp) -> io::Result<()> {
    if !qmp.execute(&QueryStatus {}).await?.running {
        qmp.execute(&Cont {}).await?;
    }
    Ok(())
}

async fn wait_for(qmp: &mut Qmp) -> io::Result<()> {
    loop {
        let Migration { status, error_desc } = qmp.execute(&QueryMigrate {}).await?;
        match status.as_deref() {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => {
                return Err(io::Error::other(error_desc.unwrap_or_else(|| "QEMU could not write it".to_owned())));
            }
            _ => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}
