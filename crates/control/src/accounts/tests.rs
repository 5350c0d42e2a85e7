//! What accounts promise.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;
use crate::audit::Origin;
use crate::db::Millis;
use crate::db::testing::{TestDb, databases};
use crate::mail::Mailer;
use atoll_model::api::auth::SessionKind;

async fn accounts(test: &TestDb, clock: &Clock) -> Accounts {
    let tokens = UserTokens::load(&test.db, None, clock.now()).await.unwrap();
    let settings = AccountSettings {
        signup: SignupMode::Open,
        session_ttl: Duration::from_secs(3600),
        browser_session_ttl: Duration::from_secs(86_400),
    };
    Accounts::new(test.db.clone(), clock.clone(), tokens, settings, Mailer::default())
}

fn visit(origin: &Origin) -> Visit<'_> {
    Visit { origin, user_agent: None, kind: SessionKind::Token, long: false }
}

fn token(signed_in: &SignedIn) -> &str {
    match &signed_in.credential {
        Credential::Token(token) => token.expose_secret(),
        Credential::Cookie(_) => panic!("a token was asked for"),
    }
}

#[tokio::test]
async fn a_first_admin_whose_credentials_could_not_be_kept_was_never_there() {
    for test in databases().await {
        let accounts = accounts(&test, &Clock::system()).await;
        let full = accounts.first_admin_kept("a@example.test", |_| Err("the disk is full".into())).await;
        assert!(matches!(full, Err(SetupError::Unkept(_))));
        assert!(!accounts.anybody().await.unwrap());
        let mut kept = None;
        let keep = |made: &FirstAdmin| {
            kept = Some((made.email.clone(), made.password.clone(), made.api_key.clone()));
            Ok(())
        };
        let made = accounts.first_admin_kept("b@example.test", keep).await.unwrap().unwrap();
        let (email, password, api_key) = kept.expect("before it is there");
        assert_eq!((email.as_str(), made.email.as_str()), ("b@example.test", "b@example.test"));
        assert_eq!(api_key.expose_secret(), made.api_key.expose_secret());
        let origin = Origin::default();
        accounts.login(&email, password, visit(&origin)).await.unwrap();
        assert!(accounts.first_admin_kept("c@example.test", |_| panic!("nobody is made")).await.unwrap().is_none());
    }
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
        let signed_in = accounts.login(&made[0].email, password, visit(&Origin::default())).await.unwrap();
        assert_eq!(signed_in.team_id, made[0].team_id);
    }
}

#[tokio::test]
async fn a_refused_sign_in_costs_one_comparison_of_the_same_costs_whoever_was_named() {
    for test in databases().await {
        let accounts = accounts(&test, &Clock::system()).await;
        accounts.first_admin("known@example.test", Some("long enough".into())).await.unwrap().unwrap();
        let origin = Origin::default();
        for email in ["off@example.test", "bare@example.test"] {
            let newcomer = Newcomer { email, name: "Off", password: "long enough".into() };
            accounts.signup(newcomer, visit(&origin)).await.unwrap();
        }
        for (sql, email) in [
            ("UPDATE users SET is_active = FALSE WHERE email = $1", "off@example.test"),
            ("UPDATE users SET password_hash = NULL WHERE email = $1", "bare@example.test"),
        ] {
            crate::db::on!(write & test.db, |c| sqlx::query(sql).bind(email).execute(c).await.map(|_| ())).unwrap();
        }
        accounts.hasher.take_compared();
        let mut costs = Vec::new();
        for (email, password) in [
            ("known@example.test", "wrong"),
            ("unknown@example.test", "wrong"),
            ("off@example.test", "wrong"),
            ("off@example.test", "long enough"),
            ("bare@example.test", "wrong"),
        ] {
            let refused = accounts.login(email, password.into(), visit(&origin)).await;
            assert!(matches!(refused, Err(LoginError::Refused)), "{email}");
            costs.push(accounts.hasher.take_compared());
        }
        assert!(costs.iter().all(|one| one.len() == 1 && *one == costs[0]), "{costs:?}");
        let origin = &origin;
        accounts.login("known@example.test", "long enough".into(), visit(origin)).await.unwrap();
        assert_eq!(accounts.hasher.take_compared(), costs[0]);
    }
}

#[tokio::test]
async fn a_token_is_good_until_it_expires_and_only_as_it_was_signed() {
    for database in databases().await {
        let (test, clock) = (database, Clock::manual(Millis(1_800_000_000_000)));
        let accounts = accounts(&test, &clock).await;
        let made = accounts.first_admin("a@example.test", None).await.unwrap().unwrap();
        let signed_in = accounts.login("a@example.test", made.password, visit(&Origin::default())).await.unwrap();
        let token = token(&signed_in);
        let tokens = accounts.tokens();
        assert_eq!(tokens.verify(token, clock.now()).await.unwrap().unwrap().claims.sub, signed_in.user_id);
        let (head, signature) = token.rsplit_once('.').unwrap();
        let (header, claims) = head.split_once('.').unwrap();
        let other = claims.replacen('J', "K", 1);
        for forged in [format!("{header}.{other}.{signature}"), format!("{header}.{claims}."), claims.to_owned()] {
            assert!(tokens.verify(&forged, clock.now()).await.unwrap().is_none(), "{forged}");
        }
        clock.advance(Duration::from_secs(3601));
        assert!(tokens.verify(token, clock.now()).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn replicas_accept_each_others_tokens() {
    for test in databases().await {
        let clock = Clock::system();
        let (one, other) = (accounts(&test, &clock).await, accounts(&test, &clock).await);
        let made = one.first_admin("a@example.test", None).await.unwrap().unwrap();
        let signed_in = one.login("a@example.test", made.password, visit(&Origin::default())).await.unwrap();
        assert!(other.tokens().verify(token(&signed_in), clock.now()).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn attempts_are_counted_per_window_by_all_replicas_and_given_back() {
    for test in databases().await {
        let (one, other) = (rate::Rates::new(test.db.clone()), rate::Rates::new(test.db.clone()));
        let (now, bound) = (Millis(1_000_000), rate::LOGIN_ACCOUNT.of("a@example.test"));
        for _ in 0..5 {
            assert_eq!(one.take(&bound, now).await.unwrap(), None);
            assert_eq!(other.take(&bound, now).await.unwrap(), None);
        }
        for rates in [&one, &other, &one] {
            let wait = rates.take(&bound, now + Duration::from_secs(20)).await.unwrap().unwrap();
            assert_eq!(wait, Duration::from_secs(40));
        }
        assert_eq!(one.take(&rate::LOGIN_ACCOUNT.of("b@example.test"), now).await.unwrap(), None, "another account");
        let later = now + Duration::from_secs(60);
        assert_eq!(one.take(&bound, later).await.unwrap(), None, "a new window");
        one.give_back(&bound).await.unwrap();
        for _ in 0..10 {
            assert_eq!(one.take(&bound, later).await.unwrap(), None);
        }
        assert!(one.take(&bound, later).await.unwrap().is_some());
        prune(&test.db, later + Duration::from_secs(7200)).await.unwrap();
    }
}

#[test]
fn addresses_of_one_ipv6_network_are_counted_as_one() {
    let key = |address| format!("{:?}", rate::LOGIN_ADDRESS.of_address(address));
    assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
    assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
    assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
}
