//! Heartbeats that say nothing new, which is nearly all of them: one statement for a whole batch, without a lock held
//! over a round trip, without a trigger, and without a touch on an index.
//!
//! Whether one says nothing new is told by the statement itself: the host is online, its credentials are the ones in
//! force and were seen in use before, and the hash of what seldom changes (`hosts.told`) is the same. Whatever does
//! not match goes the long way (`full`), which knows why.

use std::collections::{HashMap, HashSet};

use atoll_model::HostId;
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::types::Json;

use super::Beat;
use crate::db::{Db, DbError, During, Millis, Text};

/// Hash of everything in a heartbeat that the quiet statement does not write.
pub fn told(beat: &Beat) -> String {
    let body = &beat.body;
    let mut hash = Sha256::new();
    let texts = [&body.address, &body.agent_version, &body.boot_id].into_iter();
    for text in texts.chain(&body.cached_images).chain(&body.drivers).chain(&body.vm_version) {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    for number in [body.capacity.cpu_millis, body.capacity.memory_mb, body.capacity.disk_mb] {
        hash.update(number.to_le_bytes());
    }
    hash.update((body.drivers.len() as u64).to_le_bytes());
    hash.update([body.ready, body.inventory_complete, body.vm_version.is_some()].map(u8::from));
    hex::encode(&hash.finalize()[..16])
}

/// Writes those that say nothing new. Which of `beats` were written, by their places.
pub async fn write(db: &Db, beats: &[Beat], now: Millis) -> Result<HashSet<usize>, DbError> {
    // Of several heartbeats of one host the last one counts. Its twins are written with it.
    let mut last: HashMap<&HostId, (usize, String)> = HashMap::with_capacity(beats.len());
    let candidates = beats.iter().enumerate().filter(|(_, beat)| !beat.body.going_offline);
    let hashes: Vec<Option<String>> = {
        let mut hashes = vec![None; beats.len()];
        for (place, beat) in candidates {
            let hash = told(beat);
            last.insert(&beat.host, (place, hash.clone()));
            hashes[place] = Some(hash);
        }
        hashes
    };
    if last.is_empty() {
        return Ok(HashSet::new());
    }
    let written: HashSet<HostId> = update(db, beats, &last, now).await?.into_iter().map(|row| row.0.0).collect();
    let same = |place: usize| {
        let beat = &beats[place];
        let (chosen, hash) = last.get(&beat.host)?;
        let twin = &beats[*chosen];
        let alike =
            hashes[place].as_ref() == Some(hash) && beat.family == twin.family && beat.token_id == twin.token_id;
        (alike && written.contains(&beat.host)).then_some(place)
    };
    Ok((0..beats.len()).filter_map(same).collect())
}

async fn update(
    db: &Db,
    beats: &[Beat],
    chosen: &HashMap<&HostId, (usize, String)>,
    now: Millis,
) -> Result<Vec<(Text<HostId>,)>, DbError> {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let rows: Vec<(&Beat, &str)> = chosen.values().map(|(place, hash)| (&beats[*place], hash.as_str())).collect();
    match db {
        Db::Sqlite { writer, .. } => {
            let rows = rows.iter().map(|(beat, hash)| {
                let body = &beat.body;
                json!([
                    beat.host,
                    beat.family,
                    beat.token_id,
                    hash,
                    number(body.used.cpu_millis),
                    number(body.used.memory_mb),
                    number(body.used.disk_mb),
                    body.sandbox_counts.running,
                    body.sandbox_counts.paused,
                    body.sandbox_counts.other,
                    body.sandbox_digest,
                ])
            });
            let rows: Vec<_> = rows.collect();
            sqlx::query_as(SQLITE).bind(now).bind(Json(rows)).fetch_all(writer).await
        }
        Db::Postgres(pool) => {
            let texts = |of: fn(&Beat) -> &str| rows.iter().map(|(beat, _)| of(beat)).collect::<Vec<_>>();
            let numbers = |of: fn(&Beat) -> u64| rows.iter().map(|(beat, _)| number(of(beat))).collect::<Vec<_>>();
            sqlx::query_as(POSTGRES)
                .bind(now)
                .bind(texts(|beat| beat.host.as_str()))
                .bind(texts(|beat| &beat.family))
                .bind(texts(|beat| &beat.token_id))
                .bind(rows.iter().map(|(_, hash)| *hash).collect::<Vec<_>>())
                .bind(numbers(|beat| beat.body.used.cpu_millis))
                .bind(numbers(|beat| beat.body.used.memory_mb))
                .bind(numbers(|beat| beat.body.used.disk_mb))
                .bind(numbers(|beat| beat.body.sandbox_counts.running.into()))
                .bind(numbers(|beat| beat.body.sandbox_counts.paused.into()))
                .bind(numbers(|beat| beat.body.sandbox_counts.other.into()))
                .bind(texts(|beat| &beat.body.sandbox_digest))
                .fetch_all(pool)
                .await
        }
    }
    .during("write heartbeats that say nothing new")
}

const POSTGRES: &str = "
    UPDATE hosts SET
        used_cpu_millis = b.cpu, used_memory_mb = b.memory, used_disk_mb = b.disk, sandboxes_running = b.running,
        sandboxes_paused = b.paused, sandboxes_other = b.other, sandbox_digest = b.digest, last_heartbeat_at = $1,
        updated_at = $1
    FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
        $10::bigint[], $11::bigint[], $12::text[])
        AS b(id, family, token_id, told, cpu, memory, disk, running, paused, other, digest)
    WHERE hosts.id = b.id AND hosts.status = 'online' AND hosts.credential_family = b.family
        AND hosts.confirmed_token_id = b.token_id AND hosts.told = b.told
    RETURNING hosts.id";

// The plus keeps SQLite from going through all hosts that are online for each heartbeat.
const SQLITE: &str = "
    WITH b AS MATERIALIZED (
        SELECT value ->> 0 AS id, value ->> 1 AS family, value ->> 2 AS token_id, value ->> 3 AS told,
            value ->> 4 AS cpu, value ->> 5 AS memory, value ->> 6 AS disk, value ->> 7 AS running,
            value ->> 8 AS paused, value ->> 9 AS other, value ->> 10 AS digest
        FROM json_each($2))
    UPDATE hosts SET
        used_cpu_millis = b.cpu, used_memory_mb = b.memory, used_disk_mb = b.disk, sandboxes_running = b.running,
        sandboxes_paused = b.paused, sandboxes_other = b.other, sandbox_digest = b.digest, last_heartbeat_at = $1,
        updated_at = $1
    FROM b
    WHERE hosts.id = b.id AND +hosts.status = 'online' AND hosts.credential_family = b.family
        AND hosts.confirmed_token_id = b.token_id AND hosts.told = b.told
    RETURNING id";
