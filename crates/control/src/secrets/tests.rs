//! What secrets promise, over both databases.

use atoll_model::api::Page;
use atoll_model::api::sandboxes::Sandbox;
use atoll_model::api::secrets::Secret;
use serde_json::json;

use crate::db::on;
use crate::db::testing::databases;
use crate::testing::app;

const VALUE: &str = "hunter2-of-the-team";

#[tokio::test]
async fn a_secret_reaches_a_sandbox_and_nothing_else() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = test.fleet.add_host();
        let body = json!({ "name": "openai.key", "value": VALUE });
        let made = test.client.post("/v1/secrets", body).await.expect(201);
        let mut shown = vec![String::from_utf8(made.body.clone()).unwrap()];
        let secret: Secret = made.parsed();
        let ask = json!({ "secrets": { "OPENAI_API_KEY": "openai.key" }, "env": { "OTHER": "plain" } });
        let created = test.client.post("/v1/sandboxes", ask).await.expect(201);
        let sandbox: Sandbox = created.parsed();
        let env = agent.spec_of(&sandbox.id).unwrap().env;
        assert_eq!(env.get("OPENAI_API_KEY").map(String::as_str), Some(VALUE));
        assert_eq!(env.get("OTHER").map(String::as_str), Some("plain"));
        shown.push(String::from_utf8(created.body).unwrap());
        let owner = test.first().await;
        for path in ["/v1/secrets", "/v1/sandboxes", &format!("/v1/sandboxes/{}", sandbox.id), "/v1/audit-logs"] {
            let client = if path.contains("audit") { &owner } else { &test.client };
            shown.push(String::from_utf8(client.get(path).await.expect(200).body).unwrap());
        }
        let listed: Page<Secret> = test.client.get("/v1/secrets").await.parsed();
        assert_eq!(listed.items, [secret]);
        assert!(shown[4].contains("\"secret.create\"") || shown[5].contains("secret.create"), "{shown:?}");
        // Whoever has the database alone has nothing.
        let rows: Vec<(String,)> =
            on!(read & test.app.db, |c| sqlx::query_as("SELECT sealed FROM secrets").fetch_all(c).await).unwrap();
        let events: Vec<(String,)> =
            on!(read & test.app.db, |c| sqlx::query_as("SELECT CAST(data AS TEXT) FROM events").fetch_all(c).await)
                .unwrap();
        shown.extend(rows.into_iter().chain(events).map(|row| row.0));
        assert!(shown.iter().all(|text| !text.contains(VALUE)), "{shown:?}");
    }
}

