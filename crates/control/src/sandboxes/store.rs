//! SQL of sandboxes. All changes of status go through [`change`], a compare-and-set on (status, generation).

use std::collections::BTreeMap;

use atoll_model::{HostId, OnTimeout, SandboxId, SandboxStatus, TeamId};
use sqlx::types::Json;

use super::{MadeOf, Network, SandboxRecord};
use crate::db::{Db, DbError, During, Millis, Text, Tx, on};

macro_rules! columns {
    () => {
        "id, team_id, host_id, template, template_id, digest, status, former_status, reason, generation, driver, \
         vcpus, memory_mb, disk_mb, timeout_sec, on_timeout, auto_resume, on_reboot, metadata, network, mounts, access_token, \
         created_by, created_at, started_at, last_active_at, status_changed_at, network_generation"
    };
}

/// Everybody's sandboxes with their teams' names, to be followed by conditions (`AND ...`).
pub const ALL_WITH_TEAM: &str = concat!(
    "SELECT ",
    columns!(),
    ", (SELECT t.name FROM teams t WHERE t.id = s.team_id) AS team_name FROM sandboxes s WHERE 1 = 1"
);

/// The columns of a [`SandboxRecord`].
pub(super) const COLUMNS: &str = columns!();

/// Hosts that take something new: neither draining nor about to be deleted.
macro_rules! taking {
    ($id:literal) => {
        concat!(" FROM hosts WHERE id = ", $id, " AND NOT draining AND deletion_id IS NULL")
    };
}

macro_rules! insertion {
    () => {
        concat!(
            "INSERT INTO sandboxes (",
            columns!(),
            ", made_of) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, \
             $21, $22, $23, $24, $25, $26, $27, $28, $29",
            taking!("$3")
        )
    };
}

/// Inserts a new row in `tx`. False when its host takes nothing new any more, whatever it did when it was chosen: it
/// drains, is being deleted, or is gone. Until the end of `tx` the host can't be marked for deletion, and whoever marks
/// it then sees the row. (SQLite has one writer at a time.)
pub async fn insert(tx: &mut Tx, new: &SandboxRecord, made_of: &MadeOf) -> Result<bool, DbError> {
    let statement = match tx {
        Tx::Sqlite(_) => insertion!(),
        Tx::Postgres(_) => concat!(insertion!(), " FOR KEY SHARE"),
    };
    on!(tx tx, |c| sqlx::query(statement)
    .bind(new.id.as_str())
    .bind(new.team_id.as_str())
    .bind(new.host().map(HostId::as_str))
    .bind(&new.template)
    .bind(new.template_id.as_str())
    .bind(&new.digest)
    .bind(new.status().as_str())
    .bind(new.former_status.as_ref().map(|status| status.0.as_str()))
    .bind(&new.reason)
    .bind(new.generation)
    .bind(&new.driver)
    .bind(new.vcpus)
    .bind(new.memory_mb)
    .bind(new.disk_mb)
    .bind(new.timeout_sec)
    .bind(new.on_timeout.0.0.as_str())
    .bind(new.auto_resume)
    .bind(new.on_reboot.0.0.as_str())
    .bind(&new.metadata)
    .bind(&new.network)
    .bind(&new.mounts)
    .bind(&new.access_token)
    .bind(&new.created_by)
    .bind(new.created_at)
    .bind(new.started_at)
    .bind(new.last_active_at)
    .bind(new.status_changed_at)
    .bind(new.network_generation)
    .bind(Json(made_of))
    .execute(c)
    .await
    .map(|done| done.rows_affected() == 1))
    .during("insert a sandbox")
}

/// What of its template a sandbox was made with; none of those that an older program has made.
pub async fn made_of(db: &Db, id: &SandboxId) -> Result<Option<MadeOf>, DbError> {
    let row: Option<(Option<Json<MadeOf>>,)> =
        on!(read db, |c| sqlx::query_as("SELECT made_of FROM sandboxes WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(c)
            .await)
        .during("read what a sandbox was made of")?;
    Ok(row.and_then(|row| row.0).map(|json| json.0))
}

/// Whether a host takes something new; it can't be marked for deletion until the end of `tx`.
pub async fn takes_something_new(tx: &mut Tx, host: &HostId) -> Result<bool, DbError> {
    let statement = match tx {
        Tx::Sqlite(_) => concat!("SELECT id", taking!("$1")),
        Tx::Postgres(_) => concat!("SELECT id", taking!("$1"), " FOR KEY SHARE"),
    };
    let found: Option<(String,)> =
        on!(tx tx, |c| sqlx::query_as(statement).bind(host.as_str()).fetch_optional(c).await)
            .during("look whether a host takes something new")?;
    Ok(found.is_some())
}

/// Marks a new sandbox as one of control's own: lists don't show it.
pub async fn set_purpose(tx: &mut Tx, id: &SandboxId, purpose: &str) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("UPDATE sandboxes SET purpose = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(purpose)
        .execute(c)
        .await
        .map(|_| ()))
    .during("mark a sandbox")
}

