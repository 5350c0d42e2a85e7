//! Whether the export gets through: when to try again, and what to say of it once.

use std::time::Duration;

use super::send::Failure;
use crate::db::Millis;

/// Between two tries, whatever the collector wishes and however long it is away.
const LONGEST_WISH: Duration = Duration::from_secs(3600);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What came of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// Some of it was not taken, and won't be if it is sent again.
    Partly(String),
    Failed(Failure),
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Delivered,
    Partly,
    Failed,
}

#[derive(Debug, Default)]
pub struct Health {
    state: State,
    /// Rounds that failed since the last one that did not.
    failures: u32,
    /// Nothing is sent before.
    rest_until: Option<Millis>,
}

impl Health {
    pub fn rests(&self, now: Millis) -> bool {
        self.rest_until.is_some_and(|until| now < until)
    }

    /// Takes a round's outcome in. True when it is of another kind than the one before: then it is worth a line.
    pub fn take(&mut self, verdict: &Verdict, now: Millis, interval: Duration) -> bool {
        let state = match verdict {
            Verdict::Delivered => State::Delivered,
            Verdict::Partly(_) => State::Partly,
            Verdict::Failed(_) => State::Failed,
        };
        (self.failures, self.rest_until) = match verdict {
            Verdict::Failed(failure) => {
                let failures = self.failures.saturating_add(1);
                (failures, Some(now + pause(failures, failure.retry_after, interval)))
            }
            _ => (0, None),
        };
        let changed = self.state != state;
        self.state = state;
        changed
    }
}

/// How long to rest after so many failures. The first one costs no round, then pauses double; they differ by up to a fifth,
/// so that replicas don't come all at once.
fn pause(failures: u32, wish: Option<Duration>, interval: Duration) -> Duration {
    let doubled = interval.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)).saturating_sub(1));
    let own = doubled.min(LONGEST_PAUSE).mul_f64(rand::random_range(0.8..1.2));
    own.max(wish.unwrap_or_default().min(LONGEST_WISH))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn failed(retry_after: Option<Duration>) -> Verdict {
        Verdict::Failed(Failure { reason: "away".to_owned(), retry_after })
    }

    #[test]
    fn only_a_change_is_worth_a_line() {
        let mut health = Health::default();
        let partly = Verdict::Partly(String::new());
        let verdicts = [
            (Verdict::Delivered, false),
            (failed(None), true),
            (failed(None), false),
            (Verdict::Delivered, true),
            (Verdict::Delivered, false),
            (partly.clone(), true),
            (partly, false),
            (failed(None), true),
        ];
        for (at, (verdict, line)) in verdicts.into_iter().enumerate() {
            assert_eq!(health.take(&verdict, Millis(0), MINUTE), line, "{at}: {verdict:?}");
        }
    }

    #[test]
    fn pauses_grow_to_a_bound_and_end_with_the_first_round_that_gets_through() {
        let mut health = Health::default();
        let now = Millis(1_000_000);
        health.take(&failed(None), now, MINUTE);
        assert!(!health.rests(now), "the next round is tried");
        health.take(&failed(None), now, MINUTE);
        assert!(health.rests(now + MINUTE.mul_f64(0.79)) && !health.rests(now + MINUTE.mul_f64(1.21)));
        for _ in 0..100 {
            health.take(&failed(None), now, MINUTE);
        }
        assert!(health.rests(now + LONGEST_PAUSE.mul_f64(0.79)) && !health.rests(now + LONGEST_PAUSE.mul_f64(1.21)));
        health.take(&Verdict::Delivered, now, MINUTE);
        assert!(!health.rests(now));
    }

    #[test]
    fn a_collector_is_left_alone_for_as_long_as_it_wishes_but_not_for_ever() {
        let mut health = Health::default();
        let now = Millis(1_000_000);
        health.take(&failed(Some(Duration::from_secs(90))), now, MINUTE);
        assert!(health.rests(now + Duration::from_secs(89)) && !health.rests(now + Duration::from_secs(90)));
        health.take(&failed(Some(Duration::from_secs(u64::MAX))), now, MINUTE);
        assert!(!health.rests(now + LONGEST_WISH));
    }
}
