//! What the stream of events promises, on both databases.

use std::time::Duration;

use atoll_model::api::auth::Role;
use axum::http::StatusCode;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::db::on;
use crate::db::testing::databases;
use crate::testing::{Client, TestApp, app};

/// An open stream, read message by message.
struct Stream {
    body: axum::body::BodyDataStream,
    text: String,
    /// Comments seen: one every 15 s.
    beats: usize,
}

#[derive(Debug)]
struct Message {
    event: String,
    id: Option<i64>,
    data: Value,
}

impl Stream {
    async fn open(client: &Client, path: &str) -> Self {
        let answer = client.open(path).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { body: answer.into_body().into_data_stream(), text: String::new(), beats: 0 }
    }

    /// The next message that is no comment; none when the stream has ended.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let (message, rest) = (message.to_owned(), rest.to_owned());
                self.text = rest;
                if message.starts_with(':') {
                    self.beats += 1;
                    continue;
                }
                let field = |name: &str| {
                    let found = message.lines().find_map(|line| line.strip_prefix(name));
                    found.and_then(|rest| rest.strip_prefix(": ")).map(str::to_owned)
                };
                return Some(Message {
                    event: field("event").unwrap(),
                    id: field("id").map(|id| id.parse().unwrap()),
                    data: serde_json::from_str(&field("data").unwrap()).unwrap(),
                });
            }
            let piece = tokio::time::timeout(Duration::from_secs(30), self.body.next()).await.expect("it goes on");
            self.text.push_str(std::str::from_utf8(&piece?.unwrap()).unwrap());
        }
    }

    /// The next message but `ready`, which comes before or after what was missed.
    async fn changed(&mut self) -> Message {
        let next = self.next().await.expect("one more");
        if next.event == "ready" { self.next().await.expect("one more") } else { next }
    }

    async fn expect(&mut self, event: &str) -> Message {
        let message = self.next().await.expect("one more");
        assert_eq!(message.event, event, "{message:?}");
        message
    }
}

async fn live(database: crate::db::testing::TestDb) -> TestApp {
    let test = app(database).await;
    test.run_feeds();
    test
}

#[tokio::test]
async fn a_change_is_told_as_it_happens_with_the_thing_as_it_is() {
    for database in databases().await {
        let test = live(database).await;
        test.fleet.add_host();
        let mut stream = Stream::open(&test.client, "/v1/events").await;
        stream.expect("ready").await;
        let sandbox = test.client.post("/v1/sandboxes", json!({})).await.json();
        let created = stream.expect("sandbox.created").await;
        assert_eq!(created.data["resource"], json!({ "kind": "sandbox", "id": sandbox["id"] }));
        assert_eq!((&created.data["type"], &created.data["team_id"]), (&json!("sandbox.created"), &json!(test.team())));
        assert_eq!((created.data["id"].as_i64(), &created.data["object"]["template"]), (created.id, &json!("base")));
        assert_eq!(stream.expect("sandbox.updated").await.data["object"]["status"], "running");
        test.client.delete(&format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap())).await;
        assert_eq!(stream.expect("sandbox.deleted").await.data["object"]["status"], "stopped");
        let owner = test.first().await;
        let key = owner.post("/v1/api-keys", json!({ "name": "ci" })).await.json();
        let told = stream.expect("api_key.created").await;
        assert_eq!((&told.data["object"]["name"], told.data["object"].get("key")), (&json!("ci"), None));
        owner.delete(&format!("/v1/api-keys/{}", key["id"].as_str().unwrap())).await;
        assert_eq!(stream.expect("api_key.deleted").await.data["object"], Value::Null);
        owner.patch(&format!("/v1/teams/{}", test.team()), json!({ "name": "New" })).await;
        assert_eq!(stream.expect("team.updated").await.data["object"]["name"], "New");
        let member = test.colleague("Nia", Role::Member).await;
        assert_eq!(stream.expect("member.created").await.data["object"]["role"], "member");
        owner.patch(&format!("/v1/teams/{}/members/{}", test.team(), member.id), json!({ "role": "admin" })).await;
        assert_eq!(stream.expect("member.updated").await.data["object"]["role"], "admin");
    }
}

