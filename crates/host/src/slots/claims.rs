//! Claims on blocks: a file per block in a directory that all Atolls of the machine share.
//!
//! A claim names the claimant's instance, data directory and the boot of the machine. Everything here happens under
//! an exclusive lock of the directory. While an agent runs it also holds a lock on each of its claims, so that nobody
//! takes a claim of a living agent for an abandoned one. An abandoned claim (its data directory is gone or has
//! another id) is taken over only when nothing of it lives: no agent, no process with its ids, no link.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::foreign::Foreign;
use super::{FIRST_BLOCK, GROUP_BASE, LAST_BLOCK, SandboxNetwork, Slot, SlotsConfig, SlotsError, SlotsExhausted};
use crate::instance::{Instance, id_of};

/// A claim is a few hundred bytes; more is not ours.
const MAX_CLAIM_BYTES: u64 = 16 * 1024;
/// Whoever holds the lock for longer than this has been stopped.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// A block that this process holds.
#[derive(Debug)]
pub(super) struct Claim {
    pub block: u8,
    pub network: SandboxNetwork,
    /// Holds the lock that says "this agent lives".
    _file: File,
}

/// What a claim's file says.
#[derive(Debug, Serialize, Deserialize)]
struct Claimant {
    instance: String,
    data_dir: PathBuf,
    boot_id: String,
    network: SandboxNetwork,
    group: u32,
}

#[derive(Debug)]
pub(super) struct Claims {
    instance: Instance,
    config: SlotsConfig,
    /// How to look at the machine; tests look at one where nothing is.
    look: fn() -> Foreign,
}

type Result<T> = std::result::Result<T, SlotsError>;

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SlotsError {
    let path = path.to_owned();
    move |source| SlotsError::Io { action, path, source }
}

impl Claims {
    pub fn new(instance: &Instance, config: SlotsConfig, look: fn() -> Foreign) -> Self {
        Self { instance: instance.clone(), config, look }
    }

    /// All blocks of this instance, at least one, and its interface group.
    pub fn open(&self, in_use: &[Slot]) -> Result<(Vec<Claim>, u32)> {
        let _lock = self.lock()?;
        let mut found = Vec::new();
        let mut group = None;
        for block in FIRST_BLOCK..=LAST_BLOCK {
            let Some(claimant) = self.read(block)? else { continue };
            if claimant.instance != self.instance.id() {
                continue;
            }
            let theirs = &claimant.data_dir;
            if theirs != self.instance.data_dir() && id_of(theirs).as_deref() == Some(self.instance.id()) {
                return Err(SlotsError::CopiedDirectory {
                    ours: self.instance.data_dir().to_owned(),
                    theirs: theirs.clone(),
                });
            }
            group = group.or(Some(claimant.group));
            let network = in_use.iter().find(|slot| slot.block() == block).map_or(claimant.network, |s| s.network());
            found.push((block, network));
        }
        for slot in in_use {
            if !found.iter().any(|(block, _)| *block == slot.block()) {
                found.push((slot.block(), slot.network()));
            }
        }
        if found.is_empty() {
            found.push((self.find_free()?, self.config.network));
        }
        found.sort_unstable();
        let group = group.unwrap_or(GROUP_BASE + u32::from(found[0].0));
        let claims = found.into_iter().map(|(block, network)| self.write(block, network, group));
        Ok((claims.collect::<Result<_>>()?, group))
    }

    /// Claims one block more.
    pub fn claim_another(&self, group: u32) -> Result<Claim> {
        let _lock = self.lock()?;
        self.write(self.find_free()?, self.config.network, group)
    }

    pub fn release(&self, claims: Vec<Claim>) -> Result<()> {
        let _lock = self.lock()?;
        for claim in claims {
            let path = self.path(claim.block);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("removing the claim", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn path(&self, block: u8) -> PathBuf {
        self.config.claims_dir.join(format!("{block:02x}"))
    }

    /// Waits for whoever else works on the claims; they do so for milliseconds.
    fn lock(&self) -> Result<File> {
        let dir = &self.config.claims_dir;
        fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(io_error("making", dir))?;
        let path = dir.join("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("opening", &path))?;
        let start = Instant::now();
        loop {
            match rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) if start.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                other => break other.map_err(|error| io_error("locking", &path)(error.into()))?,
            }
        }
        Ok(file)
    }

    /// `None` when nobody has claimed the block, or the claim can't be understood (a crash in mid-write).
    fn read(&self, block: u8) -> Result<Option<Claimant>> {
        let path = self.path(block);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("reading the claim", &path)(error)),
        };
        let mut text = String::new();
        file.take(MAX_CLAIM_BYTES).read_to_string(&mut text).map_err(io_error("reading the claim", &path))?;
        Ok(serde_json::from_str(&text).ok())
    }

    fn write(&self, block: u8, network: SandboxNetwork, group: u32) -> Result<Claim> {
        let path = self.path(block);
        let claimant = Claimant {
            instance: self.instance.id().to_owned(),
            data_dir: self.instance.data_dir().to_owned(),
            boot_id: super::foreign::boot_id(),
            network,
            group,
        };
        let write = || -> io::Result<File> {
            let mut file =
                fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o644).open(&path)?;
            // Not ours to hold only when a former agent of this very directory is still on its way out.
            let _ = rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive);
            file.set_len(0)?;
            file.rewind()?;
            serde_json::to_writer(&mut file, &claimant)?;
            file.flush()?;
            Ok(file)
        };
        let file = write().map_err(io_error("writing the claim", &path))?;
        Ok(Claim { block, network, _file: file })
    }

    /// The first block that nobody has, or whose claimant has left for good.
    fn find_free(&self) -> Result<u8> {
        let foreign = (self.look)();
        let (mut claimed, mut overlapping) = (0, 0);
        for block in FIRST_BLOCK..=LAST_BLOCK {
            if foreign.overlaps(block, self.config.network) {
                overlapping += 1;
            } else if self.is_free(block, &foreign)? {
                return Ok(block);
            } else {
                claimed += 1;
            }
        }
        Err(SlotsExhausted {
            reason: format!(
                "{claimed} blocks are claimed in {}, {overlapping} overlap /etc/subuid, /etc/subgid or a route in {}",
                self.config.claims_dir.display(),
                self.config.network,
            ),
        }
        .into())
    }

    fn is_free(&self, block: u8, foreign: &Foreign) -> Result<bool> {
        let path = self.path(block);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(!foreign.lives(block)),
            Err(error) => return Err(io_error("reading the claim", &path)(error)),
        };
        if rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        let abandoned = self
            .read(block)?
            .is_none_or(|claimant| id_of(&claimant.data_dir).as_deref() != Some(claimant.instance.as_str()));
        Ok(abandoned && !foreign.lives(block))
    }
}
