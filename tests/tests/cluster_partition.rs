//! What a cluster promises when hosts can't be seen: nothing is lost, and nothing is destroyed by mistake.

use std::time::Duration;

use atoll_model::{HostStatus, SandboxId, SandboxStatus};
use atoll_tests::cluster::Cluster;
use atoll_tests::until;

/// How long a partition lasts beyond what it takes to be noticed: 300 s in `scripts/test.sh`.
fn partition() -> Duration {
    let seconds = std::env::var("ATOLL_PARTITION_SECONDS").ok();
    Duration::from_secs(seconds.map_or(0, |seconds| seconds.parse().expect("ATOLL_PARTITION_SECONDS is a number")))
}

/// Whether a sandbox was ever in this status.
async fn ever(cluster: &Cluster, id: &SandboxId, status: SandboxStatus) -> bool {
    let events = cluster.client.sandbox_events(id).await.expect("events");
    events.items.iter().any(|event| event.status == status)
}

async fn assert_the_same_process(cluster: &Cluster, id: &SandboxId, process: &(u32, String)) {
    assert_eq!(cluster.start_time(id, process.0).await, process.1, "the process is not the one that ran before");
    assert!(!ever(cluster, id, SandboxStatus::Stopped).await);
}

#[tokio::test]
async fn a_partition_makes_sandboxes_missing_and_healing_brings_back_the_very_processes() {
    let cluster = Cluster::start(1, 2).await;
    let (far, near) = (cluster.sandbox_on(0).await, cluster.sandbox_on(1).await);
    let process = cluster.long_process(&far).await;
    cluster.cut(0);
    cluster.wait_host(0, HostStatus::Unreachable).await;
    cluster.wait_sandbox(&far, SandboxStatus::Missing).await;
    assert_eq!(cluster.sandbox(&near).await.status, SandboxStatus::Running);
    assert_eq!(cluster.sh(&near, "echo near").await, "near\n");
    // It has noticed by itself that nobody can see it.
    cluster.hosts[0].node.says("contact with control is lost").await;
    tokio::time::sleep(partition()).await;
    assert_eq!(cluster.sandbox(&far).await.status, SandboxStatus::Missing);
    cluster.heal(0);
    cluster.wait_host(0, HostStatus::Online).await;
    cluster.wait_sandbox(&far, SandboxStatus::Running).await;
    assert_the_same_process(&cluster, &far, &process).await;
}

#[tokio::test]
async fn an_agent_killed_and_started_again_during_a_partition_loses_nothing() {
    let mut cluster = Cluster::start(1, 1).await;
    let id = cluster.sandbox_on(0).await;
    let process = cluster.long_process(&id).await;
    cluster.cut(0);
    cluster.wait_sandbox(&id, SandboxStatus::Missing).await;
    cluster.hosts[0].node.kill_9();
    cluster.hosts[0].node.run(&[]);
    cluster.hosts[0].node.says("no heartbeat reached control").await;
    cluster.heal(0);
    cluster.wait_sandbox(&id, SandboxStatus::Running).await;
    assert_the_same_process(&cluster, &id, &process).await;
}

