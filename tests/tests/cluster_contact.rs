//! What a cluster promises about credentials: a host whose credentials were stolen is locked out until it is enrolled again
//! with all it has.

use atoll_client::AuditFilter;
use atoll_model::{SandboxId, SandboxStatus};
use atoll_tests::cluster::{Cluster, Thief};

/// The process still runs and its sandbox never ended.
async fn assert_nothing_ended(cluster: &Cluster, id: &SandboxId, process: &(u32, String)) {
    assert_eq!(cluster.start_time(id, process.0).await, process.1, "the process is not the one that ran before");
    let events = cluster.client.sandbox_events(id).await.expect("events");
    assert!(events.items.iter().all(|event| event.status != SandboxStatus::Stopped));
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
