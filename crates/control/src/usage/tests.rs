//! What usage promises, on both databases.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::db::on;
use crate::db::testing::databases;
use crate::testing::{START, TestApp, app};

const HOUR: Duration = Duration::from_secs(3600);

async fn days(test: &TestApp, query: &str) -> Vec<Value> {
    let answer = test.first().await.get(&format!("/v1/usage{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.json()["days"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_sandboxs_life_is_counted_by_day_and_the_same_before_and_after_it_is_kept() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        // 08:00. Runs for 10 hours, is paused for 10 (over midnight), runs for 2, ends.
        let made = test.client.post("/v1/sandboxes", json!({ "vcpus": 2, "memory_mb": 1000, "disk_mb": 50 })).await;
        let path = format!("/v1/sandboxes/{}", made.json()["id"].as_str().unwrap());
        test.clock.advance(10 * HOUR);
        test.client.post(&format!("{path}/pause"), json!({})).await;
        test.clock.advance(10 * HOUR);
        test.client.post(&format!("{path}/resume"), json!({})).await;
        test.clock.advance(2 * HOUR);
        test.client.delete(&path).await;
        let (first, second) = (date_of(day_of(START)).to_string(), date_of(day_of(START) + 1).to_string());
        let range = format!("?from={first}&to={second}");
        let expected = [
            json!({ "date": first, "sandboxes": 1, "sandbox_seconds": 36_000.0, "vcpu_seconds": 72_000.0,
                "memory_mb_seconds": 57_600_000.0, "disk_mb_seconds": 2_880_000.0 }),
            json!({ "date": second, "sandboxes": 1, "sandbox_seconds": 7200.0, "vcpu_seconds": 14_400.0,
                "memory_mb_seconds": 21_600_000.0, "disk_mb_seconds": 1_080_000.0 }),
        ];
        assert_eq!(days(&test, &range).await, expected);
        test.clock.advance(48 * HOUR);
        for _ in 0..2 {
            roll(&test.app.db, test.clock.now()).await.unwrap();
            assert_eq!(days(&test, &range).await, expected, "kept");
        }
        let month = days(&test, "").await;
        assert_eq!(month.len(), 30);
        assert_eq!(month.iter().filter(|day| day["sandboxes"] == 1).count(), 2);
    }
}

#[tokio::test]
async fn what_ran_at_once_is_told_over_time_and_a_missing_sandbox_that_is_back_has_not_started_anew() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        let made = test.client.post("/v1/sandboxes", json!({})).await.expect(201).json();
        let id = made["id"].as_str().unwrap();
        for status in ["missing", "running"] {
            test.clock.advance(HOUR);
            let statement = sqlx::AssertSqlSafe(format!(
                "UPDATE sandboxes SET status = '{status}', status_changed_at = {} WHERE id = '{id}'",
                test.clock.now().0
            ));
            on!(write & test.app.db, |c| sqlx::query(statement).execute(c).await.map(|_| ())).unwrap();
        }
        test.clock.advance(HOUR);
        let seen = test.first().await.get("/v1/usage/activity?range=4h").await.expect(200).json();
        assert_eq!(seen["step_sec"], 60);
        let points = seen["points"].as_array().unwrap();
        let sum = |what: &str| points.iter().map(|point| point[what].as_u64().unwrap()).sum::<u64>();
        assert_eq!((points.len(), sum("concurrent"), sum("starts")), (240, 120, 1), "two hours of four");
        let day = test.first().await.get("/v1/usage/activity").await.expect(200).json();
        assert_eq!(day["step_sec"], 300);
        assert_eq!(test.first().await.get("/v1/usage/activity?range=1y").await.field(), "range");
    }
}

#[tokio::test]
async fn a_sandbox_that_still_runs_counts_until_now() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        test.client.post("/v1/sandboxes", json!({})).await;
        test.clock.advance(HOUR);
        let today = days(&test, "").await.pop().unwrap();
        assert_eq!((&today["sandbox_seconds"], &today["sandboxes"]), (&json!(3600.0), &json!(1)));
        let wrong = test.first().await;
        for (query, field) in [("from=2020-01-01&to=2019-01-01", "to"), ("from=1999-01-01", "from"), ("from=x", "from")]
        {
            assert_eq!(wrong.get(&format!("/v1/usage?{query}")).await.field(), field);
        }
    }
}
