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

/// A second after the answer it can't be lost any more, though nobody has synced anything.
#[tokio::test]
async fn a_sandbox_that_was_made_a_moment_ago_is_there_after_a_power_cut() {
    let mut cluster = Cluster::start(1, 0).await;
    let host = cluster.add_host_on_small_disk().await;
    cluster.wait_ready().await;
    let first = until("a sandbox", || async { cluster.client.create_sandbox(&tiny()).await.ok() }).await.id;
    let node = &cluster.hosts[host].node;
    until("the first to have been written out", || async { (node.times_said("written out") > 0).then_some(()) }).await;
    let written = node.times_said("written out");
    let second = cluster.client.create_sandbox(&tiny()).await.expect("another").id;
    until("the second to have been written out", || async { (node.times_said("written out") > written).then_some(()) })
        .await;
    cluster.hosts[host].node.lose_power();
    cluster.hosts[host].node.run(&[]);
    for id in [&first, &second] {
        until("it to run again", || async {
            let answer = cluster.client.exec(id, &atoll_client::command("/bin/echo", ["well"])).await.ok()?;
            (answer.stdout == "well\n").then_some(())
        })
        .await;
        assert_eq!(cluster.sandbox(id).await.status, SandboxStatus::Running);
    }
}

/// SQLite answers before the disk has it.
#[tokio::test]
async fn what_control_has_answered_a_moment_ago_is_so_after_a_power_cut() {
    let mut cluster = Cluster::start_on_disks(1, &[]).await;
    let id = cluster.sandbox_on(0).await;
    cluster.sh(&id, "echo kept > ~/file").await;
    let said = || cluster.controls[0].times_said("the database is written out");
    let written = said();
    // The next one may have been under way.
    until("control to have written it out", || async { (said() > written + 1).then_some(()) }).await;
    cluster.controls[0].lose_power();
    cluster.controls[0].run(&[]);
    // Whose row is lost is a stray to control, and destroyed.
    until("it to be known", || async { cluster.client.get_sandbox(&id).await.ok() }).await;
    cluster.wait_host(0, atoll_model::HostStatus::Online).await;
    assert_eq!(cluster.wait_sandbox(&id, SandboxStatus::Running).await.id, id);
    assert_eq!(cluster.sh(&id, "cat ~/file").await, "kept\n");
}
