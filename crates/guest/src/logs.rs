//! Two bounded rings of log lines, read as one by `GuestService.Logs`: what the agent did (processes started and ended,
//! requests refused; never secrets), and what programs that it started wrote. The oldest lines of each make room for new
//! ones, so however much a program says, what the agent did is still there.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

const MAX_LINES: usize = 400;
const MAX_LINE_BYTES: usize = 512;
/// Of what programs wrote.
const MAX_SAID: usize = 1000;
const MAX_SAID_BYTES: usize = 256 << 10;
/// Lines in one answer.
const MAX_ANSWER: usize = 1000;

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
    /// Who wrote it; none of the agent's own.
    pub said: Option<Said>,
}

/// Of a line that a program wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    pub pid: u32,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<Line>,
    said: VecDeque<Line>,
    said_bytes: usize,
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

    pub fn clear(&self) {
        *crate::lock(&self.ring) = Ring::default();
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
        let timestamp_ms = now_ms();
        let mut ring = crate::lock(&self.ring);
        ring.last_sequence += 1;
        let sequence = ring.last_sequence;
        if ring.lines.len() >= MAX_LINES {
            ring.lines.pop_front();
        }
        ring.lines.push_back(Line { sequence, timestamp_ms, level, message, said: None });
    }

    /// Keeps a line that a program wrote.
    pub fn said(&self, said: Said, message: String) {
        let timestamp_ms = now_ms();
        let mut ring = crate::lock(&self.ring);
        ring.last_sequence += 1;
        ring.said_bytes += message.len();
        let line = Line { sequence: ring.last_sequence, timestamp_ms, level: Level::Info, message, said: Some(said) };
        ring.said.push_back(line);
        while ring.said.len() > MAX_SAID || ring.said_bytes > MAX_SAID_BYTES {
            let Some(oldest) = ring.said.pop_front() else { return };
            ring.said_bytes -= oldest.message.len();
        }
    }

    /// The lines that follow sequence number `after`, oldest first, at most `limit` (0: as many as allowed).
    pub fn after(&self, after: u64, limit: usize) -> Vec<Line> {
        let limit = if limit == 0 { MAX_ANSWER } else { limit.min(MAX_ANSWER) };
        let ring = crate::lock(&self.ring);
        let begin = |lines: &VecDeque<Line>| lines.partition_point(|line| line.sequence <= after);
        let own = ring.lines.range(begin(&ring.lines)..);
        let said = ring.said.range(begin(&ring.said)..);
        let (mut own, mut said) = (own.peekable(), said.peekable());
        let next = || {
            let said_first = match (own.peek(), said.peek()) {
                (Some(one), Some(other)) => one.sequence > other.sequence,
                (one, _) => one.is_none(),
            };
            if said_first { said.next() } else { own.next() }
        };
        std::iter::from_fn(next).take(limit).cloned().collect()
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis().min(i64::MAX as u128) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_write_is_bounded_and_leaves_what_the_agent_did() {
        let logs = Logs::new(false);
        let said = Said { pid: 7, stream: "stdout" };
        logs.info("started".to_owned());
        for number in 0..MAX_SAID + 10 {
            logs.said(said, format!("line {number}"));
        }
        logs.info("ended".to_owned());
        let first = logs.after(0, 3);
        assert_eq!(
            first.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(),
            ["started", "line 10", "line 11"]
        );
        assert_eq!((first[0].said, first[1].said), (None, Some(said)));
        let rest = logs.after(first[2].sequence, 0);
        assert_eq!((rest.len(), rest[rest.len() - 1].message.as_str()), (MAX_SAID - 2 + 1, "ended"));
        // Long lines make room sooner.
        for _ in 0..MAX_SAID {
            logs.said(said, "x".repeat(2048));
        }
        let kept = logs.after(0, 0).iter().filter(|line| line.said.is_some()).count();
        assert_eq!(kept, MAX_SAID_BYTES / 2048);
    }

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
