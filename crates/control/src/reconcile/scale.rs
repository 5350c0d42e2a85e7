//! A database with very many hosts and sandboxes, and the monitor over it, for measuring. The database and all that is
//! asked of it are real; the hosts answer from memory that all is as control believes, so no network is in the figures.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use async_trait::async_trait;
use atoll_model::{HostId, SandboxId};
use atoll_rpc::atoll::host::v1::NetworkPolicy;
use sqlx::AssertSqlSafe;

use super::judge::{Seen, State};
use super::monitor::Monitor;
use super::views::{Agents, Inventory};
use super::{Reconcile, Sides};
use crate::clock::Clock;
use crate::config::HostTimes;
use crate::db::{Db, Millis, on};
use crate::fleet::{Candidate, CandidateSource, Fleet, FleetError, FleetSettings, TcpDialer};
use crate::hosts::{Hosts, Loopback};
use crate::pki::{Authority, agent_client_config};

/// The monitor's own interval, in which hosts are heard of again.
const INTERVAL: Duration = Duration::from_secs(15);

pub struct Scale {
    db: Db,
    clock: Clock,
    hosts: Hosts,
    monitor: Monitor,
}

impl Scale {
    /// So many hosts with so many running sandboxes each, in an empty database.
    ///
    /// # Errors
    /// The database's.
    pub async fn fill(url: Option<&str>, dir: &Path, hosts: u32, each: u32) -> anyhow::Result<Self> {
        let db = Db::open(url, dir).await.context("opening the database")?;
        let clock = Clock::manual(Millis(1_800_000_000_000));
        let authority = Authority::open(&db, clock.clone()).await?;
        let tls = agent_client_config(&authority)?;
        let service =
            Hosts::open(db.clone(), clock.clone(), HostTimes::default(), authority, Loopback::Allowed).await?;
        let fleet = Fleet::new(service.directory(), Arc::new(TcpDialer::new(&tls)), FleetSettings::default());
        let sides = Sides::new(&db, &clock, Arc::new(Obedient { each }));
        let monitor = Reconcile::over(sides, &db, &clock, &service, &fleet, true).monitor;
        let scale = Self { db, clock, hosts: service, monitor };
        scale.insert(hosts, each).await?;
        // A monitor that has just begun judges nobody's silence: it could not have heard.
        for _ in 0..8 {
            scale.hear().await?;
            ensure!(scale.monitor.lead().await?, "somebody else leads");
        }
        scale.pass().await?;
        Ok(scale)
    }

