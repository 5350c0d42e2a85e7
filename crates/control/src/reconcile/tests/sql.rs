//! The database's side for tests: hosts and sandboxes in it, and the records over it behave as those in memory.

use std::sync::Arc;

use atoll_model::{HostId, HostType, SandboxId, SandboxStatus, TeamId};

use super::super::judge::Row;
use super::super::records::SqlRecords;
use super::super::views::{Records, RowChange};
use super::memory::MemoryRecords;
use crate::audit::{Actor, Origin};
use crate::clock::Clock;
use crate::config::HostTimes;
use crate::db::testing::{TestDb, databases};
use crate::db::{Db, Millis, on};
use crate::hosts::{Hosts, Loopback, NewHost};
use crate::pki::Authority;

pub struct Rig {
    pub db: Db,
    pub clock: Clock,
    pub hosts: Hosts,
    pub team: TeamId,
    _keep: TestDb,
}

pub async fn rigs() -> Vec<Rig> {
    let mut rigs = Vec::new();
    for test_db in databases().await {
        let (db, clock) = (test_db.db.clone(), Clock::manual(Millis(1_000_000_000_000)));
        let authority = Authority::open(&db, clock.clone()).await.unwrap();
        let times = HostTimes::default();
        let hosts = Hosts::open(db.clone(), clock.clone(), times, authority, Loopback::Allowed).await.unwrap();
        let team = TeamId::new();
        on!(write & db, |c| sqlx::query(
            "INSERT INTO teams (id, name, slug, is_byoc, created_at, updated_at) VALUES ($1, 't', $1, $2, 0, 0)"
        )
        .bind(team.as_str())
        .bind(false)
        .execute(c)
        .await
        .map(|_| ()))
        .unwrap();
        rigs.push(Rig { db, clock, hosts, team, _keep: test_db });
    }
    rigs
}

impl Rig {
    /// A host that is online and was heard of just now.
    pub async fn online_host(&self) -> HostId {
        let host = NewHost {
            id: HostId::new(),
            name: "h".to_owned(),
            kind: HostType::Regular,
            team: None,
            provider: None,
            availability_zone: None,
            created_by: None,
        };
        self.hosts.create(&host, &Actor::System, &Origin::default()).await.unwrap();
        self.execute(&format!("UPDATE hosts SET status = 'online' WHERE id = '{}'", host.id)).await;
        self.hear(&host.id).await;
        host.id
    }

    pub async fn hear(&self, host: &HostId) {
        self.execute(&format!("UPDATE hosts SET last_heartbeat_at = {} WHERE id = '{host}'", self.clock.now().0)).await;
    }

    pub async fn execute(&self, sql: &str) {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        on!(write & self.db, |c| sqlx::query(sql).execute(c).await.map(|_| ())).unwrap();
    }

    pub async fn count(&self, sql: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        let row: (i64,) = on!(write & self.db, |c| sqlx::query_as(sql).fetch_one(c).await).unwrap();
        row.0
    }

    pub async fn sandbox(&self, host: &HostId, status: SandboxStatus, generation: u64) -> SandboxId {
        let id = SandboxId::new();
        let now = self.clock.now().0;
        self.execute(&format!(
            "INSERT INTO sandboxes (id, team_id, host_id, template, template_id, digest, status, generation, driver,
                 vcpus, memory_mb, disk_mb, timeout_sec, on_timeout, auto_resume, on_reboot, metadata, network,
                 access_token, created_at, last_active_at, status_changed_at)
             VALUES ('{id}', '{team}', '{host}', 'base', 'tpl-aaaaaaaaaaaaaaaaaaaa', 'd', '{status}', {generation},
                 'container', 1, 512, 1024, 0, 'pause', false, 'restart', '{{}}', '{{}}', '', {now}, {now}, {now})",
            team = self.team,
        ))
        .await;
        id
    }

    pub fn records(&self) -> Arc<SqlRecords> {
        Arc::new(SqlRecords::new(self.db.clone(), self.clock.clone()))
    }

    pub async fn row(&self, id: &SandboxId) -> Row {
        self.records().by_id(std::slice::from_ref(id)).await.unwrap().remove(0)
    }
}

/// The same statements, whatever keeps the records.
async fn conforms(records: &dyn Records, host: &HostId, running: &SandboxId, stopped: &SandboxId) {
    let rows = records.on_host(host).await.unwrap();
    assert_eq!(rows.iter().map(|row| &row.id).collect::<Vec<_>>(), [running], "stopped ones are not listed");
    let row = &rows[0];
    assert_eq!((row.status, row.generation, row.host.as_ref()), (SandboxStatus::Running, 5, Some(host)));
    let both = records.by_id(&[running.clone(), stopped.clone(), SandboxId::new()]).await.unwrap();
    assert_eq!(both.len(), 2, "by id they all are");
    assert!(records.by_id(&[]).await.unwrap().is_empty());

    let paused = RowChange { row, to: SandboxStatus::Paused, reason: Some("ttl"), decided: false };
    let now = records.change(&paused).await.unwrap().unwrap();
    assert_eq!((now.status, now.generation, now.reason.as_deref()), (SandboxStatus::Paused, 5, Some("ttl")));
    assert!(records.change(&paused).await.unwrap().is_none(), "the row is not what it was");
    let resuming = RowChange { row: &now, to: SandboxStatus::Resuming, reason: None, decided: true };
    let now = records.change(&resuming).await.unwrap().unwrap();
    assert_eq!(now.generation, 6, "a decision raises the generation");
    let dead = records.by_id(std::slice::from_ref(stopped)).await.unwrap().remove(0);
    let raised = RowChange { row: &dead, to: SandboxStatus::Running, reason: None, decided: false };
    assert!(records.change(&raised).await.unwrap().is_none(), "nothing leaves stopped");
}

#[tokio::test]
async fn records_in_memory_and_in_both_databases_behave_the_same() {
    let memory = MemoryRecords::new(Clock::manual(Millis(1)));
    let host = HostId::new();
    let (running, stopped) =
        (memory.put(&host, SandboxStatus::Running, 5), memory.put(&host, SandboxStatus::Stopped, 2));
    conforms(memory.as_ref(), &host, &running, &stopped).await;
    for rig in rigs().await {
        let host = rig.online_host().await;
        let running = rig.sandbox(&host, SandboxStatus::Running, 5).await;
        let stopped = rig.sandbox(&host, SandboxStatus::Stopped, 2).await;
        conforms(rig.records().as_ref(), &host, &running, &stopped).await;
    }
}
