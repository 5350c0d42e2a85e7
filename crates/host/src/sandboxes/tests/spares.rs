//! Spare machines, and the sandboxes that take them over.

use std::time::Duration;

use crate::driver::Exit;

use super::*;

fn machine() -> wire::SandboxSpec {
    wire::SandboxSpec { driver: "vm".to_owned(), ..wish() }
}

impl House {
    async fn with_spares(most: usize) -> Self {
        Self::with(Limits { spare_machines: most, ..Limits::default() }).await
    }

    async fn machine(&self) -> SandboxId {
        self.like(machine()).await
    }

    async fn like(&self, wish: wire::SandboxSpec) -> SandboxId {
        let id = SandboxId::new();
        self.keeper.create(id.clone(), 1, wish).await.unwrap();
        id
    }

    fn ready(&self) -> Vec<SandboxId> {
        self.keeper.shared.spares.ready()
    }

    async fn until_ready(&self, count: usize) -> Vec<SandboxId> {
        for _ in 0..500 {
            let ready = self.ready();
            if ready.len() == count {
                return ready;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} are ready, not {count}", self.ready().len());
    }

    /// What a sandbox was made with.
    fn record(&self, id: &SandboxId) -> Record {
        self.records().load_one(id).unwrap().unwrap()
    }

    async fn destroyed(&self, id: &SandboxId) {
        self.keeper.destroy(id, 2).await.unwrap();
    }
}

#[tokio::test]
async fn the_third_of_a_kind_takes_over_the_spare_that_the_second_has_called_for() {
    let house = House::with_spares(1).await;
    let one = house.machine().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(house.ready(), []);
    let two = house.machine().await;
    let spare = house.until_ready(1).await.remove(0);
    let pids = [&one, &two].map(|id| house.record(id).init.unwrap().pid);
    let three = house.machine().await;
    let record = house.record(&three);
    assert_eq!((record.init.unwrap().pid, record.slot.unwrap().to_string().is_empty()), (pids[1] + 1, false));
    assert!(!house.records().directory_of(&spare).exists() && house.machine.find_volume(&three).is_some());
    // There is another one for the next, and none for who wants something else.
    assert_ne!(house.until_ready(1).await, [spare]);
    let larger = house.like(wire::SandboxSpec { memory_bytes: machine().memory_bytes * 2, ..machine() }).await;
    let container = house.created().await;
    assert_eq!(house.until_ready(1).await.len(), 1);
    for id in [one, two, three, larger, container] {
        house.destroyed(&id).await;
    }
    house.until(|keeper| keeper.shared.entries().is_empty()).await;
    house.keeper.close(Duration::ZERO).await;
    house.nothing_is_left().await;
}

#[tokio::test]
async fn a_spare_that_has_died_or_resists_costs_nothing_but_time() {
    let house = House::with_spares(1).await;
    let mut ids = vec![house.machine().await, house.machine().await];
    let spare = house.until_ready(1).await.remove(0);
    house.machine.fail_at("take over");
    ids.push(house.machine().await);
    assert_eq!(house.keeper.get(&ids[2]).unwrap().state, State::Running);
    house.machine.heal();
    assert!(!house.records().directory_of(&spare).exists());
    house.until_ready(1).await;
    // One whose create fails before it has taken anything over leaves none either.
    house.machine.fail_at("rename");
    assert!(house.keeper.create(SandboxId::new(), 1, machine()).await.is_err());
    house.machine.heal();
    let spare = house.until_ready(1).await.remove(0);
    house.machine.exit(&spare, Exit { code: Some(1), out_of_memory: false });
    ids.push(house.machine().await);
    assert_eq!(house.keeper.get(&ids[3]).unwrap().state, State::Running);
    // Others might die as well: the next one comes later.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(house.ready(), []);
    for id in ids {
        house.destroyed(&id).await;
    }
    house.until(|keeper| keeper.shared.entries().is_empty()).await;
    house.keeper.close(Duration::ZERO).await;
    house.nothing_is_left().await;
}

/// Two kinds that are asked for in turn don't take each other's place each time.
#[tokio::test]
async fn one_that_was_asked_for_lately_stays_though_another_kind_is_wanted() {
    let house = House::with_spares(1).await;
    let larger = || wire::SandboxSpec { memory_bytes: machine().memory_bytes * 2, ..machine() };
    for _ in 0..2 {
        house.machine().await;
    }
    let spare = house.until_ready(1).await;
    for _ in 0..3 {
        house.like(larger()).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(house.ready(), spare);
    house.keeper.close(Duration::ZERO).await;
}

/// A host that control does not want, or can't reach, makes none.
#[tokio::test]
async fn none_is_made_while_control_is_out_of_reach() {
    let house = House::with_spares(1).await;
    house.machine().await;
    house.keeper.set_out_of_contact(true);
    house.keeper.set_out_of_contact(false);
    house.machine().await;
    house.until_ready(1).await;
    house.keeper.shared.spares.allow(false);
    // The one that there is may be had.
    house.machine().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(house.ready(), []);
    house.keeper.shared.spares.allow(true);
    house.until_ready(1).await;
    house.keeper.close(Duration::ZERO).await;
}

#[tokio::test]
async fn there_are_so_many_at_most_of_what_was_wanted_last() {
    let house = House::with_spares(2).await;
    let larger = || wire::SandboxSpec { memory_bytes: machine().memory_bytes * 2, ..machine() };
    for _ in 0..2 {
        house.machine().await;
    }
    house.until_ready(2).await;
    for _ in 0..2 {
        house.like(larger()).await;
    }
    // One of each now.
    let sizes = || {
        let state = house.keeper.shared.spares.sizes();
        state.len() == 2 && state[0] != state[1]
    };
    for _ in 0..500 {
        if sizes() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(sizes());
    house.keeper.close(Duration::ZERO).await;
    assert_eq!(house.ready(), []);
}
