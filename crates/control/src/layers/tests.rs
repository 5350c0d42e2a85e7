//! Forks and layers, over both databases and hosts that are not there.

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_model::api::sandboxes::{ForkResponse, Sandbox};
use atoll_model::api::snapshots::Snapshot;
use atoll_model::{HostId, HostType, SandboxId};
use serde_json::json;

use super::Dead;
use super::store::{self, LayerRow};
use crate::db::on;
use crate::db::testing::databases;
use crate::hosts::tombstone::{self, Deceased};
use crate::testing::{FakeAgent, TestApp, app, insert_online_host};

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

#[tokio::test]
async fn a_stack_that_is_no_longer_its_holders_is_packed_for_nobody() {
    for test in databases().await {
        let test = app(test).await;
        let (parent, agent) = with_sandbox(&test).await;
        let body = |name: &str| json!({ "sandbox_id": parent, "name": name });
        let mut chain = Vec::new();
        for number in 0..super::SQUASH_AT {
            let name = format!("s{number}");
            let snapshot: Snapshot = test.client.post("/v1/snapshots", body(&name)).await.expect(201).parsed();
            chain.extend(test.app.layers.chain(snapshot.id.as_str()).await.unwrap());
        }
        let newer = vec![chain.remove(0)];
        let more: Snapshot = test.client.post("/v1/snapshots", body("more")).await.expect(201).parsed();
        chain.extend(test.app.layers.chain(more.id.as_str()).await.unwrap());
        let stand = async |holder: &str, layers: &[LayerRow]| {
            let mut tx = test.app.db.begin().await.unwrap();
            store::refer(&mut tx, holder, layers).await.unwrap();
            tx.commit().await.unwrap();
        };
        for holder in ["tpl-changed", "tpl-gone", "tpl-same"] {
            stand(holder, &chain).await;
        }
        let held = agent.hold_packs().await;
        let packing: Vec<_> = ["tpl-changed", "tpl-gone", "tpl-same"]
            .map(|holder| {
                let layers = test.app.layers.clone();
                tokio::spawn(async move { layers.squash_if_tall(holder, None).await })
            })
            .into_iter()
            .collect();
        while agent.calls().iter().filter(|call| *call == "pack").count() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stand("tpl-changed", &newer).await;
        stand("tpl-gone", &[]).await;
        // What is being packed stays, whoever lets go of it and however long it takes.
        stand("tpl-same", &chain).await;
        drop(held);
        for packing in packing {
            packing.await.unwrap().unwrap();
        }
        let ids = async |holder: &str| {
            let chain = test.app.layers.chain(holder).await.unwrap();
            chain.into_iter().map(|layer| layer.id.0).collect::<Vec<_>>()
        };
        assert_eq!(ids("tpl-changed").await, [newer[0].id.0.clone()]);
        assert!(ids("tpl-gone").await.is_empty());
        assert_eq!(ids("tpl-same").await.len(), 1);
        // Of what was packed for nobody nothing is left.
        for name in (0..super::SQUASH_AT).map(|number| format!("s{number}")).chain(["more".to_owned()]) {
            test.client.delete(&format!("/v1/snapshots/{name}")).await.expect(204);
        }
        for holder in ["tpl-changed", "tpl-same"] {
            stand(holder, &[]).await;
        }
        test.clock.advance(Duration::from_secs(3600));
        while !test.app.layers.collect().await.unwrap().is_empty() {}
        assert_eq!(count(&test, "layers").await + count(&test, "layer_refs").await, 0);
    }
}

async fn count(test: &TestApp, table: &'static str) -> i64 {
    let sql = format!("SELECT COUNT(*) FROM {table}");
    let row: (i64,) =
        on!(read & test.app.db, |c| sqlx::query_as(sqlx::AssertSqlSafe(sql.clone())).fetch_one(c).await).unwrap();
    row.0
}

