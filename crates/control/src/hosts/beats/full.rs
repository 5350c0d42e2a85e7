//! Heartbeats that change something, or may: judged and written in one transaction, with a fixed number of statements
//! however many they are, but for the events of hosts that come and go.

use std::collections::HashMap;

use atoll_model::{HostId, HostStatus, TeamId};
use serde_json::{Value, json};
use sqlx::types::Json;

use super::{Beat, BeatOutcome, quiet};
use crate::db::{Db, DbError, During, Millis, Text, Tx};
use crate::events;
use crate::hosts::{HostChange, refresh_tokens};

/// What others are to be told, once the transaction is committed.
#[derive(Default)]
pub struct News {
    /// Their addresses are new.
    pub moved: Vec<HostId>,
    pub changes: Vec<HostChange>,
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

impl Known {
    /// Whether this family of credentials is the one in force.
    fn has(&self, family: &str) -> bool {
        self.credential_family.as_deref() == Some(family)
    }
}

/// Writes them in one transaction. What came of each, in their order.
pub async fn write(db: &Db, beats: &[&Beat], now: Millis) -> Result<(Vec<BeatOutcome>, News), DbError> {
    let mut tx = db.begin().await?;
    let known = known(&mut tx, beats).await?;
    let in_force = |beat: &Beat| known.get(beat.host.as_str()).filter(|host| host.has(&beat.family));
    let unconfirmed = beats
        .iter()
        .filter(|beat| in_force(beat).is_some_and(|host| host.confirmed_token_id.as_deref() != Some(&beat.token_id)))
        .map(|beat| (&beat.host, beat.token_id.as_str()));
    let refused = refresh_tokens::access_tokens_used(&mut tx, &unconfirmed.collect::<Vec<_>>(), now).await?;
    let mut outcomes = Vec::with_capacity(beats.len());
    let mut news = News::default();
    // Of several heartbeats of one host in a batch the last one counts.
    let mut rows: HashMap<&str, Value> = HashMap::with_capacity(beats.len());
    for &beat in beats {
        let Some(host) = known.get(beat.host.as_str()) else {
            outcomes.push(BeatOutcome::Gone);
            continue;
        };
        if !host.has(&beat.family) || refused.contains(&beat.token_id) {
            outcomes.push(BeatOutcome::Unauthorized);
            continue;
        }
        let Some(status) = host.status.after_beat(beat.body.going_offline) else {
            outcomes.push(BeatOutcome::Unauthorized);
            continue;
        };
        outcomes.push(BeatOutcome::Written);
        transition(&mut tx, host, status, beat, now, &mut news).await?;
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
async fn known(tx: &mut Tx, beats: &[&Beat]) -> Result<HashMap<String, Known>, DbError> {
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

/// What follows when a host's status is `next` after this heartbeat.
async fn transition(
    tx: &mut Tx,
    host: &Known,
    next: HostStatus,
    beat: &Beat,
    now: Millis,
    news: &mut News,
) -> Result<(), DbError> {
    let rebooted = host.boot_id.as_ref().is_some_and(|boot_id| *boot_id != beat.body.boot_id);
    if host.status.0 == next {
        let found_all = beat.body.inventory_complete && !host.inventory_complete;
        if (rebooted || found_all) && next == HostStatus::Online {
            news.changes.push(HostChange::Returned(beat.host.clone()));
        }
        return Ok(());
    }
    let (event, change) = match next {
        HostStatus::Offline => ("host.offline", HostChange::WentOffline(beat.host.clone())),
        _ => ("host.online", HostChange::Returned(beat.host.clone())),
    };
    let data = json!({ "before": host.status.as_str() });
    events::publish(tx, now, host.team_id.as_ref().map(|team| &team.0), event, beat.host.as_str(), data).await?;
    news.changes.push(change);
    Ok(())
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
        "vm_version": body.vm_version,
        // A host that says good-bye is looked at in full when it is back.
        "told": (status == HostStatus::Online).then(|| quiet::told(beat)),
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
        ready = b.ready, cached_images = b.images, told = b.told, last_heartbeat_at = $1, updated_at = $1,
        vm_version = b.vm_version,
        drivers = COALESCE(NULLIF(b.drivers, 'null'::jsonb), hosts.drivers)
    FROM jsonb_to_recordset($2) AS b(
        id text, status text, token_id text, address text, agent_version text, boot_id text,
        capacity_cpu_millis bigint, capacity_memory_mb bigint, capacity_disk_mb bigint, used_cpu_millis bigint,
        used_memory_mb bigint, used_disk_mb bigint, running bigint, paused bigint, other bigint, digest text,
        inventory_complete boolean, ready boolean, images jsonb, drivers jsonb, told text,
        vm_version text)
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
        cached_images = b.row -> 'images', told = b.row ->> 'told', last_heartbeat_at = $1, updated_at = $1,
        vm_version = b.row ->> 'vm_version',
        drivers = COALESCE(NULLIF(b.row -> 'drivers', 'null'), hosts.drivers)
    FROM (SELECT value AS row FROM json_each($2)) AS b
    WHERE hosts.id = b.row ->> 'id'";
