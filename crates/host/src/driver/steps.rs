//! Where the time of a launch goes.

use std::time::{Duration, Instant};

/// One step: when it began, counted from the start of the whole, and how long it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub name: &'static str,
    pub began: Duration,
    pub took: Duration,
}

/// A trace. Steps may overlap: the agent's and the child's run side by side.
#[derive(Debug, Clone)]
pub struct Steps {
    started: Instant,
    last: Duration,
    steps: Vec<Step>,
}

impl Default for Steps {
    fn default() -> Self {
        Self::new()
    }
}

impl Steps {
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now(), last: Duration::ZERO, steps: Vec::new() }
    }

    /// An empty trace on the same clock, to be [`absorb`](Self::absorb)ed later.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { started: self.started, last: self.started.elapsed(), steps: Vec::new() }
    }

    /// Ends a step that began where the last one ended.
    pub fn done(&mut self, name: &'static str) {
        let now = self.started.elapsed();
        self.steps.push(Step { name, began: self.last, took: now.saturating_sub(self.last) });
        self.last = now;
    }

    /// Begins the next step now, so that time spent elsewhere counts for none.
    pub fn skip(&mut self) {
        self.last = self.started.elapsed();
    }

    /// Adds a step measured by somebody else.
    pub fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Takes over the steps of a fork.
    pub fn absorb(&mut self, other: Self) {
        self.steps.extend(other.steps);
        self.skip();
    }

    /// The instant that `began` counts from.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    #[must_use]
    pub fn as_slice(&self) -> &[Step] {
        &self.steps
    }

    /// The whole time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
