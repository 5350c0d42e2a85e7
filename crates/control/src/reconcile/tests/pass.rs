//! What a host's active phase does, over memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atoll_model::SandboxStatus::{Error, Missing, Paused, Resuming, Running, Starting, Stopped};
use atoll_model::{HostId, SandboxId};

use super::super::host_pass::{HostPass, PassError};
use super::super::judge::{DISCONNECTED, State};
use super::memory::{MemoryAgents, MemoryRecords};
use crate::clock::Clock;
use crate::db::Millis;

const LIMIT: Duration = Duration::from_secs(120);

struct Rig {
    clock: Clock,
    host: HostId,
    records: Arc<MemoryRecords>,
    agents: Arc<MemoryAgents>,
    pass: HostPass,
}

fn rig() -> Rig {
    let clock = Clock::manual(Millis(1_000_000));
    let records = MemoryRecords::new(clock.clone());
    let agents = MemoryAgents::new();
    let pass = HostPass::new(Arc::clone(&records) as _, Arc::clone(&agents) as _, clock.clone(), LIMIT, true);
    Rig { clock, host: HostId::new(), records, agents, pass }
}

#[tokio::test]
async fn a_host_that_comes_back_brings_all_its_sandboxes_back() {
    let rig = rig();
    let mut ids = Vec::new();
    for _ in 0..500 {
        let id = rig.records.put(&rig.host, Missing, 1);
        rig.agents.put(&id, State::Paused, DISCONNECTED, 1);
        ids.push(id);
    }
    let outcome = rig.pass.run(&rig.host).await.unwrap();
    assert_eq!(outcome.resumed, 500);
    for id in ids {
        assert_eq!(rig.records.row(&id).status, Running);
        assert_eq!(rig.agents.state(&id), Some(State::Running));
    }
    assert_eq!(rig.pass.run(&rig.host).await.unwrap().resumed, 0, "and nothing is left to do");
}

#[tokio::test]
async fn what_was_out_of_sight_goes_on_under_what_it_was_told_meanwhile_or_not_at_all() {
    let rig = rig();
    let [told, plain] = [(); 2].map(|()| {
        let id = rig.records.put(&rig.host, Missing, 1);
        rig.agents.put(&id, State::Paused, DISCONNECTED, 1);
        id
    });
    rig.records.rows.lock().unwrap().get_mut(&told).unwrap().network_generation = 1;
    rig.agents.policies_fail.store(true, Ordering::SeqCst);
    assert_eq!(rig.pass.run(&rig.host).await.unwrap().resumed, 1);
    assert_eq!((rig.agents.state(&told), rig.agents.state(&plain)), (Some(State::Paused), Some(State::Running)));
    rig.agents.policies_fail.store(false, Ordering::SeqCst);
    assert_eq!(rig.pass.run(&rig.host).await.unwrap().resumed, 1);
    assert_eq!((rig.agents.state(&told), rig.records.row(&told).status), (Some(State::Running), Running));
}

#[tokio::test]
async fn a_delete_a_pause_and_a_create_that_race_with_the_pass_win() {
    let rig = rig();
    let deleted = rig.records.put(&rig.host, Running, 1);
    let paused = rig.records.put(&rig.host, Missing, 1);
    rig.agents.put(&paused, State::Running, "", 1);
    let created = SandboxId::new();
    rig.agents.put(&created, State::Running, "", 1);
    let (delete, pause, create, host) = (deleted.clone(), paused.clone(), created.clone(), rig.host.clone());
    rig.agents.meanwhile(&rig.records, move |records| {
        records.set(&delete, Stopped, 2);
        records.set(&pause, Paused, 2);
        let id = records.put(&host, Starting, 1);
        let row = super::super::judge::Row { id: create.clone(), ..records.row(&id) };
        let mut rows = records.rows.lock().unwrap();
        rows.remove(&id);
        rows.insert(create.clone(), row);
    });
    rig.pass.run(&rig.host).await.unwrap();
    assert_eq!(rig.records.row(&deleted).status, Stopped);
    assert_eq!(rig.records.row(&paused).status, Paused);
    assert_eq!(rig.records.row(&created).status, Starting);
    assert_eq!(rig.agents.state(&created), Some(State::Running), "not an orphan");
}

#[tokio::test]
async fn nothing_is_lost_while_the_host_is_still_finding_its_sandboxes() {
    let rig = rig();
    let id = rig.records.put(&rig.host, Running, 1);
    rig.agents.complete.store(false, Ordering::SeqCst);
    assert!(!rig.pass.run(&rig.host).await.unwrap().complete);
    assert_eq!(rig.records.row(&id).status, Running);
    rig.agents.complete.store(true, Ordering::SeqCst);
    rig.pass.run(&rig.host).await.unwrap();
    let row = rig.records.row(&id);
    assert_eq!((row.status, row.reason.as_deref()), (Stopped, Some("lost")));
}

#[tokio::test]
async fn what_a_host_did_by_itself_is_acknowledged() {
    let rig = rig();
    let died = rig.records.put(&rig.host, Running, 1);
    rig.agents.put(&died, State::Exited, "out_of_memory", 1);
    let idle = rig.records.put(&rig.host, Running, 1);
    rig.agents.put(&idle, State::Paused, "ttl", 1);
    rig.pass.run(&rig.host).await.unwrap();
    assert_eq!(rig.records.row(&died).reason.as_deref(), Some("out_of_memory"));
    assert_eq!(rig.records.row(&idle).reason.as_deref(), Some("ttl"));
    assert_eq!(rig.agents.acknowledged.lock().unwrap().len(), 2);
    rig.pass.run(&rig.host).await.unwrap();
    assert_eq!(rig.agents.state(&died), None, "and the rest of it is removed");
    assert!(rig.records.orphans.lock().unwrap().is_empty(), "which is no orphan");
}

