//! Secrets and what is in volumes, in E2B's words, over both databases and without a network.

use atoll_model::api::sandboxes::Sandbox;
use serde_json::{Value, json};

use crate::db::testing::databases;
use crate::testing::{Client, TestApp, app};

async fn volume(test: &TestApp, name: &str) -> Value {
    test.client.post("/e2b/volumes", json!({ "name": name })).await.expect(201).json()
}

/// Who has a volume's token, and nothing else.
fn holder(test: &TestApp, volume: &Value) -> Client {
    test.client.anonymous().with("authorization", &format!("Bearer {}", volume["token"].as_str().unwrap()))
}

#[tokio::test]
async fn a_volumes_token_opens_its_files_and_no_other_thing() {
    for db in databases().await {
        let test = app(db).await;
        test.fleet.add_host();
        let (data, other) = (volume(&test, "data").await, volume(&test, "other").await);
        let id = data["volumeID"].as_str().unwrap();
        let files = holder(&test, &data);
        let path = format!("/e2b/volumecontent/{id}/file?path=%2Fa%20b&mode=420&uid=7&force=true");
        let seen = files.put(&path, json!("text")).await.expect(200).json();
        let asked = format!("/volumes/{id}/file?path=%2Fa+b&size_bytes=1073741824&uid=7&mode=420&parents=true");
        assert_eq!(seen, json!({ "method": "PUT", "asked": asked, "body": "\"text\"" }));
        let patched = files.patch(&format!("/e2b/volumecontent/{id}/path?path=x"), json!({ "gid": 8 })).await;
        assert!(patched.expect(200).json()["asked"].as_str().unwrap().ends_with("&gid=8"));
        files.get("/e2b/volumecontent/data/dir?path=%2F&depth=2").await.expect(200);

        let missing = files.get(&format!("/e2b/volumecontent/{id}/path?path=none")).await.expect(404).json();
        assert_eq!(missing, json!({ "code": "not_found", "message": "path `/none` does not exist" }));
        files.get(&format!("/e2b/volumecontent/{id}/path?path=unmarked")).await.expect(502);
        for query in ["", "?path=x&mode=-1", "?path=x&depth=much", "?path=x&force=maybe"] {
            files.get(&format!("/e2b/volumecontent/{id}/path{query}")).await.expect(400);
        }
        let at = |volume: &Value| format!("/e2b/volumecontent/{}/path?path=x", volume["volumeID"].as_str().unwrap());
        files.get(&at(&other)).await.expect(404);
        let forged = format!("{}x", data["token"].as_str().unwrap());
        for client in [
            test.client.anonymous(),
            test.client.clone(),
            test.client.anonymous().with("authorization", "Bearer "),
            test.client.anonymous().with("authorization", &format!("Bearer {forged}")),
            test.first().await,
        ] {
            let refused = client.get(&at(&data)).await.expect(401).json();
            assert_eq!(refused["code"], "unauthorized", "{refused}");
        }
        for path in ["/e2b/volumes", "/e2b/v2/sandboxes", "/v1/me"] {
            files.get(path).await.expect(401);
        }
        test.clock.advance(std::time::Duration::from_secs(24 * 3600));
        files.get(&at(&data)).await.expect(401);
        let again = test.client.get(&format!("/e2b/volumes/{id}")).await.expect(200).json();
        holder(&test, &again).get(&at(&data)).await.expect(200);
        test.client.delete(&format!("/e2b/volumes/{id}")).await.expect(204);
        holder(&test, &again).get(&at(&data)).await.expect(404);
    }
}

#[tokio::test]
async fn files_without_a_sandbox_choose_the_volumes_host() {
    for db in databases().await {
        let test = app(db).await;
        let made = volume(&test, "data").await;
        let files = holder(&test, &made);
        let path = format!("/e2b/volumecontent/{}/dir?path=%2F", made["volumeID"].as_str().unwrap());
        let refused = files.get(&path).await.expect(503).json();
        assert_eq!(refused["code"], "no_hosts_available");
        let (first, _) = test.fleet.add_host();
        files.get(&path).await.expect(200);
        let shown = test.client.get("/v1/volumes/data").await.expect(200).json();
        assert_eq!(shown["host_id"], first.as_str());
        for _ in 0..3 {
            test.fleet.add_host();
        }
        let mount = json!({ "volumes": [{ "volume": "data", "path": "/data" }] });
        let sandbox: Sandbox = test.client.post("/v1/sandboxes", mount).await.expect(201).parsed();
        assert_eq!(sandbox.host_id.unwrap(), first, "where its files are, there its sandboxes go");
    }
}

