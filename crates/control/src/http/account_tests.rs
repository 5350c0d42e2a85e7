//! What signing up, in and out promises, over both databases.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::SET_COOKIE;
use axum::http::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::tests::assert_error;
use crate::config::SignupMode;
use crate::db::on;
use crate::db::testing::{databases, sqlite};
use crate::testing::{Answer, Client, TestApp, app, app_with};

const ORIGIN: &str = "http://127.0.0.1:7420";

/// A browser that shows the dashboard of `127.0.0.1:7420`.
struct Browser {
    client: Client,
    csrf: String,
}

fn at_the_dashboard(client: &Client) -> Client {
    client.anonymous().with("host", "127.0.0.1:7420").with("origin", ORIGIN)
}

fn cookie(answer: &Answer) -> String {
    answer.headers[SET_COOKIE].to_str().unwrap().to_owned()
}

impl Browser {
    fn of(client: &Client, answer: &Answer) -> Self {
        let json = answer.json();
        assert!(json.get("token").is_none(), "a page never sees the credential: {json}");
        let pair = cookie(answer).split(';').next().unwrap().to_owned();
        let csrf = json["csrf_token"].as_str().unwrap().to_owned();
        Self { client: at_the_dashboard(client).with("cookie", &pair), csrf }
    }

    async fn sign_in(test: &TestApp, email: &str, password: &SecretString) -> Self {
        let body = json!({ "email": email, "password": password.expose_secret() });
        let answer = at_the_dashboard(&test.client).with("x-session", "cookie").post("/v1/auth/login", body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
        Self::of(&test.client, &answer)
    }

    /// As a page of the dashboard asks.
    fn page(&self) -> Client {
        self.client.with("x-csrf-token", &self.csrf)
    }
}

async fn browser(test: &TestApp) -> Browser {
    Browser::sign_in(test, "admin@example.test", &test.admin.password).await
}

async fn open(database: crate::db::testing::TestDb) -> TestApp {
    app_with(database, |config| config.signup = SignupMode::Open).await
}

async fn sign_up(test: &TestApp, email: &str) -> (Client, Value) {
    let body = json!({ "email": email, "password": "long enough", "name": "Ada" });
    let answer = test.client.anonymous().post("/v1/auth/signup", body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&answer.body));
    let json = answer.json();
    (test.client.with_token(json["token"].as_str().unwrap()), json)
}

