//! The database: SQLite (the embedded default) or PostgreSQL, behind one small enum.
//!
//! **Adding a query.** One SQL text serves both databases (`$1` works in both), and lives in the `store.rs` of its
//! subject, nowhere else. [`on!`](crate::db::on) compiles it once per database:
//!
//! ```ignore
//! #[derive(sqlx::FromRow)]
//! struct Row { id: Text<HostId>, status: Text<HostStatus>, last_heartbeat_at: Option<Millis> }
//!
//! // A read: a pooled reader.
//! let row: Option<Row> = on!(read db, |c| sqlx::query_as("SELECT id, status, last_heartbeat_at FROM hosts WHERE id = $1")
//!     .bind(id.as_str()).fetch_optional(c).await).during("read a host")?;
//!
//! // One statement that writes, by itself.
//! let changed = on!(write db, |c| sqlx::query("UPDATE hosts SET draining = $2 WHERE id = $1")
//!     .bind(id.as_str()).bind(true).execute(c).await.map(|done| done.rows_affected())).during("drain a host")?;
//!
//! // Several in one transaction. Dropped without `commit`, it is rolled back.
//! let mut tx = db.begin().await?;
//! on!(tx tx, |c| sqlx::query("...").bind(..).execute(c).await.map(|done| done.rows_affected())).during("...")?;
//! audit::record(&mut tx, ..).await?;
//! tx.commit().await?;
//! ```
//!
//! Where the two really differ (JSON operators, `FOR UPDATE SKIP LOCKED`), match on the enum and write two texts side
//! by side. Columns: ids are TEXT ([`Text`] parses them into their types), times are [`Millis`] in BIGINT (the same
//! type, order and arithmetic in both, no parsing, and they come from control's clock), structured values are
//! [`sqlx::types::Json`] (TEXT in SQLite, JSONB in PostgreSQL).
//!
//! While PostgreSQL is away, statements fail at once (`circuit`).
//!
//! SQLite: WAL, one writer connection and a pool of readers; a transaction is `BEGIN IMMEDIATE` on the writer. Keep
//! transactions short: never await anything but the database inside one.

pub mod auth_version;
mod circuit;
mod durable;
mod error;
mod fresh;
pub mod idempotency;
pub mod keys;
pub mod leases;
mod migrations;
pub mod settings;
mod sql;
#[cfg(test)]
pub mod testing;
mod types;
mod wake;

use std::path::Path;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Pool, Postgres, Sqlite, Transaction};

pub use circuit::PgPool;
pub use error::{DbError, During, OpenError};
pub use fresh::{Fresh, Topic};
pub use sql::{Sql, containing};
pub use types::{Millis, Text};
pub use wake::{writes, wrote};

/// How long a statement waits for a lock or a connection before it fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
const SQLITE_READERS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 16;

/// The pools. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Db {
    Sqlite { writer: Pool<Sqlite>, readers: Pool<Sqlite>, log: Option<fresh::Log>, wal: durable::Wal },
    Postgres(PgPool),
}

/// A transaction that writes.
pub enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// Runs one query text against whichever database this is; see the module's documentation.
macro_rules! on {
    (read $db:expr, |$c:ident| $body:expr) => {
        match $db {
            $crate::db::Db::Sqlite { readers: $c, .. } => $body,
            $crate::db::Db::Postgres($c) => $body,
        }
    };
    (write $db:expr, |$c:ident| $body:expr) => {{
        let written = match $db {
            $crate::db::Db::Sqlite { writer: $c, .. } => $body,
            $crate::db::Db::Postgres($c) => $body,
        };
        $crate::db::wrote();
        written
    }};
    (tx $tx:expr, |$c:ident| $body:expr) => {
        match $tx {
            $crate::db::Tx::Sqlite(transaction) => {
                let $c = &mut **transaction;
                $body
            }
            $crate::db::Tx::Postgres(transaction) => {
                let $c = &mut **transaction;
                $body
            }
        }
    };
}
pub(crate) use on;

