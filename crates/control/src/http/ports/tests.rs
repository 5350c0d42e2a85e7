//! What the proxy promises, over machines that are not there.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use serde_json::json;

use super::link;
use crate::db::testing::{databases, sqlite};
use crate::sandboxes::{SandboxRecord, store};
use crate::testing::{Answer, Client, FakeAgent, TestApp, app, app_with};

struct Rig {
    test: TestApp,
    agent: FakeAgent,
    record: SandboxRecord,
}

async fn rig(create: serde_json::Value) -> Rig {
    let test = app_with(sqlite().await, |config| config.domain = "sbx.test".to_owned()).await;
    let (_, agent) = test.fleet.add_host();
    let made = test.client.post("/v1/sandboxes", create).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&made.body));
    let id = made.json()["id"].as_str().unwrap().parse().unwrap();
    let record = store::get_any(&test.app.db, &id).await.unwrap().unwrap();
    Rig { test, agent, record }
}

impl Rig {
    fn host(&self, port: u16) -> String {
        format!("{port}-{}.sbx.test", self.record.id.0.dns_label())
    }

    /// A client without credentials that comes to the sandbox's port 8080.
    fn outside(&self) -> Client {
        self.test.client.anonymous().with("host", &self.host(8080))
    }

    fn with_key(&self) -> Client {
        self.test.client.with("host", &self.host(8080))
    }
}

