//! What a power cut must not take of the embedded database, written out behind the answers and for many at once.
//!
//! A commit of SQLite's is in its log before it is answered; that the disk has it too would cost each a sync of its own
//! (`synchronous = NORMAL` leaves that to the next checkpoint, which may be long after). So the log is written out about a
//! second after a commit, as a host does with its records: what a cut takes is the last second. Its frames are in order
//! and under checksums, so what is found then is all that was committed up to some moment. Whoever does what can't be taken
//! back, because rows say so now, waits for them ([`Db::write_out`]). PostgreSQL's commits are on its disk.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Db;

/// Between two looks whether there is anything to write out.
const EVERY: Duration = Duration::from_secs(1);

/// The write-ahead log's file. SQLite holds no locks on it, which closing it would drop; it is the same for as long as the
/// database is open.
#[derive(Clone, Debug)]
pub struct Wal(Arc<File>);

impl Wal {
    pub(super) fn of(database: &Path) -> io::Result<Self> {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        let file = File::open(path)?;
        // That it is there at all.
        if let Some(directory) = database.parent().filter(|path| !path.as_os_str().is_empty()) {
            File::open(directory)?.sync_all()?;
        }
        Ok(Self(Arc::new(file)))
    }
}

impl Db {
    /// What was committed before this call survives a power cut from now on.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn write_out(&self) -> io::Result<()> {
        let Self::Sqlite { wal, .. } = self else { return Ok(()) };
        let file = Arc::clone(&wal.0);
        tokio::task::spawn_blocking(move || file.sync_data()).await.map_err(io::Error::other)?
    }

    /// Writes out what is committed until the end, and then once more.
    pub async fn stay_written_out(self, shutdown: CancellationToken) {
        let Self::Sqlite { log, .. } = &self else { return };
        let mut written = None;
        loop {
            let is_over = shutdown.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none();
            // Looked at before: a commit that comes meanwhile is the next one's.
            let now = log.as_ref().and_then(super::fresh::Log::header);
            if now.is_none() || now != written {
                match self.write_out().await {
                    Ok(()) => {
                        written = now;
                        tracing::debug!("the database is written out");
                    }
                    Err(error) => {
                        tracing::error!(%error, "the database can't be written out: a power cut might take the last of it");
                    }
                }
            }
            if is_over {
                return;
            }
        }
    }
}
