//! Deleting hosts, on both databases.

use std::sync::atomic::Ordering;

use atoll_model::SandboxStatus::{Paused, Running, Stopped};

use super::super::host_deletion::Requester;
use super::super::judge::State;
use super::absence::{deletion, monitor, pass};
use super::memory::MemoryAgents;
use super::sql::rigs;
use crate::audit::{Actor, Origin};
use crate::hosts::tests::crash::cut_off_after;
use crate::hosts::{HostError, store, tombstone};

pub fn requester() -> Requester {
    Requester { actor: Actor::System, origin: Origin::default() }
}

#[tokio::test]
async fn a_host_with_sandboxes_is_not_deleted_and_the_answer_names_them() {
    for rig in rigs().await {
        let agents = MemoryAgents::new();
        let host = rig.online_host().await;
        let paused = rig.sandbox(&host, Paused, 1).await;
        rig.sandbox(&host, Stopped, 1).await;
        let refused = deletion(&rig, &agents).graceful(&host, &requester()).await;
        assert!(
            matches!(&refused, Err(HostError::HasSandboxes(has)) if has.sandboxes == [paused.clone()]),
            "{refused:?}"
        );
        let row = store::get(&rig.db, &host).await.unwrap().unwrap();
        assert!(!row.draining && row.deletion_id.is_none(), "nothing has changed");
        rig.execute("UPDATE sandboxes SET status = 'stopped'").await;
        deletion(&rig, &agents).graceful(&host, &requester()).await.unwrap();
        assert!(store::get(&rig.db, &host).await.unwrap().is_none());
        assert!(tombstone::of_host(&rig.db, &host).await.unwrap().is_some());
        let again = deletion(&rig, &agents).graceful(&host, &requester()).await;
        assert!(matches!(again, Err(HostError::NotFound)));
    }
}

