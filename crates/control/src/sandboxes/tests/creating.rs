//! Creates: hosts that fail, leave or hang, clients that go away, and what a host is told.

use super::*;

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
