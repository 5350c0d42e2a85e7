//! Whose turn it is to have a sandbox made: so many at once, and of one team not all of them.
//!
//! Each team waits in a line of its own for its part, and only then in the line of all: behind a team that asks for a
//! hundred at once, another waits for a few of them at most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use atoll_model::TeamId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Clone)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    /// What one team may have at once.
    each: usize,
    /// Of teams that have or await turns.
    teams: Arc<Mutex<HashMap<TeamId, Weak<Semaphore>>>>,
}

/// A turn. Given back when it is dropped.
pub(super) struct Turn {
    _of_team: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Turns {
    pub(super) fn new(all: usize) -> Self {
        let each = all - all / 4;
        Self { all: Arc::new(Semaphore::new(all)), each, teams: Arc::default() }
    }

    fn of(&self, team: &TeamId) -> Arc<Semaphore> {
        let mut teams = self.teams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = teams.get(team).and_then(Weak::upgrade) {
            return turns;
        }
        teams.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(self.each));
        teams.insert(team.clone(), Arc::downgrade(&turns));
        turns
    }

    /// Waits for a turn. None when there will be no more.
    pub(super) async fn next(&self, team: &TeamId) -> Option<Turn> {
        let of_team = self.of(team).acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Turn { _of_team: of_team, _of_all: of_all })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_team_gets_three_quarters_and_another_does_not_wait_behind_it() {
        let turns = Turns::new(4);
        let (one, other) = (TeamId::new(), TeamId::new());
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(turns.next(&one).await);
        }
        let mut waiting = Box::pin(turns.next(&one));
        assert!(waiting.as_mut().now_or_never().is_none(), "its part is used up");
        let theirs = turns.next(&other).now_or_never().expect("at once");
        assert!(turns.next(&other).now_or_never().is_none(), "all are used up");
        held.pop();
        assert!(waiting.now_or_never().is_some());
        drop((held, theirs));
        let only = Turns::new(1);
        let _one = only.next(&one).now_or_never().expect("one team may have the only turn");
        assert_eq!(turns.all.available_permits(), 4);
    }
}
