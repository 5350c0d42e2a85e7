//! Images that sandboxes start from before all of them is there: what is read is fetched first, and the rest behind.
//!
//! The file has its full size from the beginning, and its room on the disk. Its metadata is fetched before it is mounted,
//! since the kernel reads that without asking; before anybody reads anything else of it the kernel asks ([`events`]), and
//! the answer waits for the chunks that are wanted ([`filling`]), each checked by its digest before it is written. When
//! all is there the digest of the whole is checked, and the file becomes one like any other, at no cost from then on.
//! Where the kernel can't ask (before 6.14: [`probe`]) images come whole first ([`super::fetch`]).
//!
//! Nobody ever reads what is not there. The kernel's questions are held by a process of their own ([`holder`]):
//!
//! | | |
//! | --- | --- |
//! | a chunk can't be had | its reader waits, a minute at most, then gets an I/O error; whoever reads it again has it tried again |
//! | a chunk or the whole is not what its digest says | it is never written, an I/O error; the image is given up, and comes anew when nobody has it any more |
//! | the agent dies | readers wait; the next agent is given the questions and the files by the holder, and goes on |
//! | the holder is killed | the agent holds the questions too, and starts another one; who had asked already waits until all images are whole |
//! | both are killed | the kernel lets readers through until there is an agent again: the one hole, said loudly then |
//! | the machine goes down | nothing is mounted any more, and incomplete files are deleted (they lie below the name of the boot) |
//!
//! What answers questions must never wait for one: it has descriptors that were opened before the mark, which nobody is
//! asked about, and a thread, a runtime and connections of its own, since any other thread of the agent may read files of
//! a sandbox and wait. An image that is given up has no readers: it is held by nobody, and its mount is gone.

mod answers;
mod course;
mod events;
mod filling;
mod holder;
mod link;
mod probe;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use self::filling::{BACKGROUND, Filling, Supply};
use self::link::{Link, Told};
use super::{Fetch, FetchError, ImageError, ImageOptions, check_digest, io_error};

pub use holder::{ARGUMENT as HOLDER, holder_main};

/// Requests for what readers wait for, besides those behind.
const URGENT: usize = 5;

/// What an image's way depends on.
#[derive(Debug, Clone, Copy)]
struct Circumstances {
    /// The kernel asks before somebody reads.
    kernel_asks: bool,
    /// Bytes of the image, and from how many on it pays.
    bytes: u64,
    least: u64,
}

/// Whether sandboxes start from the image before all of it is there.
const fn comes_lazily(it: Circumstances) -> bool {
    it.kernel_asks && it.bytes >= it.least
}

/// The incomplete images of one data directory.
pub(super) struct Lazies {
    inner: Arc<Inner>,
    /// Ends the thread, when it is dropped.
    alive: Option<watch::Sender<()>>,
    thread: Option<std::thread::JoinHandle<io::Result<()>>>,
}

impl Drop for Lazies {
    fn drop(&mut self) {
        drop(self.alive.take());
        // Nothing of it goes on when another one begins.
        let _ended = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

impl std::fmt::Debug for Lazies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lazies").field("here", &self.inner.here).finish_non_exhaustive()
    }
}

struct Inner {
    /// `<data>/lazy`, and what of it is of this boot.
    home: PathBuf,
    here: PathBuf,
    fetched: PathBuf,
    /// What starts a holder.
    program: PathBuf,
    kernel_asks: bool,
    options: ImageOptions,
    supply: Supply,
    fillings: Mutex<HashMap<String, Under>>,
    /// Of images that are begun or given up at the moment; one at a time.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    link: tokio::sync::Mutex<Option<Link>>,
    told: mpsc::UnboundedSender<Told>,
    runtime: Handle,
    grown: Arc<Notify>,
}

