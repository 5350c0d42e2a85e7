//! What quotas promise.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::db::testing::databases;
use crate::testing::{Client, TestApp, app, app_with};

async fn limit(test: &TestApp, quotas: Value) -> Client {
    // Each change has a time of its own.
    test.clock.advance(std::time::Duration::from_millis(1));
    let admin = test.first().await;
    let path = format!("/v1/admin/teams/{}/quotas", test.team());
    let set = admin.put(&path, quotas).await;
    assert_eq!(set.status, StatusCode::OK, "{}", set.json());
    admin
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_creates_at_once_with_a_quota_of_ten_exactly_ten_get_through() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        limit(&test, json!({ "sandboxes": 10 })).await;
        let creates = (0..50).map(|_| {
            let client = test.client.clone();
            tokio::spawn(async move { client.post("/v1/sandboxes", json!({})).await })
        });
        let answers = futures::future::join_all(creates.collect::<Vec<_>>()).await;
        let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        let made = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
        let refused: Vec<_> = answers.iter().filter(|answer| answer.status != StatusCode::CREATED).collect();
        assert_eq!((made, refused.len()), (10, 40));
        for answer in refused {
            let error = &answer.json()["error"];
            assert_eq!((answer.status.as_u16(), &error["code"]), (429, &json!("quota_exceeded")));
            assert_eq!(
                (&error["quota"], &error["used"], &error["limit"]),
                (&json!("sandboxes"), &json!(10), &json!(10))
            );
            assert!(answer.headers.contains_key("retry-after"));
        }
        let owner = test.first().await;
        let usage = owner.get("/v1/usage").await.json();
        assert_eq!(usage["quotas"]["sandboxes"], json!({ "used": 10, "limit": 10, "own": 10 }));
    }
}

#[tokio::test]
async fn each_quota_is_told_by_name_and_what_is_deleted_makes_room() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        for (quotas, name, used) in [
            (json!({ "vcpus": 3 }), "vcpus", 2),
            (json!({ "memory_mb": 1500 }), "memory_mb", 1024),
            (json!({ "disk_mb": 3000 }), "disk_mb", 2000),
        ] {
            limit(&test, quotas).await;
            let size = json!({ "vcpus": 2, "memory_mb": 1024, "disk_mb": 2000 });
            let first = test.client.post("/v1/sandboxes", size.clone()).await;
            assert_eq!(first.status, StatusCode::CREATED, "{}", first.json());
            let second = test.client.post("/v1/sandboxes", size.clone()).await;
            let error = &second.json()["error"];
            assert_eq!((&error["code"], &error["quota"]), (&json!("quota_exceeded"), &json!(name)));
            assert_eq!((&error["used"], &error["asked"]), (&json!(used), &json!(used)));
            test.client.delete(&format!("/v1/sandboxes/{}", first.json()["id"].as_str().unwrap())).await;
            let again = test.client.post("/v1/sandboxes", size).await.json();
            test.client.delete(&format!("/v1/sandboxes/{}", again["id"].as_str().unwrap())).await;
        }
    }
}

#[tokio::test]
async fn a_teams_own_limit_goes_before_the_installations_and_both_are_shown() {
    for database in databases().await {
        let test = app_with(database, |config| config.quotas.sandboxes = Some(1)).await;
        test.fleet.add_host();
        assert_eq!(test.client.post("/v1/sandboxes", json!({})).await.status, StatusCode::CREATED);
        assert_eq!(test.client.post("/v1/sandboxes", json!({})).await.code(), "quota_exceeded");
        let admin = limit(&test, json!({ "sandboxes": 2 })).await;
        assert_eq!(test.client.post("/v1/sandboxes", json!({})).await.status, StatusCode::CREATED);
        assert_eq!(test.client.post("/v1/sandboxes", json!({})).await.code(), "quota_exceeded");
        let path = format!("/v1/admin/teams/{}/quotas", test.team());
        assert_eq!(admin.get(&path).await.json()["sandboxes"], json!({ "used": 2, "limit": 2, "own": 2 }));
        limit(&test, json!({})).await;
        let default_again = json!({ "used": 2, "limit": 1, "own": null });
        assert_eq!(admin.get(&path).await.json()["sandboxes"], default_again);
        let trail = admin.get("/v1/audit-logs?action=team.quotas").await.json();
        assert_eq!(trail["items"][0]["before"]["sandboxes"], 2);
        let nobody = "/v1/admin/teams/team-aaaaaaaaaaaaaaaaaaaa/quotas";
        assert_eq!(admin.put(nobody, json!({})).await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn of_many_forks_those_that_the_quota_has_room_for_are_made() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        limit(&test, json!({ "sandboxes": 4 })).await;
        let parent = test.client.post("/v1/sandboxes", json!({})).await.json()["id"].as_str().unwrap().to_owned();
        let path = format!("/v1/sandboxes/{parent}/fork");
        let answer = test.client.post(&path, json!({ "count": 5 })).await.json();
        let made =
            |answer: &Value| answer["items"].as_array().unwrap().iter().filter(|it| it["sandbox"].is_object()).count();
        let codes = |answer: &Value| {
            let items = answer["items"].as_array().unwrap().iter();
            items.filter_map(|it| it["error"]["code"].as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        assert_eq!((made(&answer), codes(&answer)), (3, vec!["quota_exceeded".to_owned(); 2]), "{answer}");
        let answer = test.client.post(&path, json!({ "count": 1 })).await.json();
        assert_eq!((made(&answer), codes(&answer)), (0, vec!["quota_exceeded".to_owned()]), "{answer}");
        let first = test.first().await;
        assert_eq!(first.get("/v1/usage").await.json()["quotas"]["sandboxes"]["used"], 4);
        let trail = first.get("/v1/audit-logs?action=sandbox.fork").await.json();
        let mut told: Vec<_> = trail["items"].as_array().unwrap().iter().collect();
        told.sort_by_key(|entry| entry["result"].to_string());
        assert_eq!((&told[0]["result"], &told[0]["details"]["refused"]), (&json!("ok"), &json!(2)), "{trail}");
        assert_eq!((&told[1]["result"], &told[1]["details"]["refused"]), (&json!("quota_exceeded"), &json!(1)));
    }
}
