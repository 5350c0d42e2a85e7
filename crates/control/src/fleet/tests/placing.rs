//! Placement: what it adds to a scheduler.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use atoll_model::{HostType, TeamId};

use super::scheduling::{NOW, candidate, demand};
use crate::db::Millis;
use crate::fleet::{Candidate, CandidateSource, LeastLoaded, Limits, PlaceError, Placement, RoundRobin, Scheduler};

#[derive(Default)]
struct Source {
    hosts: Mutex<Vec<Candidate>>,
    asked: AtomicUsize,
}

#[derive(Clone, Default)]
struct Shared(Arc<Source>);

#[async_trait]
impl CandidateSource for Shared {
    type Error = std::io::Error;

    async fn candidates(&self) -> Result<Vec<Candidate>, std::io::Error> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        // Let the others come and wait.
        tokio::task::yield_now().await;
        Ok(self.0.hosts.lock().unwrap().clone())
    }

    fn now(&self) -> Millis {
        NOW
    }
}

fn placement(hosts: Vec<Candidate>, scheduler: Arc<dyn Scheduler>) -> (Shared, Placement<Shared>) {
    let source = Shared::default();
    *source.0.hosts.lock().unwrap() = hosts;
    (source.clone(), Placement::new(source, scheduler, Limits::default()))
}

#[tokio::test]
async fn many_creates_at_once_cost_one_query() {
    let hosts = (0..4).map(|_| candidate(HostType::Regular, None)).collect();
    let (source, placement) = placement(hosts, Arc::new(RoundRobin::default()));
    let demand = demand(&TeamId::new(), false);
    let placed = futures::future::join_all((0..100).map(|_| placement.place(&demand))).await;
    assert!(placed.into_iter().all(|result| result.is_ok()));
    assert_eq!(source.0.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_was_just_placed_takes_room_before_the_host_says_so() {
    // Room for four sandboxes of 512 MB: 512 MB with an overcommit of 4.
    let mut host = candidate(HostType::Regular, None);
    host.capacity.memory_mb = 512;
    let (_, placement) = placement(vec![host], Arc::new(LeastLoaded::default()));
    let demand = demand(&TeamId::new(), false);
    for _ in 0..4 {
        placement.place(&demand).await.unwrap();
    }
    assert!(matches!(placement.place(&demand).await, Err(PlaceError::NoHost(_))));
}

#[tokio::test]
async fn what_is_known_to_be_possible_is_not_refused_by_a_list_from_before() {
    let (source, placement) = placement(Vec::new(), Arc::new(RoundRobin::default()));
    let demand = demand(&TeamId::new(), false);
    assert!(placement.place(&demand).await.is_err());
    *source.0.hosts.lock().unwrap() = vec![candidate(HostType::Regular, None)];
    placement.can_be_placed(&demand);
    placement.place(&demand).await.unwrap();
    // A list that agrees is used on.
    let asked = source.0.asked.load(Ordering::SeqCst);
    placement.can_be_placed(&demand);
    placement.place(&demand).await.unwrap();
    assert_eq!((asked, source.0.asked.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn a_host_that_failed_a_create_is_passed_over_for_a_moment() {
    let hosts: Vec<_> = (0..3).map(|_| candidate(HostType::Regular, None)).collect();
    let (_, placement) = placement(hosts.clone(), Arc::new(RoundRobin::default()));
    let mut demand = demand(&TeamId::new(), false);
    let bad = placement.place(&demand).await.unwrap();
    placement.failed(&bad);
    for _ in 0..10 {
        assert_ne!(placement.place(&demand).await.unwrap(), bad);
    }
    // When all others have been tried it is better than none; and nobody is tried twice by one create.
    demand.tried = hosts.iter().map(|host| host.id.clone()).filter(|id| *id != bad).collect();
    assert_eq!(placement.place(&demand).await.unwrap(), bad);
    demand.tried.push(bad);
    let Err(PlaceError::NoHost(none)) = placement.place(&demand).await else { panic!("placed") };
    assert_eq!(none.considered, 3);
}
