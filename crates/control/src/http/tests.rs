//! What every route promises: the shape of errors, who is let in, limits, pages, idempotency.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use futures::StreamExt as _;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::db::testing::databases;
use crate::db::{Db, on};
use crate::testing::{Answer, TestApp, app, app_with};

pub fn assert_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status.as_u16(), status, "{}", String::from_utf8_lossy(&answer.body));
    let error = &answer.json()["error"];
    assert_eq!(error["code"], code);
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
    assert_eq!(error["request_id"].as_str(), answer.headers["x-request-id"].to_str().ok());
}

#[tokio::test]
async fn every_answer_that_is_an_error_has_the_one_shape() {
    for database in databases().await {
        let test = app(database).await;
        let client = &test.client;
        assert_error(&client.get("/v1/nothing").await, 404, "not_found");
        assert_error(&client.send(Method::PUT, "/v1/sandboxes", Body::empty()).await, 405, "method_not_allowed");
        assert_error(&client.send(Method::POST, "/nothing", Body::empty()).await, 404, "not_found");
        assert_error(&client.get("/v1/sandboxes/not-an-id").await, 404, "not_found");
        assert_error(&client.get("/v1/sandboxes?limit=0").await, 400, "invalid_request");
        assert_error(&client.get("/v1/sandboxes?limit=x").await, 400, "invalid_request");
        assert_error(&client.get("/v1/sandboxes?cursor=x").await, 400, "invalid_request");
        assert_error(&client.get("/v1/sandboxes?status=gone").await, 400, "invalid_request");
        let large = json!({ "metadata": { "a": "x".repeat(2 << 20) } });
        assert_error(&client.post("/v1/sandboxes", large).await, 413, "too_large");
        let text = client.with("content-type", "text/plain").send(Method::POST, "/v1/sandboxes", "{}").await;
        assert_error(&text, 415, "unsupported_media_type");
        assert_error(&client.anonymous().get("/v1/sandboxes").await, 401, "unauthorized");
        let socket = client.get("/v1/sandboxes/sb-aaaaaaaaaaaaaaaaaaaa/exec/stream").await;
        assert_error(&socket, 400, "invalid_request");
        assert_error(&client.get("/missing.js").await, 404, "not_found");
    }
}

#[tokio::test]
async fn a_right_that_another_program_takes_away_is_gone_with_the_next_request() {
    for database in databases().await {
        let other = Db::open(database.url.as_deref(), database.dir.path()).await.unwrap();
        let test = app(database).await;
        test.fleet.add_host();
        for _ in 0..3 {
            // What writes by itself keeps what is known of rights, and must not keep it beyond what others write.
            let created = test.client.post("/v1/sandboxes", json!({})).await;
            assert_eq!(created.status, StatusCode::CREATED);
            assert_eq!(test.client.get("/v1/sandboxes").await.status, StatusCode::OK);
            for (value, expected) in [("1", StatusCode::UNAUTHORIZED), ("NULL", StatusCode::OK)] {
                let statement = format!("UPDATE api_keys SET expires_at = {value}");
                on!(write & other, |c| sqlx::query(sqlx::AssertSqlSafe(statement.as_str())).execute(c).await.map(drop))
                    .unwrap();
                assert_eq!(test.client.get("/v1/sandboxes").await.status, expected);
            }
        }
    }
}

#[tokio::test]
async fn bad_requests_name_their_field() {
    for database in databases().await {
        let test = app(database).await;
        let cases = [
            (json!({ "vcpus": 0 }), "vcpus"),
            (json!({ "vcpus": "x" }), "vcpus"),
            (json!({ "memory_mb": 1 }), "memory_mb"),
            (json!({ "disk_mb": 99_999_999_999_u64 }), "disk_mb"),
            (json!({ "timeout_sec": -1 }), "timeout_sec"),
            (json!({ "on_timeout": "explode" }), "on_timeout"),
            (json!({ "colour": "red" }), "colour"),
            (json!({ "env": { "a=b": "c" } }), "env"),
            (json!({ "template": "" }), "template"),
        ];
        for (body, field) in cases {
            let answer = test.client.post("/v1/sandboxes", body.clone()).await;
            assert_error(&answer, 400, "invalid_request");
            assert_eq!(answer.field(), field, "{body}");
        }
        let unknown = test.client.post("/v1/sandboxes", json!({ "template": "nope" })).await;
        assert_error(&unknown, 404, "not_found");
        assert_eq!(unknown.field(), "template");
    }
}

