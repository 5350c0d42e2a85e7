//! The machine of an agent, or of control, loses its power at a fault point: everything on it ends at once, and what the
//! kernel had not given to the disk is lost. It starts again under another boot, and everything is before or after.

use atoll_model::api::sandboxes::CreateSandboxRequest;
use atoll_model::api::snapshots::CreateSnapshotRequest;
use atoll_model::{SandboxId, SandboxStatus};
use atoll_tests::cluster::Cluster;
use atoll_tests::until;

use super::machines::small;
use super::rig::Deed::{Build, Create, Destroy, Fetch, Fork, Pause, Resume, Snapshot, Store};
use super::rig::Victim::{Agent, Control};
use super::rig::{Deed, Rig, Victim, arm, names, revive_after_power_cut};

const HOSTS: [(Victim, &str, Deed); 13] = [
    (Agent(0), "agent.create.after_running", Create),
    (Agent(0), "agent.pause.after_record", Pause),
    (Agent(0), "agent.pause.after_stop", Pause),
    (Agent(0), "agent.resume.before_start", Resume),
    (Agent(0), "agent.resume.before_record", Resume),
    (Agent(0), "agent.snapshot.before", Snapshot),
    (Agent(0), "agent.snapshot.after", Fork),
    (Agent(0), "agent.destroy.after_cgroups", Destroy),
    (Agent(0), "agent.pack.before_persist", Store),
    (Agent(0), "agent.pack.after_persist", Store),
    (Agent(1), "agent.fetch.halfway", Fetch),
    (Agent(1), "agent.fetch.before_persist", Fetch),
    (Agent(1), "agent.fetch.after_persist", Fetch),
];

const CONTROLS: [(Victim, &str, Deed); 14] = [
    (Control, "control::create::after_host", Create),
    (Control, "control::pause::after_host", Pause),
    (Control, "control::resume::after_host", Resume),
    (Control, "control::snapshot::after_host", Snapshot),
    (Control, "control::snapshot::after_row", Snapshot),
    (Control, "control::fork::after_rows", Fork),
    (Control, "control::build::after_step", Build),
    (Control, "control::build::before_commit", Build),
    (Control, "control::build::after_commit", Build),
    (Control, "control::store::after_digest", Store),
    (Control, "control::store::halfway", Store),
    (Control, "control::objects::before_keep", Store),
    (Control, "control::objects::after_keep", Store),
    (Control, "control::store::after_fetch", Store),
];

#[tokio::test]
async fn a_host_that_loses_its_power_at_any_point_leaves_everything_before_or_after() {
    let mut rig = Rig::start_on_disks(2).await;
    for fault in HOSTS {
        rig.strike(fault).await;
    }
    rig.end().await;
}

#[tokio::test]
async fn a_control_plane_that_loses_its_power_at_any_point_leaves_everything_before_or_after() {
    let mut rig = Rig::start_on_disks(1).await;
    for fault in CONTROLS {
        rig.strike(fault).await;
    }
    rig.end().await;
}

/// What a machine has kept when its host has power again: none says that it ran, and starts from its files.
const MACHINES: [(&str, Deed, Option<&str>); 9] = [
    ("vm::pause::stopped", Pause, Some("files")),
    ("vm::pause::synced", Pause, Some("files")),
    ("vm::pause::kept", Pause, Some("memory")),
    ("agent.pause.after_stop", Pause, Some("memory")),
    ("agent.resume.before_start", Resume, Some("memory")),
    ("vm::resume::loaded", Resume, Some("memory")),
    ("vm::resume::forgotten", Resume, Some("files")),
    ("agent.resume.before_record", Resume, Some("files")),
    ("vm::keep::made", Snapshot, None),
];

const MACHINES_ENV: [(&str, &str); 2] = [("ATOLL_DRIVER", "vm"), ("ATOLL_POOL_SIZE", "4G")];
const LOOK: &str = "cat file; sha256sum -c --status sum && echo same";