#[tokio::test]
async fn a_browser_signs_in_by_a_cookie_that_no_page_can_read_or_set() {
    for database in databases().await {
        let test = app(database).await;
        let body = json!({ "email": "admin@example.test", "password": test.admin.password.expose_secret() });
        let client = at_the_dashboard(&test.client).with("x-session", "cookie");
        let answer = client.post("/v1/auth/login", body).await;
        let cookie = cookie(&answer);
        assert!(cookie.starts_with("__Host-atoll-7420="), "{cookie}");
        for attribute in ["; Path=/;", "; HttpOnly", "; SameSite=Strict", "; Secure", "; Max-Age=604800"] {
            assert!(cookie.contains(attribute), "{attribute}: {cookie}");
        }
        assert!(!cookie.contains("Domain"));
        let browser = Browser::of(&test.client, &answer);
        let me = browser.client.get("/v1/me").await;
        assert_eq!(me.json()["csrf_token"], browser.csrf, "a page that is loaded anew learns it again");
        assert_eq!((&me.json()["is_admin"], &me.json()["role"]), (&json!(true), &json!("owner")));
        assert_eq!(browser.client.get("/v1/sandboxes").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn the_cookies_name_says_how_far_it_can_be_trusted() {
    for database in databases().await {
        let test = app_with(database, |config| {
            config.public_url = Some("https://atoll.example".to_owned());
            config.trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
        })
        .await;
        let name_at = async |host: &str, proto: Option<&str>| {
            let client = test.client.anonymous().with("host", host).with("x-session", "cookie");
            let client = proto.map_or(client.clone(), |proto| client.with("x-forwarded-proto", proto));
            let body = json!({ "email": "admin@example.test", "password": test.admin.password.expose_secret() });
            let cookie = cookie(&client.post("/v1/auth/login", body).await);
            assert_eq!(cookie.starts_with("__Host-"), cookie.contains("Secure"), "{cookie}");
            cookie.split('=').next().unwrap().to_owned()
        };
        assert_eq!(name_at("localhost", None).await, "__Host-atoll");
        assert_eq!(name_at("10.0.0.5:7420", None).await, "atoll-7420", "browsers take no Secure cookie there");
        assert_eq!(name_at("atoll.example", None).await, "__Host-atoll", "the public address is behind TLS");
        assert_eq!(name_at("other.example", Some("https")).await, "__Host-atoll", "a trusted proxy says so");
    }
}

#[tokio::test]
async fn what_a_cookie_changes_needs_our_origin_and_the_sessions_csrf_token() {
    for database in databases().await {
        let test = app(database).await;
        let browser = browser(&test).await;
        let rename = json!({ "name": "New" });
        let with_csrf = test.client.anonymous().with("host", "127.0.0.1:7420").with("x-csrf-token", &browser.csrf);
        let cookie = cookie_of(&browser);
        for origin in ["http://evil.example", "http://127.0.0.1:7421", "null"] {
            let client = with_csrf.with("cookie", &cookie).with("origin", origin);
            assert_error(&client.patch("/v1/me", rename.clone()).await, 403, "origin_mismatch");
        }
        assert_error(&with_csrf.with("cookie", &cookie).patch("/v1/me", rename.clone()).await, 403, "origin_mismatch");
        assert_error(&browser.client.patch("/v1/me", rename.clone()).await, 403, "csrf_token_invalid");
        let wrong = browser.client.with("x-csrf-token", &"0".repeat(64));
        assert_error(&wrong.patch("/v1/me", rename.clone()).await, 403, "csrf_token_invalid");
        assert_error(&browser.client.post("/v1/sandboxes", json!({})).await, 403, "csrf_token_invalid");
        assert_eq!(browser.page().patch("/v1/me", rename).await.json()["name"], "New");
        assert_eq!(browser.client.get("/v1/me").await.json()["name"], "New");
    }
}

fn cookie_of(browser: &Browser) -> String {
    browser.client.header("cookie")
}

#[tokio::test]
async fn a_websocket_by_cookie_needs_our_origin() {
    for database in databases().await {
        let test = app(database).await;
        let browser = browser(&test).await;
        let socket = "/v1/sandboxes/sb-aaaaaaaaaaaaaaaaaaaa/pty";
        let upgrade = |client: Client| client.with("upgrade", "websocket").with("connection", "upgrade");
        let evil = browser.client.with("origin", "http://evil.example");
        assert_error(&upgrade(evil).get(socket).await, 403, "origin_mismatch");
        let ours = upgrade(browser.client.clone()).get(socket).await;
        assert_ne!(ours.status, StatusCode::FORBIDDEN, "{}", String::from_utf8_lossy(&ours.body));
        let machine = test.client.with_token(&test.client.login("admin@example.test", &test.admin.password).await);
        let machine = upgrade(machine.with("origin", "http://evil.example")).get(socket).await;
        assert_ne!(machine.status, StatusCode::FORBIDDEN, "a token is nothing that a browser sends by itself");
    }
}

#[tokio::test]
async fn another_sites_page_signs_nobody_in() {
    for database in databases().await {
        let test = app(database).await;
        let body = json!({ "email": "admin@example.test", "password": test.admin.password.expose_secret() });
        let evil = at_the_dashboard(&test.client).with("origin", "https://evil.example").with("x-session", "cookie");
        assert_error(&evil.post("/v1/auth/login", body.clone()).await, 403, "origin_mismatch");
        let odd = test.client.anonymous().with("x-session", "yes").post("/v1/auth/login", body).await;
        assert_error(&odd, 400, "invalid_request");
    }
}

#[tokio::test]
async fn a_nul_byte_is_the_callers_fault_and_not_ours() {
    for database in databases().await {
        let test = app(database).await;
        let body = json!({ "email": "a\0b@example.test", "password": "x" });
        let login = test.client.anonymous().post("/v1/auth/login", body).await;
        assert_eq!((login.status.as_u16(), login.field().as_str()), (400, "email"));
        // No check knows of this one: the database says it.
        let create = test.client.post("/e2b/v2/sandboxes", json!({ "templateID": "a\0b" })).await;
        assert!([400, 404].contains(&create.status.as_u16()), "{}", create.status);
    }
}

#[tokio::test]
async fn a_bad_token_is_not_made_good_by_a_cookie() {
    for database in databases().await {
        let test = app(database).await;
        let browser = browser(&test).await;
        assert_error(&browser.client.with("authorization", "Bearer nonsense").get("/v1/me").await, 401, "unauthorized");
        assert_error(&browser.client.with("authorization", "Basic eDp5").get("/v1/me").await, 401, "unauthorized");
        assert_error(&browser.client.with("x-api-key", "nonsense").get("/v1/sandboxes").await, 401, "unauthorized");
    }
}

#[tokio::test]
async fn sessions_are_listed_and_ended_one_by_one_and_that_acts_at_once() {
    for database in databases().await {
        let test = app(database).await;
        let browser = browser(&test).await;
        let token = test.client.login("admin@example.test", &test.admin.password).await;
        let machine = test.client.with_token(&token);
        assert_eq!(machine.get("/v1/me").await.status, StatusCode::OK);
        let listed = browser.client.get("/v1/sessions").await.json();
        let items = listed["items"].as_array().unwrap();
        assert_eq!(items.len(), 2);
        let kind = |kind: &str| items.iter().find(|item| item["kind"] == kind).unwrap();
        assert_eq!((&kind("browser")["current"], &kind("token")["current"]), (&json!(true), &json!(false)));
        assert_eq!(kind("token")["address"], "192.0.2.1");
        let path = |kind: &Value| format!("/v1/sessions/{}", kind["id"].as_str().unwrap());
        assert_eq!(browser.page().delete(&path(kind("token"))).await.status, StatusCode::NO_CONTENT);
        assert_error(&machine.get("/v1/me").await, 401, "unauthorized");
        assert_error(&browser.page().delete(&path(kind("token"))).await, 404, "not_found");
        assert_eq!(browser.page().delete(&path(kind("browser"))).await.status, StatusCode::NO_CONTENT);
        assert_error(&browser.client.get("/v1/me").await, 401, "unauthorized");
    }
}

#[tokio::test]
async fn all_other_sessions_end_at_once_and_only_ones_own() {
    for database in databases().await {
        let test = open(database).await;
        let (kept, other) = (browser(&test).await, browser(&test).await);
        let token = test.client.login("admin@example.test", &test.admin.password).await;
        let (ada, _) = sign_up(&test, "ada@example.test").await;
        assert_error(&kept.client.delete("/v1/sessions").await, 403, "csrf_token_invalid");
        assert_eq!(other.client.get("/v1/me").await.status, StatusCode::OK);
        let end = async || kept.page().delete("/v1/sessions").await;
        assert_eq!(end().await.expect(200).json(), json!({ "ended": 2 }));
        assert_error(&other.client.get("/v1/me").await, 401, "unauthorized");
        assert_error(&test.client.with_token(&token).get("/v1/me").await, 401, "unauthorized");
        let left = kept.client.get("/v1/sessions").await.json();
        assert_eq!((left["items"].as_array().unwrap().len(), &left["items"][0]["current"]), (1, &json!(true)));
        assert_eq!(ada.get("/v1/me").await.status, StatusCode::OK, "another person's stays");
        assert_eq!(end().await.json(), json!({ "ended": 0 }));
    }
}

#[tokio::test]
async fn nobody_ends_or_sees_the_session_of_another() {
    for database in databases().await {
        let test = open(database).await;
        let (ada, _) = sign_up(&test, "ada@example.test").await;
        let browser = browser(&test).await;
        let id = browser.client.get("/v1/sessions").await.json()["items"][0]["id"].as_str().unwrap().to_owned();
        assert_error(&ada.delete(&format!("/v1/sessions/{id}")).await, 404, "not_found");
        assert_eq!(ada.get("/v1/sessions").await.json()["items"].as_array().unwrap().len(), 1);
        assert_eq!(browser.client.get("/v1/me").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_logout_takes_the_cookie_back_and_ends_the_session() {
    for database in databases().await {
        let test = app(database).await;
        let browser = browser(&test).await;
        assert_error(
            &browser.client.send(Method::POST, "/v1/auth/logout", Body::empty()).await,
            403,
            "csrf_token_invalid",
        );
        let answer = browser.page().send(Method::POST, "/v1/auth/logout", Body::empty()).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
        assert!(cookie(&answer).starts_with("__Host-atoll-7420=;") && cookie(&answer).contains("Max-Age=0"));
        assert_error(&browser.client.get("/v1/me").await, 401, "unauthorized");
    }
}

#[tokio::test]
async fn a_session_ends_by_itself() {
    for database in databases().await {
        let test = app(database).await;
        let (browser, token) =
            (browser(&test).await, test.client.login("admin@example.test", &test.admin.password).await);
        let machine = test.client.with_token(&token);
        test.clock.advance(Duration::from_secs(6 * 3600 - 1));
        assert_eq!(machine.get("/v1/me").await.status, StatusCode::OK);
        test.clock.advance(Duration::from_secs(1));
        assert_error(&machine.get("/v1/me").await, 401, "unauthorized");
        assert_eq!(browser.client.get("/v1/me").await.status, StatusCode::OK);
        test.clock.advance(Duration::from_secs(7 * 24 * 3600));
        assert_error(&browser.client.get("/v1/me").await, 401, "unauthorized");
    }
}

#[tokio::test]
async fn the_use_of_a_session_is_noted_by_the_minute() {
    for database in databases().await {
        let test = app(database).await;
        let browser = browser(&test).await;
        let seen = async || {
            test.settle().await;
            let listed = browser.client.get("/v1/sessions").await.json();
            listed["items"][0]["last_seen_at"].as_str().unwrap().to_owned()
        };
        let first = seen().await;
        test.clock.advance(Duration::from_secs(30));
        browser.client.get("/v1/me").await;
        assert_eq!(seen().await, first);
        test.clock.advance(Duration::from_secs(31));
        browser.client.get("/v1/me").await;
        assert_ne!(seen().await, first);
    }
}

#[tokio::test]
async fn a_new_password_ends_all_other_sessions() {
    for database in databases().await {
        let test = app(database).await;
        let (first, other) = (browser(&test).await, browser(&test).await);
        let token = test.client.login("admin@example.test", &test.admin.password).await;
        let old = test.admin.password.expose_secret();
        let ask = |current: &str, new: &str| json!({ "current_password": current, "new_password": new });
        let wrong = first.page().post("/v1/me/password", ask("not this one", "a new password")).await;
        assert_error(&wrong, 400, "invalid_request");
        assert_eq!(wrong.field(), "current_password");
        let short = first.page().post("/v1/me/password", ask(old, "short")).await;
        assert_eq!(short.field(), "new_password");
        let done = first.page().post("/v1/me/password", ask(old, "a new password")).await;
        assert_eq!(done.status, StatusCode::NO_CONTENT);
        assert_eq!(first.client.get("/v1/me").await.status, StatusCode::OK);
        assert_error(&other.client.get("/v1/me").await, 401, "unauthorized");
        assert_error(&test.client.with_token(&token).get("/v1/me").await, 401, "unauthorized");
        test.client.login("admin@example.test", &"a new password".into()).await;
        let body = json!({ "email": "admin@example.test", "password": old });
        assert_error(&test.client.anonymous().post("/v1/auth/login", body).await, 401, "unauthorized");
    }
}

#[tokio::test]
async fn who_arrives_is_told_of_a_domain_that_was_set() {
    let config = |domain: Option<&'static str>| async move {
        let set = |config: &mut crate::ControlConfig| domain.into_iter().for_each(|it| config.domain = it.to_owned());
        let test = app_with(sqlite().await, set).await;
        test.client.anonymous().get("/v1/auth/config").await.json()
    };
    assert_eq!(config(None).await.get("domain"), None);
    assert_eq!(config(Some("sbx.example:8443")).await["domain"], "sbx.example:8443");
}

#[tokio::test]
async fn a_new_password_ends_links_for_another_one_and_programs_on_their_way_in() {
    for database in databases().await {
        let test = app(database).await;
        let nobody = test.client.anonymous();
        let (mut password, mut owner) = (test.admin.password.expose_secret().to_owned(), test.first().await);
        for by_link in [false, true] {
            let begun = nobody.post("/v1/auth/device", json!({ "client_name": "stolen laptop" })).await.json();
            let decide = json!({ "user_code": begun["user_code"], "approve": true });
            owner.post("/v1/auth/device/decision", decide).await.expect(204);
            let reset = format!("/v1/admin/users/{}/password-reset", test.admin.user_id);
            let link = owner.post(&reset, json!({})).await.expect(201).json();
            let secret = link["url"].as_str().unwrap().split_once('#').unwrap().1.to_owned();
            let confirm = |new: &str| json!({ "token": secret, "password": new });
            let new = format!("a new password {by_link}");
            if by_link {
                nobody.post("/v1/auth/password/reset/confirm", confirm(&new)).await.expect(204);
            } else {
                let change = json!({ "current_password": password, "new_password": new });
                owner.post("/v1/me/password", change).await.expect(204);
            }
            let late = nobody.post("/v1/auth/password/reset/confirm", confirm("the thief's own")).await;
            assert_error(&late, 404, "not_found");
            let code = json!({ "device_code": begun["device_code"] });
            assert_error(&nobody.post("/v1/auth/device/token", code).await, 400, "expired_token");
            password = new;
            owner = test.client.with_token(&test.client.login("admin@example.test", &password.clone().into()).await);
        }
    }
}

#[tokio::test]
async fn who_may_sign_up_is_a_setting() {
    for (mode, allowed) in [(SignupMode::Open, true), (SignupMode::Invite, false), (SignupMode::Closed, false)] {
        for database in databases().await {
            let test = app_with(database, |config| config.signup = mode).await;
            let config = test.client.anonymous().get("/v1/auth/config").await.json();
            assert_eq!(config["setup_needed"], false);
            let body = json!({ "email": "Ada@Example.test", "password": "long enough", "name": "Ada" });
            let answer = test.client.anonymous().post("/v1/auth/signup", body.clone()).await;
            if allowed {
                assert_eq!(answer.status, StatusCode::CREATED);
                assert_error(&test.client.anonymous().post("/v1/auth/signup", body).await, 409, "email_taken");
            } else {
                assert_error(&answer, 403, "signup_closed");
            }
        }
    }
}

#[tokio::test]
async fn a_new_account_has_a_team_of_its_own_and_no_rights_beyond_it() {
    for database in databases().await {
        let test = open(database).await;
        let (ada, made) = sign_up(&test, "ada@example.test").await;
        let me = ada.get("/v1/me").await.json();
        assert_eq!((&me["is_admin"], &me["role"], &me["team_id"]), (&json!(false), &json!("owner"), &made["team_id"]));
        assert_eq!(ada.get("/v1/teams").await.json()["items"].as_array().unwrap().len(), 1);
        for (field, body) in [
            ("email", json!({ "email": "nobody", "password": "long enough", "name": "A" })),
            ("email", json!({ "email": "a b@c.d", "password": "long enough", "name": "A" })),
            ("password", json!({ "email": "b@example.test", "password": "short", "name": "A" })),
            ("name", json!({ "email": "b@example.test", "password": "long enough", "name": "" })),
        ] {
            let answer = test.client.anonymous().post("/v1/auth/signup", body).await;
            assert_eq!((answer.code().as_str(), answer.field().as_str()), ("invalid_request", field));
        }
    }
}

#[tokio::test]
async fn whoever_loses_a_right_has_lost_it_at_the_next_request() {
    for database in databases().await {
        let test = open(database).await;
        let (ada, made) = sign_up(&test, "ada@example.test").await;
        let id = made["user_id"].as_str().unwrap();
        let run = async |sql: &'static str| {
            on!(write & test.app.db, |c| sqlx::query(sql).bind(id).execute(c).await.map(|_| ())).unwrap();
        };
        run("UPDATE users SET is_admin = TRUE WHERE id = $1").await;
        assert_eq!(ada.get("/v1/me").await.json()["is_admin"], true);
        run("UPDATE users SET is_admin = FALSE WHERE id = $1").await;
        assert_eq!(ada.get("/v1/me").await.json()["is_admin"], false);
        run("UPDATE team_members SET role = 'member' WHERE user_id = $1").await;
        assert_eq!(ada.get("/v1/me").await.json()["role"], "member");
        assert_eq!(ada.get("/v1/teams").await.json()["items"][0]["role"], "member");
        run("UPDATE teams SET is_byoc = TRUE WHERE created_by = $1").await;
        assert_eq!(ada.get("/v1/teams").await.json()["items"][0]["is_byoc"], true);
        run("UPDATE users SET is_active = FALSE WHERE id = $1").await;
        assert_error(&ada.get("/v1/me").await, 401, "unauthorized");
        run("UPDATE users SET is_active = TRUE WHERE id = $1").await;
        assert_eq!(ada.get("/v1/me").await.status, StatusCode::OK);
        run("DELETE FROM team_members WHERE user_id = $1").await;
        assert_error(&ada.get("/v1/me").await, 401, "unauthorized");
    }
}

#[tokio::test]
async fn a_right_taken_through_one_replica_is_gone_on_the_other() {
    for database in databases().await {
        let test = app(database).await;
        let other = test.replica().await;
        let browser = browser(&test).await;
        let there = other.with("host", "127.0.0.1:7420").with("cookie", &cookie_of(&browser));
        assert_eq!(there.get("/v1/me").await.status, StatusCode::OK);
        assert_eq!(
            browser.page().send(Method::POST, "/v1/auth/logout", Body::empty()).await.status,
            StatusCode::NO_CONTENT
        );
        assert_error(&there.get("/v1/me").await, 401, "unauthorized");
    }
}

#[tokio::test]
async fn a_person_switches_between_teams_by_token_and_by_cookie() {
    for database in databases().await {
        let test = app(database).await;
        test.another_team().await;
        let browser = browser(&test).await;
        let teams = browser.client.get("/v1/teams").await.json();
        let home = browser.client.get("/v1/me").await.json()["team_id"].as_str().unwrap().to_owned();
        let mut ids = teams["items"].as_array().unwrap().iter().map(|team| team["id"].as_str().unwrap().to_owned());
        let away = ids.find(|id| *id != home).unwrap();
        let switched = browser.page().post("/v1/auth/switch-team", json!({ "team_id": away })).await;
        assert_eq!((switched.status, &switched.json()["csrf_token"]), (StatusCode::OK, &json!(browser.csrf)));
        assert_eq!(browser.client.get("/v1/me").await.json()["team_id"], away);
        let token = test.client.login("admin@example.test", &test.admin.password).await;
        let machine = test.client.with_token(&token);
        let switched = machine.post("/v1/auth/switch-team", json!({ "team_id": away })).await.json();
        let there = test.client.with_token(switched["token"].as_str().unwrap());
        assert_eq!(there.get("/v1/me").await.json()["team_id"], away);
        assert_eq!(machine.get("/v1/me").await.json()["team_id"], home);
        let nowhere = json!({ "team_id": "team-aaaaaaaaaaaaaaaaaaaa" });
        assert_error(&machine.post("/v1/auth/switch-team", nowhere).await, 404, "not_found");
    }
}

#[tokio::test]
async fn requests_at_once_share_a_read_of_everybodys_rights_and_none_acts_on_old_ones() {
    for database in databases().await {
        let test = app(database).await;
        let token = test.client.login("admin@example.test", &test.admin.password).await;
        let machine = test.client.with_token(&token);
        let many = (0..200).map(|_| {
            let machine = machine.clone();
            tokio::spawn(async move { machine.get("/v1/teams").await.status })
        });
        let answers = futures::future::join_all(many).await;
        assert!(answers.into_iter().all(|answer| answer.unwrap() == StatusCode::OK));
        machine.send(Method::POST, "/v1/auth/logout", Body::empty()).await;
        let many = (0..50).map(|_| machine.get("/v1/teams"));
        let answers = futures::future::join_all(many).await;
        assert!(answers.iter().all(|answer| answer.status == StatusCode::UNAUTHORIZED));
    }
}
