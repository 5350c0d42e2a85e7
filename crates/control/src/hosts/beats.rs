//! Writing heartbeats: whatever has come in while one batch was being written is the next batch, in one transaction.
//! So a lone heartbeat is written at once, and thousands a second cost a few dozen transactions.
//!
//! Every heartbeat is answered after its batch is committed: what control has acknowledged it knows.

use std::collections::HashMap;
use std::sync::Arc;

use atoll_model::api::hosts::HeartbeatRequest;
use atoll_model::{HostId, HostStatus, TeamId};
use serde_json::{Value, json};
use sqlx::types::Json;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::directory::Directory;
use super::{HostChange, HostError, rotation};
use crate::clock::Clock;
use crate::db::{Db, DbError, During, Millis, Text, Tx};
use crate::events;

/// Heartbeats that may wait for their turn; more are told to come back.
const QUEUE: usize = 20_000;
const BATCH: usize = 512;

/// A heartbeat whose token has been verified.
pub struct Beat {
    pub host: HostId,
    pub family: String,
    pub token_id: String,
    pub body: HeartbeatRequest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeatOutcome {
    Written,
    /// The token's family is not the one in force.
    Unauthorized,
    /// There is no such host (any more).
    Gone,
}

type Waiting = (Beat, oneshot::Sender<Result<BeatOutcome, HostError>>);

/// The queue of heartbeats. Cheap to clone.
#[derive(Clone)]
pub struct Beats {
    queue: mpsc::Sender<Waiting>,
}

/// What must be known of a host to take its heartbeat.
#[derive(sqlx::FromRow)]
struct Known {
    id: Text<HostId>,
    status: Text<HostStatus>,
    team_id: Option<Text<TeamId>>,
    credential_family: Option<String>,
    confirmed_token_id: Option<String>,
    address: Option<String>,
    boot_id: Option<String>,
    inventory_complete: bool,
}

impl Beats {
    pub fn start(db: Db, clock: Clock, directory: Arc<Directory>, changes: broadcast::Sender<HostChange>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(run(db, clock, directory, changes, waiting));
        Self { queue }
    }

    pub async fn write(&self, beat: Beat) -> Result<BeatOutcome, HostError> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send((beat, answer)).map_err(|_| HostError::Overloaded)?;
        answered.await.map_err(|_| HostError::Overloaded)?
    }
}

async fn run(
    db: Db,
    clock: Clock,
    directory: Arc<Directory>,
    changes: broadcast::Sender<HostChange>,
    mut waiting: mpsc::Receiver<Waiting>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let (beats, answers): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        match write(&db, &clock, &beats).await {
            Ok((outcomes, news)) => {
                for host in news.moved {
                    directory.forget(&host);
                }
                for change in news.changes {
                    let (HostChange::Returned(host) | HostChange::WentOffline(host)) = &change;
                    directory.forget(host);
                    let _ = changes.send(change);
                }
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, heartbeats = beats.len(), "heartbeats lost");
                let overload = error.is_overload();
                for answer in answers {
                    let error =
                        DbError::Statement { operation: "write a heartbeat", source: sqlx::Error::WorkerCrashed };
                    let _ = answer.send(Err(if overload { HostError::Overloaded } else { HostError::Db(error) }));
                }
            }
        }
    }
}

#[derive(Default)]
struct News {
    moved: Vec<HostId>,
    changes: Vec<HostChange>,
}

