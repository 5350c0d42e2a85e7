//! The passive phase and the monitor's passes, on both databases.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::SandboxStatus::{Error, Missing, Paused, Resuming, Running, Starting, Stopped};
use atoll_model::{HostId, HostStatus, SandboxStatus};
use tokio_util::sync::CancellationToken;

use super::super::host_deletion::HostDeletion;
use super::super::host_pass::HostPass;
use super::super::judge::{DISCONNECTED, State};
use super::super::monitor::Monitor;
use super::memory::MemoryAgents;
use super::sql::{Rig, rigs};
use crate::config::HostTimes;
use crate::fleet::{Fleet, FleetSettings, TcpDialer};
use crate::hosts::{HostChange, store};

pub fn monitor(rig: &Rig, agents: &Arc<MemoryAgents>) -> Monitor {
    monitor_every(rig, agents, rig.hosts.times().monitor_interval)
}

fn monitor_every(rig: &Rig, agents: &Arc<MemoryAgents>, monitor_interval: Duration) -> Monitor {
    let deletion = deletion(rig, agents);
    let times = HostTimes { monitor_interval, ..rig.hosts.times().clone() };
    let pass = HostPass::new(rig.records(), Arc::clone(agents) as _, rig.clock.clone(), times.transition_limit, true);
    Monitor::new(rig.db.clone(), rig.clock.clone(), times, pass, deletion)
}

pub fn deletion(rig: &Rig, agents: &Arc<MemoryAgents>) -> HostDeletion {
    let authority = crate::pki::Authority::for_tests(rig.clock.clone());
    let tls = crate::pki::agent_client_config(&authority).unwrap();
    let fleet = Fleet::new(rig.hosts.directory(), Arc::new(TcpDialer::new(&tls)), FleetSettings::default());
    HostDeletion {
        db: rig.db.clone(),
        clock: rig.clock.clone(),
        fleet,
        directory: rig.hosts.directory(),
        records: rig.records(),
        agents: Arc::clone(agents) as _,
    }
}

/// A tick and the round that follows it, one after the other. Whether this monitor leads.
pub async fn pass(monitor: &Monitor) -> bool {
    let leads = monitor.lead().await.unwrap();
    if leads {
        monitor.round().await.unwrap();
    }
    leads
}

async fn status(rig: &Rig, host: &HostId) -> HostStatus {
    store::get(&rig.db, host).await.unwrap().unwrap().status.0
}

const INTERVAL: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_silent_host_is_unreachable_and_its_live_sandboxes_missing_and_both_come_back() {
    for rig in rigs().await {
        let agents = MemoryAgents::new();
        let monitor = monitor(&rig, &agents);
        let (silent, heard) = (rig.online_host().await, rig.online_host().await);
        let mut live: Vec<(SandboxStatus, atoll_model::SandboxId)> = Vec::new();
        for status in SandboxStatus::ALL {
            live.push((status, rig.sandbox(&silent, status, 1).await));
        }
        let other = rig.sandbox(&heard, Running, 1).await;
        agents.put_on(&heard, &other, State::Running, "");
        for _ in 0..7 {
            // Within its first stale_after a monitor judges nobody: it could not have heard.
            agents.reachable.store(false, std::sync::atomic::Ordering::SeqCst);
            pass(&monitor).await;
            assert_eq!(status(&rig, &heard).await, HostStatus::Online);
            rig.clock.advance(INTERVAL);
            rig.hear(&heard).await;
        }
        pass(&monitor).await;
        assert_eq!(status(&rig, &silent).await, HostStatus::Unreachable);
        assert_eq!(status(&rig, &heard).await, HostStatus::Online);
        for (before, id) in &live {
            let expected = if before.goes_missing() { Missing } else { *before };
            assert_eq!(rig.row(id).await.status, expected, "{before}");
        }
        let kept = format!("SELECT COUNT(*) FROM sandboxes WHERE former_status = 'running' AND host_id = '{silent}'");
        assert_eq!(rig.count(&kept).await, 1, "what it was is kept");
        assert_eq!(rig.row(&other).await.status, Running);
        let events = "SELECT COUNT(*) FROM events WHERE type = 'host.unreachable'";
        assert_eq!(rig.count(events).await, 1);

        // It is heard again, and says what it has.
        rig.execute(&format!("UPDATE hosts SET status = 'online' WHERE id = '{silent}'")).await;
        rig.hear(&silent).await;
        agents.reachable.store(true, std::sync::atomic::Ordering::SeqCst);
        for (_, id) in live.iter().filter(|(before, _)| !matches!(before, Stopped | Error)) {
            let state = if rig.row(id).await.status == Paused { State::Paused } else { State::Running };
            agents.put_on(&silent, id, state, "user");
        }
        pass(&monitor).await;
        for (before, id) in &live {
            let expected = if before.goes_missing() || *before == Missing { Running } else { *before };
            assert_eq!(rig.row(id).await.status, expected, "{before}");
        }
    }
}

