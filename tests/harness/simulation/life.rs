//! One life of a cluster, drawn from a seed: orders of users, faults, the passing of time, and what must hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_control::simulation::{FleetError, HostPass, Row, RowChange, State};
use atoll_host::driver::Exit;
use atoll_host::sandboxes::Keeper;
use atoll_model::{HostId, HostStatus, SandboxId, SandboxStatus};
use futures::executor::block_on;
use rand::Rng;

use super::world::{Known, Meanwhile, World, state_of, wish};

const HOSTS: usize = 3;
/// Hosts in one life at most, deleted ones included.
const MOST_HOSTS: usize = 6;
/// Of faults, in seconds.
const STORM: u32 = 420;
const MONITOR: u32 = 15;
const TRANSITION_LIMIT: Duration = Duration::from_secs(120);
/// Sandboxes made in one life at most.
const MOST: usize = 30;

pub(super) struct Life {
    pub world: World,
    pub pass: HostPass,
    /// Seconds for which control is still down.
    pub control_down: u32,
    seconds: u32,
    /// Hosts that have just come back.
    pub returned: Vec<HostId>,
    /// No faults any more.
    pub calm: bool,
}

/// What happened in a life.
pub struct Lived {
    pub became: BTreeMap<(SandboxStatus, SandboxStatus), u32>,
    /// Destroyed because nobody wanted them.
    pub orphans: u32,
    /// Hosts that were deleted, rebooted, robbed of their credentials, and enrolled again.
    pub deleted: u32,
    pub rebooted: u32,
    pub robbed: u32,
    pub enrolled_again: u32,
}

/// How its hosts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosts {
    Honest,
    /// They leave a sandbox out of their lists: what holds no longer must be noticed.
    Liars,
}

/// Lives it to its end.
///
/// # Errors
/// What did not hold.
pub fn live(seed: u64, hosts: Hosts) -> Result<Lived, String> {
    let world = World::new(seed, HOSTS);
    world.state().liars = hosts == Hosts::Liars;
    let mut life = Life { pass: pass(&world), world, control_down: 0, seconds: 0, returned: Vec::new(), calm: false };
    for host in 0..HOSTS {
        life.start(host);
    }
    for _ in 0..STORM {
        life.something_happens();
        life.second()?;
    }
    life.calm();
    // A heartbeat's interval and its jitter until all are heard, then two periods of the monitor.
    for _ in 0..33 + 2 * MONITOR {
        life.second()?;
    }
    life.nothing_is_away()?;
    // What hangs in between is given two minutes, and so is what control doesn't know.
    for _ in 0..120 + 3 * MONITOR {
        life.second()?;
    }
    life.both_sides_agree()?;
    let state = life.world.state();
    Ok(Lived {
        became: state.became.clone(),
        orphans: state.orphans,
        deleted: state.deleted,
        rebooted: state.rebooted,
        robbed: state.robbed,
        enrolled_again: state.enrolled_again,
    })
}

pub(super) fn pass(world: &World) -> HostPass {
    let (records, agents) = (Arc::new(world.clone()), Arc::new(world.clone()));
    HostPass::new(records, agents, world.clock.clone(), TRANSITION_LIMIT, true)
}

impl Life {
    pub(super) fn draw(&self, percent: u32) -> bool {
        self.world.state().rng.random_range(0..1000) < percent * 10
    }

    pub(super) fn one_of(&self, many: usize) -> usize {
        self.world.state().rng.random_range(0..many)
    }

    /// One of those that were not deleted.
    pub(super) fn any_host(&self) -> usize {
        let there: Vec<usize> = {
            let state = self.world.state();
            let there = |host: &usize| state.hosts[*host].family.is_some();
            (0..state.hosts.len()).filter(there).collect()
        };
        there[self.one_of(there.len())]
    }

    pub(super) fn start(&self, host: usize) {
        let now = self.world.millis();
        self.world.state().hosts[host].start(now);
    }

