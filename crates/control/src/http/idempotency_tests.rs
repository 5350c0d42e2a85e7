//! What `Idempotency-Key` promises on every POST that creates something.

use std::collections::BTreeSet;

use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::db::on;
use crate::db::testing::databases;
use crate::testing::{Client, app, app_with};

/// POSTs that answer 201 and take no key, each for a reason of its own.
const WITHOUT: [(&str, &str); 2] = [
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
async fn a_key_that_was_used_in_one_team_is_free_in_another() {
    for database in databases().await {
        let test = app(database).await;
        let person = test.person("Pat").await;
        let other = test.colleague("Kim", atoll_model::api::auth::Role::Admin).await;
        let there = test.client.with_token(&test.session(&other.id, &other.team, &other.email, "Kim").await);
        let ask = async |client: &Client| {
            let client = client.with("idempotency-key", "the same");
            client.post("/v1/api-keys", json!({ "name": "ci" })).await.expect(201)
        };
        let (here, there) = (ask(&other.client).await, ask(&there).await);
        assert!(there.headers.get("idempotent-replay").is_none());
        assert_ne!(here.json()["id"], there.json()["id"]);
        assert_ne!(ask(&person.client).await.json()["id"], here.json()["id"]);
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

/// An account is there once by its nature; who sends the request again is signed in to it.
#[tokio::test]
async fn an_account_that_is_asked_for_twice_with_one_key_is_signed_in_to() {
    for database in databases().await {
        let test = app_with(database, |config| config.signup = crate::config::SignupMode::Open).await;
        let owner = test.first().await;
        let anonymous = test.client.anonymous().with("idempotency-key", "k-1");
        let body = |name: &str, password: &str| json!({ "email": "Ada@x.test", "password": password, "name": name });
        let first = anonymous.post("/v1/auth/signup", body("Ada", "a long enough one")).await.expect(201).json();
        let again = anonymous.post("/v1/auth/signup", body("Ada", "a long enough one")).await.expect(201).json();
        assert_eq!((&first["user_id"], &first["team_id"]), (&again["user_id"], &again["team_id"]));
        let token = again["token"].as_str().unwrap();
        assert_ne!(first["token"].as_str().unwrap(), token, "no credential is kept to be shown again");
        let me = test.client.with_token(token).get("/v1/me").await;
        assert_eq!(me.expect(200).json()["email"], "ada@x.test");
        anonymous.post("/v1/auth/signup", body("Ada", "another password")).await.expect(401);
        anonymous.post("/v1/auth/signup", body("Eve", "a long enough one")).await.expect(409);
        let other_key = anonymous.with("idempotency-key", "k-2");
        let taken = other_key.post("/v1/auth/signup", body("Ada", "a long enough one")).await.expect(409);
        assert_eq!(taken.code(), "email_taken");

        let invite = async |email: &str| {
            let path = format!("/v1/teams/{}/invitations", test.team());
            let made = owner.post(&path, json!({ "email": email })).await.expect(201).json();
            let token = made["url"].as_str().unwrap().rsplit_once('#').unwrap().1.to_owned();
            format!("/v1/invitations/{token}/accept")
        };
        let accept = invite("ben@x.test").await;
        let body = json!({ "name": "Ben", "password": "a long enough one" });
        let first = anonymous.post(&accept, body.clone()).await.expect(201).json();
        let again = anonymous.post(&accept, body.clone()).await.expect(201).json();
        assert_eq!((&first["user_id"], &first["team_id"]), (&again["user_id"], &again["team_id"]));
        other_key.post(&accept, body).await.expect(404);
        let person = test.person("Cleo").await;
        let (accept, client) = (invite(&person.email).await, person.client.with("idempotency-key", "k-1"));
        let first = client.post(&accept, json!({})).await.expect(200).json();
        assert_eq!(client.post(&accept, json!({})).await.expect(200).json(), first);
        person.client.post(&accept, json!({})).await.expect(404);
    }
}

#[tokio::test]
async fn the_first_admin_who_sends_the_request_again_is_signed_in() {
    for database in databases().await {
        let test = app(database).await;
        for table in ["DELETE FROM api_keys", "DELETE FROM teams", "DELETE FROM users"] {
            on!(write & test.app.db, |c| sqlx::query(table).execute(c).await.map(|_| ())).unwrap();
        }
        let token = test.app.accounts.setup_token().await.unwrap().unwrap();
        let body =
            |password: &str| json!({ "token": token.expose_secret(), "email": "root@x.test", "password": password });
        let client = test.client.anonymous().with("idempotency-key", "k");
        let first = client.post("/v1/auth/setup", body("a long enough one")).await.expect(201).json();
        let again = client.post("/v1/auth/setup", body("a long enough one")).await.expect(201).json();
        assert_eq!(first["user_id"], again["user_id"]);
        client.post("/v1/auth/setup", body("another password")).await.expect(401);
        let without = test.client.anonymous();
        assert!(without.post("/v1/auth/setup", body("a long enough one")).await.status.is_client_error());
    }
}
