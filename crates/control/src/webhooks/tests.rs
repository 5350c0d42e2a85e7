//! What webhooks promise, on both databases, with a real receiver.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::signature::sign;
use super::*;
use crate::db::on;
use crate::db::testing::{TestDb, databases};
use crate::testing::{Client, TestApp, app_with};

/// What came, and what is answered.
#[derive(Clone)]
struct Receiver {
    url: String,
    came: Arc<Mutex<Vec<(HeaderMap, String)>>>,
    answer: Arc<Mutex<StatusCode>>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let this = Self { url, came: Arc::default(), answer: Arc::new(Mutex::new(StatusCode::OK)) };
        let (came, answer) = (this.came.clone(), this.answer.clone());
        let route = axum::routing::post(move |headers: HeaderMap, body: String| async move {
            came.lock().unwrap().push((headers, body));
            let status = *answer.lock().unwrap();
            (status, [("location", "http://127.0.0.1:1/")], "an answer")
        });
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/hook", route)).await });
        this
    }

    fn answer(&self, status: StatusCode) {
        *self.answer.lock().unwrap() = status;
    }

    fn came(&self) -> usize {
        self.came.lock().unwrap().len()
    }
}

async fn setup(database: TestDb) -> (TestApp, Client, Receiver) {
    let test = app_with(database, |config| config.webhook_allow = vec!["127.0.0.0/8".parse().unwrap()]).await;
    let owner = test.first().await;
    (test, owner, Receiver::start().await)
}

async fn make(owner: &Client, body: Value) -> Value {
    let made = owner.post("/v1/webhooks", body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.json());
    made.json()
}

async fn turn(test: &TestApp) -> usize {
    test.app.webhooks.turn(&mut None).await.unwrap()
}

fn path(hook: &Value, rest: &str) -> String {
    format!("/v1/webhooks/{}{rest}", hook["id"].as_str().unwrap())
}

#[tokio::test]
async fn what_happens_is_sent_once_signed_with_the_secret_that_was_shown_once() {
    for database in databases().await {
        let (test, owner, receiver) = setup(database).await;
        owner.post("/v1/api-keys", json!({ "name": "before" })).await;
        let hook = make(&owner, json!({ "url": receiver.url, "events": ["api_key", "team.updated"] })).await;
        assert_eq!(owner.get(&path(&hook, "")).await.json().get("secret"), None);
        owner.post("/v1/api-keys", json!({ "name": "after" })).await;
        test.person("Zoe").await.client.post("/v1/api-keys", json!({ "name": "another team's" })).await;
        assert_eq!((turn(&test).await, turn(&test).await), (1, 0));
        let (headers, body) = receiver.came.lock().unwrap()[0].clone();
        let event: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&event["type"], &event["object"]["name"]), (&json!("api_key.created"), &json!("after")));
        let header = |name: &str| headers[name].to_str().unwrap().to_owned();
        let time = header("atoll-webhook-timestamp").parse().unwrap();
        let secret = hook["secret"].as_str().unwrap();
        assert_eq!(header("atoll-webhook-signature"), sign(secret, time, &body));
        let log = owner.get(&path(&hook, "/deliveries")).await.json();
        let delivery = &log["items"][0];
        assert_eq!((&delivery["status"], &delivery["response_status"]), (&json!("delivered"), &json!(200)));
        assert_eq!((&delivery["id"], &delivery["event_id"]), (&json!(header("atoll-webhook-id")), &event["id"]));
    }
}

type Kept = Vec<(String, Option<String>)>;