    /// Faults and orders of one second.
    fn something_happens(&mut self) {
        if self.draw(3) {
            let host = self.any_host();
            let cut = &mut self.world.state().hosts[host].cut;
            *cut = !*cut;
        }
        if self.draw(2) {
            let host = self.any_host();
            let running = self.world.state().hosts[host].agent.is_some();
            if running {
                self.world.state().hosts[host].agent = None;
            } else {
                self.start(host);
            }
        }
        if self.draw(1) {
            let loss = self.one_of(2) as u32 * 15;
            self.world.state().loss = loss;
        }
        if self.control_down == 0 && self.draw(1) {
            self.control_down = 1 + self.one_of(150) as u32;
            // What it kept in memory is gone.
            self.pass = pass(&self.world);
        }
        if self.draw(2) {
            self.a_process_ends();
        }
        self.something_happens_to_a_host(MOST_HOSTS);
        if self.control_down == 0 && self.draw(35) {
            self.a_user_asks();
        }
        if self.draw(20) {
            let (meanwhile, later) = (self.meanwhile(), self.draw(50));
            let mut state = self.world.state();
            if later { state.afterwards = meanwhile } else { state.meanwhile = meanwhile }
        }
    }

    fn any_row(&self) -> Option<Row> {
        let many = self.world.state().order.len();
        if many == 0 {
            return None;
        }
        let index = self.one_of(many);
        let state = self.world.state();
        state.rows.get(&state.order[index]).cloned()
    }

    fn meanwhile(&self) -> Option<Meanwhile> {
        let id = self.any_row()?.id;
        Some(match self.one_of(3) {
            0 => Meanwhile::Destroy(id),
            1 => Meanwhile::Pause(id),
            _ => Meanwhile::Create(self.any_host()),
        })
    }

    fn a_process_ends(&self) {
        let Some(row) = self.any_row() else { return };
        let mut state = self.world.state();
        let there = state.hosts.iter().find(|host| host.machine.running().contains(&row.id));
        let Some(host) = there.filter(|_| !state.ended.contains(&row.id)) else { return };
        host.machine.exit(&row.id, Exit { code: Some(3), out_of_memory: false });
        state.ended.insert(row.id);
    }

    fn a_user_asks(&self) {
        let dies = self.draw(10);
        match self.one_of(10) {
            0..=4 => self.world.create(self.any_host(), dies),
            5 | 6 => {
                if let Some(row) = self.any_row() {
                    self.world.destroy(&row.id, dies);
                }
            }
            7 | 8 => {
                if let Some(row) = self.any_row() {
                    self.world.pause(&row.id, dies);
                }
            }
            _ => {
                if let Some(row) = self.any_row() {
                    self.world.resume(&row.id, dies);
                }
            }
        }
    }

    /// No faults any more.
    fn calm(&mut self) {
        self.control_down = 0;
        self.calm = true;
        let hosts = self.world.state().hosts.len();
        for host in 0..hosts {
            self.world.state().hosts[host].cut = false;
            let (there, running) = {
                let state = self.world.state();
                (state.hosts[host].family.is_some(), state.hosts[host].agent.is_some())
            };
            if there && !running {
                self.start(host);
            }
            self.enrol_again(host);
        }
        let mut state = self.world.state();
        state.loss = 0;
        (state.meanwhile, state.afterwards) = (None, None);
    }

    /// A second passes, on every clock.
    fn second(&mut self) -> Result<(), String> {
        self.seconds += 1;
        self.world.clock.advance(Duration::from_secs(1));
        self.control_down = self.control_down.saturating_sub(1);
        let hosts = self.world.state().hosts.len();
        for host in 0..hosts {
            self.heartbeat(host)?;
        }
        if self.control_down == 0 {
            self.finish_deletions();
            if self.seconds.is_multiple_of(MONITOR) {
                self.passive_phase();
                let online: Vec<HostId> = {
                    let state = self.world.state();
                    let online =
                        |host: &HostId| state.known.get(host).is_some_and(|known| known.status == HostStatus::Online);
                    state.hosts.iter().map(|host| host.id.clone()).filter(online).collect()
                };
                self.returned.extend(online);
            }
            for host in std::mem::take(&mut self.returned) {
                // A host that can't be asked is asked again in the next round.
                let _ = block_on(self.pass.run(&host));
            }
        }
        self.no_sandbox_runs_twice()?;
        self.world.state().broken.take().map_or(Ok(()), Err)
    }

