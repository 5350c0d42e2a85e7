//! Create, pause, resume, exit, destroy.

use std::time::Duration;

use super::*;
use crate::driver::Exit;

#[tokio::test]
async fn a_create_that_is_repeated_is_answered_again() {
    let house = House::new().await;
    let id = SandboxId::new();
    let first = house.keeper.create(id.clone(), 1, wish()).await.unwrap();
    assert_eq!(first.view.state, State::Running);
    assert!(first.steps.iter().any(|step| step.name == "record"));
    let second = house.keeper.create(id.clone(), 1, wish()).await.unwrap();
    assert_eq!(second.view, first.view);
    assert_eq!(house.machine.running(), [id]);
}

#[tokio::test]
async fn two_creates_of_one_sandbox_at_once_make_one_sandbox() {
    let house = House::new().await;
    let id = SandboxId::new();
    let (a, b) = tokio::join!(house.keeper.create(id.clone(), 1, wish()), house.keeper.create(id.clone(), 1, wish()));
    assert_eq!(a.unwrap().view.id, b.unwrap().view.id);
    assert_eq!(house.machine.running(), [id]);
}

#[tokio::test]
async fn one_that_comes_from_another_host_stands_still_without_processes_and_is_on_the_disk() {
    let house = House::new().await;
    let id = SandboxId::new();
    let layer = |digest: &str| wire::Layer {
        id: atoll_model::LayerId::new().to_string(),
        digest: digest.to_owned(),
        ..Default::default()
    };
    let elsewhere = wire::SandboxSpec { layers: vec![layer("")], ..wish() };
    let refused = house.keeper.create_at_rest(id.clone(), 3, elsewhere, "user".to_owned()).await.unwrap_err();
    assert!(matches!(refused, OrderError::Invalid { field: "layers.digest", .. }), "{refused}");
    for step in ["admit", "volume"] {
        house.machine.fail_at(step);
        assert!(house.keeper.create_at_rest(id.clone(), 4, wish(), "user".to_owned()).await.is_err(), "{step}");
        house.machine.heal();
        house.nothing_is_left().await;
    }
    let mut wish = wish();
    wish.env.insert("A".to_owned(), "b".to_owned());
    for _ in 0..2 {
        let answer = house.keeper.create_at_rest(id.clone(), 5, wish.clone(), "timeout".to_owned()).await.unwrap();
        assert_eq!((answer.view.state, answer.view.reason.as_str()), (State::Paused, "timeout"));
    }
    assert_eq!((house.machine.running(), house.machine.written_out()), (Vec::new(), 1));
    assert_eq!(house.keeper.environment(&id).unwrap()["A"], "b");
    let other = house.keeper.create(id.clone(), 5, wish).await.unwrap_err();
    assert_eq!(other, OrderError::Conflict { generation: 5 });
    // A new agent finds it as it is, and its first resume starts it.
    let house = house.restart_agent().await;
    assert_eq!(state_of(&house.keeper, &id), Some((State::Paused, "timeout".to_owned())));
    let resumed = house.keeper.resume(&id, 6).await.unwrap();
    assert_eq!((resumed.view.state, resumed.kept), (State::Running, Kept::Files));
    house.keeper.destroy(&id, 7).await.unwrap();
    house.nothing_is_left().await;
}

#[tokio::test]
async fn an_older_policy_never_takes_the_place_of_a_newer_one() {
    let house = House::new().await;
    let id = house.created().await;
    let closed = crate::network::Policy { closed: true, ..Default::default() };
    house.keeper.set_policy(&id, 2, closed.clone()).await.unwrap();
    let stale = house.keeper.set_policy(&id, 1, Default::default()).await.unwrap_err();
    assert_eq!(stale, OrderError::Stale { generation: 1, highest: 2 });
    // One that could not be set is not said to be in force.
    house.machine.fail_at("egress");
    assert!(house.keeper.set_policy(&id, 3, Default::default()).await.is_err());
    assert_eq!(house.keeper.get(&id).unwrap().policy_generation, 2);
    house.machine.heal();
    house.keeper.set_policy(&id, 3, closed).await.unwrap();
    let house = house.restart_agent().await;
    assert_eq!(house.keeper.get(&id).unwrap().policy_generation, 3);
}