/// An image under way, and whether that is over.
#[derive(Clone)]
struct Under {
    filling: Arc<Filling>,
    over: watch::Receiver<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

fn lost(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(error)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What [`Lazies::start`] needs.
pub(super) struct Beginning {
    pub data_dir: PathBuf,
    pub fetched: PathBuf,
    pub mounts: PathBuf,
    pub program: PathBuf,
    pub source: Arc<dyn Fetch>,
    pub options: ImageOptions,
    pub grown: Arc<Notify>,
}

impl Lazies {
    /// Goes on with what an earlier agent has begun, and finds out whether more can be.
    ///
    /// # Errors
    /// When the directories can't be made or read, or the holder that is there can't be understood.
    pub async fn start(begin: Beginning) -> io::Result<Self> {
        let home = begin.data_dir.join("lazy");
        let here = home.join(boot_id()?);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&here)?;
        for entry in fs::read_dir(&home)? {
            let path = entry?.path();
            if path != here && path.is_dir() {
                // What a crash has left of the probe may be mounted; what is of an earlier boot is not.
                super::mount::unmount(&path.join("mnt"))?;
                fs::remove_dir_all(&path)?;
            }
        }
        let place = home.clone();
        let probe = tokio::task::spawn_blocking(move || probe::kernel_asks(&place)).await.map_err(lost)?;
        if let Err(error) = &probe {
            tracing::info!(%error, "images come whole before sandboxes start from them: this kernel can't do otherwise");
        }
        // No more than threads that wait. A bound here could stop the very thread that an end of theirs hangs on.
        let (told, hears) = mpsc::unbounded_channel();
        let (alive, mut gone) = watch::channel(());
        let (here_it_is, runtime) = tokio::sync::oneshot::channel();
        let thread = move || -> io::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let _nobody_waits = here_it_is.send(runtime.handle().clone());
            let _ended = runtime.block_on(gone.changed());
            runtime.shutdown_background();
            Ok(())
        };
        let thread = std::thread::Builder::new().name("lazy-images".to_owned()).spawn(thread)?;
        let runtime = runtime.await.map_err(lost)?;
        let (patience, requests) = (begin.options.reader_patience, Semaphore::new(BACKGROUND + URGENT));
        let inner = Arc::new(Inner {
            home,
            here,
            fetched: begin.fetched,
            program: begin.program,
            kernel_asks: probe.is_ok() && !begin.options.force_loop,
            options: begin.options,
            supply: Supply { source: begin.source, requests, patience },
            fillings: Mutex::default(),
            turns: Mutex::default(),
            link: tokio::sync::Mutex::default(),
            told,
            runtime: runtime.clone(),
            grown: begin.grown,
        });
        let lazies = Self { inner: Arc::clone(&inner), alive: Some(alive), thread: Some(thread) };
        let adopting = Arc::clone(&inner);
        runtime.spawn(async move { adopting.adopt(&begin.mounts).await }).await.map_err(lost)??;
        // Now that each question is of an image that is known. It doesn't keep what keeps it.
        runtime.spawn(Inner::answer(Arc::downgrade(&inner), hears));
        Ok(lazies)
    }

    /// The file of an image, under way from now on at the latest. None when it has to come whole.
    ///
    /// # Errors
    /// When it is one that is begun, but its beginning can't be had.
    pub async fn file(&self, digest: &str) -> Result<Option<PathBuf>, ImageError> {
        let (inner, name) = (Arc::clone(&self.inner), digest.to_owned());
        // It goes on when nobody waits.
        let beginning = self.inner.runtime.spawn(async move {
            let turn = inner.turn(&name);
            let held = turn.lock().await;
            let begun = match inner.under(&name) {
                Some(under) => Ok(Some(under.filling.path.clone())),
                None => inner.begin(&name).await,
            };
            drop(held);
            inner.end_turn(&name, turn);
            begun
        });
        beginning.await.map_err(|_| ImageError::Lost)?
    }

    /// Whether it is under way.
    pub fn has(&self, digest: &str) -> bool {
        self.inner.under(digest).is_some()
    }

    /// Whether it was begun, and what is missing will never come.
    pub fn has_failed(&self, digest: &str) -> bool {
        self.inner.under(digest).is_some_and(|under| under.filling.is_given_up())
    }

    /// Those of which what is missing will never come.
    pub fn failed(&self) -> Vec<String> {
        let fillings = lock(&self.inner.fillings);
        fillings.iter().filter(|(_, under)| under.filling.is_given_up()).map(|(digest, _)| digest.clone()).collect()
    }

    /// Until it is whole or was given up, if it is under way.
    pub async fn settled(&self, digest: &str) {
        if let Some(Under { mut over, .. }) = self.inner.under(digest) {
            while !*over.borrow_and_update() && over.changed().await.is_ok() {}
        }
    }

    /// Those under way.
    pub fn list(&self) -> Vec<String> {
        lock(&self.inner.fillings).keys().cloned().collect()
    }

    /// What those under way will have taken.
    pub fn bytes(&self) -> u64 {
        lock(&self.inner.fillings).values().map(|under| under.filling.index.image_bytes()).sum()
    }

    /// Gives up an image that nobody has mounted any more, if it is under way, and every name of it here.
    pub async fn discard(&self, digest: &str) -> io::Result<()> {
        let (inner, name) = (Arc::clone(&self.inner), digest.to_owned());
        let discarding = self.inner.runtime.spawn(async move {
            let turn = inner.turn(&name);
            let held = turn.lock().await;
            let discarded = inner.discard(&name).await;
            drop(held);
            inner.end_turn(&name, turn);
            discarded
        });
        discarding.await.map_err(lost)?
    }

    /// Whether a file is one of these, as long as it has this name.
    pub fn holds(&self, file: &Path) -> bool {
        file.starts_with(&self.inner.here)
    }
}

impl Inner {
    fn under(&self, digest: &str) -> Option<Under> {
        lock(&self.fillings).get(digest).cloned()
    }

    fn turn(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(lock(&self.turns).entry(digest.to_owned()).or_default())
    }

    fn end_turn(&self, digest: &str, turn: Arc<tokio::sync::Mutex<()>>) {
        // Two: the map's and this one.
        lock(&self.turns).retain(|name, other| name != digest || Arc::strong_count(other) > 2);
        drop(turn);
    }

    fn file_of(&self, digest: &str) -> PathBuf {
        self.here.join(format!("{digest}.erofs"))
    }

    fn index_of(&self, digest: &str) -> PathBuf {
        self.here.join(format!("{digest}.idx"))
    }
}
