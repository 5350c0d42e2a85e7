//! Layers: read-only snapshots of sandboxes' volumes, on which other sandboxes stand.
//!
//! Making one copies nothing: both share their blocks until one is written to. A layer is never changed and never
//! deleted while somebody stands on it; who does is the keeper's to know.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use atoll_model::{LayerId, SandboxId};

use super::{Pool, StorageError, btrfs, io_error, open_dir};

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
            result => result.map_err(io_error("making the layer", &path)),
        }
    }

    /// The layer's directory, if it is here: the lower directory of an overlay.
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