#[tokio::test]
async fn a_policy_that_an_older_agent_has_read_is_asked_for_again() {
    let house = House::new().await;
    let id = house.created().await;
    house.keeper.set_policy(&id, 2, Default::default()).await.unwrap();
    house.rewrite(&id, |record| record.knows_bandwidth = false);
    let house = house.restart_agent().await;
    assert_eq!(house.keeper.get(&id).unwrap().policy_generation, 0, "control says it again");
    let policy = crate::network::Policy { bandwidth: Some(5_000), ..Default::default() };
    // One before it is still older.
    house.keeper.set_policy(&id, 1, Default::default()).await.unwrap_err();
    house.machine.fail_at("egress");
    house.keeper.set_policy(&id, 2, policy.clone()).await.unwrap_err();
    assert_eq!(house.keeper.get(&id).unwrap().policy_generation, 0);
    house.machine.heal();
    house.keeper.set_policy(&id, 2, policy).await.unwrap();
    let house = house.restart_agent().await;
    assert_eq!(house.keeper.get(&id).unwrap().policy_generation, 2);
}

#[tokio::test]
async fn an_older_generation_and_the_same_with_other_content_are_refused() {
    let house = House::new().await;
    let id = SandboxId::new();
    house.keeper.create(id.clone(), 5, wish()).await.unwrap();
    let other = wire::SandboxSpec { vcpus: 2, ..wish() };
    let conflict = house.keeper.create(id.clone(), 5, other).await.unwrap_err();
    assert_eq!(conflict, OrderError::Conflict { generation: 5 });
    let stale = house.keeper.pause(&id, 4, "user".to_owned()).await.unwrap_err();
    assert_eq!(stale, OrderError::Stale { generation: 4, highest: 5 });
    let stale = house.keeper.destroy(&id, 4).await.unwrap_err();
    assert_eq!(stale, OrderError::Stale { generation: 4, highest: 5 });
    assert_eq!(house.machine.running(), [id]);
}

