//! A build's log: lines are taken at once and written together, a few times a second, so that whoever reads along is a
//! moment behind at most. Bounded: what a build says beyond that is counted and left out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::BuildId;

use super::lines::{self, LogRow};
use crate::clock::Clock;
use crate::db::{Db, DbError};

const MAX_LINES: i64 = 50_000;
const MAX_LINE: usize = 4096;
/// All lines together.
const MAX_BYTES: usize = 16 << 20;
const EVERY: Duration = Duration::from_millis(150);
/// How often, a second apart, the last lines of a build are tried to be written.
const LAST_TRIES: usize = 30;

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
    bytes: usize,
    full: bool,
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
        if state.full {
            return;
        }
        state.full = state.next >= MAX_LINES || state.bytes >= MAX_BYTES;
        let message = if state.full { "(the log is full; what follows is left out)" } else { message };
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
        state.bytes += row.message.len();
        state.waiting.push(row);
    }

    pub fn info(&self, message: &str) {
        self.say("info", message);
    }

    /// Writes what is waiting. Lines wait until they are known to be written: whoever is dropped in the middle of this
    /// leaves them to the next one.
    async fn write(&self) -> Result<(), DbError> {
        let _turn = self.0.writing.lock().await;
        let rows = self.state().waiting.clone();
        if !rows.is_empty() {
            lines::append(&self.0.db, &self.0.build, &rows).await?;
            self.state().waiting.drain(..rows.len());
        }
        Ok(())
    }

    /// Writes what is left at the end, also when the database is away for a while.
    pub async fn flush(&self) {
        for attempt in 1..=LAST_TRIES {
            match self.write().await {
                Ok(()) => return,
                Err(error) if attempt == LAST_TRIES => {
                    tracing::error!(build = %self.0.build, %error, "lines of a build's log are lost");
                }
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    /// Writes for as long as this is polled.
    pub async fn keep_writing(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(EVERY).await;
            if let Err(error) = self.write().await {
                tracing::warn!(build = %self.0.build, %error, "lines of a build's log wait to be written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::db::testing::databases;

    #[tokio::test]
    async fn lines_whose_writing_is_broken_off_are_written_by_the_next_one_and_once() {
        for test in databases().await {
            let build = BuildId::new();
            let log = Log::new(test.db.clone(), Clock::system(), build.clone());
            for number in 0..50 {
                log.info(&format!("line {number}"));
                // Dropped at its first wait, and after a few.
                let _ = log.write().now_or_never();
                let _ = tokio::time::timeout(Duration::from_micros(number * 40), log.write()).await;
            }
            log.say("error", "the reason");
            log.flush().await;
            let lines = lines::list(&test.db, &build, 0, 1000).await.unwrap();
            assert_eq!(lines.len(), 51);
            assert!(lines.iter().enumerate().all(|(at, line)| line.seq == at as i64));
            assert_eq!(lines[50].message, "the reason");
        }
    }

    #[tokio::test]
    async fn a_log_has_an_end() {
        for test in databases().await {
            let build = BuildId::new();
            let log = Log::new(test.db.clone(), Clock::system(), build.clone());
            let long = "x".repeat(2 * MAX_LINE);
            for _ in 0..2 * MAX_BYTES / MAX_LINE {
                log.info(&long);
            }
            let said: usize = log.state().waiting.iter().map(|row| row.message.len()).sum();
            assert!(said <= MAX_BYTES + MAX_LINE, "{said}");
            assert!(log.state().waiting.last().is_some_and(|row| row.message.contains("full")));
        }
    }
}
