//! The hosts as the scheduler sees them: what they have by their last heartbeat, what they have been promised by the
//! rows of the sandboxes on them (a heartbeat knows nothing of what was created or destroyed since).

use async_trait::async_trait;
use atoll_model::api::hosts::Capacity;
use atoll_model::{HostId, HostStatus, HostType, TeamId};
use sqlx::types::Json;

use crate::clock::Clock;
use crate::db::{Db, DbError, During, Millis, Text, on};
use crate::fleet::{Candidate, CandidateSource};

/// Lists hosts from the database.
pub struct HostCandidates {
    db: Db,
    clock: Clock,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Text<HostId>,
    #[sqlx(rename = "type")]
    kind: Text<HostType>,
    team_id: Option<Text<TeamId>>,
    status: Text<HostStatus>,
    draining: bool,
    ready: bool,
    drivers: Json<Vec<String>>,
    vm_version: Option<String>,
    capacity_cpu_millis: i64,
    capacity_memory_mb: i64,
    capacity_disk_mb: i64,
    promised_vcpus: i64,
    promised_memory_mb: i64,
    promised_disk_mb: i64,
    last_heartbeat_at: Option<Millis>,
    cached_images: Json<Vec<String>>,
}

impl HostCandidates {
    #[must_use]
    pub fn new(db: Db, clock: Clock) -> Self {
        Self { db, clock }
    }
}

#[async_trait]
impl CandidateSource for HostCandidates {
    type Error = DbError;

    async fn candidates(&self) -> Result<Vec<Candidate>, DbError> {
        let rows: Vec<Row> = on!(read & self.db, |c| sqlx::query_as(
            "SELECT id, type, team_id, status, draining, ready, drivers, vm_version, capacity_cpu_millis,
                 capacity_memory_mb, capacity_disk_mb, last_heartbeat_at, cached_images,
                 CAST(COALESCE(vcpus, 0) AS BIGINT) AS promised_vcpus,
                 CAST(COALESCE(memory, 0) AS BIGINT) AS promised_memory_mb,
                 CAST(COALESCE(disk, 0) AS BIGINT) AS promised_disk_mb
             FROM hosts LEFT JOIN (
                 SELECT host_id, SUM(vcpus) AS vcpus, SUM(memory_mb) AS memory, SUM(disk_mb) AS disk
                 FROM sandboxes WHERE status <> 'stopped' GROUP BY host_id
             ) promised ON promised.host_id = hosts.id
             WHERE status <> 'pending'"
        )
        .fetch_all(c)
        .await)
        .during("list hosts for the scheduler")?;
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        let candidate = |row: Row| Candidate {
            id: row.id.0,
            kind: row.kind.0,
            team: row.team_id.map(|team| team.0),
            status: row.status.0,
            draining: row.draining,
            ready: row.ready,
            drivers: row.drivers.0,
            vm_version: row.vm_version,
            capacity: Capacity {
                cpu_millis: number(row.capacity_cpu_millis),
                memory_mb: number(row.capacity_memory_mb),
                disk_mb: number(row.capacity_disk_mb),
            },
            committed: Capacity {
                cpu_millis: number(row.promised_vcpus).saturating_mul(1000),
                memory_mb: number(row.promised_memory_mb),
                disk_mb: number(row.promised_disk_mb),
            },
            last_heartbeat_at: row.last_heartbeat_at,
            cached_images: row.cached_images.0,
            resting: false,
        };
        Ok(rows.into_iter().map(candidate).collect())
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }
}
