//! Builds the template that ships before anybody asks for it, so that the first create from it is like any other.
//!
//! Only when the machine has nothing better to do: nothing starts, nothing is built, the processors rest; and then with the
//! processor time and the disk that nobody else wants. Replicas do it one after the other, and those that share an object
//! store do it once. What fails is tried again later and later. Who asks meanwhile is told how far it is, as ever.

use std::time::Duration;

use super::shipped::Shipped;
use crate::db::{DbError, During, leases, on};

const LEASE: &str = "shipped-templates";
/// A lease is held for so long, and renewed four times meanwhile.
const LEASE_FOR: Duration = Duration::from_secs(60);
/// Between two looks whether there is nothing to do, and how many must say so in a row.
const LOOK: Duration = Duration::from_secs(5);
const QUIET_LOOKS: u32 = 3;
/// Of the processors, so much may be in use.
const RESTING: f64 = 0.75;
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LAST_PAUSE: Duration = Duration::from_secs(3600);

/// Ends when it is built, here or where this replica finds it.
pub(super) async fn run(shipped: &Shipped, replica: &str) {
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt(shipped, replica).await {
            Ok(Outcome::There) => return,
            Ok(Outcome::NotOurTurn) => tokio::time::sleep(LOOK).await,
            Err(problem) => {
                tracing::warn!(problem, again_in = ?pause, "the code interpreter could not be built ahead");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
    }
}

enum Outcome {
    There,
    NotOurTurn,
}

async fn attempt(shipped: &Shipped, replica: &str) -> Result<Outcome, String> {
    let failed = |error: DbError| error.to_string();
    let mut quiet = 0;
    while quiet < QUIET_LOOKS {
        if shipped.is_there().await.map_err(failed)? {
            return Ok(Outcome::There);
        }
        tokio::time::sleep(LOOK).await;
        quiet = if is_quiet(shipped).await.map_err(failed)? { quiet + 1 } else { 0 };
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
async fn is_quiet(shipped: &Shipped) -> Result<bool, DbError> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let load = std::fs::read_to_string("/proc/loadavg").ok();
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
fn load_of(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::load_of;

    #[test]
    fn the_load_of_the_last_minute_is_the_first_number() {
        assert_eq!(load_of("0.52 1.20 2.00 3/410 991\n"), Some(0.52));
        assert_eq!((load_of(""), load_of("x y")), (None, None));
    }
}
