use super::*;
use crate::db::Text;
use crate::hosts::tombstone::{self, Deceased};
use crate::hosts::{HostChange, store};
use atoll_model::HostStatus;
use atoll_model::api::hosts::HostTombstone;

#[tokio::test]
async fn a_heartbeat_writes_what_the_host_says() {
    for rig in rigs().await {
        let agent = rig.enrolled().await;
        rig.clock.advance(Duration::from_secs(30));
        let mut body = beat();
        body.address = "10.9.9.9:1234".to_owned();
        rig.hosts.heartbeat(agent.id(), Some(&agent.credentials().access_token), body).await.unwrap();
        let row = store::get(&rig.db, agent.id()).await.unwrap().unwrap();
        assert_eq!(row.address.as_deref(), Some("10.9.9.9:1234"));
        assert_eq!(row.last_heartbeat_at, Some(rig.clock.now()));
        assert_eq!((row.sandboxes_running, row.sandboxes_paused, row.sandboxes_other), (1, 2, 3));
        let candidates = crate::fleet::CandidateSource::candidates(&rig.hosts.candidates()).await.unwrap();
        assert!(candidates[0].ready);
        assert_eq!(candidates[0].capacity.cpu_millis, 4000);
        assert_eq!(candidates[0].committed.memory_mb, 0, "what it has promised is told by the sandboxes' rows");
        assert_eq!(candidates[0].cached_images, ["aa"]);
    }
}

