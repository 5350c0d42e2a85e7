//! Who may launch now: a bounded number at a time, a bounded number that wait, and not forever.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::error::OrderError;

#[derive(Debug)]
pub struct Admission {
    parallel: usize,
    turns: Arc<Semaphore>,
    waiting: Semaphore,
    wait: Duration,
    limit: usize,
}

impl Admission {
    #[must_use]
    pub fn new(parallel: usize, waiting: usize, wait: Duration) -> Self {
        Self {
            parallel,
            turns: Arc::new(Semaphore::new(parallel)),
            waiting: Semaphore::new(waiting),
            wait,
            limit: waiting,
        }
    }

    /// Waits for a turn; it lasts until the permit is dropped.
    ///
    /// # Errors
    /// `Busy` when too many wait or the wait was too long, `Destroyed` when it is no longer wanted.
    pub async fn turn(&self, give_up: &CancellationToken) -> Result<OwnedSemaphorePermit, OrderError> {
        if let Ok(turn) = self.turns.clone().try_acquire_owned() {
            return Ok(turn);
        }
        let busy = |reason| OrderError::Busy { reason };
        let _place = self.waiting.try_acquire().map_err(|_| busy(format!("{} launches wait already", self.limit)))?;
        tokio::select! {
            turn = self.turns.clone().acquire_owned() => turn.map_err(|_| busy("the agent shuts down".to_owned())),
            () = tokio::time::sleep(self.wait) => Err(busy(format!("no turn to launch within {:?}", self.wait))),
            () = give_up.cancelled() => Err(OrderError::Destroyed),
        }
    }

    /// Whether nobody launches.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.turns.available_permits() == self.parallel
    }

    /// Waits for a turn as long as it takes: for sandboxes that come back after a reboot.
    pub async fn patient_turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turns.clone().acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn beyond_the_bounds_a_launch_is_refused_with_the_reason() {
        let admission = Admission::new(1, 1, Duration::from_millis(1));
        let never = CancellationToken::new();
        let turn = admission.turn(&never).await.unwrap();
        assert!(matches!(admission.turn(&never).await, Err(OrderError::Busy { .. })));
        drop(turn);
        let _turn = admission.turn(&never).await.unwrap();
    }

    #[tokio::test]
    async fn one_that_waits_gives_up_when_its_sandbox_is_destroyed() {
        let admission = Admission::new(1, 1, Duration::from_secs(3600));
        let give_up = CancellationToken::new();
        let _turn = admission.turn(&give_up).await.unwrap();
        give_up.cancel();
        assert_eq!(admission.turn(&give_up).await.unwrap_err(), OrderError::Destroyed);
    }

    #[tokio::test]
    async fn a_queue_that_is_full_refuses_at_once() {
        let admission = Arc::new(Admission::new(1, 0, Duration::from_secs(3600)));
        let never = CancellationToken::new();
        let _turn = admission.turn(&never).await.unwrap();
        assert!(matches!(admission.turn(&never).await, Err(OrderError::Busy { .. })));
    }
}
