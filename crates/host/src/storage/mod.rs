//! The storage pool: a btrfs with one subvolume, limited by a quota, per sandbox.
//!
//! Beside the sandboxes' volumes lie [`layers`], read-only snapshots of them on which other sandboxes stand, [`imports`],
//! which are such layers of other hosts, and [`shared`] volumes that outlive sandboxes.
//!
//! A volume holds `up/` and `work/`, the upper and work directories of the sandbox's overlay. The driver makes
//! idmapped mounts of them; nothing here follows a path that a sandbox has written. Where the bytes lie is
//! [`backing`]'s business, what btrfs is told is [`btrfs`]'s, and [`headroom`] keeps the pool from outgrowing what
//! lies below it. docs/storage.md says it for operators.

mod backing;
mod btrfs;
pub mod clear;
mod headroom;
mod imports;
mod layers;
pub(crate) mod loop_device;
mod shared;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use atoll_model::{SandboxId, VolumeId};
use rustix::fs::Mode;

use backing::Backing;
use headroom::{Headroom, Watch};
pub use imports::{Import, surplus};
pub use shared::{HOSTS_OWN, SharedVolume, UNLINKED, clear_unlinked, held_bytes, make_hosts_own};

/// Settings of the pool.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// The most that the pool's image may grow to; by default the size of the file system that it lies on.
    pub size_limit: Option<u64>,
    /// Bytes of the backing file system that no sandbox gets.
    pub reserve: u64,
    /// How many times over the free space is promised: a create needs its disk limit divided by this to be free.
    pub overcommit: u64,
    /// Use full quota groups where simple ones would work (tests of what old kernels do).
    pub force_full_quotas: bool,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { size_limit: None, reserve: 2 << 30, overcommit: 4, force_full_quotas: false }
    }
}

