//! What a bandwidth in a sandbox's policy promises, over HTTP and both databases.

use std::time::Duration;

use atoll_model::SandboxId;
use atoll_model::api::sandboxes::Sandbox;
use serde_json::{Value, json};

use crate::db::testing::databases;
use crate::testing::{Answer, app};

const FIELD: &str = "bandwidth_bytes_per_second";

fn at(rate: u64) -> Value {
    json!({ FIELD: rate })
}

fn shown(answer: &Answer) -> Option<u64> {
    answer.json()["network"][FIELD].as_u64()
}

#[tokio::test]
async fn a_bandwidth_is_told_to_the_host_and_goes_wherever_the_policy_goes() {
    for database in databases().await {
        let test = app(database).await;
        let (host, agent) = test.fleet.add_host();
        let told =
            |id: &SandboxId| agent.spec_of(id).unwrap().network.into_option().unwrap().bandwidth_bytes_per_second;
        let made = test.client.post("/v1/sandboxes", json!({ "network": at(250_000) })).await.expect(201);
        let id = made.parsed::<Sandbox>().id;
        assert_eq!((shown(&made), told(&id)), (Some(250_000), 250_000));
        // Changed while it runs, under its rules or without any; what is left out is cleared.
        let path = format!("/v1/sandboxes/{id}/network");
        let ruled = json!({ "deny_out": ["192.0.2.1"], FIELD: 10_000_000_000_u64 });
        let set = test.client.put(&path, ruled).await.expect(200);
        assert_eq!((shown(&set), told(&id)), (Some(10_000_000_000), 10_000_000_000));
        for cleared in [json!({ "deny_out": ["192.0.2.1"] }), json!({ FIELD: Value::Null })] {
            test.client.put(&path, at(1_000)).await.expect(200);
            assert_eq!(told(&id), 1_000);
            let answer = test.client.put(&path, cleared).await.expect(200);
            assert_eq!((shown(&answer), told(&id)), (None, 0));
            assert!(answer.json()["network"].get(FIELD).is_none(), "{:?}", answer.json());
        }
        test.client.put(&path, at(2_000)).await.expect(200);
        for verb in ["pause", "resume"] {
            let answer = test.client.post(&format!("/v1/sandboxes/{id}/{verb}"), json!({})).await.expect(200);
            assert_eq!((shown(&answer), told(&id)), (Some(2_000), 2_000), "{verb}");
        }
        let forked = test.client.post(&format!("/v1/sandboxes/{id}/fork"), json!({})).await.expect(201).json();
        let child: Sandbox = serde_json::from_value(forked["items"][0]["sandbox"].clone()).unwrap();
        assert_eq!((child.network.bandwidth_bytes_per_second, told(&child.id)), (Some(2_000), 2_000));
        // An agent that has passed over it, as one of before there were bandwidths, hears it again when it knows of them:
        // also of one that was never changed.
        let plain = test.client.post("/v1/sandboxes", json!({})).await.expect(201).parsed::<Sandbox>().id;
        test.clock.advance(Duration::from_secs(1));
        for id in [&id, &child.id] {
            agent.forget_policy(id);
        }
        test.app.reconcile.monitor.look_once(&host).await;
        assert_eq!((told(&id), told(&child.id), told(&plain)), (2_000, 2_000, 0));

        let audited = test.first().await.get("/v1/audit-logs?action=sandbox.network").await.expect(200).json();
        let rates: Vec<_> = audited["items"].as_array().unwrap().iter().map(|it| &it["details"][FIELD]).collect();
        assert!(rates.contains(&&json!(10_000_000_000_u64)) && rates.contains(&&Value::Null), "{rates:?}");
    }
}

#[tokio::test]
async fn a_bandwidth_that_is_none_is_refused_by_name() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        let id = test.client.post("/v1/sandboxes", json!({})).await.expect(201).parsed::<Sandbox>().id;
        let (owner, team) = (test.first().await, format!("/v1/teams/{}/network", test.team()));
        for wrong in [json!(0), json!(999), json!(10_000_000_001_u64), json!(u64::MAX)] {
            let refused = test.client.post("/v1/sandboxes", json!({ "network": { FIELD: wrong } })).await.expect(400);
            assert_eq!(refused.field(), "network.bandwidth_bytes_per_second", "{wrong}");
            let text = refused.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(text.contains("between 1000 and 10000000000"), "{text}");
            let path = format!("/v1/sandboxes/{id}/network");
            for refused in
                [test.client.put(&path, json!({ FIELD: wrong })).await, owner.put(&team, json!({ FIELD: wrong })).await]
            {
                assert_eq!(refused.expect(400).field(), "network.bandwidth_bytes_per_second", "{wrong}");
            }
        }
        for wrong in [json!(-1), json!(1.5), json!(1e300), json!("1M"), json!([1000]), json!(true)] {
            let refused = test.client.post("/v1/sandboxes", json!({ "network": { FIELD: wrong } })).await.expect(400);
            assert_eq!(refused.field(), "network.bandwidth_bytes_per_second", "{wrong}");
            assert_eq!(owner.put(&team, json!({ FIELD: wrong })).await.expect(400).field(), FIELD, "{wrong}");
        }
    }
}

#[tokio::test]
async fn a_teams_bandwidth_is_for_new_sandboxes_that_name_no_network_and_for_all_of_e2bs() {
    for database in databases().await {
        let test = app(database).await;
        let (_, agent) = test.fleet.add_host();
        let told = |id: &str| {
            let id = id.parse::<SandboxId>().unwrap();
            agent.spec_of(&id).unwrap().network.into_option().unwrap().bandwidth_bytes_per_second
        };
        let (owner, path) = (test.first().await, format!("/v1/teams/{}/network", test.team()));
        assert_eq!(owner.put(&path, at(125_000)).await.expect(200).json()[FIELD], 125_000);
        assert_eq!(owner.get(&path).await.expect(200).json()[FIELD], 125_000);
        for (ask, rate) in [
            (json!({}), Some(125_000)),
            (json!({ "network": {} }), None),
            (json!({ "internet": true }), None),
            (json!({ "network": at(5_000_000) }), Some(5_000_000)),
        ] {
            assert_eq!(shown(&test.client.post("/v1/sandboxes", ask.clone()).await.expect(201)), rate, "{ask}");
        }
        // E2B's clients have no word for it, so that nothing that they say of a network takes it away.
        for network in [json!(null), json!({ "denyOut": ["192.0.2.1"] })] {
            let ask = json!({ "templateID": "base", "network": network });
            let made = test.client.post("/e2b/v2/sandboxes", ask).await.expect(201).json();
            let id = made["sandboxID"].as_str().unwrap();
            assert_eq!(told(id), 125_000, "{network}");
            let rules = json!({ "denyOut": ["192.0.2.2"] });
            test.client.put(&format!("/e2b/sandboxes/{id}/network"), rules).await.expect(204);
            assert_eq!(told(id), 125_000, "{network}");
            let info = test.client.get(&format!("/e2b/sandboxes/{id}")).await.expect(200).json();
            assert!(!info["network"].to_string().to_lowercase().contains("bandwidth"), "{info}");
        }
        assert!(owner.put(&path, json!({})).await.expect(200).json().get(FIELD).is_none());
        assert_eq!(shown(&test.client.post("/v1/sandboxes", json!({})).await.expect(201)), None);
    }
}