async fn write(db: &Db, clock: &Clock, beats: &[Beat]) -> Result<(Vec<BeatOutcome>, News), DbError> {
    let now = clock.now();
    let mut tx = db.begin().await?;
    let known = known(&mut tx, beats).await?;
    let mut outcomes = Vec::with_capacity(beats.len());
    let mut news = News::default();
    // Of several heartbeats of one host in a batch the last one counts.
    let mut rows: HashMap<&str, Value> = HashMap::with_capacity(beats.len());
    for beat in beats {
        let Some(host) = known.get(beat.host.as_str()) else {
            outcomes.push(BeatOutcome::Gone);
            continue;
        };
        let confirmed = host.confirmed_token_id.as_deref() == Some(&beat.token_id);
        let good = host.credential_family.as_deref() == Some(&beat.family)
            && (confirmed || rotation::access_token_used(&mut tx, &beat.host, &beat.token_id, now).await?);
        if !good {
            outcomes.push(BeatOutcome::Unauthorized);
            continue;
        }
        outcomes.push(BeatOutcome::Written);
        let status = transition(&mut tx, host, beat, now, &mut news).await?;
        if host.address.as_deref() != Some(&beat.body.address) {
            news.moved.push(beat.host.clone());
        }
        rows.insert(beat.host.as_str(), row(beat, status));
    }
    update(&mut tx, rows.into_values().collect(), now).await?;
    tx.commit().await?;
    Ok((outcomes, news))
}

/// The hosts of these heartbeats, locked, in the order of their ids so that two replicas never wait for each other.
async fn known(tx: &mut Tx, beats: &[Beat]) -> Result<HashMap<String, Known>, DbError> {
    let ids: Vec<&str> = beats.iter().map(|beat| beat.host.as_str()).collect();
    let rows: Vec<Known> = match tx {
        Tx::Sqlite(c) => {
            sqlx::query_as(
                "SELECT id, status, team_id, credential_family, confirmed_token_id, address, boot_id,
                 inventory_complete FROM hosts
             WHERE id IN (SELECT value FROM json_each($1))",
            )
            .bind(Json(&ids))
            .fetch_all(&mut **c)
            .await
        }
        Tx::Postgres(c) => {
            sqlx::query_as(
                "SELECT id, status, team_id, credential_family, confirmed_token_id, address, boot_id,
                 inventory_complete FROM hosts
             WHERE id = ANY($1) ORDER BY id FOR UPDATE",
            )
            .bind(ids)
            .fetch_all(&mut **c)
            .await
        }
    }
    .during("read hosts for their heartbeats")?;
    Ok(rows.into_iter().map(|row| (row.id.to_string(), row)).collect())
}

/// The status after this heartbeat, and what follows from a change of it.
async fn transition(
    tx: &mut Tx,
    host: &Known,
    beat: &Beat,
    now: Millis,
    news: &mut News,
) -> Result<HostStatus, DbError> {
    let next = if beat.body.going_offline { HostStatus::Offline } else { HostStatus::Online };
    let rebooted = host.boot_id.as_ref().is_some_and(|boot_id| *boot_id != beat.body.boot_id);
    if host.status.0 == next {
        let found_all = beat.body.inventory_complete && !host.inventory_complete;
        if (rebooted || found_all) && next == HostStatus::Online {
            news.changes.push(HostChange::Returned(beat.host.clone()));
        }
        return Ok(next);
    }
    let (event, change) = match next {
        HostStatus::Offline => ("host.offline", HostChange::WentOffline(beat.host.clone())),
        _ => ("host.online", HostChange::Returned(beat.host.clone())),
    };
    let data = json!({ "before": host.status.as_str() });
    events::publish(tx, now, host.team_id.as_ref().map(|team| &team.0), event, beat.host.as_str(), data).await?;
    news.changes.push(change);
    Ok(next)
}

fn row(beat: &Beat, status: HostStatus) -> Value {
    let body = &beat.body;
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    json!({
        "id": beat.host,
        "status": status.as_str(),
        "token_id": beat.token_id,
        "address": body.address,
        "agent_version": body.agent_version,
        "boot_id": body.boot_id,
        "capacity_cpu_millis": number(body.capacity.cpu_millis),
        "capacity_memory_mb": number(body.capacity.memory_mb),
        "capacity_disk_mb": number(body.capacity.disk_mb),
        "used_cpu_millis": number(body.used.cpu_millis),
        "used_memory_mb": number(body.used.memory_mb),
        "used_disk_mb": number(body.used.disk_mb),
        "running": body.sandbox_counts.running,
        "paused": body.sandbox_counts.paused,
        "other": body.sandbox_counts.other,
        "digest": body.sandbox_digest,
        "inventory_complete": body.inventory_complete,
        "ready": body.ready && status == HostStatus::Online,
        "images": body.cached_images,
        "drivers": if body.drivers.is_empty() { Value::Null } else { json!(body.drivers) },
    })
}

