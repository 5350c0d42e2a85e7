//! Properties of the schedulers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use atoll_model::api::hosts::Capacity;
use atoll_model::{HostId, HostStatus, HostType, TeamId};
use proptest::prelude::*;

use crate::db::Millis;
use crate::fleet::scheduler::Objection;
use crate::fleet::{Candidate, Demand, HostList, LeastLoaded, Limits, RoundRobin, Scheduler};

pub const NOW: Millis = Millis(1_000_000_000);

pub fn demand(team: &TeamId, byoc: bool) -> Demand {
    Demand {
        team: team.clone(),
        team_is_byoc: byoc,
        driver: "container".to_owned(),
        vm_version: None,
        vcpus: 1,
        memory_mb: 512,
        disk_mb: 1024,
        image: None,
        only: None,
        volumes_on: None,
        tried: Vec::new(),
    }
}

pub fn candidate(kind: HostType, team: Option<TeamId>) -> Candidate {
    Candidate {
        id: HostId::new(),
        kind,
        team,
        status: HostStatus::Online,
        draining: false,
        ready: true,
        drivers: vec!["container".to_owned()],
        vm_version: None,
        capacity: Capacity { cpu_millis: 4000, memory_mb: 8192, disk_mb: 102_400 },
        committed: Capacity::default(),
        last_heartbeat_at: Some(NOW),
        cached_images: Vec::new(),
        resting: false,
    }
}

fn list(hosts: Vec<Candidate>) -> HostList {
    HostList::new(hosts, NOW, Limits::default())
}

fn schedulers() -> [Box<dyn Scheduler>; 2] {
    [Box::new(RoundRobin::default()), Box::new(LeastLoaded::default())]
}

/// Any host of any kind in any state.
fn any_candidate(teams: Vec<TeamId>) -> impl Strategy<Value = Candidate> {
    let status = prop_oneof![Just(HostStatus::Online), Just(HostStatus::Unreachable), Just(HostStatus::Offline)];
    let owner = prop_oneof![Just(None), (0..teams.len()).prop_map(move |index| Some(teams[index].clone()))];
    (owner, status, any::<[bool; 4]>(), 0..20_000u64, 0..9_000u64, 0..200_000i64).prop_map(
        |(owner, status, [draining, ready, vm_only, resting], cpu, memory, age)| Candidate {
            status,
            draining: draining && ready,
            ready,
            drivers: vec![if vm_only && !ready { "vm" } else { "container" }.to_owned()],
            committed: Capacity { cpu_millis: cpu * 10, memory_mb: memory * 5, disk_mb: 0 },
            last_heartbeat_at: Some(Millis(NOW.0 - age)),
            resting: resting && draining,
            ..candidate(if owner.is_some() { HostType::Byoc } else { HostType::Regular }, owner)
        },
    )
}

fn any_hosts() -> impl Strategy<Value = (Vec<TeamId>, Vec<Candidate>)> {
    let teams: Vec<TeamId> = (0..3).map(|_| TeamId::new()).collect();
    prop::collection::vec(any_candidate(teams.clone()), 0..40).prop_map(move |hosts| (teams.clone(), hosts))
}

