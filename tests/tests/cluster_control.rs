//! What a cluster promises when control or its database fails, and how any replica reaches any host.

use atoll_client::ListSandboxes;
use atoll_model::api::hosts::CreateHostRequest;
use atoll_model::{HostStatus, SandboxStatus};
use atoll_tests::cluster::{Cluster, Reach, tiny};
use atoll_tests::until;
use secrecy::ExposeSecret;

#[tokio::test]
async fn any_replica_reaches_any_host_and_what_listens_in_its_sandboxes() {
    let cluster = Cluster::start(3, 2).await;
    for host in 0..2 {
        let id = cluster.sandbox_on(host).await;
        cluster.sh(&id, "mkdir /tmp/www && echo from-inside > /tmp/www/page").await;
        let serve = atoll_client::command("/usr/bin/python3", ["-m", "http.server", "-d", "/tmp/www", "8080"]);
        cluster.client.exec_background(&id, &serve).await.expect("a web server");
        for replica in 0..3 {
            let said = cluster.client_of(replica).exec(&id, &atoll_client::command("echo", ["hello"])).await;
            assert_eq!(said.expect("exec").stdout, "hello\n");
            let key = cluster.key.expose_secret();
            let head = format!("GET /page HTTP/1.1\nHost: 8080-{}.localhost\nX-API-Key: {key}", id.dns_label());
            until("the page", || async {
                let answer = cluster.raw(replica, &head).await;
                answer.ends_with("from-inside\n").then_some(())
            })
            .await;
            let head = format!("GET /page HTTP/1.1\nHost: 8080-{}.localhost", id.dns_label());
            let refused = cluster.raw(replica, &head).await;
            assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
        }
    }
}

#[tokio::test]
async fn the_monitor_goes_on_when_the_replica_that_runs_it_is_killed() {
    let mut cluster = Cluster::start(3, 3).await;
    // The third host speaks to the third replica; one of the three runs the monitor.
    let id = cluster.sandbox_on(2).await;
    cluster.client = cluster.client_of(2);
    cluster.admin = cluster.admin_of(2);
    cluster.controls[0].kill_9();
    cluster.controls[1].kill_9();
    cluster.hosts[2].node.freeze();
    cluster.wait_sandbox(&id, SandboxStatus::Missing).await;
    cluster.hosts[2].node.thaw();
    cluster.wait_sandbox(&id, SandboxStatus::Running).await;
}

