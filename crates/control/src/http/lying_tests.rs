//! What control makes of a guest agent that lies: a tenant is root in its sandbox, so anything may answer there.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use super::tests::assert_error;
use crate::db::testing::sqlite;
use crate::testing::{Answer, FakeAgent, Lie, TestApp, app, app_with};

/// Every route that asks a guest agent something; those that only pass bytes on answer a success as it is.
const ROUTES: [(&str, &str, Option<&str>, bool); 10] = [
    ("POST", "exec", Some(r#"{"cmd":"true"}"#), false),
    ("GET", "processes", None, false),
    ("DELETE", "processes/7", None, false),
    ("GET", "logs", None, false),
    ("POST", "files/list", Some(r#"{"path":"/"}"#), false),
    ("POST", "files/mkdir", Some(r#"{"path":"/a"}"#), false),
    ("POST", "files/remove", Some(r#"{"path":"/a"}"#), false),
    ("POST", "files/move", Some(r#"{"source":"/a","destination":"/b"}"#), false),
    ("POST", "files/stream/write?path=/a", Some("content"), false),
    ("POST", "files/read", Some(r#"{"path":"/a"}"#), true),
];

async fn sandbox(test: &TestApp) -> (FakeAgent, String) {
    let (_, agent) = test.fleet.add_host();
    let id = test.client.post("/v1/sandboxes", json!({})).await.json()["id"].as_str().unwrap().to_owned();
    (agent, format!("/v1/sandboxes/{id}"))
}

async fn asked(test: &TestApp, sandbox: &str, route: (&str, &str, Option<&str>, bool)) -> Answer {
    let (method, path, body, _) = route;
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_owned()));
    let client = test.client.with("content-type", "application/json");
    client.send(method.parse::<Method>().unwrap(), &format!("{sandbox}/{path}"), body).await
}

#[tokio::test]
async fn whatever_a_guest_says_is_answered_as_its_own_error_and_in_few_words() {
    let test = app(sqlite().await).await;
    let (agent, sandbox) = sandbox(&test).await;
    let hostile = format!("no\nlevel=ERROR forged\u{1b}[2J{}", "x".repeat(10_000));
    let lies = [
        Lie::Error(hostile),
        Lie::EndlessError,
        Lie::EndlessAnswer,
        Lie::Answer(b"\xff\xff\xff\xff not a message of any kind"),
    ];
    for lie in lies {
        agent.let_guests_lie(lie.clone());
        for route in ROUTES.into_iter().filter(|route| !route.3 || matches!(lie, Lie::Error(_) | Lie::EndlessError)) {
            let answer = asked(&test, &sandbox, route).await;
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(said.len() < 2048, "{lie:?} {route:?}: {} bytes", said.len());
            assert_error(&answer, 502, "agent_error");
            let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(!message.contains(|letter: char| letter.is_control()), "{message:?}");
        }
    }
    assert_eq!(test.app.requests.available_permits(), test.app.config.http.max_requests, "nothing is left behind");
}

#[tokio::test]
async fn an_answer_without_what_was_asked_for_is_the_guests_error() {
    let test = app(sqlite().await).await;
    let (agent, sandbox) = sandbox(&test).await;
    agent.let_guests_lie(Lie::Answer(b""));
    for route in ROUTES
        .into_iter()
        .filter(|route| ["files/mkdir", "files/move", "files/stream/write?path=/a"].contains(&route.1))
    {
        assert_error(&asked(&test, &sandbox, route).await, 502, "agent_error");
    }
}

#[tokio::test]
async fn large_answers_have_room_for_so_much_and_small_ones_need_none() {
    let test = app_with(sqlite().await, |config| config.http.max_answer_bytes = 20 << 20).await;
    let (_, sandbox) = sandbox(&test).await;
    let exec = |cmd: &str| {
        let (client, path, body) = (test.client.clone(), format!("{sandbox}/exec"), json!({ "cmd": cmd }));
        async move { client.post(&path, body).await }
    };
    let stdout = |answer: &Answer| answer.json()["stdout"].as_str().map(str::len);
    assert_eq!(stdout(&exec("flood").await), Some(1 << 20));
    // Somebody's answers are still on their way.
    let held = test.app.places.answer(test.team(), 7 << 20).unwrap();
    let refused = exec("flood").await;
    assert_error(&refused, 429, "rate_limited");
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(exec("true").await.json()["exit_code"], Value::from(0), "a small one");
    drop(held);
    assert_eq!(stdout(&exec("flood").await), Some(1 << 20));
    assert!(test.app.places.answer(test.team(), 10 << 20).is_ok(), "all of it was given back");
}

#[tokio::test]
async fn one_team_has_half_of_the_requests_and_hosts_have_their_own() {
    let test = app_with(sqlite().await, |config| config.http.max_requests = 2).await;
    let (_, agent) = test.fleet.add_host();
    let other = test.another_team().await;
    agent.take_for_creates(std::time::Duration::from_secs(3600));
    let client = test.client.clone();
    let waits = tokio::spawn(async move { client.post("/v1/sandboxes", json!({})).await });
    while agent.calls() != ["create"] {
        tokio::task::yield_now().await;
    }
    let refused = test.client.get("/v1/sandboxes").await;
    assert_error(&refused, 429, "rate_limited");
    assert!(refused.headers.contains_key("retry-after"));
    other.get("/v1/sandboxes").await.expect(200);

    let all = test.app.requests.acquire_many(1).await.unwrap();
    assert_error(&other.get("/v1/sandboxes").await, 503, "overloaded");
    for path in ["register", "auth/refresh", "hst-00000000000000000000/heartbeat"] {
        let answer = test.client.anonymous().send(Method::POST, &format!("/v1/hosts/{path}"), "{}").await;
        assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
    }
    assert_error(&other.get("/v1/hosts").await, 503, "overloaded");
    drop(all);
    waits.abort();
    let _ = waits.await;
    test.client.get("/v1/sandboxes").await.expect(200);
}
