//! Lives of simulated clusters under random faults: no sandbox is lost, none runs twice, and all is right again when the
//! faults have stopped. `ATOLL_SIMULATION_SECONDS` says for how long (60; an hour is 3600), `ATOLL_SIMULATION_SEED` lives one life again.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use atoll_model::SandboxStatus::{self, Missing, Paused, Running, Starting, Stopped};
use atoll_tests::simulation::{Hosts, Lived, Moment, Race, TABLE, live, race};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn one(seed: u64) -> Lived {
    let lived = catch_unwind(AssertUnwindSafe(|| live(seed, Hosts::Honest)));
    lived.unwrap_or_else(|_| Err("it panicked".to_owned())).unwrap_or_else(|broken| {
        panic!("{broken}\nlive it again with ATOLL_SIMULATION_SEED={seed}");
    })
}

#[test]
fn no_fault_loses_a_sandbox_or_runs_it_twice_and_all_is_right_again_afterwards() {
    if let Some(seed) = number("ATOLL_SIMULATION_SEED") {
        one(seed);
        return;
    }
    let long = Duration::from_secs(number("ATOLL_SIMULATION_SECONDS").unwrap_or(60));
    let (begin, mut lives, mut orphans) = (Instant::now(), 0_u32, 0);
    let mut hosts: BTreeMap<&str, u32> = BTreeMap::new();
    let mut became: BTreeMap<(SandboxStatus, SandboxStatus), u32> = BTreeMap::new();
    // Some that are always the same, then others each time.
    let mut seeds = (0..20).chain(std::iter::repeat_with(rand::random::<u64>));
    while lives < 20 || begin.elapsed() < long {
        let lived = one(seeds.next().expect("endless"));
        lives += 1;
        orphans += lived.orphans;
        for (what, times) in [
            ("deleted", lived.deleted),
            ("rebooted", lived.rebooted),
            ("robbed of its credentials", lived.robbed),
            ("enrolled again", lived.enrolled_again),
        ] {
            *hosts.entry(what).or_default() += times;
        }
        for (change, times) in lived.became {
            *became.entry(change).or_default() += times;
        }
    }
    println!("{lives} lives of a cluster, {orphans} orphans, hosts: {hosts:?}, changes of status: {became:?}");
    // What the invariants are about has happened, and often.
    for change in [(Starting, Running), (Running, Missing), (Missing, Running), (Missing, Paused), (Running, Stopped)] {
        assert!(became.get(&change).is_some_and(|times| *times > 20), "hardly ever: {change:?}");
    }
    assert!(orphans > 5, "hardly ever an orphan");
    assert!(hosts.values().all(|times| *times > 5), "hardly ever: {hosts:?}");
}

#[test]
fn hosts_that_leave_sandboxes_out_of_their_lists_are_found_out() {
    let broken = live(1, Hosts::Liars).err().expect("something that does not hold");
    assert!(broken.contains("while its process lives"), "{broken}");
}

#[test]
fn every_row_of_the_truth_table_holds_with_a_delete_a_pause_or_a_create_racing_it() {
    let mut broken = Vec::new();
    for case in TABLE {
        for meanwhile in Race::ALL {
            for moment in Moment::ALL {
                if let Err(error) = race(case, meanwhile, moment) {
                    broken.push(format!("{case:?}, {meanwhile:?} {moment:?}: {error}"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
