//! Rows and what is written with them: compare-and-set, events, the audit trail, the sums of the scheduler.

use super::*;

#[tokio::test]
async fn of_many_that_change_one_row_at_once_exactly_one_wins() {
    for database in databases().await {
        let (test, record) = running(database).await;
        let changes = (0..16).map(|n| {
            let (db, record) = (test.app.db.clone(), record.clone());
            tokio::spawn(async move {
                let to = if n % 2 == 0 { SandboxStatus::Pausing } else { SandboxStatus::Stopped };
                store::change(&db, &change(&record, to, true)).await.unwrap()
            })
        });
        let won: Vec<_> = futures::future::join_all(changes).await.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(won.len(), 1);
        assert_eq!(won[0].generation, record.generation + 1);
        assert_eq!(read(&test, &record.id).await.status(), won[0].status());
    }
}

#[tokio::test]
async fn a_late_answer_never_overwrites_a_newer_truth_and_no_illegal_change_is_made() {
    for database in databases().await {
        let (test, record) = running(database).await;
        let db = &test.app.db;
        let newer = store::change(db, &change(&record, SandboxStatus::Pausing, true)).await.unwrap().unwrap();
        let late = change(&record, SandboxStatus::Stopped, false);
        assert!(store::change(db, &late).await.unwrap().is_none());
        assert_eq!(read(&test, &record.id).await.status(), SandboxStatus::Pausing);
        let illegal = change(&newer, SandboxStatus::Starting, true);
        assert!(store::change(db, &illegal).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn every_change_of_status_is_an_event_and_in_the_outbox() {
    for database in databases().await {
        let (test, record) = running(database).await;
        let service = &test.app.sandboxes;
        service.pause(&owner(&test), &record.id).await.unwrap();
        service.resume(&owner(&test), &record.id).await.unwrap();
        service.destroy(&owner(&test), &record.id).await.unwrap();
        use SandboxStatus::{Paused, Pausing, Resuming, Running, Starting, Stopped};
        let expected = [Starting, Running, Pausing, Paused, Resuming, Running, Stopped];
        assert_eq!(life(&test, &record.id).await, expected);
        let outbox: Vec<(String,)> =
            on!(read & test.app.db, |c| sqlx::query_as("SELECT type FROM events WHERE subject_id = $1 ORDER BY id")
                .bind(record.id.as_str())
                .fetch_all(c)
                .await)
            .unwrap();
        let outbox: Vec<_> = outbox.iter().map(|row| row.0.as_str()).collect();
        let updated = [&["sandbox.updated"; 5][..], &["sandbox.deleted"]].concat();
        assert_eq!(outbox, [&["sandbox.created"][..], &updated].concat());
    }
}

#[tokio::test]
async fn creating_and_deleting_is_in_the_audit_trail() {
    for database in databases().await {
        let (test, record) = running(database).await;
        test.app.sandboxes.destroy(&owner(&test), &record.id).await.unwrap();
        let trail: Vec<(String, String)> = on!(read & test.app.db, |c| sqlx::query_as(
            "SELECT action, actor_kind FROM audit_logs WHERE target_id = $1 ORDER BY action"
        )
        .bind(record.id.as_str())
        .fetch_all(c)
        .await)
        .unwrap();
        let by_system = |action: &str| (action.to_owned(), "system".to_owned());
        assert_eq!(trail, [by_system("sandbox.create"), by_system("sandbox.delete")]);
    }
}

#[tokio::test]
async fn the_scheduler_counts_what_lives_and_forgets_what_was_destroyed_at_once() {
    for database in databases().await {
        let test = app(database).await;
        let (host, _) = test.fleet.add_host();
        let (service, candidates) = (&test.app.sandboxes, test.app.hosts.candidates());
        on!(write & test.app.db, |c| sqlx::query(
            "INSERT INTO hosts (id, name, type, status, status_changed_at, draining, drivers, capacity_cpu_millis,
                 capacity_memory_mb, capacity_disk_mb, used_cpu_millis, used_memory_mb, used_disk_mb,
                 sandboxes_running, sandboxes_paused, sandboxes_other, inventory_complete, ready, cached_images,
                 created_at, updated_at)
             VALUES ($1, 'h', 'regular', 'online', 0, FALSE, '[]', 1, 1, 1, 9, 9, 9, 0, 0, 0, TRUE, TRUE, '[]', 0, 0)"
        )
        .bind(host.as_str())
        .execute(c)
        .await
        .map(|_| ()))
        .unwrap();
        let promised = async || {
            let committed = crate::fleet::CandidateSource::candidates(&candidates).await.unwrap().remove(0).committed;
            (committed.cpu_millis, committed.memory_mb, committed.disk_mb)
        };
        assert_eq!(promised().await, (0, 0, 0));
        let first = service.create(&owner(&test), new()).await.unwrap();
        let second = service.create(&owner(&test), NewSandbox { vcpus: Some(3), ..new() }).await.unwrap();
        service.pause(&owner(&test), &second.id).await.unwrap();
        assert_eq!(promised().await, (4000, 1024, 10_240));
        service.destroy(&owner(&test), &first.id).await.unwrap();
        assert_eq!(promised().await, (3000, 512, 5120));
    }
}