#[tokio::test]
async fn the_table_has_no_secret_in_the_clear_and_those_from_before_are_encrypted_at_the_start() {
    for database in databases().await {
        let (test, owner, receiver) = setup(database).await;
        let hook = make(&owner, json!({ "url": receiver.url, "events": ["api_key"] })).await;
        let first = hook["secret"].as_str().unwrap().to_owned();
        let second = owner.post(&path(&hook, "/secret"), json!({})).await.expect(200).json();
        let second = second["secret"].as_str().unwrap().to_owned();
        let kept = async || -> Kept {
            let sql = "SELECT secret, former_secret FROM webhooks";
            on!(read & test.app.db, |c| sqlx::query_as(sql).fetch_all(c).await).unwrap()
        };
        let in_the_clear = |kept: &Kept| {
            let text = format!("{kept:?}");
            [&first, &second].iter().any(|secret| text.contains(&secret["whsec_".len()..]))
        };
        assert!(!in_the_clear(&kept().await));
        // As they were kept before.
        let sql = "UPDATE webhooks SET secret = $1, former_secret = $2";
        on!(write & test.app.db, |c| sqlx::query(sql).bind(&second).bind(&first).execute(c).await.map(|_| ())).unwrap();
        assert!(in_the_clear(&kept().await));
        sealed::seal_plain(&test.app.db, test.app.secrets.cipher()).await.unwrap();
        assert!(!in_the_clear(&kept().await));
        owner.post("/v1/api-keys", json!({ "name": "after" })).await.expect(201);
        turn(&test).await;
        let (headers, body) = receiver.came.lock().unwrap()[0].clone();
        let time = headers["atoll-webhook-timestamp"].to_str().unwrap().parse().unwrap();
        let expected = format!("{},{}", sign(&second, time, &body), sign(&first, time, &body));
        assert_eq!(headers["atoll-webhook-signature"].to_str().unwrap(), expected);
        // Another team's row can't be passed off as this one's, and nothing goes out unsigned.
        let sql = "UPDATE webhooks SET secret = $1, former_secret = NULL";
        let (team, id) = (atoll_model::TeamId::new(), atoll_model::WebhookId::new());
        let another = sealed::seal(test.app.secrets.cipher(), &team, &id, &first);
        on!(write & test.app.db, |c| sqlx::query(sql).bind(another).execute(c).await.map(|_| ())).unwrap();
        owner.post("/v1/api-keys", json!({ "name": "unsigned" })).await.expect(201);
        turn(&test).await;
        assert_eq!(receiver.came(), 1);
        let log = owner.get(&path(&hook, "/deliveries")).await.json();
        let errors: Vec<_> =
            log["items"].as_array().unwrap().iter().filter_map(|item| item["error"].as_str()).collect();
        assert!(errors.len() == 1 && errors[0].contains("can't be read"), "{log}");
    }
}

#[tokio::test]
async fn a_new_secret_signs_at_once_and_the_one_before_for_a_day() {
    for database in databases().await {
        let (test, owner, receiver) = setup(database).await;
        let hook = make(&owner, json!({ "url": receiver.url, "events": ["api_key"] })).await;
        let old = hook["secret"].as_str().unwrap();
        let changed = owner.post(&path(&hook, "/secret"), json!({})).await.expect(200).json();
        let new = changed["secret"].as_str().unwrap();
        assert!(new.starts_with("whsec_") && new != old);
        assert_eq!(owner.get(&path(&hook, "")).await.json().get("secret"), None);
        let signed = async |client: &Client, name: &str| {
            client.post("/v1/api-keys", json!({ "name": name })).await.expect(201);
            turn(&test).await;
            let (headers, body) = receiver.came.lock().unwrap().last().unwrap().clone();
            let header = |name: &str| headers[name].to_str().unwrap().to_owned();
            (header("atoll-webhook-signature"), header("atoll-webhook-timestamp").parse().unwrap(), body)
        };
        let (signature, time, body) = signed(&owner, "one").await;
        assert_eq!(signature, format!("{},{}", sign(new, time, &body), sign(old, time, &body)));
        test.clock.advance(super::SECRETS_OVERLAP);
        let (signature, time, body) = signed(&test.first().await, "two").await;
        assert_eq!(signature, sign(new, time, &body));
    }
}