/// Routes that answer without credentials, by design.
const PUBLIC: [&str; 19] = [
    "get /.well-known/jwks.json",
    "get /.well-known/openid-configuration",
    "get /healthz",
    "get /metrics",
    "get /readyz",
    "get /v1/auth/config",
    "get /v1/auth/oidc/{provider}",
    "get /v1/auth/oidc/{provider}/callback",
    "get /v1/invitations/{token}",
    "post /v1/auth/device",
    "post /v1/auth/device/token",
    "post /v1/auth/login",
    "post /v1/auth/password/reset",
    "post /v1/auth/password/reset/confirm",
    "post /v1/auth/setup",
    "post /v1/auth/signup",
    "post /v1/hosts/auth/refresh",
    "post /v1/hosts/register",
    "post /v1/invitations/{token}/accept",
];

async fn operations(test: &TestApp) -> Vec<(String, String, Value)> {
    let api = test.client.get("/openapi.json").await.json();
    let mut found = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            found.push((method.clone(), path.clone(), operation.clone()));
        }
    }
    found
}

fn concrete(path: &str) -> String {
    path.replace("/hosts/{id}", "/hosts/host-aaaaaaaaaaaaaaaaaaaa")
        .replace("/teams/{id}", "/teams/team-aaaaaaaaaaaaaaaaaaaa")
        .replace("/users/{id}", "/users/user-aaaaaaaaaaaaaaaaaaaa")
        .replace("{user_id}", "user-aaaaaaaaaaaaaaaaaaaa")
        .replace("/api-keys/{id}", "/api-keys/key-aaaaaaaaaaaaaaaaaaaa")
        .replace("{invitation}", "inv-aaaaaaaaaaaaaaaaaaaa")
        .replace("/sessions/{id}", "/sessions/ses-aaaaaaaaaaaaaaaaaaaa")
        .replace("{id}", "sb-aaaaaaaaaaaaaaaaaaaa")
        .replace("{process}", "1")
        .replace("{digest}", &"0".repeat(64))
        .replace("{name}", "base")
}

