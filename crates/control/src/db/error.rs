//! Errors of the database. Each says which operation failed; none of their texts ever reaches a client.

/// A statement that failed.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("could not {operation}")]
    Statement {
        operation: &'static str,
        #[source]
        source: sqlx::Error,
    },
    #[error("the database's schema is at version {found:?}, this program needs {expected}")]
    WrongSchema { found: Option<i64>, expected: i64 },
    /// A statement that one has run for many.
    #[error(transparent)]
    Shared(std::sync::Arc<DbError>),
}

impl DbError {
    /// The row would break a UNIQUE constraint.
    #[must_use]
    pub fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Statement { source: sqlx::Error::Database(error), .. } if error.is_unique_violation())
    }

    /// The row speaks of one that is not there.
    #[must_use]
    pub fn is_foreign_key_violation(&self) -> bool {
        matches!(self, Self::Statement { source: sqlx::Error::Database(error), .. } if error.is_foreign_key_violation())
    }

    /// The database is not there: it ended, is starting, or the connection to it broke. What was asked has not been
    /// committed, unless it was the commit's own answer that was lost.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Shared(error) => error.is_away(),
            Self::Statement { source: sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed, .. } => true,
            // 53300: too many connections.
            Self::Statement { source: sqlx::Error::Database(error), .. }
                if error.code().as_deref() == Some("53300") =>
            {
                true
            }
            Self::Statement { source, .. } => super::circuit::is_break(source),
            Self::WrongSchema { .. } => false,
        }
    }

    /// PostgreSQL ended this transaction because it and another one waited for each other.
    #[must_use]
    pub fn is_deadlock(&self) -> bool {
        matches!(self, Self::Statement { source: sqlx::Error::Database(error), .. } if error.code().as_deref() == Some("40P01"))
    }

    /// PostgreSQL keeps no text with a NUL byte, and says so (22021).
    #[must_use]
    pub fn is_nul(&self) -> bool {
        matches!(self, Self::Statement { source: sqlx::Error::Database(error), .. } if error.code().as_deref() == Some("22021"))
    }

    /// No connection or lock could be had in time.
    #[must_use]
    pub fn is_overload(&self) -> bool {
        match self {
            Self::Shared(error) => error.is_overload(),
            Self::Statement { source: sqlx::Error::PoolTimedOut, .. } => true,
            // SQLITE_BUSY and its extended codes keep 5 in the low byte.
            Self::Statement { source: sqlx::Error::Database(error), .. } => error
                .try_downcast_ref::<sqlx::sqlite::SqliteError>()
                .and_then(|sqlite| sqlx::error::DatabaseError::code(sqlite).and_then(|code| code.parse::<i32>().ok()))
                .is_some_and(|code| code & 0xff == 5),
            _ => false,
        }
    }
}

/// Names the operation that a failing statement belonged to.
pub trait During<T> {
    fn during(self, operation: &'static str) -> Result<T, DbError>;
}

impl<T> During<T> for Result<T, sqlx::Error> {
    fn during(self, operation: &'static str) -> Result<T, DbError> {
        self.map_err(|source| DbError::Statement { operation, source })
    }
}

/// Why the database could not be opened. For the operator, so it says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the database URL must begin with `postgres://` or `sqlite:`")]
    UnknownScheme,
    #[error("the database URL is not valid")]
    BadUrl,
    #[error("could not prepare the database file {path}")]
    File {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("could not connect to the database {database}")]
    Connect {
        database: String,
        #[source]
        source: sqlx::Error,
    },
    #[error(
        "the database was written by a newer Atoll (it has schema version {found}, this program knows up to {known}); \
         start a program at least as new, or restore a backup from before the upgrade"
    )]
    NewerSchema { found: i64, known: i64 },
    #[error("could not bring the database's schema up to date")]
    Migrate(#[source] sqlx::migrate::MigrateError),
}