/// A team's sandbox. Another team's is not found.
pub async fn get(db: &Db, team: &TeamId, id: &SandboxId) -> Result<Option<SandboxRecord>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!("SELECT ", columns!(), " FROM sandboxes WHERE id = $1 AND team_id = $2"))
        .bind(id.as_str())
        .bind(team.as_str())
        .fetch_optional(c)
        .await)
    .during("read a sandbox")
}

/// Any sandbox, for control's own work.
pub async fn get_any(db: &Db, id: &SandboxId) -> Result<Option<SandboxRecord>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!("SELECT ", columns!(), " FROM sandboxes WHERE id = $1"))
        .bind(id.as_str())
        .fetch_optional(c)
        .await)
    .during("read a sandbox")
}

/// All sandboxes of a host that are not stopped.
pub async fn on_host(db: &Db, host: &HostId) -> Result<Vec<SandboxRecord>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM sandboxes WHERE host_id = $1 AND status <> 'stopped' ORDER BY id"
    ))
    .bind(host.as_str())
    .fetch_all(c)
    .await)
    .during("list a host's sandboxes")
}

/// How many sandboxes a team has made of each template, and when the last one.
pub async fn uses(db: &Db, team: &TeamId) -> Result<Vec<(String, i64, Millis)>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT template_id, COUNT(*), MAX(created_at) FROM sandboxes WHERE team_id = $1 AND purpose = ''
         GROUP BY template_id"
    )
    .bind(team.as_str())
    .fetch_all(c)
    .await)
    .during("count the uses of templates")
}

/// The access tokens of all sandboxes that have not ended.
pub async fn access_tokens(db: &Db) -> Result<Vec<(Text<SandboxId>, String)>, DbError> {
    on!(read db, |c| sqlx::query_as("SELECT id, access_token FROM sandboxes WHERE status <> 'stopped'")
        .fetch_all(c)
        .await)
    .during("read the access tokens of sandboxes")
}

/// A decision or a finding about a sandbox.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    pub id: &'a SandboxId,
    /// What the row must be for the change to happen.
    pub from: SandboxStatus,
    pub generation: i64,
    pub to: SandboxStatus,
    pub reason: Option<&'a str>,
    /// True for a decision of control: raises the generation. False for what a host reported.
    pub decided: bool,
    /// Moves the row to this host.
    pub host: Option<&'a HostId>,
    pub at: Millis,
}

macro_rules! change {
    ($still:literal) => {
        concat!(
            "UPDATE sandboxes SET status = $4, reason = $5, generation = generation + $6, \
         former_status = CASE WHEN $4 = 'missing' THEN status ELSE NULL END, \
         host_id = COALESCE($7, host_id), status_changed_at = $8, \
         started_at = CASE WHEN $4 = 'running' THEN COALESCE(started_at, $8) ELSE started_at END, \
         last_active_at = CASE WHEN $4 = 'running' AND last_active_at < $8 THEN $8 ELSE last_active_at END \
     WHERE id = $1 AND status = $2 AND generation = $3",
            $still,
            " RETURNING ",
            columns!()
        )
    };
}

const CHANGE: &str = change!("");

/// What `$8` is the time of: the same conditions as those of the searches, [`idle`] and [`super::lifetime::over`].
const CHANGE_IF_IDLE: &str = change!(" AND timeout_sec > 0 AND last_active_at + timeout_sec * 1000 <= $8");
const CHANGE_IF_OVER: &str = change!(
    " AND EXISTS (SELECT 1 FROM sandbox_lifetimes l WHERE l.sandbox_id = $1 AND l.ends_at <= $8 \
     AND status_changed_at + l.lifetime_sec * 1000 <= $8)"
);

/// Why a sandbox is to be ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// It has been idle for its timeout.
    Idle,
    /// Its lifetime is over.
    End,
}

/// Makes the change if the row still is what the caller saw and the sandbox still is due.
pub async fn change_if_due(db: &Db, due: Due, change: &Change<'_>) -> Result<Option<SandboxRecord>, DbError> {
    if !legal(change) {
        return Ok(None);
    }
    let statement = match due {
        Due::Idle => CHANGE_IF_IDLE,
        Due::End => CHANGE_IF_OVER,
    };
    on!(write db, |c| bind(sqlx::query_as(statement), change).fetch_all(c).await)
        .map(|rows| rows.into_iter().next())
        .during("end a sandbox that is due")
}

