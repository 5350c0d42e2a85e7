//! What a team used, per day (UTC), and how busy it was (`activity`): added up from the life of each sandbox that the
//! database recorded.
//!
//! A finished day is added up once, a few minutes after its end, by whichever replica keeps house, and kept; what is
//! younger is added up when it is asked for. Running counts vcpus and memory, a pause keeps the memory (a paused
//! sandbox's processes are still there), and the disk counts from creation to the end.

pub mod activity;
mod meter;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_model::TeamId;
use atoll_model::api::teams::UsageDay;
use chrono::{DateTime, NaiveDate};

pub use meter::{DAY_MS, Spent};

use crate::db::{Db, DbError, Millis};

/// A day is added up this long after its end: other replicas' clocks may be a little behind.
const SETTLED: Duration = Duration::from_secs(600);
/// Days that one request may ask for.
pub const MAX_DAYS: i64 = 366;
/// Days that one run of the job adds up.
const DAYS_PER_RUN: i64 = 400;

/// The number of a day since 1970.
#[must_use]
pub fn day_of(time: Millis) -> i64 {
    time.0.div_euclid(DAY_MS)
}

/// The day that a number stands for.
#[must_use]
pub fn date_of(day: i64) -> NaiveDate {
    DateTime::from_timestamp(day.saturating_mul(DAY_MS / 1000), 0).map(|time| time.date_naive()).unwrap_or_default()
}

/// What the team used on each day of `from..=to`, days with nothing included.
pub async fn of_team(db: &Db, team: &TeamId, from: i64, to: i64, now: Millis) -> Result<Vec<UsageDay>, DbError> {
    let rolled = store::rolled(db).await?.unwrap_or(i64::MIN);
    let mut days: BTreeMap<i64, Spent> = store::days(db, team, from, to.min(rolled)).await?.into_iter().collect();
    let live = from.max(rolled.saturating_add(1));
    if live <= to {
        let spent = store::add_up(db, Some(team), live, to, now).await?;
        days.extend(spent.into_iter().map(|((_, day), spent)| (day, spent)));
    }
    Ok((from..=to).map(|day| days.remove(&day).unwrap_or_default().into_api(date_of(day))).collect())
}

/// Adds up the days that have ended since the last time. One replica at a time does it.
pub async fn roll(db: &Db, now: Millis) -> Result<(), DbError> {
    let last = day_of(now - SETTLED) - 1;
    let first = match store::rolled(db).await? {
        Some(rolled) => rolled + 1,
        None => match store::first_day(db).await? {
            Some(day) => day,
            None => return Ok(()),
        },
    };
    for day in first.max(last - DAYS_PER_RUN)..=last {
        let spent = store::add_up(db, None, day, day, now).await?;
        store::keep(db, day, &spent, now).await?;
    }
    Ok(())
}
