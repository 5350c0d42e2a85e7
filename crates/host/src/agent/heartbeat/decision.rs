//! What an agent does about each answer of control: a state machine without I/O, over a clock that is passed in.
//!
//! ```text
//!            accepted                      refused                       rejected
//!  Contact ------------> Contact  ------------------> refresh ------------------------> Rejected (all paused)
//!     |                     ^                            | renewed                          | accepted (enrolled again,
//!     | no answer           +----------------------------+                                  |  or control thought again)
//!     v                     |                                                               v
//!  Contact, backing off; after `disconnect_after`: all paused once           ... --------> Contact
//!  any state -- signed tombstone --> forget everything
//! ```
//!
//! The machine never resumes anything: that is control's order alone. Time is milliseconds on a clock that goes on while
//! the machine sleeps and is never set back.

use std::time::Duration;

use crate::config::OnDisconnect;

/// Milliseconds on the boot-time clock.
pub type Millis = u64;

/// What the loop has just learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// 204.
    Accepted,
    /// 401 or 403 to a heartbeat.
    Refused,
    /// Timeout, connection error, 5xx, or an answer that can't be control's own.
    NoAnswer,
    /// The refresh brought new credentials.
    Renewed,
    /// 401 to a refresh, with all credentials that the host has.
    Rejected,
    /// The refresh brought no answer that counts.
    RefreshFailed,
    /// A tombstone that was verified.
    Deleted,
}

/// What the loop does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Beat(Duration),
    Refresh(Duration),
    /// Destroy all sandboxes, forget the credentials, end.
    Forget,
}

/// Why all sandboxes are to be paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseCause {
    ContactLost,
    Rejected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub interval: Duration,
    pub disconnect_after: Duration,
    pub on_disconnect: OnDisconnect,
}

/// Where the host stands with control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    timing: Timing,
    last_contact: Millis,
    failures: u32,
    /// Renewals since a heartbeat was last accepted.
    renewals: u32,
    rejected: bool,
    paused: Option<PauseCause>,
}

/// The first wait after a failure, and how often it doubles at most.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Between two attempts of a host whose credentials were rejected: it may learn that it was deleted, or let in again.
const REJECTED_INTERVAL: Duration = Duration::from_secs(60);

impl Contact {
    /// `last_contact` and `paused` come from disk when an earlier agent process left them.
    #[must_use]
    pub const fn new(timing: Timing, last_contact: Millis, paused: Option<PauseCause>) -> Self {
        let rejected = matches!(paused, Some(PauseCause::Rejected));
        Self { timing, last_contact, failures: 0, renewals: 0, rejected, paused }
    }

    /// Takes note of what was learnt at `now`. `jitter` is in -1.0..=1.0.
    pub fn observe(&mut self, now: Millis, observation: Observation, jitter: f64) -> Next {
        match observation {
            Observation::Accepted => {
                self.last_contact = now;
                self.failures = 0;
                self.renewals = 0;
                self.rejected = false;
                // What was paused is resumed by control's order; a later loss pauses again.
                self.paused = None;
                Next::Beat(self.interval(jitter))
            }
            // New credentials that are refused again and again must not turn into a storm.
            Observation::Refused if self.renewals > 0 => Next::Refresh(self.backoff(self.renewals, jitter)),
            Observation::Refused => Next::Refresh(Duration::ZERO),
            Observation::Renewed => {
                self.last_contact = now;
                self.failures = 0;
                self.renewals = self.renewals.saturating_add(1);
                Next::Beat(Duration::ZERO)
            }
            Observation::Rejected => {
                // Whatever has begun to run since it was rejected last (a reboot starts sandboxes) is paused as well.
                if self.rejected {
                    self.paused = None;
                }
                self.rejected = true;
                self.failures = self.failures.saturating_add(1);
                Next::Beat(spread(REJECTED_INTERVAL.min(self.timing.interval * 2), jitter))
            }
            Observation::NoAnswer => {
                self.failures = self.failures.saturating_add(1);
                Next::Beat(self.backoff(self.failures, jitter))
            }
            Observation::RefreshFailed => {
                self.failures = self.failures.saturating_add(1);
                Next::Refresh(self.backoff(self.failures, jitter))
            }
            Observation::Deleted => Next::Forget,
        }
    }

