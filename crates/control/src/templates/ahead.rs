//! Builds the template that ships before anybody asks for it, so that the first create from it is like any other.
//!
//! Only when the machine has nothing better to do: nothing starts, nothing is built, the processors rest; and then with the
//! processor time and the disk that nobody else wants. Replicas do it one after the other, and those that share an object
//! store do it once. What fails is tried again later and later. Who asks meanwhile is told how far it is, as ever, and has
//! the build go on as fast as any other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::shipped::Shipped;
use crate::db::{DbError, During, leases, on};

const LEASE: &str = "shipped-templates";
/// A lease is held for so long, and renewed four times meanwhile.
const LEASE_FOR: Duration = Duration::from_secs(60);
/// Of the processors, so much may be in use.
const RESTING: f64 = 0.75;

/// When it is time.
pub(super) struct Pace {
    /// Between two looks whether there is nothing to do, and how many must say so in a row.
    pub look: Duration,
    pub quiet_looks: u32,
    /// After the first failure, and at most.
    pub first_pause: Duration,
    pub last_pause: Duration,
    /// Where the load of the machine is read.
    pub load: PathBuf,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(5),
            quiet_looks: 3,
            first_pause: Duration::from_secs(60),
            last_pause: Duration::from_secs(3600),
            load: "/proc/loadavg".into(),
        }
    }
}

/// Ends when it is built, here or where this replica finds it.
pub(super) async fn run(shipped: &Shipped, replica: &str, pace: &Pace) {
    let mut pause = pace.first_pause;
    loop {
        match attempt(shipped, replica, pace).await {
            Ok(Outcome::There) => return,
            Ok(Outcome::NotOurTurn) => tokio::time::sleep(pace.look).await,
            Err(problem) => {
                tracing::warn!(problem, again_in = ?pause, "the code interpreter could not be built ahead");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(pace.last_pause);
            }
        }
    }
}

enum Outcome {
    There,
    NotOurTurn,
}

async fn attempt(shipped: &Shipped, replica: &str, pace: &Pace) -> Result<Outcome, String> {
    let failed = |error: DbError| error.to_string();
    let mut quiet = 0;
    while quiet < pace.quiet_looks {
        if shipped.is_there().await.map_err(failed)? {
            return Ok(Outcome::There);
        }
        tokio::time::sleep(pace.look).await;
        quiet = if is_quiet(shipped, &pace.load).await.map_err(failed)? { quiet + 1 } else { 0 };
    }
    let (db, clock) = shipped.db();
    let take = || leases::take(db, LEASE, replica, clock.now(), LEASE_FOR);
    if take().await.map_err(failed)?.is_none() {
        return Ok(Outcome::NotOurTurn);
    }
    let hold = async {
        loop {
            tokio::time::sleep(LEASE_FOR / 4).await;
            if let Err(error) = take().await {
                tracing::warn!(%error, "a lease could not be renewed");
            }
        }
    };
    let built = tokio::select! {
        built = shipped.build_in_spare_time() => built,
        never = hold => never,
    };
    leases::release(db, LEASE, replica).await.map_err(failed)?;
    built.map(|()| Outcome::There)
}

/// Nothing starts, nothing is built, and the processors rest.
async fn is_quiet(shipped: &Shipped, load: &Path) -> Result<bool, DbError> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let load = std::fs::read_to_string(load).ok();
    // What can't be read says nothing.
    if load.as_deref().and_then(load_of).is_some_and(|load| load > processors * RESTING) {
        return Ok(false);
    }
    let (db, _) = shipped.db();
    let (under_way,): (i64,) = on!(read db, |c| sqlx::query_as(
        "SELECT (SELECT COUNT(*) FROM sandboxes WHERE status IN ('starting', 'resuming'))
         + (SELECT COUNT(*) FROM template_builds WHERE status IN ('waiting', 'building') AND owner <> '')"
    )
    .fetch_one(c)
    .await)
    .during("look whether anything is being made")?;
    Ok(under_way == 0)
}

/// Of the last minute, from `/proc/loadavg`.
pub(super) fn load_of(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}
