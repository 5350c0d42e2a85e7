//! A bounded ring of the agent's own log lines, read by `GuestService.Logs`.
//!
//! It holds what the agent did (processes started and ended, requests refused), never what programs wrote and never
//! secrets. The oldest lines make room for new ones.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

const MAX_LINES: usize = 400;
const MAX_LINE_BYTES: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    Error,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Line {
    pub sequence: u64,
    pub timestamp_ms: i64,
    pub level: Level,
    pub message: String,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<Line>,
    last_sequence: u64,
}

pub struct Logs {
    ring: Mutex<Ring>,
    /// In development the lines go to standard error as well.
    echo: bool,
}

impl Logs {
    pub fn new(echo: bool) -> Self {
        Self { ring: Mutex::default(), echo }
    }

    pub fn info(&self, message: String) {
        self.push(Level::Info, message);
    }

    pub fn warn(&self, message: String) {
        self.push(Level::Warn, message);
    }

    pub fn error(&self, message: String) {
        self.push(Level::Error, message);
    }

    fn push(&self, level: Level, mut message: String) {
        if message.len() > MAX_LINE_BYTES {
            let mut end = MAX_LINE_BYTES;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
            message.push_str(" ...");
        }
        if self.echo {
            eprintln!("{} {message}", level.as_str());
        }
        let timestamp_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis().min(i64::MAX as u128) as i64);
        let mut ring = crate::lock(&self.ring);
        ring.last_sequence += 1;
        let sequence = ring.last_sequence;
        if ring.lines.len() >= MAX_LINES {
            ring.lines.pop_front();
        }
        ring.lines.push_back(Line { sequence, timestamp_ms, level, message });
    }

    /// The lines that follow sequence number `after`, oldest first, at most `limit` (0: as many as allowed).
    pub fn after(&self, after: u64, limit: usize) -> Vec<Line> {
        let limit = if limit == 0 { MAX_LINES } else { limit.min(MAX_LINES) };
        let ring = crate::lock(&self.ring);
        ring.lines.iter().filter(|line| line.sequence > after).take(limit).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_lines_make_room_and_reading_resumes_after_a_sequence_number() {
        let logs = Logs::new(false);
        for number in 0..MAX_LINES + 10 {
            logs.info(format!("line {number}"));
        }
        let lines = logs.after(0, 0);
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(lines[0].message, "line 10");
        let next = logs.after(lines[4].sequence, 2);
        assert_eq!(next.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(), ["line 15", "line 16"]);
    }

    #[test]
    fn a_long_line_is_cut_at_a_character() {
        let logs = Logs::new(false);
        logs.warn("ž".repeat(MAX_LINE_BYTES));
        assert!(logs.after(0, 0)[0].message.len() <= MAX_LINE_BYTES + 4);
    }
}
