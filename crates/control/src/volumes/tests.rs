//! What volumes promise, over both databases and hosts that are not there.

use atoll_model::HostId;
use atoll_model::api::sandboxes::{ForkResponse, Mount, Sandbox};
use atoll_model::api::volumes::{Volume, VolumeMode};
use serde_json::{Value, json};

use crate::db::on;
use crate::db::testing::databases;
use crate::testing::{FakeAgent, TestApp, app, insert_online_host};

async fn host(test: &TestApp) -> (HostId, FakeAgent) {
    let (host, agent) = test.fleet.add_host();
    insert_online_host(test, &host).await;
    (host, agent)
}

async fn volume(test: &TestApp, body: Value) -> Volume {
    test.client.post("/v1/volumes", body).await.expect(201).parsed()
}

fn with(names: &[&str]) -> Value {
    let mounts = names.iter().map(|name| json!({ "volume": name, "path": format!("/mnt/{name}") }));
    json!({ "volumes": mounts.collect::<Vec<_>>() })
}

async fn shown(test: &TestApp, name: &str) -> Volume {
    test.client.get(&format!("/v1/volumes/{name}")).await.expect(200).parsed()
}

#[tokio::test]
async fn a_volume_lies_where_it_was_first_mounted_and_sandboxes_come_to_it() {
    for test in databases().await {
        let test = app(test).await;
        let (first, agent) = host(&test).await;
        let made = volume(&test, json!({ "name": "data", "size_mb": 64 })).await;
        assert_eq!((made.mode, made.host_id.as_ref(), made.lost), (VolumeMode::Shared, None, false));
        let one: Sandbox = test.client.post("/v1/sandboxes", with(&["data"])).await.expect(201).parsed();
        let mounted = &agent.spec_of(&one.id).unwrap().volumes[0];
        assert_eq!((mounted.id.as_str(), mounted.path.as_str()), (made.id.as_str(), "/mnt/data"));
        assert_eq!((mounted.size_bytes, mounted.read_only), (64 << 20, false));
        let mount = Mount {
            volume_id: made.id.clone(),
            volume: "data".to_owned(),
            path: "/mnt/data".to_owned(),
            read_only: false,
        };
        let again: Sandbox = test.client.get(&format!("/v1/sandboxes/{}", one.id)).await.expect(200).parsed();
        assert_eq!(one.mounts, std::slice::from_ref(&mount));
        assert_eq!(again.mounts, [mount]);
        let (second, _) = host(&test).await;
        let two: Sandbox = test.client.post("/v1/sandboxes", with(&["data"])).await.expect(201).parsed();
        assert_eq!((&one.host_id, &two.host_id), (&Some(first.clone()), &Some(first.clone())));
        let seen = shown(&test, "data").await;
        let mut users = vec![one.id.clone(), two.id.clone()];
        users.sort();
        assert_eq!((seen.host_id.as_ref(), &seen.sandboxes), (Some(&first), &users));
        // Its host is the only one that will do, and the refusal says so.
        agent.fill();
        let full = test.client.post("/v1/sandboxes", with(&["data"])).await.expect(503);
        assert_eq!(full.code(), "no_hosts_available");
        let free: Sandbox = test.client.post("/v1/sandboxes", json!({})).await.expect(201).parsed();
        assert_eq!(free.host_id, Some(second));
    }
}

#[tokio::test]
async fn a_volume_in_use_is_not_deleted_and_one_that_is_not_goes_everywhere() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = host(&test).await;
        let made = volume(&test, json!({ "name": "data" })).await;
        let sandbox: Sandbox = test.client.post("/v1/sandboxes", with(&["data"])).await.expect(201).parsed();
        test.client.post(&format!("/v1/sandboxes/{}/pause", sandbox.id), json!({})).await.expect(200);
        let refused = test.client.delete("/v1/volumes/data").await.expect(409);
        assert_eq!(refused.json()["error"]["sandbox_ids"], json!([sandbox.id]));
        test.client.delete(&format!("/v1/sandboxes/{}", sandbox.id)).await.expect(204);
        // It outlives the sandbox, and stays where it is.
        let seen = shown(&test, made.id.as_str()).await;
        assert!(seen.sandboxes.is_empty() && seen.host_id == sandbox.host_id);
        let other = test.another_team().await;
        other.get("/v1/volumes/data").await.expect(404);
        other.delete(&format!("/v1/volumes/{}", made.id)).await.expect(404);
        other.post("/v1/sandboxes", with(&["data"])).await.expect(404);
        test.client.delete("/v1/volumes/data").await.expect(204);
        test.client.delete("/v1/volumes/data").await.expect(404);
        // Behind the answer, by whichever replica gave it.
        let told = async {
            while !agent.calls().contains(&format!("delete {}", made.id)) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), told).await.expect("the host to be told");
    }
}

#[tokio::test]
async fn an_exclusive_volume_has_one_sandbox_at_a_time() {
    for test in databases().await {
        let test = app(test).await;
        host(&test).await;
        volume(&test, json!({ "name": "db", "mode": "exclusive" })).await;
        let creates = (0..6).map(|_| test.client.post("/v1/sandboxes", with(&["db"])));
        let answers = futures::future::join_all(creates).await;
        let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
        assert_eq!((made.len(), refused.len()), (1, 5));
        assert!(refused.iter().all(|answer| answer.status == 409), "{}", refused[0].json());
        let sandbox: Sandbox = made[0].parsed();
        assert_eq!(refused[0].json()["error"]["sandbox_ids"], json!([sandbox.id]));
        test.client.post(&format!("/v1/sandboxes/{}/fork", sandbox.id), json!({})).await.expect(409);
        test.client.delete(&format!("/v1/sandboxes/{}", sandbox.id)).await.expect(204);
        test.client.post("/v1/sandboxes", with(&["db"])).await.expect(201);
    }
}

