//! The database is killed in the middle of work: requests are refused while it is away and none hangs, everything goes on
//! by itself afterwards, and nothing is half-written.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use atoll_client::{Client, Error};
use atoll_model::api::auth::Role;
use atoll_model::{TeamId, UserId};
use atoll_tests::cluster::{Cluster, tiny};
use atoll_tests::{invariants, until};
use tokio::task::JoinHandle;

const WORKERS: usize = 6;
/// Successes of each worker before the database is killed, and after it is back.
const ENOUGH: usize = 4;

/// What one worker has seen.
#[derive(Default)]
struct Seen {
    done: AtomicUsize,
    refused: AtomicUsize,
    end: AtomicBool,
}

impl Seen {
    /// What a request came to. Refusals say that it is not possible at the moment; anything else is a mistake.
    fn note<T>(&self, what: &str, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => {
                self.done.fetch_add(1, Ordering::Relaxed);
                return Some(value);
            }
            // 409: the first request with this key is under way still; 404: it was deleted, but the answer was lost.
            Err(Error::Api(error)) if matches!(error.status, 503 | 504) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(Error::Api(error)) if matches!(error.status, 404 | 409) => {}
            Err(error) => panic!("{what}: {error}"),
        }
        None
    }
}

/// Makes teams, and deletes most of them again. Answers those that it was told are there.
async fn teams(client: Client, seen: Arc<Seen>, worker: usize) -> BTreeSet<TeamId> {
    let mut there = BTreeSet::new();
    for number in 0.. {
        if seen.end.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("once-{worker}-{number}");
        let asking = client.once(&name);
        // Asked until it is done; the key makes one thing of it at most.
        let made = loop {
            let made = seen.note("making a team", asking.create_team(&name).await);
            if made.is_some() || seen.end.load(Ordering::Relaxed) {
                break made;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let Some(team) = made else { break };
        there.insert(team.id.clone());
        tokio::time::sleep(Duration::from_millis(5)).await;
        if number % 8 != 0 {
            while !seen.end.load(Ordering::Relaxed) {
                let deleted = client.delete_team(&team.id).await;
                let gone = deleted.as_ref().err().is_some_and(Error::is_not_found);
                // Whether it is gone can't be told from a refusal.
                there.remove(&team.id);
                if seen.note("deleting a team", deleted).is_some() || gone {
                    break;
                }
            }
        }
    }
    there
}

async fn keys(client: Client, seen: Arc<Seen>) {
    while !seen.end.load(Ordering::Relaxed) {
        if let Some(key) = seen.note("making a key", client.create_api_key("load").await) {
            seen.note("deleting a key", client.delete_api_key(&key.id).await);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn members(client: Client, seen: Arc<Seen>, team: TeamId, email: String, user: UserId) {
    // Only so many people are added in a minute.
    let added = |number: usize| number.is_multiple_of(64);
    for number in 0.. {
        if seen.end.load(Ordering::Relaxed) {
            break;
        }
        if added(number) {
            seen.note("adding a member", client.add_member(&team, &email, Role::Member).await);
        }
        let role = if number.is_multiple_of(2) { Role::Admin } else { Role::Member };
        seen.note("a new role", client.set_role(&team, &user, role).await);
        if added(number + 1) {
            seen.note("removing a member", client.remove_member(&team, &user).await);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn sandboxes(client: Client, seen: Arc<Seen>) {
    while !seen.end.load(Ordering::Relaxed) {
        if let Some(made) = seen.note("making a sandbox", client.create_sandbox(&tiny()).await) {
            seen.note("destroying a sandbox", client.destroy_sandbox(&made.id).await);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn looks(client: Client, seen: Arc<Seen>) {
    while !seen.end.load(Ordering::Relaxed) {
        seen.note("listing teams", client.list_teams().await);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn all(seen: &[Arc<Seen>], what: &str, enough: impl Fn(&Seen) -> bool) {
    until(what, || async { seen.iter().all(|seen| enough(seen)).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_killed_under_load_refuses_recovers_and_leaves_nothing_half_written() {
    let cluster = Cluster::start(2, 1).await;
    let balancer = cluster.balancer();
    let (admin, key) = (cluster.admin_at(&balancer.url()), cluster.client_at(&balancer.url()));
    let person = admin.create_user("someone@cluster.test", "Someone").await.expect("an account");
    let team = admin.me().await.expect("who I am").team_id;

    let seen: Vec<Arc<Seen>> = (0..WORKERS).map(|_| Arc::default()).collect();
    let of = |worker: usize| Arc::clone(&seen[worker]);
    let makers: Vec<JoinHandle<BTreeSet<TeamId>>> =
        (0..2).map(|worker| tokio::spawn(teams(admin.clone(), of(worker), worker))).collect();
    let others: Vec<JoinHandle<()>> = vec![
        tokio::spawn(keys(admin.clone(), of(2))),
        tokio::spawn(members(admin.clone(), of(3), team, person.email, person.user_id)),
        tokio::spawn(sandboxes(key, of(4))),
        tokio::spawn(looks(admin.clone(), of(5))),
    ];

    for round in 0..2 {
        let before: Vec<usize> = seen.iter().map(|seen| seen.done.load(Ordering::Relaxed)).collect();
        let progress = |count: &[usize]| {
            let (seen, count) = (seen.clone(), count.to_vec());
            move || seen.iter().zip(&count).all(|(seen, count)| seen.done.load(Ordering::Relaxed) >= count + ENOUGH)
        };
        let going = progress(&before);
        until(&format!("all to work, round {round}"), || async { going().then_some(()) }).await;
        seen.iter().for_each(|seen| seen.refused.store(0, Ordering::Relaxed));
        cluster.postgres.kill_9().await;
        all(&seen, "everybody to be refused", |seen| seen.refused.load(Ordering::Relaxed) > 0).await;
        cluster.postgres.run();
        let before: Vec<usize> = seen.iter().map(|seen| seen.done.load(Ordering::Relaxed)).collect();
        let going = progress(&before);
        until(&format!("all to work again, round {round}"), || async { going().then_some(()) }).await;
    }
    seen.iter().for_each(|seen| seen.end.store(true, Ordering::Relaxed));
    let mut there = BTreeSet::new();
    for maker in makers {
        there.extend(maker.await.expect("a worker"));
    }
    for other in others {
        other.await.expect("a worker");
    }

    // What was answered is so, what was asked for twice is there once, and nothing is half-written.
    let known: BTreeSet<TeamId> = admin.list_teams().await.expect("teams").items.into_iter().map(|t| t.id).collect();
    assert!(there.is_subset(&known), "answered and gone: {:?}", there.difference(&known));
    let twice = "SELECT name FROM teams WHERE name LIKE 'once-%' GROUP BY name HAVING COUNT(*) > 1";
    assert_eq!(cluster.postgres.query(twice), "");
    until("what was under way to have ended", || async {
        let left =
            "SELECT (SELECT COUNT(*) FROM idempotency_keys WHERE status IS NULL) + (SELECT COUNT(*) FROM sandboxes
             WHERE status IN ('pending', 'starting', 'pausing', 'resuming'))";
        (cluster.postgres.query(left) == "0").then_some(())
    })
    .await;
    assert_eq!(invariants::broken(&cluster.postgres), Vec::<String>::new());

    // Each replica is whole again: a change through one is told by the other.
    for replica in 0..2 {
        let mut stream = cluster.open_events(1 - replica).await;
        let name = format!("told by {}", 1 - replica);
        cluster.admin_of(replica).create_api_key(&name).await.expect("a key");
        stream.wait_for(&name).await;
    }
}
