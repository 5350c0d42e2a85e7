//! What `Idempotency-Key` promises on every POST that creates something.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::db::testing::databases;
use crate::testing::{Client, app};

/// POSTs that answer 201 and take no key, each for a reason of its own.
const WITHOUT: [(&str, &str); 5] = [
    ("/v1/auth/setup", "its token works once"),
    ("/v1/auth/signup", "an address has one account: asked again it is `email_taken`"),
    ("/v1/invitations/{token}/accept", "its token works once"),
    ("/v1/hosts/{id}/token", "a new token takes the place of the one before, and is all that is in the answer"),
    ("/v1/sandboxes/{id}/files/mkdir", "a directory is there once: asked again it is `conflict`"),
];

#[tokio::test]
async fn every_post_that_creates_something_takes_a_key() {
    let test = app(crate::db::testing::sqlite().await).await;
    let api = test.client.get("/openapi.json").await.json();
    let mut without = BTreeSet::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        let Some(post) = item.get("post").filter(|post| post["responses"].get("201").is_some()) else { continue };
        let takes = |parameter: &Value| parameter["name"] == "Idempotency-Key";
        if !post["parameters"].as_array().is_some_and(|all| all.iter().any(takes)) {
            without.insert(path.clone());
        }
    }
    let known: BTreeSet<_> = WITHOUT.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(without, known);
}

async fn twice(client: &Client, path: &str, body: Value) -> (Value, Value) {
    let client = client.with("idempotency-key", &format!("key for {path}"));
    let first = client.post(path, body.clone()).await.expect(201);
    assert!(first.headers.get("idempotent-replay").is_none());
    let again = client.post(path, body).await.expect(201);
    assert_eq!(again.headers["idempotent-replay"], "true", "{path}");
    let other = client.post(path, json!({ "email": "o@example.test", "name": "Other", "url": "http://a.test/" })).await;
    assert!([400, 409].contains(&other.status.as_u16()), "{path}: another request with this key: {}", other.status);
    (first.json(), again.json())
}

/// `value` without its secrets.
fn bare(value: &Value, secrets: &[&str]) -> Value {
    let mut value = value.clone();
    for secret in secrets {
        assert!(value.as_object_mut().unwrap().remove(*secret).is_some(), "{secret} in {value}");
    }
    value
}

#[tokio::test]
async fn what_is_asked_for_twice_with_one_key_is_made_once_and_its_secret_shown_once() {
    for database in databases().await {
        let test = app(database).await;
        let (first, person) = (test.first().await, test.person("Pat").await);
        let team = format!("/v1/teams/{}", test.team());
        let cases: [(String, Value, &[&str]); 7] = [
            ("/v1/teams".to_owned(), json!({ "name": "Twice" }), &[]),
            ("/v1/api-keys".to_owned(), json!({ "name": "twice" }), &["key", "e2b_key"]),
            ("/v1/webhooks".to_owned(), json!({ "url": "http://hooks.test/" }), &["secret"]),
            ("/v1/admin/users".to_owned(), json!({ "email": "new@example.test", "name": "New" }), &["url"]),
            (format!("{team}/members"), json!({ "email": person.email }), &[]),
            (format!("{team}/invitations"), json!({ "email": "guest@example.test" }), &["url"]),
            ("/v1/hosts".to_owned(), json!({ "name": "twice" }), &[]),
        ];
        for (path, body, secrets) in cases {
            let (made, again) = twice(&first, &path, body).await;
            if path != "/v1/hosts" {
                assert_eq!(bare(&made, secrets), again, "{path}");
            }
        }
        let reset = format!("/v1/admin/users/{}/password-reset", person.id);
        let with_key = first.with("idempotency-key", "a link");
        let made = with_key.post(&reset, json!({})).await.expect(201).json();
        assert_eq!(with_key.post(&reset, json!({})).await.expect(201).json(), bare(&made, &["url"]));
        let listed = first.get("/v1/teams").await.json();
        let teams = listed["items"].as_array().unwrap().iter().filter(|team| team["name"] == "Twice").count();
        assert_eq!(teams, 1);
    }
}

#[tokio::test]
async fn a_key_belongs_to_whoever_used_it() {
    for database in databases().await {
        let test = app(database).await;
        let (one, other) = (test.person("One").await, test.person("Two").await);
        let ask = async |client: &Client| {
            let client = client.with("idempotency-key", "the same");
            client.post("/v1/teams", json!({ "name": "T" })).await.expect(201).json()["id"].clone()
        };
        assert_ne!(ask(&one.client).await, ask(&other.client).await);
        let odd = one.client.with("idempotency-key", &"k".repeat(256));
        assert_eq!(odd.post("/v1/teams", json!({ "name": "T" })).await.expect(400).field(), "Idempotency-Key");
    }
}
