//! Every fault point of a sandbox's life, of layers, of moves, of hosts and of what is pushed ([`registry`]), fired once: the
//! agent or control dies at that very place, starts again, and everything is before or after. Sandboxes are whole, with
//! their files; nothing that is half written is ever served; and in the end nothing is left.
//!
//! Here and not among the other tests of the real binary, because it takes a binary with fault points.
#![cfg(feature = "failpoints")]

mod machines;
mod power;
mod qemu;
mod registry;
mod rig;

use std::time::Duration;

use atoll_model::api::hosts::CreateHostRequest;
use atoll_model::api::sandboxes::{CreateSandboxRequest, ForkRequest, SetNetworkRequest};
use atoll_model::api::snapshots::CreateSnapshotRequest;
use atoll_model::{HostStatus, SandboxStatus};
use atoll_tests::cluster::{Cluster, Database, Reach, tiny};
use atoll_tests::{Atoll, until};

use rig::Deed::{Build, Create, Destroy, Fetch, Fork, Pause, Resume, Snapshot, Store};
use rig::Victim::{Agent, Control};
use rig::{Deed, Rig, Victim, arm, layers_below, revive};

const AGENTS: [(Victim, &str, Deed); 19] = [
    (Agent(0), "agent.create.after_slot", Create),
    (Agent(0), "agent.create.after_record", Create),
    (Agent(0), "agent.create.after_volume", Create),
    (Agent(0), "agent.create.after_launch", Create),
    (Agent(0), "agent.create.after_running", Create),
    (Agent(0), "agent.pause.after_record", Pause),
    (Agent(0), "agent.pause.after_stop", Pause),
    (Agent(0), "agent.resume.before_start", Resume),
    (Agent(0), "agent.resume.before_record", Resume),
    (Agent(0), "agent.snapshot.before", Snapshot),
    (Agent(0), "agent.snapshot.after", Fork),
    (Agent(0), "agent.destroy.before_kill", Destroy),
    (Agent(0), "agent.destroy.after_answer", Destroy),
    (Agent(0), "agent.destroy.after_cgroups", Destroy),
    (Agent(0), "agent.destroy.after_volume", Destroy),
    (Agent(0), "agent.pack.before_persist", Store),
    (Agent(0), "agent.pack.after_persist", Store),
    (Agent(1), "agent.fetch.halfway", Fetch),
    (Agent(1), "agent.fetch.before_persist", Fetch),
];

const CONTROLS: [(Victim, &str, Deed); 20] = [
    (Control, "control::create::before_host", Create),
    (Control, "control::create::after_host", Create),
    (Control, "control::pause::before_host", Pause),
    (Control, "control::pause::after_host", Pause),
    (Control, "control::resume::before_host", Resume),
    (Control, "control::resume::after_host", Resume),
    (Control, "control::snapshot::before_host", Snapshot),
    (Control, "control::snapshot::after_host", Snapshot),
    (Control, "control::snapshot::after_row", Snapshot),
    (Control, "control::fork::after_rows", Fork),
    (Control, "control::build::after_step", Build),
    (Control, "control::build::before_commit", Build),
    (Control, "control::build::after_commit", Build),
    (Control, "control::store::after_pack", Store),
    (Control, "control::store::after_digest", Store),
    (Control, "control::store::halfway", Store),
    (Control, "control::objects::before_keep", Store),
    (Control, "control::objects::after_keep", Store),
    (Control, "control::store::after_fetch", Store),
    (Agent(1), "agent.fetch.after_persist", Fetch),
];

/// Who dies where, on the way from one host to the other. 0 is the one that is drained, 1 where it goes.
const REGISTER: [&str; 3] =
    ["hosts::register::consumed", "hosts::register::before_commit", "hosts::register::after_commit"];
const REFRESH: [&str; 3] = ["hosts::refresh::issued", "hosts::refresh::before_commit", "hosts::refresh::after_commit"];
const AGENT_ENROLS: [&str; 3] = ["agent.enrol.before_request", "agent.enrol.before_save", "agent.enrol.after_save"];
const AGENT_RENEWS: [&str; 2] = ["agent.refresh.before_save", "agent.refresh.after_save"];
const DELETE: [&str; 4] =
    ["hosts::delete::marked", "hosts::delete::destroyed", "hosts::delete::terminated", "hosts::delete::before_commit"];

