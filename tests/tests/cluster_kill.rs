//! kill -9 of the agent alone, and of control alone, in the middle of pause, resume, snapshot and fork: afterwards every
//! sandbox is either before or after, and nothing is left over.

use std::time::Duration;

use atoll_client::{Client, ListSandboxes};
use atoll_model::api::sandboxes::ForkRequest;
use atoll_model::api::snapshots::CreateSnapshotRequest;
use atoll_model::{SandboxId, SandboxStatus};
use atoll_tests::cluster::Cluster;
use atoll_tests::until;

#[derive(Debug, Clone, Copy)]
enum Victim {
    Agent,
    Control,
}

#[derive(Debug, Clone, Copy)]
enum Deed {
    Pause,
    Resume,
    Snapshot,
    Fork,
}

async fn begin(client: Client, id: SandboxId, deed: Deed, name: String) {
    // Whatever it comes to: somebody dies meanwhile.
    match deed {
        Deed::Pause => drop(client.pause_sandbox(&id).await),
        Deed::Resume => drop(client.resume_sandbox(&id).await),
        Deed::Snapshot => {
            let request = CreateSnapshotRequest { sandbox_id: id, name: Some(name), memory: None };
            drop(client.create_snapshot(&request, false).await);
        }
        Deed::Fork => {
            let request = ForkRequest { count: Some(4), ..ForkRequest::default() };
            drop(client.fork_sandbox(&id, &request).await);
        }
    }
}

/// Waits until no sandbox is on its way to anything, and answers with them.
async fn settled(cluster: &Cluster) -> Vec<(SandboxId, SandboxStatus)> {
    until("every sandbox to be something whole", || async {
        let list = cluster.client.list_sandboxes(&ListSandboxes::default()).await.ok()?;
        let whole = |status| matches!(status, SandboxStatus::Running | SandboxStatus::Paused | SandboxStatus::Error);
        let all: Vec<_> = list.items.into_iter().map(|sandbox| (sandbox.id, sandbox.status)).collect();
        all.iter().all(|(_, status)| whole(*status)).then_some(all)
    })
    .await
}

async fn kill_in_the_middle(victim: Victim) {
    let mut cluster = Cluster::start(1, 1).await;
    let id = cluster.sandbox_on(0).await;
    cluster.sh(&id, "echo here > ~/file; sync").await;
    let process = cluster.long_process(&id).await;
    let deeds = [Deed::Pause, Deed::Resume, Deed::Snapshot, Deed::Fork];
    for (round, (deed, moment)) in deeds.into_iter().flat_map(|deed| [(deed, 1), (deed, 8)]).enumerate() {
        match deed {
            Deed::Resume => drop(cluster.client.pause_sandbox(&id).await),
            _ => drop(cluster.client.resume_sandbox(&id).await),
        }
        let doing = tokio::spawn(begin(cluster.client_of(0), id.clone(), deed, format!("snap-{round}")));
        tokio::time::sleep(Duration::from_millis(moment)).await;
        let node = match victim {
            Victim::Agent => &mut cluster.hosts[0].node,
            Victim::Control => &mut cluster.controls[0],
        };
        node.kill_9();
        node.run(&[]);
        doing.await.expect("the request's task");
        let all = settled(&cluster).await;
        // The sandbox itself is what it was or what it was to be, with the very processes that it had.
        if all.iter().any(|(one, status)| *one == id && *status == SandboxStatus::Paused) {
            until("it to go on", || async { cluster.client.resume_sandbox(&id).await.ok() }).await;
        }
        until("it to answer", || async {
            let answer = cluster.client.exec(&id, &atoll_client::command("cat", ["/home/user/file"])).await.ok()?;
            (answer.stdout == "here\n").then_some(())
        })
        .await;
        assert_eq!(cluster.start_time(&id, process.0).await, process.1, "{deed:?} at {moment} ms: other processes");
        // Children are whole or not there.
        for (child, status) in all.iter().filter(|(one, _)| *one != id) {
            if *status == SandboxStatus::Running {
                assert_eq!(cluster.sh(child, "cat ~/file").await, "here\n");
            }
            until("a child to be destroyed", || async { cluster.client.destroy_sandbox(child).await.ok() }).await;
        }
    }
    // Snapshots are whole or not there: sandboxes can be made from each that is listed.
    for snapshot in cluster.client.list_snapshots(None).await.expect("snapshots").items {
        let request = atoll_model::api::sandboxes::CreateSandboxRequest {
            template: Some(snapshot.name.clone()),
            ..atoll_tests::cluster::tiny()
        };
        let made =
            until("a sandbox from a snapshot", || async { cluster.client.create_sandbox(&request).await.ok() }).await;
        assert_eq!(cluster.sh(&made.id, "cat ~/file").await, "here\n");
        cluster.client.destroy_sandbox(&made.id).await.expect("destroying");
        cluster.client.delete_snapshot(&snapshot.name).await.expect("deleting");
    }
    until("the host to have one sandbox", || async {
        let counts = cluster.host(0).await.sandbox_counts;
        (counts.running + counts.paused + counts.other == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agent_killed_in_the_middle_of_anything_leaves_each_sandbox_before_or_after() {
    kill_in_the_middle(Victim::Agent).await;
}

#[tokio::test]
async fn a_control_plane_killed_in_the_middle_of_anything_leaves_each_sandbox_before_or_after() {
    kill_in_the_middle(Victim::Control).await;
}