    /// Whether everything is to be paused now, and why; answers with a cause once per loss. To be asked whenever
    /// something was observed, and at [`Self::pause_at`].
    pub fn pause_due(&mut self, now: Millis) -> Option<PauseCause> {
        let cause = if self.rejected {
            PauseCause::Rejected
        } else if self.is_lost(now) && self.timing.on_disconnect == OnDisconnect::Pause {
            PauseCause::ContactLost
        } else {
            return None;
        };
        match self.paused {
            None => {
                self.paused = Some(cause);
                Some(cause)
            }
            // All is paused already; only the reason has become a harder one.
            Some(PauseCause::ContactLost) if cause == PauseCause::Rejected => {
                self.paused = Some(cause);
                Some(cause)
            }
            Some(_) => None,
        }
    }

    /// When contact will count as lost, unless something is heard before; `None` when that changes nothing any more.
    #[must_use]
    pub fn pause_at(&self) -> Option<Millis> {
        let waiting = self.paused.is_none() && !self.rejected && self.timing.on_disconnect == OnDisconnect::Pause;
        waiting.then(|| self.last_contact + millis(self.timing.disconnect_after))
    }

    /// Whether control may give this host new work.
    #[must_use]
    pub const fn accepts_work(&self) -> bool {
        !self.rejected
    }

    #[must_use]
    pub const fn last_contact(&self) -> Millis {
        self.last_contact
    }

    #[must_use]
    pub const fn paused(&self) -> Option<PauseCause> {
        self.paused
    }

    pub fn set_interval(&mut self, interval: Duration) {
        self.timing.interval = interval;
    }

    fn is_lost(&self, now: Millis) -> bool {
        now.saturating_sub(self.last_contact) >= millis(self.timing.disconnect_after)
    }

    fn interval(&self, jitter: f64) -> Duration {
        spread(self.timing.interval, jitter)
    }

    /// Doubles from a second, never beyond the interval.
    fn backoff(&self, attempts: u32, jitter: f64) -> Duration {
        let factor = 1_u32 << attempts.saturating_sub(1).min(10);
        spread(FIRST_BACKOFF.min(self.timing.interval).saturating_mul(factor).min(self.timing.interval), jitter)
    }
}

/// A duration with up to 10 % taken away or added.
fn spread(duration: Duration, jitter: f64) -> Duration {
    duration.mul_f64(1.0 + 0.1 * jitter.clamp(-1.0, 1.0))
}