#[tokio::test]
async fn a_stream_goes_on_where_it_was_left_and_says_when_it_can_not() {
    for database in databases().await {
        let test = live(database).await;
        let owner = test.first().await;
        let rename = async |name: &str| {
            owner.patch(&format!("/v1/teams/{}", test.team()), json!({ "name": name })).await;
        };
        let mut stream = Stream::open(&owner, "/v1/events").await;
        stream.expect("ready").await;
        rename("One").await;
        let seen = stream.expect("team.updated").await.id.unwrap();
        drop(stream);
        rename("Two").await;
        rename("Three").await;
        let resumed = owner.with("last-event-id", &seen.to_string());
        let mut stream = Stream::open(&resumed, "/v1/events").await;
        let two = stream.changed().await;
        assert_eq!(two.data["object"]["name"], "Three", "the thing as it is now");
        let last = stream.changed().await.id.unwrap();
        assert!(last > two.id.unwrap() && two.id.unwrap() > seen);
        rename("Four").await;
        assert!(stream.changed().await.id.unwrap() > last);
        for impossible in [last + 1_000_000, -5] {
            let mut lost = Stream::open(&owner.with("last-event-id", &impossible.to_string()), "/v1/events").await;
            lost.expect("reset").await;
            assert!(lost.next().await.is_none(), "it ends");
        }
        let wrong = owner.with("last-event-id", "x").open("/v1/events").await;
        assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
        // Pruned in the meantime.
        super::prune(&test.app.db, crate::db::Millis(i64::MAX)).await.unwrap();
        rename("Five").await;
        Stream::open(&resumed, "/v1/events").await.expect("reset").await;
    }
}

#[tokio::test]
async fn a_stream_shows_its_teams_things_and_the_platforms_only_to_admins() {
    for database in databases().await {
        let test = live(database).await;
        let (admin, stranger) = (test.first().await, test.person("Ola").await);
        assert_eq!(stranger.client.open("/v1/events?scope=platform").await.status(), StatusCode::FORBIDDEN);
        let mut all = Stream::open(&admin, "/v1/events?scope=platform").await;
        let mut own = Stream::open(&stranger.client, "/v1/events").await;
        all.expect("ready").await;
        own.expect("ready").await;
        let host = admin.post("/v1/hosts", json!({ "name": "rack" })).await.json();
        admin.post("/v1/api-keys", json!({ "name": "theirs" })).await;
        stranger.client.post("/v1/api-keys", json!({ "name": "own" })).await;
        let path = format!("/v1/hosts/{}/tags", host["host"]["id"].as_str().unwrap());
        admin.post(&path, json!({ "tags": ["gpu"] })).await.expect(200);
        assert_eq!(all.expect("host.created").await.data["object"]["id"], host["host"]["id"]);
        assert_eq!(all.expect("api_key.created").await.data["object"]["name"], "theirs");
        assert_eq!(all.expect("api_key.created").await.data["object"]["name"], "own");
        assert_eq!(all.expect("host.updated").await.data["object"]["tags"], json!(["gpu"]));
        assert_eq!(own.expect("api_key.created").await.data["object"]["name"], "own");
    }
}

