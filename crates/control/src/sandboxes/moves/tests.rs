//! What draining a host promises to what is paused on it, over both databases and hosts that are not there.

use std::time::Duration;

use atoll_model::api::hosts::HostDrain;
use atoll_model::api::sandboxes::Sandbox;
use atoll_model::{HostId, SandboxId, SandboxStatus};
use atoll_rpc::atoll::host::v1::SandboxState;
use serde_json::{Value, json};

use crate::db::on;
use crate::db::testing::{TestDb, databases};
use crate::testing::{Client, FakeAgent, TestApp, app, insert_online_host};

struct Rig {
    test: TestApp,
    first: (HostId, FakeAgent),
    id: SandboxId,
}

/// A paused sandbox on a host that drains.
async fn rig(database: TestDb, create: Value) -> Rig {
    let test = app(database).await;
    let first = test.fleet.add_host();
    insert_online_host(&test, &first.0).await;
    let made: Sandbox = test.client.post("/v1/sandboxes", create).await.expect(201).parsed();
    test.client.post(&format!("/v1/sandboxes/{}/pause", made.id), json!({})).await.expect(200);
    let rig = Rig { test, first, id: made.id };
    rig.admin().await.post(&format!("/v1/hosts/{}/drain", rig.first.0), json!({})).await.expect(200);
    rig
}

impl Rig {
    async fn admin(&self) -> Client {
        let admin = &self.test.admin;
        let token = self.test.client.login(&admin.email, &admin.password).await;
        self.test.client.with_token(&token)
    }

    async fn second(&self) -> (HostId, FakeAgent) {
        let second = self.test.fleet.add_host();
        insert_online_host(&self.test, &second.0).await;
        second
    }

    async fn move_due(&self) -> usize {
        self.test.app.sandboxes.move_due(true).await.unwrap()
    }

    async fn shown(&self) -> Sandbox {
        self.test.client.get(&format!("/v1/sandboxes/{}", self.id)).await.expect(200).parsed()
    }

    async fn drain(&self) -> HostDrain {
        self.admin().await.get(&format!("/v1/hosts/{}/drain", self.first.0)).await.expect(200).parsed()
    }

    async fn count(&self, what: &str) -> i64 {
        let statement = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {what}"));
        let row: (i64,) = on!(read & self.test.app.db, |c| sqlx::query_as(statement).fetch_one(c).await).unwrap();
        row.0
    }

    async fn is_untouched(&self) {
        let shown = self.shown().await;
        assert_eq!((shown.host_id.as_ref(), shown.status), (Some(&self.first.0), SandboxStatus::Paused));
        assert_eq!(self.first.1.state_of(&self.id), Some(SandboxState::SANDBOX_STATE_PAUSED));
    }
}

