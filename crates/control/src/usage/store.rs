//! SQL of usage: the kept days, and the life of sandboxes.

use std::collections::{BTreeMap, HashSet};

use atoll_model::{SandboxStatus, TeamId};

use super::meter::{DAY_MS, Size, Spent, spend};
use crate::db::{Db, DbError, During, Millis, Sql, Text, on, settings};

/// The last day that was added up and kept.
const ROLLED: &str = "usage_rolled_day";
const PAGE: i64 = 5000;

pub(super) async fn rolled(db: &Db) -> Result<Option<i64>, DbError> {
    Ok(settings::get(db, ROLLED).await?.and_then(|day| day.parse().ok()))
}

/// The day on which the first sandbox was made.
pub(super) async fn first_day(db: &Db) -> Result<Option<i64>, DbError> {
    let row: (Option<Millis>,) =
        on!(read db, |c| sqlx::query_as("SELECT MIN(created_at) FROM sandboxes").fetch_one(c).await)
            .during("look for the first sandbox")?;
    Ok(row.0.map(super::day_of))
}

/// The kept days of a team.
pub(super) async fn days(db: &Db, team: &TeamId, from: i64, to: i64) -> Result<Vec<(i64, Spent)>, DbError> {
    #[derive(sqlx::FromRow)]
    struct Row {
        day: i64,
        #[sqlx(flatten)]
        spent: Spent,
    }
    let rows: Vec<Row> = on!(read db, |c| sqlx::query_as(
        "SELECT day, sandboxes, sandbox_ms, vcpu_ms, memory_mb_ms, disk_mb_ms FROM usage_days
         WHERE team_id = $1 AND day >= $2 AND day <= $3",
    )
    .bind(team.as_str())
    .bind(from)
    .bind(to)
    .fetch_all(c)
    .await)
    .during("read what a team used")?;
    Ok(rows.into_iter().map(|row| (row.day, row.spent)).collect())
}

/// Keeps a day of all teams. Doing it again changes nothing.
pub(super) async fn keep(
    db: &Db,
    day: i64,
    spent: &BTreeMap<(String, i64), Spent>,
    now: Millis,
) -> Result<(), DbError> {
    let mut tx = db.begin().await?;
    for ((team, day), spent) in spent {
        on!(tx &mut tx, |c| sqlx::query(
            "INSERT INTO usage_days (team_id, day, sandboxes, sandbox_ms, vcpu_ms, memory_mb_ms, disk_mb_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (team_id, day) DO NOTHING",
        )
        .bind(team)
        .bind(day)
        .bind(spent.sandboxes)
        .bind(spent.sandbox_ms)
        .bind(spent.vcpu_ms)
        .bind(spent.memory_mb_ms)
        .bind(spent.disk_mb_ms)
        .execute(c)
        .await
        .map(|_| ()))
        .during("keep what a team used")?;
    }
    settings::set_in(&mut tx, ROLLED, &day.to_string(), now).await?;
    tx.commit().await
}

/// One step in a sandbox's life, with what the sandbox is.
#[derive(sqlx::FromRow)]
pub(super) struct Step {
    pub sandbox: String,
    team: String,
    vcpus: i64,
    memory_mb: i64,
    disk_mb: i64,
    event: i64,
    pub at: i64,
    status: Text<SandboxStatus>,
}

impl Step {
    pub fn status(&self) -> SandboxStatus {
        self.status.0
    }
}

/// A stretch of a sandbox's life in one status: from `step.at` to `until`.
pub(super) struct Stretch<'a> {
    pub step: &'a Step,
    pub until: i64,
    /// The next one is another sandbox's.
    pub last: bool,
}

fn steps(team: Option<&TeamId>, from: i64, to: i64, after: (&str, i64)) -> Sql {
    let mut sql = Sql::new(
        "SELECT s.id AS sandbox, s.team_id AS team, s.vcpus, s.memory_mb, s.disk_mb, e.id AS event, e.at, e.status
         FROM sandboxes s JOIN sandbox_events e ON e.sandbox_id = s.id WHERE 1 = 1",
    );
    sql.with_some(" AND s.team_id = ?", team.map(TeamId::as_str));
    sql.with(" AND s.created_at < ?", to);
    sql.with(" AND (s.status <> 'stopped' OR s.status_changed_at > ?)", from);
    sql.with(" AND (s.id > ? OR (s.id = ?", after.0).with(" AND e.id > ?))", after.1);
    sql.with(" ORDER BY s.id, e.id LIMIT ?", PAGE);
    sql
}

/// Shows the whole lives, in order and one sandbox after the other, of those that were alive between `from` and `to`
/// (milliseconds since 1970): of one team, or of all.
pub(super) async fn each_stretch(
    db: &Db,
    team: Option<&TeamId>,
    (from, to): (i64, i64),
    now: Millis,
    mut take: impl FnMut(Stretch) + Send,
) -> Result<(), DbError> {
    let mut open: Option<Step> = None;
    loop {
        let after = open.as_ref().map_or((String::new(), 0), |step| (step.sandbox.clone(), step.event));
        let rows: Vec<Step> = steps(team, from, to, (&after.0, after.1)).fetch_all(db, "read what was used").await?;
        let full = rows.len() as i64 == PAGE;
        for row in rows {
            if let Some(before) = open.take() {
                let same = before.sandbox == row.sandbox;
                take(Stretch { step: &before, until: if same { row.at } else { now.0 }, last: !same });
            }
            open = Some(row);
        }
        if !full {
            break;
        }
    }
    if let Some(step) = &open {
        take(Stretch { step, until: now.0, last: true });
    }
    Ok(())
}

/// Adds up what was spent on the days `first..=last`, by team and day: of one team, or of all.
pub(super) async fn add_up(
    db: &Db,
    team: Option<&TeamId>,
    first: i64,
    last: i64,
    now: Millis,
) -> Result<BTreeMap<(String, i64), Spent>, DbError> {
    let mut all: BTreeMap<(String, i64), Spent> = BTreeMap::new();
    let mut seen: HashSet<i64> = HashSet::new();
    each_stretch(db, team, (first * DAY_MS, (last + 1) * DAY_MS), now, |Stretch { step, until, last: ends }| {
        let size = Size { vcpus: step.vcpus, memory_mb: step.memory_mb, disk_mb: step.disk_mb };
        let mut days = BTreeMap::new();
        spend(&mut days, size, step.status(), step.at, until, (first, last));
        for (day, spent) in days {
            let sum = all.entry((step.team.clone(), day)).or_default();
            // A sandbox is counted once a day, however many steps its life had.
            sum.sandboxes += i64::from(seen.insert(day));
            sum.sandbox_ms = sum.sandbox_ms.saturating_add(spent.sandbox_ms);
            sum.vcpu_ms = sum.vcpu_ms.saturating_add(spent.vcpu_ms);
            sum.memory_mb_ms = sum.memory_mb_ms.saturating_add(spent.memory_mb_ms);
            sum.disk_mb_ms = sum.disk_mb_ms.saturating_add(spent.disk_mb_ms);
        }
        if ends {
            seen.clear();
        }
    })
    .await?;
    Ok(all)
}