/// Makes the change if the row still is what the caller saw. Answers the new row, or nothing when it was not.
/// A change that the state machine doesn't know is refused here as if the row had moved on.
pub async fn change(db: &Db, change: &Change<'_>) -> Result<Option<SandboxRecord>, DbError> {
    if !legal(change) {
        return Ok(None);
    }
    // To the end, not only to the first row: SQLite commits there, and says there when it can't.
    on!(write db, |c| bind(sqlx::query_as(CHANGE), change).fetch_all(c).await)
        .map(|rows| rows.into_iter().next())
        .during("change a sandbox's status")
}

/// The same in a transaction.
pub async fn change_in(tx: &mut Tx, change: &Change<'_>) -> Result<Option<SandboxRecord>, DbError> {
    if !legal(change) {
        return Ok(None);
    }
    on!(tx tx, |c| bind(sqlx::query_as(CHANGE), change).fetch_optional(c).await).during("change a sandbox's status")
}

fn legal(change: &Change<'_>) -> bool {
    // Moving a row to another host, or raising its generation, may keep the status.
    change.from == change.to || change.from.can_become(change.to)
}

type QueryAs<'q, DB> = sqlx::query::QueryAs<'q, DB, SandboxRecord, <DB as sqlx::Database>::Arguments>;

fn bind<'q, DB>(query: QueryAs<'q, DB>, change: &Change<'q>) -> QueryAs<'q, DB>
where
    DB: sqlx::Database,
    &'q str: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    Option<&'q str>: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    i64: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    Millis: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
{
    query
        .bind(change.id.as_str())
        .bind(change.from.as_str())
        .bind(change.generation)
        .bind(change.to.as_str())
        .bind(change.reason)
        .bind(i64::from(change.decided))
        .bind(change.host.map(HostId::as_str))
        .bind(change.at)
}

/// Which of a team's sandboxes are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Empty: all but stopped ones.
    pub statuses: Vec<SandboxStatus>,
    /// All of these labels.
    pub metadata: BTreeMap<String, String>,
}

/// A page of a team's sandboxes, newest first, after (`created_at`, `id`).
pub async fn list(
    db: &Db,
    team: &TeamId,
    filter: &Filter,
    after: Option<(Millis, &str)>,
    limit: i64,
) -> Result<Vec<SandboxRecord>, DbError> {
    // A status is matched in a list that begins and ends with commas; names have none.
    let statuses = if filter.statuses.is_empty() {
        SandboxStatus::ALL.into_iter().filter(|status| !status.is_final()).collect()
    } else {
        filter.statuses.clone()
    };
    let statuses: String = statuses.iter().map(|status| format!(",{status}")).collect::<String>() + ",";
    let (at, id) = after.unwrap_or((Millis(i64::MAX), ""));
    macro_rules! page {
        ($labels:literal) => {
            concat!(
                "SELECT ",
                columns!(),
                " FROM sandboxes WHERE purpose = '' AND team_id = $1 AND (created_at < $2 OR (created_at = $2 AND id > $3)) AND ",
                $labels,
                " ORDER BY created_at DESC, id LIMIT $6"
            )
        };
    }
    // `labels` is compared only when there are some.
    const SQLITE: &str = page!(
        "instr($4, ',' || status || ',') > 0 AND NOT EXISTS (SELECT 1 FROM json_each($5) want WHERE NOT EXISTS \
         (SELECT 1 FROM json_each(sandboxes.metadata) has WHERE has.key = want.key AND has.value = want.value))"
    );
    const POSTGRES: &str = page!("position(',' || status || ',' in $4) > 0 AND metadata @> $5");
    let labels = Json(&filter.metadata);
    match db {
        Db::Sqlite { readers, .. } => {
            let query = sqlx::query_as(SQLITE).bind(team.as_str()).bind(at).bind(id).bind(&statuses).bind(labels);
            query.bind(limit).fetch_all(readers).await
        }
        Db::Postgres(pool) => {
            let query = sqlx::query_as(POSTGRES).bind(team.as_str()).bind(at).bind(id).bind(&statuses).bind(labels);
            query.bind(limit).fetch_all(pool).await
        }
    }
    .during("list sandboxes")
}