#[tokio::test]
async fn what_a_hosts_machines_run_on_is_what_it_said_last() {
    for rig in rigs().await {
        let agent = rig.enrolled().await;
        let token = agent.credentials().access_token.clone();
        for version in [None, Some("QEMU 7"), Some("QEMU 7"), Some("QEMU 8"), None] {
            let vm_version = version.map(str::to_owned);
            let body = HeartbeatRequest { vm_version: vm_version.clone(), ..beat() };
            rig.hosts.heartbeat(agent.id(), Some(&token), body).await.unwrap();
            assert_eq!(store::get(&rig.db, agent.id()).await.unwrap().unwrap().vm_version, vm_version);
            let candidates = crate::fleet::CandidateSource::candidates(&rig.hosts.candidates()).await.unwrap();
            assert_eq!(candidates[0].vm_version, vm_version);
        }
        for wrong in ["x".repeat(257), "two\nlines".to_owned()] {
            let body = HeartbeatRequest { vm_version: Some(wrong), ..beat() };
            let refused = rig.hosts.heartbeat(agent.id(), Some(&token), body).await;
            assert!(matches!(refused, Err(HostError::Invalid { field: "vm_version", .. })), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn many_heartbeats_at_once_are_all_written() {
    for rig in rigs().await {
        let mut agents = Vec::new();
        for _ in 0..12 {
            agents.push(rig.enrolled().await);
        }
        rig.clock.advance(Duration::from_secs(30));
        let beats = agents.iter().map(|agent| agent.beat(&rig.hosts));
        assert!(futures::future::join_all(beats).await.into_iter().all(|result| result.is_ok()));
        for agent in &agents {
            let row = store::get(&rig.db, agent.id()).await.unwrap().unwrap();
            assert_eq!(row.last_heartbeat_at, Some(rig.clock.now()));
        }
    }
}

#[tokio::test]
async fn a_heartbeat_that_says_nothing_new_writes_what_changes_and_leaves_the_rest_alone() {
    for rig in rigs().await {
        let (one, other) = (rig.enrolled().await, rig.enrolled().await);
        for agent in [&one, &other] {
            agent.beat(&rig.hosts).await.unwrap();
        }
        // What a quiet one would not write back if it were lost from the row.
        on!(write & rig.db, |c| sqlx::query("UPDATE hosts SET arch = 'kept', agent_version = 'kept'")
            .execute(c)
            .await
            .map(|_| ()))
        .unwrap();
        rig.clock.advance(Duration::from_secs(30));
        let (of_one, of_other) = (&one.credentials().access_token, &other.credentials().access_token);
        let (mut busier, mut moved) = (beat(), beat());
        busier.used.memory_mb = 4096;
        busier.sandbox_counts.running = 9;
        moved.address = "10.9.9.9:1234".to_owned();
        moved.cached_images = vec!["bb".to_owned()];
        let (first, second) = tokio::join!(
            rig.hosts.heartbeat(one.id(), Some(of_one), busier),
            rig.hosts.heartbeat(other.id(), Some(of_other), moved),
        );
        first.unwrap();
        second.unwrap();
        let quiet = store::get(&rig.db, one.id()).await.unwrap().unwrap();
        assert_eq!(quiet.last_heartbeat_at, Some(rig.clock.now()));
        assert_eq!((quiet.sandboxes_running, quiet.agent_version.as_deref()), (9, Some("kept")));
        let loud = store::get(&rig.db, other.id()).await.unwrap().unwrap();
        assert_eq!((loud.address.as_deref(), loud.agent_version.as_deref()), (Some("10.9.9.9:1234"), Some("0.1.0")));
    }
}

#[tokio::test]
async fn heartbeats_of_one_host_in_one_batch_are_each_judged_by_their_own_credentials() {
    for rig in rigs().await {
        let mut agent = rig.enrolled().await;
        agent.beat(&rig.hosts).await.unwrap();
        let old = agent.credentials().access_token.clone();
        agent.refresh(&rig.hosts).await.unwrap();
        on!(write & rig.db, |c| sqlx::query("UPDATE hosts SET status = 'unreachable'").execute(c).await.map(|_| ()))
            .unwrap();
        let token = rig.hosts.renew_registration(agent.id(), &Actor::System, &Origin::default()).await.unwrap();
        let mut fresh = Agent::new();
        fresh.register(&rig.hosts, &token.token).await.unwrap();
        let outcomes = tokio::join!(
            fresh.beat(&rig.hosts),
            agent.beat_with(&rig.hosts, &old),
            agent.beat(&rig.hosts),
            fresh.beat(&rig.hosts),
        );
        assert!(outcomes.0.is_ok() && outcomes.3.is_ok());
        assert!(is_unauthorized(outcomes.1) && is_unauthorized(outcomes.2));
    }
}

#[tokio::test]
async fn a_token_that_was_accepted_before_is_refused_when_it_is_over_or_its_key_is() {
    for rig in rigs().await {
        let agent = rig.enrolled().await;
        agent.beat(&rig.hosts).await.unwrap();
        agent.beat(&rig.hosts).await.expect("remembered");
        let overlap = Duration::from_secs(60);
        crate::signing::rotate(&rig.db, crate::signing::HOSTS, overlap, rig.clock.now()).await.unwrap();
        rig.hosts.refresh_keys().await.unwrap();
        agent.beat(&rig.hosts).await.expect("the old key is still accepted");
        rig.clock.advance(overlap + Duration::from_secs(1));
        assert!(is_unauthorized(agent.beat(&rig.hosts).await), "the key is retired");

        let other = rig.enrolled().await;
        other.beat(&rig.hosts).await.unwrap();
        rig.clock.advance(8 * DAY);
        assert!(is_unauthorized(other.beat(&rig.hosts).await), "the token has expired");
    }
}

#[tokio::test]
async fn a_host_that_was_away_is_online_again_and_the_monitor_hears_of_it() {
    for rig in rigs().await {
        let agent = rig.enrolled().await;
        agent.beat(&rig.hosts).await.unwrap();
        on!(write & rig.db, |c| sqlx::query("UPDATE hosts SET status = 'unreachable', draining = $1")
            .bind(true)
            .execute(c)
            .await
            .map(|_| ()))
        .unwrap();
        let mut changes = rig.hosts.changes();
        agent.beat(&rig.hosts).await.unwrap();
        let row = store::get(&rig.db, agent.id()).await.unwrap().unwrap();
        assert_eq!(row.status, Text(HostStatus::Online));
        assert!(row.draining, "draining survives");
        assert_eq!(changes.recv().await.unwrap(), HostChange::Returned(agent.id().clone()));

        let mut bye = beat();
        bye.going_offline = true;
        rig.hosts.heartbeat(agent.id(), Some(&agent.credentials().access_token), bye).await.unwrap();
        let row = store::get(&rig.db, agent.id()).await.unwrap().unwrap();
        assert_eq!(row.status, Text(HostStatus::Offline));
        assert_eq!(changes.recv().await.unwrap(), HostChange::WentOffline(agent.id().clone()));
        agent.beat(&rig.hosts).await.unwrap();

        let mut rebooted = beat();
        rebooted.boot_id = "b2".to_owned();
        rig.hosts.heartbeat(agent.id(), Some(&agent.credentials().access_token), rebooted).await.unwrap();
        assert_eq!(changes.recv().await.unwrap(), HostChange::Returned(agent.id().clone()));
        assert_eq!(changes.recv().await.unwrap(), HostChange::Returned(agent.id().clone()), "a reboot");
    }
}

#[tokio::test]
async fn a_host_speaks_for_itself_alone_and_only_with_a_token_of_ours() {
    for rig in rigs().await {
        let (one, two) = (rig.enrolled().await, rig.enrolled().await);
        let others = rig.hosts.heartbeat(two.id(), Some(&one.credentials().access_token), beat()).await;
        assert!(matches!(others, Err(HostError::Forbidden)));
        for token in [None, Some(""), Some("a.b.c"), Some(one.credentials().refresh_token.as_str())] {
            assert!(is_unauthorized(rig.hosts.heartbeat(one.id(), token, beat()).await));
        }
    }
}

#[tokio::test]
async fn a_deleted_host_gets_the_signed_proof_for_whatever_credentials_it_still_has() {
    for rig in rigs().await {
        let mut agent = rig.enrolled().await;
        let expired = agent.credentials().access_token.clone();
        rig.clock.advance(8 * DAY);
        agent.refresh(&rig.hosts).await.unwrap();
        let mut tx = rig.db.begin().await.unwrap();
        let deceased =
            Deceased { host: agent.id(), kind: HostType::Regular, team: None, deletion_id: "del-1", deleted_by: None };
        tombstone::bury(&mut tx, &deceased, rig.clock.now()).await.unwrap();
        tx.commit().await.unwrap();

        let astray = HeartbeatRequest { address: "127.0.0.1:1".to_owned(), ..beat() };
        let access = agent.credentials().access_token.as_str();
        let proofs = [
            agent.beat(&rig.hosts).await.unwrap_err(),
            // Whatever else is wrong, and though the key that signed its token is forgotten.
            rig.hosts.heartbeat(agent.id(), Some(access), astray).await.unwrap_err(),
            agent.beat_with(&rig.hosts, "a.b.c").await.unwrap_err(),
            agent.beat_with(&rig.hosts, &expired).await.unwrap_err(),
            agent.present(&rig.hosts, &agent.credentials().refresh_token).await.err().unwrap(),
        ];
        for proof in proofs {
            let HostError::Deleted(notice) = proof else { panic!("no proof: {proof:?}") };
            assert_eq!((&notice.host_id, notice.deletion_id.as_str()), (agent.id(), "del-1"));
            let text = HostTombstone::signed_text(&notice.host_id, &notice.deletion_id, notice.deleted_at_ms);
            let (_, pem) = x509_parser::pem::parse_x509_pem(agent.credentials().ca.as_bytes()).unwrap();
            let ca = crate::pki::HostKey::from_spki(pem.parse_x509().unwrap().public_key().raw).unwrap();
            assert!(ca.verify(text.as_bytes(), &STANDARD.decode(&notice.signature).unwrap()));
        }
        assert!(is_unauthorized(agent.present(&rig.hosts, "arf_unknown").await));
        assert!(is_unauthorized(rig.hosts.heartbeat(agent.id(), None, beat()).await), "nobody asks without any");
    }
}

#[tokio::test]
async fn credentials_are_judged_before_what_a_heartbeat_says() {
    for rig in rigs().await {
        let agent = rig.enrolled().await;
        let astray = || HeartbeatRequest { address: "127.0.0.1:1".to_owned(), ..beat() };
        let access = agent.credentials().access_token.as_str();
        let refused = rig.hosts.heartbeat(agent.id(), Some(access), astray()).await;
        assert!(matches!(refused, Err(HostError::Invalid { field: "address", .. })), "{refused:?}");
        for token in [None, Some("a.b.c")] {
            assert!(is_unauthorized(rig.hosts.heartbeat(agent.id(), token, astray()).await));
        }
    }
}
