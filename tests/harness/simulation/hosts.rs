//! What happens to whole hosts in a life: heartbeats and what control makes of their absence, reboots, stolen credentials
//! and new ones, deletions that may be interrupted anywhere.

use atoll_control::simulation::{Agents, RowChange};
use atoll_host::agent::heartbeat::decision::Observation;
use atoll_host::sandboxes::State as HostState;
use atoll_model::{HostId, HostStatus, SandboxStatus};
use futures::executor::block_on;
use rand::Rng;

use super::agent::{Ask, Host};
use super::life::Life;
use super::world::{Everything, Known, STALE_AFTER};

/// How long an access token lives, in milliseconds: short, so that renewals happen in every life.
const ACCESS: u64 = 100_000;

impl Life {
    /// Now and then, something that concerns all of a host's sandboxes at once.
    pub(super) fn something_happens_to_a_host(&mut self, most: usize) {
        if self.draw(1) {
            let host = self.any_host();
            self.reboot(host);
        }
        if self.control_down == 0 && self.draw(1) {
            let host = self.any_host();
            self.steal(host);
        }
        if self.draw(2) {
            let host = self.any_host();
            self.enrol_again(host);
        }
        let hosts = self.world.state().hosts.len();
        if self.control_down == 0 && hosts < most && self.one_of(300) == 0 {
            let host = self.any_host();
            self.delete(host);
        }
    }

    /// Its processes are gone; what they were doing is not.
    fn reboot(&self, host: usize) {
        {
            let mut state = self.world.state();
            let lost = state.hosts[host].machine.running();
            state.ended.retain(|id| !lost.contains(id));
            state.hosts[host].reboot();
            state.rebooted += 1;
        }
        self.start(host);
    }

    /// Somebody else used its refresh token, and control has noticed.
    fn steal(&self, host: usize) {
        let mut state = self.world.state();
        let id = state.hosts[host].id.clone();
        if state.known.get_mut(&id).is_some_and(|known| known.family.take().is_some()) {
            state.robbed += 1;
        }
    }

    /// An operator runs its agent with a new registration token, if it needs one and control can be reached.
    pub(super) fn enrol_again(&self, host: usize) {
        let (now, up) = (self.world.millis(), self.control_down == 0);
        let mut state = self.world.state();
        let (id, cut, family) = {
            let host = &state.hosts[host];
            (host.id.clone(), host.cut, host.family)
        };
        let Some(family) = family.filter(|_| up && !cut) else { return };
        let Some(known) = state.known.get_mut(&id).filter(|known| known.family.is_none() && !known.deleting) else {
            return;
        };
        known.family = Some(family + 1);
        let host = &mut state.hosts[host];
        (host.family, host.access_until, host.agent) = (Some(family + 1), now + ACCESS, None);
        host.start(now);
        state.enrolled_again += 1;
    }

    /// Marks it, as a forced deletion does first; a new host comes in its place.
    fn delete(&self, host: usize) {
        let now = self.world.millis();
        let heard = self.world.clock.now();
        let mut state = self.world.state();
        let id = state.hosts[host].id.clone();
        if let Some(known) = state.known.get_mut(&id).filter(|known| !known.deleting) {
            known.deleting = true;
            let mut fresh = Host::new();
            fresh.start(now);
            state.known.insert(fresh.id.clone(), Known::new(heard));
            state.hosts.push(fresh);
        }
    }

    /// What control does of every deletion that was begun, as far as it gets: it may die after any step, and begins anew.
    pub(super) fn finish_deletions(&mut self) {
        let begun: Vec<HostId> = {
            let state = self.world.state();
            state.known.iter().filter(|(_, known)| known.deleting).map(|(id, _)| id.clone()).collect()
        };
        for host in begun {
            let rows: Vec<_> = {
                let state = self.world.state();
                let on_it = |row: &&atoll_control::simulation::Row| row.host.as_ref() == Some(&host);
                state.order.iter().filter_map(|id| state.rows.get(id)).filter(on_it).cloned().collect()
            };
            let alive = rows.iter().filter(|row| !row.status.is_final());
            for row in alive.clone() {
                let _ = block_on(Agents::destroy(&self.world, &host, &row.id, row.generation + 1, "host_deleted"));
                if !self.calm && self.draw(3) {
                    self.control_down = 5;
                    return;
                }
            }
            let _ = block_on(self.world.terminate(&host, "host_deleted"));
            if !self.calm && self.draw(20) {
                self.control_down = 5;
                return;
            }
            for row in alive {
                let to = SandboxStatus::Stopped;
                self.world.change(&RowChange { row, to, reason: Some("host_deleted"), decided: true }, None);
            }
            let mut state = self.world.state();
            state.known.remove(&host);
            state.tombstones.insert(host);
            state.deleted += 1;
        }
    }

