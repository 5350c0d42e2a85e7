//! Makes sure that the image of a template that ships exists on this machine: from the cache, or by building it there once.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::build::{self, Haste};
use super::cache::ImageCache;
use super::recipe::Recipe;

/// An image in the cache. It is a file that the host agent can mount, named by its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseImage {
    /// The template's name.
    pub name: String,
    /// SHA-256 of the file, hex.
    pub digest: String,
    pub size_bytes: u64,
    pub path: PathBuf,
}

/// Why there is no image. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    #[error("building a template needs root: start atoll as root once")]
    NotRoot,
    #[error("building a template needs programs that are not there; run: apt-get install -y {packages}")]
    MissingPrograms { packages: String },
    #[error(
        "building a template needs {needed_mb} MB of free disk at {path}, there are {free_mb} MB; free some, \
         or set ATOLL_CACHE_DIR to a directory on a larger disk", path = path.display()
    )]
    NoSpace { path: PathBuf, needed_mb: u64, free_mb: u64 },
    #[error(
        "building the template failed while {step} ({status}). Its packages come from Debian's archive: if this \
         machine can't reach http://deb.debian.org, set ATOLL_DEBIAN_MIRROR (and ATOLL_DEBIAN_SECURITY_MIRROR) to a \
         mirror, or http_proxy to a proxy. Its last output:\n{output}"
    )]
    Failed { step: String, status: String, output: String },
    #[error("could not {doing} {path}", path = path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl BaseError {
    pub(super) fn io(doing: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io { doing, path: path.as_ref().to_owned(), source }
    }
}

/// How often one who waits for another's build looks again.
const POLL: Duration = Duration::from_millis(250);

/// The image of `recipe`, from the cache in `cache_dir` or built into it. Whoever comes first builds, under a lock;
/// others wait and find it there. `progress` gets a line for people at each step. Dropping the future ends the build
/// and a later call begins afresh.
pub async fn ensure_base(
    cache_dir: &Path,
    recipe: &Recipe,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<BaseImage, BaseError> {
    ensure_on(cache_dir, recipe, None, Haste::Waited, progress).await
}

/// What the recipe became on this machine, if it was ever built here.
pub fn cached(cache_dir: &Path, recipe: &Recipe) -> Result<Option<BaseImage>, BaseError> {
    let cache = ImageCache::open(cache_dir).map_err(|source| BaseError::io("prepare the cache", cache_dir, source))?;
    Ok(cache.find(recipe.name(), &recipe.hash()))
}

/// The same for a recipe that begins with another's image: its script gets the path of that as its third argument.
pub async fn ensure_on(
    cache_dir: &Path,
    recipe: &Recipe,
    ground: Option<&BaseImage>,
    haste: Haste,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<BaseImage, BaseError> {
    let cache = ImageCache::open(cache_dir).map_err(|source| BaseError::io("prepare the cache", cache_dir, source))?;
    let hash = recipe.hash();
    if let Some(image) = cache.find(recipe.name(), &hash) {
        return Ok(image);
    }
    let lock = take_lock(&cache, recipe.name(), progress).await?;
    // Another may have built it while this one waited.
    if let Some(image) = cache.find(recipe.name(), &hash) {
        return Ok(image);
    }
    let building = cache.building(recipe.name());
    clear(&building)?;
    fs::create_dir_all(building.join("recipe"))
        .and_then(|()| recipe.write_to(&building.join("recipe")))
        .map_err(|source| BaseError::io("write the recipe to", &building, source))?;
    build::check_machine(&building, ground)?;
    let shared = lock.try_clone().map_err(|source| BaseError::io("share the lock of", &building, source))?;
    let built = build::run(&building, ground.map(|image| image.path.as_path()), shared, haste, progress).await;
    let adopted = match built {
        Ok(image) => {
            progress("storing the image");
            let (cache, name) = (cache.clone(), recipe.name().to_owned());
            let path = image.clone();
            tokio::task::spawn_blocking(move || cache.adopt(&name, &hash, &path))
                .await
                .unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
                .map_err(|source| BaseError::io("store the image", &image, source))
        }
        Err(failed) => Err(failed),
    };
    clear(&building)?;
    drop(lock);
    adopted
}

/// Waits for the lock, and says so.
async fn take_lock(cache: &ImageCache, name: &str, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<File, BaseError> {
    let at = || cache.building(name);
    let file = cache.lock_file(name).map_err(|source| BaseError::io("open the lock of", at(), source))?;
    let mut said = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                if !said {
                    progress("waiting for another Atoll on this machine that is building it");
                    said = true;
                }
                tokio::time::sleep(POLL).await;
            }
            Err(TryLockError::Error(source)) => return Err(BaseError::io("lock", at(), source)),
        }
    }
}

/// Removes what a build left. The lock is held, so nothing runs in it; a mount below it (none is expected: builds
/// mount in a namespace of their own) stops this before anything behind the mount could be deleted.
fn clear(building: &Path) -> Result<(), BaseError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|source| BaseError::io("read the mounts in", "/proc/self/mountinfo", source))?;
    let inside =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).find(|point| Path::new(point).starts_with(building));
    if let Some(point) = inside {
        let source = io::Error::other("something is mounted there; unmount it first");
        return Err(BaseError::io("clear away an old build at", point, source));
    }
    match fs::remove_dir_all(building) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(BaseError::io("clear away", building, source)),
        _ => Ok(()),
    }
}
