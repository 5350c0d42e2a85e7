//! The commands that serve: `up`, `server` and `host`, and what they share: the log, the lock on the data directory,
//! the shutdown, files that only root may read.

mod bootstrap;
mod halves;
pub mod host;
pub mod install;
pub mod keys;
mod large_pages;
mod lock;
mod logging;
mod memory;
pub mod prepare;
pub mod private_file;
mod progress;
pub mod server;
mod settings;
mod shutdown;
pub mod up;

use std::future::Future;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// What every service does first: large pages, bounds of the allocator, a private data directory, the log, room for many
/// open files, one TLS library.
fn prepare(place: &crate::cli::settings::PlaceArgs, default_log: &str) -> anyhow::Result<PathBuf> {
    large_pages::take();
    memory::be_thrifty();
    let directory = &place.data_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("making the data directory {}", directory.display()))?;
    // Layers of sandboxes hold setuid files of the real root: nobody else may come near them.
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("closing the data directory {} to others", directory.display()))?;
    let directory =
        directory.canonicalize().with_context(|| format!("resolving the data directory {}", directory.display()))?;
    logging::start(&directory, place.log.as_deref(), default_log)?;
    raise_open_files();
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(directory)
}

fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// Runs a service to its end.
fn block_on<T>(service: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the async runtime")?;
    runtime.spawn(memory::keep_tidy());
    let result = runtime.block_on(service);
    // What still runs has been asked to end, and was waited for.
    runtime.shutdown_background();
    result
}

fn require_root(what: &str) -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(crate::output::with_hint(
        format!("{what} makes sandboxes, and that needs root"),
        "run it with sudo; `atoll server` alone does not need root",
    ))
}

fn log_file(data_dir: &Path) -> PathBuf {
    data_dir.join("logs/atoll.log")
}
