//! What links and codes promise: invitations, new passwords, logins of programs.

use std::time::Duration;

use atoll_model::api::auth::Role;
use axum::body::Body;
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::tests::assert_error;
use crate::config::SignupMode;
use crate::db::on;
use crate::db::testing::{TestDb, databases};
use crate::testing::{Client, FakeMailServer, TestApp, app, app_with, secret_in};

async fn with_mail(database: TestDb, server: &FakeMailServer) -> TestApp {
    app_with(database, |config| {
        config.smtp_url = Some(server.url.clone().into());
        config.smtp_from = Some("Atoll <atoll@example.test>".to_owned());
        config.public_url = Some("https://atoll.example".to_owned());
    })
    .await
}

async fn invite(by: &Client, test: &TestApp, email: &str, role: &str) -> Value {
    let path = format!("/v1/teams/{}/invitations", test.team());
    let answer = by.post(&path, json!({ "email": email, "role": role })).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()
}

fn accept_path(token: &str) -> String {
    format!("/v1/invitations/{token}/accept")
}

async fn actions(test: &TestApp) -> Vec<String> {
    let rows: Vec<(String,)> =
        on!(read & test.app.db, |c| sqlx::query_as("SELECT action FROM audit_logs ORDER BY at, id").fetch_all(c).await)
            .unwrap();
    rows.into_iter().map(|row| row.0).collect()
}

#[tokio::test]
async fn an_invited_person_makes_an_account_and_is_in_the_team() {
    for database in databases().await {
        let test = app(database).await;
        let owner = test.first().await;
        let made = invite(&owner, &test, "Ada@Example.test", "admin").await;
        assert_eq!((&made["mailed"], &made["email"]), (&json!(false), &json!("ada@example.test")));
        let token = secret_in(made["url"].as_str().unwrap());
        let nobody = test.client.anonymous();
        let seen = nobody.get(&format!("/v1/invitations/{token}")).await.json();
        assert_eq!((&seen["has_account"], &seen["role"]), (&json!(false), &json!("admin")));
        let bare = nobody.post(&accept_path(&token), json!({})).await;
        assert_eq!((bare.code().as_str(), bare.field().as_str()), ("invalid_request", "name"));
        let body = json!({ "name": "Ada", "password": "long enough" });
        let joined = nobody.post(&accept_path(&token), body.clone()).await;
        assert_eq!(joined.status, StatusCode::CREATED, "{}", joined.json());
        let ada = test.client.with_token(joined.json()["token"].as_str().unwrap());
        let me = ada.get("/v1/me").await.json();
        assert_eq!((&me["team_id"], &me["role"]), (&json!(test.team().as_str()), &json!("admin")));
        assert_error(&nobody.post(&accept_path(&token), body).await, 404, "not_found");
        let actions = actions(&test).await;
        for action in ["invitation.create", "invitation.accept", "user.signup"] {
            assert!(actions.iter().any(|done| done == action), "{action}: {actions:?}");
        }
    }
}

