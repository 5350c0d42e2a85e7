//! The pool of connections to PostgreSQL, and the circuit that opens while it is away: then everybody is refused at once,
//! in place of waiting for connections one after the other, and those who wait already are told.
//!
//! A connection that breaks, or that can't be had for a second, makes one task try a connection of its own. If that
//! fails, the circuit opens, and the same task goes on trying until one succeeds, which closes it. A server that answers,
//! if only that it has no room, is not away. Connections from before the break are not used again.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Connection, Either, Execute, Executor, Pool, Postgres, SqlStr, Transaction};
use tokio::sync::watch;
use tokio::time::Instant;

/// A wait that makes us look whether the database is there.
const SLOW: Duration = Duration::from_secs(1);
/// A server that doesn't answer a new connection for so long is away.
const NO_ANSWER: Duration = Duration::from_secs(5);
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// Cheap to clone. Used as what statements are run on, like sqlx's own pool.
#[derive(Clone, Debug)]
pub struct PgPool {
    pool: Pool<Postgres>,
    circuit: Arc<Circuit>,
}

#[derive(Debug)]
struct Circuit {
    options: PgConnectOptions,
    /// Whether the circuit is open.
    away: watch::Sender<bool>,
    trying: AtomicBool,
    broken_at: Mutex<Option<Instant>>,
}

impl PgPool {
    pub async fn connect(pool: PgPoolOptions, options: PgConnectOptions) -> Result<Self, sqlx::Error> {
        let circuit = Arc::new(Circuit {
            options: options.clone(),
            away: watch::Sender::new(false),
            trying: AtomicBool::new(false),
            broken_at: Mutex::new(None),
        });
        let judge = Arc::clone(&circuit);
        let pool = pool.before_acquire(move |_, known| {
            let usable = judge.made_since_the_break(known.age);
            Box::pin(async move { Ok(usable) })
        });
        Ok(Self { pool: pool.connect_with(options).await?, circuit })
    }

    /// The pool itself, for what waits by itself and as long as it likes (listening, migrations).
    #[must_use]
    pub const fn unguarded(&self) -> &Pool<Postgres> {
        &self.pool
    }

    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        // In a task of its own: sqlx sends no ROLLBACK for a BEGIN whose caller goes away before it is answered, and
        // the connection would go back to the pool with a transaction open, swallowing other requests' writes.
        let pool = self.pool.clone();
        let begin = async { tokio::spawn(async move { pool.begin().await }).await.unwrap_or(Err(worker_crashed())) };
        self.unless_away(begin).await
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Runs `work`, but refuses at once when the circuit is or becomes open.
    async fn unless_away<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        if self.is_away() {
            return Err(refusal());
        }
        let result = tokio::select! {
            biased;
            result = work => result,
            () = self.clone().opened() => return Err(refusal()),
        };
        if let Err(error) = &result {
            self.heed(error);
        }
        result
    }

    fn is_away(&self) -> bool {
        *self.circuit.away.borrow()
    }

    /// Ends when the circuit opens. Somebody waits meanwhile: for long, and it is looked whether the database is there.
    pub(super) async fn opened(self) {
        let mut away = self.circuit.away.subscribe();
        if tokio::time::timeout(SLOW, away.wait_for(|away| *away)).await.is_err() {
            self.look();
            let _ = away.wait_for(|away| *away).await;
        }
    }

    /// What an error says about the database.
    fn heed(&self, error: &sqlx::Error) {
        if is_break(error) {
            *self.circuit.broken_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            self.look();
        } else if matches!(error, sqlx::Error::PoolTimedOut) {
            self.look();
        }
    }

    /// Sees to it that somebody tries whether the database is there.
    fn look(&self) {
        if !self.circuit.trying.swap(true, Ordering::SeqCst) {
            tokio::spawn(self.clone().try_until_it_is_there());
        }
    }

    async fn try_until_it_is_there(self) {
        while !self.pool.is_closed() {
            match tokio::time::timeout(NO_ANSWER, PgConnection::connect_with(&self.circuit.options)).await {
                Ok(Ok(connection)) => {
                    let _ = tokio::time::timeout(SLOW, connection.close()).await;
                    break;
                }
                // It is there, whatever it has against one more connection.
                Ok(Err(error)) if !is_break(&error) => break,
                Ok(Err(error)) => self.open(&error),
                Err(_) => self.open(&io::Error::from(io::ErrorKind::TimedOut).into()),
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
        if self.circuit.away.send_replace(false) {
            tracing::info!("the database is back");
        }
        self.circuit.trying.store(false, Ordering::SeqCst);
    }

    fn open(&self, error: &sqlx::Error) {
        *self.circuit.broken_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if !self.circuit.away.send_replace(true) {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "the database is away: requests are refused until it is back");
        }
    }
}

impl Circuit {
    fn made_since_the_break(&self, age: Duration) -> bool {
        let broken_at = *self.broken_at.lock().unwrap_or_else(PoisonError::into_inner);
        broken_at.is_none_or(|at| at.elapsed() > age)
    }
}

/// Whether the connection broke or could not be made, or the server said that it stops, has crashed or starts.
pub(super) fn is_break(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        // Classes 08 (connection) and 57P (shut down, crashed, starting).
        sqlx::Error::Database(error) => error
            .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
            .is_some_and(|error| ["08", "57P"].iter().any(|class| error.code().starts_with(class))),
        _ => false,
    }
}

fn refusal() -> sqlx::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the database is away").into()
}

const fn worker_crashed() -> sqlx::Error {
    sqlx::Error::WorkerCrashed
}

impl<'p> Executor<'p> for &'p PgPool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if self.is_away() {
            return stream::once(async { Err(refusal()) }).boxed();
        }
        let pool = self.clone();
        let mut rows = self.pool.fetch_many(query);
        let mut opened = Box::pin(self.clone().opened().fuse());
        stream::poll_fn(move |context| match rows.poll_next_unpin(context) {
            std::task::Poll::Ready(row) => {
                if let Some(Err(error)) = &row {
                    pool.heed(error);
                }
                std::task::Poll::Ready(row)
            }
            std::task::Poll::Pending => opened.poll_unpin(context).map(|()| Some(Err(refusal()))),
        })
        .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(self.unless_away(self.pool.fetch_optional(query)))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        Box::pin(self.unless_away(self.pool.prepare_with(sql, parameters)))
    }
}