#[tokio::test]
async fn a_database_that_fails_over_stops_nothing() {
    let cluster = Cluster::start(1, 1).await;
    let id = cluster.sandbox_on(0).await;
    let process = cluster.long_process(&id).await;
    cluster.postgres.kill_9().await;
    until("an answer that says that the database is away", || async { cluster.client.get_sandbox(&id).await.err() })
        .await;
    cluster.hosts[0].node.says("contact with control is lost").await;
    cluster.postgres.run();
    cluster.wait_sandbox(&id, SandboxStatus::Running).await;
    until("the same process to run on", || async {
        let answer =
            cluster.client.exec(&id, &atoll_client::command("cat", [format!("/proc/{}/stat", process.0)])).await;
        answer.ok().filter(|answer| answer.stdout.split(' ').nth(21) == Some(process.1.trim())).map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_database_that_fails_over_to_its_standby_loses_nothing_of_four_hosts() {
    let cluster = Cluster::start(3, 4).await;
    cluster.postgres.add_standby().await;
    let mut all = Vec::new();
    for host in 0..4 {
        let id = cluster.sandbox_on(host).await;
        let process = cluster.long_process(&id).await;
        all.push((id, process));
    }
    cluster.postgres.fail_over();
    for (id, process) in &all {
        cluster.wait_sandbox(id, SandboxStatus::Running).await;
        until("the same process to run on", || async {
            let stat = atoll_client::command("cat", [format!("/proc/{}/stat", process.0)]);
            let answer = cluster.client.exec(id, &stat).await.ok()?;
            (answer.stdout.split(' ').nth(21) == Some(process.1.trim())).then_some(())
        })
        .await;
    }
    for replica in 0..3 {
        until("a sandbox of each replica", || async { cluster.client_of(replica).create_sandbox(&tiny()).await.ok() })
            .await;
    }
    for host in 0..4 {
        cluster.wait_host(host, HostStatus::Online).await;
    }
}

#[tokio::test]
async fn control_killed_in_the_middle_of_creates_and_destroys_leaves_no_orphan() {
    let mut cluster = Cluster::start(1, 1).await;
    let old = cluster.sandbox_on(0).await;
    let client = cluster.client.clone();
    let under_way = tokio::spawn(async move {
        let request = tiny();
        futures::future::join_all((0..6).map(|_| client.create_sandbox(&request))).await
    });
    let client = cluster.client.clone();
    let destroy = tokio::spawn(async move { client.destroy_sandbox(&old).await });
    // Somewhere in the middle: when the first of them has become known.
    until("a create under way", || async {
        let list = cluster.client.list_sandboxes(&ListSandboxes::default()).await.ok()?;
        (list.items.len() > 1).then_some(())
    })
    .await;
    cluster.controls[0].kill_9();
    under_way.abort();
    destroy.abort();
    cluster.controls[0].run(&[]);
    cluster.wait_host(0, HostStatus::Online).await;
    until("control and host to agree", || async {
        let list = cluster.client.list_sandboxes(&ListSandboxes::default()).await.ok()?;
        let running = list.items.iter().filter(|sandbox| sandbox.status == SandboxStatus::Running).count();
        let settled = list.items.iter().all(|sandbox| !sandbox.status.is_transitional());
        let counts = cluster.admin.get_host(&cluster.hosts[0].id).await.ok()?.sandbox_counts;
        let on_host = (counts.running, counts.paused + counts.other);
        (settled && on_host == (u32::try_from(running).ok()?, 0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn control_killed_in_the_middle_of_a_forced_deletion_finishes_it() {
    let mut cluster = Cluster::start(1, 1).await;
    for _ in 0..8 {
        cluster.sandbox_on(0).await;
    }
    let mark = cluster.hosts[0].node.mark();
    // Stopped where it is: the deletion is begun, and waits for this host's answers.
    cluster.hosts[0].node.freeze();
    let (admin, id) = (cluster.admin.clone(), cluster.hosts[0].id.clone());
    let deletion = tokio::spawn(async move { admin.delete_host(&id, true).await });
    until("the host to be draining", || async { cluster.host(0).await.draining.then_some(()) }).await;
    cluster.controls[0].kill_9();
    deletion.abort();
    cluster.hosts[0].node.thaw();
    cluster.controls[0].run(&[]);
    until("the host to be gone", || async {
        let gone = cluster.admin.get_host(&cluster.hosts[0].id).await.err()?;
        (gone.status() == Some(404)).then_some(())
    })
    .await;
    cluster.hosts[0].node.ended().await;
    until("nothing to be left of the host", || async { mark.left().is_empty().then_some(()) }).await;
    let stopped = ListSandboxes { status: vec![SandboxStatus::Stopped], ..ListSandboxes::default() };
    let list = cluster.client.list_sandboxes(&stopped).await.expect("sandboxes").items;
    assert_eq!(list.len(), 8);
    assert!(list.iter().all(|sandbox| sandbox.reason.as_deref() == Some("host_deleted")), "{list:?}");
}

#[tokio::test]
async fn of_two_agents_with_one_token_exactly_one_is_enrolled() {
    let mut cluster = Cluster::without_hosts(1).await;
    let made = cluster.admin.create_host(&CreateHostRequest::default()).await.expect("making a host");
    let (first, second) =
        (cluster.new_agent(Reach::Address, made.host.id.clone()), cluster.new_agent(Reach::Address, made.host.id));
    for agent in [first, second] {
        cluster.hosts[agent].node.run(&[("ATOLL_REGISTER", &made.registration_token)]);
    }
    cluster.wait_host(0, HostStatus::Online).await;
    until("one of them to be refused", || async {
        let refused = cluster.hosts.iter().filter(|host| host.node.log().contains("control refused to enrol")).count();
        (refused == 1).then_some(())
    })
    .await;
    let enrolled = cluster.hosts.iter().filter(|host| host.node.log().contains("this host is enrolled")).count();
    assert_eq!(enrolled, 1);
}

#[tokio::test]
async fn a_host_behind_nat_is_reached_by_every_replica_through_the_connection_that_it_keeps_open() {
    let mut cluster = Cluster::without_hosts(2).await;
    let host = cluster.add_host(Reach::Tunnel).await;
    cluster.wait_host(host, HostStatus::Online).await;
    assert_eq!(cluster.host(host).await.address.as_deref(), Some("tunnel"));
    let id = cluster.sandbox_on(host).await;
    let process = cluster.long_process(&id).await;
    let hello = atoll_client::command("echo", ["hello"]);
    for replica in 0..2 {
        assert_eq!(cluster.client_of(replica).exec(&id, &hello).await.expect("exec").stdout, "hello\n");
    }
    // Files stream through it: more than any window on the way.
    cluster.sh(&id, "head -c 40000000 /dev/zero > /tmp/large").await;
    let head = format!(
        "GET /large HTTP/1.1\nHost: 8080-{}.localhost\nX-API-Key: {}",
        id.dns_label(),
        cluster.key.expose_secret()
    );
    let serve = atoll_client::command("/usr/bin/python3", ["-m", "http.server", "-d", "/tmp", "8080"]);
    cluster.client.exec_background(&id, &serve).await.expect("a web server");
    for replica in 0..2 {
        until("the whole of a large file", || async {
            let answer = cluster.raw(replica, &head).await;
            answer.split_once("\r\n\r\n").filter(|(_, body)| body.len() == 40_000_000).map(drop)
        })
        .await;
    }

    // The connection breaks, and the host comes back by another one.
    cluster.cut(host);
    cluster.wait_sandbox(&id, SandboxStatus::Missing).await;
    cluster.heal(host);
    cluster.wait_sandbox(&id, SandboxStatus::Running).await;
    assert_eq!(cluster.start_time(&id, process.0).await, process.1);

    // So does the replica that holds it.
    cluster.controls[0].kill_9();
    cluster.controls[0].run(&[]);
    until("the sandbox to be reached through the other replica", || async {
        cluster.client_of(1).exec(&id, &hello).await.ok().filter(|answer| answer.stdout == "hello\n").map(drop)
    })
    .await;
}