#[tokio::test]
async fn control_that_was_away_itself_calls_nobody_unreachable_at_once() {
    for rig in rigs().await {
        let agents = MemoryAgents::new();
        let host = rig.online_host().await;
        let sandbox = rig.sandbox(&host, Running, 1).await;
        agents.put(&sandbox, State::Running, "", 1);
        pass(&monitor(&rig, &agents)).await;
        rig.clock.advance(Duration::from_secs(3600));
        // Another monitor, as after a restart: an hour without control is no fault of the host.
        let restarted = monitor(&rig, &agents);
        assert!(pass(&restarted).await);
        assert_eq!(status(&rig, &host).await, HostStatus::Online);
        assert_eq!(rig.row(&sandbox).await.status, Running);
    }
}

#[tokio::test]
async fn one_replica_leads_and_another_takes_over_when_it_is_gone() {
    for rig in rigs().await {
        let agents = MemoryAgents::new();
        let (one, two) = (monitor(&rig, &agents), monitor(&rig, &agents));
        assert!(pass(&one).await);
        assert!(!pass(&two).await);
        assert!(pass(&one).await);
        // In less than an interval: what falls silent then is found missing in time all the same.
        rig.clock.advance(INTERVAL / 2 + Duration::from_millis(1));
        assert!(pass(&two).await);
        assert!(!pass(&one).await);
    }
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..2000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn a_host_that_answers_and_then_hangs_holds_up_no_other_and_no_deletion() {
    for rig in rigs().await {
        let agents = MemoryAgents::new();
        let (hung, other, doomed) = (rig.online_host().await, rig.online_host().await, rig.online_host().await);
        let stuck = rig.sandbox(&hung, Missing, 1).await;
        agents.put_on(&hung, &stuck, State::Paused, DISCONNECTED);
        agents.hanging.lock().unwrap().insert(hung.clone());
        let stop = CancellationToken::new();
        let monitor = monitor_every(&rig, &agents, Duration::from_millis(50));
        let running = tokio::spawn(monitor.run(rig.hosts.changes(), stop.clone()));
        until("it hangs", async || rig.row(&stuck).await.status == Resuming).await;

        let late = rig.sandbox(&other, Missing, 1).await;
        agents.put_on(&other, &late, State::Running, "");
        until("another host is looked at", async || rig.row(&late).await.status == Running).await;
        rig.execute(&format!("UPDATE hosts SET deletion_id = 'd', draining = true WHERE id = '{doomed}'")).await;
        until("a deletion is finished", async || store::get(&rig.db, &doomed).await.unwrap().is_none()).await;
        assert_eq!(rig.row(&stuck).await.status, Resuming, "and that one hangs still");
        stop.cancel();
        running.await.unwrap();
    }
}

#[tokio::test]
async fn a_host_that_is_back_is_looked_at_anew_though_an_earlier_look_still_waits() {
    for rig in rigs().await {
        let agents = MemoryAgents::new();
        let host = rig.online_host().await;
        let stuck = rig.sandbox(&host, Missing, 1).await;
        agents.put_on(&host, &stuck, State::Paused, DISCONNECTED);
        agents.hanging.lock().unwrap().insert(host.clone());
        let (changes, heard) = tokio::sync::broadcast::channel(8);
        let stop = CancellationToken::new();
        let monitor = monitor_every(&rig, &agents, Duration::from_millis(50));
        let running = tokio::spawn(monitor.run(heard, stop.clone()));
        until("it hangs", async || rig.row(&stuck).await.status == Resuming).await;

        let late = rig.sandbox(&host, Missing, 1).await;
        agents.put_on(&host, &late, State::Running, "");
        until("it is looked at once more", async || {
            // As often as its heartbeats say that it is back; only a look that has waited for long is given up.
            changes.send(HostChange::Returned(host.clone())).unwrap();
            rig.row(&late).await.status == Running
        })
        .await;
        assert_eq!(rig.row(&stuck).await.status, Resuming, "ordered once, and not given up");
        stop.cancel();
        running.await.unwrap();
    }
}

#[tokio::test]
async fn going_missing_is_an_event_of_its_own_and_hosts_changes_bear_controls_time() {
    for rig in rigs().await {
        let host = rig.online_host().await;
        rig.sandbox(&host, Running, 1).await;
        rig.clock.advance(Duration::from_secs(100));
        let now = rig.clock.now();
        super::super::absence::mark_unreachable(&rig.db, now, Duration::from_secs(90)).await.unwrap();
        assert_eq!(super::super::absence::mark_missing(&rig.db, now).await.unwrap(), 1);
        let count = async |what: &str| rig.count(&format!("SELECT COUNT(*) FROM events WHERE {what}")).await;
        assert_eq!(count("type = 'sandbox.missing'").await, 1);
        assert_eq!(count("type = 'sandbox.updated'").await, 0, "and told once");
        assert_eq!(count(&format!("type = 'host.updated' AND at = {}", now.0)).await, 1);
    }
}

#[tokio::test]
async fn a_create_that_was_never_placed_ends_as_an_error_that_says_so() {
    for rig in rigs().await {
        let agents = MemoryAgents::new();
        let id = rig.sandbox(&HostId::new(), SandboxStatus::Pending, 1).await;
        rig.execute("UPDATE sandboxes SET host_id = NULL").await;
        let monitor = monitor(&rig, &agents);
        pass(&monitor).await;
        assert_eq!(rig.row(&id).await.status, SandboxStatus::Pending);
        rig.clock.advance(Duration::from_secs(121));
        pass(&monitor).await;
        let row = rig.row(&id).await;
        assert_eq!((row.status, row.reason.as_deref()), (Error, Some("create_interrupted")));
    }
}

#[tokio::test]
async fn what_a_deletion_has_destroyed_is_not_lost() {
    for rig in rigs().await {
        let agents = MemoryAgents::new();
        let host = rig.online_host().await;
        let gone = rig.sandbox(&host, Running, 1).await;
        rig.execute(&format!("UPDATE hosts SET deletion_id = 'd', draining = true WHERE id = '{host}'")).await;
        pass(&monitor(&rig, &agents)).await;
        let row = rig.row(&gone).await;
        assert_eq!((row.status, row.reason.as_deref()), (Stopped, Some("host_deleted")));
    }
}

#[tokio::test]
async fn a_sandbox_that_came_to_a_host_while_it_was_being_deleted_is_stopped() {
    for rig in rigs().await {
        let agents = MemoryAgents::new();
        let host = rig.online_host().await;
        let requester = super::deletion::requester();
        deletion(&rig, &agents).forced(&host, &requester).await.unwrap();
        let late = rig.sandbox(&host, Starting, 1).await;
        pass(&monitor(&rig, &agents)).await;
        let row = rig.row(&late).await;
        assert_eq!((row.status, row.reason.as_deref()), (Stopped, Some("host_deleted")));
    }
}