#[tokio::test]
async fn a_machine_whose_host_loses_its_power_has_its_memory_or_its_files() {
    atoll_tests::atoll::use_binary(env!("CARGO_BIN_EXE_atoll"));
    let mut cluster = Cluster::start_on_disks(1, &MACHINES_ENV).await;
    let id = until("a machine", || async { cluster.client.create_sandbox(&small()).await.ok() }).await.id;
    // Nobody has it write that out: a pause does.
    cluster.sh(&id, "echo here > file; head -c 2M /dev/urandom > big; sha256sum big > sum").await;
    cluster.client.pause_sandbox(&id).await.expect("pausing");
    for (point, deed, kept) in MACHINES {
        let before = std::time::Instant::now();
        if deed != Resume {
            until("it to go on", || async { cluster.client.resume_sandbox(&id).await.ok() }).await;
        }
        // It is younger than what a pause keeps.
        let process = match deed {
            Resume => paused_with_process(&cluster, &id).await,
            _ => cluster.long_process(&id).await,
        };
        arm(&mut cluster, Agent(0), point);
        let client = cluster.client_of(0);
        let (of, name) = (id.clone(), format!("kept-{}", point.replace(':', "")));
        let doing = tokio::spawn(async move {
            loop {
                match deed {
                    Pause => drop(client.pause_sandbox(&of).await),
                    Resume => drop(client.resume_sandbox(&of).await),
                    _ => {
                        let request = CreateSnapshotRequest {
                            sandbox_id: of.clone(),
                            name: Some(name.clone()),
                            memory: Some(true),
                        };
                        drop(client.create_snapshot(&request, false).await);
                    }
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        });
        revive_after_power_cut(&mut cluster, Agent(0), point).await;
        doing.abort();
        let found = until(&format!("it to be something whole after {point}"), || async {
            let sandbox = cluster.client.get_sandbox(&id).await.ok()?;
            match sandbox.status {
                SandboxStatus::Running => Some("running".to_owned()),
                SandboxStatus::Paused => cluster.client.resume_sandbox(&id).await.ok()?.kept,
                _ => None,
            }
        })
        .await;
        let read = until(&format!("its files after {point}"), || async {
            cluster.client.exec(&id, &atoll_client::command("/bin/bash", ["-c", LOOK])).await.ok()
        })
        .await;
        assert_eq!(read.stdout, "here\nsame\n", "{point}");
        let there = cluster.start_time(&id, process.0).await == process.1;
        assert_eq!(there, kept == Some("memory"), "{point}: {found}");
        // Control, which has decided so, may have had it resumed before anybody asked.
        assert!(found == "running" || Some(found.as_str()) == kept, "{point}: {found}");
        check_snapshots(&cluster, point).await;
        check_host(&cluster, &id, point).await;
        cluster.client.pause_sandbox(&id).await.expect("pausing");
        println!("{point}: {:?}", before.elapsed());
    }
    cluster.client.destroy_sandbox(&id).await.expect("destroying");
    let data = cluster.hosts[0].node.data_dir();
    until("nothing to be left of it", || async {
        let home = names(&data.join("sandboxes"));
        // A layer that nobody has heard of any more is control's to collect, half an hour later.
        let memories = names(&data.join("memories"));
        (home.is_empty() && memories.is_empty()).then_some(())
    })
    .await;
}

/// Resumes it, gives it a process, and pauses it again.
async fn paused_with_process(cluster: &Cluster, id: &SandboxId) -> (u32, String) {
    cluster.client.resume_sandbox(id).await.expect("resuming");
    let process = cluster.long_process(id).await;
    cluster.client.pause_sandbox(id).await.expect("pausing");
    process
}

/// A snapshot that is listed is whole: with memory when it says so.
async fn check_snapshots(cluster: &Cluster, point: &str) {
    for snapshot in cluster.client.list_snapshots(None).await.expect("snapshots").items {
        let from = CreateSandboxRequest { template: Some(snapshot.name.clone()), ..CreateSandboxRequest::default() };
        let made = until(&format!("a sandbox of {} after {point}", snapshot.name), || async {
            cluster.client.create_sandbox(&from).await.inspect_err(|error| println!("{point}: {error}")).ok()
        })
        .await;
        assert_eq!(cluster.sh(&made.id, LOOK).await, "here\nsame\n", "{point}");
        cluster.client.destroy_sandbox(&made.id).await.expect("destroying");
        cluster.client.delete_snapshot(&snapshot.name).await.expect("deleting");
    }
}

/// Nothing is there but this sandbox, and no draft of anything.
async fn check_host(cluster: &Cluster, id: &SandboxId, point: &str) {
    let data = cluster.hosts[0].node.data_dir();
    until(&format!("one sandbox on the host after {point}"), || async {
        let mut disks = names(&data.join("pool"));
        disks.retain(|name| name.parse::<SandboxId>().is_ok());
        let home = names(&data.join("sandboxes").join(id.as_str()));
        let drafts = home.iter().any(|name| name.ends_with(".new"));
        let one = [id.to_string()];
        (names(&data.join("sandboxes")) == one && disks == one && !drafts).then_some(())
    })
    .await;
}