const MOVES: [(Victim, &str); 12] = [
    (Control, "control::move::before_store"),
    (Control, "control::store::halfway"),
    (Control, "control::move::before_aim"),
    (Control, "control::move::before_host"),
    (Control, "control::move::after_host"),
    (Control, "control::move::before_commit"),
    (Control, "control::move::after_row"),
    (Agent(1), "agent.at_rest.after_record"),
    (Agent(1), "agent.at_rest.after_volume"),
    (Agent(1), "agent.at_rest.after_written"),
    (Agent(0), "agent.pack.before_persist"),
    (Agent(0), "agent.destroy.after_cgroups"),
];

/// As many snapshots, each of a sandbox of the one before, as make a stack of layers that control packs into one.
const TALL: usize = 8;

/// Everything is before or after, and nothing half written.
async fn strike_all(database: Database, faults: &[(Victim, &'static str, Deed)]) {
    let mut rig = Rig::start(database).await;
    for fault in faults {
        rig.strike(*fault).await;
    }
    rig.end().await;
}

#[tokio::test]
async fn an_agent_that_dies_at_any_point_of_a_life_leaves_it_before_or_after() {
    let lives: Vec<_> = AGENTS.into_iter().filter(|(.., deed)| matches!(deed, Create | Pause | Resume)).collect();
    strike_all(Database::Sqlite, &lives).await;
}

#[tokio::test]
async fn an_agent_that_dies_at_any_point_of_keeping_or_ending_leaves_it_before_or_after() {
    let others: Vec<_> = AGENTS.into_iter().filter(|(.., deed)| !matches!(deed, Create | Pause | Resume)).collect();
    strike_all(Database::Sqlite, &others).await;
}

#[tokio::test]
async fn a_control_plane_that_dies_at_any_point_leaves_everything_before_or_after() {
    strike_all(Database::Postgres, &CONTROLS).await;
}

#[tokio::test]
async fn a_control_plane_that_dies_while_a_tall_stack_is_packed_packs_it_later() {
    let mut rig = Rig::start(Database::Sqlite).await;
    for floor in 0..TALL {
        let name = format!("floor-{floor}");
        rig.cluster.sh(&rig.id, &format!("echo {floor} > ~/floor-{floor}; sync")).await;
        let request = CreateSnapshotRequest { sandbox_id: rig.id.clone(), name: Some(name.clone()), memory: None };
        rig.cluster.client.create_snapshot(&request, false).await.expect("a snapshot");
        // What isn't stored yet is begun as a clone, which stands on nothing.
        until("it to be stored", || async {
            rig.cluster.client.get_snapshot(&name).await.ok().filter(|snapshot| snapshot.stored).map(drop)
        })
        .await;
        // Each on another host than the one before, so that what it stands on was made elsewhere.
        let host = rig.cluster.sandbox(&rig.id).await.host_id.expect("a host");
        rig.cluster.admin.drain_host(&host, true).await.expect("closing its host");
        let request = CreateSandboxRequest { template: Some(name.clone()), ..tiny() };
        let made = until("a sandbox of it", || async { rig.cluster.client.create_sandbox(&request).await.ok() }).await;
        let above = made.id;
        rig.cluster.admin.drain_host(&host, false).await.expect("opening its host");
        rig.cluster.client.destroy_sandbox(&rig.id).await.expect("destroying");
        rig.cluster.client.delete_snapshot(&name).await.expect("deleting");
        rig.id = above;
    }
    for point in ["control::squash::before_pack", "control::squash::after_pack"] {
        rig.strike((Control, point, Fork)).await;
    }
    // Now nobody dies of it.
    arm(&mut rig.cluster, Control, "nowhere");
    let one = ForkRequest { count: Some(1), ..ForkRequest::default() };
    let parent = rig.id.clone();
    let child = until("a fork that stands on what was packed", || async {
        let forked = rig.cluster.client.fork_sandbox(&parent, &one).await.ok()?;
        let child = forked.items.into_iter().find_map(|each| each.sandbox)?.id;
        let below = layers_below(&rig.cluster, &child);
        // Its parent's own files, and all that is below them.
        (below == 2).then_some(child)
    })
    .await;
    let read = rig
        .cluster
        .sh(&child, "cat ~/floor-* | tr -d '\\n'; cat ~/file; sha256sum -c --status ~/sum && echo same")
        .await;
    assert_eq!(read, "01234567here\nsame\n");
    rig.check("nowhere").await;
    rig.end().await;
}

#[tokio::test]
async fn whoever_dies_while_a_sandbox_moves_it_is_at_one_place_whole() {
    let mut rig = Rig::start(Database::Sqlite).await;
    for (round, (victim, point)) in MOVES.into_iter().enumerate() {
        let before = std::time::Instant::now();
        // There and back again.
        let (from, to) = (round % 2, (round + 1) % 2);
        let victim = match victim {
            Agent(0) => Agent(from),
            Agent(_) => Agent(to),
            Control => Control,
        };
        rig.cluster.client.pause_sandbox(&rig.id).await.expect("pausing");
        arm(&mut rig.cluster, victim, point);
        let (admin, host) = (rig.cluster.admin_of(0), rig.cluster.hosts[from].id.clone());
        let nudging = tokio::spawn(async move {
            loop {
                let _ = admin.drain_host(&host, true).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        revive(&mut rig.cluster, victim, point).await;
        rig.moves(from, to, point).await;
        nudging.abort();
        rig.open(from).await;
        println!("{point}: {:?}", before.elapsed());
    }
    rig.end().await;
}

#[tokio::test]
async fn a_control_plane_that_dies_while_a_host_enrols_renews_or_goes_leaves_it_before_or_after() {
    atoll_tests::atoll::use_binary(env!("CARGO_BIN_EXE_atoll"));
    let mut cluster = Cluster::start_on(Database::Postgres, 1, 1, &[("ATOLL_ACCESS_TOKEN_TTL", "4s")]).await;
    let kept = cluster.sandbox_on(0).await;
    let process = cluster.long_process(&kept).await;

    // A token lets its host in once, whatever became of the answer.
    for point in REGISTER {
        let made = cluster.admin.create_host(&CreateHostRequest::default()).await.expect("making a host");
        arm(&mut cluster, Control, point);
        let number = cluster.new_agent(Reach::Address, made.host.id.clone());
        let enrol = [("ATOLL_REGISTER", made.registration_token.as_str())];
        cluster.hosts[number].node.run(&enrol);
        revive(&mut cluster, Control, point).await;
        let (admin, node) = (cluster.admin_of(0), tokio::sync::Mutex::new(&mut cluster.hosts[number].node));
        until(&format!("the host to be in after {point}"), || async {
            // As systemd does.
            let mut node = node.lock().await;
            if !node.is_running() {
                node.run(&enrol);
            }
            admin.get_host(&made.host.id).await.ok().filter(|host| host.status == HostStatus::Online).map(drop)
        })
        .await;
    }

    for point in AGENT_ENROLS {
        let made = cluster.admin.create_host(&CreateHostRequest::default()).await.expect("making a host");
        let number = cluster.new_agent(Reach::Address, made.host.id.clone());
        let (token, fault) = (made.registration_token.as_str(), format!("{point}=return(abort)"));
        cluster.hosts[number].node.run(&[("ATOLL_REGISTER", token), ("FAILPOINTS", &fault)]);
        cluster.hosts[number].node.ended().await;
        cluster.hosts[number].node.run(&[("ATOLL_REGISTER", token), ("FAILPOINTS", "")]);
        cluster.wait_host(number, HostStatus::Online).await;
    }

    // Nobody is locked out by a renewal that got lost.
    let agents = AGENT_RENEWS.map(|point| (Agent(0), point));
    for (victim, point) in REFRESH.map(|point| (Control, point)).into_iter().chain(agents) {
        arm(&mut cluster, victim, point);
        revive(&mut cluster, victim, point).await;
        let revived = chrono::Utc::now();
        for number in 0..cluster.hosts.len() {
            until(&format!("host {number} to be heard with renewed credentials after {point}"), || async {
                let host = cluster.admin.get_host(&cluster.hosts[number].id).await.ok()?;
                (host.last_heartbeat_at? > revived + chrono::TimeDelta::seconds(6)).then_some(())
            })
            .await;
        }
        cluster.wait_sandbox(&kept, SandboxStatus::Running).await;
        assert_eq!(cluster.start_time(&kept, process.0).await, process.1, "{point}");
    }

    // What somebody has begun to delete goes, and leaves nothing.
    let last = cluster.add_host(Reach::Address).await;
    cluster.wait_host(last, HostStatus::Online).await;
    for number in 1..=DELETE.len() {
        cluster.sandbox_on(number).await;
    }
    for (number, point) in (1..).zip(DELETE) {
        let (id, mark) = (cluster.hosts[number].id.clone(), cluster.hosts[number].node.mark());
        arm(&mut cluster, Control, point);
        let (admin, doomed) = (cluster.admin_of(0), id.clone());
        let deleting = tokio::spawn(async move {
            while admin.delete_host(&doomed, true).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        revive(&mut cluster, Control, point).await;
        deleting.abort();
        until(&format!("the host to be gone after {point}"), || async {
            match cluster.admin.get_host(&id).await {
                Ok(_) => None,
                Err(error) => error.to_string().contains("no such host").then_some(()),
            }
        })
        .await;
        cluster.hosts[number].node.ended().await;
        until(&format!("nothing to be left of it: {:?}", mark.left()), || async {
            mark.left().is_empty().then_some(())
        })
        .await;
    }
    assert_eq!(cluster.start_time(&kept, process.0).await, process.1);
}

#[tokio::test]
async fn a_policy_that_its_host_did_not_hear_is_in_force_when_control_is_back() {
    let point = "control::network::after_row";
    let mut rig = Rig::start(Database::Sqlite).await;
    arm(&mut rig.cluster, Control, point);
    let (client, id) = (rig.cluster.client_of(0), rig.id.clone());
    let closed = SetNetworkRequest { internet: Some(false), ..SetNetworkRequest::default() };
    let closing = tokio::spawn(async move {
        while client.set_network(&id, &closed).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    revive(&mut rig.cluster, Control, point).await;
    closing.abort();
    rig.cluster.controls[0].says("its host has heard what a sandbox may reach").await;
    rig.check(point).await;
    rig.end().await;
}

#[tokio::test]
async fn a_first_start_that_dies_with_its_credentials_written_writes_others_that_work() {
    atoll_tests::atoll::use_binary(env!("CARGO_BIN_EXE_atoll"));
    let atoll = Atoll::start_after_dying_at("control::setup::kept").await;
    let (email, password) = atoll.credentials().admin.expect("an admin");
    let admin = atoll.client().signed_in(&email, &password).await.expect("signing in");
    assert!(admin.me().await.expect("who it is").is_admin);
    let made = atoll.sandbox().await;
    assert_eq!(atoll.sh(&made.id, "echo whole").await.stdout, "whole\n");
    atoll.stop_and_check().await;
}

/// The connection to the database breaks at the commit: whether it was made is known to nobody.
#[tokio::test]
async fn a_move_whose_commit_gets_no_answer_ends_with_one_whole_sandbox() {
    let mut rig = Rig::start(Database::Sqlite).await;
    for (round, point) in ["control::move::unanswered", "control::move::before_commit"].into_iter().enumerate() {
        let (from, to) = (round % 2, (round + 1) % 2);
        rig.cluster.client.pause_sandbox(&rig.id).await.expect("pausing");
        let control = &mut rig.cluster.controls[0];
        control.kill_9();
        control.run(&[("FAILPOINTS", &format!("{point}=1*return(lost)"))]);
        until("the host to be closed", || async {
            rig.cluster.admin.drain_host(&rig.cluster.hosts[from].id, true).await.ok()
        })
        .await;
        rig.moves(from, to, point).await;
        let lost = rig.cluster.controls[0].times_said("moving paused sandboxes failed");
        assert_eq!(lost, round + 1, "{point}: no answer was lost");
        rig.open(from).await;
    }
    rig.end().await;
}
