//! What the life of a sandbox promises, over both databases and hosts that fail when they are told to.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_model::sandbox::OnReboot;
use atoll_model::{HostId, OnTimeout, SandboxId, SandboxStatus};
use atoll_rpc::atoll::host::v1::SandboxState;

use super::reaper::Reaper;
use super::store::{self, Change, Due};
use super::{Filling, Fork, Keep, Network, NewSandbox, Owner, SandboxError, SandboxRecord};
use crate::audit::{Actor, Origin};
use crate::db::testing::{TestDb, databases, sqlite};
use crate::db::{Millis, on};
use crate::hosts::HostError;
use crate::reconcile::Requester;
use crate::testing::{TestApp, app, app_with, insert_online_host};

pub(super) fn owner(test: &TestApp) -> Owner {
    Owner {
        team: test.team().clone(),
        team_is_byoc: false,
        team_network: None,
        actor: Actor::System,
        origin: Origin::default(),
    }
}

pub(super) fn new() -> NewSandbox {
    NewSandbox {
        lifetime_sec: None,
        template: "base".to_owned(),
        vcpus: None,
        memory_mb: None,
        disk_mb: None,
        timeout_sec: 0,
        on_timeout: OnTimeout::Pause,
        auto_resume: false,
        on_reboot: OnReboot::Restart,
        driver: None,
        start_from: None,
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        volumes: Vec::new(),
        metadata: BTreeMap::new(),
        network: Network::default(),
        purpose: String::new(),
        keep_if_abandoned: false,
        times: Default::default(),
    }
}

async fn read(test: &TestApp, id: &SandboxId) -> SandboxRecord {
    store::get_any(&test.app.db, id).await.unwrap().expect("the row stays")
}

async fn life(test: &TestApp, id: &SandboxId) -> Vec<SandboxStatus> {
    store::events(&test.app.db, id, 0, 100).await.unwrap().into_iter().map(|event| event.status.0).collect()
}

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..1000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

fn change<'a>(record: &'a SandboxRecord, to: SandboxStatus, decided: bool) -> Change<'a> {
    Change {
        id: &record.id,
        from: record.status(),
        generation: record.generation,
        to,
        reason: None,
        decided,
        host: None,
        at: Millis(1),
    }
}

async fn running(test: TestDb) -> (TestApp, SandboxRecord) {
    let test = app(test).await;
    test.fleet.add_host();
    let record = test.app.sandboxes.create(&owner(&test), new()).await.unwrap();
    (test, record)
}

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
async fn a_create_that_fails_on_one_host_is_made_on_the_next_and_leaves_nothing_on_the_first() {
    for database in databases().await {
        let test = app(database).await;
        let ((first, bad), (second, good)) = (test.fleet.add_host(), test.fleet.add_host());
        bad.fail_creates(1);
        let record = test.app.sandboxes.create(&owner(&test), new()).await.unwrap();
        assert_eq!((record.status(), record.host()), (SandboxStatus::Running, Some(&second)));
        assert_eq!(bad.calls(), ["create", "destroy"]);
        assert_eq!((bad.count(), good.state_of(&record.id)), (0, Some(SandboxState::SANDBOX_STATE_RUNNING)));
        assert_eq!(test.fleet.failed_hosts(), [first]);
    }
}

