//! Every fault point of a sandbox's life, of layers, of moves and of hosts, fired once: the agent or control dies at that very place,
//! starts again, and everything is before or after. Sandboxes are whole, with their files; nothing that is half written is
//! ever served; and in the end nothing is left.
//!
//! Here and not among the other tests of the real binary, because it takes a binary with fault points.
#![cfg(feature = "failpoints")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use atoll_client::{ListSandboxes, command};
use atoll_model::api::hosts::CreateHostRequest;
use atoll_model::api::sandboxes::{CreateSandboxRequest, ForkRequest, SetNetworkRequest};
use atoll_model::api::snapshots::CreateSnapshotRequest;
use atoll_model::api::templates::{BuildStatus, CreateTemplateRequest};
use atoll_model::{HostStatus, SandboxId, SandboxStatus};
use atoll_tests::cluster::{Cluster, Database, Node, Reach, tiny};
use atoll_tests::skopeo::{Skopeo, image, text};
use atoll_tests::{Atoll, until};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Control,
    Agent(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Create,
    Pause,
    Resume,
    Snapshot,
    Fork,
    Destroy,
    Build,
    /// A snapshot, until it is stored.
    Store,
    /// A sandbox on the second host, of what lies in the object store alone.
    Fetch,
}

use Deed::{Build, Create, Destroy, Fetch, Fork, Pause, Resume, Snapshot, Store};
use Victim::{Agent, Control};

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

fn node(cluster: &mut Cluster, victim: Victim) -> &mut Node {
    match victim {
        Control => &mut cluster.controls[0],
        Agent(number) => &mut cluster.hosts[number].node,
    }
}

/// Starts the victim again, to die at this point.
fn arm(cluster: &mut Cluster, victim: Victim, point: &str) {
    let node = node(cluster, victim);
    node.kill_9();
    node.run(&[("FAILPOINTS", &format!("{point}=return(abort)"))]);
}

/// Waits for its death, and starts it as it always was.
async fn revive(cluster: &mut Cluster, victim: Victim, point: &str) {
    let node = node(cluster, victim);
    let died = tokio::time::timeout(Duration::from_secs(60), node.ended()).await;
    died.unwrap_or_else(|_| panic!("nobody died at {point}"));
    node.run(&[("FAILPOINTS", "")]);
}

struct Rig {
    cluster: Cluster,
    /// Lives through all of it.
    id: SandboxId,
    round: usize,
}

impl Rig {
    async fn start(database: Database) -> Self {
        atoll_tests::atoll::use_binary(env!("CARGO_BIN_EXE_atoll"));
        let cluster = Cluster::start_on(database, 1, 2, &[]).await;
        let id = cluster.sandbox_on(0).await;
        cluster.sh(&id, "echo here > ~/file; head -c 2M /dev/urandom > ~/big; sha256sum ~/big > ~/sum; sync").await;
        Self { cluster, id, round: 0 }
    }

