//! Forks and layers, over both databases and hosts that are not there.

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_model::SandboxId;
use atoll_model::api::sandboxes::{ForkResponse, Sandbox};
use atoll_model::api::snapshots::Snapshot;
use serde_json::json;

use super::Dead;
use crate::db::testing::databases;
use crate::testing::{FakeAgent, TestApp, app};

async fn with_sandbox(test: &TestApp) -> (SandboxId, FakeAgent) {
    let (_, agent) = test.fleet.add_host();
    let made: Sandbox = test.client.post("/v1/sandboxes", json!({})).await.expect(201).parsed();
    (made.id, agent)
}

#[tokio::test]
async fn children_stand_on_one_layer_and_have_identities_of_their_own() {
    for test in databases().await {
        let test = app(test).await;
        let (parent, agent) = with_sandbox(&test).await;
        let path = format!("/v1/sandboxes/{parent}/fork");
        let forked: ForkResponse = test.client.post(&path, json!({ "count": 5 })).await.expect(201).parsed();
        assert_eq!(agent.layers().len(), 1);
        let children: BTreeSet<_> = forked.items.iter().map(|it| it.sandbox.as_ref().unwrap().id.clone()).collect();
        assert_eq!((forked.kept.as_str(), children.len(), children.contains(&parent)), ("files", 5, false));
        let specs: Vec<_> = children.iter().map(|id| agent.spec_of(id).unwrap()).collect();
        let tokens: BTreeSet<_> = specs.iter().map(|spec| spec.access_token.clone()).collect();
        let hostnames: BTreeSet<_> = specs.iter().map(|spec| spec.hostname.clone()).collect();
        assert_eq!((tokens.len(), hostnames.len()), (5, 5));
        assert!(specs.iter().all(|spec| spec.layers.len() == 1 && spec.layers[0].id == agent.layers()[0]));
        // A child's child stands on both.
        let child = children.iter().next().unwrap();
        let path = format!("/v1/sandboxes/{child}/fork");
        let forked: ForkResponse = test.client.post(&path, json!({})).await.expect(201).parsed();
        let grandchild = forked.items[0].sandbox.as_ref().unwrap();
        let spec = agent.spec_of(&grandchild.id).unwrap();
        assert_eq!(spec.layers.len(), 2);
        assert_eq!(spec.layers[1].id, specs[0].layers[0].id);
        for (count, status) in [(0, 400), (101, 400)] {
            test.client.post(&path, json!({ "count": count })).await.expect(status);
        }
        let other = test.another_team().await;
        other.post(&path, json!({})).await.expect(404);
    }
}

#[tokio::test]
async fn each_child_has_a_result_of_its_own_and_what_failed_leaves_nothing() {
    for test in databases().await {
        let test = app(test).await;
        let (parent, agent) = with_sandbox(&test).await;
        agent.fail_creates(2);
        let path = format!("/v1/sandboxes/{parent}/fork");
        let forked: ForkResponse = test.client.post(&path, json!({ "count": 4 })).await.expect(201).parsed();
        assert_eq!(forked.items.iter().filter(|it| it.error.is_some()).count(), 2);
        assert_eq!(agent.count(), 3, "the parent and two children");
        test.client.delete(&format!("/v1/sandboxes/{parent}")).await.expect(204);
        test.client.post(&path, json!({})).await.expect(409);
    }
}

#[tokio::test]
async fn a_tall_stack_is_packed_into_one_for_whoever_comes_next() {
    for test in databases().await {
        let test = app(test).await;
        let (mut at, agent) = with_sandbox(&test).await;
        for _ in 0..20 {
            let path = format!("/v1/sandboxes/{at}/fork");
            let forked: ForkResponse = test.client.post(&path, json!({})).await.expect(201).parsed();
            at = forked.items[0].sandbox.as_ref().unwrap().id.clone();
            let spec = agent.spec_of(&at).unwrap();
            assert!(spec.layers.len() <= super::MAX_LAYERS, "{}", spec.layers.len());
            // A child that comes from a squashed stack stands on the packed image.
            assert!(spec.layers.iter().skip(1).all(|layer| !layer.id.is_empty()));
        }
        assert!(agent.calls().iter().any(|call| call == "pack"));
    }
}

#[tokio::test]
async fn layers_go_when_the_last_who_stands_on_them_is_gone_and_never_before() {
    for test in databases().await {
        let test = app(test).await;
        let (parent, agent) = with_sandbox(&test).await;
        let body = json!({ "sandbox_id": parent, "name": "kept" });
        let snapshot: Snapshot = test.client.post("/v1/snapshots", body).await.expect(201).parsed();
        let child: Sandbox =
            test.client.post("/v1/sandboxes", json!({ "template": "kept" })).await.expect(201).parsed();
        test.client.delete(&format!("/v1/snapshots/{}", snapshot.name)).await.expect(204);
        test.clock.advance(Duration::from_secs(3600));
        assert_eq!(test.app.layers.collect().await.unwrap(), []);
        assert_eq!(agent.layers().len(), 1);
        test.client.delete(&format!("/v1/sandboxes/{}", child.id)).await.expect(204);
        let dead = test.app.layers.collect().await.unwrap();
        assert_eq!(dead, [Dead::Layer(agent.layers()[0].clone())]);
        assert_eq!(test.app.layers.collect().await.unwrap(), []);
    }
}
