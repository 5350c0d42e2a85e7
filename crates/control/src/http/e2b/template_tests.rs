//! Templates in E2B's words, without machines: what is asked for, uploaded, begun, listed and refused.

use axum::http::Method;
use serde_json::{Value, json};

use crate::db::testing::databases;
use crate::testing::{Client, TestApp, app};

async fn requested(test: &TestApp, name: &str) -> (String, String) {
    let made = test.client.post("/e2b/v3/templates", json!({ "name": name, "memoryMB": 768 })).await.expect(202).json();
    (made["templateID"].as_str().unwrap().to_owned(), made["buildID"].as_str().unwrap().to_owned())
}

async fn status(client: &Client, template: &str, build: &str) -> Value {
    client.get(&format!("/e2b/templates/{template}/builds/{build}/status")).await.expect(200).json()
}

#[tokio::test]
async fn a_build_is_asked_for_then_begun_once_and_its_end_is_told() {
    for db in databases().await {
        let test = app(db).await;
        let (template, build) = requested(&test, "mine:v1").await;
        assert_eq!(status(&test.client, &template, &build).await["status"], "waiting");
        let begin = format!("/e2b/v2/templates/{template}/builds/{build}");
        for (body, field) in [
            (json!({}), "fromImage"),
            (json!({ "fromImage": "a b" }), "fromImage"),
            (json!({ "fromImage": "debian:12", "fromTemplate": "base" }), "fromImage"),
            (json!({ "fromTemplate": "base", "steps": [{ "type": "JUMP" }] }), "JUMP"),
            (json!({ "fromTemplate": "base", "steps": [{ "type": "RUN", "args": [] }] }), "RUN"),
            (json!({ "fromTemplate": "base", "steps": [{ "type": "ENV", "args": ["A"] }] }), "ENV"),
            (json!({ "fromTemplate": "base", "steps": [{ "type": "COPY", "args": ["a", "b"] }] }), "filesHash"),
            (json!({ "fromTemplate": "base", "steps": [{ "type": "WORKDIR", "args": [""] }] }), "WORKDIR"),
            (json!({ "fromImage": "debian:12", "fromImageRegistry": { "type": "aws", "awsRegion": "x" } }), "aws"),
            (json!({ "fromImage": "debian:12", "fromImageRegistry": { "type": "carrier pigeon" } }), "pigeon"),
        ] {
            let told = test.client.post(&begin, body.clone()).await.expect(400).json();
            assert_eq!(told["code"], 400, "{body} {field}: {told}");
        }
        // There are no machines: the build fails at its sandbox.
        let recipe =
            json!({ "fromTemplate": "base", "steps": [{ "type": "RUN", "args": ["true", ""], "force": false }] });
        test.client.post(&begin, recipe.clone()).await.expect(202);
        test.client.post(&begin, recipe).await.expect(409);
        let ended = loop {
            let now = status(&test.client, &template, &build).await;
            if now["status"] == "error" {
                break now;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        assert_eq!((&ended["reason"]["step"], &ended["buildID"]), (&json!("base"), &json!(build)), "{ended}");
        assert!(!ended["logEntries"].as_array().unwrap().is_empty());
        let far = format!("/e2b/templates/mine/builds/{build}/status?logsOffset=100000");
        assert_eq!(test.client.get(&far).await.expect(200).json()["logEntries"], json!([]));
        let backward = format!("/e2b/templates/mine/builds/{build}/logs?direction=backward&limit=1&level=error");
        let last = test.client.get(&backward).await.expect(200).json()["logs"][0].clone();
        assert_eq!((&last["message"], &last["level"]), (&ended["reason"]["message"], &json!("error")));
    }
}

#[tokio::test]
async fn names_belong_to_the_team_and_nobody_else_sees_them() {
    for db in databases().await {
        let test = app(db).await;
        let (template, build) = requested(&test, " Mine ").await;
        let found = test.client.get("/e2b/templates/aliases/mine").await.expect(200).json();
        assert_eq!(found, json!({ "templateID": template, "public": false }));
        let shown = test.client.get(&format!("/e2b/templates/{template}")).await.expect(200).json();
        let name = shown["names"][0].as_str().unwrap().to_owned();
        assert!(name.ends_with("/mine"), "{shown}");
        let encoded = name.replace('/', "%2F");
        test.client.get(&format!("/e2b/templates/aliases/{encoded}")).await.expect(200);
        test.client.get("/e2b/templates/aliases/mine:v9").await.expect(404);
        assert_eq!((&shown["memoryMB"], &shown["builds"][0]["buildID"]), (&json!(768), &json!(build)));
        let listed = test.client.get("/e2b/v2/templates?limit=1").await.expect(200);
        assert_eq!(listed.json()[0]["templateID"], json!(template));
        assert!(!listed.headers.contains_key("x-next-token"));
        assert_eq!(test.client.get("/e2b/default-templates").await.expect(200).json()[0]["names"], json!(["base"]));
        test.client.patch("/e2b/templates/mine", json!({ "public": true })).await.expect(400);
        test.client.patch("/e2b/v2/templates/mine", json!({ "public": false })).await.expect(200);
        test.client.patch("/e2b/v2/templates/base", json!({})).await.expect(403);
        for (name, code) in [("other/mine", 403), ("a b", 400), ("mine:", 400), (":v1", 400)] {
            test.client.post("/e2b/v3/templates", json!({ "name": name })).await.expect(code);
        }

        let other = test.another_team().await;
        for path in ["/e2b/templates/mine", "/e2b/templates/mine/tags", "/e2b/templates/aliases/mine"] {
            other.get(path).await.expect(404);
        }
        other.get(&format!("/e2b/templates/{template}/builds/{build}/status")).await.expect(404);
        other
            .post(&format!("/e2b/v2/templates/{template}/builds/{build}"), json!({ "fromTemplate": "base" }))
            .await
            .expect(404);
        other.delete("/e2b/templates/mine").await.expect(404);
        assert_eq!(other.get("/e2b/v2/templates").await.expect(200).json(), json!([]));

        // Never built: nothing to tag, nothing to run.
        test.client.post("/e2b/templates/tags", json!({ "target": "mine", "tags": ["x"] })).await.expect(404);
        test.client.post("/e2b/v2/sandboxes", json!({ "templateID": name })).await.expect(409);
        test.client.delete("/e2b/templates/base").await.expect(403);
        test.client.delete("/e2b/templates/mine").await.expect(204);
        test.client.delete("/e2b/templates/mine").await.expect(404);
    }
}

#[tokio::test]
async fn files_are_uploaded_by_whoever_has_the_address_and_nobody_else() {
    for db in databases().await {
        let test = app(db).await;
        let (template, _) = requested(&test, "mine").await;
        let hash = "0a".repeat(32);
        let client = test.client.with("host", "127.0.0.1:7420");
        let ask = async || client.get(&format!("/e2b/templates/{template}/files/{hash}")).await.expect(201).json();
        let asked = ask().await;
        assert_eq!(asked["present"], false);
        let url = asked["url"].as_str().unwrap();
        let path = url.strip_prefix("http://127.0.0.1:7420").unwrap();
        let anonymous = test.client.anonymous();
        anonymous.send(Method::PUT, path, "an archive").await.expect(200);
        assert_eq!(ask().await["present"], true);
        anonymous.send(Method::PUT, "/e2b/uploads/0123456789abcdef0123456789abcdef", "x").await.expect(404);
        test.clock.advance(std::time::Duration::from_secs(3601));
        anonymous.send(Method::PUT, path, "too late").await.expect(404);
        client.get(&format!("/e2b/templates/{template}/files/nonsense")).await.expect(400);
        // What another team uploads under the same hash is its own.
        let other = test.another_team().await;
        other.post("/e2b/v3/templates", json!({ "name": "mine" })).await.expect(202);
        let asked = other.get(&format!("/e2b/templates/mine/files/{hash}")).await.expect(201).json();
        assert_eq!(asked["present"], false);
    }
}