#[tokio::test]
async fn what_only_its_disk_is_left_of_is_an_error_and_never_acknowledged() {
    let rig = rig();
    let torn = rig.records.put(&rig.host, Running, 1);
    rig.agents.put(&torn, State::Exited, "record_damaged", 0);
    for _ in 0..2 {
        rig.pass.run(&rig.host).await.unwrap();
        let row = rig.records.row(&torn);
        assert_eq!((row.status, row.reason.as_deref()), (Error, Some("record_damaged")));
        assert!(rig.agents.acknowledged.lock().unwrap().is_empty());
        assert_eq!(rig.agents.state(&torn), Some(State::Exited), "its disk is kept");
    }
    // Somebody has decided.
    rig.records.set(&torn, Stopped, 2);
    rig.pass.run(&rig.host).await.unwrap();
    assert_eq!(rig.agents.state(&torn), None);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_takes_too_long_is_cut_off_and_the_next_one_goes_on() {
    let rig = rig();
    let id = rig.records.put(&rig.host, Missing, 1);
    rig.agents.put(&id, State::Paused, DISCONNECTED, 1);
    rig.agents.hanging.lock().unwrap().insert(rig.host.clone());
    let began = tokio::time::Instant::now();
    assert!(matches!(rig.pass.look(&rig.host).await, Err(PassError::Late)));
    assert_eq!(began.elapsed().as_secs(), 40);
    assert_eq!(rig.records.row(&id).status, Resuming, "what was ordered may still come");

    rig.agents.hanging.lock().unwrap().clear();
    rig.clock.advance(LIMIT);
    assert_eq!(rig.pass.look(&rig.host).await.unwrap().resumed, 1);
    assert_eq!(rig.records.row(&id).status, Running);
    assert_eq!(rig.agents.state(&id), Some(State::Running));
}

#[tokio::test]
async fn an_image_that_is_in_use_keeps_no_other_from_being_deleted() {
    let rig = rig();
    rig.records.deletions.lock().unwrap().extend(["a".to_owned(), "b".to_owned(), "c".to_owned()]);
    rig.agents.images_in_use.lock().unwrap().extend(["a".to_owned()]);
    rig.pass.run(&rig.host).await.unwrap();
    assert_eq!(*rig.agents.deleted_images.lock().unwrap(), ["b", "c"]);
    assert_eq!(*rig.records.deletions.lock().unwrap(), ["a"]);
}

#[tokio::test]
async fn an_orphan_is_destroyed_at_once_when_control_stopped_it_and_after_the_grace_when_control_never_knew_it() {
    let rig = rig();
    let stopped = rig.records.put(&rig.host, Stopped, 4);
    rig.agents.put(&stopped, State::Running, "", 3);
    let moved = rig.records.put(&HostId::new(), Running, 2);
    rig.agents.put(&moved, State::Paused, "user", 1);
    let unknown = SandboxId::new();
    rig.agents.put(&unknown, State::Running, "", 9);
    rig.pass.run(&rig.host).await.unwrap();
    assert_eq!(rig.agents.state(&stopped), None);
    assert_eq!(rig.agents.state(&moved), None);
    assert_eq!(rig.records.row(&moved).status, Running, "where it belongs it lives on");
    rig.clock.advance(LIMIT - Duration::from_secs(1));
    rig.pass.run(&rig.host).await.unwrap();
    assert_eq!(rig.agents.state(&unknown), Some(State::Running));
    rig.clock.advance(Duration::from_secs(1));
    rig.pass.run(&rig.host).await.unwrap();
    assert_eq!(rig.agents.state(&unknown), None);
    assert_eq!(rig.records.orphans.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_resume_whose_answer_is_lost_is_found_out_later() {
    let rig = rig();
    let id = rig.records.put(&rig.host, Missing, 1);
    rig.agents.put(&id, State::Paused, DISCONNECTED, 1);
    rig.agents.mute.store(true, Ordering::SeqCst);
    rig.pass.run(&rig.host).await.unwrap();
    assert_eq!(rig.records.row(&id).status, Resuming);
    rig.clock.advance(LIMIT);
    rig.pass.run(&rig.host).await.unwrap();
    assert_eq!(rig.records.row(&id).status, Running);
}

#[tokio::test]
async fn an_unreachable_host_changes_nothing() {
    let rig = rig();
    let id = rig.records.put(&rig.host, Running, 1);
    rig.agents.reachable.store(false, Ordering::SeqCst);
    assert!(rig.pass.run(&rig.host).await.is_err());
    assert_eq!(rig.records.row(&id).status, Running);
}

#[tokio::test]
async fn images_that_were_to_be_deleted_are_deleted_when_the_host_is_back() {
    let rig = rig();
    rig.records.deletions.lock().unwrap().extend(["a".to_owned(), "b".to_owned()]);
    rig.pass.run(&rig.host).await.unwrap();
    assert_eq!(*rig.agents.deleted_images.lock().unwrap(), ["a", "b"]);
    assert!(rig.records.deletions.lock().unwrap().is_empty());
}
