//! Pauses, resumes, idle clocks and ends, while hosts refuse, hang or are away.

use serde_json::json;

use super::*;

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
        let crate::sandboxes::Paused { record: paused, kept, .. } =
            service.pause(&owner(&test), &record.id).await.unwrap();
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
async fn the_answer_of_a_pause_says_how_much_memory_its_host_gave_up() {
    for database in databases().await {
        let (test, record) = running(database).await;
        let agent = test.fleet.agent(record.host().unwrap());
        let path = format!("/v1/sandboxes/{}", record.id.0);
        // The second time on a host without swap.
        for freed in [45_678_901_234_u64, 0] {
            agent.free_by_pauses(freed);
            let paused = test.client.post(&format!("{path}/pause"), json!({})).await.expect(200).json();
            assert_eq!((&paused["freed_bytes"], &paused["kept"]), (&json!(freed), &json!("memory")));
            assert!(test.client.get(&path).await.json().get("freed_bytes").is_none(), "it is said of the pause alone");
            test.client.post(&format!("{path}/resume"), json!({})).await.expect(200);
        }
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
