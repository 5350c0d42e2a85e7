//! The one clock. Whatever decides by time gets it from here, so that tests can move it.

#[cfg(any(test, feature = "simulation"))]
use std::sync::Arc;
#[cfg(any(test, feature = "simulation"))]
use std::sync::atomic::{AtomicI64, Ordering};
#[cfg(any(test, feature = "simulation"))]
use std::time::Duration;

use crate::db::Millis;

/// Tells the time. Cheap to clone.
#[derive(Clone, Default)]
pub struct Clock(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    System,
    #[cfg(any(test, feature = "simulation"))]
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// For tests: stands still until [`Clock::advance`] is called.
    #[cfg(any(test, feature = "simulation"))]
    #[must_use]
    pub fn manual(start: Millis) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start.0))))
    }

    #[must_use]
    pub fn now(&self) -> Millis {
        match &self.0 {
            Source::System => Millis::from(chrono::Utc::now()),
            #[cfg(any(test, feature = "simulation"))]
            Source::Manual(time) => Millis(time.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock; the system's can't be moved.
    #[cfg(any(test, feature = "simulation"))]
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(time) = &self.0 {
            time.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}
