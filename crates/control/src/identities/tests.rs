//! Tokens of sandboxes' identities, from the create to whoever checks one.

use std::time::Duration;

use atoll_model::api::hosts::{HostCredentials, IdentityToken};
use atoll_model::api::sandboxes::Sandbox;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use super::trust_domain;
use crate::db::on;
use crate::db::testing::databases;
use crate::hosts::tests::Agent;
use crate::signing::{self, WORKLOADS};
use crate::testing::{Client, TestApp, app};

#[test]
fn a_trust_domain_is_the_name_of_the_issuer() {
    assert_eq!(trust_domain("https://Atoll.Example:8443/x"), "atoll.example");
    assert_eq!(trust_domain("http://127.0.0.1:7878"), "127.0.0.1");
    assert_eq!(trust_domain("http://[::1]:7878"), "--1");
}

/// A host that has enrolled, and what it asks with.
async fn host(test: &TestApp) -> (String, Client) {
    let made = test.first().await.post("/v1/hosts", json!({ "type": "regular" })).await.expect(201).json();
    let mut agent = Agent::new();
    let registration = agent.registration(made["registration_token"].as_str().unwrap());
    let registration = serde_json::to_value(registration).unwrap();
    let registered = test.client.anonymous().post("/v1/hosts/register", registration).await;
    let credentials: HostCredentials = serde_json::from_slice(&registered.body).unwrap();
    let client = test.client.anonymous().with("x-host-token", &credentials.access_token);
    agent.credentials = Some(credentials);
    (made["host"]["id"].as_str().unwrap().to_owned(), client)
}

async fn put_on(test: &TestApp, sandbox: &str, host: &str) {
    on!(write & test.app.db, |c| sqlx::query("UPDATE sandboxes SET host_id = $2 WHERE id = $1")
        .bind(sandbox)
        .bind(host)
        .execute(c)
        .await
        .map(|_| ()))
    .unwrap();
}

