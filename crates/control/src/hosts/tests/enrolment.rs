use super::*;
use crate::pki::HostKey;
use atoll_model::HostStatus;

#[tokio::test]
async fn a_registered_host_is_online_with_its_specs_and_its_credentials_work() {
    for rig in rigs().await {
        let (id, token) = rig.new_host().await;
        let mut agent = Agent::new();
        agent.register(&rig.hosts, &token).await.unwrap();
        assert_eq!(agent.id(), &id);
        let row = crate::hosts::store::get(&rig.db, &id).await.unwrap().unwrap();
        assert_eq!(row.status.0, HostStatus::Online);
        assert_eq!((row.cpu_cores, row.memory_mb, row.disk_gb), (Some(4), Some(8192), Some(100)));
        assert_eq!(row.address.as_deref(), Some("10.1.2.3:7070"));
        agent.beat(&rig.hosts).await.unwrap();
        agent.refresh(&rig.hosts).await.unwrap();
        agent.beat(&rig.hosts).await.unwrap();
    }
}

#[tokio::test]
async fn the_certificate_is_what_control_chose_whatever_the_request_asked_for() {
    for rig in rigs().await {
        let agent = rig.enrolled().await;
        let (_, pem) = x509_parser::pem::parse_x509_pem(agent.credentials().certificate.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.subject().to_string(), format!("CN={}", agent.id()));
        assert!(!certificate.is_ca());
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth);
        let names = format!("{:?}", certificate.subject_alternative_name().unwrap().unwrap().value.general_names);
        assert!(names.contains(&format!("spiffe://atoll/host/{}", agent.id())), "{names}");
        assert!(names.contains(&format!("{}.host.atoll.internal", agent.id())), "{names}");
        assert!(!names.contains("evil"), "{names}");
    }
}

#[tokio::test]
async fn of_two_agents_that_race_with_one_token_exactly_one_wins() {
    for rig in rigs().await {
        let (_, token) = rig.new_host().await;
        let attempts = (0..8).map(|_| {
            let (hosts, token) = (rig.hosts.clone(), token.clone());
            tokio::spawn(async move { Agent::new().register(&hosts, &token).await })
        });
        let mut won = 0;
        for attempt in attempts.collect::<Vec<_>>() {
            match attempt.await.unwrap() {
                Ok(()) => won += 1,
                Err(HostError::Unauthorized) => {}
                Err(error) => panic!("neither won nor refused: {error:?}"),
            }
        }
        assert_eq!(won, 1);
        assert_eq!(rig.count("SELECT COUNT(*) FROM host_refresh_tokens").await, 1);
    }
}

#[tokio::test]
async fn a_token_is_worth_nothing_once_used_expired_or_replaced() {
    for rig in rigs().await {
        let (_, token) = rig.new_host().await;
        Agent::new().register(&rig.hosts, &token).await.unwrap();
        assert!(is_unauthorized(Agent::new().register(&rig.hosts, &token).await), "used");

        let (id, old) = rig.new_host().await;
        let new = rig.hosts.renew_registration(&id, &Actor::System, &Origin::default()).await.unwrap();
        assert!(is_unauthorized(Agent::new().register(&rig.hosts, &old).await), "replaced");
        Agent::new().register(&rig.hosts, &new.token).await.unwrap();

        let (_, token) = rig.new_host().await;
        rig.clock.advance(Duration::from_secs(3600));
        assert!(is_unauthorized(Agent::new().register(&rig.hosts, &token).await), "expired");
        assert!(is_unauthorized(Agent::new().register(&rig.hosts, "atr_nonsense").await), "unknown");
    }
}

#[tokio::test]
async fn an_agent_that_never_got_its_answer_registers_again_with_its_key_until_the_credentials_were_used() {
    for rig in rigs().await {
        let (id, token) = rig.new_host().await;
        let mut agent = Agent::new();
        agent.register(&rig.hosts, &token).await.unwrap();
        let lost = agent.credentials().clone();
        rig.clock.advance(Duration::from_secs(10));
        // Lost on the way, twice; nobody else's key is let in meanwhile.
        agent.register(&rig.hosts, &token).await.unwrap();
        assert!(is_unauthorized(Agent::new().register(&rig.hosts, &token).await));
        agent.register(&rig.hosts, &token).await.unwrap();
        assert_eq!(agent.id(), &id);
        rig.clock.advance(crate::hosts::refresh_tokens::GRACE);
        agent.beat(&rig.hosts).await.unwrap();
        assert!(
            is_unauthorized(agent.beat_with(&rig.hosts, &lost.access_token).await),
            "what was lost is worth nothing"
        );
        // It has them now.
        assert!(is_unauthorized(agent.register(&rig.hosts, &token).await));
        agent.refresh(&rig.hosts).await.unwrap();
        agent.beat(&rig.hosts).await.unwrap();
        assert!(is_unauthorized(agent.register(&rig.hosts, &token).await));
    }
}

