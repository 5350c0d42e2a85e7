//! The schema's versions, one folder per database. A schema that is newer than this program is refused: an older
//! program must not write into tables that it doesn't understand.
//!
//! Adding one: `migrations/{sqlite,postgres}/000N_what.sql`, both, and a line in each list below. Files that have
//! been released are never edited again (their checksums are compared).

use std::borrow::Cow;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{Pool, Postgres, SqlSafeStr, Sqlite};

use super::error::OpenError;

type Listed = (i64, &'static str, &'static str);

const SQLITE: &[Listed] = &[
    (1, "init", include_str!("../../migrations/sqlite/0001_init.sql")),
    (2, "sandboxes alive", include_str!("../../migrations/sqlite/0002_sandboxes_alive.sql")),
    (10, "browser sessions", include_str!("../../migrations/sqlite/0010_browser_sessions.sql")),
    (11, "links and codes", include_str!("../../migrations/sqlite/0011_links_and_codes.sql")),
    (12, "verified addresses", include_str!("../../migrations/sqlite/0012_verified_addresses.sql")),
    (20, "audit", include_str!("../../migrations/sqlite/0020_audit.sql")),
    (21, "events", include_str!("../../migrations/sqlite/0021_events.sql")),
    (22, "keys and quotas", include_str!("../../migrations/sqlite/0022_keys_quotas.sql")),
    (23, "webhooks", include_str!("../../migrations/sqlite/0023_webhooks.sql")),
    (30, "host tunnels", include_str!("../../migrations/sqlite/0030_host_tunnels.sql")),
    (40, "layers", include_str!("../../migrations/sqlite/0040_layers.sql")),
    (41, "template builds", include_str!("../../migrations/sqlite/0041_template_builds.sql")),
    (50, "sandbox lifetimes", include_str!("../../migrations/sqlite/0050_sandbox_lifetimes.sql")),
    (60, "audit failures", include_str!("../../migrations/sqlite/0060_audit_failures.sql")),
    (61, "webhook secrets", include_str!("../../migrations/sqlite/0061_webhook_secrets.sql")),
    (62, "heartbeats", include_str!("../../migrations/sqlite/0062_heartbeats.sql")),
    (70, "secrets", include_str!("../../migrations/sqlite/0070_secrets.sql")),
    (71, "volumes", include_str!("../../migrations/sqlite/0071_volumes.sql")),
    (80, "E2B: builds in two steps, pauses of files", include_str!("../../migrations/sqlite/0080_e2b.sql")),
    (90, "tags and mounts in their rows", include_str!("../../migrations/sqlite/0090_shown_with.sql")),
    (96, "layers with memory", include_str!("../../migrations/sqlite/0096_layer_memory.sql")),
    (120, "event times", include_str!("../../migrations/sqlite/0120_event_times.sql")),
    (140, "team network", include_str!("../../migrations/sqlite/0140_team_network.sql")),
    (150, "secret versions", include_str!("../../migrations/sqlite/0150_secret_versions.sql")),
    (160, "layers and builds", include_str!("../../migrations/sqlite/0160_layers_and_builds.sql")),
    (170, "vm versions", include_str!("../../migrations/sqlite/0170_vm_versions.sql")),
    (180, "moves of sandboxes", include_str!("../../migrations/sqlite/0180_moves.sql")),
    (190, "build drivers", include_str!("../../migrations/sqlite/0190_build_drivers.sql")),
    (200, "tag assignments", include_str!("../../migrations/sqlite/0200_tag_assignments.sql")),
    (210, "public templates", include_str!("../../migrations/sqlite/0210_public_templates.sql")),
    (211, "registry", include_str!("../../migrations/sqlite/0211_registry.sql")),
];
const POSTGRES: &[Listed] = &[
    (1, "init", include_str!("../../migrations/postgres/0001_init.sql")),
    (2, "sandboxes alive", include_str!("../../migrations/postgres/0002_sandboxes_alive.sql")),
    (10, "browser sessions", include_str!("../../migrations/postgres/0010_browser_sessions.sql")),
    (11, "links and codes", include_str!("../../migrations/postgres/0011_links_and_codes.sql")),
    (12, "verified addresses", include_str!("../../migrations/postgres/0012_verified_addresses.sql")),
    (20, "audit", include_str!("../../migrations/postgres/0020_audit.sql")),
    (21, "events", include_str!("../../migrations/postgres/0021_events.sql")),
    (22, "keys and quotas", include_str!("../../migrations/postgres/0022_keys_quotas.sql")),
    (23, "webhooks", include_str!("../../migrations/postgres/0023_webhooks.sql")),
    (30, "host tunnels", include_str!("../../migrations/postgres/0030_host_tunnels.sql")),
    (40, "layers", include_str!("../../migrations/postgres/0040_layers.sql")),
    (41, "template builds", include_str!("../../migrations/postgres/0041_template_builds.sql")),
    (50, "sandbox lifetimes", include_str!("../../migrations/postgres/0050_sandbox_lifetimes.sql")),
    (60, "audit failures", include_str!("../../migrations/postgres/0060_audit_failures.sql")),
    (61, "webhook secrets", include_str!("../../migrations/postgres/0061_webhook_secrets.sql")),
    (62, "heartbeats", include_str!("../../migrations/postgres/0062_heartbeats.sql")),
    (70, "secrets", include_str!("../../migrations/postgres/0070_secrets.sql")),
    (71, "volumes", include_str!("../../migrations/postgres/0071_volumes.sql")),
    (80, "E2B: builds in two steps, pauses of files", include_str!("../../migrations/postgres/0080_e2b.sql")),
    (90, "tags and mounts in their rows", include_str!("../../migrations/postgres/0090_shown_with.sql")),
    (96, "layers with memory", include_str!("../../migrations/postgres/0096_layer_memory.sql")),
    (120, "event times", include_str!("../../migrations/postgres/0120_event_times.sql")),
    (140, "team network", include_str!("../../migrations/postgres/0140_team_network.sql")),
    (150, "secret versions", include_str!("../../migrations/postgres/0150_secret_versions.sql")),
    (160, "layers and builds", include_str!("../../migrations/postgres/0160_layers_and_builds.sql")),
    (170, "vm versions", include_str!("../../migrations/postgres/0170_vm_versions.sql")),
    (180, "moves of sandboxes", include_str!("../../migrations/postgres/0180_moves.sql")),
    (190, "build drivers", include_str!("../../migrations/postgres/0190_build_drivers.sql")),
    (200, "tag assignments", include_str!("../../migrations/postgres/0200_tag_assignments.sql")),
    (210, "public templates", include_str!("../../migrations/postgres/0210_public_templates.sql")),
    (211, "registry", include_str!("../../migrations/postgres/0211_registry.sql")),
];