#[tokio::test]
async fn a_host_that_drains_or_is_being_deleted_gets_nothing_new_though_it_was_chosen() {
    for database in databases().await {
        let test = app(database).await;
        let hosts: Vec<_> = (0..4).map(|_| test.fleet.add_host()).collect();
        let [(draining, first), (going, second), (bad, third), (good, _)] = &hosts[..] else { panic!() };
        for (host, _) in &hosts {
            insert_online_host(&test, host).await;
        }
        let set = async |what: &str, host: &HostId| {
            let sql = format!("UPDATE hosts SET {what} WHERE id = '{host}'");
            on!(write & test.app.db, |c| sqlx::query(sqlx::AssertSqlSafe(sql)).execute(c).await.map(|_| ())).unwrap();
        };
        set("draining = TRUE", draining).await;
        set("deletion_id = 'd'", going).await;
        let record = test.app.sandboxes.create(&owner(&test), new()).await.unwrap();
        assert_eq!(record.host(), Some(bad));
        assert_eq!((first.calls(), second.calls()), (Vec::new(), Vec::new()), "they were not even asked");

        // The same where a create is tried again, and for one that is gone.
        let (order, refuses) = (test.fleet.failed_hosts(), third);
        assert_eq!(order, [draining.clone(), going.clone()]);
        refuses.fail_creates(1);
        set("draining = TRUE", good).await;
        let failed = test.app.sandboxes.create(&owner(&test), new()).await;
        assert!(matches!(failed, Err(SandboxError::Host(_))), "{failed:?}");
        set("draining = FALSE", good).await;
        refuses.fail_creates(1);
        let record = test.app.sandboxes.create(&owner(&test), new()).await.unwrap();
        assert_eq!(record.host(), Some(good));

        // Children go where their parent is, or nowhere.
        let fork = Fork { count: 2, timeout_sec: None, lifetime_sec: None, metadata: None };
        set("draining = TRUE", good).await;
        let forked = test.app.sandboxes.fork(&owner(&test), &record.id, fork).await;
        assert!(matches!(forked, Err(SandboxError::NoHost(_))), "{:?}", forked.as_ref().err());

        set("draining = TRUE", bad).await;
        let nobody = test.app.sandboxes.create(&owner(&test), new()).await;
        assert!(matches!(nobody, Err(SandboxError::NoHost(_))), "{nobody:?}");
        let alive = store::list(&test.app.db, test.team(), &store::Filter::default(), None, 10).await.unwrap();
        assert_eq!(alive.len(), 2, "and nothing is left of what was refused");
    }
}

#[tokio::test]
async fn creates_that_race_with_the_deletion_of_an_empty_host_keep_it_or_go_elsewhere() {
    for database in databases().await {
        let test = app(database).await;
        let service = &test.app.sandboxes;
        let by = owner(&test);
        let requester = Requester { actor: Actor::System, origin: Origin::default() };
        for round in 0..12_u64 {
            let ((doomed, _), (spare, _)) = (test.fleet.add_host(), test.fleet.add_host());
            for host in [&doomed, &spare] {
                insert_online_host(&test, host).await;
            }
            let creates = futures::future::join_all((0..4).map(|_| service.create(&by, new())));
            let deletion = async {
                tokio::time::sleep(Duration::from_micros(500 * round)).await;
                test.app.reconcile.deletion.graceful(&doomed, &requester).await
            };
            let (created, deleted) = tokio::join!(creates, deletion);
            let mut on_doomed = 0;
            for record in created {
                let record = record.unwrap();
                assert_eq!(read(&test, &record.id).await.status(), SandboxStatus::Running);
                on_doomed += usize::from(record.host() == Some(&doomed));
            }
            match deleted {
                Ok(()) => assert_eq!(on_doomed, 0, "it was deleted with sandboxes on it"),
                Err(HostError::HasSandboxes(_)) => {}
                Err(error) => panic!("{error}"),
            }
            for host in [&doomed, &spare] {
                test.fleet.remove_host(host);
            }
        }
    }
}

#[tokio::test]
async fn a_create_that_fails_everywhere_answers_the_error_and_leaves_a_stopped_row() {
    for database in databases().await {
        let test = app(database).await;
        let agents: Vec<_> = (0..3).map(|_| test.fleet.add_host().1).collect();
        agents.iter().for_each(|agent| agent.fail_creates(1));
        let failed = test.app.sandboxes.create(&owner(&test), new()).await;
        assert!(matches!(failed, Err(SandboxError::Host(_))), "{failed:?}");
        let stopped = store::Filter { statuses: vec![SandboxStatus::Stopped], ..Default::default() };
        let rows = store::list(&test.app.db, test.team(), &stopped, None, 10).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.reason.as_deref()).collect::<Vec<_>>(), [Some("create_failed")]);
        assert_eq!(agents.iter().map(|agent| agent.count()).sum::<usize>(), 0);
        assert_eq!(agents[2].calls(), Vec::<String>::new(), "tried on one other host, not on all");
    }
}

