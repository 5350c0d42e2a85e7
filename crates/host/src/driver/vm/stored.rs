//! A paused machine on the disk: memory and devices in one file beside its record, and nothing of it in the kernel.
//!
//! The file appears whole (a draft, synced, renamed) while the machine stands still, and only then the machine ends. It is
//! removed before the machine that was made from it takes its first step: from then on the disk goes its own way, and
//! the old memory would not fit it any more.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use atoll_model::SandboxId;

use super::qmp::{Cont, GetFd, Migrate, MigrateParameters, Migration, Qmp, QueryMigrate, QueryStatus, Stop};
use super::{QMP_SOCKET, Shared};

const NAME: &str = "memory";
const DRAFT: &str = "memory.new";
/// Between two looks at how far it is.
const LOOK_AGAIN: Duration = Duration::from_millis(3);
/// A gigabyte a second on this kind of machine; far more than it takes.
const PATIENCE: Duration = Duration::from_secs(45);
/// As fast as it goes.
const BANDWIDTH: u64 = 1 << 40;

impl Shared {
    pub(super) fn memory_file(&self, id: &SandboxId) -> PathBuf {
        self.socket(id, NAME)
    }

    /// What was stored of a machine, opened; none when nothing was.
    pub(super) fn open_stored(&self, id: &SandboxId) -> io::Result<Option<OwnedFd>> {
        match File::open(self.memory_file(id)) {
            Ok(file) => Ok(Some(file.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// From here on there is no way back to it.
    pub(super) fn forget_stored(&self, id: &SandboxId) -> io::Result<()> {
        super::remove_file(&self.memory_file(id))
    }

    /// Stops the machine and writes it to the disk. When that fails it goes on.
    pub(super) async fn store(&self, id: &SandboxId) -> io::Result<()> {
        let mut qmp = Qmp::connect(&self.socket(id, QMP_SOCKET)).await?;
        qmp.execute(&Stop {}).await?;
        let written = tokio::time::timeout(PATIENCE, self.write(id, &mut qmp)).await;
        let written = written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if written.is_err() {
            super::remove_file(&self.socket(id, DRAFT))?;
            qmp.execute(&Cont {}).await?;
        }
        written
    }

    async fn write(&self, id: &SandboxId, qmp: &mut Qmp) -> io::Result<()> {
        let draft = self.socket(id, DRAFT);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        qmp.execute_with(&GetFd { fdname: NAME }, Some(file.as_fd())).await?;
        qmp.execute(&MigrateParameters { max_bandwidth: BANDWIDTH }).await?;
        qmp.execute(&Migrate { uri: "fd:memory" }).await?;
        wait_for(qmp).await?;
        let place = self.memory_file(id);
        let kept = tokio::task::spawn_blocking(move || {
            file.sync_data()?;
            fs::rename(&draft, &place)
        });
        kept.await.map_err(io::Error::other)?
    }

    /// Lets a machine go on that stands still without being frozen; does nothing to others.
    pub(super) async fn go_on(&self, id: &SandboxId) -> io::Result<()> {
        let mut qmp = Qmp::connect(&self.socket(id, QMP_SOCKET)).await?;
        if !qmp.execute(&QueryStatus {}).await?.running {
            qmp.execute(&Cont {}).await?;
        }
        Ok(())
    }

    /// A machine that was started from what was stored: waits until it has read all, forgets that, and lets it go.
    pub(super) async fn wake(&self, id: &SandboxId) -> io::Result<()> {
        let mut qmp = Qmp::connect(&self.socket(id, QMP_SOCKET)).await?;
        let loaded = async {
            while qmp.execute(&QueryStatus {}).await?.status == "inmigrate" {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            io::Result::Ok(())
        };
        tokio::time::timeout(PATIENCE, loaded).await??;
        self.forget_stored(id)?;
        qmp.execute(&Cont {}).await.map(drop)
    }
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
