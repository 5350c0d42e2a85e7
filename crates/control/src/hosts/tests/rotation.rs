use super::*;
use crate::hosts::refresh_tokens::GRACE;

#[tokio::test]
async fn a_lost_answer_locks_nobody_out_however_long_it_takes_to_ask_again() {
    for rig in rigs().await {
        let mut agent = rig.enrolled().await;
        for _ in 0..3 {
            agent.present(&rig.hosts, &agent.credentials().refresh_token).await.expect("answered, and lost");
            rig.clock.advance(10 * DAY);
        }
        agent.refresh(&rig.hosts).await.unwrap();
        agent.beat(&rig.hosts).await.unwrap();
    }
}

#[tokio::test]
async fn a_replaced_token_works_for_a_minute_after_its_successor_was_used_and_then_is_theft() {
    for rig in rigs().await {
        let mut agent = rig.enrolled().await;
        let old = agent.credentials().refresh_token.clone();
        agent.refresh(&rig.hosts).await.unwrap();
        agent.refresh(&rig.hosts).await.unwrap();
        rig.clock.advance(GRACE - Duration::from_secs(1));
        agent.present(&rig.hosts, &old).await.expect("a request that was under way");
        rig.clock.advance(Duration::from_secs(1));
        assert!(is_unauthorized(agent.present(&rig.hosts, &old).await));
        // The whole family is revoked, access tokens too, and somebody can read why.
        assert!(is_unauthorized(agent.beat(&rig.hosts).await));
        assert!(is_unauthorized(agent.refresh(&rig.hosts).await));
        let entries = "SELECT COUNT(*) FROM audit_logs WHERE action = 'host.refresh_token_reused'";
        assert_eq!(rig.count(entries).await, 1, "one entry, not one per attempt");
    }
}

#[tokio::test]
async fn an_access_token_that_nobody_used_is_worth_nothing_once_another_took_its_place() {
    for rig in rigs().await {
        let mut agent = rig.enrolled().await;
        let old = agent.credentials().refresh_token.clone();
        let unused = agent.present(&rig.hosts, &old).await.unwrap().access_token;
        rig.hosts.authenticate(agent.id(), Some(&unused)).await.expect("good until then");
        agent.refresh(&rig.hosts).await.unwrap();
        agent.beat(&rig.hosts).await.unwrap();
        rig.clock.advance(GRACE);
        // Whatever it is asked with: an image as much as a heartbeat.
        assert!(is_unauthorized(rig.hosts.authenticate(agent.id(), Some(&unused)).await));
        assert!(is_unauthorized(agent.beat_with(&rig.hosts, &unused).await));
        rig.hosts.authenticate(agent.id(), Some(&agent.credentials().access_token)).await.unwrap();
    }
}

#[tokio::test]
async fn old_tokens_are_all_removed_at_once() {
    for rig in rigs().await {
        let agent = rig.enrolled().await;
        for table in ["host_refresh_tokens", "host_registration_tokens"] {
            let (id, revoked) = match table {
                "host_refresh_tokens" => ("id, token_hash, family_id", "n, n, 'f'"),
                _ => ("token_hash", "n"),
            };
            let numbers = "WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 2500),
                names(n) AS (SELECT CAST(i AS TEXT) FROM numbers)";
            let sql = format!(
                "{numbers} INSERT INTO {table} ({id}, host_id, created_at, expires_at)
                 SELECT {revoked}, '{}', 0, 1 FROM names",
                agent.id()
            );
            on!(write & rig.db, |c| sqlx::query(sqlx::AssertSqlSafe(sql)).execute(c).await.map(|_| ())).unwrap();
        }
        assert_eq!(crate::hosts::purge::run(&rig.db, rig.clock.now()).await.unwrap(), 5000);
        assert_eq!(rig.count("SELECT COUNT(*) FROM host_refresh_tokens").await, 1, "the one in force");
    }
}

#[tokio::test]
async fn using_the_new_access_token_replaces_the_old_refresh_token_too() {
    for rig in rigs().await {
        let mut agent = rig.enrolled().await;
        let old = agent.credentials().refresh_token.clone();
        agent.refresh(&rig.hosts).await.unwrap();
        agent.beat(&rig.hosts).await.unwrap();
        rig.clock.advance(GRACE);
        assert!(is_unauthorized(agent.present(&rig.hosts, &old).await));
        assert!(is_unauthorized(agent.beat(&rig.hosts).await));
    }
}