/// Sets the idle timeout and restarts the idle clock.
pub async fn set_timeout(
    tx: &mut Tx,
    team: &TeamId,
    id: &SandboxId,
    timeout_sec: i64,
    on_timeout: Option<OnTimeout>,
    now: Millis,
) -> Result<Option<SandboxRecord>, DbError> {
    on!(tx tx, |c| sqlx::query_as(concat!(
        "UPDATE sandboxes SET timeout_sec = $3, on_timeout = COALESCE($4, on_timeout), \
         last_active_at = CASE WHEN last_active_at < $5 THEN $5 ELSE last_active_at END \
         WHERE id = $1 AND team_id = $2 AND status <> 'stopped' RETURNING ",
        columns!()
    ))
    .bind(id.as_str())
    .bind(team.as_str())
    .bind(timeout_sec)
    .bind(on_timeout.map(OnTimeout::as_str))
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("set a sandbox's timeout")
}

/// Sets what a sandbox that runs or is paused may reach; its host is to be told. Nothing when it does neither.
pub async fn set_network(tx: &mut Tx, id: &SandboxId, network: &Network) -> Result<Option<SandboxRecord>, DbError> {
    on!(tx tx, |c| sqlx::query_as(concat!(
            "UPDATE sandboxes SET network = $2, network_generation = network_generation + 1
             WHERE id = $1 AND status IN ('running', 'paused') RETURNING ",
            columns!()
        ))
        .bind(id.as_str())
        .bind(Json(network))
        .fetch_optional(c)
        .await)
    .during("set a sandbox's network")
}

/// Restarts the idle clock of several sandboxes in one transaction.
pub async fn touch(db: &Db, touched: &[(SandboxId, Millis)]) -> Result<(), DbError> {
    let mut tx = db.begin().await?;
    for (id, at) in touched {
        on!(tx &mut tx, |c| sqlx::query(
            "UPDATE sandboxes SET last_active_at = $2 WHERE id = $1 AND last_active_at < $2"
        )
        .bind(id.as_str())
        .bind(*at)
        .execute(c)
        .await
        .map(|_| ()))
        .during("restart a sandbox's idle clock")?;
    }
    tx.commit().await
}

/// Running sandboxes that have been idle for their timeout, the longest idle first.
pub async fn idle(db: &Db, now: Millis, limit: i64) -> Result<Vec<SandboxRecord>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM sandboxes WHERE status = 'running' AND timeout_sec > 0 AND last_active_at + timeout_sec * 1000 <= $1 \
         ORDER BY last_active_at LIMIT $2"
    ))
    .bind(now)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("look for idle sandboxes")
}

/// Living sandboxes of builds that are over. Those of an older program say no build: they live as long as some build of
/// their team is under way.
pub async fn left_by_builds(db: &Db) -> Result<Vec<Text<SandboxId>>, DbError> {
    let rows: Vec<(Text<SandboxId>,)> = on!(read db, |c| sqlx::query_as(
        "SELECT s.id FROM sandboxes s WHERE s.purpose LIKE 'build%' AND s.status <> 'stopped' AND NOT EXISTS
         (SELECT 1 FROM template_builds b WHERE b.team_id = s.team_id AND b.status IN ('waiting', 'building')
         AND (s.purpose = 'build' OR s.purpose = 'build ' || b.id))"
    )
    .fetch_all(c)
    .await)
    .during("look for sandboxes of builds")?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// How many of each status there are, over all teams: for metrics.
pub async fn counts(db: &Db) -> Result<Vec<(Text<SandboxStatus>, i64)>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT status, COUNT(*) FROM sandboxes WHERE status <> 'stopped' GROUP BY status"
    )
    .fetch_all(c)
    .await)
    .during("count sandboxes")
}

/// How many of a team's sandboxes run.
pub async fn running(db: &Db, team: &TeamId) -> Result<i64, DbError> {
    let row: (i64,) = on!(read db, |c| sqlx::query_as(
        "SELECT COUNT(*) FROM sandboxes WHERE team_id = $1 AND purpose = '' AND status IN ('running', 'resuming')"
    )
    .bind(team.as_str())
    .fetch_one(c)
    .await)
    .during("count a team's running sandboxes")?;
    Ok(row.0)
}

/// One event in a sandbox's life.
#[derive(Debug, sqlx::FromRow)]
pub struct EventRow {
    pub id: i64,
    pub at: Millis,
    pub status: Text<SandboxStatus>,
    pub reason: Option<String>,
}

/// A page of a sandbox's life, oldest first, after event `after`.
pub async fn events(db: &Db, id: &SandboxId, after: i64, limit: i64) -> Result<Vec<EventRow>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT id, at, status, reason FROM sandbox_events WHERE sandbox_id = $1 AND id > $2 ORDER BY id LIMIT $3"
    )
    .bind(id.as_str())
    .bind(after)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("list a sandbox's events")
}
