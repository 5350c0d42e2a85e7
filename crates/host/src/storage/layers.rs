//! Layers: read-only snapshots of sandboxes' volumes, of which other sandboxes' volumes begin as clones.
//!
//! Making one copies nothing: both share their blocks until one is written to. A layer is never changed and never
//! deleted while somebody stands on it; who does is the keeper's to know. Those that machines of other hosts have left
//! are [`super::imports`].

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use atoll_model::{LayerId, SandboxId};

use super::{Pool, StorageError, Volume, btrfs, io_error, open_dir};

pub(super) const FOLDER: &str = "layers";

impl Pool {
    /// Keeps what a volume holds now as a layer. Success also when the layer is there already.
    ///
    /// # Errors
    /// When there is no such volume or the kernel refuses.
    pub fn snapshot_volume(&self, id: &SandboxId, layer: &LayerId) -> Result<(), StorageError> {
        let path = self.backing.dir.join(FOLDER).join(layer.as_str());
        let parent = self.folder(FOLDER)?;
        let volume = open_dir(&self.root, id.as_str()).map_err(io_error("opening the volume for", &path))?;
        match btrfs::snapshot_subvolume(parent.as_fd(), layer.as_str(), volume.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => {
                result.map_err(io_error("making the layer", &path))?;
                self.recount();
                Ok(())
            }
        }
    }

    fn recount(&self) {
        if btrfs::quota_kind(&self.backing.sysfs) == Some(btrfs::QuotaKind::Full)
            && let Err(error) = btrfs::recount(self.root.as_fd())
        {
            tracing::warn!(%error, "disk limits may not hold: quotas can't be counted anew");
        }
    }

    /// Makes a volume that begins with all that the layer holds, and holds at most `limit_bytes`. Nothing is copied.
    ///
    /// A volume that began empty, over the layer's directory as a lower one, would be wrong: overlayfs takes inode
    /// numbers to be unique within a file system, and btrfs gives every subvolume the same ones, so that two files would
    /// be one to `cat`, `cp`, `tar` and all others who compare device and inode.
    ///
    /// # Errors
    /// When the layer is not here, a volume of that name exists, or the kernel refuses; nothing is left then.
    pub fn clone_layer(&self, id: &SandboxId, layer: &LayerId, limit_bytes: u64) -> Result<Volume, StorageError> {
        let path = self.backing.dir.join(id.as_str());
        let source =
            open_dir(&self.folder(FOLDER)?, layer.as_str()).map_err(io_error("opening the layer for", &path))?;
        // Full quotas can't count a snapshot that joins a group at once: there only its own limit holds.
        let counted = btrfs::quota_kind(&self.backing.sysfs) == Some(btrfs::QuotaKind::Simple);
        btrfs::clone_subvolume(self.root.as_fd(), id.as_str(), source.as_fd(), counted.then_some(self.group))
            .map_err(io_error("making the volume", &path))?;
        // A limit that a snapshot's creation names is not kept by every kernel.
        if let Err(error) = self.set_limit(id, limit_bytes) {
            if let Err(error) = self.delete_volume(id) {
                tracing::warn!(%error, "removing a volume that could not be limited");
            }
            return Err(error);
        }
        self.recount();
        Ok(Volume { path })
    }

    /// The layer's directory, if it is here: what is packed.
    #[must_use]
    pub fn layer(&self, layer: &LayerId) -> Option<PathBuf> {
        let path = self.backing.dir.join(FOLDER).join(layer.as_str()).join("up");
        path.is_dir().then_some(path)
    }

    /// Does nothing where there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_layer(&self, layer: &LayerId) -> Result<(), StorageError> {
        self.delete_in(FOLDER, layer.as_str())
    }

    /// # Errors
    /// When the pool can't be read.
    pub fn list_layers(&self) -> Result<Vec<LayerId>, StorageError> {
        Ok(self.names_in(FOLDER)?.iter().filter_map(|name| name.parse().ok()).collect())
    }
}