#[tokio::test]
async fn somebody_who_has_an_account_joins_with_it_once() {
    for database in databases().await {
        let test = app(database).await;
        let owner = test.first().await;
        let ada = test.person("Ada").await;
        let made = invite(&owner, &test, &ada.email, "member").await;
        let token = secret_in(made["url"].as_str().unwrap());
        let as_new = json!({ "name": "Ada", "password": "long enough" });
        assert_error(&test.client.anonymous().post(&accept_path(&token), as_new).await, 409, "email_taken");
        let path = accept_path(&token);
        let both = [ada.client.post(&path, json!({})), ada.client.post(&path, json!({}))];
        let answers = futures::future::join_all(both).await;
        let statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
        assert!(statuses.contains(&200) && statuses.contains(&404), "{statuses:?}");
        assert_eq!(ada.client.get("/v1/teams").await.json()["items"].as_array().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn invitations_are_the_admins_to_make_and_only_owners_invite_owners() {
    for database in databases().await {
        let test = app(database).await;
        let path = format!("/v1/teams/{}/invitations", test.team());
        let (member, admin) = (test.colleague("Mo", Role::Member).await, test.colleague("Al", Role::Admin).await);
        let stranger = test.person("Eve").await;
        let body = |role: &str| json!({ "email": "new@example.test", "role": role });
        assert_error(&member.client.post(&path, body("member")).await, 403, "forbidden");
        assert_error(&member.client.get(&path).await, 403, "forbidden");
        assert_error(&stranger.client.post(&path, body("member")).await, 404, "not_found");
        assert_error(&stranger.client.get(&path).await, 404, "not_found");
        assert_error(&admin.client.post(&path, body("owner")).await, 403, "forbidden");
        assert_eq!(admin.client.post(&path, body("admin")).await.status, StatusCode::CREATED);
        let taken = admin.client.post(&path, json!({ "email": member.email })).await;
        assert_error(&taken, 409, "conflict");
    }
}

#[tokio::test]
async fn an_invitation_is_worth_nothing_when_it_is_over_replaced_or_taken_back() {
    for database in databases().await {
        let test = app(database).await;
        let owner = test.first().await;
        let first = secret_in(invite(&owner, &test, "a@example.test", "member").await["url"].as_str().unwrap());
        let made = invite(&owner, &test, "a@example.test", "member").await;
        let second = secret_in(made["url"].as_str().unwrap());
        let nobody = test.client.anonymous();
        let look = async |token: &str| nobody.get(&format!("/v1/invitations/{token}")).await;
        assert_error(&look(&first).await, 404, "not_found");
        assert_eq!(look(&second).await.status, StatusCode::OK);
        let path = format!("/v1/teams/{}/invitations", test.team());
        let listed = owner.get(&path).await.json();
        assert_eq!(listed["items"].as_array().unwrap().len(), 1);
        assert!(!listed.to_string().contains(&second), "a list shows no secrets");
        let one = format!("{path}/{}", made["id"].as_str().unwrap());
        assert_eq!(owner.delete(&one).await.status, StatusCode::NO_CONTENT);
        assert_error(&owner.delete(&one).await, 404, "not_found");
        assert_error(&look(&second).await, 404, "not_found");
        let third = secret_in(invite(&owner, &test, "a@example.test", "member").await["url"].as_str().unwrap());
        test.clock.advance(Duration::from_secs(7 * 24 * 3600));
        assert_error(&look(&third).await, 404, "not_found");
    }
}

#[tokio::test]
async fn where_signing_up_takes_an_invitation_one_is_enough() {
    for database in databases().await {
        let test = app(database).await;
        let token =
            secret_in(invite(&test.first().await, &test, "a@example.test", "member").await["url"].as_str().unwrap());
        let body = |email: &str, invitation: &str| json!({ "email": email, "password": "long enough", "name": "A", "invitation": invitation });
        let nobody = test.client.anonymous();
        assert_error(&nobody.post("/v1/auth/signup", body("a@example.test", "wrong")).await, 404, "not_found");
        assert_eq!(nobody.post("/v1/auth/signup", body("b@example.test", &token)).await.field(), "email");
        assert_eq!(nobody.post("/v1/auth/signup", body("A@example.test", &token)).await.status, StatusCode::CREATED);
    }
}

#[tokio::test]
async fn where_nobody_may_sign_up_an_invitation_makes_no_account_and_an_admin_does() {
    for database in databases().await {
        let test = app_with(database, |config| config.signup = SignupMode::Closed).await;
        let owner = test.first().await;
        let token = secret_in(invite(&owner, &test, "a@example.test", "member").await["url"].as_str().unwrap());
        let body = json!({ "name": "A", "password": "long enough" });
        assert_error(&test.client.anonymous().post(&accept_path(&token), body).await, 403, "signup_closed");
        let new = json!({ "email": "b@example.test", "name": "B" });
        let stranger = test.person("Eve").await;
        assert_error(&stranger.client.post("/v1/admin/users", new.clone()).await, 403, "forbidden");
        let made = owner.post("/v1/admin/users", new.clone()).await;
        assert_eq!(made.status, StatusCode::CREATED);
        assert_error(&owner.post("/v1/admin/users", new).await, 409, "email_taken");
        let token = secret_in(made.json()["url"].as_str().unwrap());
        let set = json!({ "token": token, "password": "a new password" });
        let confirm = test.client.anonymous().post("/v1/auth/password/reset/confirm", set).await;
        assert_eq!(confirm.status, StatusCode::NO_CONTENT);
        test.client.login("b@example.test", &"a new password".into()).await;
    }
}

#[tokio::test]
async fn mail_brings_invitations_and_new_passwords() {
    for database in databases().await {
        let server = FakeMailServer::start().await;
        let test = with_mail(database, &server).await;
        let owner = test.first().await;
        let made = invite(&owner, &test, "ada@example.test", "member").await;
        assert_eq!((&made["mailed"], made.get("url")), (&json!(true), None), "only the mail has the link");
        let mail = server.mail_to("ada@example.test").await;
        assert!(
            mail.contains("From: \"Atoll\" <atoll@example.test>") || mail.contains("From: Atoll <atoll@example.test>")
        );
        assert!(mail.contains("https://atoll.example/invite"), "{mail}");
        let body = json!({ "name": "Ada", "password": "long enough" });
        let joined = test.client.anonymous().post(&accept_path(&secret_in(&mail)), body).await;
        let ada = test.client.with_token(joined.json()["token"].as_str().unwrap());

        let nobody = test.client.anonymous();
        let asked = nobody.post("/v1/auth/password/reset", json!({ "email": "Ada@example.test" })).await;
        assert_eq!(asked.status, StatusCode::ACCEPTED);
        let token = secret_in(&server.mail_to("ada@example.test").await);
        let set = |password: &str| json!({ "token": token, "password": password });
        let short = nobody.post("/v1/auth/password/reset/confirm", set("short")).await;
        assert_eq!(short.field(), "password");
        let done = nobody.post("/v1/auth/password/reset/confirm", set("a new password")).await;
        assert_eq!(done.status, StatusCode::NO_CONTENT);
        assert_error(&ada.get("/v1/me").await, 401, "unauthorized");
        test.client.login("ada@example.test", &"a new password".into()).await;
        let again = nobody.post("/v1/auth/password/reset/confirm", set("another password")).await;
        assert_error(&again, 404, "not_found");
    }
}

#[tokio::test]
async fn asking_for_a_new_password_tells_nothing_and_is_bounded() {
    for database in databases().await {
        let server = FakeMailServer::start().await;
        let test = with_mail(database, &server).await;
        let nobody = test.client.anonymous();
        let ask = async |email: &str| nobody.post("/v1/auth/password/reset", json!({ "email": email })).await;
        let (known, unknown) = (ask("admin@example.test").await, ask("nobody@example.test").await);
        assert_eq!((known.status, &known.body), (unknown.status, &unknown.body));
        server.mail_to("admin@example.test").await;
        for _ in 0..2 {
            ask("nobody@example.test").await;
        }
        let bounded = ask("nobody@example.test").await;
        assert_error(&bounded, 429, "rate_limited");
        assert!(bounded.headers.contains_key("retry-after"));
        assert_eq!(server.count(), 0, "no mail to those who have no account");
    }
}

#[tokio::test]
async fn an_invitation_that_could_not_be_mailed_is_handed_on() {
    for database in databases().await {
        let mut server = FakeMailServer::start().await;
        server.url = "smtp://127.0.0.1:1".to_owned();
        let test = with_mail(database, &server).await;
        let made = invite(&test.first().await, &test, "ada@example.test", "member").await;
        assert_eq!(made["mailed"], false);
        assert!(made["url"].as_str().unwrap().starts_with("https://atoll.example/invite#"));
    }
}

#[tokio::test]
async fn an_admins_link_sets_a_password_until_it_is_over() {
    for database in databases().await {
        let test = app(database).await;
        let (owner, ada) = (test.first().await, test.person("Ada").await);
        let path = format!("/v1/admin/users/{}/password-reset", ada.id);
        assert_error(&ada.client.post(&path, json!({})).await, 403, "forbidden");
        let missing = owner.post("/v1/admin/users/user-aaaaaaaaaaaaaaaaaaaa/password-reset", json!({})).await;
        assert_error(&missing, 404, "not_found");
        let first = secret_in(owner.post(&path, json!({})).await.json()["url"].as_str().unwrap());
        let second = secret_in(owner.post(&path, json!({})).await.json()["url"].as_str().unwrap());
        let set = |token: &str| json!({ "token": token, "password": "a new password" });
        let confirm = "/v1/auth/password/reset/confirm";
        let nobody = test.client.anonymous();
        assert_error(&nobody.post(confirm, set(&first)).await, 404, "not_found");
        test.clock.advance(Duration::from_secs(3 * 24 * 3600));
        assert_error(&nobody.post(confirm, set(&second)).await, 404, "not_found");
        let owner = test.first().await;
        let third = secret_in(owner.post(&path, json!({})).await.json()["url"].as_str().unwrap());
        assert_eq!(nobody.post(confirm, set(&third)).await.status, StatusCode::NO_CONTENT);
        test.client.login(&ada.email, &"a new password".into()).await;
    }
}

#[tokio::test]
async fn wrong_links_are_bounded_by_address() {
    for database in databases().await {
        let test = app(database).await;
        let nobody = test.client.anonymous();
        let mut last = nobody.get("/v1/invitations/wrong").await;
        for _ in 0..60 {
            last = nobody.get("/v1/invitations/wrong").await;
        }
        assert_error(&last, 429, "rate_limited");
        let body = json!({ "token": "wrong", "password": "long enough" });
        assert_error(&nobody.post("/v1/auth/password/reset/confirm", body).await, 429, "rate_limited");
    }
}

async fn begin(test: &TestApp) -> Value {
    let client = test.client.anonymous().with("host", "127.0.0.1:7420");
    let begun = client.post("/v1/auth/device", json!({ "client_name": "atoll on laptop" })).await;
    assert_eq!(begun.status, StatusCode::OK);
    begun.json()
}

#[tokio::test]
async fn a_program_is_let_in_by_a_person_for_thirty_days() {
    for database in databases().await {
        let test = app(database).await;
        let ada = test.person("Ada").await;
        let begun = begin(&test).await;
        assert_eq!(begun["verification_uri"], "http://127.0.0.1:7420/device");
        let nobody = test.client.anonymous();
        let ask = async || nobody.post("/v1/auth/device/token", json!({ "device_code": begun["device_code"] })).await;
        assert_error(&ask().await, 400, "authorization_pending");
        let slow = ask().await;
        assert_error(&slow, 400, "slow_down");
        assert_eq!(slow.json()["error"]["interval"], 10);
        test.clock.advance(Duration::from_secs(10));
        assert_error(&ask().await, 400, "authorization_pending");
        let code = begun["user_code"].as_str().unwrap().to_lowercase();
        let seen = ada.client.get(&format!("/v1/auth/device?code={code}")).await.json();
        assert_eq!((&seen["client_name"], &seen["address"]), (&json!("atoll on laptop"), &json!("192.0.2.1")));
        let decide = json!({ "user_code": code, "approve": true });
        assert_error(&nobody.post("/v1/auth/device/decision", decide.clone()).await, 401, "unauthorized");
        let decided = ada.client.post("/v1/auth/device/decision", decide.clone()).await;
        assert_eq!(decided.status, StatusCode::NO_CONTENT);
        assert_error(&ada.client.post("/v1/auth/device/decision", decide).await, 404, "not_found");
        let answer = ask().await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.json());
        let program = test.client.with_token(answer.json()["token"].as_str().unwrap());
        assert_eq!(program.get("/v1/me").await.json()["email"], ada.email);
        assert_error(&ask().await, 400, "expired_token");
        test.clock.advance(Duration::from_secs(29 * 24 * 3600));
        assert_eq!(program.get("/v1/sandboxes").await.status, StatusCode::OK);
        program.send(Method::POST, "/v1/auth/logout", Body::empty()).await;
        assert_error(&program.get("/v1/me").await, 401, "unauthorized");
    }
}

#[tokio::test]
async fn a_program_that_is_sent_away_or_too_late_gets_nothing() {
    for database in databases().await {
        let test = app(database).await;
        let ada = test.person("Ada").await;
        let nobody = test.client.anonymous();
        let ask = async |begun: &Value| {
            nobody.post("/v1/auth/device/token", json!({ "device_code": begun["device_code"] })).await
        };
        let (denied, late) = (begin(&test).await, begin(&test).await);
        let decide = |begun: &Value, approve: bool| json!({ "user_code": begun["user_code"], "approve": approve });
        ada.client.post("/v1/auth/device/decision", decide(&denied, false)).await;
        assert_error(&ask(&denied).await, 400, "access_denied");
        test.clock.advance(Duration::from_secs(900));
        assert_error(&ask(&late).await, 400, "expired_token");
        assert_error(&ada.client.post("/v1/auth/device/decision", decide(&late, true)).await, 404, "not_found");
        assert_error(&ask(&json!({ "device_code": "wrong" })).await, 400, "expired_token");
    }
}

#[tokio::test]
async fn codes_of_programs_cannot_be_tried_without_end() {
    for database in databases().await {
        let test = app(database).await;
        let ada = test.person("Ada").await;
        let mut last = ada.client.get("/v1/auth/device?code=BCDF-GHJK").await;
        assert_error(&last, 404, "not_found");
        for _ in 0..20 {
            last = ada.client.get("/v1/auth/device?code=BCDF-GHJK").await;
        }
        assert_error(&last, 429, "rate_limited");
    }
}

#[tokio::test]
async fn wrong_tokens_of_hosts_are_bounded_by_address() {
    for database in databases().await {
        let test = app(database).await;
        let nobody = test.client.anonymous();
        let mut last = nobody.post("/v1/hosts/register", json!({ "token": "atr_wrong" })).await;
        assert_error(&last, 401, "unauthorized");
        for index in 0..300 {
            last = nobody.post("/v1/hosts/register", json!({ "token": format!("atr_{index}") })).await;
        }
        assert_error(&last, 429, "rate_limited");
    }
}

/// A client at another address, which a proxy tells of.
fn from(test: &TestApp, address: usize) -> Client {
    test.client.anonymous().with("x-forwarded-for", &format!("198.51.{}.{}", address / 250, address % 250))
}

async fn behind_a_proxy(database: TestDb) -> TestApp {
    app_with(database, |config| {
        config.signup = SignupMode::Open;
        config.trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
    })
    .await
}

#[tokio::test]
async fn one_account_or_token_is_bounded_from_however_many_addresses() {
    for database in databases().await {
        let test = behind_a_proxy(database).await;
        let host = json!({ "token": "atr_wrong" });
        let refresh = json!({ "refresh_token": "atf_wrong", "csr": "x", "timestamp_ms": 1 });
        let sign_up = json!({ "email": "admin@example.test", "password": "long enough", "name": "A" });
        let sign_in = json!({ "email": "admin@example.test", "password": "not this one" });
        for (path, body, allowed, status, code) in [
            ("/v1/hosts/register", host, 60, 401, "unauthorized"),
            ("/v1/hosts/auth/refresh", refresh, 60, 401, "unauthorized"),
            ("/v1/auth/signup", sign_up, 10, 409, "email_taken"),
            ("/v1/auth/login", sign_in, 10, 401, "unauthorized"),
        ] {
            for address in 0..allowed {
                assert_error(&from(&test, address).post(path, body.clone()).await, status, code);
            }
            for again in [allowed, allowed + 1] {
                assert_error(&from(&test, again).post(path, body.clone()).await, 429, "rate_limited");
            }
            test.clock.advance(Duration::from_secs(60));
        }
    }
}

#[tokio::test]
async fn an_address_over_its_limit_costs_no_write_whatever_accounts_it_names() {
    for database in databases().await {
        let test = behind_a_proxy(database).await;
        let client = from(&test, 1);
        let ask = async |index: usize| {
            let body = json!({ "email": format!("a{index}@example.test") });
            client.post("/v1/auth/password/reset", body).await.status
        };
        for index in 0..20 {
            assert_eq!(ask(index).await, StatusCode::ACCEPTED);
        }
        let counted = async || {
            let row: (i64,) =
                on!(read & test.app.db, |c| sqlx::query_as("SELECT COUNT(*) FROM rate_limits").fetch_one(c).await)
                    .unwrap();
            row.0
        };
        assert_eq!(ask(20).await, StatusCode::TOO_MANY_REQUESTS);
        let before = counted().await;
        assert_eq!(before, 21, "twenty accounts and the address");
        for index in 21..40 {
            assert_eq!(ask(index).await, StatusCode::TOO_MANY_REQUESTS);
        }
        assert_eq!(counted().await, before);
    }
}

#[tokio::test]
async fn a_program_that_asks_without_pause_is_bounded_and_costs_nothing_at_last() {
    for database in databases().await {
        let test = behind_a_proxy(database).await;
        let begun = begin(&test).await;
        let ask = async |address: usize| {
            from(&test, address).post("/v1/auth/device/token", json!({ "device_code": begun["device_code"] })).await
        };
        let asked = async || {
            let row: (Option<i64>, i64) =
                on!(read & test.app.db, |c| sqlx::query_as("SELECT polled_at, interval_ms FROM device_logins")
                    .fetch_one(c)
                    .await)
                .unwrap();
            row
        };
        assert_error(&ask(1).await, 400, "authorization_pending");
        for _ in 0..11 {
            assert_error(&ask(1).await, 400, "slow_down");
        }
        let slowest = asked().await;
        assert_eq!(slowest.1, 60_000);
        test.clock.advance(Duration::from_secs(1));
        assert_error(&ask(1).await, 400, "slow_down");
        assert_eq!(asked().await, slowest, "nothing is written any more");
        for _ in 0..48 {
            assert_error(&ask(1).await, 400, "slow_down");
        }
        // A replica learns that the limit is exceeded when it counts.
        for _ in 0..2 {
            assert_error(&ask(1).await, 429, "rate_limited");
        }
        let wrong = json!({ "device_code": "wrong" });
        assert_error(&from(&test, 1).post("/v1/auth/device/token", wrong.clone()).await, 429, "rate_limited");
        assert_error(&from(&test, 2).post("/v1/auth/device/token", wrong).await, 400, "expired_token");
        test.clock.advance(Duration::from_secs(60));
        assert_error(&ask(1).await, 400, "authorization_pending");
    }
}