    fn no_sandbox_runs_twice(&self) -> Result<(), String> {
        let state = self.world.state();
        let mut seen: BTreeMap<SandboxId, Vec<(HostId, u64)>> = BTreeMap::new();
        for host in &state.hosts {
            let Some(agent) = &host.agent else { continue };
            for view in agent.keeper().list() {
                seen.entry(view.id.clone()).or_default().push((host.id.clone(), view.generation));
            }
        }
        for (id, places) in seen {
            let mut generations: Vec<u64> = places.iter().map(|place| place.1).collect();
            generations.sort_unstable();
            generations.dedup();
            if generations.len() != places.len() {
                return Err(format!("{id} is on two hosts in the same generation: {places:?}"));
            }
        }
        Ok(())
    }

    fn nothing_is_away(&self) -> Result<(), String> {
        let state = self.world.state();
        if let Some((host, _)) = state.known.iter().find(|(_, known)| known.status != HostStatus::Online) {
            return Err(format!("{host} is not online although nothing keeps it"));
        }
        let away = |row: &&Row| {
            row.status == SandboxStatus::Missing
                || (row.status == SandboxStatus::Paused && row.reason.as_deref() == Some("host_disconnected"))
        };
        state.rows.values().find(away).map_or(Ok(()), |row| Err(format!("{row:?} has not come back")))
    }

    fn both_sides_agree(&self) -> Result<(), String> {
        let state = self.world.state();
        let mut there: BTreeMap<SandboxId, (HostId, State)> = BTreeMap::new();
        for host in &state.hosts {
            if state.tombstones.contains(&host.id) && host.family.is_some() {
                return Err(format!("{} was deleted and does not know it", host.id));
            }
            if host.family.is_none() {
                match host.machine.leftovers() {
                    left if left.is_empty() => continue,
                    left => return Err(format!("{} was deleted, and has still {left:?}", host.id)),
                }
            }
            let agent = host.agent.as_ref().ok_or("an agent is not there")?;
            for view in agent.keeper().list() {
                there.insert(view.id.clone(), (host.id.clone(), state_of(view.state)));
            }
            for id in host.machine.running() {
                if !there.contains_key(&id) {
                    return Err(format!("{id} runs on {}, and its agent does not know it", host.id));
                }
            }
        }
        for (id, (host, state_there)) in &there {
            let row = state.rows.get(id).ok_or_else(|| format!("{id} is an orphan on {host}"))?;
            let agree = match (row.status, state_there) {
                (SandboxStatus::Running, State::Running) | (SandboxStatus::Paused, State::Paused) => true,
                // Known to control, and destroyed when somebody asks for it.
                (SandboxStatus::Error, _) => true,
                _ => false,
            };
            if !agree || row.host.as_ref() != Some(host) {
                return Err(format!("{row:?} is {state_there:?} on {host}"));
            }
        }
        let lost = |row: &&Row| {
            !matches!(row.status, SandboxStatus::Stopped | SandboxStatus::Error) && !there.contains_key(&row.id)
        };
        state.rows.values().find(lost).map_or(Ok(()), |row| Err(format!("{row:?} is nowhere")))
    }
}

/// What control does for users: the decision first, then the order, then what came of it. `dies`: control is killed
/// between the decision and the rest.
impl World {
    fn row(&self, id: &SandboxId) -> Option<Row> {
        self.state().rows.get(id).cloned()
    }

    fn decide(&self, row: &Row, to: SandboxStatus, reason: Option<&str>, host: Option<&HostId>) -> Option<Row> {
        self.change(&RowChange { row, to, reason, decided: true }, host)
    }

    fn settle(&self, row: &Row, to: SandboxStatus, reason: Option<&str>) -> Option<Row> {
        self.change(&RowChange { row, to, reason, decided: false }, None)
    }

    fn order_destroy(&self, row: &Row) {
        let Some(host) = &row.host else { return };
        let (id, generation) = (row.id.clone(), row.generation);
        let _ = self.call(host, |agent| agent.order(async |keeper: &Keeper| keeper.destroy(&id, generation).await));
    }

