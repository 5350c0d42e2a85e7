//! A machine at rest: what it had in memory and what its devices were, in two files of one directory.
//!
//! A paused one has them beside its record, and nothing of it is in the kernel. Memory is copied twice, while the
//! machine runs and then, when it stands still, the pages that have changed since: so it stands still for a moment only.
//! `devices` appears last, whole and synced, and only then the machine ends: without that file there is nothing to go on
//! with. It is removed before the machine that was made from it takes its first step: from then on the disk goes its
//! own way, and the old memory would not fit it any more.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::SandboxId;

use super::kept::SHAPE;
use super::memory::{Draft, Memory};
use super::qmp::{
    AddFd, Capability, Cont, GetFd, MigrateCapabilities, MigrateIncoming, Qmp, QueryStatus, RemoveFd, SaveDevices, Stop,
};
use super::{QMP_SOCKET, Shared, memory, remove_file};
use crate::driver::InitProcess;
use crate::driver::launch::failpoint;

pub(super) const MEMORY: &str = "memory";
pub(super) const DEVICES: &str = "devices";
/// Beside them, where the machine was not kept for a sandbox's own disk.
pub(super) const DISK: &str = "disk";
/// Beside them: it was paused on another host, and is told when it goes on that its network and clock are others.
pub(super) const MOVED: &str = "moved";
/// Beside a machine's record: the process that went on with what was stored last.
pub(super) const BEGUN: &str = "begun";
/// Behind the names of files that are not whole yet.
const DRAFT: &str = "new";
/// There is only so much room for what a host writes to a machine that reads nothing.
const TRIES: usize = 16;
/// Between two looks at how far it is.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// A gigabyte a second on this kind of machine; far more than it takes.
const PATIENCE: Duration = Duration::from_secs(45);
/// What QEMU writes first, the number of its format, and the first byte of what may follow: the configuration.
const HEAD: [u8; 9] = *b"QEVM\0\0\0\x03\x07";