proptest! {
    #[test]
    fn a_team_never_lands_on_a_host_that_is_not_for_it((teams, hosts) in any_hosts(), byoc: bool, who in 0..3usize) {
        let list = list(hosts);
        for scheduler in schedulers() {
            for _ in 0..10 {
                let Ok(id) = scheduler.pick(&demand(&teams[who], byoc), &list) else { break };
                let host = list.hosts.iter().find(|host| host.id == id).unwrap();
                if byoc {
                    prop_assert_eq!(host.kind, HostType::Byoc);
                    prop_assert_eq!(host.team.as_ref(), Some(&teams[who]));
                } else {
                    prop_assert_eq!(host.kind, HostType::Regular);
                }
            }
        }
    }

    #[test]
    fn only_eligible_hosts_are_picked_and_one_is_whenever_there_is_any((teams, hosts) in any_hosts(), byoc: bool) {
        let list = list(hosts);
        let demand = demand(&teams[0], byoc);
        let eligible: HashSet<_> =
            list.hosts.iter().filter(|host| list.objection(&demand, host).is_none()).map(|host| &host.id).collect();
        for scheduler in schedulers() {
            match scheduler.pick(&demand, &list) {
                Ok(id) => prop_assert!(eligible.contains(&id)),
                Err(none) => {
                    prop_assert!(eligible.is_empty());
                    let counted: usize = none.failed.iter().map(|(_, count)| count).sum();
                    prop_assert_eq!(counted, none.considered);
                    prop_assert!(none.failed.iter().all(|(what, _)| *what != Objection::NotForTeam));
                }
            }
        }
    }

    /// Whatever it remembers of the list: with promises added between picks, it finds what looking at each host finds.
    #[test]
    fn least_loaded_finds_what_looking_at_every_host_would_find(
        (teams, mut hosts) in any_hosts(), cached in prop::collection::vec(any::<bool>(), 40), picks in 1..12usize,
    ) {
        for (host, cached) in hosts.iter_mut().zip(cached) {
            host.cached_images = if cached { vec!["wanted".to_owned()] } else { Vec::new() };
        }
        let mut list = list(hosts);
        let demand = Demand { image: Some("wanted".to_owned()), ..demand(&teams[0], false) };
        let scheduler = LeastLoaded::default();
        for _ in 0..picks {
            let rank = |host: &Candidate| {
                let share = |used: u64, have: u64, factor: u64| used * 1000 / (have * factor);
                let (used, have, times) = (&host.committed, &host.capacity, &list.limits.overcommit);
                let load = share(used.cpu_millis, have.cpu_millis, times.cpu)
                    .max(share(used.memory_mb, have.memory_mb, times.memory))
                    .max(share(used.disk_mb, have.disk_mb, times.disk));
                (load, host.cached_images.is_empty())
            };
            let best = list.hosts.iter().filter(|host| list.objection(&demand, host).is_none()).map(rank).min();
            let picked = scheduler.pick(&demand, &list).ok();
            let place = picked.as_ref().and_then(|id| list.hosts.iter().position(|host| &host.id == id));
            prop_assert_eq!(place.map(|place| rank(&list.hosts[place])), best);
            let Some(place) = place else { break };
            list.promise(place, &Capacity { cpu_millis: 2000, memory_mb: 512, disk_mb: 1024 });
        }
    }

    #[test]
    fn round_robin_gives_each_host_its_turn_whatever_comes_and_goes(
        stay in 1..8usize, rounds in 1..20usize, churn in prop::collection::vec(any::<bool>(), 0..20),
    ) {
        let team = TeamId::new();
        let scheduler = RoundRobin::default();
        let mut hosts: Vec<_> = (0..stay).map(|_| candidate(HostType::Regular, None)).collect();
        let mut given: HashMap<HostId, usize> = HashMap::new();
        let mut picks = 0;
        for round in 0..rounds {
            // Hosts join and leave between rounds.
            if churn.get(round).copied().unwrap_or(false) {
                hosts.truncate(stay);
                hosts.push(candidate(HostType::Regular, None));
            }
            let list = list(hosts.clone());
            for _ in 0..list.hosts.len() {
                *given.entry(scheduler.pick(&demand(&team, false), &list).unwrap()).or_default() += 1;
                picks += 1;
            }
        }
        for host in &hosts[..stay] {
            let turns = given.get(&host.id).copied().unwrap_or(0);
            // One pick of a round may belong to another round's turn.
            prop_assert!(turns + 1 >= rounds && turns <= rounds + 1, "{} turns in {} rounds, {} picks", turns, rounds, picks);
        }
    }
}

/// Demands of every kind between one another take no turn from the others.
#[test]
fn turns_are_a_groups_own_and_whoever_has_no_choice_takes_none() {
    let (team, owner) = (TeamId::new(), TeamId::new());
    for scheduler in schedulers() {
        let mut hosts: Vec<_> = (0..3).map(|_| candidate(HostType::Regular, None)).collect();
        hosts.extend((0..2).map(|_| candidate(HostType::Byoc, Some(owner.clone()))));
        let list = list(hosts.clone());
        let mut given: HashMap<HostId, usize> = HashMap::new();
        for _ in 0..30 {
            *given.entry(scheduler.pick(&demand(&team, false), &list).unwrap()).or_default() += 1;
            let pinned = Demand { only: Some(hosts[0].id.clone()), ..demand(&team, false) };
            assert_eq!(scheduler.pick(&pinned, &list).unwrap(), hosts[0].id);
            *given.entry(scheduler.pick(&demand(&owner, true), &list).unwrap()).or_default() += 1;
        }
        assert_eq!(hosts.iter().map(|host| given[&host.id]).collect::<Vec<_>>(), [10, 10, 10, 15, 15]);
    }
}

#[test]
fn round_robin_is_fair_under_concurrency() {
    let team = TeamId::new();
    let list = Arc::new(list((0..7).map(|_| candidate(HostType::Regular, None)).collect()));
    let scheduler = Arc::new(RoundRobin::default());
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (list, scheduler, demand) = (Arc::clone(&list), Arc::clone(&scheduler), demand(&team, false));
            std::thread::spawn(move || (0..700).map(|_| scheduler.pick(&demand, &list).unwrap()).collect::<Vec<_>>())
        })
        .collect();
    let mut given: HashMap<HostId, usize> = HashMap::new();
    for id in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
        *given.entry(id).or_default() += 1;
    }
    assert!(given.values().all(|turns| *turns == 800), "{given:?}");
}