#[tokio::test]
async fn what_fails_is_tried_again_with_growing_pauses_and_a_dead_webhook_is_disabled() {
    for database in databases().await {
        let (test, owner, receiver) = setup(database).await;
        let hook = make(&owner, json!({ "url": receiver.url, "events": ["api_key"] })).await;
        receiver.answer(StatusCode::INTERNAL_SERVER_ERROR);
        owner.post("/v1/api-keys", json!({ "name": "k" })).await;
        assert_eq!((turn(&test).await, turn(&test).await), (1, 0), "not again at once");
        test.clock.advance(Duration::from_secs(7));
        assert_eq!((turn(&test).await, receiver.came()), (1, 2));
        test.clock.advance(Duration::from_secs(7));
        assert_eq!(turn(&test).await, 0, "the second pause is longer");
        let log = owner.get(&path(&hook, "/deliveries")).await.json();
        assert_eq!((&log["items"][0]["attempts"], &log["items"][0]["status"]), (&json!(2), &json!("pending")));
        // It would redirect us to somewhere that nobody checked.
        receiver.answer(StatusCode::TEMPORARY_REDIRECT);
        test.clock.advance(Duration::from_secs(3600));
        turn(&test).await;
        let log = owner.get(&path(&hook, "/deliveries")).await.json();
        assert!(log["items"][0]["error"].as_str().unwrap().contains("redirects are not followed"), "{log}");
        test.clock.advance(DISABLE_AFTER);
        turn(&test).await;
        // The session ended meanwhile.
        let owner = test.first().await;
        let dead = owner.get(&path(&hook, "")).await.json();
        assert_eq!(dead["enabled"], false);
        assert!(dead["disabled_reason"].as_str().unwrap().contains("24 hours"));
        receiver.answer(StatusCode::OK);
        let again = owner.patch(&path(&hook, ""), json!({ "enabled": true })).await.json();
        assert_eq!((&again["enabled"], &again["failing_since"]), (&json!(true), &Value::Null));
    }
}

#[tokio::test]
async fn private_addresses_are_refused_when_it_is_made_and_when_it_is_sent() {
    for database in databases().await {
        let test = app_with(database, |_| {}).await;
        let owner = test.first().await;
        for url in ["http://127.0.0.1/", "http://[::1]/", "http://169.254.169.254/latest", "gopher://x/", "http://a@b/"]
        {
            let refused = owner.post("/v1/webhooks", json!({ "url": url })).await;
            assert_eq!((refused.code().as_str(), refused.field().as_str()), ("invalid_request", "url"), "{url}");
        }
        let hook = make(&owner, json!({ "url": "http://localhost:9/" })).await;
        let tested = owner.post(&path(&hook, "/test"), json!({})).await.json();
        assert_eq!((&tested["status"], &tested["response_status"]), (&json!("failed"), &Value::Null));
        assert!(tested["error"].as_str().unwrap().contains("private"), "{tested}");
        assert_eq!(
            owner.post("/v1/webhooks", json!({ "url": "https://a.example/", "events": ["x"] })).await.field(),
            "events"
        );
    }
}

#[tokio::test]
async fn a_test_is_sent_at_once_and_one_replica_at_a_time_delivers() {
    for database in databases().await {
        let (test, owner, receiver) = setup(database).await;
        let hook = make(&owner, json!({ "url": receiver.url })).await;
        let tested = owner.post(&path(&hook, "/test"), json!({})).await.json();
        assert_eq!((&tested["status"], &tested["type"]), (&json!("delivered"), &json!("webhook.test")));
        let came = receiver.came();
        let other = Worker { replica: "other".to_owned(), ..test.app.webhooks.clone() };
        owner.post("/v1/api-keys", json!({ "name": "k" })).await;
        assert!(turn(&test).await >= 1);
        owner.post("/v1/api-keys", json!({ "name": "l" })).await;
        assert_eq!(other.turn(&mut None).await.unwrap(), 0, "the first has the lease");
        test.clock.advance(Duration::from_secs(120));
        assert_eq!(other.turn(&mut None).await.unwrap(), 1, "the first has gone");
        assert!(receiver.came() > came + 1);
    }
}