    /// Again and again, until somebody dies of it.
    async fn strike(&mut self, (victim, point, deed): (Victim, &'static str, Deed)) {
        let before = std::time::Instant::now();
        self.round += 1;
        if deed == Resume {
            until("it to be paused", || async {
                let _ = self.cluster.client.pause_sandbox(&self.id).await;
                (self.cluster.sandbox(&self.id).await.status == SandboxStatus::Paused).then_some(())
            })
            .await;
        }
        // One to go, or to be made somewhere else.
        let doomed = if deed == Destroy { Some(self.cluster.sandbox_on(0).await) } else { None };
        if deed == Fetch {
            self.store_a_snapshot().await;
        }
        arm(&mut self.cluster, victim, point);
        let (client, id, round) = (self.cluster.client_of(0), self.id.clone(), self.round);
        let doing = tokio::spawn(async move {
            for attempt in 0.. {
                do_once(&client, &id, deed, doomed.as_ref(), &format!("x-{round}-{attempt}")).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        revive(&mut self.cluster, victim, point).await;
        doing.abort();
        self.check(point).await;
        println!("{point}: {:?}", before.elapsed());
    }

    async fn store_a_snapshot(&self) {
        let name = format!("fetched-{}", self.round);
        // Of files that no host has seen: what is the same has the same digest, and is there already.
        self.cluster.sh(&self.id, &format!("echo {name} > ~/round; sync")).await;
        let request = CreateSnapshotRequest { sandbox_id: self.id.clone(), name: Some(name.clone()), memory: None };
        until("a snapshot", || async { self.cluster.client.create_snapshot(&request, true).await.ok() }).await;
        until("it to be stored", || async {
            self.cluster.client.get_snapshot(&name).await.ok().filter(|snapshot| snapshot.stored).map(drop)
        })
        .await;
        until("the first host to be closed", || async {
            self.cluster.admin.drain_host(&self.cluster.hosts[0].id, true).await.ok()
        })
        .await;
    }

    /// Everything is something whole, and there is nothing that nobody knows of.
    async fn check(&self, point: &str) {
        let (cluster, client) = (&self.cluster, &self.cluster.client);
        self.open(0).await;
        let settled = until(&format!("every sandbox to be something whole after {point}"), || async {
            let all = client.list_sandboxes(&ListSandboxes::default()).await.ok()?.items;
            // What was not there yet, and whose maker has died, is said to be in error.
            let whole =
                |status| matches!(status, SandboxStatus::Running | SandboxStatus::Paused | SandboxStatus::Error);
            all.iter().all(|sandbox| whole(sandbox.status)).then_some(all)
        })
        .await;
        if settled.iter().any(|it| it.id == self.id && it.status == SandboxStatus::Paused) {
            until("it to go on", || async { client.resume_sandbox(&self.id).await.ok() }).await;
        }
        for sandbox in &settled {
            if sandbox.status == SandboxStatus::Error {
                assert_ne!(sandbox.id, self.id, "{point}: {sandbox:?}");
                until("it to be destroyed", || async { client.destroy_sandbox(&sandbox.id).await.ok() }).await;
                continue;
            }
            until(&format!("{} to have its files after {point}", sandbox.id), || async {
                // Nobody waited for its creation any more, so control has destroyed it.
                if sandbox.id != self.id && cluster.sandbox(&sandbox.id).await.status == SandboxStatus::Stopped {
                    return Some(());
                }
                if sandbox.status == SandboxStatus::Paused && sandbox.id != self.id {
                    let _ = client.resume_sandbox(&sandbox.id).await;
                }
                let script =
                    "if [ -e ~/file ]; then cat ~/file; sha256sum -c --status ~/sum && echo same; else echo new; fi";
                let answer = client.exec(&sandbox.id, &command("/bin/bash", ["-c", script])).await.ok()?;
                assert!(
                    answer.stdout == "here\nsame\n" || answer.stdout == "new\n" && sandbox.id != self.id,
                    "{answer:?}"
                );
                Some(())
            })
            .await;
            if sandbox.id != self.id {
                until("a sandbox to be destroyed", || async { client.destroy_sandbox(&sandbox.id).await.ok() }).await;
            }
        }
        // Snapshots that are listed are whole, wherever a sandbox of theirs is made.
        for snapshot in client.list_snapshots(None).await.expect("snapshots").items {
            let request = CreateSandboxRequest { template: Some(snapshot.name.clone()), ..tiny() };
            let made = until(&format!("a sandbox of {} after {point}", snapshot.name), || async {
                client.create_sandbox(&request).await.inspect_err(|error| println!("{point}: {error}")).ok()
            })
            .await;
            let check = command("/bin/bash", ["-c", "cat ~/file; sha256sum -c --status ~/sum && echo same"]);
            let answer = client.exec(&made.id, &check).await.expect("exec");
            assert_eq!(answer.stdout, "here\nsame\n", "{point}");
            client.destroy_sandbox(&made.id).await.expect("destroying");
            client.delete_snapshot(&snapshot.name).await.expect("deleting");
        }
        for template in client.list_templates(None).await.expect("templates").items {
            if template.name.starts_with("x-") {
                until("a template to be deleted", || async {
                    let deleted = client.delete_template(&template.name).await;
                    deleted.inspect_err(|error| println!("{point}: {}: {error}", template.name)).ok()
                })
                .await;
            }
        }
        until(&format!("the hosts to have one sandbox in all after {point}"), || async {
            let known = BTreeSet::from([self.id.to_string()]);
            let there: BTreeSet<_> =
                cluster.hosts.iter().flat_map(|host| names(&host.node.data_dir().join("sandboxes"))).collect();
            let volumes: BTreeSet<_> = cluster.hosts.iter().flat_map(|host| volumes(&host.node.data_dir())).collect();
            (there == known && volumes == known).then_some(())
        })
        .await;
    }

    /// It comes from one host to the other, paused; there is one copy of it then, which goes on with its files.
    async fn moves(&self, from: usize, to: usize, point: &str) {
        let there = &self.cluster.hosts[to].id;
        until(&format!("it to have moved although {point} was hit"), || async {
            let sandbox = self.cluster.client.get_sandbox(&self.id).await.ok()?;
            assert_eq!(sandbox.status, SandboxStatus::Paused, "{point}");
            (sandbox.host_id.as_ref() == Some(there)).then_some(())
        })
        .await;
        until(&format!("one copy of it after {point}"), || async {
            let known = vec![self.id.to_string()];
            let at = |number: usize| self.cluster.hosts[number].node.data_dir();
            let gone = names(&at(from).join("sandboxes")).is_empty() && volumes(&at(from)).is_empty();
            let is_there = names(&at(to).join("sandboxes")) == known && volumes(&at(to)) == known;
            (gone && is_there).then_some(())
        })
        .await;
        let resumed = until("it to go on", || async { self.cluster.client.resume_sandbox(&self.id).await.ok() }).await;
        assert_eq!(resumed.kept.as_deref(), Some("files"), "{point}");
        let read = self.cluster.sh(&self.id, "cat ~/file; sha256sum -c --status ~/sum && echo same").await;
        assert_eq!(read, "here\nsame\n", "{point}");
    }

    /// A host takes new ones again.
    async fn open(&self, number: usize) {
        until("the host to be open", || async {
            self.cluster.admin.drain_host(&self.cluster.hosts[number].id, false).await.ok()
        })
        .await;
    }

    /// With the last sandbox everything goes.
    async fn end(mut self) {
        until("the last to be destroyed", || async { self.cluster.client.destroy_sandbox(&self.id).await.ok() }).await;
        let objects = names(&self.cluster.controls[0].data_dir().join("objects"));
        assert!(!objects.iter().any(|name| name.starts_with(".draft-")), "{objects:?}");
        for number in 0..self.cluster.hosts.len() {
            let data = self.cluster.hosts[number].node.data_dir();
            for below in ["images", "fetched"] {
                let left = names(&data.join(below));
                assert!(!left.iter().any(|name| name.starts_with(".fetching-")), "{left:?}");
            }
            let mark = self.cluster.hosts[number].node.mark();
            until("its sandboxes to be gone", || async { mark.sandboxes().is_empty().then_some(()) }).await;
            until("its records to be gone", || async { names(&data.join("sandboxes")).is_empty().then_some(()) }).await;
            self.cluster.hosts[number].node.terminate().await;
            until(&format!("nothing to be left of a host: {:?}", mark.left()), || async {
                mark.left().is_empty().then_some(())
            })
            .await;
        }
    }
}

async fn do_once(client: &atoll_client::Client, id: &SandboxId, deed: Deed, doomed: Option<&SandboxId>, name: &str) {
    let snapshot = CreateSnapshotRequest { sandbox_id: id.clone(), name: Some(name.to_owned()), memory: None };
    match deed {
        Create => drop(client.create_sandbox(&tiny()).await),
        Pause => drop(client.pause_sandbox(id).await),
        Resume => drop(client.resume_sandbox(id).await),
        Snapshot => drop(client.create_snapshot(&snapshot, false).await),
        Fork => drop(client.fork_sandbox(id, &ForkRequest { count: Some(3), ..ForkRequest::default() }).await),
        Destroy => {
            if let Some(doomed) = doomed {
                drop(client.destroy_sandbox(doomed).await);
            }
        }
        Build => {
            let recipe = Some("FROM base\nRUN echo one > /srv/one\nRUN echo two > /srv/two\n".to_owned());
            let request = CreateTemplateRequest { name: name.to_owned(), recipe, ..Default::default() };
            let Ok(started) = client.build_template(&request).await else { return };
            loop {
                match client.get_build(started.template.id.as_str(), &started.build.id).await {
                    Ok(build) if matches!(build.status, BuildStatus::Waiting | BuildStatus::Building) => {}
                    _ => return,
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Store => {
            if client.create_snapshot(&snapshot, false).await.is_err() {
                return;
            }
            while let Ok(snapshot) = client.get_snapshot(name).await {
                if snapshot.stored || snapshot.problem.is_some() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Fetch => {
            let Ok(snapshots) = client.list_snapshots(None).await else { return };
            let Some(fetched) = snapshots.items.iter().find(|it| it.name.starts_with("fetched-")) else { return };
            let request = CreateSandboxRequest { template: Some(fetched.name.clone()), ..tiny() };
            drop(client.create_sandbox(&request).await);
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// How many layers its host has mounted below a sandbox, its template apart.
fn layers_below(cluster: &Cluster, id: &SandboxId) -> usize {
    let record = cluster.hosts.iter().find_map(|host| {
        std::fs::read(host.node.data_dir().join("sandboxes").join(id.as_str()).join("record.json")).ok()
    });
    let record: serde_json::Value = serde_json::from_slice(&record.expect("a record")).expect("JSON");
    record["spec"]["layers"].as_array().map_or(0, Vec::len)
}

/// Disks of sandboxes in a host's pool.
fn volumes(data: &Path) -> Vec<String> {
    let mut names = names(&data.join("pool"));
    names.retain(|name| name.parse::<SandboxId>().is_ok());
    names
}

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

/// What had arrived is there or is not; the client sends the image again, and it is whole.
#[tokio::test]
async fn a_control_plane_that_dies_while_an_image_is_pushed_takes_it_at_the_next_attempt() {
    atoll_tests::atoll::use_binary(env!("CARGO_BIN_EXE_atoll"));
    for point in ["control::registry::after_part", "control::registry::after_blob"] {
        // In the middle: one of the image's three blobs has come.
        let fault = format!("{point}=1*off->return(abort)");
        let mut atoll = Atoll::start_with(&[], &[("FAILPOINTS", &fault)]).await;
        let scratch = atoll.scratch();
        let image = image(&scratch);
        let skopeo = Skopeo { atoll: &atoll, scratch: &scratch };
        skopeo.sign_in();
        let to = format!("docker://{}/team/app:1", skopeo.host());
        let pushed = skopeo.run(&["copy", "--quiet", "--dest-tls-verify=false", &image, &to]);
        assert!(!pushed.status.success(), "{point}: {}", atoll.log());
        atoll.dies().await;
        atoll.unset("FAILPOINTS");
        atoll.start_again().await;
        let skopeo = Skopeo { atoll: &atoll, scratch: &scratch };
        skopeo.sign_in();
        let at = format!("docker://{}/team/app:1", skopeo.host());
        let tags = skopeo.run(&["list-tags", "--tls-verify=false", &format!("docker://{}/team/app", skopeo.host())]);
        assert!(!tags.status.success(), "{point}: half an image has a tag: {}", text(&tags.stdout));
        skopeo.copy(&image, &at);
        let back = format!("oci:{}:1", scratch.join("back").display());
        skopeo.copy(&at, &back);
        let digest = |of: &str| skopeo.does(&["inspect", "--tls-verify=false", "--format", "{{.Digest}}", of]);
        assert_eq!(digest(&image), digest(&back), "{point}");
        atoll.stop_and_check().await;
    }
}