/// Not at the next heartbeat: a stream whose caller has lost the right to it tells nothing that was written later.
#[tokio::test]
async fn a_right_that_is_taken_away_ends_the_stream_before_the_next_event() {
    for database in databases().await {
        let test = live(database).await;
        let owner = test.first().await;
        let member = test.colleague("Nia", Role::Member).await;
        let second = test.colleague("Pia", Role::Admin).await;
        owner.put(&format!("/v1/admin/users/{}/admin", second.id), json!({ "enabled": true })).await;
        let key = owner.post("/v1/api-keys", json!({ "name": "to be deleted" })).await.json();
        let key_client = test.client.with_key(&key["key"].as_str().unwrap().into());
        let mut streams = Vec::new();
        for (client, path) in [
            (&member.client, "/v1/events"),
            (&second.client, "/v1/events?scope=platform"),
            (&key_client, "/v1/events"),
            (&owner, "/v1/events"),
        ] {
            let mut stream = Stream::open(client, path).await;
            stream.expect("ready").await;
            streams.push(stream);
        }
        let mut kept = streams.pop().unwrap();
        owner.delete(&format!("/v1/teams/{}/members/{}", test.team(), member.id)).await;
        owner.put(&format!("/v1/admin/users/{}/admin", second.id), json!({ "enabled": false })).await;
        owner.delete(&format!("/v1/api-keys/{}", key["id"].as_str().unwrap())).await;
        owner.post("/v1/api-keys", json!({ "name": "later" })).await;
        for mut stream in streams {
            while let Some(message) = stream.next().await {
                assert_ne!(message.data["object"]["name"], "later", "{message:?}");
            }
            assert_eq!(stream.beats, 0, "it ended by itself");
        }
        while kept.next().await.expect("it goes on").data["object"]["name"] != "later" {}
    }
}

#[tokio::test]
async fn streams_are_bounded_per_caller_and_closed_ones_make_room() {
    for database in databases().await {
        let test = live(database).await;
        let mut streams = Vec::new();
        // Of each replica: they are asked in turn.
        for _ in 0..16 * test.replicas().count() {
            streams.push(Stream::open(&test.client, "/v1/events").await);
        }
        assert_eq!(test.client.open("/v1/events").await.status(), StatusCode::TOO_MANY_REQUESTS);
        let other = test.person("Pia").await;
        Stream::open(&other.client, "/v1/events").await.expect("ready").await;
        streams.pop();
        while test.client.open("/v1/events").await.status() != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    }
}

/// Transactions that take their ids in one order and end in another: all are told, in order, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_event_is_lost_or_told_twice_however_transactions_interleave() {
    const WRITERS: usize = 8;
    const EACH: usize = 25;
    for database in databases().await {
        let test = live(database).await;
        let mut stream = Stream::open(&test.client, "/v1/events").await;
        stream.expect("ready").await;
        let writers = (0..WRITERS).map(|writer| {
            let (db, team) = (test.app.db.clone(), test.team().clone());
            tokio::spawn(async move {
                for index in 0..EACH {
                    let mut tx = db.begin().await.unwrap();
                    let now = crate::db::Millis(index as i64);
                    // A change of its own first, as every event has one.
                    on!(tx &mut tx, |c| sqlx::query("INSERT INTO settings (name, value, updated_at) VALUES ($1, '', 0)")
                        .bind(format!("{writer}.{index}"))
                        .execute(c)
                        .await
                        .map(|_| ()))
                    .unwrap();
                    let subject = format!("{writer}.{index}");
                    super::publish(&mut tx, now, Some(&team), "test.done", &subject, json!({})).await.unwrap();
                    tokio::time::sleep(Duration::from_micros(rand::random_range(0..3000))).await;
                    // Some are rolled back, and leave a hole.
                    if (writer + index) % 5 != 0 {
                        tx.commit().await.unwrap();
                    }
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        let expected = (0..WRITERS * EACH).filter(|n| !(n / EACH + n % EACH).is_multiple_of(5)).count();
        let mut told = Vec::new();
        let reader = async {
            while told.len() < expected {
                told.push(stream.expect("test.done").await.id.unwrap());
            }
        };
        // Together: a writer that fails writes less than the reader waits for, which has to be seen.
        let writers = futures::future::try_join_all(writers);
        let ((), written) = tokio::join!(reader, async { writers.await.expect("every writer gets its turns") });
        drop(written);
        let rows: Vec<(i64,)> =
            on!(read & test.app.db, |c| sqlx::query_as("SELECT id FROM events WHERE type = 'test.done' ORDER BY id")
                .fetch_all(c)
                .await)
            .unwrap();
        assert_eq!(told, rows.into_iter().map(|row| row.0).collect::<Vec<_>>());
    }
}
