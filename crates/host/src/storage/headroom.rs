//! Keeps the pool from outgrowing the file system below it.
//!
//! The pool's image is sparse: it promises more than there may be. If the file system below ran full, btrfs could no
//! longer write and would turn read-only for every sandbox. So all volumes are members of one quota group, whose
//! limit follows the space that is really left: when it gets scarce, whoever wants more gets "disk quota exceeded",
//! and the pool lives on. A thread looks once a second; the reserve is what may be written between two looks.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::backing::Backing;
use super::{StorageError, btrfs, io_error};
use crate::instance;

/// Quota groups of level 7; lower levels are left to whoever else uses the file system.
const LEVEL: u64 = 7 << 48;
const INTERVAL: Duration = Duration::from_secs(1);
/// Changing a limit writes metadata: not worth it for less.
const STEP: u64 = 64 << 20;
/// With more than this left, the group has no limit.
const PLENTY: u64 = 64 << 30;

#[derive(Debug)]
pub(super) struct Headroom {
    root: File,
    below: PathBuf,
    image: bool,
    sysfs: String,
    group: u64,
    reserve: u64,
    stopped: Mutex<bool>,
    wake: Condvar,
    last_limit: Mutex<Option<u64>>,
}

/// The group of all volumes of a data directory: its instance id as a number, so that two in one btrfs differ.
pub(super) fn group_of(data_dir: &Path) -> u64 {
    let id = instance::id_of(data_dir).and_then(|id| u64::from_str_radix(&id, 36).ok());
    LEVEL | (id.unwrap_or(0) & ((1 << 48) - 1))
}

/// The thread that looks; ends, and is waited for, when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    headroom: Arc<Headroom>,
    thread: Option<JoinHandle<()>>,
}

impl std::ops::Deref for Watch {
    type Target = Headroom;
    fn deref(&self) -> &Headroom {
        &self.headroom
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        *self.headroom.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.headroom.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Headroom {
    /// Sets the limit now, and goes on in a thread.
    pub fn watch(backing: &Backing, root: &File, group: u64, reserve: u64) -> Result<Watch, StorageError> {
        let this = Arc::new(Self {
            root: root.try_clone().map_err(io_error("opening", &backing.dir))?,
            below: backing.below.clone(),
            image: backing.image,
            sysfs: backing.sysfs.clone(),
            group,
            reserve,
            stopped: Mutex::new(false),
            wake: Condvar::new(),
            last_limit: Mutex::new(None),
        });
        this.adjust().map_err(io_error("limiting the storage pool at", &backing.dir))?;
        let watched = Arc::clone(&this);
        let thread = std::thread::Builder::new()
            .name("pool-headroom".to_owned())
            .spawn(move || {
                while !watched.wait() {
                    if let Err(error) = watched.adjust() {
                        tracing::warn!(%error, "adjusting the storage pool's limit");
                    }
                }
            })
            .map_err(io_error("starting the watch over", &backing.dir))?;
        Ok(Watch { headroom: this, thread: Some(thread) })
    }

    /// Waits for the next look; true when stopped.
    fn wait(&self) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.wake.wait_timeout_while(stopped, INTERVAL, |stopped| !*stopped);
        *result.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Bytes that can still be written without touching the reserve.
    pub fn available(&self) -> io::Result<u64> {
        let pool = rustix::fs::fstatvfs(&self.root)?;
        if is_read_only(&pool) {
            return Ok(0);
        }
        let pool_left = pool.f_bavail * pool.f_frsize;
        if !self.image {
            return Ok(pool_left.saturating_sub(self.reserve));
        }
        let below = rustix::fs::statvfs(&self.below)?;
        // What the image has already allocated but btrfs doesn't use is given back by discards, soon enough.
        Ok(pool_left.min((below.f_bavail * below.f_frsize).saturating_sub(self.reserve)))
    }

    /// Whether the pool has turned read-only: somebody else has filled the disk below it to the last byte.
    pub fn is_read_only(&self) -> bool {
        rustix::fs::fstatvfs(&self.root).is_ok_and(|pool| is_read_only(&pool))
    }

    /// What is available and what the volumes hold, together.
    pub fn capacity(&self) -> io::Result<u64> {
        Ok(self.available()?.saturating_add(btrfs::group_usage(&self.sysfs, self.group)?))
    }

    fn adjust(&self) -> io::Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        let available = self.available()?;
        let limit = if available > PLENTY {
            u64::MAX
        } else {
            let used = btrfs::group_usage(&self.sysfs, self.group)?;
            (used.saturating_add(available) / STEP * STEP).max(1)
        };
        let mut last = self.last_limit.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != Some(limit) {
            btrfs::limit_group(self.root.as_fd(), self.group, limit)?;
            *last = Some(limit);
        }
        Ok(())
    }
}

fn is_read_only(of: &rustix::fs::StatVfs) -> bool {
    of.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)
}
