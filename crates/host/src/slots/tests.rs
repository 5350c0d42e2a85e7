use std::collections::HashSet;
use std::path::Path;

use super::*;

struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn config(&self) -> SlotsConfig {
        SlotsConfig { claims_dir: self.dir.path().join("blocks"), network: SandboxNetwork::default() }
    }

    fn data(&self, name: &str) -> Instance {
        Instance::open(&self.dir.path().join(name)).unwrap()
    }

    fn slots(&self, name: &str, in_use: &[Slot]) -> Slots {
        self.try_slots(name, in_use).unwrap()
    }

    /// What else runs on the machine under the tests, other tests above all, is none of this machine's.
    fn try_slots(&self, name: &str, in_use: &[Slot]) -> Result<Slots, SlotsError> {
        Slots::open_on(Claims::new(&self.data(name), self.config(), Foreign::default), in_use)
    }

    fn claims(&self) -> usize {
        let count = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
        count(&self.dir.path().join("blocks")) - 1
    }
}

#[test]
fn two_data_directories_never_get_the_same_slot() {
    let machine = Machine::new();
    let (a, b) = (machine.slots("a", &[]), machine.slots("b", &[]));
    let mut seen = HashSet::new();
    for _ in 0..300 {
        assert!(seen.insert(a.take().unwrap()));
        assert!(seen.insert(b.take().unwrap()));
    }
    assert_ne!(a.group(), b.group());
}

#[test]
fn many_threads_never_get_the_same_slot() {
    let machine = Machine::new();
    let slots = machine.slots("a", &[]);
    let taken: Vec<Slot> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..100).map(|_| slots.take().unwrap()).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 800);
    assert_eq!(slots.blocks().len(), 4);
}

#[test]
fn a_restarted_agent_keeps_its_blocks_and_group_and_hands_out_nothing_that_is_in_use() {
    let machine = Machine::new();
    let before = machine.slots("a", &[]);
    let used: Vec<_> = (0..300).map(|_| before.take().unwrap()).collect();
    let (group, blocks) = (before.group(), before.blocks());
    drop(before);
    let after = machine.slots("a", &used);
    assert_eq!((after.group(), after.blocks()), (group, blocks));
    for _ in 0..200 {
        assert!(!used.contains(&after.take().unwrap()));
    }
    assert_eq!(after.blocks().len(), 2);
}

#[test]
fn a_slot_that_was_given_back_is_the_last_to_be_taken_again() {
    let machine = Machine::new();
    let slots = machine.slots("a", &[]);
    let first = slots.take().unwrap();
    slots.give_back(first);
    slots.give_back(first);
    for _ in 1..SLOTS_PER_BLOCK {
        assert_ne!(slots.take().unwrap(), first);
    }
    assert_eq!(slots.take().unwrap(), first);
    assert_ne!(slots.take().unwrap(), first, "a slot given back twice was handed out twice");
}

#[test]
fn claims_are_given_up_only_when_nothing_uses_them() {
    let machine = Machine::new();
    let slots = machine.slots("a", &[]);
    let slot = slots.take().unwrap();
    assert!(matches!(slots.release_all(), Err(SlotsError::InUse(1))));
    assert_eq!(machine.claims(), 1);
    slots.give_back(slot);
    slots.release_all().unwrap();
    assert_eq!(machine.claims(), 0);
}

#[test]
fn the_claim_of_a_directory_that_is_gone_is_taken_over_once_its_agent_is_gone_too() {
    let machine = Machine::new();
    let gone = machine.slots("gone", &[]);
    let block = gone.blocks()[0].0;
    std::fs::remove_dir_all(machine.dir.path().join("gone")).unwrap();
    assert_ne!(machine.slots("b", &[]).blocks()[0].0, block, "its agent still lives");
    drop(gone);
    assert_eq!(machine.slots("c", &[]).blocks()[0].0, block);
}

#[test]
fn a_stopped_agents_claim_stays_as_long_as_its_directory() {
    let machine = Machine::new();
    let block = machine.slots("a", &[]).blocks()[0].0;
    assert_ne!(machine.slots("b", &[]).blocks()[0].0, block);
    assert_eq!(machine.slots("a", &[]).blocks()[0].0, block);
}

#[test]
fn claims_that_were_lost_are_made_again_from_the_sandboxes_records() {
    let machine = Machine::new();
    let slots = machine.slots("a", &[]);
    let used: Vec<_> = (0..300).map(|_| slots.take().unwrap()).collect();
    let blocks = slots.blocks();
    drop(slots);
    std::fs::remove_dir_all(machine.dir.path().join("blocks")).unwrap();
    assert_eq!(machine.slots("a", &used).blocks(), blocks);
}

#[test]
fn a_copied_data_directory_is_refused_and_a_moved_one_is_not() {
    let machine = Machine::new();
    let block = machine.slots("a", &[]).blocks()[0].0;
    let (a, b) = (machine.dir.path().join("a"), machine.dir.path().join("b"));
    std::fs::create_dir(&b).unwrap();
    std::fs::copy(a.join("instance"), b.join("instance")).unwrap();
    let error = machine.try_slots("b", &[]).unwrap_err();
    assert!(matches!(error, SlotsError::CopiedDirectory { .. }), "{error}");
    std::fs::remove_dir_all(a).unwrap();
    assert_eq!(machine.slots("b", &[]).blocks()[0].0, block);
}

#[test]
fn a_machine_that_is_full_says_so() {
    let machine = Machine::new();
    let slots = machine.slots("a", &[]);
    let blocks = usize::from(LAST_BLOCK - FIRST_BLOCK) + 1;
    for _ in 0..blocks * SLOTS_PER_BLOCK {
        slots.take().unwrap();
    }
    assert!(slots.take().unwrap_err().to_string().contains("blocks are claimed"));
}