/// Writes all of them with one statement.
async fn update(tx: &mut Tx, rows: Vec<Value>, now: Millis) -> Result<(), DbError> {
    if rows.is_empty() {
        return Ok(());
    }
    let rows = Json(Value::Array(rows));
    match tx {
        Tx::Sqlite(c) => sqlx::query(SQLITE_UPDATE).bind(now).bind(rows).execute(&mut **c).await.map(|_| ()),
        Tx::Postgres(c) => sqlx::query(POSTGRES_UPDATE).bind(now).bind(rows).execute(&mut **c).await.map(|_| ()),
    }
    .during("write heartbeats")
}

const POSTGRES_UPDATE: &str = "
    UPDATE hosts SET
        status_changed_at = CASE WHEN hosts.status = b.status THEN hosts.status_changed_at ELSE $1 END,
        status = b.status, confirmed_token_id = b.token_id, address = b.address, agent_version = b.agent_version,
        boot_id = b.boot_id, capacity_cpu_millis = b.capacity_cpu_millis, capacity_memory_mb = b.capacity_memory_mb,
        capacity_disk_mb = b.capacity_disk_mb, used_cpu_millis = b.used_cpu_millis, used_memory_mb = b.used_memory_mb,
        used_disk_mb = b.used_disk_mb, sandboxes_running = b.running, sandboxes_paused = b.paused,
        sandboxes_other = b.other, sandbox_digest = b.digest, inventory_complete = b.inventory_complete,
        ready = b.ready, cached_images = b.images, last_heartbeat_at = $1, updated_at = $1,
        drivers = COALESCE(NULLIF(b.drivers, 'null'::jsonb), hosts.drivers)
    FROM jsonb_to_recordset($2) AS b(
        id text, status text, token_id text, address text, agent_version text, boot_id text,
        capacity_cpu_millis bigint, capacity_memory_mb bigint, capacity_disk_mb bigint, used_cpu_millis bigint,
        used_memory_mb bigint, used_disk_mb bigint, running bigint, paused bigint, other bigint, digest text,
        inventory_complete boolean, ready boolean, images jsonb, drivers jsonb)
    WHERE hosts.id = b.id";

const SQLITE_UPDATE: &str = "
    UPDATE hosts SET
        status_changed_at = CASE WHEN hosts.status = b.row ->> 'status' THEN hosts.status_changed_at ELSE $1 END,
        status = b.row ->> 'status', confirmed_token_id = b.row ->> 'token_id', address = b.row ->> 'address',
        agent_version = b.row ->> 'agent_version', boot_id = b.row ->> 'boot_id',
        capacity_cpu_millis = b.row ->> 'capacity_cpu_millis', capacity_memory_mb = b.row ->> 'capacity_memory_mb',
        capacity_disk_mb = b.row ->> 'capacity_disk_mb', used_cpu_millis = b.row ->> 'used_cpu_millis',
        used_memory_mb = b.row ->> 'used_memory_mb', used_disk_mb = b.row ->> 'used_disk_mb',
        sandboxes_running = b.row ->> 'running', sandboxes_paused = b.row ->> 'paused',
        sandboxes_other = b.row ->> 'other', sandbox_digest = b.row ->> 'digest',
        inventory_complete = b.row ->> 'inventory_complete', ready = b.row ->> 'ready',
        cached_images = b.row -> 'images', last_heartbeat_at = $1, updated_at = $1,
        drivers = COALESCE(NULLIF(b.row -> 'drivers', 'null'), hosts.drivers)
    FROM (SELECT value AS row FROM json_each($2)) AS b
    WHERE hosts.id = b.row ->> 'id'";
