//! Packing layers into an image of this store: their digest becomes its name.

use std::fs::File;
use std::path::{Path, PathBuf};

use atoll_image::{Limits, Spool, Tree, Written, read_directory, write};

use super::fetch::DRAFT_PREFIX;
use super::{ImageError, Images, io_error};

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
        let _permit = self.fetches.acquire().await.ok();
        let (store, limits) = (
            self.store.clone(),
            Limits { bytes: self.options.max_image_bytes, inodes: MAX_FILES, ..Limits::default() },
        );
        let packing = tokio::task::spawn_blocking(move || {
            let named = |written: &Written| store.join(format!("{}.erofs", written.digest));
            pack_into(&store, &layers, limits, named)
        });
        packing.await.map_err(|_| ImageError::Lost)?
    }
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
    draft.persist(&path).map_err(|error| io_error("putting into place", &path)(error.error))?;
    File::open(store).and_then(|dir| dir.sync_all()).map_err(io_error("writing out", store))?;
    Ok(written)
}