#[tokio::test]
async fn secrets_are_made_listed_set_anew_and_deleted_and_never_shown() {
    for db in databases().await {
        let test = app(db).await;
        let (_, agent) = test.fleet.add_host();
        let value = "hunter2-of-the-team";
        let body = json!({ "name": "openai-key", "value": value, "metadata": { "team": "a" } });
        let made = test.client.post("/e2b/secrets", body.clone()).await.expect(201).json();
        assert!(made["secretID"].as_str().unwrap().starts_with("sec"), "{made}");
        assert_eq!((&made["currentVersion"], &made["metadata"]), (&json!(1), &json!({ "team": "a" })));
        test.client.post("/e2b/secrets", body).await.expect(409);
        let id = made["secretID"].as_str().unwrap();
        let kept = test.client.post("/e2b/secrets/openai-key", json!({ "value": "second" })).await.expect(200).json();
        assert_eq!((&kept["currentVersion"], &kept["metadata"]), (&json!(2), &json!({ "team": "a" })));
        let request = json!({ "value": value, "metadata": {} });
        let set = test.client.post(&format!("/e2b/secrets/{id}"), request).await.expect(200).json();
        assert_eq!((&set["currentVersion"], &set["metadata"]), (&json!(3), &json!({})));
        assert_eq!(test.client.get("/e2b/secrets/openai-key").await.expect(200).json(), set);

        let variables = json!({ "KEY": "${e2b.secrets.openai-key}", "PLAIN": "x" });
        let request = json!({ "templateID": "base", "envVars": variables });
        let sandbox = test.client.post("/e2b/v2/sandboxes", request).await.expect(201);
        let id = sandbox.json()["sandboxID"].as_str().unwrap().parse().unwrap();
        let env = agent.spec_of(&id).unwrap().env;
        assert_eq!((env["KEY"].as_str(), env["PLAIN"].as_str()), (value, "x"));
        let request = |value: &str| json!({ "templateID": "base", "envVars": { "KEY": value } });
        test.client.post("/e2b/v2/sandboxes", request("${e2b.secrets.none}")).await.expect(404);
        test.client.post("/e2b/v2/sandboxes", request("Bearer ${e2b.secrets.openai-key}")).await.expect(400);

        test.clock.advance(std::time::Duration::from_secs(1));
        test.client.post("/e2b/secrets", json!({ "name": "_second", "value": "x" })).await.expect(201);
        let page = test.client.get("/e2b/secrets?limit=1").await.expect(200);
        let next = page.headers["x-next-token"].to_str().unwrap().to_owned();
        assert_eq!(page.json()[0]["name"], "openai-key");
        let last = test.client.get(&format!("/e2b/secrets?limit=1&nextToken={next}")).await.expect(200);
        assert_eq!(last.json()[0]["name"], "_second");
        assert!(last.headers.get("x-next-token").is_none());
        let all = test.client.get("/e2b/secrets").await.expect(200);
        assert!(!String::from_utf8(all.body).unwrap().contains(value));

        for (name, value) in
            [("", json!("x")), (".a", json!("x")), ("a b", json!("x")), ("a", Value::Null), ("a", json!(7))]
        {
            test.client.post("/e2b/secrets", json!({ "name": name, "value": value })).await.expect(400);
        }
        test.client.get("/e2b/secrets?limit=0").await.expect(400);
        for path in ["/e2b/secrets/none", "/e2b/secrets/%00"] {
            test.client.get(path).await.expect(404);
            test.client.post(path, json!({ "value": "x" })).await.expect(404);
            test.client.delete(path).await.expect(404);
        }
        test.client.delete("/e2b/secrets/openai-key").await.expect(204);
        test.client.delete("/e2b/secrets/openai-key").await.expect(404);
    }
}
