//! Both state machines over random lives, on both databases: whatever happens in whatever order, no host and no sandbox
//! changes its status in a way that `can_become` does not name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_model::api::hosts::HeartbeatRequest;
use atoll_model::{HostId, HostStatus, HostType, SandboxId, SandboxStatus};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::judge::State;
use super::super::monitor::Monitor;
use super::super::views::{Records, RowChange};
use super::absence::{monitor, pass};
use super::memory::MemoryAgents;
use super::sql::{Rig, rigs};
use crate::audit::{Actor, Origin};
use crate::hosts::tests::{Agent, beat};
use crate::hosts::{NewHost, store};

const LIVES: u64 = 4;
const STEPS: usize = 150;
const MOST: usize = 6;

struct Walk<'a> {
    rig: &'a Rig,
    rng: StdRng,
    agents: Arc<MemoryAgents>,
    monitor: &'a Monitor,
    host: HostId,
    agent: Agent,
    token: String,
    sandboxes: Vec<SandboxId>,
    /// Steps for which nothing is heard of the host.
    away: usize,
}

impl Walk<'_> {
    async fn step(&mut self) {
        self.away = self.away.saturating_sub(1);
        match self.rng.random_range(0..16) {
            0 if self.away == 0 => self.enrols().await,
            1..=3 if self.away == 0 => {
                let going_offline = self.rng.random_range(0..6) == 0;
                self.beats(going_offline).await;
            }
            4..=7 => {
                // Often enough that the monitor could have heard.
                self.rig.clock.advance(Duration::from_secs(self.rng.random_range(10..40)));
                pass(self.monitor).await;
            }
            8 | 9 => self.a_sandbox_comes().await,
            10 | 11 => self.its_host_does_something(),
            12 if self.away == 0 => self.away = 30,
            _ => self.somebody_decides().await,
        }
    }

    async fn enrols(&mut self) {
        // Refused when it has credentials and is online.
        if let Ok(newer) = self.rig.hosts.renew_registration(&self.host, &Actor::System, &Origin::default()).await {
            self.token = newer.token;
        }
        let _refused_when_used = self.agent.register(&self.rig.hosts, &self.token).await;
    }

    async fn beats(&self, going_offline: bool) {
        let Some(credentials) = &self.agent.credentials else { return };
        let body = HeartbeatRequest { going_offline, ..beat() };
        self.rig.hosts.heartbeat(&self.host, Some(&credentials.access_token), body).await.expect("a heartbeat");
    }

    async fn a_sandbox_comes(&mut self) {
        if self.sandboxes.len() < MOST {
            let status = SandboxStatus::ALL[self.rng.random_range(0..SandboxStatus::ALL.len())];
            let id = self.rig.sandbox(&self.host, status, 1).await;
            self.agents.put_on(&self.host, &id, State::Running, "");
            self.sandboxes.push(id);
        }
    }

    fn any(&mut self) -> Option<SandboxId> {
        let many = self.sandboxes.len();
        (many > 0).then(|| self.sandboxes[self.rng.random_range(0..many)].clone())
    }

    fn its_host_does_something(&mut self) {
        let Some(id) = self.any() else { return };
        match self.rng.random_range(0..4) {
            0 => drop(self.agents.sandboxes.lock().unwrap().remove(&id)),
            1 => self.agents.put_on(&self.host, &id, State::Exited, "out_of_memory"),
            2 => self.agents.put_on(&self.host, &id, State::Paused, "host_disconnected"),
            _ => self.agents.put_on(&self.host, &id, State::Running, ""),
        }
    }

    /// Whatever a user or a late answer may ask for: the database refuses what is not legal.
    async fn somebody_decides(&mut self) {
        let Some(id) = self.any() else { return };
        let row = self.rig.row(&id).await;
        let to = SandboxStatus::ALL[self.rng.random_range(0..SandboxStatus::ALL.len())];
        let change = RowChange { row: &row, to, reason: Some("walk"), decided: self.rng.random() };
        let records = self.rig.records();
        let done = records.change(&change).await.expect("a change or none");
        assert!(done.is_none() || row.status == to || row.status.can_become(to), "{} to {to}", row.status);
    }

    async fn statuses(&self) -> (HostStatus, BTreeMap<SandboxId, SandboxStatus>) {
        let host = store::get(&self.rig.db, &self.host).await.unwrap().unwrap().status.0;
        let rows = self.rig.records().by_id(&self.sandboxes).await.unwrap();
        (host, rows.into_iter().map(|row| (row.id, row.status)).collect())
    }
}

/// Several changes may come in one step: whether there is a legal way.
fn reachable(from: SandboxStatus, to: SandboxStatus) -> bool {
    let legal = |from: SandboxStatus, to| from == to || from.can_become(to);
    legal(from, to) || SandboxStatus::ALL.into_iter().any(|between| legal(from, between) && legal(between, to))
}

#[tokio::test]
async fn whatever_happens_every_change_of_status_is_a_legal_one() {
    for rig in rigs().await {
        let agents = MemoryAgents::new();
        let monitor = monitor(&rig, &agents);
        let (mut hosts, mut sandboxes) = (BTreeSet::new(), BTreeSet::new());
        for seed in 0..LIVES {
            let new = NewHost {
                id: HostId::new(),
                name: "reef".to_owned(),
                kind: HostType::Regular,
                team: None,
                provider: None,
                availability_zone: None,
                created_by: None,
            };
            let (row, token) = rig.hosts.create(&new, &Actor::System, &Origin::default()).await.unwrap();
            let mut walk = Walk {
                rig: &rig,
                rng: StdRng::seed_from_u64(seed),
                agents: Arc::clone(&agents),
                monitor: &monitor,
                host: row.id.0,
                agent: Agent::new(),
                token: token.token,
                sandboxes: Vec::new(),
                away: 0,
            };
            walk.enrols().await;
            let mut before = walk.statuses().await;
            for step in 0..STEPS {
                walk.step().await;
                let now = walk.statuses().await;
                let legal = before.0 == now.0 || before.0.can_become(now.0);
                assert!(legal, "seed {seed}, step {step}: a host was {:?} and is {:?}", before.0, now.0);
                for (id, status) in &now.1 {
                    let was = before.1.get(id).copied().unwrap_or(*status);
                    assert!(reachable(was, *status), "seed {seed}, step {step}: {id} was {was} and is {status}");
                    sandboxes.insert((was, *status));
                }
                hosts.insert((before.0.as_str(), now.0.as_str()));
                before = now;
            }
        }
        for change in
            [("online", "unreachable"), ("unreachable", "online"), ("online", "offline"), ("offline", "online")]
        {
            assert!(hosts.contains(&change), "never seen: {change:?}");
        }
        for change in [
            (SandboxStatus::Running, SandboxStatus::Missing),
            (SandboxStatus::Missing, SandboxStatus::Running),
            (SandboxStatus::Running, SandboxStatus::Stopped),
        ] {
            assert!(sandboxes.contains(&change), "never seen: {change:?}");
        }
    }
}
