//! The promises of the histories, on a machine that is only counted and a clock that is passed in.

use std::time::{Duration, Instant};

use atoll_rpc::atoll::host::v1 as wire;
use tempfile::TempDir;

use super::*;
use crate::config::Limits;
use crate::sandboxes::Records;
use crate::sandboxes::fake::FakeDriver;

/// A round quarter of an hour.
const BEGIN: u32 = 1_800_000_000;

struct House {
    dir: TempDir,
    machine: Arc<FakeDriver>,
    keeper: Keeper,
    history: History,
    started: Instant,
}

impl House {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let machine = Arc::new(FakeDriver::default());
        let records = Records::open(dir.path()).unwrap();
        let keeper = Keeper::new(dir.path(), records, machine.clone(), Limits::default(), 8 << 30).unwrap();
        keeper.recover(Vec::new(), Vec::new()).await;
        keeper.admit_orders();
        let history = History::open(dir.path(), keeper.clone(), machine.clone()).unwrap();
        Self { dir, machine, keeper, history, started: Instant::now() }
    }

    async fn created(&self) -> SandboxId {
        let id = SandboxId::new();
        let wish = wire::SandboxSpec {
            template: wire::Image { digest: "ab".repeat(32), ..Default::default() }.into(),
            vcpus: 1,
            memory_bytes: 64 << 20,
            disk_bytes: 1 << 30,
            ..Default::default()
        };
        self.keeper.create(id.clone(), 1, wish).await.unwrap();
        id
    }

    /// Samples every five seconds for `seconds` from `from` on, each with half a core more used than the one before.
    fn work(&self, id: &SandboxId, from: u32, seconds: u32) {
        for at in (from..from + seconds).step_by(5) {
            let cpu_usec = u64::from(at - BEGIN) * 500_000;
            self.machine.set_use(id, Use { cpu_usec, memory_bytes: 1 << 20, ..Use::default() });
            self.sample(at);
        }
    }

    fn sample(&self, at: u32) {
        let since = at - BEGIN;
        self.history.sample(u64::from(since / 5), at, self.started + Duration::from_secs(u64::from(since)));
    }

    fn reopened(&self) -> History {
        History::open(self.dir.path(), self.keeper.clone(), self.machine.clone()).unwrap()
    }
}

#[tokio::test]
async fn each_question_is_answered_by_the_finest_tier_that_reaches_back() {
    let house = House::new().await;
    let id = house.created().await;
    house.work(&id, BEGIN, 4 * 3600);
    let end = BEGIN + 4 * 3600;
    for (back, step, count) in [(300, 5, 60), (600, 5, 120), (3600, 60, 60), (7200, 60, 120), (4 * 3600, 900, 16)] {
        let (found, points) = house.history.read_at(&id, end - back, end, end).unwrap();
        assert_eq!((found, points.len()), (step, count), "{back} s");
        assert!(points.windows(2).all(|pair| pair[1].at - pair[0].at == step), "{back} s: a gap");
        let steady = points.iter().all(|point| (point.cpu_pct - 50.0).abs() < 0.1 && point.memory_bytes == 1 << 20);
        assert!(steady, "{back} s: {points:?}");
    }
    // Of a part of the time, that part.
    let (_, points) = house.history.read_at(&id, end - 300, end - 200, end).unwrap();
    assert!(points.iter().all(|point| (end - 300..=end - 200).contains(&point.at)) && points.len() == 21);
}

#[tokio::test]
async fn a_history_outlives_the_agent_and_a_crash_costs_the_last_minute_at_most() {
    let house = House::new().await;
    let id = house.created().await;
    house.work(&id, BEGIN, 1800);
    let end = BEGIN + 1800;
    let (_, before) = house.history.read_at(&id, end - 600, end, end).unwrap();
    // Killed: nothing is written at the end.
    let (_, after) = house.reopened().read_at(&id, end - 600, end, end).unwrap();
    assert!(before.len() - after.len() <= 12, "{} of {}", after.len(), before.len());
    assert_eq!(after, before[..after.len()]);
    // Ended in order: everything is.
    house.history.write_all();
    let (_, after) = house.reopened().read_at(&id, end - 600, end, end).unwrap();
    assert_eq!(after, before);
}

#[tokio::test]
async fn what_was_gathered_of_a_point_is_taken_up_again_by_the_next_agent() {
    let house = House::new().await;
    let id = house.created().await;
    house.work(&id, BEGIN, 600);
    house.history.write_all();
    let house = House { history: house.reopened(), ..house };
    house.work(&id, BEGIN + 600, 400);
    let end = BEGIN + 1000;
    let (step, points) = house.history.read_at(&id, BEGIN - 8000, end, end).unwrap();
    assert_eq!((step, points.len()), (900, 2));
    // All but the first readings of the two agents, which have nothing to compare with.
    assert_eq!((points[0].at, points[0].readings), (BEGIN, 178));
}

#[tokio::test]
async fn a_paused_sandbox_is_not_sampled_and_its_history_stays_readable() {
    let house = House::new().await;
    let id = house.created().await;
    house.work(&id, BEGIN, 120);
    house.keeper.pause(&id, 2, "user".to_owned()).await.unwrap();
    house.sample(BEGIN + 120);
    assert!(house.history.running().is_empty());
    let end = BEGIN + 300;
    let (_, points) = house.history.read_at(&id, BEGIN, end, end).unwrap();
    assert_eq!(points.len(), 23);
    assert_eq!(house.history.now(std::slice::from_ref(&id))[0].1.cpu_pct, 0.0);
    // Back at work: the time in which it stood still is no part of any mean.
    house.keeper.resume(&id, 3).await.unwrap();
    house.work(&id, BEGIN + 300, 60);
    let (_, points) = house.history.read_at(&id, BEGIN + 300, end + 60, end + 60).unwrap();
    assert_eq!(points.len(), 11);
    assert!(points.iter().all(|point| (point.cpu_pct - 50.0).abs() < 0.1));
}

#[tokio::test]
async fn a_sandbox_that_rests_is_read_whole_once_a_minute() {
    let house = House::new().await;
    let id = house.created().await;
    for at in (0..1200).step_by(5) {
        house.sample(BEGIN + at);
    }
    assert!((20..=22).contains(&house.machine.readings()), "{}", house.machine.readings());
    let end = BEGIN + 1200;
    let (_, points) = house.history.read_at(&id, end - 300, end, end).unwrap();
    assert_eq!(points.len(), 60);
}

#[tokio::test]
async fn the_history_of_a_sandbox_that_is_gone_goes_too() {
    let house = House::new().await;
    let (gone, stays) = (house.created().await, house.created().await);
    for id in [&gone, &stays] {
        house.work(id, BEGIN, 60);
    }
    house.history.write_all();
    std::fs::write(house.dir.path().join("metrics/nonsense"), b"x").unwrap();
    house.keeper.destroy(&gone, 2).await.unwrap();
    let mut changes = house.keeper.changes();
    while house.keeper.ids().contains(&gone) {
        changes.changed().await.unwrap();
    }
    house.sample(BEGIN + 60);
    let left: Vec<_> = std::fs::read_dir(house.dir.path().join("metrics")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].file_name().to_str(), Some(stays.as_str()));
}