#[tokio::test]
async fn a_sandbox_that_is_deleted_while_it_is_made_is_gone_everywhere() {
    let test = app(sqlite().await).await;
    let (_, agent) = test.fleet.add_host();
    agent.take_for_creates(Duration::from_millis(300));
    let (service, by) = (test.app.sandboxes.clone(), owner(&test));
    let creating = tokio::spawn(async move { service.create(&by, new()).await });
    until("the host is asked", async || agent.calls() == ["create"]).await;
    let page = store::list(&test.app.db, test.team(), &store::Filter::default(), None, 1).await.unwrap();
    test.app.sandboxes.destroy(&owner(&test), &page[0].id).await.unwrap();
    assert!(matches!(creating.await.unwrap(), Err(SandboxError::Changed { .. })));
    assert_eq!((agent.count(), read(&test, &page[0].id).await.status()), (0, SandboxStatus::Stopped));
}

#[tokio::test]
async fn a_new_sandbox_whose_client_has_gone_is_destroyed_and_one_with_an_idempotency_key_is_kept() {
    let test = app(sqlite().await).await;
    let (_, agent) = test.fleet.add_host();
    agent.take_for_creates(Duration::from_millis(100));
    for keep in [false, true] {
        let (service, by) = (test.app.sandboxes.clone(), owner(&test));
        let asked = agent.calls().len();
        let new = NewSandbox { keep_if_abandoned: keep, ..new() };
        let creating = tokio::spawn(async move { service.create(&by, new).await });
        until("the host is asked", async || agent.calls().len() > asked).await;
        creating.abort();
        if keep {
            until("it runs", async || agent.count() == 1).await;
            test.app.tasks.close();
            test.app.tasks.wait().await;
            assert_eq!(agent.count(), 1);
        } else {
            until("it is destroyed", async || agent.calls().last().is_some_and(|call| call == "destroy")).await;
            assert_eq!(agent.count(), 0);
        }
    }
}

#[tokio::test]
async fn a_sandbox_on_a_host_that_cannot_be_reached_is_deleted_all_the_same() {
    let test = app(sqlite().await).await;
    let (_, agent) = test.fleet.add_host();
    agent.set_unreachable(true);
    let failed = test.app.sandboxes.create(&owner(&test), new()).await;
    assert!(matches!(failed, Err(SandboxError::Host(_))), "{failed:?}");
    agent.set_unreachable(false);
    let record = test.app.sandboxes.create(&owner(&test), new()).await.unwrap();
    test.app.sandboxes.fleet().evict(record.host().unwrap());
    agent.set_unreachable(true);
    test.app.sandboxes.destroy(&owner(&test), &record.id).await.unwrap();
    assert_eq!(read(&test, &record.id).await.status(), SandboxStatus::Stopped);
}

#[tokio::test]
async fn a_pause_that_the_host_refuses_leaves_it_running_and_a_second_pause_is_told_why() {
    for database in databases().await {
        let test = app(database).await;
        let (_, agent) = test.fleet.add_host();
        let service = &test.app.sandboxes;
        let record = service.create(&owner(&test), new()).await.unwrap();
        agent.fail_pauses(1);
        assert!(matches!(service.pause(&owner(&test), &record.id).await, Err(SandboxError::Host(_))));
        assert_eq!(read(&test, &record.id).await.status(), SandboxStatus::Running);
        let super::Paused { record: paused, kept, .. } = service.pause(&owner(&test), &record.id).await.unwrap();
        assert_eq!(
            (paused.status(), paused.reason.as_deref(), kept.as_str()),
            (SandboxStatus::Paused, Some("user"), "memory")
        );
        let again = service.pause(&owner(&test), &record.id).await;
        assert!(matches!(again, Err(SandboxError::InvalidState { status: SandboxStatus::Paused, .. })), "{again:?}");
    }
}