impl Db {
    /// Opens the database that `url` names (`postgres://...` or `sqlite:PATH`), or the embedded one in `data_dir`,
    /// and brings its schema up to date.
    pub async fn open(url: Option<&str>, data_dir: &Path) -> Result<Self, OpenError> {
        match url {
            None => Self::open_sqlite(&data_dir.join("control.db")).await,
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Self::open_postgres(url).await
            }
            Some(url) => match url.strip_prefix("sqlite:") {
                Some(path) => Self::open_sqlite(Path::new(path.trim_start_matches("//"))).await,
                None => Err(OpenError::UnknownScheme),
            },
        }
    }

    async fn open_sqlite(path: &Path) -> Result<Self, OpenError> {
        let at = || path.display().to_string();
        migrations::prepare_private_file(path).map_err(|source| OpenError::File { path: at(), source })?;
        let _alone = migrations::lock_opening(path).await?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .pragma("temp_store", "memory")
            .statement_cache_capacity(256)
            .optimize_on_close(true, None);
        let connect = |source| OpenError::Connect { database: at(), source };
        let writer = SqlitePoolOptions::new()
            .min_connections(1)
            .max_connections(1)
            .acquire_timeout(BUSY_TIMEOUT)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.clone())
            .await
            .map_err(connect)?;
        migrations::migrate_sqlite(&writer).await?;
        let readers = SqlitePoolOptions::new()
            .min_connections(1)
            .max_connections(SQLITE_READERS)
            .acquire_timeout(BUSY_TIMEOUT)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.create_if_missing(false).read_only(true))
            .await
            .map_err(connect)?;
        // After the first connection, which makes the file.
        let log = fresh::Log::of(path);
        let wal = durable::Wal::of(path).map_err(|source| OpenError::File { path: at(), source })?;
        Ok(Self::Sqlite { writer, readers, log, wal })
    }

    async fn open_postgres(url: &str) -> Result<Self, OpenError> {
        let options: PgConnectOptions = url.parse().map_err(|_| OpenError::BadUrl)?;
        let database = format!("{}:{}", options.get_host(), options.get_port());
        let pool = PgPoolOptions::new()
            .max_connections(POSTGRES_CONNECTIONS)
            .acquire_timeout(BUSY_TIMEOUT)
            .test_before_acquire(false);
        let pool = PgPool::connect(pool, options.application_name("atoll"))
            .await
            .map_err(|source| OpenError::Connect { database, source })?;
        migrations::migrate_postgres(pool.unguarded()).await?;
        Ok(Self::Postgres(pool))
    }

    /// Begins a transaction that writes.
    pub async fn begin(&self) -> Result<Tx, DbError> {
        match self {
            Self::Sqlite { writer, .. } => writer.begin_with("BEGIN IMMEDIATE").await.map(Tx::Sqlite),
            Self::Postgres(pool) => pool.begin().await.map(Tx::Postgres),
        }
        .during("begin a transaction")
    }

    /// Whether the database answers, and knows the schema that this program was built for.
    pub async fn check(&self) -> Result<(), DbError> {
        let newest: (Option<i64>,) =
            on!(read self, |c| sqlx::query_as("SELECT MAX(version) FROM _sqlx_migrations").fetch_one(c).await)
                .during("read the schema's version")?;
        match newest.0 {
            Some(version) if version == migrations::LATEST => Ok(()),
            _ => Err(DbError::WrongSchema { found: newest.0, expected: migrations::LATEST }),
        }
    }

    /// The database's kind, for logs and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    /// Closes all connections; SQLite then folds its write-ahead log into the file.
    pub async fn close(&self) {
        match self {
            Self::Sqlite { writer, readers, .. } => {
                readers.close().await;
                writer.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

impl Tx {
    pub async fn commit(self) -> Result<(), DbError> {
        let committed = match self {
            Self::Sqlite(transaction) => transaction.commit().await,
            Self::Postgres(transaction) => transaction.commit().await,
        };
        wrote();
        committed.during("commit a transaction")
    }
}

#[cfg(test)]
mod circuit_tests;
#[cfg(test)]
mod tests;
