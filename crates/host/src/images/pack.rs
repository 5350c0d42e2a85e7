//! Packing layers into an image of this store: their digest becomes its name.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use atoll_image::{Limits, Spool, Tree, Written, read_directory, write};
use sha2::{Digest, Sha256};

use super::fetch::{DRAFT_PREFIX, SPACE_CHECK_BYTES};
use tokio::time::Instant;

use super::{ImageError, Images, PACKED_STAYS, io_error};
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
        let (reserve, packed) = (self.options.reserve, Arc::clone(&self.packed));
        let packing = tokio::task::spawn_blocking(move || {
            leave_room(&store, &layers, reserve)?;
            let named = |written: &Written| {
                note_new(&packed, &written.digest);
                store.join(format!("{}.erofs", written.digest))
            };
            pack_into(&store, &layers, limits, named)
        });
        packing.await.map_err(|_| ImageError::Lost)?
    }
}

/// Notes, before it is put into place, that an image is packed now.
fn note_new(packed: &Mutex<HashMap<String, Instant>>, digest: &str) {
    let mut packed = packed.lock().unwrap_or_else(PoisonError::into_inner);
    packed.retain(|_, at| at.elapsed() < PACKED_STAYS);
    packed.insert(digest.to_owned(), Instant::now());
}

/// Whether an image was packed so lately that nobody can have written down yet whether it is wanted.
pub(super) fn is_new(packed: &Mutex<HashMap<String, Instant>>, digest: &str) -> bool {
    let packed = packed.lock().unwrap_or_else(PoisonError::into_inner);
    packed.get(digest).is_some_and(|at| at.elapsed() < PACKED_STAYS)
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

impl Images {
    /// Keeps what `fill` writes under its digest, among what was fetched: it can be made again.
    ///
    /// # Errors
    /// Those of `fill`, when it is larger than images may be, or the disk refuses.
    pub async fn keep(
        &self,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> Result<Written, ImageError> {
        // Never closed, so this can't fail but by a bug; then the bound is what is lost.
        let _permit = self.packs.acquire().await.ok();
        let (store, most, reserve) = (self.fetched.clone(), self.options.max_image_bytes, self.options.reserve);
        let packed = Arc::clone(&self.packed);
        let keeping = tokio::task::spawn_blocking(move || {
            leave_room(&store, &[], reserve)?;
            let draft = tempfile::Builder::new().prefix(DRAFT_PREFIX).tempfile_in(&store);
            let draft = draft.map_err(io_error("making a file to pack into in", &store))?;
            let mut file = Counted {
                file: BufWriter::new(draft),
                hasher: Sha256::new(),
                written: 0,
                looked_at: 0,
                most,
                room: (store.clone(), reserve),
            };
            fill(&mut file).map_err(io_error("packing into", &store))?;
            let draft = file.file.into_inner().map_err(|error| io_error("writing into", &store)(error.into_error()))?;
            let digest = hex::encode(file.hasher.finalize());
            note_new(&packed, &digest);
            let path = store.join(format!("{digest}.erofs"));
            draft.as_file().sync_all().map_err(io_error("writing out", &path))?;
            draft.persist(&path).map_err(|error| io_error("putting into place", &path)(error.error))?;
            Ok(Written { digest, size_bytes: file.written })
        });
        let kept = keeping.await.map_err(|_| ImageError::Lost)?;
        self.grown.notify_one();
        kept
    }
}

/// A file whose digest is known and whose size has a bound, and that leaves room for others.
struct Counted {
    file: BufWriter<tempfile::NamedTempFile>,
    hasher: Sha256,
    written: u64,
    /// The room was looked at when so much was written.
    looked_at: u64,
    most: u64,
    room: (PathBuf, u64),
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written += bytes.len() as u64;
        if self.written > self.most {
            let text = format!("it is larger than {} bytes", self.most);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        if self.written - self.looked_at >= SPACE_CHECK_BYTES {
            self.looked_at = self.written;
            let (store, reserve) = &self.room;
            leave_room(store, &[], *reserve).map_err(|error| io::Error::new(io::ErrorKind::StorageFull, error))?;
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
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
    failpoint!("agent.pack.before_persist", Err(ImageError::Lost));
    draft.persist(&path).map_err(|error| io_error("putting into place", &path)(error.error))?;
    failpoint!("agent.pack.after_persist", Err(ImageError::Lost));
    File::open(store).and_then(|dir| dir.sync_all()).map_err(io_error("writing out", store))?;
    Ok(written)
}