#[tokio::test]
async fn no_route_but_the_public_ones_answers_without_credentials() {
    for database in databases().await {
        let test = app(database).await;
        let operations = operations(&test).await;
        assert!(operations.len() > 40, "{}", operations.len());
        let mut open = BTreeSet::new();
        for (method, path, _) in &operations {
            for wrong in [None, Some("atl_00000000000000000000000000000000"), Some("nonsense")] {
                let client = test.client.anonymous();
                let client = match wrong {
                    Some(key) => client.with("x-api-key", key).with("authorization", "Bearer e30.e30.e30"),
                    None => client,
                };
                let method_name: Method = method.to_uppercase().parse().unwrap();
                let answer = client.send(method_name, &concrete(path), Body::empty()).await;
                if answer.status != StatusCode::UNAUTHORIZED {
                    open.insert(format!("{method} {path}"));
                } else {
                    assert_error(&answer, 401, "unauthorized");
                }
            }
        }
        let public: BTreeSet<_> = PUBLIC.iter().map(|name| (*name).to_owned()).collect();
        assert!(open.is_subset(&public), "open, but not public: {:?}", open.difference(&public).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn the_openapi_names_every_error_and_its_shape() {
    for database in databases().await {
        let test = app(database).await;
        for (method, path, operation) in operations(&test).await {
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("500"), "{method} {path}");
            for (status, response) in responses.iter().filter(|(status, _)| status.starts_with(['4', '5'])) {
                let schema = &response["content"]["application/json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/ErrorBody", "{method} {path} {status}");
            }
            if operation.get("security").is_some() {
                assert!(responses.contains_key("401"), "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn the_openapi_refers_to_nothing_that_it_does_not_define() {
    for database in databases().await {
        let test = app(database).await;
        let api = test.client.get("/openapi.json").await.json();
        let defined: BTreeSet<_> = api["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
        let text = api.to_string();
        let referred: BTreeSet<_> = text
            .split("#/components/schemas/")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap_or_default().to_owned())
            .collect();
        let missing: Vec<_> = referred.difference(&defined).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

#[tokio::test]
async fn a_login_gives_a_token_that_a_logout_ends() {
    for database in databases().await {
        let test = app(database).await;
        let token = test.client.login("Admin@Example.test", &test.admin.password).await;
        let person = test.client.with_token(&token);
        let me = person.get("/v1/me").await.json();
        assert_eq!((me["email"].as_str(), me["is_admin"].as_bool()), (Some("admin@example.test"), Some(true)));
        assert_eq!(person.get("/v1/teams").await.json()["items"][0]["role"], "owner");
        assert_eq!(person.get("/v1/sandboxes").await.status, StatusCode::OK);
        assert_eq!(person.send(Method::POST, "/v1/auth/logout", Body::empty()).await.status, StatusCode::NO_CONTENT);
        assert_error(&person.get("/v1/me").await, 401, "unauthorized");
    }
}

#[tokio::test]
async fn a_login_never_says_which_part_was_wrong_and_bounds_guessing() {
    for database in databases().await {
        let test = app(database).await;
        let client = test.client.anonymous();
        let wrong = |email: &str| json!({ "email": email, "password": "wrong wrong" });
        let unknown = client.post("/v1/auth/login", wrong("nobody@example.test")).await;
        let known = client.post("/v1/auth/login", wrong("admin@example.test")).await;
        assert_error(&unknown, 401, "unauthorized");
        assert_eq!(unknown.json()["error"]["message"], known.json()["error"]["message"]);
        let mut last = known;
        for _ in 0..10 {
            last = client.post("/v1/auth/login", wrong("admin@example.test")).await;
        }
        assert_error(&last, 429, "rate_limited");
        assert!(last.headers.contains_key("retry-after"));
    }
}

#[tokio::test]
async fn the_first_admin_takes_the_setup_token_and_it_works_once() {
    for database in databases().await {
        let database = database;
        let test = app_with(database, |_| {}).await;
        assert!(test.app.accounts.setup_token().await.unwrap().is_none(), "somebody is there already");
        for table in ["DELETE FROM api_keys", "DELETE FROM teams", "DELETE FROM users"] {
            crate::db::on!(write & test.app.db, |c| sqlx::query(table).execute(c).await.map(|_| ())).unwrap();
        }
        let token = test.app.accounts.setup_token().await.unwrap().unwrap();
        let client = test.client.anonymous();
        let ask = |token: &str, password: &str| json!({ "token": token, "email": "first@example.test", "password": password });
        assert_error(&client.post("/v1/auth/setup", ask("wrong", "long enough")).await, 401, "unauthorized");
        let short = client.post("/v1/auth/setup", ask(token.expose_secret(), "short")).await;
        assert_eq!((short.code().as_str(), short.field().as_str()), ("invalid_request", "password"));
        let made = client.post("/v1/auth/setup", ask(token.expose_secret(), "long enough")).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.json());
        assert!(
            client.with_token(made.json()["token"].as_str().unwrap()).get("/v1/me").await.json()["is_admin"] == true
        );
        let again = client.post("/v1/auth/setup", ask(token.expose_secret(), "long enough")).await;
        assert_error(&again, 401, "unauthorized");
    }
}

#[tokio::test]
async fn a_deleted_key_is_refused_at_once() {
    for database in databases().await {
        let test = app(database).await;
        let token = test.client.login("admin@example.test", &test.admin.password).await;
        let person = test.client.with_token(&token);
        let made = person.post("/v1/api-keys", json!({ "name": "ci" })).await;
        assert_eq!(made.status, StatusCode::CREATED);
        let (key, id) = (made.json()["key"].as_str().unwrap().to_owned(), made.json()["id"].clone());
        let machine = test.client.with("x-api-key", &key);
        assert_eq!(machine.get("/v1/sandboxes").await.status, StatusCode::OK);
        let listed = person.get("/v1/api-keys").await.json();
        assert_eq!(listed["items"].as_array().unwrap().len(), 2);
        assert!(!listed.to_string().contains(&key), "a list shows no secrets");
        let path = format!("/v1/api-keys/{}", id.as_str().unwrap());
        assert_eq!(person.delete(&path).await.status, StatusCode::NO_CONTENT);
        assert_error(&machine.get("/v1/sandboxes").await, 401, "unauthorized");
        assert_error(&person.delete(&path).await, 404, "not_found");
    }
}

#[tokio::test]
async fn a_repeated_create_with_one_idempotency_key_makes_one_sandbox() {
    for database in databases().await {
        let test = app(database).await;
        let (_, agent) = test.fleet.add_host();
        let client = test.client.with("idempotency-key", "once");
        let first = client.post("/v1/sandboxes", json!({})).await;
        let again = client.post("/v1/sandboxes", json!({})).await;
        assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::CREATED));
        assert_eq!(first.json()["id"], again.json()["id"]);
        assert_eq!(agent.count(), 1);
        let other = client.post("/v1/sandboxes", json!({ "vcpus": 2 })).await;
        assert_error(&other, 409, "conflict");
        assert_eq!(other.field(), "Idempotency-Key");
    }
}

#[tokio::test]
async fn a_failed_create_can_be_repeated_with_its_idempotency_key() {
    for database in databases().await {
        let test = app(database).await;
        let client = test.client.with("idempotency-key", "again");
        assert_error(&client.post("/v1/sandboxes", json!({})).await, 503, "no_hosts_available");
        test.fleet.add_host();
        assert_eq!(client.post("/v1/sandboxes", json!({})).await.status, StatusCode::CREATED);
    }
}

#[tokio::test]
async fn pages_show_every_sandbox_once_newest_first() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        let mut made = Vec::new();
        for index in 0..7 {
            let body = json!({ "metadata": { "index": index.to_string(), "odd": (index % 2 == 1).to_string() } });
            made.push(test.client.post("/v1/sandboxes", body).await.json()["id"].as_str().unwrap().to_owned());
            if index % 3 == 0 {
                test.clock.advance(std::time::Duration::from_millis(1));
            }
        }
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = test.client.get(&format!("/v1/sandboxes?limit=3{cursor}")).await.json();
            seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let unique: BTreeSet<_> = seen.iter().cloned().collect();
        assert_eq!((seen.len(), unique), (7, made.iter().cloned().collect()));
        let odd = test.client.get("/v1/sandboxes?metadata=odd%3Dtrue").await.json();
        assert_eq!(odd["items"].as_array().unwrap().len(), 3);
        let both = test.client.get("/v1/sandboxes?metadata=odd%3Dtrue%26index%3D3").await.json();
        assert_eq!(both["items"][0]["id"], made[3]);
        assert!(test.client.get("/v1/sandboxes?metadata=odd%3D'").await.json()["items"].as_array().unwrap().is_empty());
        test.client.delete(&format!("/v1/sandboxes/{}", made[0])).await;
        assert_eq!(test.client.get("/v1/sandboxes").await.json()["items"].as_array().unwrap().len(), 6);
        let stopped = test.client.get("/v1/sandboxes?status=stopped").await.json();
        assert_eq!(stopped["items"][0]["id"], made[0]);
    }
}

#[tokio::test]
async fn another_teams_sandbox_is_not_found() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        let id = test.client.post("/v1/sandboxes", json!({})).await.json()["id"].as_str().unwrap().to_owned();
        let other = test.another_team().await;
        for (method, rest) in
            [(Method::GET, ""), (Method::DELETE, ""), (Method::POST, "/pause"), (Method::GET, "/events")]
        {
            let answer = other.send(method, &format!("/v1/sandboxes/{id}{rest}"), Body::empty()).await;
            assert_error(&answer, 404, "not_found");
        }
        assert_error(&other.post(&format!("/v1/sandboxes/{id}/exec"), json!({ "cmd": "id" })).await, 404, "not_found");
        assert!(other.get("/v1/sandboxes").await.json()["items"].as_array().unwrap().is_empty());
        assert_eq!(test.client.get(&format!("/v1/sandboxes/{id}")).await.json()["status"], "running");
    }
}

#[tokio::test]
async fn an_exec_answers_output_timeouts_and_floods_clearly() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        let id = test.client.post("/v1/sandboxes", json!({})).await.json()["id"].as_str().unwrap().to_owned();
        let exec = format!("/v1/sandboxes/{id}/exec");
        let done = test.client.post(&exec, json!({ "cmd": "echo", "args": ["hi"] })).await;
        assert_eq!(done.status, StatusCode::OK, "{}", done.json());
        assert_eq!((&done.json()["stdout"], &done.json()["encoding"]), (&json!("echo hi"), &json!("utf-8")));
        let slow = test.client.post(&exec, json!({ "cmd": "sleep", "timeout_sec": 1 })).await;
        assert_error(&slow, 504, "timeout");
        assert_eq!(slow.json()["error"]["stdout"], "sleep ");
        assert_error(&test.client.post(&exec, json!({ "cmd": "yes" })).await, 413, "too_large");
        let long = test.client.post(&exec, json!({ "cmd": "echo", "args": ["x".repeat(10 << 20)] })).await;
        assert_error(&long, 400, "invalid_request");
        assert_eq!(long.field(), "args");
        let background = test.client.post(&exec, json!({ "cmd": "sleep", "background": true, "tag": "t" })).await;
        assert_eq!((background.status, background.json()["pid"].as_u64()), (StatusCode::ACCEPTED, Some(7)));
        let nul = test.client.post(&exec, json!({ "cmd": "a\0b" })).await;
        assert_eq!((nul.code().as_str(), nul.field().as_str()), ("invalid_request", "cmd"));
        assert_eq!(test.client.delete(&format!("/v1/sandboxes/{id}/processes/7?signal=TERM")).await.status, 204);
        assert_error(
            &test.client.delete(&format!("/v1/sandboxes/{id}/processes/7?signal=x")).await,
            400,
            "invalid_request",
        );
        assert_eq!(test.client.get(&format!("/v1/sandboxes/{id}/logs")).await.json()["items"][0]["message"], "hello");
        assert_eq!(test.client.get(&format!("/v1/sandboxes/{id}/metrics")).await.json()["points"][0]["mem_bytes"], 1);
    }
}