fn message(answer: &Answer) -> String {
    answer.json()["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_private_port_opens_to_its_teams_key_to_the_traffic_token_and_to_nobody_else() {
    let rig = rig(json!({})).await;
    let refused = rig.outside().get("/").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(refused.json()["code"], 403);
    assert_eq!(rig.with_key().get("/a?b=c").await.status, StatusCode::OK);

    let traffic = link::traffic_token(&rig.record);
    assert_eq!(rig.outside().with("e2b-traffic-access-token", &traffic).get("/").await.status, StatusCode::OK);
    let wrong = rig.outside().with("e2b-traffic-access-token", &"0".repeat(64)).get("/").await;
    assert_eq!(wrong.status, StatusCode::FORBIDDEN);
    assert_eq!(rig.outside().with("x-api-key", "atl_nonsense").get("/").await.status, StatusCode::FORBIDDEN);

    let stranger = rig.test.another_team().await.with("host", &rig.host(8080)).get("/").await;
    assert_eq!((stranger.status, message(&stranger).as_str()), (StatusCode::BAD_GATEWAY, "The sandbox was not found"));
}

#[tokio::test]
async fn a_keys_scope_is_judged_by_the_use_of_a_sandbox_not_by_the_programs_paths() {
    let rig = rig(json!({})).await;
    let owner = rig.test.first().await;
    for (scope, expected) in [("all", StatusCode::OK), ("sandboxes", StatusCode::OK), ("read", StatusCode::FORBIDDEN)] {
        let key = owner.post("/v1/api-keys", json!({ "name": scope, "scope": scope })).await.expect(201).json();
        let client = rig.outside().with("x-api-key", key["key"].as_str().unwrap());
        // Paths of the program that would mean something in our own API.
        for path in ["/", "/v1/sandboxes", "/v1/secrets", "/pty", "/sandboxes/x"] {
            for method in [Method::GET, Method::POST] {
                let answer = client.send(method.clone(), path, Body::empty()).await;
                assert_eq!(answer.status, expected, "{scope}: {method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn a_public_port_opens_to_everybody() {
    let rig = rig(json!({ "public": true })).await;
    assert_eq!(rig.outside().get("/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_signed_link_opens_its_port_until_it_expires_and_leaves_a_cookie_in_place_of_its_token() {
    let rig = rig(json!({})).await;
    let path = format!("/v1/sandboxes/{}/links", rig.record.id.as_str());
    let made = rig.test.client.post(&path, json!({ "port": 8080, "ttl_sec": 60 })).await.json();
    let url: axum::http::Uri = made["url"].as_str().unwrap().parse().unwrap();
    assert_eq!(url.host().unwrap(), rig.host(8080));
    let query = url.query().unwrap();

    let welcome = rig.outside().get(&format!("/page?a=1&{query}")).await;
    assert_eq!((welcome.status, welcome.headers["location"].to_str().unwrap()), (StatusCode::FOUND, "/page?a=1"));
    let cookie = welcome.headers["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("Max-Age=60") && !cookie.contains("Domain"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let with_cookie = rig.outside().with("cookie", &cookie);
    assert_eq!(with_cookie.get("/page?a=1").await.status, StatusCode::OK);
    // What isn't navigation is let through at once, and the sandbox never sees the token.
    let posted = rig.outside().send(Method::POST, &format!("/form?{query}"), Body::empty()).await;
    assert_eq!((posted.status, posted.json()["path"].as_str().unwrap()), (StatusCode::OK, "/form"));

    let other_port = rig.test.client.anonymous().with("host", &rig.host(8081)).with("cookie", &cookie).get("/").await;
    assert_eq!(other_port.status, StatusCode::FORBIDDEN);
    let forged = query.replace(".8080.", ".0.");
    assert_eq!(rig.outside().get(&format!("/?{forged}")).await.status, StatusCode::FORBIDDEN);
    rig.test.clock.advance(std::time::Duration::from_secs(61));
    assert_eq!(with_cookie.get("/").await.status, StatusCode::FORBIDDEN);
    assert_eq!(rig.outside().get(&format!("/?{query}")).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_link_never_sends_a_browser_to_another_host() {
    let rig = rig(json!({})).await;
    let token = link::token(&rig.record, 8080, rig.test.clock.now() + std::time::Duration::from_secs(60));
    let welcome = rig.outside().get(&format!("//evil.test/x?{}={token}", link::PARAMETER)).await;
    assert_eq!((welcome.status, welcome.headers["location"].to_str().unwrap()), (StatusCode::FOUND, "/evil.test/x"));
}

#[tokio::test]
async fn credentials_of_the_platform_stay_outside_and_everything_else_passes() {
    let rig = rig(json!({ "public": true })).await;
    let jwt = rig.test.client.login("admin@example.test", &rig.test.admin.password).await;
    let client = rig
        .with_key()
        .with("authorization", &format!("Bearer {jwt}"))
        .with("cookie", "__Host-atoll_session=s; mine=1")
        .with("x-host-token", "t")
        .with("x-atoll-trusted", "1")
        .with("x-own", "2");
    let seen = client.get("/x").await.json();
    let headers = &seen["headers"];
    for stripped in ["x-api-key", "authorization", "x-host-token", "x-atoll-trusted"] {
        assert!(headers[stripped].is_null(), "{stripped}: {headers}");
    }
    assert_eq!((headers["cookie"].as_str(), headers["x-own"].as_str()), (Some("mine=1"), Some("2")));
    assert_eq!(headers["x-forwarded-for"], "192.0.2.1");
    assert_eq!(headers["host"], rig.host(8080));
    let own = rig.outside().with("authorization", "Bearer of-the-app").get("/x").await.json();
    assert_eq!(own["headers"]["authorization"], "Bearer of-the-app");
}

#[tokio::test]
async fn answers_keep_their_own_headers_and_lose_what_reaches_beyond_their_name() {
    let rig = rig(json!({ "public": true })).await;
    let answer = rig.outside().get("/headers").await;
    assert!(!answer.headers.contains_key("clear-site-data") && !answer.headers.contains_key("service-worker-allowed"));
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().map(|it| it.to_str().unwrap()).collect();
    assert_eq!(cookies, ["own=1"]);
    // None of the API's own headers are put upon a sandbox's page.
    assert!(!answer.headers.contains_key("x-frame-options") && !answer.headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_in_the_words_that_sdks_look_for() {
    let rig = rig(json!({ "public": true })).await;
    let nobody = rig.test.client.anonymous().with("host", "8080-iaaaaaaaaaaaaaaaaaaaa.sbx.test").get("/").await;
    assert_eq!((nobody.status, message(&nobody).as_str()), (StatusCode::BAD_GATEWAY, "The sandbox was not found"));
    assert_eq!(nobody.json()["sandboxId"], "iaaaaaaaaaaaaaaaaaaaa");
    let closed = rig.test.client.anonymous().with("host", &rig.host(1)).get("/").await;
    assert_eq!(closed.status, StatusCode::BAD_GATEWAY);
    assert!(message(&closed).contains("port is not open"));
    assert_eq!(closed.json()["port"], 1);
    let page = rig.test.client.anonymous().with("host", &rig.host(1)).with("accept", "text/html,*/*").get("/").await;
    assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/html"));

    let id = rig.record.id.as_str();
    rig.test.client.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await;
    let paused = rig.outside().get("/").await;
    assert_eq!((paused.status, message(&paused).as_str()), (StatusCode::BAD_GATEWAY, "The sandbox was not found"));
    let bad = rig.test.client.anonymous().with("host", "80-inope.sbx.test").get("/").await;
    assert_eq!((bad.status, bad.body.as_slice()), (StatusCode::BAD_REQUEST, b"Invalid sandbox ID".as_slice()));
    rig.agent.set_unreachable(true);
}

#[tokio::test]
async fn a_sandbox_that_is_being_paused_is_gone_for_who_asks_whether_it_runs() {
    let rig = rig(json!({ "public": true })).await;
    let id = rig.record.id.0.clone();
    rig.agent.hang_pauses_of(&id);
    let (client, path) = (rig.test.client.clone(), format!("/v1/sandboxes/{id}/pause"));
    let pausing = tokio::spawn(async move { client.post(&path, json!({})).await });
    let status = async || store::get_any(&rig.test.app.db, &id).await.unwrap().unwrap().status();
    while status().await != atoll_model::SandboxStatus::Pausing {
        tokio::task::yield_now().await;
    }
    let health = rig.test.client.anonymous().with("host", &rig.host(super::GUEST_PORT)).get("/health").await;
    assert_eq!((health.status, message(&health).as_str()), (StatusCode::BAD_GATEWAY, "The sandbox was not found"));
    // To SDKs a conflict says that it is paused already, which it is as good as.
    let path = format!("/e2b/sandboxes/{}/pause", id.dns_label());
    assert_eq!(rig.test.client.post(&path, json!({})).await.status, StatusCode::CONFLICT);
    pausing.abort();
}

#[tokio::test]
async fn a_request_is_for_the_host_name_that_its_sandbox_wants() {
    let test = app_with(sqlite().await, |config| config.domain = "sbx.test".to_owned()).await;
    test.fleet.add_host();
    let network = json!({ "maskRequestHost": "own.example:${PORT}", "httpsPorts": [8443, 8443] });
    let wanted = json!({ "templateID": "base", "network": network });
    let made = test.client.post("/e2b/v2/sandboxes", wanted).await.expect(201).json();
    let id = made["sandboxID"].as_str().unwrap();
    let port = async |port: u16| {
        let client = test.client.anonymous().with("host", &format!("{port}-{id}.sbx.test"));
        let seen = client.get("/seen").await.expect(200).json();
        (seen["headers"]["host"].clone(), seen["port"].clone())
    };
    assert_eq!(port(8080).await, (json!("own.example:8080"), json!("8080")));
    assert_eq!(port(8443).await, (json!("own.example:8443"), json!("8443+tls")));

    let info = async || test.client.get(&format!("/e2b/sandboxes/{id}")).await.expect(200).json()["network"].clone();
    assert_eq!(info().await["maskRequestHost"], "own.example:${PORT}");
    assert_eq!(info().await["httpsPorts"], json!([8443]));
    // What it may reach has nothing to do with how it is reached.
    let update = json!({ "denyOut": ["10.0.0.0/8"] });
    test.client.put(&format!("/e2b/sandboxes/{id}/network"), update).await.expect(204);
    assert_eq!(info().await["httpsPorts"], json!([8443]));
    for (network, field) in [
        (json!({ "maskRequestHost": "a\r\nb: c" }), "maskRequestHost"),
        (json!({ "maskRequestHost": "a/b" }), "maskRequestHost"),
        (json!({ "maskRequestHost": "x".repeat(256) }), "maskRequestHost"),
        (json!({ "httpsPorts": [0] }), "httpsPorts"),
        (json!({ "httpsPorts": [super::GUEST_PORT] }), "httpsPorts"),
    ] {
        let wanted = json!({ "templateID": "base", "network": network });
        let refused = test.client.post("/e2b/v2/sandboxes", wanted).await.expect(400).json();
        assert!(refused["message"].as_str().unwrap().contains(field), "{refused}");
    }
}

#[tokio::test]
async fn a_request_wakes_a_paused_sandbox_that_wakes_by_itself_but_not_for_strangers() {
    let rig = rig(json!({ "auto_resume": true })).await;
    let id = rig.record.id.as_str();
    rig.test.client.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await;
    assert_eq!(rig.outside().get("/").await.status, StatusCode::FORBIDDEN);
    let calls = rig.agent.calls();
    assert!(!calls.contains(&"resume".to_owned()), "{calls:?}");
    assert_eq!(rig.with_key().get("/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_pause_that_lands_between_the_look_and_the_request_wakes_it_once_more() {
    let rig = rig(json!({ "auto_resume": true })).await;
    let exec = format!("/v1/sandboxes/{}/exec", rig.record.id.0);
    rig.agent.refuse_as_paused(1);
    assert_eq!(rig.with_key().get("/a").await.status, StatusCode::OK);
    // With what it brings, if that is small.
    rig.agent.refuse_as_paused(1);
    assert_eq!(rig.with_key().send(Method::POST, "/a", Body::from("brought")).await.status, StatusCode::OK);
    rig.agent.refuse_as_paused(1);
    let large = Body::from(vec![b'x'; 1 << 20]);
    assert_eq!(rig.with_key().send(Method::POST, "/a", large).await.status, StatusCode::BAD_GATEWAY);
    rig.agent.refuse_as_paused(1);
    rig.test.client.post(&exec, json!({ "cmd": "true" })).await.expect(200);
    // Once, and not for ever.
    rig.agent.refuse_as_paused(2);
    assert_eq!(rig.with_key().get("/a").await.status, StatusCode::BAD_GATEWAY);
    rig.agent.refuse_as_paused(2);
    let refused = rig.test.client.post(&exec, json!({ "cmd": "true" })).await.expect(409);
    assert_eq!(refused.code(), "conflict");
}

#[tokio::test]
async fn two_headers_lead_into_a_sandbox_where_the_host_name_says_nothing() {
    let rig = rig(json!({ "public": true })).await;
    let id = rig.record.id.0.dns_label();
    let client = rig.test.client.anonymous().with("e2b-sandbox-id", &id).with("e2b-sandbox-port", "8080");
    let answer = client.with("host", "127.0.0.1:7420").get("/headers").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(!answer.headers.contains_key("set-cookie"), "the name is the dashboard's too");
    let named = client.with("host", "atoll.lan:7420").get("/headers").await;
    assert_eq!(named.status, StatusCode::OK);
    let api = client.with("host", "sbx.test").get("/healthz").await;
    assert_eq!(api.json()["status"], "ok");
}

#[tokio::test]
async fn the_guests_own_port_goes_to_the_guest_unvouched_for_and_not_to_what_is_controls_alone() {
    let rig = rig(json!({})).await;
    let client = rig.test.client.anonymous().with("host", &rig.host(super::GUEST_PORT)).with("x-atoll-trusted", "1");
    for path in ["/init", "/freeze", "/atoll.guest.v1.GuestService/Exec"] {
        assert_eq!(client.send(Method::POST, path, Body::empty()).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert!(!rig.agent.calls().contains(&"exec".to_owned()));
    let read = client.get("/files?path=nope").await;
    assert_eq!(read.status, StatusCode::NOT_FOUND);
    assert!(rig.agent.calls().contains(&"guest untrusted".to_owned()), "{:?}", rig.agent.calls());
}

#[tokio::test]
async fn who_tries_signatures_that_fit_nothing_is_stopped_and_who_has_a_good_one_is_not() {
    use base64::Engine;
    use sha2::{Digest, Sha256};
    for db in databases().await {
        let test = app(db).await;
        test.fleet.add_host();
        let made = test.client.post("/e2b/v2/sandboxes", json!({ "templateID": "base" })).await.expect(201).json();
        let address = |token: &str, path: &str| {
            let digest = Sha256::digest(format!("{path}:read:user:{token}"));
            let signature = base64::engine::general_purpose::STANDARD_NO_PAD.encode(digest);
            let signature: String = form_urlencoded::byte_serialize(signature.as_bytes()).collect();
            format!("/files?path={path}&username=user&signature=v1_{signature}")
        };
        let plain = test.client.anonymous().with("host", "127.0.0.1:7420");
        let token = made["envdAccessToken"].as_str().unwrap();
        let good = address(token, "a");
        let found = plain.get(&good).await.status;
        // Each replica counts for itself, and remembers whom it found.
        plain.get(&good).await;
        let mut stopped = None;
        for number in 0..200 {
            let answer = plain.get(&address("not a token", &format!("n{number}"))).await;
            if answer.status == 429 {
                stopped = Some(answer);
                break;
            }
            assert_eq!(answer.status, 502, "{number}");
        }
        assert_eq!(stopped.expect("an end of tries").headers["retry-after"], "60");
        assert_eq!(plain.get(&good).await.status, found);
        assert!(found != 502 && found != 429, "{found}");
    }
}
