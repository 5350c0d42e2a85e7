//! A build's log: lines are taken at once and written together, a few times a second, so that whoever reads along is a
//! moment behind at most. Bounded: what a build says beyond that is counted and left out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::BuildId;

use super::lines::{self, LogRow};
use crate::clock::Clock;
use crate::db::Db;

const MAX_LINES: i64 = 50_000;
const MAX_LINE: usize = 4096;
const EVERY: Duration = Duration::from_millis(150);

/// Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    db: Db,
    clock: Clock,
    build: BuildId,
    state: Mutex<State>,
    /// One writer at a time, so that lines arrive in their order.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    next: i64,
    step: Option<String>,
    waiting: Vec<LogRow>,
}

impl Log {
    pub fn new(db: Db, clock: Clock, build: BuildId) -> Self {
        let (state, writing) = (Mutex::default(), tokio::sync::Mutex::default());
        Self(Arc::new(Shared { db, clock, build, state, writing }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines from now on are of this step.
    pub fn step(&self, step: impl Into<String>) {
        self.state().step = Some(step.into());
    }

    pub fn current_step(&self) -> Option<String> {
        self.state().step.clone()
    }

    pub fn say(&self, level: &str, message: &str) {
        let mut state = self.state();
        if state.next > MAX_LINES {
            return;
        }
        let message = if state.next == MAX_LINES { "(the log is full; what follows is left out)" } else { message };
        let mut end = message.len().min(MAX_LINE);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        // PostgreSQL stores no NUL in text.
        let message = message[..end].replace('\0', "\u{fffd}");
        let row = LogRow {
            seq: state.next,
            at: self.0.clock.now(),
            level: level.to_owned(),
            step: state.step.clone(),
            message,
        };
        state.next += 1;
        state.waiting.push(row);
    }

    pub fn info(&self, message: &str) {
        self.say("info", message);
    }

    /// Writes what is waiting.
    pub async fn flush(&self) {
        let _turn = self.0.writing.lock().await;
        let rows = std::mem::take(&mut self.state().waiting);
        if !rows.is_empty()
            && let Err(error) = lines::append(&self.0.db, &self.0.build, &rows).await
        {
            tracing::error!(build = %self.0.build, %error, "lines of a build's log are lost");
        }
    }

    /// Writes for as long as this is polled.
    pub async fn keep_writing(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(EVERY).await;
            self.flush().await;
        }
    }
}
