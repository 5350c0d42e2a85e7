//! What snapshots promise, over both databases.

use atoll_model::api::Page;
use atoll_model::api::sandboxes::{ForkResponse, Sandbox};
use atoll_model::api::snapshots::Snapshot;
use serde_json::json;

use crate::db::testing::databases;
use crate::testing::app;

#[tokio::test]
async fn a_snapshot_is_a_template_under_a_name_and_is_stored_for_every_host() {
    for test in databases().await {
        let test = app(test).await;
        let (first, agent) = test.fleet.add_host();
        let made: Sandbox =
            test.client.post("/v1/sandboxes", json!({ "vcpus": 2, "memory_mb": 256 })).await.expect(201).parsed();
        // It is a container.
        let refused = test.client.post("/v1/snapshots", json!({ "sandbox_id": made.id, "memory": true })).await;
        assert_eq!(refused.expect(400).field(), "memory");
        let body = json!({ "sandbox_id": made.id, "name": "mine" });
        let snapshot: Snapshot = test.client.post("/v1/snapshots", body.clone()).await.expect(201).parsed();
        assert_eq!((snapshot.kind.as_str(), snapshot.vcpus, snapshot.memory_mb), ("files", 2, 256));
        assert!(!snapshot.stored && !snapshot.platform);
        test.client.post("/v1/snapshots", body.clone()).await.expect(409);
        // Until it is stored, sandboxes start where it was made.
        let (_, other_agent) = test.fleet.add_host();
        let child: Sandbox =
            test.client.post("/v1/sandboxes", json!({ "template": "mine" })).await.expect(201).parsed();
        assert_eq!((child.host_id.as_ref(), child.vcpus), (Some(&first), 2));
        let spec = agent.spec_of(&child.id).unwrap();
        assert_eq!((spec.layers.len(), spec.layers[0].digest.as_str()), (1, ""));
        // Stored, it is to be had everywhere.
        // The job that the snapshot has nudged doesn't run here.
        mark_online(&test, &first).await;
        assert_eq!(test.app.layers.store_due().await.unwrap(), 1);
        let shown: Snapshot = test.client.get("/v1/snapshots/mine").await.expect(200).parsed();
        assert!(shown.stored);
        agent.fail_creates(1);
        let moved: Sandbox =
            test.client.post("/v1/sandboxes", json!({ "template": "mine" })).await.expect(201).parsed();
        let spec = other_agent.spec_of(&moved.id).expect("the other host took it");
        assert_eq!(spec.layers[0].digest.len(), 64);
        assert!(test.app.layers.objects().has(&spec.layers[0].digest).await.unwrap());
        // In its place, under the same name.
        let again: Snapshot = test.client.post("/v1/snapshots?overwrite=true", body).await.expect(201).parsed();
        assert_ne!(again.id, snapshot.id);
        let listed: Page<Snapshot> = test.client.get("/v1/snapshots").await.expect(200).parsed();
        assert_eq!(listed.items.iter().map(|it| it.id.clone()).collect::<Vec<_>>(), [again.id]);
        test.client.delete("/v1/snapshots/mine").await.expect(204);
        test.client.delete("/v1/snapshots/mine").await.expect(404);
        test.client.get("/v1/snapshots/mine").await.expect(404);
    }
}

/// The fake fleet's hosts have no rows.
async fn mark_online(test: &crate::testing::TestApp, host: &atoll_model::HostId) {
    crate::testing::insert_online_host(test, host).await;
}

#[tokio::test]
async fn nobody_deletes_the_platforms_or_anothers() {
    for test in databases().await {
        let test = app(test).await;
        test.fleet.add_host();
        let made: Sandbox = test.client.post("/v1/sandboxes", json!({})).await.expect(201).parsed();
        let snapshot: Snapshot =
            test.client.post("/v1/snapshots", json!({ "sandbox_id": made.id })).await.expect(201).parsed();
        test.client.delete("/v1/snapshots/base").await.expect(403);
        let other = test.another_team().await;
        other.delete(&format!("/v1/snapshots/{}", snapshot.name)).await.expect(404);
        other.get(&format!("/v1/snapshots/{}", snapshot.id)).await.expect(404);
        other.post("/v1/sandboxes", json!({ "template": snapshot.name })).await.expect(404);
        other.post("/v1/snapshots", json!({ "sandbox_id": made.id })).await.expect(404);
        for name in ["", "UPPER", "a/b", "-x", &"x".repeat(129)] {
            test.client.post("/v1/snapshots", json!({ "sandbox_id": made.id, "name": name })).await.expect(400);
        }
        // A template's name is taken, too.
        test.client.delete(&format!("/v1/sandboxes/{}", made.id)).await.expect(204);
        test.client.post("/v1/snapshots", json!({ "sandbox_id": made.id })).await.expect(409);
    }
}

