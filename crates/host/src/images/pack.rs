//! Packing layers into an image of this store: their digest becomes its name.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use atoll_image::{Limits, Spool, Tree, Written, read_directory, write};

use super::fetch::DRAFT_PREFIX;
use super::{ImageError, Images, io_error};
use crate::failpoint;

/// Files in all layers together; each takes some hundred bytes of memory while they are packed.
const MAX_FILES: usize = 1_000_000;

impl Images {
    /// Packs directories, topmost first, into one image. Directories must not change meanwhile. The same layers give the
    /// same image; packing again is success.
    ///
    /// # Errors
    /// When a layer can't be read, is larger than images may be, or the disk refuses.
    pub async fn pack(&self, layers: Vec<PathBuf>) -> Result<Written, ImageError> {
        // Never closed, so this can't fail but by a bug; then the bound is what is lost.
        let _permit = self.packs.acquire().await.ok();
        let (store, limits) = (
            self.store.clone(),
            Limits { bytes: self.options.max_image_bytes, inodes: MAX_FILES, ..Limits::default() },
        );
        let reserve = self.options.reserve;
        let packing = tokio::task::spawn_blocking(move || {
            leave_room(&store, &layers, reserve)?;
            let named = |written: &Written| store.join(format!("{}.erofs", written.digest));
            pack_into(&store, &layers, limits, named)
        });
        packing.await.map_err(|_| ImageError::Lost)?
    }
}

/// A file system below the pool that is full takes all sandboxes with it, so twice the reserve stays free.
fn leave_room(store: &Path, layers: &[PathBuf], reserve: u64) -> Result<(), ImageError> {
    let disk =
        rustix::fs::statvfs(store).map_err(io::Error::from).map_err(io_error("asking for the room of", store))?;
    let room = disk.f_bavail.saturating_mul(disk.f_frsize);
    // At most this much: what is in several layers is counted more than once, and holes are not left out.
    let mut wanted = reserve.saturating_mul(2);
    for layer in layers {
        wanted = wanted.saturating_add(bytes_below(layer)?);
    }
    if room < wanted {
        let full = format!("{room} bytes are free, and {wanted} are wanted with what must stay free");
        return Err(io_error("packing layers in", store)(io::Error::new(io::ErrorKind::StorageFull, full)));
    }
    Ok(())
}

/// What the files below a directory hold. Blocks.
fn bytes_below(directory: &Path) -> Result<u64, ImageError> {
    let mut bytes = 0_u64;
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        let entries = fs::read_dir(&directory).map_err(io_error("listing", &directory))?;
        for entry in entries {
            let entry = entry.map_err(io_error("listing", &directory))?;
            let meta = entry.metadata().map_err(io_error("looking at", &directory))?;
            if meta.is_dir() {
                left.push(entry.path());
            } else {
                bytes = bytes.saturating_add(meta.len());
            }
        }
    }
    Ok(bytes)
}

/// Writes directories, topmost first, as one image into `store`, and only when it is whole under the name that `named`
/// says. Blocks.
pub(super) fn pack_into(
    store: &Path,
    layers: &[PathBuf],
    limits: Limits,
    named: impl FnOnce(&Written) -> PathBuf,
) -> Result<Written, ImageError> {
    let mut tree = None;
    for layer in layers.iter().rev() {
        let upper = read_directory(layer, limits)?;
        tree = match tree {
            None => Some(upper),
            Some(mut lower) => {
                Tree::overlay(&mut lower, upper)?;
                Some(lower)
            }
        };
    }
    let tree = tree.unwrap_or_else(|| Tree::new(limits));
    let draft = tempfile::Builder::new()
        .prefix(DRAFT_PREFIX)
        .tempfile_in(store)
        .map_err(io_error("making a file to pack into in", store))?;
    let mut file = draft.reopen().map_err(io_error("opening a draft in", store))?;
    let mut spool = Spool::create_in(store)?;
    let written = write(&tree, &mut spool, &mut file)?;
    let path = named(&written);
    file.sync_all().map_err(io_error("writing out", &path))?;
    failpoint!("agent.pack.before_persist", Err(ImageError::Lost));
    draft.persist(&path).map_err(|error| io_error("putting into place", &path)(error.error))?;
    failpoint!("agent.pack.after_persist", Err(ImageError::Lost));
    File::open(store).and_then(|dir| dir.sync_all()).map_err(io_error("writing out", store))?;
    Ok(written)
}