    /// On a host, and on the next one if that fails.
    pub fn create(&self, first: usize, dies: bool) {
        let (hosts, now) = {
            let state = self.state();
            let online = |host: &&super::agent::Host| state.known.get(&host.id).is_some_and(Known::takes_work);
            let hosts: Vec<HostId> = state.hosts.iter().filter(online).map(|host| host.id.clone()).collect();
            (hosts, self.clock.now())
        };
        if hosts.is_empty() || self.state().order.len() >= MOST {
            return;
        }
        let pick = |turn: usize| hosts[(first + turn) % hosts.len()].clone();
        let rejected = |host: &HostId| {
            let state = self.state();
            let agent = state.hosts.iter().find(|it| it.id == *host).and_then(|it| it.agent.as_ref());
            agent.is_some_and(super::agent::Agent::is_rejected)
        };
        let id = SandboxId::new();
        let (status, host) = (SandboxStatus::Starting, Some(pick(0)));
        let mut row = Row {
            id: id.clone(),
            host,
            status,
            former: None,
            reason: None,
            generation: 1,
            changed_at: now,
            moving_to: None,
            network_generation: 0,
        };
        {
            let mut state = self.state();
            state.rows.insert(id.clone(), row.clone());
            state.order.push(id.clone());
        }
        for turn in 0..2 {
            let host = pick(turn);
            if turn > 0 {
                let Some(moved) = self.decide(&row, SandboxStatus::Starting, None, Some(&host)) else { return };
                row = moved;
            }
            let (order, generation) = (row.id.clone(), row.generation);
            let made = self.call(&host, |agent| {
                agent.order(async |keeper: &Keeper| keeper.create(order, generation, wish()).await)
            });
            if dies {
                return;
            }
            if made.is_ok() && rejected(&host) {
                self.state().broken = Some(format!("{host} took {id} although its credentials were rejected"));
            }
            match made {
                Ok(_) => {
                    if self.settle(&row, SandboxStatus::Running, None).is_none()
                        && let Some(now) = self.row(&id).filter(|now| now.status == SandboxStatus::Stopped)
                    {
                        self.order_destroy(&now);
                    }
                    return;
                }
                Err(_) => {
                    let Some(newer) = self.decide(&row, SandboxStatus::Starting, None, None) else { return };
                    self.order_destroy(&newer);
                    row = newer;
                }
            }
        }
        self.decide(&row, SandboxStatus::Stopped, Some("create_failed"), None);
    }

    pub fn destroy(&self, id: &SandboxId, dies: bool) {
        let Some(row) = self.row(id).filter(|row| !row.status.is_final()) else { return };
        let Some(stopped) = self.decide(&row, SandboxStatus::Stopped, Some("deleted"), None) else { return };
        if !dies {
            self.order_destroy(&stopped);
        }
    }

    pub fn pause(&self, id: &SandboxId, dies: bool) {
        let Some(row) = self.row(id).filter(|row| row.status == SandboxStatus::Running) else { return };
        let Some(pausing) = self.decide(&row, SandboxStatus::Pausing, Some("user"), None) else { return };
        let Some(host) = pausing.host.clone().filter(|_| !dies) else { return };
        let (order, generation) = (id.clone(), pausing.generation);
        let done = self.call(&host, |agent| {
            agent.order(async |keeper: &Keeper| keeper.pause(&order, generation, "user".to_owned()).await)
        });
        match done {
            Ok(_) => self.settle(&pausing, SandboxStatus::Paused, Some("user")),
            Err(FleetError::Agent { .. }) => self.settle(&pausing, SandboxStatus::Running, None),
            Err(_) => None,
        };
    }

    pub fn resume(&self, id: &SandboxId, dies: bool) {
        let Some(row) = self.row(id).filter(|row| row.status == SandboxStatus::Paused) else { return };
        let before = row.reason.clone();
        let Some(resuming) = self.decide(&row, SandboxStatus::Resuming, None, None) else { return };
        let Some(host) = resuming.host.clone().filter(|_| !dies) else { return };
        let (order, generation) = (id.clone(), resuming.generation);
        let done =
            self.call(&host, |agent| agent.order(async |keeper: &Keeper| keeper.resume(&order, generation).await));
        match done {
            Ok(_) => self.settle(&resuming, SandboxStatus::Running, None),
            Err(FleetError::Agent { .. }) => self.settle(&resuming, SandboxStatus::Paused, before.as_deref()),
            Err(_) => None,
        };
    }

    /// An order that comes between the two looks of a pass.
    pub fn between(&self, meanwhile: Meanwhile) {
        match meanwhile {
            Meanwhile::Destroy(id) => self.destroy(&id, false),
            Meanwhile::Pause(id) => self.pause(&id, false),
            Meanwhile::Create(host) => self.create(host, false),
        }
    }
}