    async fn insert(&self, hosts: u32, each: u32) -> anyhow::Result<()> {
        let (id, quiet, numbers) = match &self.db {
            Db::Sqlite { .. } => (
                "printf('%020d', ",
                "DROP TRIGGER sandboxes_inserted",
                "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {count})",
            ),
            Db::Postgres(_) => (
                "to_char(",
                "ALTER TABLE sandboxes DISABLE TRIGGER USER",
                "WITH numbers(n) AS (SELECT generate_series(0, {count} - 1))",
            ),
        };
        let id = |of: &str| match &self.db {
            Db::Sqlite { .. } => format!("{id}{of})"),
            Db::Postgres(_) => format!("{id}{of}, 'FM00000000000000000000')"),
        };
        let numbers = |count: u64| numbers.replace("{count}", &count.to_string());
        let now = self.clock.now().0;
        // No events: they belong to the making of these rows, which is not measured.
        self.execute(quiet).await?;
        self.execute(
            "INSERT INTO teams (id, name, slug, is_byoc, created_at, updated_at) VALUES ('t', 't', 't', false, 0, 0)",
        )
        .await?;
        self.execute(&format!(
            "{numbers} INSERT INTO hosts (id, name, type, status, status_changed_at, draining, drivers,
                 capacity_cpu_millis, capacity_memory_mb, capacity_disk_mb, used_cpu_millis, used_memory_mb,
                 used_disk_mb, sandboxes_running, sandboxes_paused, sandboxes_other, inventory_complete, ready,
                 cached_images, last_heartbeat_at, created_at, updated_at)
             SELECT 'host-' || {id}, 'h', 'regular', 'online', 0, false, '[\"container\"]', 64000, 262144, 4194304,
                 0, 0, 0, 0, 0, 0, true, true, '[]', {now}, 0, 0 FROM numbers",
            numbers = numbers(hosts.into()),
            id = id("n"),
        ))
        .await?;
        self.execute(&format!(
            "{numbers} INSERT INTO sandboxes (id, team_id, host_id, template, template_id, digest, status, generation,
                 driver, vcpus, memory_mb, disk_mb, timeout_sec, on_timeout, auto_resume, on_reboot, metadata, network,
                 access_token, created_at, last_active_at, status_changed_at)
             SELECT 'sbx-' || {id}, 't', 'host-' || {host}, 'base', 'tpl-aaaaaaaaaaaaaaaaaaaa', 'd', 'running', 1,
                 'container', 1, 512, 1024, 0, 'pause', false, 'restart', '{{}}', '{{}}', '', 0, {now}, {now}
             FROM numbers",
            numbers = numbers(u64::from(hosts) * u64::from(each)),
            id = id("n"),
            host = id(&format!("n / {each}")),
        ))
        .await?;
        self.execute("ANALYZE").await
    }

    async fn execute(&self, sql: &str) -> anyhow::Result<()> {
        let statement = AssertSqlSafe(sql.to_owned());
        on!(write & self.db, |c| sqlx::query(statement).execute(c).await.map(|_| ())).with_context(|| sql.to_owned())
    }

    /// One whole pass of the monitor, 15 seconds after the last one.
    ///
    /// # Errors
    /// The database's, and when this monitor doesn't lead.
    pub async fn pass(&self) -> anyhow::Result<()> {
        ensure!(self.monitor.lead().await?, "somebody else leads");
        self.monitor.round().await?;
        Ok(())
    }

    /// Fifteen seconds pass, in which every host is heard of.
    ///
    /// # Errors
    /// The database's.
    pub async fn hear(&self) -> anyhow::Result<()> {
        self.clock.advance(INTERVAL);
        self.execute(&format!("UPDATE hosts SET last_heartbeat_at = {}", self.clock.now().0)).await
    }

    /// The scheduler's list of hosts, as it is read once a second while sandboxes are made.
    ///
    /// # Errors
    /// The database's.
    pub async fn candidates(&self) -> anyhow::Result<Vec<Candidate>> {
        Ok(self.hosts.candidates().candidates().await?)
    }

    /// Sandboxes that are not running: what a pass that finds nothing to do must leave at none.
    ///
    /// # Errors
    /// The database's.
    pub async fn changed(&self) -> anyhow::Result<i64> {
        let count: (i64,) =
            on!(read & self.db, |c| sqlx::query_as("SELECT COUNT(*) FROM sandboxes WHERE status <> 'running'")
                .fetch_one(c)
                .await)?;
        Ok(count.0)
    }
}

/// Hosts that have just what control believes.
struct Obedient {
    each: u32,
}

#[async_trait]
impl Agents for Obedient {
    async fn list(&self, host: &HostId) -> Result<Inventory, FleetError> {
        let first = host.tail().parse::<u64>().unwrap_or(0) * u64::from(self.each);
        let ids = (first..first + u64::from(self.each)).filter_map(|n| format!("sbx-{n:020}").parse().ok());
        let seen = |id| Seen {
            id,
            state: State::Running,
            reason: String::new(),
            generation: 1,
            exit_code: 0,
            network_generation: 0,
        };
        Ok(Inventory { sandboxes: ids.map(seen).collect(), complete: true })
    }

    async fn acknowledge(&self, _: &HostId, _: Vec<(SandboxId, u64, State)>) -> Result<(), FleetError> {
        Ok(())
    }

    async fn resume(&self, _: &HostId, _: &SandboxId, _: u64) -> Result<(), FleetError> {
        Ok(())
    }

    async fn destroy(&self, _: &HostId, _: &SandboxId, _: u64, _: &str) -> Result<(), FleetError> {
        Ok(())
    }

    async fn set_network(&self, _: &HostId, _: &SandboxId, _: u64, _: NetworkPolicy) -> Result<(), FleetError> {
        Ok(())
    }

    async fn delete_image(&self, _: &HostId, _: &str) -> Result<(), FleetError> {
        Ok(())
    }

    async fn terminate(&self, _: &HostId, _: &str) -> Result<(), FleetError> {
        Ok(())
    }
}
