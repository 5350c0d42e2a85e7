//! The storage pool: a btrfs with one subvolume, limited by a quota, per sandbox.
//!
//! A volume holds `up/` and `work/`, the upper and work directories of the sandbox's overlay. The driver makes
//! idmapped mounts of them; nothing here follows a path that a sandbox has written.

use std::io;
use std::path::{Path, PathBuf};

use atoll_model::SandboxId;

/// Settings of the pool.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// The most that the pool's image may grow to; by default the size of the file system that it lies on.
    pub size_limit: Option<u64>,
    /// Bytes of the backing file system that no sandbox gets.
    pub reserve: u64,
    /// Use full quota groups where simple ones would work (tests of what old kernels do).
    pub force_full_quotas: bool,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { size_limit: None, reserve: 2 << 30, force_full_quotas: false }
    }
}

/// Why the pool can't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("{action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("mkfs.btrfs failed: {0}")]
    MakeFileSystem(String),
    #[error(transparent)]
    Full(#[from] StorageFull),
}

/// The disk is too full for another sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the storage pool is full: {available} bytes are left beyond the reserve, {wanted} are needed")]
pub struct StorageFull {
    pub available: u64,
    pub wanted: u64,
}

/// A sandbox's directory in the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub path: PathBuf,
}

impl Volume {
    /// The overlay's upper directory: root's, 0755.
    #[must_use]
    pub fn up(&self) -> PathBuf {
        self.path.join("up")
    }

    /// The overlay's work directory.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }
}

/// The pool of one data directory. All calls block, for well under a millisecond but for `delete_volume`.
#[derive(Debug)]
pub struct Pool {}

impl Pool {
    /// Mounts the pool of a data directory, making it first where there is none.
    ///
    /// # Errors
    /// When the kernel or `mkfs.btrfs` refuses.
    pub fn open(_data_dir: &Path, _options: &PoolOptions) -> Result<Self, StorageError> {
        Err(StorageError::MakeFileSystem(String::new()))
    }

    /// Whether another sandbox with this disk limit fits.
    ///
    /// # Errors
    /// `StorageFull` when it doesn't.
    pub fn admit(&self, _limit_bytes: u64) -> Result<(), StorageFull> {
        Ok(())
    }

    /// # Errors
    /// When one of that name exists, or the kernel refuses; nothing is left then.
    pub fn create_volume(&self, _id: &SandboxId, _limit_bytes: u64) -> Result<Volume, StorageError> {
        Err(StorageError::MakeFileSystem(String::new()))
    }

    /// The volume, if there is one.
    #[must_use]
    pub fn open_volume(&self, _id: &SandboxId) -> Option<Volume> {
        None
    }

    /// Deletes a volume with all that is in it. Does nothing where there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_volume(&self, _id: &SandboxId) -> Result<(), StorageError> {
        Ok(())
    }

    /// # Errors
    /// When the pool can't be read.
    pub fn list_volumes(&self) -> Result<Vec<SandboxId>, StorageError> {
        Ok(Vec::new())
    }

    /// Bytes that the volume takes.
    ///
    /// # Errors
    /// When there is no such volume or the kernel refuses.
    pub fn usage(&self, _id: &SandboxId) -> Result<u64, StorageError> {
        Ok(0)
    }

    /// Bytes that sandboxes can still write, all together.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn available_bytes(&self) -> Result<u64, StorageError> {
        Ok(0)
    }

    /// Unmounts the pool when no volume is left; otherwise leaves it mounted. True when it was unmounted.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn close(&self) -> Result<bool, StorageError> {
        Ok(false)
    }
}