#[tokio::test]
async fn what_is_destroyed_and_paused_while_a_host_is_away_is_so_when_it_is_back() {
    let cluster = Cluster::start(1, 1).await;
    let (doomed, kept, rests) = (cluster.sandbox_on(0).await, cluster.sandbox_on(0).await, cluster.sandbox_on(0).await);
    let process = cluster.long_process(&kept).await;
    let resting = cluster.long_process(&rests).await;
    // The order to pause still arrives; that it was carried out is never heard of.
    cluster.mute(0);
    let client = cluster.client.clone();
    let pause = tokio::spawn({
        let id = rests.clone();
        async move { client.pause_sandbox(&id).await }
    });
    let record = cluster.hosts[0].node.data_dir().join(format!("sandboxes/{rests}/record.json"));
    until("the host to have paused it", || async {
        std::fs::read_to_string(&record).ok()?.contains(r#""state":"paused""#).then_some(())
    })
    .await;
    // From now on no order arrives either.
    cluster.cut(0);
    cluster.wait_sandbox(&doomed, SandboxStatus::Missing).await;
    cluster.wait_sandbox(&rests, SandboxStatus::Missing).await;
    // Not while it is missing: nobody knows whether there is anything to pause.
    let refused = cluster.client.pause_sandbox(&kept).await.unwrap_err();
    assert!(matches!(refused.status(), Some(409 | 503)), "{refused}");
    // Whether it is told at once or has to wait for its host: it must not come back.
    let _ = cluster.client.destroy_sandbox(&doomed).await;
    let stopped = cluster.sandbox(&doomed).await.status;
    cluster.heal(0);
    cluster.wait_sandbox(&kept, SandboxStatus::Running).await;
    assert_the_same_process(&cluster, &kept, &process).await;
    let _ = pause.await.expect("the task of the pause");
    let paused = cluster.wait_sandbox(&rests, SandboxStatus::Paused).await;
    assert_eq!(paused.reason.as_deref(), Some("user"));
    if stopped == SandboxStatus::Missing {
        cluster.wait_sandbox(&doomed, SandboxStatus::Running).await;
        cluster.client.destroy_sandbox(&doomed).await.expect("destroying");
    }
    until("the host to have two sandboxes", || async {
        let counts = cluster.host(0).await.sandbox_counts;
        ((counts.running, counts.paused, counts.other) == (1, 1, 0)).then_some(())
    })
    .await;
    assert_eq!(cluster.sandbox(&doomed).await.status, SandboxStatus::Stopped);
    cluster.client.resume_sandbox(&rests).await.expect("resuming");
    assert_the_same_process(&cluster, &rests, &resting).await;
}

#[tokio::test]
async fn a_host_that_accepts_connections_and_never_answers_is_judged_alone() {
    let cluster = Cluster::start(1, 2).await;
    let (silent, well) = (cluster.sandbox_on(0).await, cluster.sandbox_on(1).await);
    let process = cluster.long_process(&silent).await;
    cluster.hosts[0].node.freeze();
    cluster.wait_sandbox(&silent, SandboxStatus::Missing).await;
    assert_eq!(cluster.sandbox(&well).await.status, SandboxStatus::Running);
    assert_eq!(cluster.sh(&well, "echo well").await, "well\n");
    cluster.hosts[0].node.thaw();
    cluster.wait_sandbox(&silent, SandboxStatus::Running).await;
    assert_the_same_process(&cluster, &silent, &process).await;
}

#[tokio::test]
async fn a_host_deleted_by_force_while_it_is_away_cleans_up_when_it_returns() {
    let mut cluster = Cluster::start(1, 1).await;
    let id = cluster.sandbox_on(0).await;
    cluster.cut(0);
    cluster.wait_host(0, HostStatus::Unreachable).await;
    let refused = cluster.admin.delete_host(&cluster.hosts[0].id, false).await.unwrap_err();
    assert_eq!(refused.status(), Some(409), "{refused}");
    cluster.admin.delete_host(&cluster.hosts[0].id, true).await.expect("deleting the host");
    let sandbox = cluster.sandbox(&id).await;
    assert_eq!((sandbox.status, sandbox.reason.as_deref()), (SandboxStatus::Stopped, Some("host_deleted")));
    assert!(cluster.hosts[0].node.is_running());
    let mark = cluster.hosts[0].node.mark();
    cluster.heal(0);
    cluster.hosts[0].node.says("this host was deleted: nothing of it is left here").await;
    cluster.hosts[0].node.ended().await;
    until("nothing to be left of the host", || async { mark.left().is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn an_agent_that_stops_in_order_makes_its_sandboxes_missing_and_its_return_brings_them_back() {
    let mut cluster = Cluster::start(1, 1).await;
    let id = cluster.sandbox_on(0).await;
    let process = cluster.long_process(&id).await;
    cluster.hosts[0].node.terminate().await;
    cluster.wait_host(0, HostStatus::Offline).await;
    cluster.wait_sandbox(&id, SandboxStatus::Missing).await;
    cluster.hosts[0].node.run(&[]);
    cluster.wait_sandbox(&id, SandboxStatus::Running).await;
    assert_the_same_process(&cluster, &id, &process).await;
}
