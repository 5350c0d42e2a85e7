//! Whose build goes on next at this replica: so many at once, a share of them per team. Who has fewer under way comes
//! first, then who came first, so that one team's long builds never hold up another's.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_model::TeamId;
use tokio::sync::oneshot;

/// Cheap to clone.
#[derive(Clone)]
pub struct Turns(Arc<Shared>);

struct Shared {
    at_once: usize,
    of_a_team: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: HashMap<TeamId, usize>,
    waiting: VecDeque<(TeamId, oneshot::Sender<Turn>)>,
}

/// Given back when it is dropped.
pub struct Turn {
    turns: Turns,
    team: TeamId,
}

impl Turns {
    #[must_use]
    pub fn new(at_once: usize, of_a_team: usize) -> Self {
        Self(Arc::new(Shared { at_once, of_a_team, state: Mutex::default() }))
    }

    /// Waits for a turn of the team's.
    pub async fn take(&self, team: &TeamId) -> Turn {
        loop {
            let (give, given) = oneshot::channel();
            self.state().waiting.push_back((team.clone(), give));
            self.give();
            // A sender is never dropped but with the queue; then there is another one to stand in.
            if let Ok(turn) = given.await {
                return turn;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives what turns there are. One that nobody takes any more comes back by being dropped, so that is done unlocked.
    fn give(&self) {
        loop {
            let (team, give) = {
                let mut state = self.state();
                let Some(next) = self.next(&state) else { return };
                let Some((team, give)) = state.waiting.remove(next) else { return };
                if give.is_closed() {
                    continue;
                }
                *state.running.entry(team.clone()).or_default() += 1;
                (team, give)
            };
            drop(give.send(Turn { turns: self.clone(), team }));
        }
    }

    fn next(&self, state: &State) -> Option<usize> {
        if state.running.values().sum::<usize>() >= self.0.at_once {
            return None;
        }
        let of = |team: &TeamId| state.running.get(team).copied().unwrap_or(0);
        let waiting = state.waiting.iter().enumerate().map(|(at, (team, _))| (of(team), at));
        waiting.filter(|(running, _)| *running < self.0.of_a_team).min().map(|(_, at)| at)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        if let Some(running) = state.running.get_mut(&self.team) {
            *running -= 1;
            if *running == 0 {
                state.running.remove(&self.team);
            }
        }
        drop(state);
        self.turns.give();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_team_with_many_builds_never_holds_up_one_with_few() {
        let turns = Turns::new(3, 2);
        let (many, few, third) = (TeamId::new(), TeamId::new(), TeamId::new());
        let first = turns.take(&many).await;
        let _second = turns.take(&many).await;
        let mut over_its_share = Box::pin(turns.take(&many));
        assert!((&mut over_its_share).now_or_never().is_none(), "a share is two");
        let other = turns.take(&few).now_or_never().expect("there is room for another team");
        let mut late = Box::pin(turns.take(&third));
        assert!((&mut late).now_or_never().is_none(), "three at once");
        // Who came later has fewer.
        drop(first);
        let late = late.now_or_never().expect("its turn");
        assert!((&mut over_its_share).now_or_never().is_none());
        drop((other, late));
        let third_of_many = over_its_share.now_or_never().expect("its turn at last");
        drop(third_of_many);
        assert!(turns.take(&many).now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_goes_away_while_waiting_or_just_called_takes_no_turn_along() {
        let turns = Turns::new(1, 1);
        let team = TeamId::new();
        let running = turns.take(&team).await;
        let mut called = Box::pin(turns.take(&team));
        let mut gone = Box::pin(turns.take(&team));
        assert!((&mut called).now_or_never().is_none() && (&mut gone).now_or_never().is_none());
        drop(gone);
        drop(running);
        // It was called, and goes away without having heard of it.
        drop(called);
        assert!(turns.take(&team).now_or_never().is_some());
    }
}
