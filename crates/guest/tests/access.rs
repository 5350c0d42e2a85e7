//! Who may ask for what, at which door.

mod common;

use common::{Guest, config};
use serde_json::json;

const TOKEN: &str = "t0ken";

fn guarded() -> serde_json::Value {
    let mut config = config();
    config["access_token"] = json!(TOKEN);
    config
}

async fn list(guest: &Guest, headers: &[(&str, &str)]) -> u16 {
    guest.client.rpc_with("process.Process/List", json!({}), headers).await.status
}

#[tokio::test]
async fn with_a_token_set_requests_need_it_but_for_the_open_ones() {
    let guest = Guest::start_with(guarded()).await;
    assert_eq!(list(&guest, &[]).await, 401);
    assert_eq!(list(&guest, &[("x-access-token", "wrong")]).await, 401);
    assert_eq!(list(&guest, &[("x-access-token", TOKEN)]).await, 200);
    let refused = guest.client.get("/envs").await;
    let message = "unauthorized access, please provide a valid access token or method signing if supported";
    assert_eq!((refused.status, refused.json()), (401, json!({"code": 401, "message": message})));
    assert_eq!(guest.client.get("/metrics").await.status, 401);
    assert_eq!(guest.client.get("/health").await.status, 204);
    assert_eq!(guest.exec(json!({"cmd": "true"})).await.status, 200, "the control plane's own service needs none");
}

#[tokio::test]
async fn the_control_planes_own_calls_need_no_token_at_the_control_socket_only() {
    let trusted = [("x-atoll-trusted", "1")];
    let guest = Guest::start_with(guarded()).await;
    assert_eq!(list(&guest, &trusted).await, 200);
    assert_eq!(guest.client.send("GET", "/files?path=/etc/hostname", &trusted, "").await.status, 200);
    assert_eq!(list(&guest, &[("x-atoll-trusted", "yes")]).await, 401);

    let inside = Guest::start_tcp(guarded()).await;
    assert_eq!(list(&inside, &trusted).await, 401);
    assert_eq!(inside.client.send("GET", "/files?path=/etc/hostname", &trusted, "").await.status, 401);
    assert_eq!(list(&inside, &[("x-access-token", TOKEN)]).await, 200);
    assert_eq!(inside.exec(json!({"cmd": "true"})).await.status, 404);
    assert_eq!(inside.client.send("POST", "/init", &[], "{}").await.status, 404);
}

#[tokio::test]
async fn init_replaces_settings_for_whoever_knows_the_token() {
    let guest = Guest::start_with(guarded()).await;
    let init = async |headers: &[(&str, &str)], body: serde_json::Value| {
        guest.client.send("POST", "/init", headers, body.to_string()).await
    };
    assert_eq!(init(&[], json!({"accessToken": "other"})).await.status, 401);
    let late = json!({"accessToken": TOKEN, "envVars": {"A": "1"}, "timestamp": "2026-11-24T12:00:00Z", "defaultUser": "daemon"});
    let answer = init(&[], late).await;
    assert_eq!((answer.status, answer.header("x-envd-version")), (204, "0.6.13"));
    let early = json!({"accessToken": TOKEN, "envVars": {"A": "0"}, "timestamp": "2026-11-24T11:00:00Z"});
    assert_eq!(init(&[], early).await.status, 204);
    let envs = guest.client.send("GET", "/envs", &[("x-access-token", TOKEN)], "").await.json();
    assert_eq!((&envs["A"], &envs["FROM_CONFIG"], &envs["E2B_SANDBOX"]), (&json!("1"), &json!(null), &json!("true")));
    // Without a token in it, it takes the token away, if the caller may.
    assert_eq!(init(&[("x-access-token", TOKEN)], json!({})).await.status, 204);
    assert_eq!(list(&guest, &[]).await, 200);
    assert_eq!(init(&[], json!({"accessToken": "new"})).await.status, 204);
    assert_eq!(list(&guest, &[]).await, 401);
    assert_eq!(init(&[("x-atoll-trusted", "1")], json!({})).await.status, 204);
}

#[tokio::test]
async fn the_plain_endpoints_answer() {
    let guest = Guest::start().await;
    let metrics = guest.client.get("/metrics").await.json();
    for key in ["ts", "mem_used", "disk_used", "disk_total"] {
        assert!(metrics[key].as_u64().is_some_and(|value| value > 0), "{key}: {metrics}");
    }
    assert_eq!((&metrics["cpu_count"], &metrics["mem_total_mib"]), (&json!(2), &json!(512)));
    let envs = guest.client.get("/envs").await.json();
    assert_eq!(
        envs,
        json!({"E2B_SANDBOX": "true", "E2B_SANDBOX_ID": "itest", "E2B_TEMPLATE_ID": "base", "FROM_CONFIG": "1"})
    );
    let unknown = guest.client.get("/nothing").await;
    assert_eq!((unknown.status, &unknown.json()["code"]), (404, &json!(404)));
    assert_eq!(guest.client.send("DELETE", "/files", &[], "").await.status, 405);
}

#[tokio::test]
async fn browsers_of_any_origin_may_call() {
    let guest = Guest::start().await;
    let origin = ("origin", "https://app.test");
    let asked = [
        origin,
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "x-access-token,connect-protocol-version"),
    ];
    let preflight = guest.client.send("OPTIONS", "/process.Process/List", &asked, "").await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), "*");
    assert_eq!(preflight.header("access-control-allow-methods"), "POST");
    assert_eq!(preflight.header("access-control-allow-headers"), "x-access-token,connect-protocol-version");
    let answer = guest.client.send("GET", "/envs", &[origin], "").await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert!(answer.header("access-control-expose-headers").contains("Content-Encoding"));
    assert_eq!(guest.client.get("/envs").await.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn a_door_for_programs_inside_is_opened_beside_the_control_socket_if_asked_for() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let mut config = guarded();
    config["tcp_port"] = json!(address.port());
    let guest = Guest::start_with(config).await;
    let inside = common::Client::tcp(address);
    assert_eq!(inside.get("/envs").await.status, 401);
    let envs = inside.send("GET", "/envs", &[("x-access-token", TOKEN)], "").await;
    assert_eq!(envs.json()["E2B_SANDBOX_ID"], "itest");
    assert_eq!(inside.rpc("atoll.guest.v1.GuestService/Exec", json!({"cmd": "true"})).await.status, 404);
    assert_eq!(guest.exec(json!({"cmd": "true"})).await.status, 200);
}
