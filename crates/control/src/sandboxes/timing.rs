//! Where the time of a create goes: control's own steps, and the host's as it told them.
//!
//! Shown to clients as a `Server-Timing` header, which browsers and the bench read. Names and durations only: nothing
//! of the request, nothing of another tenant.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atoll_rpc::atoll::host::v1::Step;

/// A header has no more entries; a host can't make it grow.
const MAX_STEPS: usize = 64;

/// Steps with their durations, in the order in which they ended. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct StepTimes(Arc<Mutex<Vec<(String, Duration)>>>);

impl StepTimes {
    fn push(&self, name: String, took: Duration) {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.len() < MAX_STEPS {
            steps.push((name, took));
        }
    }

    /// Ends a step that began at `began`.
    pub fn end(&self, name: &str, began: Instant) {
        self.push(name.to_owned(), began.elapsed());
    }

    /// Adds what a host did, with `host-` before the names.
    pub fn add_host(&self, steps: &[Step]) {
        for step in steps {
            self.push(format!("host-{}", token(&step.name)), Duration::from_micros(step.micros));
        }
    }

    /// The value of a `Server-Timing` header; empty when there are no steps.
    #[must_use]
    pub fn header(&self) -> String {
        let steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut header = String::new();
        for (name, took) in steps.iter() {
            let comma = if header.is_empty() { "" } else { ", " };
            let _ = write!(header, "{comma}{name};dur={:.3}", took.as_secs_f64() * 1e3);
        }
        header
    }
}

/// A name as a header's token: letters, digits and dashes.
fn token(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_names_can_not_break_the_header() {
        let times = StepTimes::default();
        assert_eq!(times.header(), "");
        let step = |name: &str| Step { name: name.to_owned(), micros: 1500, ..Default::default() };
        times.add_host(&[step("mount overlay"), step("a;dur=9, b\r\nSet-Cookie: x")]);
        assert_eq!(times.header(), "host-mount-overlay;dur=1.500, host-a-dur-9--b--set-cookie--x;dur=1.500");
        times.add_host(&vec![step("x"); 1000]);
        assert_eq!(times.header().matches("dur=").count(), MAX_STEPS);
    }
}
