//! From a sandbox's life to what it spent on each day. Plain arithmetic.

use std::collections::BTreeMap;

use atoll_model::SandboxStatus;
use atoll_model::api::teams::UsageDay;
use chrono::NaiveDate;

pub const DAY_MS: i64 = 24 * 3600 * 1000;

/// What was spent on one day, in units times milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, sqlx::FromRow)]
pub struct Spent {
    pub sandboxes: i64,
    pub sandbox_ms: i64,
    pub vcpu_ms: i64,
    pub memory_mb_ms: i64,
    pub disk_mb_ms: i64,
}

impl Spent {
    #[must_use]
    pub fn into_api(self, date: NaiveDate) -> UsageDay {
        let whole = |value: i64| u64::try_from(value).unwrap_or(0);
        #[allow(clippy::cast_precision_loss, reason = "seconds, for people")]
        let seconds = |value: i64| value as f64 / 1000.0;
        UsageDay {
            date: date.to_string(),
            sandboxes: whole(self.sandboxes),
            sandbox_seconds: seconds(self.sandbox_ms),
            vcpu_seconds: seconds(self.vcpu_ms),
            memory_mb_seconds: seconds(self.memory_mb_ms),
            disk_mb_seconds: seconds(self.disk_mb_ms),
        }
    }
}

/// What a sandbox was promised.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub vcpus: i64,
    pub memory_mb: i64,
    pub disk_mb: i64,
}

/// Adds to `days` what a sandbox of this size spent between `from` and `to` of the days `first..=last`, in `status`.
pub fn spend(
    days: &mut BTreeMap<i64, Spent>,
    size: Size,
    status: SandboxStatus,
    from: i64,
    to: i64,
    (first, last): (i64, i64),
) {
    use SandboxStatus::{Paused, Pausing, Resuming, Running, Stopped};
    if status == Stopped {
        return;
    }
    let runs = matches!(status, Running | Pausing | Resuming);
    let keeps_memory = runs || status == Paused;
    let (start, end) = (from.max(first * DAY_MS), to.min((last + 1) * DAY_MS));
    let mut at = start;
    while at < end {
        let day = at.div_euclid(DAY_MS);
        let until = end.min((day + 1) * DAY_MS);
        let time = until - at;
        let spent = days.entry(day).or_default();
        spent.disk_mb_ms = spent.disk_mb_ms.saturating_add(time.saturating_mul(size.disk_mb));
        if keeps_memory {
            spent.memory_mb_ms = spent.memory_mb_ms.saturating_add(time.saturating_mul(size.memory_mb));
        }
        if runs {
            spent.sandbox_ms = spent.sandbox_ms.saturating_add(time);
            spent.vcpu_ms = spent.vcpu_ms.saturating_add(time.saturating_mul(size.vcpus));
        }
        at = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: Size = Size { vcpus: 2, memory_mb: 512, disk_mb: 100 };

    #[test]
    fn a_night_is_split_at_midnight() {
        let mut days = BTreeMap::new();
        spend(&mut days, SIZE, SandboxStatus::Running, DAY_MS - 1000, DAY_MS + 500, (0, 9));
        assert_eq!((days[&0].vcpu_ms, days[&1].vcpu_ms), (2000, 1000));
        assert_eq!((days[&0].memory_mb_ms, days[&1].disk_mb_ms), (512_000, 50_000));
    }

    #[test]
    fn a_pause_keeps_memory_and_disk_and_the_end_nothing() {
        let mut days = BTreeMap::new();
        spend(&mut days, SIZE, SandboxStatus::Paused, 0, 1000, (0, 0));
        spend(&mut days, SIZE, SandboxStatus::Stopped, 1000, 2000, (0, 0));
        assert_eq!((days[&0].vcpu_ms, days[&0].memory_mb_ms, days[&0].disk_mb_ms), (0, 512_000, 100_000));
    }

    proptest! {
        #[test]
        fn no_moment_is_lost_or_counted_twice(cuts in proptest::collection::vec(0..20 * DAY_MS, 2..20)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let (mut pieces, mut whole) = (BTreeMap::new(), BTreeMap::new());
            for pair in cuts.windows(2) {
                spend(&mut pieces, SIZE, SandboxStatus::Running, pair[0], pair[1], (3, 12));
            }
            spend(&mut whole, SIZE, SandboxStatus::Running, cuts[0], cuts[cuts.len() - 1], (3, 12));
            prop_assert_eq!(pieces, whole);
        }
    }
}