/// The version that this program was built for.
pub(super) const LATEST: i64 = SQLITE[SQLITE.len() - 1].0;
const _: () = assert!(LATEST == POSTGRES[POSTGRES.len() - 1].0, "both databases have the same migrations");

fn migrator(list: &[Listed]) -> Migrator {
    let migrations = list
        .iter()
        .map(|(version, name, sql)| {
            Migration::new(*version, Cow::Borrowed(*name), MigrationType::Simple, sql.into_sql_str(), false)
        })
        .collect();
    Migrator::with_migrations(migrations)
}

fn refuse_newer(error: MigrateError) -> OpenError {
    match error {
        MigrateError::VersionMissing(found) if found > LATEST => OpenError::NewerSchema { found, known: LATEST },
        other => OpenError::Migrate(other),
    }
}

/// Programs that start on one file open it one after the other: neither switching it to its write-ahead log nor
/// migrating it waits for whoever does the same, so a file beside the database is locked until the guard is dropped.
pub(super) async fn lock_opening(path: &Path) -> Result<File, OpenError> {
    let mut lock_name = path.as_os_str().to_owned();
    lock_name.push(".lock");
    let lock_path = PathBuf::from(lock_name);
    let failed = |source| OpenError::File { path: lock_path.display().to_string(), source };
    let lock = open_private(&lock_path).map_err(failed)?;
    tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
        .await
        .map_err(|error| failed(io::Error::other(error)))?
        .map_err(failed)
}

pub(super) async fn migrate_sqlite(pool: &Pool<Sqlite>) -> Result<(), OpenError> {
    migrator(SQLITE).run(pool).await.map_err(refuse_newer)
}

/// PostgreSQL: sqlx takes an advisory lock.
pub(super) async fn migrate_postgres(pool: &Pool<Postgres>) -> Result<(), OpenError> {
    migrator(POSTGRES).run(pool).await.map_err(refuse_newer)
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// The file holds private keys and password hashes: it is its owner's alone. SQLite gives its log the same mode.
/// One that is there isn't opened: closing it would let go of the locks that this process has on it.
pub(super) fn prepare_private_file(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => drop(made?),
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
}
