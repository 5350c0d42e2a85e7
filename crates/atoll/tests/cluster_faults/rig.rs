//! A cluster in which somebody dies, and what must be true afterwards.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use atoll_client::{ListSandboxes, command};
use atoll_model::api::sandboxes::{CreateSandboxRequest, ForkRequest};
use atoll_model::api::snapshots::CreateSnapshotRequest;
use atoll_model::api::templates::{BuildStatus, CreateTemplateRequest};
use atoll_model::{SandboxId, SandboxStatus};
use atoll_tests::cluster::{Cluster, Database, Node, tiny};
use atoll_tests::until;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    Control,
    Agent(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
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

fn node(cluster: &mut Cluster, victim: Victim) -> &mut Node {
    match victim {
        Control => &mut cluster.controls[0],
        Agent(number) => &mut cluster.hosts[number].node,
    }
}

/// Starts the victim again, to die at this point.
pub fn arm(cluster: &mut Cluster, victim: Victim, point: &str) {
    let node = node(cluster, victim);
    node.kill_9();
    node.run(&[("FAILPOINTS", &format!("{point}=return(abort)"))]);
}

/// Waits for its death at the point that it was armed with: nothing else aborts.
async fn dies_at(node: &mut Node, point: &str) {
    let died = tokio::time::timeout(Duration::from_secs(60), node.ended()).await;
    let status = died.unwrap_or_else(|_| panic!("nobody died at {point}"));
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{point}: {status}");
}

/// Waits for its death, and starts it as it always was.
pub async fn revive(cluster: &mut Cluster, victim: Victim, point: &str) {
    let node = node(cluster, victim);
    dies_at(node, point).await;
    node.run(&[("FAILPOINTS", "")]);
}

/// Waits for its death, takes the power from its machine in that moment, and starts it as it always was.
pub async fn revive_after_power_cut(cluster: &mut Cluster, victim: Victim, point: &str) {
    let node = node(cluster, victim);
    dies_at(node, point).await;
    node.lose_power();
    node.run(&[("FAILPOINTS", "")]);
}

pub struct Rig {
    pub cluster: Cluster,
    /// Lives through all of it.
    pub id: SandboxId,
    pub round: usize,
    /// Who dies does so because its machine loses its power.
    power: bool,
}

impl Rig {
    pub async fn start(database: Database) -> Self {
        atoll_tests::atoll::use_binary(env!("CARGO_BIN_EXE_atoll"));
        Self::of(Cluster::start_on(database, 1, 2, &[]).await, false).await
    }

    /// Whose machines can lose their power.
    pub async fn start_on_disks(hosts: u8) -> Self {
        atoll_tests::atoll::use_binary(env!("CARGO_BIN_EXE_atoll"));
        Self::of(Cluster::start_on_disks(hosts, &[]).await, true).await
    }

    async fn of(cluster: Cluster, power: bool) -> Self {
        let id = cluster.sandbox_on(0).await;
        cluster.sh(&id, "echo here > ~/file; head -c 2M /dev/urandom > ~/big; sha256sum ~/big > ~/sum; sync").await;
        // What came before this is older than the second that a power cut may take.
        until("it to be written out", || async { (cluster.hosts[0].node.times_said("written out") > 0).then_some(()) })
            .await;
        Self { cluster, id, round: 0, power }
    }

    /// Again and again, until somebody dies of it.
    pub async fn strike(&mut self, (victim, point, deed): (Victim, &'static str, Deed)) {
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
        match self.power {
            true => revive_after_power_cut(&mut self.cluster, victim, point).await,
            false => revive(&mut self.cluster, victim, point).await,
        }
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
    pub async fn check(&self, point: &str) {
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
    pub async fn moves(&self, from: usize, to: usize, point: &str) {
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
    pub async fn open(&self, number: usize) {
        until("the host to be open", || async {
            self.cluster.admin.drain_host(&self.cluster.hosts[number].id, false).await.ok()
        })
        .await;
    }

    /// With the last sandbox everything goes.
    pub async fn end(mut self) {
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

pub fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// How many layers its host has mounted below a sandbox, its template apart.
pub fn layers_below(cluster: &Cluster, id: &SandboxId) -> usize {
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