#[test]
fn least_loaded_takes_the_emptiest_and_among_equals_one_that_has_the_image() {
    let team = TeamId::new();
    let mut hosts: Vec<_> = (0..3).map(|_| candidate(HostType::Regular, None)).collect();
    hosts[0].committed.memory_mb = 8000;
    hosts[2].cached_images = vec!["image".to_owned()];
    let wanted = hosts[2].id.clone();
    let mut demand = demand(&team, false);
    demand.image = Some("image".to_owned());
    let scheduler = LeastLoaded::default();
    assert_eq!(scheduler.pick(&demand, &list(hosts.clone())).unwrap(), wanted);
    hosts[2].committed.memory_mb = 8000;
    assert_eq!(scheduler.pick(&demand, &list(hosts.clone())).unwrap(), hosts[1].id);
}

#[test]
fn no_host_says_which_test_failed_for_how_many() {
    let team = TeamId::new();
    let mut hosts: Vec<_> = (0..5).map(|_| candidate(HostType::Regular, None)).collect();
    hosts[0].draining = true;
    hosts[1].committed.memory_mb = 4 * 8192;
    hosts[2].committed.memory_mb = 4 * 8192;
    hosts[3].status = HostStatus::Unreachable;
    hosts[4].kind = HostType::Byoc;
    hosts[4].team = Some(TeamId::new());
    let none = RoundRobin::default().pick(&demand(&team, false), &list(hosts)).unwrap_err();
    assert_eq!(none.considered, 4, "other teams' hosts are not even counted");
    let text = none.to_string();
    assert!(text.contains("1 draining") && text.contains("2 no_memory") && text.contains("1 not_online"), "{text}");
}

#[test]
fn a_sandbox_goes_where_its_volumes_lie_or_nowhere() {
    let team = TeamId::new();
    let mut hosts: Vec<_> = (0..3).map(|_| candidate(HostType::Regular, None)).collect();
    let mut demand = demand(&team, false);
    demand.volumes_on = Some(hosts[1].id.clone());
    for scheduler in schedulers() {
        assert_eq!(scheduler.pick(&demand, &list(hosts.clone())).unwrap(), hosts[1].id);
    }
    hosts[1].draining = true;
    let none = RoundRobin::default().pick(&demand, &list(hosts)).unwrap_err().to_string();
    assert!(none.contains("2 lacks_volumes") && none.contains("1 draining"), "{none}");
}

#[test]
fn equal_hosts_fill_evenly_under_least_loaded() {
    let team = TeamId::new();
    let list = list((0..5).map(|_| candidate(HostType::Regular, None)).collect());
    let scheduler = LeastLoaded::default();
    let mut given: HashMap<HostId, usize> = HashMap::new();
    for _ in 0..50 {
        *given.entry(scheduler.pick(&demand(&team, false), &list).unwrap()).or_default() += 1;
    }
    assert!(given.len() == 5 && given.values().all(|turns| *turns == 10), "{given:?}");
}

#[test]
fn what_was_in_memory_goes_on_where_machines_run_on_the_same_or_nowhere() {
    let team = TeamId::new();
    let mut hosts: Vec<_> = (0..4).map(|_| candidate(HostType::Regular, None)).collect();
    for (host, version) in hosts.iter_mut().zip([None, Some("QEMU 7"), Some("QEMU 8"), Some("QEMU 8")]) {
        host.drivers.push("vm".to_owned());
        host.vm_version = version.map(str::to_owned);
    }
    let wanted = |version: Option<&str>| Demand {
        driver: "vm".to_owned(),
        vm_version: version.map(str::to_owned),
        ..demand(&team, false)
    };
    let pick = |hosts: &[Candidate], version: Option<&str>| {
        schedulers().map(|scheduler| scheduler.pick(&wanted(version), &list(hosts.to_vec())))
    };
    for picked in pick(&hosts, Some("QEMU 7")) {
        assert_eq!(picked.unwrap(), hosts[1].id);
    }
    for picked in pick(&hosts, Some("QEMU 8")) {
        assert!([&hosts[2].id, &hosts[3].id].contains(&&picked.unwrap()));
    }
    for picked in pick(&hosts, None) {
        assert!(picked.is_ok(), "files start anywhere");
    }
    // One that has it takes nothing now: that may change.
    hosts[1].draining = true;
    for none in pick(&hosts, Some("QEMU 7")) {
        let none = none.unwrap_err();
        assert_eq!(none.unknown_vm_version(), None);
        let text = none.to_string();
        assert!(
            text.contains("1 draining") && text.contains("3 other_vm_version") && text.contains("`QEMU 7`"),
            "{text}"
        );
    }
    for none in pick(&hosts, Some("QEMU 9")) {
        let none = none.unwrap_err();
        assert_eq!(none.unknown_vm_version(), Some("QEMU 9"));
        assert!(none.to_string().contains("`QEMU 9`, which no host has (of 4 considered)"), "{none}");
    }
    // Hosts that are not the team's change nothing, and there are none at all.
    let none = RoundRobin::default().pick(&wanted(Some("QEMU 7")), &list(Vec::new())).unwrap_err();
    assert_eq!(none.unknown_vm_version(), None);
    assert!(none.to_string().contains("there is no host yet"), "{none}");
}
