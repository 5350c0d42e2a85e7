//! Signals by name and number, and the words that the guest protocol uses for a program that one ended.

use super::error::{ApiError, ApiResult};

pub const SIGHUP: u32 = 1;
pub const SIGKILL: u32 = 9;
pub const SIGTERM: u32 = 15;
const HIGHEST: u32 = 64;

/// Number, name, and the protocol's words for "ended by it", on Linux (x86-64 and arm64 alike).
const SIGNALS: [(u32, &str, &str); 31] = [
    (1, "SIGHUP", "hangup"),
    (2, "SIGINT", "interrupt"),
    (3, "SIGQUIT", "quit"),
    (4, "SIGILL", "illegal instruction"),
    (5, "SIGTRAP", "trace/breakpoint trap"),
    (6, "SIGABRT", "aborted"),
    (7, "SIGBUS", "bus error"),
    (8, "SIGFPE", "floating point exception"),
    (9, "SIGKILL", "killed"),
    (10, "SIGUSR1", "user defined signal 1"),
    (11, "SIGSEGV", "segmentation fault"),
    (12, "SIGUSR2", "user defined signal 2"),
    (13, "SIGPIPE", "broken pipe"),
    (14, "SIGALRM", "alarm clock"),
    (15, "SIGTERM", "terminated"),
    (16, "SIGSTKFLT", "signal 16"),
    (17, "SIGCHLD", "signal 17"),
    (18, "SIGCONT", "signal 18"),
    (19, "SIGSTOP", "signal 19"),
    (20, "SIGTSTP", "signal 20"),
    (21, "SIGTTIN", "signal 21"),
    (22, "SIGTTOU", "signal 22"),
    (23, "SIGURG", "signal 23"),
    (24, "SIGXCPU", "CPU time limit exceeded"),
    (25, "SIGXFSZ", "file size limit exceeded"),
    (26, "SIGVTALRM", "signal 26"),
    (27, "SIGPROF", "signal 27"),
    (28, "SIGWINCH", "signal 28"),
    (29, "SIGIO", "signal 29"),
    (30, "SIGPWR", "signal 30"),
    (31, "SIGSYS", "bad system call"),
];

/// `SIGINT`, `INT`, `int` or `2`.
pub fn parse(text: &str) -> ApiResult<u32> {
    let wrong = || ApiError::invalid("signal", format!("must be a signal's name, or a number from 1 to {HIGHEST}"));
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=HIGHEST).contains(&number) { Ok(number) } else { Err(wrong()) };
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    SIGNALS.iter().find(|(_, name, _)| &name[3..] == bare).map(|(number, ..)| *number).ok_or_else(wrong)
}

/// The signal's number and name, from the `status` of a program that one ended (`signal: killed`).
#[must_use]
pub fn from_status(status: &str) -> Option<(u32, String)> {
    let words = status.strip_prefix("signal: ")?;
    let words = words.strip_suffix(" (core dumped)").unwrap_or(words);
    if let Some((number, name, _)) = SIGNALS.iter().find(|(_, _, text)| *text == words) {
        return Some((*number, (*name).to_owned()));
    }
    let number = words.strip_prefix("signal ")?.parse().ok()?;
    Some((number, format!("SIG{number}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for text in ["SIGINT", "INT", "int", "2"] {
            assert_eq!(parse(text).unwrap(), 2);
        }
        for text in ["0", "65", "SIG", "", "-1", "SIGNOPE"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_protocols_words_become_numbers() {
        assert_eq!(from_status("signal: killed"), Some((9, "SIGKILL".to_owned())));
        assert_eq!(from_status("signal: signal 18"), Some((18, "SIGCONT".to_owned())));
        assert_eq!(from_status("signal: signal 40"), Some((40, "SIG40".to_owned())));
        assert_eq!(from_status("exit status 1"), None);
    }
}