#[tokio::test]
async fn metrics_are_a_history_with_this_moment_at_its_end_while_the_sandbox_runs() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        let id = test.client.post("/v1/sandboxes", json!({})).await.json()["id"].as_str().unwrap().to_owned();
        let path = format!("/v1/sandboxes/{id}/metrics");
        let read = test.client.get(&format!("{path}?range=30m")).await.expect(200).json();
        assert_eq!((read["points"].as_array().unwrap().len(), read["step_sec"].as_u64()), (32, Some(60)));
        test.client.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.expect(200);
        let read = test.client.get(&format!("{path}?range=30m")).await.expect(200).json();
        assert_eq!(read["points"].as_array().unwrap().len(), 31);
        for wrong in ["4m", "31d", "1w", ""] {
            assert_eq!(test.client.get(&format!("{path}?range={wrong}")).await.expect(400).field(), "range");
        }
        let e2b = test.client.get(&format!("/e2b/sandboxes/{id}/metrics?start=600&end=1200")).await.expect(200).json();
        assert_eq!(e2b.as_array().unwrap().len(), 11);
        let other = test.client.post("/v1/sandboxes", json!({})).await.json()["id"].as_str().unwrap().to_owned();
        let none = atoll_model::SandboxId::new();
        let many =
            test.client.get(&format!("/e2b/sandboxes/metrics?sandbox_ids={id},{other},{none}")).await.expect(200);
        assert_eq!(many.json()["sandboxes"].as_object().unwrap().len(), 2);
        test.client.delete(&format!("/v1/sandboxes/{id}")).await.expect(204);
        test.client.get(&format!("{path}?range=5m")).await.expect(409);
    }
}

