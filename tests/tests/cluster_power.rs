//! A power cut: everything on a host's machine ends at once, and what the kernel had not yet given to the disk is lost.

use atoll_model::SandboxStatus;
use atoll_tests::cluster::{Cluster, tiny};
use atoll_tests::until;

#[tokio::test]
async fn a_paused_sandbox_has_all_its_files_after_a_power_cut() {
    let mut cluster = Cluster::start(1, 0).await;
    let host = cluster.add_host_on_small_disk().await;
    cluster.wait_ready().await;
    let made = until("a sandbox", || async { cluster.client.create_sandbox(&tiny()).await.ok() }).await;
    let id = made.id;
    // Nobody syncs.
    cluster
        .sh(&id, "echo kept > ~/file; head -c 8M /dev/urandom > ~/big; sha256sum ~/big > ~/sum; mkdir -p ~/a/b")
        .await;
    let node = &cluster.hosts[host].node;
    let written = node.times_said("files=true");
    cluster.client.pause_sandbox(&id).await.expect("pausing");
    until("the host to have written it out", || async { (node.times_said("files=true") > written).then_some(()) })
        .await;
    cluster.hosts[host].node.lose_power();
    cluster.hosts[host].node.run(&[]);
    // The answer to an order may get lost while the host is coming back: then it has gone on all the same.
    until("it to go on", || async {
        match cluster.client.resume_sandbox(&id).await {
            Ok(resumed) => assert_eq!(resumed.kept.as_deref(), Some("files")),
            Err(_) if cluster.sandbox(&id).await.status == SandboxStatus::Running => {}
            Err(_) => return None,
        }
        Some(())
    })
    .await;
    let read =
        cluster.sh(&id, "cat ~/file; sha256sum -c --status ~/sum && echo same; test -d ~/a/b && echo there").await;
    assert_eq!(read, "kept\nsame\nthere\n");
}
