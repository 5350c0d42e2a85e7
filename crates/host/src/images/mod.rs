//! Template images: erofs files named by their SHA-256, each mounted once per data directory.
//!
//! An image comes from the machine-wide cache (`<cache>/images/<digest>.erofs`), from the data directory
//! (`<data>/images/<digest>.erofs`: packed here), or is fetched ([`fetch`]) into `<data>/fetched`, whose size is bounded
//! ([`room`]). Large ones are mounted before all of them is there, where the kernel can ([`lazy`]). Who fetches and from
//! where is the [`Fetch`] that the caller brings; what it got is checked here, and nothing that has another digest is ever
//! shown. (The layers of machines travel in the same way, under the same kind of name, and are never mounted: see
//! `driver::vm::bundle`.) A mount stays until it is asked away: the next sandbox of the template has it at once. The cache
//! belongs to the machine: it is only read.

mod fetch;
mod layer;
mod lazy;
mod mount;
mod pack;
mod room;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

pub use fetch::{Fetch, FetchError, ImageSink};
pub use lazy::{HOLDER, holder_main};

use lazy::{Beginning, Lazies};

/// Settings of the image store.
#[derive(Debug, Clone)]
pub struct ImageOptions {
    /// The largest image that is fetched.
    pub max_image_bytes: u64,
    /// What fetched images may take together, unless more are in use.
    pub max_fetched_bytes: u64,
    /// Bytes of the data directory's file system that a fetch leaves free.
    pub reserve: u64,
    /// Images that are fetched at the same time; others wait.
    pub max_fetches: usize,
    /// Mount through a loop device where the kernel could mount the file itself (tests of what old kernels do).
    pub force_loop: bool,
    /// Images of so many bytes are mounted before all of them is there.
    pub lazy_from_bytes: u64,
    /// So long does who reads what is not there yet wait for it.
    pub reader_patience: Duration,
}

impl Default for ImageOptions {
    fn default() -> Self {
        let (max_image_bytes, max_fetched_bytes) = (32 << 30, 32 << 30);
        let (lazy_from_bytes, reader_patience) = (64 << 20, Duration::from_secs(60));
        let (max_fetches, force_loop) = (4, false);
        Self {
            max_image_bytes,
            max_fetched_bytes,
            reserve: 1 << 30,
            max_fetches,
            force_loop,
            lazy_from_bytes,
            reader_patience,
        }
    }
}

/// Why an image can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("`{0}` is not a SHA-256 in lower-case hex")]
    NotADigest(String),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("what was fetched as image {wanted} has the digest {found}")]
    WrongDigest { wanted: String, found: String },
    #[error("packing an image: {0}")]
    Pack(#[from] atoll_image::ImageError),
    #[error("the task that packs an image was lost")]
    Lost,
    #[error("image {0} is in use, and what is missing of it can't be had")]
    Incomplete(String),
    #[error("image {0} is in use")]
    InUse(String),
    #[error("{path} may be changed by others than root: it is not used as an image", path = .0.display())]
    NotTrusted(PathBuf),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Io { action, path, source }
}

/// A mounted image; it isn't unmounted while somebody holds this.
#[derive(Debug)]
pub struct Mounted {
    pub path: PathBuf,
    /// The image itself.
    pub file: PathBuf,
}

/// Images that are packed at the same time; each takes a processor.
const PACKS: usize = 2;

/// What was packed is not deleted for so long: whoever had it packed has yet to hear of it and to write down that it is
/// wanted, while an order to delete an older image of the same content may be on its way.
const PACKED_STAYS: Duration = Duration::from_secs(10);

/// One image; the lock is held while it is fetched, mounted or deleted.
type Entry = Arc<tokio::sync::Mutex<Slot>>;

#[derive(Debug, Default)]
struct Slot {
    mounted: Option<Arc<Mounted>>,
    /// The last use, and the last one that was written down.
    used: Option<SystemTime>,
    noted: Option<SystemTime>,
}

impl Slot {
    fn is_held(&self) -> bool {
        self.mounted.as_ref().is_some_and(|mounted| Arc::strong_count(mounted) > 1)
    }
}