#[tokio::test]
async fn two_refreshes_at_once_leave_both_callers_with_working_credentials() {
    for rig in rigs().await {
        let agent = rig.enrolled().await;
        let token = &agent.credentials().refresh_token;
        let (one, two) = tokio::join!(agent.present(&rig.hosts, token), agent.present(&rig.hosts, token));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_ne!(one.refresh_token, two.refresh_token);
        agent.beat_with(&rig.hosts, &one.access_token).await.unwrap();
        agent.beat_with(&rig.hosts, &two.access_token).await.unwrap();
        rig.clock.advance(GRACE * 2);
        for mine in [one, two] {
            agent.beat_with(&rig.hosts, &mine.access_token).await.unwrap();
            agent.present(&rig.hosts, &mine.refresh_token).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_successor_that_nobody_used_dies_with_the_use_of_its_twin() {
    for rig in rigs().await {
        let agent = rig.enrolled().await;
        let lost = agent.present(&rig.hosts, &agent.credentials().refresh_token).await.unwrap();
        let kept = agent.present(&rig.hosts, &agent.credentials().refresh_token).await.unwrap();
        agent.beat_with(&rig.hosts, &kept.access_token).await.unwrap();
        rig.clock.advance(GRACE);
        assert!(is_unauthorized(agent.beat_with(&rig.hosts, &lost.access_token).await));
        agent.beat_with(&rig.hosts, &kept.access_token).await.expect("that alone harms nobody");
        assert!(is_unauthorized(agent.present(&rig.hosts, &lost.refresh_token).await), "theft");
        assert!(is_unauthorized(agent.beat_with(&rig.hosts, &kept.access_token).await));
    }
}

#[tokio::test]
async fn a_stolen_token_without_the_hosts_key_is_worth_nothing_and_harms_nobody() {
    for rig in rigs().await {
        let mut agent = rig.enrolled().await;
        let thief = Agent::new();
        assert!(is_unauthorized(thief.present(&rig.hosts, &agent.credentials().refresh_token).await));
        let request = RefreshHostRequest {
            refresh_token: agent.credentials().refresh_token.clone(),
            csr: agent.csr(),
            timestamp_ms: 0,
        };
        let body = serde_json::to_vec(&request).unwrap();
        for signature in [None, Some(""), Some("AAAA"), Some("no base64!")] {
            assert!(is_unauthorized(rig.hosts.refresh(&request, &body, signature, &Origin::default()).await));
        }
        // Not even an old token, which would be theft if the host itself presented it.
        let old = agent.credentials().refresh_token.clone();
        agent.refresh(&rig.hosts).await.unwrap();
        agent.refresh(&rig.hosts).await.unwrap();
        rig.clock.advance(DAY);
        assert!(is_unauthorized(thief.present(&rig.hosts, &old).await));
        agent.refresh(&rig.hosts).await.unwrap();
    }
}

#[tokio::test]
async fn another_key_can_not_be_certified_by_a_refresh() {
    for rig in rigs().await {
        let agent = rig.enrolled().await;
        let request = RefreshHostRequest {
            refresh_token: agent.credentials().refresh_token.clone(),
            csr: Agent::new().csr(),
            timestamp_ms: 0,
        };
        let body = serde_json::to_vec(&request).unwrap();
        let signature = STANDARD.encode(agent.key.sign(&body).unwrap());
        let refused = rig.hosts.refresh(&request, &body, Some(&signature), &Origin::default()).await;
        assert!(matches!(refused, Err(HostError::Invalid { field: "csr", .. })));
    }
}

#[tokio::test]
async fn tokens_expire_and_old_ones_are_removed() {
    for rig in rigs().await {
        let agent = rig.enrolled().await;
        rig.clock.advance(7 * DAY);
        assert!(is_unauthorized(agent.beat(&rig.hosts).await), "the access token after 7 days");
        let fresh = agent.present(&rig.hosts, &agent.credentials().refresh_token).await.unwrap();
        agent.beat_with(&rig.hosts, &fresh.access_token).await.unwrap();
        rig.clock.advance(60 * DAY);
        assert!(is_unauthorized(agent.present(&rig.hosts, &fresh.refresh_token).await), "the refresh token after 60");
        assert!(crate::hosts::purge::run(&rig.db, rig.clock.now() + DAY).await.unwrap() >= 2);
        assert_eq!(rig.count("SELECT COUNT(*) FROM host_refresh_tokens").await, 0);
    }
}

#[tokio::test]
async fn answers_that_are_always_lost_do_not_fill_the_table() {
    for rig in rigs().await {
        let agent = rig.enrolled().await;
        for _ in 0..40 {
            agent.present(&rig.hosts, &agent.credentials().refresh_token).await.unwrap();
            rig.clock.advance(Duration::from_secs(1));
        }
        assert!(rig.count("SELECT COUNT(*) FROM host_refresh_tokens").await <= 17);
    }
}
