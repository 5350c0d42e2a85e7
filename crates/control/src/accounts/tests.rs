//! What accounts promise.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;
use crate::audit::Origin;
use crate::db::Millis;
use crate::db::testing::{TestDb, databases, sqlite};

async fn accounts(test: &TestDb, clock: &Clock) -> Accounts {
    let tokens = UserTokens::load(&test.db, clock.now()).await.unwrap();
    Accounts::new(test.db.clone(), clock.clone(), tokens, Duration::from_secs(3600))
}

#[tokio::test]
async fn the_first_admin_is_made_once_whoever_tries() {
    for test in databases().await {
        let accounts = accounts(&test, &Clock::system()).await;
        let tries = (0..4).map(|n| {
            let accounts = accounts.clone();
            tokio::spawn(async move { accounts.first_admin(&format!("a{n}@example.test"), None).await.unwrap() })
        });
        let made: Vec<_> = futures::future::join_all(tries).await.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(made.len(), 1);
        assert!(accounts.anybody().await.unwrap());
        let password = made[0].password.clone();
        let signed_in = accounts.login(&made[0].email, password, &Origin::default(), None).await.unwrap();
        assert_eq!(signed_in.team_id, made[0].team_id);
    }
}

#[tokio::test]
async fn a_token_is_good_until_it_expires_and_only_as_it_was_signed() {
    let (test, clock) = (sqlite().await, Clock::manual(Millis(1_800_000_000_000)));
    let accounts = accounts(&test, &clock).await;
    let made = accounts.first_admin("a@example.test", None).await.unwrap().unwrap();
    let signed_in = accounts.login("a@example.test", made.password, &Origin::default(), None).await.unwrap();
    let token = signed_in.token.expose_secret();
    let tokens = accounts.tokens();
    assert_eq!(tokens.verify(token, clock.now()).unwrap().sub, signed_in.user_id);
    let (head, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = head.split_once('.').unwrap();
    let other = claims.replacen('J', "K", 1);
    for forged in [format!("{header}.{other}.{signature}"), format!("{header}.{claims}."), claims.to_owned()] {
        assert!(tokens.verify(&forged, clock.now()).is_none(), "{forged}");
    }
    clock.advance(Duration::from_secs(3601));
    assert!(tokens.verify(token, clock.now()).is_none());
}

#[tokio::test]
async fn replicas_accept_each_others_tokens() {
    for test in databases().await {
        let clock = Clock::system();
        let (one, other) = (accounts(&test, &clock).await, accounts(&test, &clock).await);
        let made = one.first_admin("a@example.test", None).await.unwrap().unwrap();
        let signed_in = one.login("a@example.test", made.password, &Origin::default(), None).await.unwrap();
        assert!(other.tokens().verify(signed_in.token.expose_secret(), clock.now()).is_some());
    }
}

#[tokio::test]
async fn attempts_are_counted_per_window_and_given_back() {
    for test in databases().await {
        let now = Millis(1_000_000);
        for _ in 0..3 {
            assert_eq!(rate::take(&test.db, "k", 3, now).await.unwrap(), None);
        }
        let wait = rate::take(&test.db, "k", 3, now + Duration::from_secs(20)).await.unwrap().unwrap();
        assert_eq!(wait, Duration::from_secs(40));
        assert_eq!(rate::take(&test.db, "k", 3, now + rate::WINDOW).await.unwrap(), None, "a new window");
        rate::give_back(&test.db, "k").await.unwrap();
        rate::prune(&test.db, now + rate::WINDOW * 3).await.unwrap();
    }
}