#[tokio::test]
async fn many_requests_to_a_sleeping_sandbox_wake_it_once_and_all_get_in() {
    let test = app(sqlite().await).await;
    let (_, agent) = test.fleet.add_host();
    let service = &test.app.sandboxes;
    let asleep = service.create(&owner(&test), NewSandbox { auto_resume: true, ..new() }).await.unwrap();
    let stays = service.create(&owner(&test), new()).await.unwrap();
    for record in [&asleep, &stays] {
        service.pause(&owner(&test), &record.id).await.unwrap();
    }
    let requests = (0..20).map(|_| service.usable(test.team(), &asleep.id, "use"));
    let usable = futures::future::join_all(requests).await;
    assert!(usable.iter().all(|usable| usable.as_ref().is_ok_and(|record| record.status() == SandboxStatus::Running)));
    assert_eq!(agent.calls().iter().filter(|call| *call == "resume").count(), 1);
    let refused = service.usable(test.team(), &stays.id, "use").await;
    assert!(matches!(refused, Err(SandboxError::InvalidState { status: SandboxStatus::Paused, .. })));
}

#[tokio::test]
async fn an_idle_sandbox_is_paused_or_killed_as_it_wishes_and_one_in_use_is_left_alone() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        let service = &test.app.sandboxes;
        let with = |seconds, on_timeout| NewSandbox { timeout_sec: seconds, on_timeout, ..new() };
        let paused = service.create(&owner(&test), with(10, OnTimeout::Pause)).await.unwrap();
        let killed = service.create(&owner(&test), with(10, OnTimeout::Kill)).await.unwrap();
        let in_use = service.create(&owner(&test), with(10, OnTimeout::Kill)).await.unwrap();
        let patient = service.create(&owner(&test), with(1000, OnTimeout::Kill)).await.unwrap();
        let forever = service.create(&owner(&test), new()).await.unwrap();
        let _open = service.activity().open(&in_use.id);
        test.clock.advance(Duration::from_secs(9));
        let mut reaper = Reaper::new(service, "test".to_owned());
        let reap = async |reaper: &mut Reaper| {
            reaper.round().await.unwrap();
            reaper.settle().await;
        };
        reap(&mut reaper).await;
        assert_eq!(read(&test, &paused.id).await.status(), SandboxStatus::Running, "not yet");
        test.clock.advance(Duration::from_secs(2));
        reap(&mut reaper).await;
        let status = async |record: &SandboxRecord| read(&test, &record.id).await.status();
        assert_eq!(status(&paused).await, SandboxStatus::Paused);
        assert_eq!(read(&test, &paused.id).await.reason.as_deref(), Some("timeout"));
        assert_eq!(status(&killed).await, SandboxStatus::Stopped);
        for left in [&in_use, &patient, &forever] {
            assert_eq!(status(left).await, SandboxStatus::Running);
        }
        Reaper::new(service, "another replica".to_owned()).round().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_used_or_given_more_time_between_the_look_and_the_act_is_left_alone() {
    for database in databases().await {
        let test = app(database).await;
        test.fleet.add_host();
        let (service, db) = (&test.app.sandboxes, &test.app.db);
        let with = |on_timeout, lifetime_sec| NewSandbox { timeout_sec: 10, on_timeout, lifetime_sec, ..new() };
        let mut made = Vec::new();
        for on_timeout in [OnTimeout::Pause, OnTimeout::Kill] {
            for _ in 0..2 {
                made.push(service.create(&owner(&test), with(on_timeout, None)).await.unwrap().id.0);
            }
        }
        test.clock.advance(Duration::from_secs(11));
        let seen = store::idle(db, test.clock.now(), 10).await.unwrap();
        assert_eq!(seen.len(), 4);
        for pair in made.chunks(2) {
            // Through another replica, which this one's memory knows nothing of.
            store::touch(db, &[(pair[0].clone(), test.clock.now())]).await.unwrap();
            service.set_timeout(&owner(&test), &pair[1], 1000, None).await.unwrap();
        }
        for record in seen {
            service.act(record, Due::Idle, Keep::Memory).await;
        }
        for id in &made {
            assert_eq!(read(&test, id).await.status(), SandboxStatus::Running);
        }
        test.clock.advance(Duration::from_secs(1001));
        for record in store::idle(db, test.clock.now(), 10).await.unwrap() {
            service.act(record, Due::Idle, Keep::Memory).await;
        }
        use SandboxStatus::{Paused, Stopped};
        for (id, status) in made.iter().zip([Paused, Paused, Stopped, Stopped]) {
            assert_eq!(read(&test, id).await.status(), status);
        }

        // The same for a lifetime that was made longer.
        let lives = service.create(&owner(&test), with(OnTimeout::Kill, Some(20))).await.unwrap();
        test.clock.advance(Duration::from_secs(21));
        let seen = read(&test, &lives.id).await;
        service.set_lifetime(&owner(&test), &lives.id, 60, false).await.unwrap();
        service.act(seen.clone(), Due::End, Keep::Memory).await;
        assert_eq!(read(&test, &lives.id).await.status(), SandboxStatus::Running);
        test.clock.advance(Duration::from_secs(61));
        service.act(seen, Due::End, Keep::Memory).await;
        assert_eq!(read(&test, &lives.id).await.status(), Stopped);
    }
}