/// A machine at rest, opened.
pub(super) struct Stored {
    pub memory: File,
    pub devices: OwnedFd,
    /// What its disk was.
    pub disk: Option<File>,
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
        let Some((devices, memory)) = open(DEVICES)?.zip(open(MEMORY)?) else { return Ok(None) };
        Ok(Some(Self { memory, devices: devices.into(), disk: open(DISK)?, moved }))
    }

    /// Whether the devices say how they were written, as those of former agents do.
    pub fn with_configuration(&self) -> io::Result<bool> {
        let mut head = [0; HEAD.len()];
        File::from(self.devices.try_clone()?).read_at(&mut head, 0)?;
        Ok(head == HEAD)
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
        let make = |name: &str, read: bool| {
            let mut options = OpenOptions::new();
            options.read(read).write(true).create(true).truncate(true).mode(0o600).open(draft(directory, name))
        };
        // QEMU takes none for writing that can be read too.
        Ok(Self { memory: make(MEMORY, true)?, devices: make(DEVICES, false)?, directory: directory.to_owned() })
    }

    /// They are on the disk, and what they say is so.
    pub fn keep(&self) -> io::Result<()> {
        self.memory.sync_data()?;
        self.devices.sync_data()?;
        match File::open(self.directory.join(SHAPE)) {
            // What they are of: without it they could not be used.
            Ok(shape) => shape.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        failpoint("vm::pause::synced")?;
        self.name()?;
        File::open(&self.directory)?.sync_all()?;
        failpoint("vm::pause::kept")
    }

    /// What is in the devices' one.
    fn devices_now(&self) -> io::Result<Vec<u8>> {
        fs::read(draft(&self.directory, DEVICES))
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

    /// From here on there is no way back to it, whatever happens to the power: its disk goes on now.
    pub(super) fn forget_stored(&self, id: &SandboxId) -> io::Result<()> {
        Stored::remove(&self.home(id))?;
        File::open(self.home(id))?.sync_all()
    }

    /// Removes what a pause has written that a power cut, or its agent's death, has cut short. As large as its memory was.
    pub(super) fn clear_half_stored(&self, id: &SandboxId) -> io::Result<()> {
        Stored::remove(&self.home(id))
    }

    /// Notes which process goes on with what was stored, for an agent that finds neither that nor a record of it.
    pub(super) fn note_begun(&self, id: &SandboxId, init: &InitProcess) -> io::Result<()> {
        fs::write(self.socket(id, BEGUN), serde_json::to_vec(init)?)
    }

    pub(super) fn begun(&self, id: &SandboxId) -> Option<InitProcess> {
        serde_json::from_slice(&fs::read(self.socket(id, BEGUN)).ok()?).ok()
    }

    /// The memory of a machine that runs.
    pub(super) fn memory_of(&self, id: &SandboxId) -> io::Result<Memory> {
        let (proc, pids) = (memory::proc()?, self.cgroups.processes(id.as_str())?);
        let mut why = io::Error::new(io::ErrorKind::NotFound, "no process has its memory");
        for pid in pids {
            match Memory::of_process(proc.as_fd(), pid) {
                Ok(Some(memory)) => return Ok(memory),
                Ok(None) => {}
                Err(error) => why = error,
            }
        }
        Err(why)
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
            // In a talk of its own: in the other one an answer may still be due.
            drop(qmp);
            if let Err(error) = self.go_on(id).await {
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
            let (drafts, draft) = blocking(move || {
                let draft = from.begin(&drafts.memory)?;
                drafts.memory.sync_data()?;
                failpoint("vm::pause::copied")?;
                Ok((drafts, draft))
            })
            .await?;
            let still = Instant::now();
            qmp.execute(&Stop {}).await?;
            let (drafts, changed) = written_down(qmp, drafts, memory, draft).await?;
            let (ran, copied) = (still - begun, still.elapsed());
            tracing::debug!(?ran, ?copied, changed, "a machine stands still and is written down");
            Ok(drafts)
        };
        tokio::time::timeout(PATIENCE, work).await?
    }

    /// Lets a machine go on that stands still without being frozen; does nothing to others.
    pub(super) async fn go_on(&self, id: &SandboxId) -> io::Result<()> {
        go_on(&mut Qmp::connect(&self.socket(id, QMP_SOCKET)).await?).await
    }

    /// A machine that was started to go on with `stored`, and has its memory: reads what its devices were.
    pub(super) async fn load(&self, id: &SandboxId, stored: &Stored) -> io::Result<Qmp> {
        let loading = async {
            let mut qmp = Qmp::connect(&self.socket(id, QMP_SOCKET)).await?;
            if stored.with_configuration()? {
                // Was written so, and is read only so.
                let capability = Capability { capability: "x-ignore-shared", state: true };
                qmp.execute(&MigrateCapabilities { capabilities: [capability] }).await?;
            }
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

/// Makes `drafts` what a machine is that stands still, of whose memory `draft` was copied before. How many bytes of memory
/// were written.
///
/// Its processors stand still; that its ports do too nobody promises (QEMU 7.2 was seen to read nothing then). What the host
/// writes to one would land in its memory, and the device know of that. So the devices are written down before and after
/// the memory, and both again until nothing was between: memory that is ahead of a device, or behind it, is none that a
/// machine could go on with.
pub(super) async fn written_down(
    qmp: &mut Qmp,
    mut drafts: Drafts,
    memory: Arc<Memory>,
    mut draft: Draft,
) -> io::Result<(Drafts, u64)> {
    let mut changed = 0;
    save_devices(qmp, &drafts.devices).await?;
    for _ in 0..TRIES {
        let (memory, before) = (Arc::clone(&memory), std::mem::replace(&mut draft, Draft::Nothing));
        (drafts, changed) = blocking(move || {
            failpoint("vm::pause::stopped")?;
            let written = memory.finish(&drafts.memory, before)?;
            Ok((drafts, changed + written))
        })
        .await?;
        let devices = drafts.devices_now()?;
        save_devices(qmp, &drafts.devices).await?;
        if devices == drafts.devices_now()? {
            return Ok((drafts, changed));
        }
    }
    Err(io::Error::other("what comes to it while it stands still does not end"))
}

/// Over what was written down before.
async fn save_devices(qmp: &mut Qmp, mut devices: &File) -> io::Result<()> {
    // QEMU goes on from where this has come to.
    devices.rewind()?;
    let set = qmp.execute_with(&AddFd {}, Some(devices.as_fd())).await?.fdset_id;
    // Otherwise QEMU takes it for a machine that has moved, and lets go of its disks.
    let saving = SaveDevices { filename: format!("/dev/fdset/{set}"), live: false };
    let saved = qmp.execute_within(&saving, None, PATIENCE).await;
    qmp.execute(&RemoveFd { fdset_id: set }).await?;
    saved.map(drop)
}

/// Lets it go on if it stands still.
async fn go_on(qmp: &mut Qmp) -> io::Result<()> {
    if !qmp.execute(&QueryStatus {}).await?.running {
        qmp.execute(&Cont {}).await?;
    }
    Ok(())
}
