//! The live end of the outbox: one reader per replica, who tells all subscribers of it.
//!
//! What wakes it: a write of this process (`db::writes`), on PostgreSQL a notification of another replica, and a clock
//! for when one was lost. A replica that finds events after a write of its own notifies the others: once for as many
//! events as came together, so that a change itself pays nothing for it. Nobody subscribed: nothing is read.
//!
//! Rights travel the same way: when their version has changed, subscribers are told so before any event that was
//! written later.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sqlx::postgres::PgListener;
use tokio::sync::{OnceCell, broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::order::Place;
use super::store::{self, Row};
use crate::db::{Db, DbError, During, auth_version, writes};

const CHANNEL: &str = "atoll_events";
/// Events that come together are read together.
const GATHER: Duration = Duration::from_millis(5);
const LOOK_ANYWAY: Duration = Duration::from_secs(2);
/// Longest wait for a transaction that may still fill a hole. Then everybody is told to read again.
const HOLE_LIMIT: Duration = Duration::from_secs(10);
/// A subscription that is older than this knows that nobody reads.
const JUST_STOPPED: Duration = Duration::from_secs(1);
const BATCH: i64 = 500;
/// What a subscriber may be behind before it is dropped.
const BACKLOG: usize = 1024;

/// An event on its way to all subscribers. The first of them that may see it makes the message for all.
#[derive(Debug)]
pub struct Notice {
    pub row: Row,
    pub message: OnceCell<Bytes>,
}

/// What subscribers are told.
#[derive(Debug, Clone)]
pub enum Told {
    Event(Arc<Notice>),
    /// Somebody may have lost a right: whoever tells a caller of events asks anew.
    Rights,
    /// Something may have been missed: read everything again.
    Reset,
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Feed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sender: broadcast::Sender<Told>,
    /// The id of the last event that was told, or is being told; negative while nobody reads.
    told: AtomicI64,
    /// Whether the reader reads.
    reading: watch::Sender<bool>,
    /// Changes with each new subscriber.
    asked: watch::Sender<()>,
}

/// A subscription: everything after `after`, unless [`broadcast::error::RecvError::Lagged`].
#[derive(Debug)]
pub struct Subscription {
    pub after: i64,
    pub receiver: broadcast::Receiver<Told>,
}

impl Default for Feed {
    fn default() -> Self {
        Self(Arc::new(Inner {
            sender: broadcast::Sender::new(BACKLOG),
            told: AtomicI64::new(-1),
            reading: watch::Sender::new(false),
            asked: watch::Sender::new(()),
        }))
    }
}

impl Feed {
    /// Subscribes. None when the reader has ended, with the program.
    pub async fn subscribe(&self) -> Option<Subscription> {
        let mut reading = self.0.reading.subscribe();
        let receiver = self.0.sender.subscribe();
        self.0.asked.send_replace(());
        loop {
            let reads = *reading.borrow_and_update();
            // Read after `receiver` was made: an event that was told before that is at most this one.
            let after = self.0.told.load(Ordering::SeqCst);
            if reads && after >= 0 {
                return Some(Subscription { after, receiver });
            }
            reading.changed().await.ok()?;
        }
    }

    /// Reads until `shutdown`.
    pub async fn run(self, db: Db, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                result = self.read(&db) => {
                    let Err(error) = result else { continue };
                    tracing::warn!(error = &error as &dyn std::error::Error, "the outbox can't be read at the moment");
                }
            }
            self.0.reading.send_replace(false);
            self.0.told.store(-1, Ordering::SeqCst);
            let _ = self.0.sender.send(Told::Reset);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    fn wanted(&self) -> bool {
        self.0.sender.receiver_count() > 0
    }

    async fn read(&self, db: &Db) -> Result<(), DbError> {
        let (mut written, mut asked) = (writes(), self.0.asked.subscribe());
        let mut others = match db {
            Db::Postgres(pool) => {
                let mut listener =
                    PgListener::connect_with(pool.unguarded()).await.during("listen for other replicas")?;
                listener.listen(CHANNEL).await.during("listen for other replicas")?;
                Some(listener)
            }
            Db::Sqlite { .. } => None,
        };
        let mut known = (store::last(db).await?, auth_version::read(db).await?);
        let mut rights = known.1;
        let mut place: Option<Place> = None;
        let mut hole_since: Option<Instant> = None;
        let (mut reading, mut stopped_at) = (false, Instant::now());
        loop {
            if self.wanted() && !reading {
                let stopped = place.take().filter(|_| stopped_at.elapsed() < JUST_STOPPED);
                // Before anybody is told that this reads: each looks at its own rights after that.
                rights = auth_version::read(db).await?;
                place = Some(self.begin(db, stopped).await?);
                reading = true;
            }
            let wait = if hole_since.is_some() { GATHER * 4 } else { LOOK_ANYWAY };
            let ours = tokio::select! {
                _ = written.changed() => true,
                _ = asked.changed() => false,
                () = heard(&mut others) => false,
                () = tokio::time::sleep(wait) => false,
            };
            tokio::time::sleep(GATHER).await;
            written.mark_unchanged();
            if ours && others.is_some() {
                let now = (store::last(db).await?, auth_version::read(db).await?);
                if now != known {
                    known = now;
                    notify(db).await?;
                }
            }
            if !self.wanted() {
                if reading {
                    stopped_at = Instant::now();
                }
                (reading, hole_since) = (false, None);
                self.0.reading.send_replace(false);
                self.0.told.store(-1, Ordering::SeqCst);
                continue;
            }
            let Some(place) = &mut place else { continue };
            self.tell_all(db, place, &mut rights, &mut hole_since).await?;
        }
    }

    /// Where reading begins. Where it stopped a moment ago, since somebody may have subscribed while it did. Else at the last event, when all transactions that were under way then have ended, so that nothing before it
    /// can still appear.
    async fn begin(&self, db: &Db, stopped: Option<Place>) -> Result<Place, DbError> {
        if let Some(place) = stopped
            && store::last(db).await? - place.last() <= BATCH
        {
            return Ok(self.begin_at(place));
        }
        let seen = store::horizon(db).await?;
        let limit = Instant::now() + HOLE_LIMIT;
        while store::horizon(db).await?.oldest < seen.next && Instant::now() < limit {
            tokio::time::sleep(GATHER).await;
        }
        Ok(self.begin_at(Place::after(store::last(db).await?)))
    }

    fn begin_at(&self, place: Place) -> Place {
        self.0.told.store(place.last(), Ordering::SeqCst);
        self.0.reading.send_replace(true);
        place
    }

    async fn tell_all(
        &self,
        db: &Db,
        place: &mut Place,
        rights: &mut i64,
        hole_since: &mut Option<Instant>,
    ) -> Result<(), DbError> {
        loop {
            let (mut rows, horizon) = store::after(db, place.last(), BATCH).await?;
            // Read after the rows and told before them.
            let version = auth_version::read(db).await?;
            if std::mem::replace(rights, version) != version {
                let _ = self.0.sender.send(Told::Rights);
            }
            let full = rows.len() as i64 == BATCH;
            let ready = place.take(&rows, horizon);
            if place.waits() {
                let since = *hole_since.get_or_insert_with(Instant::now);
                if since.elapsed() > HOLE_LIMIT {
                    tracing::warn!("a transaction has been under way for long: live views are told to read again");
                    place.give_up(&rows);
                    *hole_since = None;
                    self.0.told.store(place.last(), Ordering::SeqCst);
                    let _ = self.0.sender.send(Told::Reset);
                    continue;
                }
            } else {
                *hole_since = None;
            }
            rows.truncate(ready);
            for row in rows {
                // Before it is told: see `subscribe`.
                self.0.told.store(row.id, Ordering::SeqCst);
                let _ = self.0.sender.send(Told::Event(Arc::new(Notice { row, message: OnceCell::new() })));
            }
            if !full || place.waits() {
                return Ok(());
            }
        }
    }
}

/// Ends when another replica has said that there is something, or that was perhaps missed.
async fn heard(others: &mut Option<PgListener>) {
    let Some(listener) = others else { return std::future::pending().await };
    if let Err(error) = listener.try_recv().await {
        tracing::debug!(error = &error as &dyn std::error::Error, "the connection that listens for replicas broke");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    while listener.next_buffered().is_some() {}
}

async fn notify(db: &Db) -> Result<(), DbError> {
    let Db::Postgres(pool) = db else { return Ok(()) };
    sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(pool).await.during("notify other replicas")?;
    Ok(())
}
