//! Waiting in time that the sandbox is awake.
//!
//! A sandbox may be paused, for hours: the clock goes on, but nothing inside does. A program that was given a minute
//! shall still have its minute after that. So a long wait is made of short ones, and one that took much longer than it
//! should have counts as little more than it should have.

use std::time::{Duration, Instant};

/// The length of one short wait.
const SLICE: Duration = Duration::from_secs(5);
/// What a slice may take longer, on a busy machine, and still count in full.
const SLACK: Duration = Duration::from_secs(2);

/// Waits until `limit` would come if the time in which the sandbox is paused from now on didn't count.
pub async fn sleep_until(limit: Instant) {
    let mut left = limit.saturating_duration_since(Instant::now());
    while !left.is_zero() {
        let slice = left.min(SLICE);
        let begun = Instant::now();
        tokio::time::sleep(slice).await;
        left -= counted(slice, begun.elapsed()).min(left);
    }
}

fn counted(slice: Duration, took: Duration) -> Duration {
    took.min(slice + SLACK)
}

/// The same for a limit that may not be there; without one it never comes.
pub async fn sleep_until_some(limit: Option<Instant>) {
    match limit {
        Some(limit) => sleep_until(limit).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_as_little_and_a_busy_machine_in_full() {
        assert_eq!(counted(SLICE, SLICE + Duration::from_secs(1)), SLICE + Duration::from_secs(1));
        assert_eq!(counted(SLICE, Duration::from_secs(3600)), SLICE + SLACK);
        assert_eq!(counted(Duration::from_millis(1), Duration::from_millis(2)), Duration::from_millis(2));
    }

    #[tokio::test]
    async fn a_limit_that_has_passed_is_not_waited_for() {
        sleep_until(Instant::now()).await;
    }
}
