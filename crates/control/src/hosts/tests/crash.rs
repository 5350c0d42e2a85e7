//! Crashes: each operation is cut off at every point where it waits, which is where a crash, a kill or a client that
//! hangs up can find it. Whatever had been done by then, it must be all or nothing, and the way on must be open.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use super::*;
use atoll_model::HostStatus;

/// Polls the future so often and no more: nothing when it wasn't done by then.
pub(crate) async fn cut_off_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

#[tokio::test]
async fn a_registration_that_is_cut_off_anywhere_leaves_nothing_or_everything() {
    for rig in rigs().await {
        for polls in 0.. {
            let (id, token) = rig.new_host().await;
            let mut agent = Agent::new();
            let done = cut_off_after(polls, agent.register(&rig.hosts, &token)).await;
            // Another agent tries the same token: exactly one of the two has it.
            let mut second = Agent::new();
            let taken = second.register(&rig.hosts, &token).await;
            let row = crate::hosts::store::get(&rig.db, &id).await.unwrap().unwrap();
            assert_eq!(row.status.0, HostStatus::Online, "after {polls} polls");
            assert!(row.credential_family.is_some() && row.public_key.is_some());
            let tokens: (i64,) =
                on!(read & rig.db, |c| sqlx::query_as("SELECT COUNT(*) FROM host_refresh_tokens WHERE host_id = $1")
                    .bind(id.as_str())
                    .fetch_one(c)
                    .await)
                .unwrap();
            assert_eq!(tokens.0, 1, "after {polls} polls");
            match done {
                Some(result) => {
                    result.unwrap();
                    assert!(is_unauthorized(taken));
                    agent.beat(&rig.hosts).await.unwrap();
                    break;
                }
                None if taken.is_ok() => second.beat(&rig.hosts).await.unwrap(),
                None => assert!(is_unauthorized(taken), "after {polls} polls"),
            }
        }
    }
}

#[tokio::test]
async fn a_refresh_that_is_cut_off_anywhere_locks_nobody_out() {
    for rig in rigs().await {
        for polls in 0.. {
            let mut agent = rig.enrolled().await;
            let done = cut_off_after(polls, agent.present(&rig.hosts, &agent.credentials().refresh_token)).await;
            agent.beat(&rig.hosts).await.expect("the credentials it has work on");
            rig.clock.advance(DAY);
            agent.refresh(&rig.hosts).await.expect("and can still be refreshed");
            agent.beat(&rig.hosts).await.unwrap();
            if done.is_some() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_transaction_that_is_cut_off_while_it_begins_leaves_no_connection_inside_one() {
    for rig in rigs().await {
        let name = "cut_off";
        for round in 0..200 {
            drop(cut_off_after(round % 4, rig.db.begin()).await);
            // Were this written inside a leftover transaction, another connection would not see it.
            let now = rig.clock.now();
            crate::db::settings::set(&rig.db, name, &round.to_string(), now).await.unwrap();
            for _ in 0..4 {
                let seen = crate::db::settings::get(&rig.db, name).await.unwrap();
                assert_eq!(seen, Some(round.to_string()), "round {round} on {}", rig.db.kind());
            }
        }
    }
}