#[tokio::test]
async fn a_host_that_hangs_holds_up_neither_the_idle_clock_nor_the_end_of_others() {
    let test = app(sqlite().await).await;
    let (_, agent) = test.fleet.add_host();
    let service = &test.app.sandboxes;
    let idle = NewSandbox { timeout_sec: 10, ..new() };
    let hangs = service.create(&owner(&test), idle.clone()).await.unwrap();
    agent.hang_pauses_of(&hangs.id);
    test.clock.advance(Duration::from_secs(11));
    let mut reaper = Reaper::new(service, "test".to_owned());
    reaper.round().await.unwrap();
    until("the host is asked", async || agent.calls().contains(&"pause".to_owned())).await;
    let other = service.create(&owner(&test), idle).await.unwrap();
    test.clock.advance(Duration::from_secs(11));
    reaper.round().await.unwrap();
    until("the other is paused", async || read(&test, &other.id).await.status() == SandboxStatus::Paused).await;
    assert_eq!(read(&test, &hangs.id).await.status(), SandboxStatus::Pausing);

    let used = service.create(&owner(&test), new()).await.unwrap();
    test.clock.advance(Duration::from_secs(5));
    service.activity().touch(&used.id);
    let stop = test.app.shutdown.clone();
    let running = tokio::spawn(service.clone().run_reaper("test".to_owned(), Duration::from_millis(5), stop.clone()));
    let now = test.clock.now();
    until("the clock is written", async || read(&test, &used.id).await.last_active_at == now).await;
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_ready_command_that_never_succeeds_holds_nobody_elses_create_up() {
    for database in databases().await {
        let test = app_with(database, |config| config.http.max_creates = 1).await;
        let (_, agent) = test.fleet.add_host();
        agent.end_programs_with(1);
        let ready = async |command: Option<&str>| {
            on!(write & test.app.db, |c| sqlx::query("UPDATE templates SET ready_cmd = $1 WHERE name = 'base'")
                .bind(command)
                .execute(c)
                .await
                .map(|_| ()))
            .unwrap();
        };
        ready(Some("false")).await;
        let (service, by) = (test.app.sandboxes.clone(), owner(&test));
        let waits = tokio::spawn(async move { service.create(&by, new()).await });
        until("it is asked whether it is ready", async || agent.calls().contains(&"exec".to_owned())).await;
        ready(None).await;
        let other = test.app.sandboxes.create(&owner(&test), new()).await.unwrap();
        assert_eq!(other.status(), SandboxStatus::Running);
        assert!(!waits.is_finished(), "its own create waits on");
        agent.end_programs_with(0);
        assert!(waits.await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn more_creates_than_are_let_through_wait_and_are_then_told_to_come_back() {
    let test = app_with(sqlite().await, |config| {
        config.http.max_creates = 1;
        config.http.queue_timeout = Duration::from_millis(50);
    })
    .await;
    let (_, agent) = test.fleet.add_host();
    agent.take_for_creates(Duration::from_millis(500));
    let (service, by) = (test.app.sandboxes.clone(), owner(&test));
    let first = tokio::spawn(async move { service.create(&by, new()).await });
    until("the host is asked", async || agent.calls() == ["create"]).await;
    let second = test.app.sandboxes.create(&owner(&test), new()).await;
    assert!(matches!(second, Err(SandboxError::Queue)), "{second:?}");
    assert!(first.await.unwrap().is_ok());
}

#[tokio::test]
async fn what_the_host_is_told_fits_what_was_asked_for() {
    let test = app(sqlite().await).await;
    let (_, agent) = test.fleet.add_host();
    let asked = NewSandbox {
        vcpus: Some(2),
        memory_mb: Some(64),
        env: [("A".to_owned(), "b".to_owned())].into(),
        network: Network { deny_egress: true, ..Network::default() },
        ..new()
    };
    let record = test.app.sandboxes.create(&owner(&test), asked).await.unwrap();
    let spec = agent.spec_of(&record.id).unwrap();
    assert_eq!((spec.vcpus, spec.memory_bytes, spec.disk_bytes), (2, 64 << 20, 5120 << 20));
    assert_eq!((spec.driver.as_str(), spec.hostname.as_str()), ("container", record.id.dns_label().as_str()));
    assert_eq!(spec.env["A"], "b");
    assert!(spec.network.as_option().is_some_and(|network| network.deny_egress));
    assert_eq!((spec.access_token.as_str(), spec.on_reboot.as_str()), (record.access_token.as_str(), "restart"));
}

#[tokio::test]
async fn a_policy_is_written_down_before_its_host_hears_it_and_an_older_one_never_comes_after_it() {
    for database in databases().await {
        let (test, record) = running(database).await;
        let host = record.host().unwrap();
        let agent = test.fleet.agent(host);
        let (service, db) = (&test.app.sandboxes, &test.app.db);
        let closed = Network { deny_egress: true, ..Network::default() };
        // Its host fails: what was asked for counts all the same, and is told again.
        agent.fail_policies(1);
        let failed = service.set_network(&owner(&test), &record.id, closed.clone()).await;
        assert!(matches!(failed, Err(SandboxError::Host(_))), "{failed:?}");
        let row = read(&test, &record.id).await;
        assert_eq!((row.network.deny_egress, row.network_generation, row.generation), (true, 1, record.generation));
        assert!(agent.spec_of(&record.id).unwrap().network.as_option().is_none_or(|network| !network.deny_egress));
        test.app.reconcile.monitor.look_once(host).await;
        let told = agent.spec_of(&record.id).unwrap();
        assert!(told.network.as_option().is_some_and(|network| network.deny_egress));
        assert_eq!(told.network_generation, 1);
        // One that is paused goes on under what was asked for, or not at all.
        service.pause(&owner(&test), &record.id).await.unwrap();
        agent.fail_policies(2);
        service.set_network(&owner(&test), &record.id, Network::default()).await.unwrap_err();
        service.resume(&owner(&test), &record.id).await.unwrap_err();
        assert_eq!(agent.spec_of(&record.id).unwrap().network_generation, 1);
        agent.fail_policies(1);
        service.set_network(&owner(&test), &record.id, closed.clone()).await.unwrap_err();
        service.resume(&owner(&test), &record.id).await.unwrap();
        assert_eq!(agent.spec_of(&record.id).unwrap().network_generation, 3);
        // Many at once: the host ends with what the row says.
        let many = (0..8).map(|n| {
            let network = Network { allow_out: vec![format!("10.0.0.{n}/32")], ..closed.clone() };
            let (service, owner, id) = (service.clone(), owner(&test), record.id.0.clone());
            tokio::spawn(async move { service.set_network(&owner, &id, network).await.unwrap() })
        });
        futures::future::join_all(many).await.into_iter().for_each(|done| drop(done.unwrap()));
        let (row, told) = (read(&test, &record.id).await, agent.spec_of(&record.id).unwrap());
        assert_eq!((row.network_generation, told.network_generation), (11, 11));
        assert_eq!(told.network.into_option(), Some(row.network.to_wire(&Filling::default(), &row.id)));
        // What has ended has no network.
        let record = read(&test, &record.id).await;
        store::change(db, &change(&record, SandboxStatus::Stopped, true)).await.unwrap().unwrap();
        let refused = service.set_network(&owner(&test), &record.id, closed).await;
        assert!(matches!(refused, Err(SandboxError::InvalidState { .. })), "{refused:?}");
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
