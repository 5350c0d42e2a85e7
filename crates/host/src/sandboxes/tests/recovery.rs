//! What a new agent makes of what an old one left.

use std::time::Duration;

use super::*;
use crate::driver::Exit;

#[tokio::test]
async fn fifty_running_sandboxes_are_found_again_untouched() {
    let house = House::new().await;
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(house.created().await);
    }
    let before: Vec<_> = house.keeper.list();
    let house = house.restart_agent().await;
    assert_eq!(house.keeper.list().len(), 50);
    for view in before {
        let after = house.keeper.get(&view.id).unwrap();
        assert_eq!(after, view);
        assert!(house.keeper.route(&view.id).is_ok());
    }
    // They are watched again, too.
    house.machine.exit(&ids[0], Exit { code: Some(0), out_of_memory: false });
    house.until(|keeper| state_of(keeper, &ids[0]) == Some((State::Exited, "exited".to_owned()))).await;
}

#[tokio::test]
async fn a_sandbox_that_ended_meanwhile_is_reported_with_its_reason() {
    for (oom_kills, reason) in [(0, "exited"), (3, "out_of_memory")] {
        let house = House::new().await;
        let id = house.created().await;
        house.machine.vanish(&id, oom_kills);
        let house = house.restart_agent().await;
        assert_eq!(state_of(&house.keeper, &id), Some((State::Exited, reason.to_owned())));
        house.keeper.acknowledge(&id, 1, State::Exited);
        house.nothing_is_left().await;
    }
}

#[tokio::test]
async fn a_paused_sandbox_is_still_paused_and_why() {
    let house = House::new().await;
    let id = house.created().await;
    house.keeper.pause_all(HOST_DISCONNECTED).await;
    let house = house.restart_agent().await;
    assert_eq!(state_of(&house.keeper, &id), Some((State::Paused, HOST_DISCONNECTED.to_owned())));
    assert_eq!(house.keeper.resume(&id, 2).await.unwrap().kept, Kept::Memory);
}

#[tokio::test]
async fn a_paused_sandbox_whose_processes_die_keeps_its_files_and_a_resume_starts_new_ones() {
    for while_agent_is_away in [false, true] {
        let mut house = House::new().await;
        let id = house.created().await;
        house.keeper.pause(&id, 2, "user".to_owned()).await.unwrap();
        if while_agent_is_away {
            house.machine.vanish(&id, 1);
            house = house.restart_agent().await;
        } else {
            house.machine.exit(&id, Exit { code: None, out_of_memory: true });
            house.until(|keeper| keeper.shared.records.load_one(&id).unwrap().unwrap().init.is_none()).await;
        }
        assert_eq!(state_of(&house.keeper, &id), Some((State::Paused, "user".to_owned())));
        // No acknowledgement takes the disk, and another agent finds it as it was.
        house.keeper.acknowledge(&id, 2, State::Exited);
        let house = house.restart_agent().await;
        assert_eq!(state_of(&house.keeper, &id), Some((State::Paused, "user".to_owned())));
        assert!(house.machine.leftovers().contains(&format!("volume {id}")));
        let woken = house.keeper.resume(&id, 3).await.unwrap();
        assert_eq!((woken.view.state, woken.kept), (State::Running, Kept::Files));
    }
}

#[tokio::test]
async fn a_pause_that_a_crash_interrupted_is_finished() {
    let house = House::new().await;
    let id = house.created().await;
    house.keeper.pause(&id, 2, "ttl".to_owned()).await.unwrap();
    house.machine.force_paused(&id, false);
    let house = house.restart_agent().await;
    house.keeper.pause(&id, 2, "ttl".to_owned()).await.unwrap();
    assert!(house.machine.is_paused(&id));
    assert_eq!(state_of(&house.keeper, &id), Some((State::Paused, "ttl".to_owned())));
}

#[tokio::test]
async fn a_resume_that_a_crash_interrupted_leaves_it_paused_for_control_to_decide() {
    let house = House::new().await;
    let id = house.created().await;
    house.keeper.pause(&id, 2, "ttl".to_owned()).await.unwrap();
    house.keeper.resume(&id, 3).await.unwrap();
    house.rewrite(&id, |record| {
        record.state = State::Paused;
        record.seen = generation::Seen::pause(2);
    });
    let house = house.restart_agent().await;
    assert_eq!(house.keeper.resume(&id, 3).await.unwrap().view.state, State::Running);
    assert!(!house.machine.is_paused(&id));
}

#[tokio::test]
async fn a_birth_or_death_that_a_crash_interrupted_is_taken_down_to_nothing() {
    for phase in [Phase::Creating, Phase::Destroying] {
        let house = House::new().await;
        let id = house.created().await;
        house.rewrite(&id, |record| record.phase = phase);
        let house = house.restart_agent().await;
        assert!(house.keeper.get(&id).is_err() || phase == Phase::Creating);
        house.nothing_is_left().await;
    }
}

