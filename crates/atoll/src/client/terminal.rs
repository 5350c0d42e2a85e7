//! The terminal that the command was started from.

use std::io;

use anyhow::Context;
use rustix::termios::{self, OptionalActions, Termios};

use crate::output::with_hint;

/// The terminal on stdin in raw mode: every key goes to the program. Dropping it gives back what was before, also
/// when a panic drops it.
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    pub fn enter() -> anyhow::Result<Self> {
        let stdin = rustix::stdio::stdin();
        if !termios::isatty(stdin) {
            return Err(with_hint("-t needs a terminal, and stdin is none", "leave out -t to use pipes and files"));
        }
        let before = termios::tcgetattr(stdin).context("reading the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(stdin, OptionalActions::Now, &raw).context("switching the terminal to raw mode")?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Columns and rows.
pub fn size() -> Option<(u16, u16)> {
    [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()]
        .into_iter()
        .find_map(|stream| termios::tcgetwinsize(stream).ok())
        .map(|size| (size.ws_col, size.ws_row))
        .filter(|&(cols, rows)| cols > 0 && rows > 0)
}

/// Asks for a secret without showing it.
pub fn ask_secret(question: &str) -> io::Result<String> {
    use std::io::Write;
    let stdin = rustix::stdio::stdin();
    let before = termios::tcgetattr(stdin)?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(termios::LocalModes::ECHO);
    eprint!("{question}");
    io::stderr().flush()?;
    termios::tcsetattr(stdin, OptionalActions::Flush, &quiet)?;
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    termios::tcsetattr(stdin, OptionalActions::Now, &before)?;
    eprintln!();
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