#[tokio::test]
async fn what_lies_on_a_host_alone_is_not_deleted_with_it_unless_forced() {
    for rig in rigs().await {
        let agents = MemoryAgents::new();
        let host = rig.online_host().await;
        let layer = |id: &str, stored: bool, lost: bool| {
            format!(
                "INSERT INTO layers (id, team_id, host_id, byoc, stored, lost, size_bytes, created_at)
                 VALUES ('{id}', 'team-x', '{host}', FALSE, {stored}, {lost}, 1, 1)"
            )
        };
        let holds = |holder: &str, layer: &str| {
            format!("INSERT INTO layer_refs (holder, position, layer_id) VALUES ('{holder}', 0, '{layer}')")
        };
        for (id, stored, lost) in [("layer-a", false, false), ("layer-b", true, false), ("layer-c", false, true)] {
            rig.execute(&layer(id, stored, lost)).await;
        }
        for (holder, layer) in
            [("snap-one", "layer-a"), ("snap-two", "layer-b"), ("tpl-three", "layer-c"), ("sb-gone", "layer-a")]
        {
            rig.execute(&holds(holder, layer)).await;
        }
        let refused = deletion(&rig, &agents).graceful(&host, &requester()).await;
        assert!(
            matches!(&refused, Err(HostError::HasSandboxes(has))
                if has.sandboxes.is_empty() && has.volumes.is_empty() && has.images == ["snap-one"]),
            "{refused:?}"
        );
        rig.execute("UPDATE layers SET stored = TRUE WHERE id = 'layer-a'").await;
        let volume = format!(
            "INSERT INTO volumes (id, team_id, name, mode, size_mb, host_id, created_at)
             SELECT 'vol-bb81tvogz77t8m4b792e', id, 'data', 'shared', 64, '{host}', 1 FROM teams LIMIT 1"
        );
        rig.execute(&volume).await;
        let refused = deletion(&rig, &agents).graceful(&host, &requester()).await;
        assert!(
            matches!(&refused, Err(HostError::HasSandboxes(has)) if has.volumes.len() == 1 && has.images.is_empty()),
            "{refused:?}"
        );
        deletion(&rig, &agents).forced(&host, &requester()).await.unwrap();
        assert!(store::get(&rig.db, &host).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_forced_deletion_destroys_everything_and_leaves_a_tombstone() {
    for rig in rigs().await {
        let agents = MemoryAgents::new();
        let host = rig.online_host().await;
        let mut ids = Vec::new();
        for status in [Running, Paused] {
            let id = rig.sandbox(&host, status, 1).await;
            agents.put(&id, State::Running, "", 1);
            ids.push(id);
        }
        deletion(&rig, &agents).forced(&host, &requester()).await.unwrap();
        assert!(agents.sandboxes.lock().unwrap().is_empty());
        assert!(agents.terminated.load(Ordering::SeqCst));
        for id in &ids {
            let row = rig.row(id).await;
            assert_eq!((row.status, row.reason.as_deref()), (Stopped, Some("host_deleted")));
        }
        assert!(store::get(&rig.db, &host).await.unwrap().is_none());
        assert!(tombstone::of_host(&rig.db, &host).await.unwrap().is_some());
        assert_eq!(rig.count("SELECT COUNT(*) FROM events WHERE type = 'host.deleted'").await, 1);
    }
}

#[tokio::test]
async fn a_host_that_can_not_be_reached_is_deleted_all_the_same() {
    for rig in rigs().await {
        let agents = MemoryAgents::new();
        agents.reachable.store(false, Ordering::SeqCst);
        let host = rig.online_host().await;
        let id = rig.sandbox(&host, Running, 1).await;
        deletion(&rig, &agents).forced(&host, &requester()).await.unwrap();
        assert_eq!(rig.row(&id).await.status, Stopped);
        assert!(tombstone::of_host(&rig.db, &host).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_deletion_that_was_interrupted_is_finished_by_the_monitor() {
    for rig in rigs().await {
        let agents = MemoryAgents::new();
        let host = rig.online_host().await;
        let id = rig.sandbox(&host, Running, 1).await;
        agents.put(&id, State::Running, "", 1);
        // As a crash right after the first step leaves it.
        rig.execute(&format!("UPDATE hosts SET deletion_id = 'd', draining = true WHERE id = '{host}'")).await;
        pass(&monitor(&rig, &agents)).await;
        assert!(store::get(&rig.db, &host).await.unwrap().is_none());
        assert_eq!(tombstone::of_host(&rig.db, &host).await.unwrap().unwrap().deletion_id, "d");
        assert_eq!(agents.state(&id), None);
        assert_eq!(rig.row(&id).await.status, Stopped);
    }
}

#[tokio::test]
async fn a_deletion_that_is_cut_off_anywhere_is_finished_by_the_monitor() {
    for rig in rigs().await {
        for polls in 0.. {
            let agents = MemoryAgents::new();
            let host = rig.online_host().await;
            let id = rig.sandbox(&host, Running, 1).await;
            agents.put_on(&host, &id, State::Running, "");
            let deletion = deletion(&rig, &agents);
            let requester = requester();
            let done = cut_off_after(polls, deletion.forced(&host, &requester)).await;
            // A write that was cut off may still come through by itself a moment later; then the next pass finds it.
            pass(&monitor(&rig, &agents)).await;
            rig.clock.advance(std::time::Duration::from_secs(3600));
            let left = store::get(&rig.db, &host).await.unwrap();
            if left.as_ref().is_some_and(|row| row.deletion_id.is_some()) {
                pass(&monitor(&rig, &agents)).await;
            }
            let begun = left.is_none_or(|row| row.deletion_id.is_some());
            let row = rig.row(&id).await;
            if begun {
                assert!(store::get(&rig.db, &host).await.unwrap().is_none(), "after {polls} polls");
                assert!(tombstone::of_host(&rig.db, &host).await.unwrap().is_some(), "after {polls} polls");
                assert_eq!((row.status, agents.state(&id)), (Stopped, None), "after {polls} polls");
            } else {
                assert_eq!((row.status, agents.state(&id)), (Running, Some(State::Running)), "after {polls} polls");
                rig.execute("DELETE FROM sandboxes").await;
                rig.execute("DELETE FROM hosts").await;
            }
            if let Some(result) = done {
                result.unwrap();
                break;
            }
        }
    }
}