#[tokio::test]
async fn children_share_their_parents_volumes() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = host(&test).await;
        let made = volume(&test, json!({ "name": "data" })).await;
        let ask = json!({ "volumes": [{ "volume": made.id, "path": "/data", "read_only": true }] });
        let parent: Sandbox = test.client.post("/v1/sandboxes", ask).await.expect(201).parsed();
        let path = format!("/v1/sandboxes/{}/fork", parent.id);
        let forked: ForkResponse = test.client.post(&path, json!({ "count": 2 })).await.expect(201).parsed();
        for child in &forked.items {
            let spec = agent.spec_of(&child.sandbox.as_ref().unwrap().id).unwrap();
            assert_eq!((spec.volumes[0].path.as_str(), spec.volumes[0].read_only), ("/data", true));
        }
        assert_eq!(shown(&test, "data").await.sandboxes.len(), 3);
    }
}

#[tokio::test]
async fn a_create_that_fails_gives_the_choice_of_the_host_back() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = host(&test).await;
        volume(&test, json!({ "name": "data" })).await;
        agent.fail_creates(1);
        test.client.post("/v1/sandboxes", with(&["data"])).await.expect(502);
        let seen = shown(&test, "data").await;
        assert!(seen.host_id.is_none() && seen.sandboxes.is_empty());
        // With another host there, it goes along to that one.
        let (second, _) = host(&test).await;
        agent.fail_creates(1);
        let moved: Sandbox = test.client.post("/v1/sandboxes", with(&["data"])).await.expect(201).parsed();
        assert_eq!(
            (&moved.host_id, &shown(&test, "data").await.host_id),
            (&Some(second.clone()), &Some(second.clone()))
        );
        // What has had a sandbox stays, whatever fails later.
        test.client.delete(&format!("/v1/sandboxes/{}", moved.id)).await.expect(204);
        assert_eq!(shown(&test, "data").await.host_id, Some(second));
    }
}

#[tokio::test]
async fn volumes_on_two_hosts_and_on_none_are_told_apart() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = host(&test).await;
        for name in ["one", "two"] {
            volume(&test, json!({ "name": name })).await;
        }
        test.client.post("/v1/sandboxes", with(&["one"])).await.expect(201);
        agent.fill();
        let (lost, other) = test.fleet.add_host();
        let made: Sandbox = test.client.post("/v1/sandboxes", with(&["two"])).await.expect(201).parsed();
        assert_eq!(made.host_id.as_ref(), Some(&lost));
        assert_eq!(other.count(), 1);
        // A host that has no row is one that was deleted.
        on!(write & test.app.db, |c| sqlx::query("DELETE FROM hosts WHERE id = $1")
            .bind(lost.as_str())
            .execute(c)
            .await
            .map(|_| ()))
        .unwrap();
        assert!(shown(&test, "two").await.lost);
        let gone = test.client.post("/v1/sandboxes", with(&["two"])).await.expect(409);
        assert_eq!(gone.field(), "volumes");
        insert_online_host(&test, made.host_id.as_ref().unwrap()).await;
        let apart = test.client.post("/v1/sandboxes", with(&["one", "two"])).await.expect(409);
        assert!(apart.json()["error"]["message"].as_str().unwrap().contains("different hosts"));
        let twice = json!({ "volumes": [
            { "volume": "one", "path": "/a" }, { "volume": "one", "path": "/b" }
        ] });
        test.client.post("/v1/sandboxes", twice).await.expect(400);
    }
}

#[tokio::test]
async fn volumes_count_as_disk_and_keep_their_team() {
    for test in databases().await {
        let test = app(test).await;
        let owner = test.first().await;
        let quotas = format!("/v1/admin/teams/{}/quotas", test.team());
        owner.put(&quotas, json!({ "disk_mb": 100, "sandboxes": 0 })).await;
        volume(&test, json!({ "name": "a", "size_mb": 60 })).await;
        let over = test.client.post("/v1/volumes", json!({ "name": "b", "size_mb": 41 })).await.expect(429);
        assert_eq!(over.json()["error"]["quota"], "disk_mb");
        volume(&test, json!({ "name": "b", "size_mb": 40 })).await;
        let taken = test.client.post("/v1/volumes", json!({ "name": "a", "size_mb": 16 })).await;
        assert!(taken.status == 409 || taken.status == 429, "{}", taken.status);
        for (body, field) in [
            (json!({ "name": "UP" }), "name"),
            (json!({ "name": "x", "size_mb": 15 }), "size_mb"),
            (json!({ "name": "x", "mode": "mine" }), "mode"),
        ] {
            assert_eq!(test.client.post("/v1/volumes", body).await.expect(400).field(), field);
        }
        let held = owner.delete(&format!("/v1/teams/{}", test.team())).await.expect(409);
        assert_eq!(held.json()["error"]["volumes"], 2);
    }
}

#[tokio::test]
async fn containers_and_machines_have_the_same_volume() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = host(&test).await;
        volume(&test, json!({ "name": "data" })).await;
        let mut made = Vec::new();
        for driver in ["container", "vm"] {
            let mut wish = with(&["data"]);
            wish["driver"] = json!(driver);
            let sandbox: Sandbox = test.client.post("/v1/sandboxes", wish).await.expect(201).parsed();
            let spec = agent.spec_of(&sandbox.id).unwrap();
            assert_eq!((sandbox.driver.as_str(), spec.driver.as_str(), spec.volumes.len()), (driver, driver, 1));
            made.push(sandbox.id);
        }
        made.sort();
        assert_eq!(shown(&test, "data").await.sandboxes, made);
    }
}