/// What somebody reads in a token who knows this server's address alone.
async fn checked(test: &TestApp, token: &str, audience: &str) -> Result<Value, String> {
    let anybody = test.client.anonymous();
    let said = anybody.get("/.well-known/openid-configuration").await.expect(200).json();
    assert_eq!(said["issuer"], "https://atoll.example");
    let keys = said["jwks_uri"].as_str().unwrap().strip_prefix("https://atoll.example").unwrap().to_owned();
    let keys: JwkSet = serde_json::from_slice(&anybody.get(&keys).await.expect(200).body).unwrap();
    let header = jsonwebtoken::decode_header(token).map_err(|error| error.to_string())?;
    assert_eq!((header.alg, header.typ.as_deref()), (Algorithm::ES256, Some("JWT")));
    let key = keys.find(&header.kid.unwrap()).ok_or("no such key")?;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_issuer(&[said["issuer"].as_str().unwrap()]);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
    // The clock of this test stands where it was put.
    validation.validate_exp = false;
    let key = DecodingKey::from_jwk(key).map_err(|error| error.to_string())?;
    jsonwebtoken::decode(token, &key, &validation).map(|read| read.claims).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_token_says_who_asks_and_only_the_sandboxs_host_gets_one() {
    for database in databases().await {
        let test = app(database).await;
        let (_, agent) = test.fleet.add_host();
        let ((host, as_host), (other, as_other)) = (host(&test).await, host(&test).await);
        let header = |value: &str| json!([{ "domain": "api.example.com", "name": "Authorization", "value": value }]);
        let ask = json!({
            "identities": { "aws": "sts.amazonaws.com", "my vault": "https://vault.example/" },
            "network": { "headers": header("Bearer ${identity.aws}") },
        });
        let made: Sandbox = test.client.post("/v1/sandboxes", ask).await.expect(201).parsed();
        assert_eq!(made.identities["aws"], "sts.amazonaws.com");
        // Its host is told the name, and no value.
        let told = agent.spec_of(&made.id).unwrap().network.into_option().unwrap().headers.remove(0);
        let parts: Vec<_> = told.parts.iter().map(|part| (part.text.as_str(), part.identity.as_str())).collect();
        assert_eq!((parts, told.value.as_str()), (vec![("Bearer ", ""), ("", "aws")], "\n"));
        assert_eq!(told.sandbox_id, made.id.as_str());

        put_on(&test, made.id.as_str(), &host).await;
        let path = |host: &str| format!("/v1/hosts/{host}/sandboxes/{}/identity-token", made.id);
        let token: IdentityToken = as_host.post(&path(&host), json!({ "name": "aws" })).await.expect(200).parsed();
        let claims = checked(&test, &token.token, "sts.amazonaws.com").await.unwrap();
        let subject = format!("spiffe://atoll.example/team/{}/sandbox/{}", test.team(), made.id);
        assert_eq!((claims["sub"].as_str(), claims["template"].as_str()), (Some(subject.as_str()), Some("base")));
        let (issued, over) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
        assert_eq!((over - issued, token.ttl_sec), (300, 300));
        assert!(checked(&test, &token.token, "https://vault.example/").await.is_err(), "it is for one audience");
        let vault: IdentityToken = as_host.post(&path(&host), json!({ "name": "my vault" })).await.expect(200).parsed();
        checked(&test, &vault.token, "https://vault.example/").await.unwrap();

        // Nobody else gets one, and none of what is not there.
        as_host.post(&path(&host), json!({ "name": "gcp" })).await.expect(404);
        as_other.post(&path(&other), json!({ "name": "aws" })).await.expect(404);
        as_other.post(&path(&host), json!({ "name": "aws" })).await.expect(403);
        test.client.post(&path(&host), json!({ "name": "aws" })).await.expect(401);
        // A token of one purpose is worth nothing for another.
        test.client
            .anonymous()
            .with("authorization", &format!("Bearer {}", token.token))
            .get("/v1/me")
            .await
            .expect(401);

        // New keys sign at once, and what older ones signed is still good.
        let now = test.clock.now();
        signing::rotate(&test.app.db, WORKLOADS, Duration::from_secs(3600), now).await.unwrap();
        test.clock.advance(Duration::from_secs(11));
        let new: IdentityToken = as_host.post(&path(&host), json!({ "name": "aws" })).await.expect(200).parsed();
        let kid = |token: &str| jsonwebtoken::decode_header(token).unwrap().kid;
        assert_ne!(kid(&new.token), kid(&token.token));
        checked(&test, &new.token, "sts.amazonaws.com").await.unwrap();
        checked(&test, &token.token, "sts.amazonaws.com").await.unwrap();
        test.clock.advance(Duration::from_secs(3600));
        assert!(checked(&test, &token.token, "sts.amazonaws.com").await.is_err(), "its key is gone");
    }
}

#[tokio::test]
async fn identities_are_named_when_the_sandbox_is_made() {
    for database in databases().await {
        let test = app(database).await;
        let (_, agent) = test.fleet.add_host();
        let header = |value: &str| json!([{ "domain": "api.example.com", "name": "Authorization", "value": value }]);
        let with = |identities: Value| json!({ "identities": identities });
        let many: serde_json::Map<_, _> = (0..6).map(|n| (n.to_string(), json!("a"))).collect();
        for wrong in
            [json!({ "a{b": "x" }), json!({ "": "x" }), json!({ "a": "" }), json!({ "a": "b\nc" }), many.into()]
        {
            let refused = test.client.post("/v1/sandboxes", with(wrong.clone())).await.expect(400);
            assert_eq!(refused.field(), "identities", "{wrong}");
        }
        let ask = json!({ "network": { "headers": header("${identity.aws}") } });
        assert_eq!(test.client.post("/v1/sandboxes", ask.clone()).await.expect(400).field(), "network.headers");
        let team = format!("/v1/teams/{}/network", test.team());
        let refused = test.first().await.put(&team, ask["network"].clone()).await.expect(400);
        assert_eq!(refused.field(), "network.headers");

        // What it may reach can change later; children have identities of their own under the same names.
        let made: Sandbox = test.client.post("/v1/sandboxes", with(json!({ "aws": "sts" }))).await.expect(201).parsed();
        let path = format!("/v1/sandboxes/{}", made.id);
        let set = json!({ "headers": header("Bearer ${identity.aws}") });
        test.client.put(&format!("{path}/network"), set.clone()).await.expect(200);
        let gcp = json!({ "headers": header("Bearer ${identity.gcp}") });
        assert_eq!(test.client.put(&format!("{path}/network"), gcp).await.expect(400).field(), "network.headers");
        let forked = test.client.post(&format!("{path}/fork"), json!({})).await.expect(201).json();
        let child = forked["items"][0]["sandbox"].clone();
        assert_eq!(child["identities"], json!({ "aws": "sts" }));
        let child = child["id"].as_str().unwrap().parse().unwrap();
        let told = agent.spec_of(&child).unwrap().network.into_option().unwrap().headers.remove(0);
        assert_eq!(told.sandbox_id, child.as_str(), "not its parent's");
    }
}