/// The images of one data directory.
#[derive(Debug)]
pub struct Images {
    store: PathBuf,
    fetched: PathBuf,
    cache: PathBuf,
    mounts: PathBuf,
    options: ImageOptions,
    entries: Mutex<HashMap<String, Entry>>,
    fetches: Semaphore,
    /// Apart from fetches: these take long, and nobody's create waits for them.
    packs: Semaphore,
    /// When what was packed lately was put into place.
    packed: Arc<Mutex<HashMap<String, Instant>>>,
    /// Something was fetched.
    grown: Arc<Notify>,
    lazies: OnceLock<Lazies>,
}

impl Images {
    /// Makes the directories and removes what an interrupted fetch has left.
    ///
    /// # Errors
    /// When the directories can't be made or read.
    pub fn open(data_dir: &Path, cache_dir: &Path, options: ImageOptions) -> Result<Self, ImageError> {
        let (store, fetched, mounts) = (data_dir.join("images"), data_dir.join("fetched"), data_dir.join("mnt"));
        for dir in [&store, &fetched, &mounts] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("making", dir))?;
        }
        for dir in [&store, &fetched] {
            fetch::remove_drafts(dir).map_err(io_error("removing interrupted fetches from", dir))?;
        }
        let fetches = Semaphore::new(options.max_fetches.max(1));
        let packs = Semaphore::new(PACKS);
        let cache = cache_dir.join("images");
        let (entries, packed, grown) = (Mutex::default(), Arc::default(), Arc::default());
        let lazies = OnceLock::new();
        Ok(Self { store, fetched, cache, mounts, options, entries, fetches, packs, packed, grown, lazies })
    }

    /// From now on large images from this source are mounted before all of them is there, where the kernel can. Goes on
    /// with those that an earlier agent has begun. `program` is an `atoll`; it is called with the word [`HOLDER`].
    ///
    /// # Errors
    /// When what is there can't be read or understood.
    pub async fn fetch_lazily(&self, source: Arc<dyn Fetch>, program: PathBuf) -> Result<(), ImageError> {
        let data_dir = self.store.parent().unwrap_or(&self.store).to_owned();
        let place = data_dir.join("lazy");
        let lazies = Lazies::start(Beginning {
            data_dir,
            fetched: self.fetched.clone(),
            mounts: self.mounts.clone(),
            program,
            source,
            options: self.options.clone(),
            grown: Arc::clone(&self.grown),
        });
        let lazies = lazies.await.map_err(io_error("going on with incomplete images in", &place))?;
        let _begun_before = self.lazies.set(lazies);
        Ok(())
    }

    fn lazies(&self) -> Option<&Lazies> {
        self.lazies.get()
    }

    /// The image, mounted; fetched first when it isn't here. Callers that come at once wait for one fetch.
    ///
    /// # Errors
    /// When it can't be fetched, isn't what its digest says, or can't be mounted.
    pub async fn mounted(&self, digest: &str, fetch: &dyn Fetch) -> Result<Arc<Mounted>, ImageError> {
        check_digest(digest)?;
        let entry = Arc::clone(self.entries().entry(digest.to_owned()).or_default());
        let mut slot = entry.lock().await;
        if self.lazies().is_some_and(|lazies| lazies.has_failed(digest)) {
            if slot.is_held() {
                return Err(ImageError::Incomplete(digest.to_owned()));
            }
            self.clear(digest, &mut slot).await?;
        }
        if let Some(mounted) = slot.mounted.clone() {
            slot.note_use(self);
            return Ok(mounted);
        }
        match self.mount(digest, fetch).await {
            Ok(image) => {
                let mounted = Arc::clone(slot.mounted.insert(Arc::new(image)));
                slot.note_use(self);
                Ok(mounted)
            }
            Err(error) => {
                drop(slot);
                // Names that lead nowhere are not kept. Two: the map's and this one.
                self.entries().retain(|name, other| name != digest || Arc::strong_count(other) > 2);
                Err(error)
            }
        }
    }

    /// Whether it is mounted now. Without waiting: of one that is being fetched or deleted at the moment, no.
    #[must_use]
    pub fn is_mounted(&self, digest: &str) -> bool {
        let entry = self.entries().get(digest).cloned();
        entry.is_some_and(|entry| entry.try_lock().is_ok_and(|slot| slot.mounted.is_some()))
    }

    /// What may be taken by what was fetched.
    #[must_use]
    pub const fn most_fetched(&self) -> u64 {
        self.options.max_fetched_bytes
    }

    /// Where the image's file is on this machine, if it is.
    ///
    /// # Errors
    /// When a file of that name is there but others than root may change it.
    pub fn file(&self, digest: &str) -> Result<Option<PathBuf>, ImageError> {
        check_digest(digest)?;
        for dir in [&self.store, &self.fetched, &self.cache] {
            let path = dir.join(format!("{digest}.erofs"));
            match fs::symlink_metadata(&path) {
                Ok(meta) if mount::is_trusted(&meta) => return Ok(Some(path)),
                Ok(_) => return Err(ImageError::NotTrusted(path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("looking at", &path)(error)),
            }
        }
        Ok(None)
    }

    /// Deletes the data directory's copies. Success when there are none; the machine-wide cache is left alone.
    ///
    /// # Errors
    /// `InUse` while somebody holds the mount, and right after it was packed.
    pub async fn delete(&self, digest: &str) -> Result<(), ImageError> {
        check_digest(digest)?;
        if pack::is_new(&self.packed, digest) {
            return Err(ImageError::InUse(digest.to_owned()));
        }
        let name = format!("{digest}.erofs");
        self.remove(digest, &[&self.store.join(&name), &self.fetched.join(&name)]).await
    }

    /// Unmounts the image and deletes these files of it.
    async fn remove(&self, digest: &str, files: &[&Path]) -> Result<(), ImageError> {
        let entry = Arc::clone(self.entries().entry(digest.to_owned()).or_default());
        let mut slot = entry.lock().await;
        if slot.is_held() {
            return Err(ImageError::InUse(digest.to_owned()));
        }
        self.clear(digest, &mut slot).await?;
        for path in files {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("deleting", path)(error)),
                _ => {}
            }
        }
        drop(slot);
        self.entries().retain(|name, other| name != digest || Arc::strong_count(other) > 2);
        Ok(())
    }

    /// Unmounts an image that nobody holds. One that is not whole is given up.
    async fn clear(&self, digest: &str, slot: &mut Slot) -> Result<(), ImageError> {
        slot.mounted = None;
        let point = self.mounts.join(digest);
        mount::unmount(&point).map_err(io_error("unmounting", &point))?;
        match self.lazies() {
            Some(lazies) => lazies.discard(digest).await.map_err(io_error("giving up", &point)),
            None => Ok(()),
        }
    }

    /// The digests that are here, in any place, or about to be.
    ///
    /// # Errors
    /// When a directory can't be read.
    pub fn list(&self) -> Result<Vec<String>, ImageError> {
        let mut found = Vec::new();
        for dir in [&self.store, &self.fetched, &self.cache] {
            let entries = match fs::read_dir(dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io_error("listing", dir)(error)),
            };
            for entry in entries {
                let name = entry.map_err(io_error("listing", dir))?.file_name();
                let digest = name.to_str().and_then(|name| name.strip_suffix(".erofs"));
                found.extend(digest.filter(|digest| check_digest(digest).is_ok()).map(str::to_owned));
            }
        }
        found.extend(self.lazies().map(Lazies::list).unwrap_or_default());
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Unmounts what nobody holds; the number of mounts that stay. Sandboxes that run keep what they use: each has a
    /// mount of its own.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn unmount_all(&self) -> Result<usize, ImageError> {
        let mut staying = 0;
        let mut idle: HashSet<String> = self.lazies().map(Lazies::list).unwrap_or_default().into_iter().collect();
        for entry in fs::read_dir(&self.mounts).map_err(io_error("listing", &self.mounts))? {
            let point = entry.map_err(io_error("listing", &self.mounts))?.path();
            let digest = point.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let entry = self.entries().get(&digest).cloned();
            let mut slot = match &entry {
                Some(entry) => Some(entry.lock().await),
                None => None,
            };
            if let Some(slot) = &mut slot {
                slot.write_use_down(self);
                if slot.is_held() {
                    staying += 1;
                    idle.remove(&digest);
                    continue;
                }
                slot.mounted = None;
            }
            mount::unmount(&point).map_err(io_error("unmounting", &point))?;
        }
        for digest in idle {
            if let Some(lazies) = self.lazies() {
                lazies.discard(&digest).await.map_err(io_error("giving up", &self.mounts.join(&digest)))?;
            }
        }
        Ok(staying)
    }

    /// Mounts the image, fetched first when it isn't here.
    async fn mount(&self, digest: &str, fetch: &dyn Fetch) -> Result<Mounted, ImageError> {
        let file = match self.lazily(digest).await? {
            Some(file) => file,
            None => self.here(digest, fetch).await?,
        };
        self.mount_file(digest, file).await
    }

    /// The file of an image that comes, but need not have come to be mounted.
    async fn lazily(&self, digest: &str) -> Result<Option<PathBuf>, ImageError> {
        match self.lazies() {
            Some(lazies) if self.file(digest)?.is_none() => lazies.file(digest).await,
            _ => Ok(None),
        }
    }

    /// Whether what has this digest is an image that can be mounted before all of it is there; it is on its way then.
    ///
    /// # Errors
    /// When its beginning can't be had.
    pub async fn comes_lazily(&self, digest: &str) -> Result<bool, ImageError> {
        check_digest(digest)?;
        let entry = Arc::clone(self.entries().entry(digest.to_owned()).or_default());
        let slot = entry.lock().await;
        let comes = self.lazily(digest).await;
        drop(slot);
        self.entries().retain(|name, other| name != digest || Arc::strong_count(other) > 2);
        Ok(comes?.is_some())
    }

    async fn here(&self, digest: &str, fetch: &dyn Fetch) -> Result<PathBuf, ImageError> {
        if let Some(lazies) = self.lazies().filter(|lazies| lazies.has(digest)) {
            lazies.settled(digest).await;
        }
        if let Some(file) = self.file(digest)? {
            return Ok(file);
        }
        // Never closed, so this can't fail but by a bug; then the bound is what is lost.
        let _permit = self.fetches.acquire().await.ok();
        let file = fetch::fetch(digest, fetch, &self.fetched, &self.options).await?;
        self.grown.notify_one();
        Ok(file)
    }

    /// The file of this digest, opened, whatever is in it; fetched first when it isn't here.
    ///
    /// # Errors
    /// When it can't be fetched or isn't what its digest says.
    pub async fn opened(&self, digest: &str, fetch: &dyn Fetch) -> Result<fs::File, ImageError> {
        check_digest(digest)?;
        let entry = Arc::clone(self.entries().entry(digest.to_owned()).or_default());
        let slot = entry.lock().await;
        let opened = match self.here(digest, fetch).await {
            Ok(path) => fs::File::open(&path).map_err(io_error("opening", &path)),
            Err(error) => Err(error),
        };
        drop(slot);
        self.entries().retain(|name, other| name != digest || Arc::strong_count(other) > 2);
        opened
    }

    /// Mounts a file at the place of its name, unless an earlier agent has left it there.
    async fn mount_file(&self, name: &str, file: PathBuf) -> Result<Mounted, ImageError> {
        let point = self.mounts.join(name);
        if mount::is_mounted(&point).map_err(io_error("looking at", &point))? {
            return Ok(Mounted { path: point, file });
        }
        let (image, target, force_loop) = (file.clone(), point.clone(), self.options.force_loop);
        let mounting = tokio::task::spawn_blocking(move || mount::mount(&image, &target, force_loop)).await;
        mounting
            .map_err(io::Error::other)
            .and_then(|result| result)
            .map_err(io_error("mounting an image at", &point))?;
        Ok(Mounted { path: point, file })
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_digest(digest: &str) -> Result<(), ImageError> {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digest.len() == 64 && digest.bytes().all(hex) {
        return Ok(());
    }
    Err(ImageError::NotADigest(digest.chars().take(80).collect()))
}

#[cfg(test)]
mod tests;