/// Why the pool can't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("{action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("mkfs.btrfs failed: {0}")]
    MakeFileSystem(String),
    #[error("the volume {0} was deleted")]
    Deleted(VolumeId),
    #[error(transparent)]
    Full(#[from] StorageFull),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError::Io { action, path, source }
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

/// The pool of one data directory. All calls block: creating takes a tenth of a millisecond, deleting some more.
#[derive(Debug)]
pub struct Pool {
    backing: Backing,
    root: File,
    options: PoolOptions,
    /// The quota group of all volumes together.
    group: u64,
    headroom: Watch,
    /// Quota groups of deleted volumes that the kernel still cleans up.
    leaving: Mutex<Vec<u64>>,
    /// Shared volumes that were deleted, the latest last.
    deleted: Mutex<VecDeque<VolumeId>>,
}

impl Pool {
    /// Mounts the pool of a data directory, making it first where there is none.
    ///
    /// # Errors
    /// When the kernel or `mkfs.btrfs` refuses.
    pub fn open(data_dir: &Path, options: &PoolOptions) -> Result<Self, StorageError> {
        let backing = Backing::open(data_dir, options)?;
        let root = File::open(&backing.dir).map_err(io_error("opening", &backing.dir))?;
        let group = headroom::group_of(data_dir);
        btrfs::create_group(root.as_fd(), group).map_err(io_error("making the quota group of", &backing.dir))?;
        let headroom = Headroom::watch(&backing, &root, group, options.reserve)?;
        let pool = Self {
            backing,
            root,
            options: options.clone(),
            group,
            headroom,
            leaving: Mutex::default(),
            deleted: Mutex::default(),
        };
        pool.sweep_imports()?;
        pool.sweep_groups()?;
        Ok(pool)
    }

    /// Whether another sandbox with this disk limit fits: promises may exceed the free space by the overcommit factor.
    ///
    /// # Errors
    /// `StorageFull` when it doesn't.
    pub fn admit(&self, limit_bytes: u64) -> Result<(), StorageFull> {
        let wanted = limit_bytes / self.options.overcommit.max(1);
        let available = self.available_bytes().unwrap_or(0);
        if available < wanted.max(1) { Err(StorageFull { available, wanted }) } else { Ok(()) }
    }

    /// Makes a volume that holds at most `limit_bytes`, metadata included.
    ///
    /// # Errors
    /// When one of that name exists, or the kernel refuses; nothing is left then.
    pub fn create_volume(&self, id: &SandboxId, limit_bytes: u64) -> Result<Volume, StorageError> {
        let path = self.backing.dir.join(id.as_str());
        btrfs::create_subvolume(self.root.as_fd(), id.as_str(), limit_bytes, self.group)
            .map_err(io_error("making the volume", &path))?;
        let fill = || -> io::Result<()> {
            let volume = open_dir(&self.root, id.as_str())?;
            for (name, mode) in [("up", 0o755), ("work", 0o700)] {
                rustix::fs::mkdirat(&volume, name, Mode::from_raw_mode(mode))?;
            }
            // mkdir's mode went through this process's umask.
            rustix::fs::chmodat(&volume, "up", Mode::from_raw_mode(0o755), rustix::fs::AtFlags::empty())?;
            Ok(())
        };
        if let Err(error) = fill() {
            if let Err(error) = self.delete_volume(id) {
                tracing::warn!(%error, "removing a volume that could not be filled");
            }
            return Err(io_error("filling the volume", &path)(error));
        }
        Ok(Volume { path })
    }

    /// The volume, if there is one.
    #[must_use]
    pub fn open_volume(&self, id: &SandboxId) -> Option<Volume> {
        let volume = Volume { path: self.backing.dir.join(id.as_str()) };
        (volume.up().is_dir() && volume.work().is_dir()).then_some(volume)
    }

    /// Gives a volume another name. Takes a moment.
    ///
    /// # Errors
    /// When there is no such volume, or one of the other name.
    pub fn rename_volume(&self, from: &SandboxId, to: &SandboxId) -> Result<Volume, StorageError> {
        let path = self.backing.dir.join(to.as_str());
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&self.root, from.as_str(), &self.root, to.as_str(), flags)
            .map_err(|error| io_error("renaming the volume", &path)(error.into()))?;
        Ok(Volume { path })
    }

    /// Changes what a volume may hold.
    ///
    /// # Errors
    /// When there is no such volume or the kernel refuses.
    pub fn set_limit(&self, id: &SandboxId, limit_bytes: u64) -> Result<(), StorageError> {
        let set = || btrfs::limit_group(self.root.as_fd(), self.group_of(id)?, limit_bytes);
        set().map_err(io_error("limiting the volume", &self.backing.dir.join(id.as_str())))
    }

    /// Deletes a volume with all that is in it. Does nothing where there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_volume(&self, id: &SandboxId) -> Result<(), StorageError> {
        let path = self.backing.dir.join(id.as_str());
        let group = match self.group_of(id) {
            Ok(group) => group,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.remove_groups();
                return Ok(());
            }
            Err(error) => return Err(io_error("looking at the volume", &path)(error)),
        };
        match btrfs::destroy_subvolume(self.root.as_fd(), id.as_str()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A directory that is no subvolume: not made here, but in the way all the same.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                fs::remove_dir_all(&path).map_err(io_error("deleting", &path))?;
                return Ok(());
            }
            Err(error) => return Err(io_error("deleting the volume", &path)(error)),
        }
        self.leaving().push(group);
        self.remove_groups();
        Ok(())
    }

    /// Has the disk take the volumes that were made, their names and limits, and not yet what was just written into them.
    ///
    /// # Errors
    /// When it refuses.
    pub fn commit(&self) -> Result<(), StorageError> {
        btrfs::commit(self.root.as_fd()).map_err(io_error("committing", &self.backing.dir))
    }

    /// Has the disk take all that was written to the pool.
    ///
    /// # Errors
    /// When it refuses.
    pub fn write_out(&self) -> Result<(), StorageError> {
        let dir = &self.backing.dir;
        let written = fs::File::open(dir).and_then(|root| Ok(rustix::fs::syncfs(&root)?));
        written.map_err(io_error("writing out", dir))
    }

    /// The sandboxes that have a volume.
    ///
    /// # Errors
    /// When the pool can't be read.
    pub fn list_volumes(&self) -> Result<Vec<SandboxId>, StorageError> {
        let dir = &self.backing.dir;
        let names = || -> io::Result<Vec<SandboxId>> {
            let mut found = Vec::new();
            for entry in fs::read_dir(dir)? {
                found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<SandboxId>().ok()));
            }
            Ok(found)
        };
        names().map_err(io_error("listing", dir))
    }

    /// Bytes that the volume takes. What was written a moment ago may be missing until btrfs has allocated it.
    ///
    /// # Errors
    /// When there is no such volume or the kernel refuses.
    pub fn usage(&self, id: &SandboxId) -> Result<u64, StorageError> {
        let usage = || btrfs::group_usage(&self.backing.sysfs, self.group_of(id)?);
        usage().map_err(io_error("measuring the volume", &self.backing.dir.join(id.as_str())))
    }

    /// Bytes that sandboxes can still write, all together.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn available_bytes(&self) -> Result<u64, StorageError> {
        self.headroom.available().map_err(io_error("measuring", &self.backing.dir))
    }

    /// Whether it has turned read-only, for good: see `headroom`.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.headroom.is_read_only()
    }

    /// Bytes that sandboxes could write if there were none: the pool's capacity.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn capacity_bytes(&self) -> Result<u64, StorageError> {
        self.headroom.capacity().map_err(io_error("measuring", &self.backing.dir))
    }

    /// Unmounts the pool when no volume is left; otherwise leaves it mounted. True when it was unmounted. The last act:
    /// the file system itself goes when this `Pool` is dropped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn close(&self) -> Result<bool, StorageError> {
        if !self.list_volumes()?.is_empty() {
            return Ok(false);
        }
        self.backing.unmount().map_err(io_error("unmounting", &self.backing.dir))?;
        Ok(true)
    }

    /// The quota group of a volume, which is its subvolume's id.
    fn group_of(&self, id: &SandboxId) -> io::Result<u64> {
        btrfs::subvolume_id(open_dir(&self.root, id.as_str())?.as_fd())
    }

    /// Removes the quota groups of volumes that are gone. New kernels do it by themselves, old ones don't, and none
    /// allows it before the subvolume's contents are freed.
    fn remove_groups(&self) {
        self.leaving().retain(|group| btrfs::remove_group(self.root.as_fd(), *group).is_err());
    }

    /// Remembers the groups that an earlier agent left behind.
    fn sweep_groups(&self) -> Result<(), StorageError> {
        if !self.backing.image {
            // The file system is shared with others: their groups are none of ours.
            return Ok(());
        }
        let mut alive: Vec<_> = self.list_volumes()?.iter().filter_map(|id| self.group_of(id).ok()).collect();
        alive.extend(self.groups_beside()?);
        let groups = btrfs::subvolume_groups(&self.backing.sysfs)
            .map_err(io_error("listing the quota groups of", &self.backing.dir))?;
        // 5 is the top of the file system itself.
        self.leaving().extend(groups.into_iter().filter(|group| *group >= 256 && !alive.contains(group)));
        self.remove_groups();
        Ok(())
    }

    /// The quota groups of layers and shared volumes.
    fn groups_beside(&self) -> Result<Vec<u64>, StorageError> {
        let mut groups = Vec::new();
        for folder in [layers::FOLDER, shared::FOLDER] {
            for name in self.names_in(folder)? {
                let group =
                    open_dir(&self.root, &format!("{folder}/{name}")).and_then(|dir| btrfs::subvolume_id(dir.as_fd()));
                groups.extend(group.ok());
            }
        }
        Ok(groups)
    }

    /// The names in one of the pool's own folders; none when it is not there yet.
    fn names_in(&self, folder: &str) -> Result<Vec<String>, StorageError> {
        let path = self.backing.dir.join(folder);
        let names = || -> io::Result<Vec<String>> {
            let entries = match fs::read_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        names().map_err(io_error("listing", &path))
    }

    /// One of the pool's own folders, made when it is not there yet.
    fn folder(&self, folder: &str) -> Result<File, StorageError> {
        let path = self.backing.dir.join(folder);
        match rustix::fs::mkdirat(&self.root, folder, Mode::from_raw_mode(0o700)) {
            Err(error) if error != rustix::io::Errno::EXIST => return Err(io_error("making", &path)(error.into())),
            _ => {}
        }
        open_dir(&self.root, folder).map_err(io_error("opening", &path))
    }

    /// Deletes a subvolume in one of the pool's own folders. Does nothing where there is none.
    fn delete_in(&self, folder: &str, name: &str) -> Result<(), StorageError> {
        let path = self.backing.dir.join(folder).join(name);
        let parent = self.folder(folder)?;
        let group = match open_dir(&parent, name).and_then(|dir| btrfs::subvolume_id(dir.as_fd())) {
            Ok(group) => group,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error("looking at", &path)(error)),
        };
        match btrfs::destroy_subvolume(parent.as_fd(), name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("deleting", &path)(error)),
            _ => {}
        }
        self.leaving().push(group);
        self.remove_groups();
        Ok(())
    }

    fn leaving(&self) -> std::sync::MutexGuard<'_, Vec<u64>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a directory of the pool, never following a link.
fn open_dir(root: &File, name: &str) -> io::Result<File> {
    use rustix::fs::OFlags;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(root, name, flags, Mode::empty())?))
}

#[cfg(test)]
mod tests;