#[tokio::test]
async fn a_create_that_fails_at_any_step_leaves_nothing() {
    for step in ["slot", "admit", "volume", "image", "egress", "launch"] {
        let house = House::new().await;
        house.machine.fail_at(step);
        let mut wish = wish();
        wish.network = wire::NetworkPolicy { deny_egress: true, ..Default::default() }.into();
        let result = house.keeper.create(SandboxId::new(), 1, wish).await;
        assert!(result.is_err(), "{step}");
        house.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_resists_being_undone_is_undone_in_the_end() {
    for step in ["clean up", "detach", "delete"] {
        let house = House::new().await;
        house.machine.fail_at("launch");
        house.machine.fail_at(step);
        let id = SandboxId::new();
        assert!(house.keeper.create(id.clone(), 1, wish()).await.is_err());
        assert!(!house.machine.leftovers().is_empty(), "{step}");
        assert!(house.keeper.list().is_empty(), "{step}");
        house.machine.heal();
        house.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_hangs_is_given_up_and_leaves_nothing() {
    let house = House::new().await;
    house.machine.hang();
    let error = house.keeper.create(SandboxId::new(), 1, wish()).await.unwrap_err();
    assert!(matches!(error, OrderError::Failed { .. }), "{error}");
    house.nothing_is_left().await;
}

#[tokio::test]
async fn a_destroy_overtakes_a_create_that_hangs() {
    let house = House::new().await;
    house.machine.hang();
    let id = SandboxId::new();
    let keeper = house.keeper.clone();
    let (created, ()) = tokio::join!(keeper.create(id.clone(), 1, wish()), async {
        house.until(|keeper| keeper.get(&id).is_ok()).await;
        house.keeper.destroy(&id, 2).await.unwrap();
    });
    assert_eq!(created.unwrap_err(), OrderError::Destroyed);
    house.nothing_is_left().await;
}

#[tokio::test]
async fn a_destroyed_sandbox_leaves_nothing_and_a_late_create_finds_its_grave() {
    let house = House::new().await;
    let id = house.created().await;
    house.keeper.destroy(&id, 2).await.unwrap();
    house.nothing_is_left().await;
    house.keeper.destroy(&id, 2).await.unwrap();
    let late = house.keeper.create(id.clone(), 1, wish()).await.unwrap_err();
    assert_eq!(late, OrderError::Stale { generation: 1, highest: 2 });
    // Also when the destroy comes first, and over a restart of the agent.
    let other = SandboxId::new();
    house.keeper.destroy(&other, 7).await.unwrap();
    let house = house.restart_agent().await;
    let late = house.keeper.create(other, 6, wish()).await.unwrap_err();
    assert_eq!(late, OrderError::Stale { generation: 6, highest: 7 });
}

#[tokio::test]
async fn a_pause_and_a_resume_keep_the_memory_and_are_answered_again() {
    let house = House::new().await;
    let id = house.created().await;
    for freed in [RECLAIMED, 0] {
        let paused = house.keeper.pause(&id, 2, "ttl".to_owned()).await.unwrap();
        assert_eq!((paused.view.state, paused.view.reason.as_str()), (State::Paused, "ttl"));
        assert_eq!((paused.kept, paused.freed_bytes), (Kept::Memory, freed));
    }
    assert!(house.machine.is_paused(&id));
    assert!(matches!(house.keeper.route(&id), Err(Refusal::Paused)));
    for _ in 0..2 {
        let resumed = house.keeper.resume(&id, 3).await.unwrap();
        assert_eq!((resumed.view.state, resumed.kept), (State::Running, Kept::Memory));
    }
    assert!(!house.machine.is_paused(&id));
    assert!(house.keeper.route(&id).is_ok());
}

#[tokio::test]
async fn a_pause_that_fails_leaves_a_sandbox_that_runs_and_says_so() {
    let house = House::new().await;
    let id = house.created().await;
    house.machine.refuse_to_pause(&id);
    assert!(house.keeper.pause(&id, 2, "user".to_owned()).await.is_err());
    assert_eq!(state_of(&house.keeper, &id), Some((State::Running, String::new())));
    assert_eq!(house.keeper.get(&id).unwrap().generation, 1);
}

#[tokio::test]
async fn pausing_all_catches_what_is_starting_and_without_contact_nothing_new_begins() {
    let house = House::new().await;
    house.machine.hang();
    let id = SandboxId::new();
    let (keeper, new) = (house.keeper.clone(), id.clone());
    let creating = tokio::spawn(async move { keeper.create(new, 1, wish()).await });
    while state_of(&house.keeper, &id).is_none() {
        tokio::task::yield_now().await;
    }
    house.keeper.set_out_of_contact(true);
    let keeper = house.keeper.clone();
    let mut sweeping = tokio::spawn(async move { keeper.pause_all(HOST_DISCONNECTED).await });
    let early = tokio::time::timeout(Duration::from_millis(50), &mut sweeping).await;
    assert!(early.is_err(), "it waits for what is starting");
    house.machine.go_on();
    creating.await.unwrap().unwrap();
    assert_eq!(sweeping.await.unwrap(), (1, 0));
    assert_eq!(state_of(&house.keeper, &id), Some((State::Paused, HOST_DISCONNECTED.to_owned())));

    let refused = house.keeper.create(SandboxId::new(), 1, wish()).await;
    assert!(matches!(refused, Err(OrderError::NotAccepting { .. })), "{refused:?}");
    assert_eq!(house.keeper.closed_because(), None, "a control that hears it may place here");
    house.keeper.resume(&id, 2).await.expect("who orders that is control");
    house.keeper.set_out_of_contact(false);
    house.created().await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_takes_long_to_fetch_holds_up_nobody_else_and_is_there_for_the_next_one() {
    let house = House::new().await;
    let far = "cd".repeat(32);
    house.machine.lack(&far);
    let wish_far = || {
        let template = wire::Image { digest: "cd".repeat(32), name: "far".to_owned(), ..Default::default() };
        wire::SandboxSpec { template: template.into(), ..wish() }
    };
    let waiting: Vec<_> = (0..40)
        .map(|_| {
            let (keeper, wish) = (house.keeper.clone(), wish_far());
            tokio::spawn(async move { keeper.create(SandboxId::new(), 1, wish).await })
        })
        .collect();
    tokio::task::yield_now().await;
    // As many as wait, this one has its turn at once.
    let began = tokio::time::Instant::now();
    let id = house.created().await;
    assert!(began.elapsed() < Limits::default().launch);
    for refused in waiting {
        let refused = refused.await.unwrap().unwrap_err();
        assert!(matches!(&refused, OrderError::NotAccepting { reason } if reason.contains(&far)), "{refused}");
    }
    house.machine.arrive(&far);
    let there = SandboxId::new();
    house.keeper.create(there.clone(), 1, wish_far()).await.unwrap();
    for id in [id, there] {
        house.keeper.destroy(&id, 2).await.unwrap();
    }
    house.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn what_stands_still_is_written_out_behind_the_answer_and_many_at_once() {
    let house = House::new().await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(house.created().await);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(house.machine.written_out(), 0, "what runs is written out by the kernel in its time");
    assert!(house.machine.committed() > 0, "that it has a disk is not");
    for id in &ids {
        house.keeper.pause(id, 2, "user".to_owned()).await.unwrap();
    }
    assert_eq!(house.machine.written_out(), 0, "nobody waits for it");
    let written = async {
        while house.machine.written_out() == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), written).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(house.machine.written_out(), 1);
    // What is left when the agent ends is not left out.
    house.keeper.resume(&ids[0], 3).await.unwrap();
    house.keeper.pause(&ids[0], 4, "user".to_owned()).await.unwrap();
    house.keeper.close(Duration::ZERO).await;
    assert_eq!(house.machine.written_out(), 2);
}

#[tokio::test]
async fn pausing_all_goes_on_when_one_fails_and_stops_nothing() {
    let house = House::new().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(house.created().await);
    }
    house.keeper.pause(&ids[0], 2, "user".to_owned()).await.unwrap();
    house.machine.refuse_to_pause(&ids[1]);
    assert_eq!(house.keeper.pause_all(HOST_DISCONNECTED).await, (3, 1));
    assert_eq!(state_of(&house.keeper, &ids[0]), Some((State::Paused, "user".to_owned())));
    assert_eq!(state_of(&house.keeper, &ids[1]), Some((State::Running, String::new())));
    for id in &ids[2..] {
        assert_eq!(state_of(&house.keeper, id), Some((State::Paused, HOST_DISCONNECTED.to_owned())));
        // Nothing that control decided has changed.
        assert_eq!(house.keeper.get(id).unwrap().generation, 1);
    }
    // Asked once more it gives in.
    house.machine.let_pause(&ids[1]);
    assert_eq!(house.keeper.pause_all(HOST_DISCONNECTED).await, (1, 0));
    // Control's order to resume wins, and so does its own reason to pause.
    house.keeper.resume(&ids[2], 2).await.unwrap();
    house.keeper.pause(&ids[3], 2, "user".to_owned()).await.unwrap();
    assert_eq!(state_of(&house.keeper, &ids[2]), Some((State::Running, String::new())));
    assert_eq!(state_of(&house.keeper, &ids[3]), Some((State::Paused, "user".to_owned())));
}

#[tokio::test]
async fn a_sandbox_that_ended_is_reported_until_control_knows_and_keeps_its_disk_so_long() {
    let house = House::new().await;
    let id = house.created().await;
    let cut = house.keeper.route(&id).unwrap().cut;
    house.machine.exit(&id, Exit { code: Some(137), out_of_memory: true });
    house.until(|keeper| state_of(keeper, &id) == Some((State::Exited, "out_of_memory".to_owned()))).await;
    assert!(cut.is_cancelled());
    house.until(|keeper| keeper.get(&id).unwrap().slot.is_none()).await;
    assert_eq!(house.machine.leftovers(), [format!("volume {id}")]);
    assert_eq!(house.keeper.get(&id).unwrap().exit_code, 137);
    // An acknowledgement of something else changes nothing.
    house.keeper.acknowledge(&id, 1, State::Running);
    house.keeper.acknowledge(&id, 2, State::Exited);
    let house = house.restart_agent().await;
    assert_eq!(state_of(&house.keeper, &id), Some((State::Exited, "out_of_memory".to_owned())));
    house.keeper.acknowledge(&id, 1, State::Exited);
    house.nothing_is_left().await;
}

#[tokio::test]
async fn memory_that_is_promised_is_not_promised_again() {
    let house = House::with(Limits { memory_overcommit: 1, ..Limits::default() }).await;
    let big = || wire::SandboxSpec { memory_bytes: 5 << 30, ..wish() };
    house.keeper.create(SandboxId::new(), 1, big()).await.unwrap();
    let full = house.keeper.create(SandboxId::new(), 1, big()).await.unwrap_err();
    assert!(matches!(full, OrderError::Full { .. }), "{full}");
    house.created().await;
}

#[tokio::test]
async fn a_host_that_is_not_welcome_takes_no_new_work_but_still_destroys() {
    let house = House::new().await;
    let id = house.created().await;
    house.keeper.set_welcome(false);
    let refused = house.keeper.create(SandboxId::new(), 1, wish()).await.unwrap_err();
    assert!(matches!(refused, OrderError::NotAccepting { .. }));
    assert!(house.keeper.resume(&id, 2).await.is_err());
    house.keeper.destroy(&id, 3).await.unwrap();
    house.nothing_is_left().await;
}

#[tokio::test]
async fn a_deleted_host_destroys_everything() {
    let house = House::new().await;
    for _ in 0..10 {
        house.created().await;
    }
    assert!(house.keeper.destroy_all(Duration::from_secs(60)).await);
    house.nothing_is_left().await;
}

#[tokio::test]
async fn an_orderly_shutdown_ends_no_sandbox() {
    let house = House::new().await;
    let id = house.created().await;
    assert!(house.keeper.close(Duration::from_secs(60)).await);
    assert!(house.keeper.create(SandboxId::new(), 1, wish()).await.is_err());
    assert_eq!(house.machine.running(), [id]);
}

#[tokio::test]
async fn what_is_stored_by_a_pause_has_no_processes_and_goes_on_with_its_memory() {
    let house = House::new().await;
    let id = house.created().await;
    house.machine.store_pauses();
    let paused = house.keeper.pause(&id, 2, "user".to_owned()).await.unwrap();
    assert_eq!((paused.kept, paused.freed_bytes), (Kept::Memory, 1 << 20));
    assert!(house.machine.running().is_empty());
    // Its end by the pause is not taken for an end, by this agent or the next one; nor is a record that came too late.
    assert_eq!(state_of(&house.keeper, &id), Some((State::Paused, "user".to_owned())));
    house.rewrite(&id, |record| {
        record.stored = false;
        record.init = Some(crate::driver::InitProcess {
            pid: 1,
            start_time: 1,
            host_boot_id: crate::driver::host_boot_id().to_owned(),
        });
    });
    let house = house.restart_agent().await;
    assert_eq!(state_of(&house.keeper, &id), Some((State::Paused, "user".to_owned())));
    assert_eq!(house.keeper.resume(&id, 3).await.unwrap().kept, Kept::Memory);
    assert_eq!(house.machine.running(), std::slice::from_ref(&id));
    // What was stored could not be used: the answer says so.
    house.keeper.pause(&id, 4, "user".to_owned()).await.unwrap();
    house.machine.lose_stored();
    assert_eq!(house.keeper.resume(&id, 5).await.unwrap().kept, Kept::Files);
}

#[tokio::test]
async fn a_pause_of_the_files_alone_ends_its_processes_and_a_resume_starts_new_ones() {
    let house = House::new().await;
    let id = house.created().await;
    // What it has not yet written to its disk must get there first, or it runs on.
    house.machine.fail_at("settle");
    assert!(house.keeper.pause_files(&id, 2, "user".to_owned()).await.is_err());
    assert_eq!(state_of(&house.keeper, &id).map(|it| it.0), Some(State::Running));
    house.machine.heal();
    for _ in 0..2 {
        let paused = house.keeper.pause_files(&id, 2, "user".to_owned()).await.unwrap();
        assert_eq!((paused.view.state, paused.kept), (State::Paused, Kept::Files));
    }
    assert_eq!(house.machine.running(), []);
    let house = house.restart_agent().await;
    assert_eq!(state_of(&house.keeper, &id), Some((State::Paused, "user".to_owned())));
    let resumed = house.keeper.resume(&id, 3).await.unwrap();
    assert_eq!((resumed.view.state, resumed.kept), (State::Running, Kept::Files));
    assert_eq!(house.machine.running(), std::slice::from_ref(&id));
    house.keeper.destroy(&id, 4).await.unwrap();
    house.nothing_is_left().await;
}

#[tokio::test]
async fn processes_that_a_crash_left_of_a_pause_of_the_files_are_ended_by_the_next_agent() {
    let house = House::new().await;
    let id = house.created().await;
    house.rewrite(&id, |record| {
        record.state = State::Paused;
        record.init = None;
    });
    let house = house.restart_agent().await;
    // An order is carried out after what the owner begins with.
    house.keeper.pause_files(&id, 2, "user".to_owned()).await.unwrap();
    assert_eq!(house.machine.running(), []);
    assert_eq!(house.keeper.resume(&id, 3).await.unwrap().kept, Kept::Files);
}

#[tokio::test]
async fn an_exclusive_volume_has_one_user_until_its_processes_are_gone() {
    let house = House::new().await;
    let volume = atoll_model::VolumeId::new();
    let with = |exclusive| wire::SandboxSpec {
        volumes: vec![wire::VolumeMount {
            id: volume.to_string(),
            path: "/data".to_owned(),
            size_bytes: 1 << 30,
            exclusive,
            ..Default::default()
        }],
        ..wish()
    };
    let first = SandboxId::new();
    house.keeper.create(first.clone(), 1, with(true)).await.unwrap();
    house.keeper.pause(&first, 2, "user".to_owned()).await.unwrap();
    let refused = house.keeper.create(SandboxId::new(), 1, with(true)).await;
    assert!(matches!(refused, Err(OrderError::Busy { .. })), "a paused one has it still");
    house.keeper.destroy(&first, 3).await.unwrap();
    // Its processes are gone when that was answered, whatever is still to be taken down.
    let second = SandboxId::new();
    house.keeper.create(second.clone(), 1, with(true)).await.unwrap();
    house.keeper.destroy(&second, 2).await.unwrap();
    for _ in 0..2 {
        house.keeper.create(SandboxId::new(), 1, with(false)).await.unwrap();
    }
}

#[tokio::test]
async fn layers_of_other_hosts_make_room_and_go_with_their_image_but_not_from_under_a_sandbox() {
    let house = House::new().await;
    let [used, old, new] = ["a", "b", "c"].map(|digest| house.machine.import(digest, 10));
    let layers = vec![wire::Layer { id: used.to_string(), ..Default::default() }];
    let id = SandboxId::new();
    house.keeper.create(id.clone(), 1, wire::SandboxSpec { layers, ..wish() }).await.unwrap();
    let there = || [&used, &old, &new].map(|layer| house.machine.has_layer(layer));
    assert_eq!(house.keeper.trim_imports(30).await.unwrap(), 0);
    assert_eq!(house.keeper.trim_imports(25).await.unwrap(), 1);
    assert_eq!(there(), [true, false, true]);
    let refused = house.keeper.delete_imported("a").await;
    assert!(matches!(refused, Err(OrderError::Busy { .. })), "{refused:?}");
    house.keeper.delete_imported("nothing of that").await.unwrap();
    house.keeper.delete_imported("c").await.unwrap();
    assert_eq!((there(), house.keeper.trim_imports(0).await.unwrap()), ([true, false, false], 0));
    house.keeper.destroy(&id, 2).await.unwrap();
    house.nothing_is_left().await;
    house.keeper.delete_imported("a").await.unwrap();
    assert_eq!(there(), [false; 3]);
}
