//! What a program writes, line by line, into the log: as much of it as may be kept, however much it writes.
//!
//! A program that floods is listened to for a moment of every second; what is left out is counted and said.

use std::time::{Duration, Instant};

use crate::logs::{Logs, Said};

/// A longer line is cut into several.
const MAX_LINE: usize = 2048;
/// In each second, of one stream.
const LINES: u32 = 200;
const BYTES: usize = 64 << 10;
const SECOND: Duration = Duration::from_secs(1);

pub struct Transcript<'a> {
    logs: &'a Logs,
    said: Said,
    /// Of a line whose end has not come yet.
    begun: Vec<u8>,
    since: Instant,
    lines: u32,
    bytes: usize,
    left_out: u64,
}

impl<'a> Transcript<'a> {
    pub fn new(logs: &'a Logs, pid: u32, stream: &'static str) -> Self {
        let said = Said { pid, stream };
        Self { logs, said, begun: Vec::new(), since: Instant::now(), lines: 0, bytes: 0, left_out: 0 }
    }

    /// The next piece of what it wrote.
    pub fn write(&mut self, mut data: &[u8]) {
        if self.since.elapsed() >= SECOND {
            (self.since, self.lines, self.bytes) = (Instant::now(), 0, 0);
            self.say_what_is_missing();
        }
        while !data.is_empty() {
            if self.lines >= LINES || self.bytes >= BYTES {
                self.left_out += (self.begun.len() + data.len()) as u64;
                self.begun.clear();
                return;
            }
            let room = MAX_LINE - self.begun.len();
            let window = &data[..data.len().min(room)];
            let (piece, skip, whole) = match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => (&window[..end], end + 1, true),
                None => (window, window.len(), window.len() == room),
            };
            self.begun.extend_from_slice(piece);
            self.bytes += skip;
            data = &data[skip..];
            if whole {
                self.end_line();
            }
        }
    }

    /// It writes no more.
    pub fn end(&mut self) {
        if !self.begun.is_empty() {
            self.end_line();
        }
        self.say_what_is_missing();
    }

    fn end_line(&mut self) {
        let line = self.begun.strip_suffix(b"\r").unwrap_or(&self.begun);
        self.logs.said(self.said, String::from_utf8_lossy(line).into_owned());
        self.begun.clear();
        self.lines += 1;
    }

    fn say_what_is_missing(&mut self) {
        if self.left_out > 0 {
            self.logs.said(self.said, format!("[{} bytes are not in the log]", self.left_out));
            self.left_out = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(logs: &Logs) -> Vec<String> {
        logs.after(0, 0).into_iter().map(|line| line.message).collect()
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        let logs = Logs::new(false);
        let mut transcript = Transcript::new(&logs, 1, "stdout");
        for piece in ["one\ntw", "o\r\n", "\n", "last"] {
            transcript.write(piece.as_bytes());
        }
        assert_eq!(written(&logs), ["one", "two", ""]);
        transcript.end();
        transcript.end();
        assert_eq!(written(&logs), ["one", "two", "", "last"]);
    }

    #[test]
    fn a_flood_is_cut_and_says_so() {
        let logs = Logs::new(false);
        let mut transcript = Transcript::new(&logs, 1, "stderr");
        transcript.write("y\n".repeat(10_000).as_bytes());
        transcript.write(&[0xff; 100_000]);
        transcript.end();
        let lines = written(&logs);
        assert_eq!(lines.len(), LINES as usize + 1);
        assert_eq!(lines[lines.len() - 1], format!("[{} bytes are not in the log]", 20_000 - 2 * LINES + 100_000));
        let long = Logs::new(false);
        let mut transcript = Transcript::new(&long, 1, "stdout");
        transcript.write(&[b'x'; MAX_LINE * 2 + 1]);
        transcript.end();
        assert_eq!(written(&long).iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, MAX_LINE, 1]);
    }
}