#[tokio::test]
async fn a_paused_sandbox_moves_whole_and_says_so() {
    for database in databases().await {
        let rig = rig(database, json!({ "env": { "A": "b" }, "internet": false })).await;
        let before = rig.shown().await;
        let (second, agent) = rig.second().await;
        assert_eq!(rig.move_due().await, 1);
        let shown = rig.shown().await;
        assert_eq!((shown.host_id.as_ref(), shown.status), (Some(&second), SandboxStatus::Paused));
        assert_eq!((shown.reason.as_deref(), shown.status_changed_at), (Some("user"), before.status_changed_at));
        // There it stands still, with its environment and policy, on layers that any host can have.
        assert_eq!(agent.state_of(&rig.id), Some(SandboxState::SANDBOX_STATE_PAUSED));
        let (old, new) = (rig.first.1.spec_of(&rig.id).unwrap(), agent.spec_of(&rig.id).unwrap());
        assert_eq!((&new.env, &new.network, &new.access_token), (&old.env, &old.network, &old.access_token));
        assert_eq!((new.env["A"].as_str(), new.layers.len(), new.layers[0].digest.len()), ("b", 1, 64));
        assert!(rig.test.app.layers.objects().has(&new.layers[0].digest).await.unwrap());
        // The former host has destroyed its copy, and is to delete what was made there for the move.
        assert_eq!(rig.first.1.count(), 0);
        let host = &rig.first.0;
        assert_eq!(rig.count(&format!("pending_deletions WHERE host_id = '{host}'")).await, 2);
        assert_eq!(rig.count("sandbox_moves").await + rig.count("layer_refs WHERE holder LIKE 'mov-%'").await, 0);
        assert_eq!(rig.count(&format!("layer_refs WHERE holder = '{}'", rig.id)).await, 1);
        // Never silently.
        assert_eq!(rig.count("audit_logs WHERE action = 'sandbox.move'").await, 1);
        assert_eq!(rig.count("events WHERE type = 'sandbox.moved'").await, 1);
        let life = rig.test.client.get(&format!("/v1/sandboxes/{}/events", rig.id)).await.expect(200).json();
        let last = life["items"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((&last["status"], &last["reason"]), (&json!("paused"), &json!("moved")));
        let drain = rig.drain().await;
        assert!(drain.drained && drain.sandboxes.is_empty());
        let listed = rig.admin().await.get(&format!("/v1/hosts/{host}")).await.expect(200).json();
        assert_eq!(listed["drained"], true);
        // It goes on there.
        let path = format!("/v1/sandboxes/{}/resume", rig.id);
        let resumed: Sandbox = rig.test.client.post(&path, json!({})).await.expect(200).parsed();
        assert_eq!((resumed.host_id.as_ref(), resumed.status), (Some(&second), SandboxStatus::Running));
        // And goes with all that it stands on.
        rig.test.client.delete(&format!("/v1/sandboxes/{}", rig.id)).await.expect(204);
        assert_eq!((agent.count(), rig.count("layer_refs").await), (0, 0));
    }
}

#[tokio::test]
async fn a_machine_moves_with_its_memory_to_a_host_that_can_go_on_with_it_and_nowhere_else() {
    for database in databases().await {
        let test = app(database).await;
        let first = test.fleet.add_host();
        first.1.run_machines_on("QEMU 7");
        insert_online_host(&test, &first.0).await;
        let made: Sandbox = test.client.post("/v1/sandboxes", json!({ "driver": "vm" })).await.expect(201).parsed();
        test.client.post(&format!("/v1/sandboxes/{}/pause", made.id), json!({})).await.expect(200);
        let rig = Rig { test, first, id: made.id };
        rig.admin().await.post(&format!("/v1/hosts/{}/drain", rig.first.0), json!({})).await.expect(200);
        let (_, other) = rig.second().await;
        other.run_machines_on("QEMU 8");
        assert_eq!(rig.move_due().await, 0);
        rig.is_untouched().await;
        let drain = rig.drain().await;
        assert!(drain.sandboxes[0].waits_for.contains("QEMU 7"), "{drain:?}");
        let (third, agent) = rig.second().await;
        agent.run_machines_on("QEMU 7");
        rig.test.clock.advance(Duration::from_secs(1000));
        assert_eq!(rig.move_due().await, 1);
        assert_eq!(rig.shown().await.host_id, Some(third));
        assert_eq!((agent.count(), other.count()), (1, 0));
        assert_eq!(
            rig.first.1.calls().iter().filter(|call| *call == "snapshot").count(),
            1,
            "kept once, for both tries"
        );
        let row: (sqlx::types::Json<Value>,) =
            on!(read & rig.test.app.db, |c| sqlx::query_as("SELECT data FROM events WHERE type = 'sandbox.moved'")
                .fetch_one(c)
                .await)
            .unwrap();
        assert_eq!(row.0.0["kept"], "memory");
    }
}

#[tokio::test]
async fn one_that_is_resumed_on_its_way_stays_where_it_runs_and_leaves_nothing_elsewhere() {
    for database in databases().await {
        let rig = rig(database, json!({})).await;
        let (_, agent) = rig.second().await;
        let held = rig.first.1.hold_packs().await;
        let service = rig.test.app.sandboxes.clone();
        let moving = tokio::spawn(async move { service.move_due(true).await.unwrap() });
        while !rig.first.1.calls().contains(&"pack".to_owned()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        rig.test.client.post(&format!("/v1/sandboxes/{}/resume", rig.id), json!({})).await.expect(200);
        drop(held);
        assert_eq!(moving.await.unwrap(), 0);
        let shown = rig.shown().await;
        assert_eq!((shown.host_id.as_ref(), shown.status), (Some(&rig.first.0), SandboxStatus::Running));
        assert_eq!((agent.count(), rig.count("sandbox_moves").await, rig.count("layer_refs").await), (0, 0, 0));
        assert_eq!(rig.drain().await.sandboxes[0].waits_for, "it runs; it moves when it is paused");
        // Its files may have changed since: the next time they are taken anew.
        rig.test.client.post(&format!("/v1/sandboxes/{}/pause", rig.id), json!({})).await.expect(200);
        assert_eq!(rig.move_due().await, 1);
        assert_eq!(rig.first.1.calls().iter().filter(|call| *call == "snapshot").count(), 2);
    }
}

#[tokio::test]
async fn a_host_that_fails_leaves_it_where_it_was_and_it_is_tried_again() {
    for database in databases().await {
        let rig = rig(database, json!({})).await;
        let (second, agent) = rig.second().await;
        agent.fail_creates(1);
        assert_eq!(rig.move_due().await, 0);
        rig.is_untouched().await;
        let drain = rig.drain().await;
        assert!(!drain.drained && drain.sandbox_count == 1);
        assert!(drain.sandboxes[0].waits_for.contains("told to fail"), "{drain:?}");
        assert_eq!(rig.move_due().await, 0, "not at once");
        rig.test.clock.advance(Duration::from_secs(10));
        assert_eq!(rig.move_due().await, 1);
        assert_eq!(rig.shown().await.host_id, Some(second));
        // What was packed once is there.
        assert_eq!(rig.first.1.calls().iter().filter(|call| *call == "pack").count(), 1);
    }
}

#[tokio::test]
async fn what_has_nowhere_to_go_stays_and_says_why() {
    for database in databases().await {
        let rig = rig(database, json!({})).await;
        let waits = async |for_what: &str| {
            assert_eq!(rig.move_due().await, 0);
            rig.is_untouched().await;
            let drain = rig.drain().await;
            assert!(drain.sandboxes[0].waits_for.contains(for_what), "{for_what}: {drain:?}");
            assert!(!rig.first.1.calls().contains(&"snapshot".to_owned()), "nothing is made for nothing");
            rig.test.clock.advance(Duration::from_secs(1000));
        };
        assert_eq!(rig.drain().await.sandboxes[0].waits_for, "it waits for its turn to move");
        waits("no host can take this sandbox").await;
        rig.second().await;
        let set = async |what: &str| {
            let statement = sqlx::AssertSqlSafe(format!("UPDATE sandboxes SET {what} WHERE id = '{}'", rig.id));
            on!(write & rig.test.app.db, |c| sqlx::query(statement).execute(c).await.map(|_| ())).unwrap();
        };
        set("reason = 'host_disconnected'").await;
        assert_eq!(rig.move_due().await, 0, "its host resumes it");
        let due = super::store::due(&rig.test.app.db, rig.test.clock.now(), false, 9).await.unwrap();
        assert_eq!(due.len(), 1, "where nobody resumes it, it moves as any other");
        // Opened again, the host keeps it.
        set("reason = 'user'").await;
        let path = format!("/v1/hosts/{}/undrain", rig.first.0);
        rig.admin().await.post(&path, json!({})).await.expect(200);
        assert_eq!(rig.move_due().await, 0);
        assert_eq!(rig.count("sandbox_moves").await, 0);
        rig.is_untouched().await;
    }
}

#[tokio::test]
async fn volumes_keep_a_sandbox_on_their_host() {
    for database in databases().await {
        let test = app(database).await;
        let (host, _) = test.fleet.add_host();
        insert_online_host(&test, &host).await;
        test.client.post("/v1/volumes", json!({ "name": "data", "size_mb": 100 })).await.expect(201);
        let create = json!({ "volumes": [{ "volume": "data", "path": "/data" }] });
        let made: Sandbox = test.client.post("/v1/sandboxes", create).await.expect(201).parsed();
        test.client.post(&format!("/v1/sandboxes/{}/pause", made.id), json!({})).await.expect(200);
        let token = test.client.login(&test.admin.email, &test.admin.password).await;
        let admin = test.client.with_token(&token);
        admin.post(&format!("/v1/hosts/{host}/drain"), json!({})).await.expect(200);
        let (other, _) = test.fleet.add_host();
        insert_online_host(&test, &other).await;
        assert_eq!(test.app.sandboxes.move_due(true).await.unwrap(), 0);
        let drain: HostDrain = admin.get(&format!("/v1/hosts/{host}/drain")).await.expect(200).parsed();
        assert_eq!(drain.sandboxes[0].waits_for, "its volumes lie on this host");
        // Without the sandbox the volume is still there: whoever takes the machine away then would lose it.
        test.client.delete(&format!("/v1/sandboxes/{}", made.id)).await.expect(204);
        let drain: HostDrain = admin.get(&format!("/v1/hosts/{host}/drain")).await.expect(200).parsed();
        assert_eq!((drain.drained, drain.sandbox_count, drain.volume_ids.len()), (false, 0, 1));
        assert_eq!(admin.get(&format!("/v1/hosts/{host}")).await.expect(200).json()["drained"], false);
        test.client.delete(&format!("/v1/volumes/{}", drain.volume_ids[0])).await.expect(204);
        let drain: HostDrain = admin.get(&format!("/v1/hosts/{host}/drain")).await.expect(200).parsed();
        assert!(drain.drained, "{drain:?}");
    }
}