#[tokio::test]
async fn registering_again_ends_with_the_token_and_with_a_new_enrolment() {
    for rig in rigs().await {
        let (id, token) = rig.new_host().await;
        let mut agent = Agent::new();
        agent.register(&rig.hosts, &token).await.unwrap();
        let sql = "UPDATE hosts SET status = 'unreachable'";
        on!(write & rig.db, |c| sqlx::query(sql).execute(c).await.map(|_| ())).unwrap();
        let newer = rig.hosts.renew_registration(&id, &Actor::System, &Origin::default()).await.unwrap();
        let mut other = Agent::new();
        other.register(&rig.hosts, &newer.token).await.unwrap();
        assert!(is_unauthorized(agent.register(&rig.hosts, &token).await), "another agent is this host now");
        other.beat(&rig.hosts).await.unwrap();

        let (_, token) = rig.new_host().await;
        let mut agent = Agent::new();
        agent.register(&rig.hosts, &token).await.unwrap();
        rig.clock.advance(Duration::from_secs(3600));
        assert!(is_unauthorized(agent.register(&rig.hosts, &token).await), "expired");
    }
}

#[tokio::test]
async fn a_bad_token_is_refused_before_anything_else_is_judged_and_a_bad_request_uses_up_no_token() {
    for rig in rigs().await {
        let (_, token) = rig.new_host().await;
        let agent = Agent::new();
        let mut request = agent.registration("atr_wrong");
        request.csr = "nonsense".to_owned();
        assert!(is_unauthorized(rig.hosts.register(&request, &Origin::default()).await));
        request.token.clone_from(&token);
        let refused = rig.hosts.register(&request, &Origin::default()).await;
        assert!(matches!(refused, Err(HostError::Invalid { field: "csr", .. })));
        let mut request = agent.registration(&token);
        request.address = "169.254.169.254:80".to_owned();
        let refused = rig.hosts.register(&request, &Origin::default()).await;
        assert!(matches!(refused, Err(HostError::Invalid { field: "address", .. })));
        assert!(rig.hosts.register(&agent.registration(&token), &Origin::default()).await.is_ok());
    }
}

#[tokio::test]
async fn a_healthy_host_gets_no_new_token_and_one_that_lost_its_credentials_re_enrols_under_its_id() {
    for rig in rigs().await {
        let old = rig.enrolled().await;
        let id = old.id().clone();
        let refused = rig.hosts.renew_registration(&id, &Actor::System, &Origin::default()).await;
        assert!(matches!(refused, Err(HostError::InvalidState(_))));

        // It is seen no more: that is what losing its credentials looks like.
        on!(write & rig.db, |c| sqlx::query("UPDATE hosts SET status = 'unreachable'").execute(c).await.map(|_| ()))
            .unwrap();
        let token = rig.hosts.renew_registration(&id, &Actor::System, &Origin::default()).await.unwrap();
        old.beat(&rig.hosts).await.expect("the old credentials work until the token is used");
        let mut new = Agent::new();
        new.register(&rig.hosts, &token.token).await.unwrap();
        assert_eq!(new.id(), &id);
        new.beat(&rig.hosts).await.unwrap();
        assert!(is_unauthorized(old.beat(&rig.hosts).await), "the old access token is revoked");
        assert!(is_unauthorized(old.present(&rig.hosts, &old.credentials().refresh_token).await), "and so is the rest");
        new.beat(&rig.hosts).await.expect("trying the old ones hurts the new ones in no way");
    }
}

#[tokio::test]
async fn a_signing_request_must_be_signed_with_its_own_p256_key() {
    let agent = Agent::new();
    assert!(crate::pki::CertificateRequest::from_pem(&agent.csr()).is_ok());
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let wrong_kind = CertificateParams::default().serialize_request(&other).unwrap().pem().unwrap();
    assert!(crate::pki::CertificateRequest::from_pem(&wrong_kind).is_err());
    let mut der = CertificateParams::default().serialize_request(&agent.key).unwrap().der().to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    let text = STANDARD.encode(&der);
    let broken = format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n");
    assert!(crate::pki::CertificateRequest::from_pem(&broken).is_err());
    assert!(HostKey::from_hex("00").is_err());
}