#[tokio::test]
async fn a_secret_in_a_header_is_filled_in_for_the_host_alone() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = test.fleet.add_host();
        test.client.post("/v1/secrets", json!({ "name": "key", "value": format!("{VALUE}\n") })).await.expect(201);
        let header = |value: &str| json!([{ "domain": "API.example.com", "name": "Authorization", "value": value }]);
        let wanted = header("Bearer ${secrets.key}");
        let ask = json!({ "network": { "headers": wanted } });
        let created = test.client.post("/v1/sandboxes", ask).await.expect(201);
        let mut shown = vec![String::from_utf8(created.body.clone()).unwrap()];
        assert_eq!(created.json()["network"]["headers"], wanted);
        let id = created.parsed::<Sandbox>().id;
        let told = |id: &atoll_model::SandboxId| {
            let headers = agent.spec_of(id).unwrap().network.into_option().unwrap().headers;
            headers.into_iter().map(|it| (it.domain, it.name, it.value)).collect::<Vec<_>>()
        };
        let filled = ("api.example.com".to_owned(), "Authorization".to_owned(), format!("Bearer {VALUE}"));
        assert_eq!(told(&id), std::slice::from_ref(&filled));
        // Children get what the name stands for when they are made.
        let path = format!("/v1/sandboxes/{id}");
        let forked = test.client.post(&format!("{path}/fork"), json!({})).await.expect(201).json();
        let child = forked["items"][0]["sandbox"]["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(told(&child), std::slice::from_ref(&filled));
        // It can be changed, and cleared; a team may have it for all.
        let set = json!({ "headers": header("${secrets.key}") });
        let changed = test.client.put(&format!("{path}/network"), set.clone()).await.expect(200);
        shown.push(String::from_utf8(changed.body).unwrap());
        assert_eq!(told(&id)[0].2, VALUE);
        test.client.put(&format!("{path}/network"), json!({})).await.expect(200);
        assert!(told(&id).is_empty());
        let owner = test.first().await;
        let team = test.team();
        owner.put(&format!("/v1/teams/{team}/network"), set).await.expect(200);
        let by_default: Sandbox = test.client.post("/v1/sandboxes", json!({})).await.expect(201).parsed();
        assert_eq!(told(&by_default.id)[0].2, VALUE);
        for path in ["/v1/sandboxes", path.as_str(), "/v1/audit-logs"] {
            let client = if path.contains("audit") { &owner } else { &test.client };
            shown.push(String::from_utf8(client.get(path).await.expect(200).body).unwrap());
        }
        let rows: Vec<(String,)> =
            on!(read & test.app.db, |c| sqlx::query_as("SELECT CAST(network AS TEXT) FROM sandboxes")
                .fetch_all(c)
                .await)
            .unwrap();
        shown.extend(rows.into_iter().map(|row| row.0));
        assert!(shown.iter().all(|text| !text.contains(VALUE)), "{shown:?}");
        // The audit trail has names and no values, whoever wrote them.
        let literal = json!({ "headers": header("plain-hunter3") });
        test.client.put(&format!("/v1/sandboxes/{}/network", by_default.id), literal).await.expect(200);
        let trail = String::from_utf8(owner.get("/v1/audit-logs").await.expect(200).body).unwrap();
        assert!(!trail.contains("hunter3") && trail.contains(r#""secrets":["key"]"#), "{trail}");
        // What can't be is refused by name.
        for (value, status) in
            [("${secrets.none}", 404), ("${secrets.key", 400), ("a\nb", 400), ("${secrets.a b}", 400)]
        {
            let ask = json!({ "network": { "headers": header(value) } });
            let refused = test.client.post("/v1/sandboxes", ask).await.expect(status);
            assert_eq!(refused.field(), "network.headers", "{value}");
        }
        for (domain, name) in
            [("10.0.0.1", "A"), ("", "A"), ("a.example", "Host"), ("a.example", "a b"), ("a.example", "")]
        {
            let headers = json!([{ "domain": domain, "name": name, "value": "x" }]);
            let refused = test.client.post("/v1/sandboxes", json!({ "network": { "headers": headers } })).await;
            assert_eq!(refused.expect(400).field(), "network.headers", "{domain} {name}");
        }
        // Nothing is kept for children that can't have it.
        test.client.put(&format!("{path}/network"), json!({ "headers": header("${secrets.key}") })).await.expect(200);
        test.client.delete("/v1/secrets/key").await.expect(204);
        let refused = test.client.post(&format!("{path}/fork"), json!({})).await.expect(404);
        assert_eq!(refused.field(), "network.headers");
        let (layers,): (i64,) =
            on!(read & test.app.db, |c| sqlx::query_as("SELECT COUNT(*) FROM layers").fetch_one(c).await).unwrap();
        assert_eq!(layers, 1, "that of the children before");
        test.client.post("/v1/secrets", json!({ "name": "lines", "value": "a\nb" })).await.expect(201);
        let ask = json!({ "network": { "headers": header("${secrets.lines}") } });
        assert_eq!(test.client.post("/v1/sandboxes", ask).await.expect(400).field(), "network.headers");
    }
}

#[tokio::test]
async fn names_are_a_teams_own_and_values_can_be_set_anew() {
    for test in databases().await {
        let test = app(test).await;
        let (_, agent) = test.fleet.add_host();
        let body = |value: &str| json!({ "name": "token", "value": value });
        let first: Secret = test.client.post("/v1/secrets", body("one")).await.expect(201).parsed();
        let taken = test.client.post("/v1/secrets", body("two")).await.expect(409);
        assert_eq!((taken.code().as_str(), taken.field().as_str()), ("name_taken", "name"));
        test.clock.advance(std::time::Duration::from_secs(5));
        let path = "/v1/secrets?overwrite=true";
        let second: Secret = test.client.post(path, body("two")).await.expect(201).parsed();
        assert!(second.id == first.id && second.created_at == first.created_at && second.updated_at > first.updated_at);
        let ask = json!({ "secrets": { "T": "token" } });
        let sandbox: Sandbox = test.client.post("/v1/sandboxes", ask.clone()).await.expect(201).parsed();
        assert_eq!(agent.spec_of(&sandbox.id).unwrap().env["T"], "two");
        // Another team has its own, and sees nothing of this one.
        let other = test.another_team().await;
        let missing = other.post("/v1/sandboxes", ask.clone()).await.expect(404);
        assert_eq!(missing.field(), "secrets");
        other.delete("/v1/secrets/token").await.expect(404);
        other.delete(&format!("/v1/secrets/{}", first.id)).await.expect(404);
        other.post("/v1/secrets", body("theirs")).await.expect(201);
        // Gone by name or id; sandboxes that have it keep it.
        test.client.delete("/v1/secrets/token").await.expect(204);
        test.client.delete("/v1/secrets/token").await.expect(404);
        test.client.post("/v1/sandboxes", ask).await.expect(404);
        assert_eq!(agent.spec_of(&sandbox.id).unwrap().env["T"], "two");
    }
}

#[tokio::test]
async fn a_repeated_request_is_one_secret_and_its_trace_gives_nothing_away() {
    for test in databases().await {
        let test = app(test).await;
        let client = test.client.with("idempotency-key", "once");
        let body = json!({ "name": "s", "value": "1234" });
        let first: Secret = client.post("/v1/secrets", body.clone()).await.expect(201).parsed();
        let again: Secret = client.post("/v1/secrets", body.clone()).await.expect(201).parsed();
        assert_eq!(first, again);
        client.post("/v1/secrets", json!({ "name": "s", "value": "1235" })).await.expect(409);
        let (hash,): (String,) =
            on!(read & test.app.db, |c| sqlx::query_as("SELECT request_hash FROM idempotency_keys").fetch_one(c).await)
                .unwrap();
        // Nobody who has the database can try all short values: the hash is not of the body itself.
        let plain = crate::http::idempotent::key(
            &[("idempotency-key".parse().unwrap(), "x".parse().unwrap())].into_iter().collect(),
            "",
            "secrets",
            &body,
        );
        assert_ne!(plain.unwrap().unwrap().request_hash, hash);
    }
}

#[tokio::test]
async fn absurd_secrets_are_refused_by_field() {
    let test = app(crate::db::testing::sqlite().await).await;
    for (body, field) in [
        (json!({ "name": "", "value": "x" }), "name"),
        (json!({ "name": "a b", "value": "x" }), "name"),
        (json!({ "name": "x".repeat(129), "value": "x" }), "name"),
        (json!({ "name": "a", "value": "" }), "value"),
        (json!({ "name": "a", "value": "x\0y" }), "value"),
        (json!({ "name": "a", "value": "x".repeat(65_537) }), "value"),
        (json!({ "name": "a" }), "value"),
    ] {
        let refused = test.client.post("/v1/secrets", body).await.expect(400);
        assert_eq!(refused.field(), field);
    }
    test.client.post("/v1/secrets", json!({ "name": "a", "value": "x".repeat(65_536) })).await.expect(201);
}

#[tokio::test]
async fn a_proxys_password_is_told_to_hosts_alone() {
    for test in databases().await {
        let test = app(test).await;
        let (host, agent) = test.fleet.add_host();
        test.client.post("/v1/secrets", json!({ "name": "tail", "value": "-of-the-proxy\n" })).await.expect(201);
        let proxy = json!({
            "address": "Proxy.example.com:1080", "username": "{{sandboxID}}",
            "password": "hunter2${secrets.tail}", "tls": { "server_name": "p.example.com" }
        });
        let ask = json!({ "network": { "egress_proxy": proxy } });
        let created = test.client.post("/v1/sandboxes", ask).await.expect(201);
        let id = created.parsed::<Sandbox>().id;
        let mut shown = vec![String::from_utf8(created.body.clone()).unwrap()];
        let as_shown = json!({
            "address": "proxy.example.com:1080", "username": "{{sandboxID}}", "tls": { "server_name": "p.example.com" }
        });
        assert_eq!(created.json()["network"]["egress_proxy"], as_shown);
        let told = |id: &atoll_model::SandboxId| {
            let network = agent.spec_of(id).unwrap().network.into_option().unwrap();
            assert_eq!(network.deny_egress, network.own_proxy.is_set(), "for hosts that know nothing of proxies");
            network.own_proxy.into_option().map(|it| (it.address, it.username, it.password, it.tls, it.server_name))
        };
        let wire = |id: &atoll_model::SandboxId, password: &str| {
            let text = |text: &str| text.to_owned();
            let (at, name) = (text("proxy.example.com:1080"), text("p.example.com"));
            Some((at, id.dns_label(), text(password), true, name))
        };
        assert_eq!(told(&id), wire(&id, "hunter2-of-the-proxy"));

        // A fork has it under its own name, and a change that leaves it as it is needn't say the password.
        let forked = test.client.post(&format!("/v1/sandboxes/{id}/fork"), json!({})).await.expect(201);
        let child: Sandbox = serde_json::from_value(forked.json()["items"][0]["sandbox"].clone()).unwrap();
        assert_eq!(told(&child.id), wire(&child.id, "hunter2-of-the-proxy"));
        shown.push(String::from_utf8(forked.body).unwrap());
        let path = format!("/v1/sandboxes/{id}/network");
        let set = json!({ "deny_out": ["192.0.2.1"], "egress_proxy": as_shown });
        shown.push(String::from_utf8(test.client.put(&path, set).await.expect(200).body).unwrap());
        assert_eq!(told(&id), wire(&id, "hunter2-of-the-proxy"));
        let mut elsewhere = as_shown.clone();
        elsewhere["address"] = "evil.example.com:1080".into();
        test.client.put(&path, json!({ "egress_proxy": elsewhere })).await.expect(200);
        assert_eq!(told(&id).unwrap().2, "", "another proxy doesn't get it");
        test.client.put(&path, json!({})).await.expect(200);
        assert_eq!(told(&id), None);

        // A secret that isn't there is said; when it goes later, the proxy stays without it.
        let mut wrong = proxy.clone();
        wrong["password"] = "${secrets.none}".into();
        let refused = test.client.put(&path, json!({ "egress_proxy": wrong })).await.expect(404);
        assert_eq!(refused.field(), "network.egress_proxy.password");
        wrong["password"] = "x".into();
        wrong["username"] = serde_json::Value::Null;
        let refused = test.client.put(&path, json!({ "egress_proxy": wrong })).await.expect(400);
        assert_eq!(refused.field(), "network.egress_proxy.password");
        test.client.put(&path, json!({ "egress_proxy": proxy })).await.expect(200);
        test.client.delete("/v1/secrets/tail").await.expect(204);
        test.client.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.expect(200);
        test.client.post(&format!("/v1/sandboxes/{id}/resume"), json!({})).await.expect(200);
        test.app.reconcile.monitor.look_once(&host).await;
        assert_eq!(told(&id), wire(&id, ""));

        // A team's default is the same.
        let owner = test.first().await;
        let team = format!("/v1/teams/{}/network", test.team());
        let set = json!({ "egress_proxy": { "address": "a.example:1", "username": "u", "password": "hunter2-team" } });
        let answer = owner.put(&team, set).await.expect(200);
        assert_eq!(answer.json()["egress_proxy"], json!({ "address": "a.example:1", "username": "u" }));
        let made: Sandbox = test.client.post("/v1/sandboxes", json!({})).await.expect(201).parsed();
        assert_eq!(told(&made.id).unwrap().2, "hunter2-team");

        for path in ["/v1/sandboxes", &format!("/v1/sandboxes/{id}"), &team, "/v1/audit-logs"] {
            shown.push(String::from_utf8(owner.get(path).await.expect(200).body).unwrap());
        }
        let e2b = format!("/e2b/sandboxes/{}", made.id.dns_label());
        let info = test.client.get(&e2b).await.expect(200);
        assert_eq!(info.json()["network"]["egressProxy"], json!({ "address": "a.example:1", "username": "u" }));
        for sql in [
            "SELECT CAST(network AS TEXT) FROM sandboxes",
            "SELECT CAST(network AS TEXT) FROM teams WHERE network IS NOT NULL",
            "SELECT CAST(data AS TEXT) FROM events",
        ] {
            let rows: Vec<(String,)> = on!(read & test.app.db, |c| sqlx::query_as(sql).fetch_all(c).await).unwrap();
            shown.extend(rows.into_iter().map(|row| row.0));
        }
        assert!(shown.iter().any(|text| text.contains("proxy.example.com")));
        assert!(shown.iter().all(|text| !text.contains("hunter2")), "{shown:?}");
    }
}