#[tokio::test]
async fn layers_that_can_not_be_stored_say_why_and_hold_up_nobody() {
    for test in databases().await {
        let test = app(test).await;
        let (parent, agent) = with_sandbox(&test).await;
        let host = test.client.get(&format!("/v1/sandboxes/{parent}")).await.expect(200).json()["host_id"].clone();
        insert_online_host(&test, &host.as_str().unwrap().parse().unwrap()).await;
        for number in 0..40 {
            let body = json!({ "sandbox_id": parent, "name": format!("bad-{number}") });
            test.client.post("/v1/snapshots", body).await.expect(201);
        }
        for layer in agent.layers() {
            agent.refuse_to_pack(&layer);
        }
        test.client.post("/v1/snapshots", json!({ "sandbox_id": parent, "name": "good" })).await.expect(201);
        let mut stored = 0;
        for _ in 0..10 {
            stored += test.app.layers.store_due().await.unwrap();
        }
        assert_eq!(stored, 1);
        let shown = async |name: &str| -> Snapshot {
            test.client.get(&format!("/v1/snapshots/{name}")).await.expect(200).parsed()
        };
        assert!(shown("good").await.stored);
        let bad = shown("bad-0").await;
        assert!(!bad.stored && bad.problem.is_some_and(|why| why.contains("1000000 files")));
        // Each was tried, and none is tried again before its time.
        let packs = || agent.calls().iter().filter(|call| *call == "pack").count();
        let tried = packs();
        assert_eq!(tried, 41);
        assert_eq!(test.app.layers.store_due().await.unwrap(), 0);
        assert_eq!(packs(), tried);
        test.clock.advance(Duration::from_secs(16));
        test.app.layers.store_due().await.unwrap();
        assert!(packs() > tried);
    }
}

#[tokio::test]
async fn an_image_that_its_host_has_lost_is_packed_again() {
    for test in databases().await {
        let test = app(test).await;
        let (parent, agent) = with_sandbox(&test).await;
        let host = test.client.get(&format!("/v1/sandboxes/{parent}")).await.expect(200).json()["host_id"].clone();
        insert_online_host(&test, &host.as_str().unwrap().parse().unwrap()).await;
        let body = json!({ "sandbox_id": parent, "name": "kept" });
        let snapshot: Snapshot = test.client.post("/v1/snapshots", body).await.expect(201).parsed();
        let layer = test.app.layers.chain(snapshot.id.as_str()).await.unwrap().remove(0);
        let digest = "d".repeat(64);
        let mut tx = test.app.db.begin().await.unwrap();
        store::note_everywhere(&mut tx, &digest, test.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert!(store::set_digest(&test.app.db, &layer.id.0, &digest, 1).await.unwrap());
        assert_eq!(count(&test, "pending_deletions").await, 0, "it is wanted again");
        agent.lose_images();
        assert_eq!(test.app.layers.store_due().await.unwrap(), 1);
        let layer = test.app.layers.chain(snapshot.id.as_str()).await.unwrap().remove(0);
        assert!(layer.stored && layer.digest.is_some_and(|now| now != digest));
    }
}

#[tokio::test]
async fn what_was_on_a_deleted_host_alone_is_lost_and_says_so() {
    for test in databases().await {
        let test = app(test).await;
        let (parent, _) = with_sandbox(&test).await;
        let host: HostId = {
            let shown = test.client.get(&format!("/v1/sandboxes/{parent}")).await.expect(200).json();
            shown["host_id"].as_str().unwrap().parse().unwrap()
        };
        insert_online_host(&test, &host).await;
        test.client.post("/v1/snapshots", json!({ "sandbox_id": parent, "name": "kept" })).await.expect(201);
        assert_eq!(test.app.layers.store_due().await.unwrap(), 1);
        test.client.post("/v1/snapshots", json!({ "sandbox_id": parent, "name": "late" })).await.expect(201);
        let deceased =
            Deceased { host: &host, kind: HostType::Regular, team: None, deletion_id: "x", deleted_by: None };
        test.client.delete(&format!("/v1/sandboxes/{parent}")).await.expect(204);
        let mut tx = test.app.db.begin().await.unwrap();
        tombstone::bury(&mut tx, &deceased, test.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        test.fleet.remove_host(&host);
        test.fleet.add_host();
        let late: Snapshot = test.client.get("/v1/snapshots/late").await.expect(200).parsed();
        let kept: Snapshot = test.client.get("/v1/snapshots/kept").await.expect(200).parsed();
        assert_eq!((late.lost, late.stored, kept.lost, kept.stored), (true, false, false, true));
        let refused = test.client.post("/v1/sandboxes", json!({ "template": "late" })).await.expect(409);
        assert!(refused.json().to_string().contains("lost"));
        test.client.post("/v1/sandboxes", json!({ "template": "kept" })).await.expect(201);
        assert_eq!(test.app.layers.store_due().await.unwrap(), 0);
        test.client.delete("/v1/snapshots/late").await.expect(204);
    }
}