pub(super) fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Observation::{Accepted, Deleted, NoAnswer, RefreshFailed, Refused, Rejected, Renewed};

    const TIMING: Timing = Timing {
        interval: Duration::from_secs(30),
        disconnect_after: Duration::from_secs(90),
        on_disconnect: OnDisconnect::Pause,
    };

    fn contact() -> Contact {
        Contact::new(TIMING, 0, None)
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Each row: what is observed, one after the other, and what the agent does after the last of them.
    #[test]
    fn the_rows_of_the_heartbeat_table() {
        let rows: &[(&str, &[Observation], Next, bool)] = &[
            ("204: beat again after the interval", &[Accepted], Next::Beat(secs(30)), true),
            ("204 resets the failures", &[NoAnswer, NoAnswer, Accepted, NoAnswer], Next::Beat(secs(1)), true),
            ("401: refresh at once", &[Refused], Next::Refresh(secs(0)), true),
            ("renewed: beat again at once", &[Refused, Renewed], Next::Beat(secs(0)), true),
            ("refused with new credentials: not a storm", &[Refused, Renewed, Refused], Next::Refresh(secs(1)), true),
            ("refresh rejected: no new work", &[Refused, Rejected], Next::Beat(secs(60)), false),
            ("refresh failed in transit: retry", &[Refused, RefreshFailed], Next::Refresh(secs(1)), true),
            ("and back off", &[Refused, RefreshFailed, RefreshFailed, RefreshFailed], Next::Refresh(secs(4)), true),
            ("no answer: retry with backoff", &[NoAnswer, NoAnswer, NoAnswer], Next::Beat(secs(4)), true),
            ("the backoff has a cap", &[NoAnswer; 40], Next::Beat(secs(30)), true),
            ("a signed tombstone: forget", &[Deleted], Next::Forget, true),
            ("also after a rejection", &[Refused, Rejected, Deleted], Next::Forget, false),
            ("accepted after a rejection: work again", &[Refused, Rejected, Accepted], Next::Beat(secs(30)), true),
        ];
        for (name, observations, next, accepts) in rows {
            let mut contact = contact();
            let last = observations.iter().fold(None, |_, o| Some(contact.observe(1_000, *o, 0.0)));
            assert_eq!(last, Some(*next), "{name}");
            assert_eq!(contact.accepts_work(), *accepts, "{name}");
        }
    }

    #[test]
    fn ninety_seconds_without_contact_pause_everything_once() {
        let mut contact = contact();
        contact.observe(10_000, Accepted, 0.0);
        assert_eq!(contact.pause_at(), Some(100_000));
        contact.observe(99_999, NoAnswer, 0.0);
        assert_eq!(contact.pause_due(99_999), None);
        assert_eq!(contact.pause_due(100_000), Some(PauseCause::ContactLost));
        assert_eq!(contact.pause_due(200_000), None);
        assert_eq!(contact.pause_at(), None);
        assert!(contact.accepts_work());
    }

    #[test]
    fn contact_regained_and_lost_again_pauses_again() {
        let mut contact = contact();
        assert_eq!(contact.pause_due(90_000), Some(PauseCause::ContactLost));
        contact.observe(95_000, Accepted, 0.0);
        assert_eq!(contact.pause_due(95_000), None);
        assert_eq!(contact.pause_due(185_000), Some(PauseCause::ContactLost));
    }

    #[test]
    fn keep_running_never_pauses_for_lost_contact_but_does_for_a_rejection() {
        let mut contact = Contact::new(Timing { on_disconnect: OnDisconnect::KeepRunning, ..TIMING }, 0, None);
        assert_eq!(contact.pause_at(), None);
        assert_eq!(contact.pause_due(1_000_000), None);
        contact.observe(1_000_000, Refused, 0.0);
        contact.observe(1_000_000, Rejected, 0.0);
        assert_eq!(contact.pause_due(1_000_000), Some(PauseCause::Rejected));
    }

    #[test]
    fn a_refresh_that_fails_in_transit_is_loss_of_contact_and_no_rejection() {
        let mut contact = contact();
        contact.observe(1_000, Refused, 0.0);
        contact.observe(2_000, RefreshFailed, 0.0);
        assert_eq!(contact.pause_due(2_000), None);
        assert_eq!(contact.pause_due(90_000), Some(PauseCause::ContactLost));
    }

    #[test]
    fn a_refusal_is_no_contact() {
        let mut contact = contact();
        contact.observe(80_000, Refused, 0.0);
        contact.observe(85_000, RefreshFailed, 0.0);
        assert_eq!(contact.pause_due(90_000), Some(PauseCause::ContactLost));
    }

    #[test]
    fn a_restarted_agent_remembers_that_it_paused_and_why() {
        let mut contact = Contact::new(TIMING, 0, Some(PauseCause::Rejected));
        assert!(!contact.accepts_work());
        assert_eq!(contact.pause_due(1_000_000), None);
        let mut contact = Contact::new(TIMING, 0, Some(PauseCause::ContactLost));
        assert_eq!(contact.pause_due(1_000_000), None);
    }

    #[test]
    fn jitter_is_a_tenth() {
        assert_eq!(contact().observe(0, Accepted, 1.0), Next::Beat(secs(33)));
        assert_eq!(contact().observe(0, Accepted, -1.0), Next::Beat(secs(27)));
    }

    proptest::proptest! {
        #[test]
        fn only_a_verified_tombstone_ever_forgets(steps in proptest::collection::vec((0_u8..6, 0_u64..200_000), 0..200)) {
            let mut contact = contact();
            let mut now = 0;
            for (kind, wait) in steps {
                now += wait;
                let observation = [Accepted, Refused, NoAnswer, Renewed, Rejected, RefreshFailed][usize::from(kind)];
                let next = contact.observe(now, observation, 0.0);
                proptest::prop_assert_ne!(next, Next::Forget);
                if let Next::Beat(wait) | Next::Refresh(wait) = next {
                    proptest::prop_assert!(wait <= secs(66));
                }
                contact.pause_due(now);
            }
        }
    }
}