#[tokio::test]
async fn files_go_in_and_come_out_as_they_were_and_too_large_ones_are_refused() {
    for database in databases().await {
        let test = app_with(database, |config| config.http.max_upload_bytes = 3 << 20).await;
        test.fleet.add_host();
        let id = test.client.post("/v1/sandboxes", json!({})).await.json()["id"].as_str().unwrap().to_owned();
        let files = format!("/v1/sandboxes/{id}/files");
        let content: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let write = format!("{files}/stream/write?path=%2Fa%20b");
        let written = test.client.send(Method::POST, &write, content.clone()).await;
        assert_eq!(written.json(), json!({ "path": "/a b", "size_bytes": content.len() }));
        assert_eq!(test.client.post(&format!("{files}/stream/read"), json!({ "path": "/a b" })).await.body, content);
        assert_eq!(test.client.get(&format!("{files}/stream/read?path=/a%20b")).await.body, content);
        assert_eq!(test.client.post(&format!("{files}/read"), json!({ "path": "/a b" })).await.body, content);
        let missing = test.client.get(&format!("{files}/stream/read?path=/none")).await;
        assert_error(&missing, 404, "not_found");
        let form = "--X\r\ncontent-disposition: form-data; name=\"path\"\r\n\r\n/m\r\n--X\r\ncontent-disposition: form-data; \
                    name=\"file\"; filename=\"f\"\r\n\r\nhello\r\n--X--\r\n";
        let multipart = test.client.with("content-type", "multipart/form-data; boundary=X");
        let written = multipart.send(Method::POST, &format!("{files}/write"), form).await;
        assert_eq!(written.json(), json!({ "path": "/m", "size_bytes": 5 }));
        let part = |name: &str, value: &str| {
            format!("--X\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let large = part("path", "/l") + &part("file", &"z".repeat(900_000)) + "--X--\r\n";
        let written = multipart.send(Method::POST, &format!("{files}/write"), large).await;
        assert_eq!(written.json(), json!({ "path": "/l", "size_bytes": 900_000 }), "all of it arrives at once");
        let endless = "y".repeat(1 << 20);
        for wrong in [
            endless.clone(),
            format!("--X\r\ncontent-disposition: form-data; name=\"path\"\r\nx-endless: {endless}"),
            part("path", "/m") + "--X\r\nx-endless: " + &endless,
            part("path", "/m").repeat(2) + &part("file", "x") + "--X--\r\n",
        ] {
            // As it comes from a network, in pieces.
            let pieces: Vec<_> =
                wrong.as_bytes().chunks(4096).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
            let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(pieces.len()));
            let counted = std::sync::Arc::clone(&left);
            let pieces = futures::stream::iter(pieces).inspect(move |_| {
                counted.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            });
            let refused =
                multipart.send(Method::POST, &format!("{files}/write"), axum::body::Body::from_stream(pieces)).await;
            assert_error(&refused, 400, "invalid_request");
            let unread = left.load(std::sync::atomic::Ordering::Relaxed);
            assert!(wrong.len() < 1 << 20 || unread > 200, "most was never taken in: {unread} left");
        }
        assert_error(&test.client.send(Method::POST, &write, vec![0; 2 << 20]).await, 507, "insufficient_storage");
        assert_error(&test.client.send(Method::POST, &write, vec![0; 5 << 20]).await, 413, "too_large");
        let nul = test.client.send(Method::POST, &format!("{files}/stream/write?path=%00"), "x").await;
        assert_eq!((nul.code().as_str(), nul.field().as_str()), ("invalid_request", "path"));
    }
}

#[tokio::test]
async fn health_readiness_and_metrics_say_what_is_true() {
    for database in databases().await {
        let test = app_with(database, |config| config.metrics_token = Some("secret".to_owned().into())).await;
        let client = test.client.anonymous();
        // Each replica counts its own.
        for _ in test.replicas() {
            assert_eq!(client.get("/healthz").await.json()["status"], "ok");
        }
        let ready = client.get("/readyz").await;
        assert_error(&ready, 503, "not_ready");
        assert_eq!(ready.json()["error"]["failing"][0]["part"], "hosts");
        assert_error(&client.get("/metrics").await, 401, "unauthorized");
        let metrics = client.with("authorization", "Bearer secret").get("/metrics").await;
        assert!(
            String::from_utf8_lossy(&metrics.body).contains("atoll_http_requests_total{method=\"GET\",status=\"2xx\"}")
        );
    }
}

#[tokio::test]
async fn more_requests_than_are_let_through_are_told_when_to_come_back() {
    for database in databases().await {
        let test = app_with(database, |config| config.http.max_requests = 0).await;
        let answer = test.client.get("/healthz").await;
        assert_error(&answer, 503, "overloaded");
        assert!(answer.headers.contains_key("retry-after"));
    }
}

#[tokio::test]
async fn a_host_that_is_fuller_than_control_knew_is_no_error_of_the_host() {
    for database in databases().await {
        let test = app(database).await;
        let ((_, first), (_, second)) = (test.fleet.add_host(), test.fleet.add_host());
        first.fill();
        assert_eq!(test.client.post("/v1/sandboxes", json!({})).await.status, StatusCode::CREATED);
        second.fill();
        let refused = test.client.post("/v1/sandboxes", json!({})).await;
        assert_error(&refused, 503, "no_hosts_available");
        assert!(refused.headers.contains_key("retry-after"));
    }
}
