//! What counts towards the end of a sandbox: its idle timeout and its lifetime, paused, changed and unlimited.

use serde_json::json;

use super::*;

#[tokio::test]
async fn the_time_that_a_sandbox_is_paused_counts_neither_as_idle_nor_as_life() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        let service = &test.app.sandboxes;
        let with =
            |timeout_sec, lifetime_sec| NewSandbox { timeout_sec, lifetime_sec, on_timeout: OnTimeout::Kill, ..new() };
        let idle = service.create(&owner(&test), with(100, None)).await.unwrap();
        let lives = service.create(&owner(&test), with(0, Some(100))).await.unwrap();
        let mut reaper = Reaper::new(service, "test".to_owned());
        // After so many seconds both are in this status.
        let mut after = async |seconds, status| {
            test.clock.advance(Duration::from_secs(seconds));
            reaper.round().await.unwrap();
            reaper.settle().await;
            for record in [&idle, &lives] {
                assert_eq!(read(&test, &record.id).await.status(), status, "{:?}", record.id);
            }
        };
        after(60, SandboxStatus::Running).await;
        for record in [&idle, &lives] {
            service.pause(&owner(&test), &record.id).await.unwrap();
        }
        after(86_400, SandboxStatus::Paused).await;
        for record in [&idle, &lives] {
            service.resume(&owner(&test), &record.id).await.unwrap();
        }
        // As long as was promised, from here.
        after(99, SandboxStatus::Running).await;
        after(2, SandboxStatus::Stopped).await;
    }
}

#[tokio::test]
async fn a_timeout_is_changed_while_a_sandbox_runs_and_without_one_it_lives_for_ever() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        let service = &test.app.sandboxes;
        let idle = NewSandbox { timeout_sec: 10, on_timeout: OnTimeout::Kill, ..new() };
        let id = service.create(&owner(&test), idle).await.unwrap().id.0;
        let mut reaper = Reaper::new(service, "test".to_owned());
        let mut after = async |seconds, status| {
            test.clock.advance(Duration::from_secs(seconds));
            reaper.round().await.unwrap();
            reaper.settle().await;
            assert_eq!(read(&test, &id).await.status(), status);
        };
        let change = async |body: serde_json::Value| {
            let changed =
                test.client.post(&format!("/v1/sandboxes/{id}/timeout"), body.clone()).await.expect(200).json();
            assert_eq!(changed["timeout_sec"], body["timeout_sec"]);
        };
        change(json!({ "timeout_sec": 1000 })).await;
        after(990, SandboxStatus::Running).await;
        // Shorter, and to another end.
        change(json!({ "timeout_sec": 5, "on_timeout": "pause" })).await;
        after(6, SandboxStatus::Paused).await;
        service.resume(&owner(&test), &id).await.unwrap();
        change(json!({ "timeout_sec": 0 })).await;
        after(10 * 365 * 86_400, SandboxStatus::Running).await;
        change(json!({ "timeout_sec": 5, "on_timeout": "kill" })).await;
        after(6, SandboxStatus::Stopped).await;
    }
}