    /// What the agent asks control, if it is time, and what it does about the answer.
    pub(super) fn heartbeat(&mut self, host: usize) -> Result<(), String> {
        let (now, up) = (self.world.millis(), self.control_down == 0);
        let heard_at = self.world.clock.now();
        let mut state = self.world.state();
        let jitter = state.rng.random_range(-1.0..=1.0);
        let loses = state.rng.random_range(0..100) < state.loss;
        let Everything { hosts, known, tombstones, .. } = &mut *state;
        let host = &mut hosts[host];
        let (cut, id) = (host.cut, host.id.clone());
        let valid = host.family.is_some() && known.get(&id).is_some_and(|known| known.family == host.family);
        let Some(agent) = &mut host.agent else { return Ok(()) };
        agent.settle();
        let Some(ask) = agent.asks(now) else {
            agent.look_at_the_clock(now);
            return Ok(());
        };
        let observation = match ask {
            Ask::Beat if !up || cut => Observation::NoAnswer,
            Ask::Refresh if !up || cut || loses => Observation::RefreshFailed,
            _ if tombstones.contains(&id) => Observation::Deleted,
            Ask::Beat if !valid || now >= host.access_until => Observation::Refused,
            Ask::Beat => Observation::Accepted,
            Ask::Refresh if !valid => Observation::Rejected,
            Ask::Refresh => {
                host.access_until = now + ACCESS;
                Observation::Renewed
            }
        };
        if !agent.heard(now, observation, jitter) {
            agent.destroy_all();
            host.forget();
            return Ok(());
        }
        agent.look_at_the_clock(now);
        let runs = |agent: &super::agent::Agent| {
            agent.keeper().list().into_iter().find(|view| view.state == HostState::Running).map(|view| view.id.clone())
        };
        if observation == Observation::Rejected
            && let Some(runs) = runs(agent)
        {
            return Err(format!("{runs} runs on {id}, whose credentials were rejected just now"));
        }
        if observation == Observation::Accepted
            && let Some(known) = known.get_mut(&id)
        {
            known.heard = heard_at;
            if known.status != HostStatus::Online {
                known.status = HostStatus::Online;
                self.returned.push(id);
            }
        }
        Ok(())
    }

    /// As control's: hosts that were not heard of, then the sandboxes of hosts that are away.
    pub(super) fn passive_phase(&self) {
        let now = self.world.clock.now();
        let mut state = self.world.state();
        for known in state.known.values_mut() {
            if known.status == HostStatus::Online && now.0 - known.heard.0 > STALE_AFTER {
                known.status = HostStatus::Unreachable;
            }
        }
        let away: Vec<HostId> =
            state.known.iter().filter(|(_, it)| it.status != HostStatus::Online).map(|(id, _)| id.clone()).collect();
        let Everything { rows, became, .. } = &mut *state;
        for row in rows.values_mut() {
            if row.status.goes_missing() && row.host.as_ref().is_some_and(|host| away.contains(host)) {
                *became.entry((row.status, SandboxStatus::Missing)).or_default() += 1;
                row.status = SandboxStatus::Missing;
                row.reason = Some("host_unreachable".to_owned());
                row.changed_at = now;
            }
        }
        // As the sweep does: what came to a host while it was being deleted.
        let Everything { rows, tombstones, .. } = &mut *state;
        for row in rows.values_mut() {
            if !row.status.is_final() && row.host.as_ref().is_some_and(|host| tombstones.contains(host)) {
                row.status = SandboxStatus::Stopped;
                row.reason = Some("host_deleted".to_owned());
                row.generation += 1;
                row.changed_at = now;
            }
        }
    }
}
