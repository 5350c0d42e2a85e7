//! How busy a team was: how many of its sandboxes ran at once, and how many started, over time.

use atoll_model::{SandboxStatus, TeamId};

use super::store::{self, Stretch};
use crate::db::{Db, DbError, Millis};

/// The farthest that one question may look: 31 days.
pub const MAX_RANGE_MS: i64 = 31 * 24 * 3600 * 1000;
/// Points that one answer aims at having at most.
const POINTS: i64 = 720;
/// Lengths of a point, in milliseconds: 5 s, 15 s, 1 min, 5 min, 15 min, 1 h.
const LENGTHS: [i64; 6] = [5_000, 15_000, 60_000, 300_000, 900_000, 3_600_000];

/// What happened between `at` and the next point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    pub at: Millis,
    /// The most sandboxes that ran at once.
    pub concurrent: u64,
    /// Sandboxes that began to run: made, or waking from a pause.
    pub starts: u64,
}

/// A range of time, cut into points of one length.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    from: i64,
    to: i64,
    /// Of a point, in milliseconds.
    pub length: i64,
}

impl Span {
    /// From `from` up to `to`. The points lie on whole multiples of their length, so that two questions see the same.
    #[must_use]
    pub fn new(from: Millis, to: Millis) -> Self {
        let range = to.0.saturating_sub(from.0);
        let length = LENGTHS.into_iter().find(|length| range / length <= POINTS).unwrap_or(LENGTHS[LENGTHS.len() - 1]);
        Self { from: from.0.div_euclid(length) * length, to: to.0, length }
    }

    fn points(&self) -> usize {
        usize::try_from((self.to - self.from + self.length - 1) / self.length).unwrap_or(0)
    }
}

/// How busy the team was.
pub async fn of_team(db: &Db, team: &TeamId, span: Span, now: Millis) -> Result<Vec<Activity>, DbError> {
    let span = Span { to: span.to.min(now.0 + 1), ..span };
    if span.to <= span.from {
        return Ok(Vec::new());
    }
    let mut count = Count::default();
    store::each_stretch(db, Some(team), (span.from, span.to), now, |stretch| count.add(&stretch)).await?;
    Ok(count.into_points(span))
}

/// Beginnings and ends of running, as they are read.
#[derive(Default)]
struct Count {
    /// When the number of running sandboxes changed, by how much, and whether that was a start.
    changes: Vec<(i64, i64, bool)>,
    /// Whether the sandbox that is being read could not run a moment ago because it was not made yet, or paused.
    stood: bool,
    in_sandbox: bool,
}

impl Count {
    fn add(&mut self, Stretch { step, until, last }: &Stretch) {
        use SandboxStatus::{Paused, Pausing, Pending, Resuming, Running, Starting};
        let status = step.status();
        if matches!(status, Running | Pausing | Resuming) {
            self.changes.push((step.at, 1, self.stood || !self.in_sandbox));
            self.changes.push((*until, -1, false));
        }
        // One that was missing and is back has been running all the while.
        self.stood = matches!(status, Pending | Starting | Paused);
        self.in_sandbox = !last;
    }

    fn into_points(mut self, span: Span) -> Vec<Activity> {
        // At one moment the ends come first: a step from one running status to the next is not two sandboxes.
        self.changes.sort_unstable();
        let mut changes = self.changes.into_iter().peekable();
        let mut running = 0_i64;
        while let Some((_, change, _)) = changes.next_if(|(at, ..)| *at < span.from) {
            running += change;
        }
        let mut points = Vec::with_capacity(span.points());
        let mut at = span.from;
        while at < span.to {
            let mut starts = 0;
            while let Some((_, change, start)) = changes.next_if(|(when, ..)| *when <= at) {
                running += change;
                starts += u64::from(start);
            }
            let mut most = running;
            while let Some((_, change, start)) = changes.next_if(|(when, ..)| *when < at + span.length) {
                running += change;
                most = most.max(running);
                starts += u64::from(start);
            }
            points.push(Activity { at: Millis(at), concurrent: u64::try_from(most).unwrap_or(0), starts });
            at += span.length;
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(runs: &[(i64, i64)]) -> Count {
        Count {
            changes: runs.iter().flat_map(|(from, to)| [(*from, 1, true), (*to, -1, false)]).collect(),
            ..Count::default()
        }
    }

    #[test]
    fn the_most_at_once_within_a_point_counts_and_what_runs_on_is_carried_over() {
        let span = Span::new(Millis(0), Millis(20_000));
        let points = count(&[(-7000, 12_000), (1000, 2000), (2000, 3000)]).into_points(span);
        let seen: Vec<_> = points.iter().map(|point| (point.at.0, point.concurrent, point.starts)).collect();
        assert_eq!(seen, [(0, 2, 2), (5000, 1, 0), (10_000, 1, 0), (15_000, 0, 0)]);
    }

    #[test]
    fn a_long_range_has_long_points() {
        for (hours, length) in
            [(1, 5000), (3, 15_000), (12, 60_000), (48, 300_000), (24 * 7, 900_000), (24 * 31, 3_600_000)]
        {
            let span = Span::new(Millis(1_000), Millis(1_000 + hours * 3_600_000));
            assert_eq!(span.length, length, "{hours} h");
            assert!(span.points() <= POINTS as usize + 25, "{} points", span.points());
        }
    }

    proptest! {
        #[test]
        fn no_moment_has_more_at_once_than_its_point_says(
            runs in proptest::collection::vec((0..100_000_i64, 1..50_000_i64), 0..30), when in 0..100_000_i64,
        ) {
            let runs: Vec<_> = runs.into_iter().map(|(from, length)| (from, from + length)).collect();
            let points = count(&runs).into_points(Span::new(Millis(0), Millis(200_000)));
            let running = runs.iter().filter(|(from, to)| (*from..*to).contains(&when)).count() as u64;
            prop_assert!(points[usize::try_from(when / 5000).unwrap()].concurrent >= running);
            prop_assert_eq!(points.iter().map(|point| point.starts).sum::<u64>(), runs.len() as u64);
        }
    }
}
