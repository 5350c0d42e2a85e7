//! What a cluster promises about contact and credentials: a host that gets wrong answers, lost ones or none destroys
//! nothing and is not locked out; one whose credentials were stolen is, until it is enrolled again with all it has.

use std::time::Duration;

use atoll_client::AuditFilter;
use atoll_model::{HostStatus, SandboxId, SandboxStatus};
use atoll_tests::cluster::{Cluster, Manners, Reach, Thief, tiny};
use atoll_tests::until;

/// The process still runs and its sandbox never ended.
async fn assert_nothing_ended(cluster: &Cluster, id: &SandboxId, process: &(u32, String)) {
    assert_eq!(cluster.start_time(id, process.0).await, process.1, "the process is not the one that ran before");
    let events = cluster.client.sandbox_events(id).await.expect("events");
    assert!(events.items.iter().all(|event| event.status != SandboxStatus::Stopped));
}

#[tokio::test]
async fn a_proxy_that_answers_in_controls_place_destroys_nothing() {
    let mut cluster = Cluster::without_hosts(1).await;
    let proxy = cluster.proxy().await;
    let host = cluster.add_host_behind(&proxy).await;
    let id = cluster.sandbox_on(host).await;
    let process = cluster.long_process(&id).await;
    let forged = r#"{"error":{"code":"host_deleted","message":"gone","request_id":"r","details":{}}}"#;
    for manners in [
        Manners::Says(404, r#"{"error":{"code":"not_found","message":"no such host","request_id":"r"}}"#),
        Manners::Says(410, forged),
        Manners::Says(401, "<html>please sign in</html>"),
        Manners::Says(502, ""),
    ] {
        proxy.behave(manners);
        let asked = proxy.asked();
        until("several heartbeats to be answered so", || async { (proxy.asked() > asked + 3).then_some(()) }).await;
        assert!(cluster.hosts[host].node.is_running(), "{manners:?}");
    }
    cluster.wait_sandbox(&id, SandboxStatus::Missing).await;
    cluster.hosts[host].node.says("contact with control is lost").await;
    proxy.behave(Manners::Honest);
    cluster.wait_sandbox(&id, SandboxStatus::Running).await;
    assert_nothing_ended(&cluster, &id, &process).await;
}

#[tokio::test]
async fn a_slow_link_that_loses_packets_makes_nothing_missing() {
    let mut cluster = Cluster::without_hosts(1).await;
    let proxy = cluster.proxy().await;
    let slow = cluster.add_host_behind(&proxy).await;
    let lossy = cluster.add_host(Reach::Address).await;
    cluster.wait_host(lossy, HostStatus::Online).await;
    let ids = [cluster.sandbox_on(slow).await, cluster.sandbox_on(lossy).await];
    proxy.behave(Manners::Slow(Duration::from_millis(700)));
    cluster.lossy(lossy, 3);
    let asked = proxy.asked();
    // Ten slow heartbeats are more than twice what makes a silent host unreachable.
    until("ten slow heartbeats", || async { (proxy.asked() > asked + 10).then_some(()) }).await;
    for id in &ids {
        assert_eq!(cluster.sh(id, "echo through").await, "through\n");
        let events = cluster.client.sandbox_events(id).await.expect("events");
        assert!(events.items.iter().all(|event| event.status != SandboxStatus::Missing), "{:?}", events.items);
    }
}

#[tokio::test]
async fn an_agent_that_never_hears_that_it_is_enrolled_and_is_killed_enrols_with_the_same_token() {
    let mut cluster = Cluster::without_hosts(1).await;
    let proxy = cluster.proxy().await;
    proxy.behave(Manners::LosesAnswersOf("/v1/hosts/register"));
    let host = cluster.start_host_behind(&proxy).await;
    until("two answers to be lost", || async { (proxy.lost() >= 2).then_some(()) }).await;
    cluster.hosts[host].node.kill_9();
    proxy.behave(Manners::Honest);
    cluster.hosts[host].node.run(&[]);
    cluster.hosts[host].node.says("this host is enrolled").await;
    cluster.wait_host(host, HostStatus::Online).await;
    let id = cluster.sandbox_on(host).await;
    assert_eq!(cluster.sh(&id, "echo through").await, "through\n");
}

#[tokio::test]
async fn lost_answers_to_refreshes_and_an_expired_access_token_lock_no_host_out() {
    let mut cluster = Cluster::start_with(1, 0, &[("ATOLL_ACCESS_TOKEN_TTL", "4s")]).await;
    let proxy = cluster.proxy().await;
    let host = cluster.add_host_behind(&proxy).await;
    let id = cluster.sandbox_on(host).await;
    let process = cluster.long_process(&id).await;
    proxy.behave(Manners::LosesAnswersOf("/auth/refresh"));
    // Renewed in vain until the access token has expired and nothing is accepted any more.
    cluster.wait_sandbox(&id, SandboxStatus::Missing).await;
    until("several answers to be lost", || async { (proxy.lost() >= 3).then_some(()) }).await;
    proxy.behave(Manners::Honest);
    cluster.wait_host(host, HostStatus::Online).await;
    cluster.wait_sandbox(&id, SandboxStatus::Running).await;
    assert_nothing_ended(&cluster, &id, &process).await;
    assert!(!cluster.hosts[host].node.log().contains("control has rejected"));
}

#[tokio::test]
async fn stolen_credentials_end_with_their_family_and_re_enrolment_brings_every_sandbox_back() {
    let mut cluster = Cluster::start(1, 1).await;
    let id = cluster.sandbox_on(0).await;
    let process = cluster.long_process(&id).await;
    let address = cluster.host(0).await.address.expect("an address");
    let mut thief = Thief::copy(&cluster.hosts[0].node.data_dir(), cluster.control_address(0));
    assert_eq!(thief.renew().await, 200, "key and token are all that there is to steal");
    assert_eq!(thief.beat(&address).await, 204);
    // The minute of grace for requests under way passes.
    cluster
        .postgres
        .query("UPDATE host_refresh_tokens SET revoked_at = revoked_at - 61000 WHERE revoked_at IS NOT NULL");
    // The host itself renews: what it shows was replaced by a use that wasn't its own.
    let mut owner = Thief::copy(&cluster.hosts[0].node.data_dir(), cluster.control_address(0));
    assert_eq!(owner.renew().await, 401);
    assert_eq!((thief.beat(&address).await, thief.renew().await), (401, 401), "nothing of the family works");
    cluster.hosts[0].node.says("control has rejected this host's credentials").await;
    let action = Some("host.refresh_token_reused".to_owned());
    let audit = AuditFilter { action, all: true, ..AuditFilter::default() };
    let entries = cluster.admin.audit_log(&audit).await.expect("the audit log").items;
    assert!(entries.iter().any(|entry| entry.resource_id.as_deref() == Some(cluster.hosts[0].id.as_str())));
    cluster.wait_sandbox(&id, SandboxStatus::Missing).await;

    let token = cluster.admin.new_host_token(&cluster.hosts[0].id).await.expect("a new token").registration_token;
    cluster.hosts[0].node.terminate().await;
    cluster.hosts[0].node.run(&[("ATOLL_REGISTER", &token)]);
    cluster.wait_sandbox(&id, SandboxStatus::Running).await;
    assert_nothing_ended(&cluster, &id, &process).await;
    assert_eq!(thief.renew().await, 401);
}

#[tokio::test]
async fn what_is_set_about_lost_contact_is_what_happens() {
    let mut cluster = Cluster::start_with(1, 0, &[("ATOLL_ON_RECONNECT", "stay-paused")]).await;
    let goes_on = cluster.add_host_with(Reach::Address, &[("ATOLL_ON_DISCONNECT", "keep-running")]).await;
    let pauses = cluster.add_host(Reach::Address).await;
    for host in [goes_on, pauses] {
        cluster.wait_host(host, HostStatus::Online).await;
    }
    let (running, paused) = (cluster.sandbox_on(goes_on).await, cluster.sandbox_on(pauses).await);
    let processes = [cluster.long_process(&running).await, cluster.long_process(&paused).await];
    for host in [goes_on, pauses] {
        cluster.cut(host);
    }
    for id in [&running, &paused] {
        cluster.wait_sandbox(id, SandboxStatus::Missing).await;
    }
    cluster.hosts[pauses].node.says("sandboxes were paused until control orders otherwise").await;
    for host in [goes_on, pauses] {
        cluster.heal(host);
    }
    cluster.wait_sandbox(&running, SandboxStatus::Running).await;
    let stays = cluster.wait_sandbox(&paused, SandboxStatus::Paused).await;
    assert_eq!(stays.reason.as_deref(), Some("host_disconnected"));
    cluster.client.resume_sandbox(&paused).await.expect("resuming");
    for (id, process) in [(&running, &processes[0]), (&paused, &processes[1])] {
        assert_nothing_ended(&cluster, id, process).await;
    }
    let events = cluster.client.sandbox_events(&running).await.expect("events").items;
    assert!(events.iter().all(|event| event.status != SandboxStatus::Paused), "{events:?}");
    assert_eq!(cluster.hosts[goes_on].node.times_said("pausing all sandboxes"), 0);
}

/// The clock that programs see, moved; the one that never is set back stays as it is.
fn clock(offset: &str) -> [(&'static str, String); 3] {
    let directories = std::fs::read_dir("/usr/lib").expect("/usr/lib").flatten();
    let library = directories.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    let library = library.expect("libfaketime (apt-get install libfaketime)");
    [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", offset.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

#[tokio::test]
async fn a_host_whose_clock_is_hours_wrong_is_a_host_like_any_other() {
    let mut cluster = Cluster::start_with(1, 0, &[("ATOLL_ACCESS_TOKEN_TTL", "4s")]).await;
    for offset in ["-25h", "+25h"] {
        let clock = clock(offset);
        let clock: Vec<(&str, &str)> = clock.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let host = cluster.add_host_with(Reach::Address, &clock).await;
        cluster.wait_host(host, HostStatus::Online).await;
        let id = cluster.sandbox_on(host).await;
        let process = cluster.long_process(&id).await;
        // Its credentials are renewed all the same, and it comes back after a partition.
        cluster.hosts[host].node.says("the host's credentials were renewed").await;
        cluster.cut(host);
        cluster.wait_sandbox(&id, SandboxStatus::Missing).await;
        cluster.heal(host);
        cluster.wait_sandbox(&id, SandboxStatus::Running).await;
        assert_nothing_ended(&cluster, &id, &process).await;
    }
}

#[tokio::test]
async fn a_full_disk_on_a_host_stops_nothing_and_locks_it_not_out() {
    let mut cluster = Cluster::start_with(1, 0, &[("ATOLL_ACCESS_TOKEN_TTL", "6s")]).await;
    let host = cluster.add_host_on_small_disk().await;
    let id = cluster.sandbox_on(host).await;
    let process = cluster.long_process(&id).await;
    let filler = cluster.hosts[host].node.fill_disk();
    // Renewed credentials can't be stored, so they are not used, and those that the host has expire.
    cluster.hosts[host].node.says("renewing the host's credentials failed").await;
    cluster.wait_host(host, HostStatus::Unreachable).await;
    std::fs::remove_file(filler).expect("freeing the disk");
    cluster.wait_host(host, HostStatus::Online).await;
    cluster.wait_sandbox(&id, SandboxStatus::Running).await;
    assert_nothing_ended(&cluster, &id, &process).await;
    // The pool in the full disk may have turned read-only: then the host says so, and is given nothing.
    until("a new sandbox, or the word that no host can take one", || async {
        let made = cluster.client.create_sandbox(&tiny()).await;
        match made {
            Err(atoll_client::Error::Api(error)) => (error.code == "no_hosts_available").then_some(()),
            made => made.ok().map(drop),
        }
    })
    .await;
    assert_nothing_ended(&cluster, &id, &process).await;
}
