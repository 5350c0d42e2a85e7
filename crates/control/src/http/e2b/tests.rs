//! What E2B's SDKs can rely on, without a network.

use std::time::Duration;

use atoll_model::SandboxId;
use serde_json::{Value, json};

use crate::db::on;
use crate::db::testing::databases;
use crate::testing::{TestApp, app, insert_online_host};

async fn create(test: &TestApp, request: Value) -> Value {
    test.client.post("/e2b/v2/sandboxes", request).await.expect(201).json()
}

#[tokio::test]
async fn errors_have_the_shape_that_the_sdks_read() {
    for db in databases().await {
        let test = app(db).await;
        let unknown = format!("/e2b/sandboxes/i{}", "0".repeat(20));
        for (answer, status) in [
            (test.client.anonymous().get("/e2b/v2/sandboxes").await, 401),
            (test.client.get(&unknown).await, 404),
            (test.client.get("/e2b/sandboxes/Not_An_Id").await, 400),
            (test.client.delete("/e2b/sandboxes/nonexistingsandbox").await, 404),
            (test.client.get("/e2b/sandboxes/non-existing-sandbox").await, 404),
            (test.client.get("/e2b/nothing/here").await, 404),
            (test.client.post("/e2b/sandboxes", json!({ "templateID": "nope" })).await, 404),
            (test.client.post("/e2b/sandboxes", json!({})).await, 400),
            (test.client.post("/e2b/sandboxes", json!({ "templateID": "base", "timeout": 0 })).await, 400),
            (test.client.post("/e2b/sandboxes", json!({ "templateID": "base", "autoPauseMemory": false })).await, 400),
        ] {
            let body = answer.expect(status).json();
            assert_eq!(body["code"], status);
            assert!(body["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
            assert!(body.get("error").is_none(), "{body}");
        }
        let text = test.client.get(&unknown).await.json()["message"].as_str().unwrap().to_owned();
        assert!(text.ends_with("doesn't exist or you don't have access to it"), "{text}");
    }
}

#[tokio::test]
async fn a_sandbox_is_created_listed_extended_and_killed() {
    for db in databases().await {
        let test = app(db).await;
        test.fleet.add_host();
        let request = json!({ "templateID": "base", "timeout": 60, "metadata": { "a b": "c&d" }, "mcp": null });
        let made = create(&test, request).await;
        let id = made["sandboxID"].as_str().unwrap();
        assert!(id.starts_with('i') && id.len() == 21, "{id}");
        assert!(made["envdAccessToken"].is_string() && made["trafficAccessToken"].is_null(), "{made}");

        let found = test.client.get("/e2b/v2/sandboxes?state=running%2Cpaused&metadata=a%252520b%3Dc%252526d").await;
        assert_eq!(found.headers["x-total-running"], "1");
        assert_eq!(found.expect(200).json()[0]["sandboxID"], id);
        let other = test.client.get("/e2b/v2/sandboxes?metadata=a%252520b%3Dx").await.expect(200).json();
        assert_eq!(other, json!([]));

        let end = async || test.client.get(&format!("/e2b/sandboxes/{id}")).await.expect(200).json()["endAt"].clone();
        let before = end().await;
        test.client.post(&format!("/e2b/sandboxes/{id}/connect"), json!({ "timeout": 1 })).await.expect(200);
        assert_eq!(end().await, before, "a connect never brings the end nearer");
        test.client.post(&format!("/e2b/sandboxes/{id}/timeout"), json!({ "timeout": 600 })).await.expect(204);
        assert!(end().await.as_str() > before.as_str());

        let delete = async || test.client.delete(&format!("/e2b/sandboxes/{id}")).await;
        delete().await.expect(204);
        delete().await.expect(404);
    }
}

#[tokio::test]
async fn pages_follow_each_other_in_both_orders() {
    for db in databases().await {
        let test = app(db).await;
        test.fleet.add_host();
        let mut made = Vec::new();
        for _ in 0..5 {
            made.push(create(&test, json!({ "templateID": "base" })).await["sandboxID"].as_str().unwrap().to_owned());
        }
        made.sort();
        for order in ["asc", "desc"] {
            let (mut seen, mut next, mut starts) = (Vec::new(), String::new(), Vec::new());
            loop {
                let path = format!("/e2b/v2/sandboxes?limit=2&order={order}&nextToken={next}");
                let page = test.client.get(&path).await.expect(200);
                for item in page.json().as_array().unwrap() {
                    seen.push(item["sandboxID"].as_str().unwrap().to_owned());
                    starts.push(item["startedAt"].as_str().unwrap().to_owned());
                }
                match page.headers.get("x-next-token") {
                    Some(token) => next = token.to_str().unwrap().to_owned(),
                    None => break,
                }
            }
            assert!(if order == "asc" { starts.is_sorted() } else { starts.iter().rev().is_sorted() }, "{starts:?}");
            seen.sort();
            assert_eq!(seen, made, "{order}");
        }
    }
}

#[tokio::test]
async fn a_key_that_only_reads_gets_no_access_token() {
    for db in databases().await {
        let test = app(db).await;
        test.fleet.add_host();
        let made = create(&test, json!({ "templateID": "base" })).await;
        let token = made["envdAccessToken"].as_str().unwrap();
        let key = test.first().await.post("/v1/api-keys", json!({ "name": "eyes", "scope": "read" })).await;
        let reader = test.client.with("x-api-key", key.expect(201).json()["e2b_key"].as_str().unwrap());
        let path = format!("/e2b/sandboxes/{}", made["sandboxID"].as_str().unwrap());
        assert!(String::from_utf8(test.client.get(&path).await.expect(200).body).unwrap().contains(token));
        reader.get(&path).await.expect(403);
        reader.post(&format!("{path}/connect"), json!({ "timeout": 60 })).await.expect(403);
        for list in ["/e2b/v2/sandboxes", "/e2b/sandboxes", "/v1/sandboxes"] {
            let body = String::from_utf8(reader.get(list).await.expect(200).body).unwrap();
            assert!(body.contains(made["sandboxID"].as_str().unwrap().trim_start_matches('i')), "{list}: {body}");
            assert!(!body.contains(token), "{list} bears an access token");
        }
    }
}

#[tokio::test]
async fn a_volume_is_made_mounted_shown_and_deleted() {
    for db in databases().await {
        let test = app(db).await;
        let (host, agent) = test.fleet.add_host();
        insert_online_host(&test, &host).await;
        for bad in ["", "a/b", "ü", &"x".repeat(65)] {
            test.client.post("/e2b/volumes", json!({ "name": bad })).await.expect(400);
        }
        let made = test.client.post("/e2b/volumes", json!({ "name": "My_data" })).await.expect(201).json();
        let id = made["volumeID"].as_str().unwrap();
        assert!(id.starts_with("vol-") && made["token"].is_string(), "{made}");
        test.client.post("/e2b/volumes", json!({ "name": "My_data" })).await.expect(409);
        let listed = test.client.get("/e2b/volumes").await.expect(200).json();
        assert_eq!(listed, json!([{ "volumeID": id, "name": "My_data" }]));
        for known_as in [id, "My_data"] {
            let got = test.client.get(&format!("/e2b/volumes/{known_as}")).await.expect(200).json();
            assert_eq!(got, made);
        }

        let mounts = json!([{ "name": "My_data", "path": "/mnt/data" }]);
        let sandbox = create(&test, json!({ "templateID": "base", "volumeMounts": mounts })).await;
        let path = format!("/e2b/sandboxes/{}", sandbox["sandboxID"].as_str().unwrap());
        assert_eq!(test.client.get(&path).await.expect(200).json()["volumeMounts"], mounts);
        assert_eq!(test.client.get("/e2b/v2/sandboxes").await.expect(200).json()[0]["volumeMounts"], mounts);
        let own: SandboxId = sandbox["sandboxID"].as_str().unwrap().parse().unwrap();
        assert_eq!(agent.spec_of(&own).unwrap().volumes[0].path, "/mnt/data");
        for (mounts, status) in [
            (json!([{ "name": "none", "path": "/mnt/x" }]), 404),
            (json!([{ "name": "My_data", "path": "relative" }]), 400),
            (json!([{ "name": "My_data" }]), 400),
        ] {
            let request = json!({ "templateID": "base", "volumeMounts": mounts });
            test.client.post("/e2b/v2/sandboxes", request).await.expect(status);
        }

        let volume = format!("/e2b/volumes/{id}");
        test.client.delete(&volume).await.expect(409);
        test.client.delete(&path).await.expect(204);
        test.client.delete(&volume).await.expect(204);
        test.client.delete(&volume).await.expect(404);
        test.another_team().await.get(&volume).await.expect(404);
    }
}

/// What is written of a sandbox's end: its lifetime in seconds, and whether a pause then keeps its memory.
async fn lifetime_of(test: &TestApp, id: &str) -> (Option<i64>, Option<bool>) {
    let id: SandboxId = id.parse().unwrap();
    let listed = test.app.sandboxes.listed(test.team(), &id).await.unwrap().unwrap();
    (listed.lifetime_sec, listed.keep_memory)
}

#[tokio::test]
async fn forks_have_an_end_from_the_moment_they_are_there() {
    for db in databases().await {
        let test = app(db).await;
        test.fleet.add_host();
        let wanted = json!({ "templateID": "base", "timeout": 900, "autoPause": true, "autoPauseMemory": false });
        let parent = create(&test, wanted).await;
        let parent = parent["sandboxID"].as_str().unwrap();
        let others = async |known: &[String]| {
            let all = test.client.get("/e2b/v2/sandboxes?state=running").await.expect(200).json();
            let ids = all.as_array().unwrap().iter().map(|item| item["sandboxID"].as_str().unwrap().to_owned());
            ids.filter(|id| !known.contains(id)).collect::<Vec<_>>()
        };
        let mut known = vec![parent.to_owned()];
        test.client
            .post(&format!("/e2b/sandboxes/{parent}/fork"), json!({ "timeout": 60, "count": 2 }))
            .await
            .expect(201);
        let children = others(&known).await;
        assert_eq!(children.len(), 2);
        for child in &children {
            assert_eq!(lifetime_of(&test, child).await, (Some(60), Some(false)));
        }
        // Our own way to fork hands the parent's lifetime on.
        known.extend(children);
        let ours = test.client.post(&format!("/v1/sandboxes/sb-{}/fork", &parent[1..]), json!({})).await;
        assert!(ours.status.is_success(), "{}", String::from_utf8_lossy(&ours.body));
        let child = others(&known).await.pop().unwrap();
        assert_eq!(lifetime_of(&test, &child).await, (Some(900), Some(false)));
    }
}

#[tokio::test]
async fn what_wakes_up_has_time_to_live_whatever_its_former_end() {
    for db in databases().await {
        let test = app(db).await;
        test.fleet.add_host();
        let sandbox = async |resumes: bool| {
            let wanted = json!({ "templateID": "base", "autoPause": true, "autoResume": { "enabled": resumes } });
            let id = create(&test, wanted).await["sandboxID"].as_str().unwrap().to_owned();
            let path = format!("/e2b/sandboxes/{id}");
            test.client.post(&format!("{path}/timeout"), json!({ "timeout": 0 })).await.expect(204);
            test.client.post(&format!("{path}/pause"), json!({})).await.expect(204);
            test.client.post(&format!("{path}/pause"), json!({})).await.expect(409);
            (id, path)
        };
        let (id, path) = sandbox(false).await;
        test.client.post(&format!("{path}/connect"), json!({ "timeout": 60 })).await.expect(201);
        assert_eq!(lifetime_of(&test, &id).await.0, Some(60));

        let (id, _) = sandbox(true).await;
        let port = test.client.anonymous().with("e2b-sandbox-id", &id).with("e2b-sandbox-port", "8080");
        port.with("host", "127.0.0.1").get("/").await.expect(200);
        assert_eq!(lifetime_of(&test, &id).await.0, Some(300));
    }
}

#[tokio::test]
async fn only_what_is_paused_answers_a_pause_with_a_conflict() {
    let test = app(crate::db::testing::sqlite().await).await;
    test.fleet.add_host();
    let id = create(&test, json!({ "templateID": "base" })).await["sandboxID"].as_str().unwrap().to_owned();
    for (status, answer) in [("missing", 503), ("error", 404), ("stopped", 404), ("paused", 409)] {
        let own: SandboxId = id.parse().unwrap();
        on!(write & test.app.db, |c| sqlx::query("UPDATE sandboxes SET status = $1 WHERE id = $2")
            .bind(status)
            .bind(own.as_str())
            .execute(c)
            .await
            .map(|_| ()))
        .unwrap();
        let told = test.client.post(&format!("/e2b/sandboxes/{id}/pause"), json!({})).await.expect(answer);
        assert_eq!(told.json()["code"], answer, "{status}");
    }
}

#[tokio::test]
async fn pages_of_snapshots_are_of_what_is_wanted_and_the_newest_come_first() {
    for db in databases().await {
        let test = app(db).await;
        test.fleet.add_host();
        let mut sandboxes = Vec::new();
        for _ in 0..2 {
            sandboxes
                .push(create(&test, json!({ "templateID": "base" })).await["sandboxID"].as_str().unwrap().to_owned());
        }
        let mut made = Vec::new();
        for number in 0..6 {
            test.clock.advance(std::time::Duration::from_secs(1));
            let path = format!("/e2b/sandboxes/{}/snapshots", sandboxes[number % 2]);
            let snapshot = test.client.post(&path, json!({ "name": format!("s{number}") })).await.expect(201).json();
            made.push(snapshot["snapshotID"].as_str().unwrap().to_owned());
        }
        let pages = async |filter: &str| {
            let (mut seen, mut next) = (Vec::new(), String::new());
            loop {
                let page =
                    test.client.get(&format!("/e2b/snapshots?limit=2&nextToken={next}{filter}")).await.expect(200);
                let items = page.json().as_array().unwrap().clone();
                let ids: Vec<String> =
                    items.iter().map(|item| item["snapshotID"].as_str().unwrap().to_owned()).collect();
                assert!(!ids.is_empty(), "a page of what is wanted has something of it");
                seen.extend(ids);
                match page.headers.get("x-next-token") {
                    Some(token) => next = token.to_str().unwrap().to_owned(),
                    None => return seen,
                }
            }
        };
        let newest: Vec<_> = made.iter().rev().cloned().collect();
        assert_eq!(pages("").await, newest);
        let of_first: Vec<_> = newest.iter().skip(1).step_by(2).cloned().collect();
        assert_eq!(pages(&format!("&sandboxID={}", sandboxes[0])).await, of_first);
        assert_eq!(pages("&name=s0").await, made[..1]);
    }
}

#[tokio::test]
async fn a_team_sees_how_many_of_its_sandboxes_ran_at_once_and_how_many_started() {
    const MINUTE: Duration = Duration::from_secs(60);
    for db in databases().await {
        let test = app(db).await;
        test.fleet.add_host();
        let begun = test.clock.now().0 / 1000;
        let first = create(&test, json!({ "templateID": "base", "timeout": 80_000 })).await;
        test.clock.advance(MINUTE);
        create(&test, json!({ "templateID": "base", "timeout": 80_000 })).await;
        test.clock.advance(MINUTE);
        let path = format!("/e2b/sandboxes/{}", first["sandboxID"].as_str().unwrap());
        test.client.post(&format!("{path}/pause"), json!({})).await.expect(204);
        test.clock.advance(MINUTE);
        test.client.post(&format!("{path}/resume"), json!({ "timeout": 80_000 })).await.expect(201);
        test.clock.advance(MINUTE);

        let metrics = format!("/e2b/teams/{}/metrics", test.team());
        let range = format!("start={begun}&end={}", begun + 240);
        let points = test.client.get(&format!("{metrics}?{range}")).await.expect(200).json();
        let points = points.as_array().unwrap();
        let at = |seconds: i64| {
            let point = points.iter().find(|point| point["timestampUnix"] == begun + seconds).unwrap();
            (point["concurrentSandboxes"].as_i64().unwrap(), point["sandboxStartRate"].as_f64().unwrap())
        };
        assert_eq!(points.len(), 48);
        assert_eq!([at(0), at(30), at(60), at(90), at(125), at(180)].map(|(count, _)| count), [1, 1, 2, 2, 1, 2]);
        assert_eq!([at(0), at(5), at(60), at(180)].map(|(_, rate)| rate), [0.2, 0.0, 0.2, 0.2], "one in 5 s");

        let most = async |metric: &str| {
            let answer = test.client.get(&format!("{metrics}/max?{range}&metric={metric}")).await.expect(200).json();
            (answer["value"].as_f64().unwrap(), answer["timestampUnix"].as_i64().unwrap() - begun)
        };
        assert_eq!(most("concurrent_sandboxes").await, (2.0, 60));
        assert_eq!(most("sandbox_start_rate").await, (0.2, 0));
        assert_eq!(test.client.get(&metrics).await.expect(200).json().as_array().unwrap().len(), 673, "a week");

        for query in [
            "?start=x",
            "?start=-9223372036854775&end=-9223372036854775",
            "?end=9223372036854775807",
            "?start=9&end=8",
            "?start=0&end=9999999",
            "/max?metric=x",
            "/max",
        ] {
            test.client.get(&format!("{metrics}{query}")).await.expect(400);
        }
        test.client.get("/e2b/teams/tm-aaaaaaaaaaaaaaaaaaaa/metrics").await.expect(404);
    }
}

#[tokio::test]
async fn whoever_asks_for_an_access_token_is_told_to_make_an_api_key() {
    for db in databases().await {
        let test = app(db).await;
        let person = test.first().await;
        let asked = async |client: &crate::testing::Client| {
            let made = client.post("/e2b/access-tokens", json!({ "name": "mine" })).await;
            [made, client.delete("/e2b/access-tokens/00000000-0000-4000-8000-000000000000").await]
        };
        for answer in asked(&person).await {
            let told = answer.expect(410).json();
            assert!(told["code"] == 410 && told["message"].as_str().unwrap().contains("API key"), "{told}");
        }
        for answer in asked(&test.client.anonymous()).await {
            answer.expect(401);
        }
    }
}