#[tokio::test]
async fn memory_goes_on_where_machines_run_on_the_same_and_is_refused_where_nobody_has_that() {
    for test in databases().await {
        let test = app(test).await;
        let (first, agent) = test.fleet.add_host();
        agent.run_machines_on("QEMU 7");
        let wish = json!({ "driver": "vm", "vcpus": 2, "memory_mb": 256 });
        let made: Sandbox = test.client.post("/v1/sandboxes", wish).await.expect(201).parsed();
        let body = json!({ "sandbox_id": made.id, "name": "alive", "memory": true });
        let snapshot: Snapshot = test.client.post("/v1/snapshots", body).await.expect(201).parsed();
        assert_eq!(snapshot.kind, "memory");
        let layer = test.app.layers.chain(snapshot.id.as_str()).await.unwrap().remove(0);
        assert_eq!(layer.vm_version.as_deref(), Some("QEMU 7"));
        mark_online(&test, &first).await;
        assert_eq!(test.app.layers.store_due().await.unwrap(), 1, "it is stored for other hosts");
        let same: Sandbox =
            test.client.post("/v1/sandboxes", json!({ "template": "alive" })).await.expect(201).parsed();
        assert_eq!(
            (same.host_id.as_ref(), same.kept.as_deref()),
            (Some(&first), Some("memory")),
            "it says what it has"
        );
        let later: Sandbox = test.client.get(&format!("/v1/sandboxes/{}", same.id)).await.expect(200).parsed();
        assert_eq!((later.kept, made.kept), (None, None), "of an answer, and of what had memory");
        let fork = test.client.post(&format!("/v1/sandboxes/{}/fork", same.id), json!({ "count": 2 })).await;
        let fork: ForkResponse = fork.expect(201).parsed();
        assert!(fork.items.iter().all(|it| it.sandbox.as_ref().is_some_and(|it| it.kept.as_deref() == Some("memory"))));

        // Its host gets another one, and a host comes that has had another all along.
        agent.run_machines_on("QEMU 8");
        let (second, other_agent) = test.fleet.add_host();
        let refused = test.client.post("/v1/sandboxes", json!({ "template": "alive" })).await.expect(409);
        assert_eq!(refused.field(), "template");
        let error = refused.json()["error"].clone();
        assert_eq!((error["code"].as_str(), error["vm_version"].as_str()), (Some("conflict"), Some("QEMU 7")));
        assert!(error["message"].as_str().unwrap().contains("`QEMU 7`, which no host has"), "{error}");
        // It begins with its files where that is asked for, and with another size, which any host can do.
        for (what, told) in [(json!({ "start_from": "files" }), "files"), (json!({ "memory_mb": 512 }), "")] {
            let mut wish = what.clone();
            wish["template"] = json!("alive");
            let made: Sandbox = test.client.post("/v1/sandboxes", wish).await.expect(201).parsed();
            let spec = agent.spec_of(&made.id).expect("the first host took it");
            assert_eq!(spec.start_from, told, "{what}");
            assert!(told != "files" || made.kept.as_deref() == Some("files"), "{what}");
        }
        // What is asked for and can't be had is refused, and not replaced by something else.
        let wish = json!({ "template": "alive", "memory_mb": 512, "start_from": "memory" });
        assert_eq!(test.client.post("/v1/sandboxes", wish).await.expect(409).field(), "start_from");
        let wish = json!({ "template": "base", "start_from": "memory" });
        assert_eq!(test.client.post("/v1/sandboxes", wish).await.expect(409).field(), "start_from");
        let wish = json!({ "template": "alive", "start_from": "disk" });
        assert_eq!(test.client.post("/v1/sandboxes", wish).await.expect(400).field(), "start_from");

        other_agent.run_machines_on("QEMU 7");
        let moved: Sandbox =
            test.client.post("/v1/sandboxes", json!({ "template": "alive" })).await.expect(201).parsed();
        assert_eq!((moved.host_id.as_ref(), moved.driver.as_str()), (Some(&second), "vm"));
        let spec = other_agent.spec_of(&moved.id).unwrap();
        assert_eq!(spec.layers[0].id, layer.id.to_string());
        assert_eq!(spec.layers[0].digest.len(), 64);

        // Files alone are nobody's in particular.
        let body = json!({ "sandbox_id": made.id, "name": "files" });
        let files: Snapshot = test.client.post("/v1/snapshots", body).await.expect(201).parsed();
        assert_eq!(files.kind, "files");
        assert_eq!(test.app.layers.store_due().await.unwrap(), 1);
        test.client.post("/v1/sandboxes", json!({ "template": "files" })).await.expect(201);
    }
}