#[tokio::test]
async fn after_a_reboot_a_sandbox_comes_back_from_its_disk_with_its_address() {
    let house = House::new().await;
    let id = house.created().await;
    let slot = house.keeper.get(&id).unwrap().slot;
    house.machine.reboot();
    house.rewrite(&id, |record| record.init.as_mut().unwrap().host_boot_id = "an earlier one".to_owned());
    let house = house.restart_agent().await;
    house.until(|keeper| state_of(keeper, &id) == Some((State::Running, String::new()))).await;
    let view = house.keeper.get(&id).unwrap();
    assert_eq!((view.slot, view.generation), (slot, 1));
    assert_eq!(house.machine.running(), [id]);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_whose_image_does_not_come_after_a_reboot_can_be_destroyed() {
    let house = House::new().await;
    let id = house.created().await;
    house.machine.reboot();
    house.machine.lack(&"ab".repeat(32));
    house.rewrite(&id, |record| record.init.as_mut().unwrap().host_boot_id = "an earlier one".to_owned());
    let house = house.restart_agent().await;
    // Longer than any one attempt.
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(state_of(&house.keeper, &id).map(|(state, _)| state), Some(State::Starting));
    tokio::time::timeout(Duration::from_secs(10), house.keeper.destroy(&id, 2)).await.unwrap().unwrap();
    house.nothing_is_left().await;
}

#[tokio::test]
async fn after_a_reboot_a_sandbox_that_shall_not_come_back_ends_with_the_reason() {
    let house = House::new().await;
    let id = SandboxId::new();
    let wish = wire::SandboxSpec { on_reboot: "stop".to_owned(), ..wish() };
    house.keeper.create(id.clone(), 1, wish).await.unwrap();
    house.machine.reboot();
    house.rewrite(&id, |record| record.init.as_mut().unwrap().host_boot_id = "an earlier one".to_owned());
    let house = house.restart_agent().await;
    assert_eq!(state_of(&house.keeper, &id), Some((State::Exited, "host_rebooted".to_owned())));
    house.keeper.acknowledge(&id, 1, State::Exited);
    house.nothing_is_left().await;
}

#[tokio::test]
async fn a_sandbox_that_can_not_be_started_after_a_reboot_is_paused_and_a_resume_tries_again() {
    let house = House::new().await;
    let id = house.created().await;
    house.machine.reboot();
    house.rewrite(&id, |record| record.init.as_mut().unwrap().host_boot_id = "an earlier one".to_owned());
    house.machine.fail_at("launch");
    let house = house.restart_agent().await;
    house.until(|keeper| state_of(keeper, &id) == Some((State::Paused, "restart_failed".to_owned()))).await;
    // An acknowledgement takes nothing, and another agent finds it as it was.
    house.keeper.acknowledge(&id, 1, State::Paused);
    let house = house.restart_agent().await;
    assert_eq!(state_of(&house.keeper, &id), Some((State::Paused, "restart_failed".to_owned())));
    assert!(house.keeper.resume(&id, 2).await.is_err());
    assert!(house.machine.leftovers().contains(&format!("volume {id}")));
    house.machine.heal();
    let woken = house.keeper.resume(&id, 2).await.unwrap();
    assert_eq!((woken.view.state, woken.kept), (State::Running, Kept::Files));
}

#[tokio::test]
async fn what_the_agent_itself_had_paused_is_not_ended_by_a_reboot() {
    let house = House::new().await;
    let wish = || wire::SandboxSpec { on_reboot: "stop".to_owned(), ..wish() };
    let (lost, users) = (SandboxId::new(), SandboxId::new());
    house.keeper.create(users.clone(), 1, wish()).await.unwrap();
    house.keeper.pause(&users, 2, "user".to_owned()).await.unwrap();
    house.keeper.create(lost.clone(), 1, wish()).await.unwrap();
    house.keeper.pause_all(HOST_DISCONNECTED).await;
    house.machine.reboot();
    for id in [&lost, &users] {
        house.rewrite(id, |record| record.init.as_mut().unwrap().host_boot_id = "an earlier one".to_owned());
    }
    let house = house.restart_agent().await;
    assert_eq!(state_of(&house.keeper, &lost), Some((State::Paused, "host_rebooted".to_owned())));
    assert_eq!(state_of(&house.keeper, &users), Some((State::Exited, "host_rebooted".to_owned())));
    assert_eq!(house.keeper.resume(&lost, 2).await.unwrap().kept, Kept::Files);
}

#[tokio::test]
async fn a_sandbox_that_was_paused_at_the_reboot_stays_paused_and_wakes_from_its_files() {
    let house = House::new().await;
    let id = house.created().await;
    house.keeper.pause(&id, 2, "user".to_owned()).await.unwrap();
    house.machine.reboot();
    house.rewrite(&id, |record| record.init.as_mut().unwrap().host_boot_id = "an earlier one".to_owned());
    let house = house.restart_agent().await;
    assert_eq!(state_of(&house.keeper, &id), Some((State::Paused, "user".to_owned())));
    house.machine.fail_at("launch");
    assert!(house.keeper.resume(&id, 3).await.is_err());
    assert_eq!(state_of(&house.keeper, &id), Some((State::Paused, "user".to_owned())));
    house.machine.heal();
    let woken = house.keeper.resume(&id, 3).await.unwrap();
    assert_eq!((woken.view.state, woken.kept), (State::Running, Kept::Files));
}

#[tokio::test]
async fn a_damaged_record_is_reported_and_its_disk_kept_until_control_destroys_it() {
    let house = House::new().await;
    let id = house.created().await;
    let slot = house.keeper.get(&id).unwrap().slot.unwrap();
    house.machine.reboot();
    std::fs::write(house.records().directory_of(&id).join("record.json"), b"\0\0").unwrap();
    let house = house.restart_agent().await;
    assert_eq!(state_of(&house.keeper, &id), Some((State::Exited, "record_damaged".to_owned())));
    assert!(house.machine.leftovers().contains(&format!("volume {id}")));
    house.keeper.acknowledge(&id, 0, State::Exited);
    // Orders are carried out one after the other: behind this one, the acknowledgement is.
    assert!(house.keeper.resume(&id, 1).await.is_err());
    assert!(house.machine.leftovers().contains(&format!("volume {id}")));
    // Nobody knows its slot any more; a real start finds it free.
    house.machine.give_back_slot(slot);
    house.keeper.destroy(&id, 2).await.unwrap();
    house.nothing_is_left().await;
}
