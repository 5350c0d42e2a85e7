//! What people and programs read: tables, JSON, errors with the next step. Colours only on a terminal, and never
//! when `NO_COLOR` is set. Nothing that a server or a sandbox said reaches a terminal as control characters.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};

use atoll_client::Error as ClientError;
use atoll_client::model::ErrorCode;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

/// Columns under a heading, as wide as their content.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|&name| name.to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell).into_owned()).collect());
    }

    pub fn print(&self) -> std::io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            let line = line.trim_end();
            if number == 0 && colours(&std::io::stdout()) {
                text.push_str(&format!("\x1b[2m{line}\x1b[0m\n"));
            } else {
                text.push_str(&format!("{line}\n"));
            }
        }
        print(&text)
    }
}

/// Writes to stdout. That nobody reads any more is no error worth a message: the program ends as `head` expects.
pub fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(141),
        result => result,
    }
}

pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))?;
    Ok(())
}

/// Whether `stream` shows colours.
pub fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The text without control characters.
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// How long ago: `12s`, `3m`, `2h`, `5d`.
pub fn age(then: DateTime<Utc>) -> String {
    let seconds = (Utc::now() - then).num_seconds().max(0);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Says on stderr what failed, and what to do next.
pub fn failure(error: &anyhow::Error, json: bool) {
    let api = error.chain().find_map(|cause| match cause.downcast_ref::<ClientError>() {
        Some(ClientError::Api(answer)) => Some(answer),
        _ => None,
    });
    let hint = hint(error);
    if json {
        let mut detail = json!({"code": "client_error", "message": format!("{error:#}")});
        if let Some(answer) = api {
            detail["code"] = json!(answer.code);
            detail["status"] = json!(answer.status);
            detail["request_id"] = json!(answer.request_id);
            detail["field"] = json!(answer.field);
            for (name, value) in &answer.details {
                detail[name] = value.clone();
            }
        }
        if let Some(ClientError::Stream { code, .. }) = error.chain().find_map(|cause| cause.downcast_ref()) {
            detail["code"] = json!(code);
        }
        if let Some(hint) = hint {
            detail["hint"] = json!(hint);
        }
        eprintln!("{}", json!({ "error": detail }));
        return;
    }
    let (red, dim, reset) = if colours(&std::io::stderr()) { ("\x1b[31m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    let lines: Vec<_> = format!("{error:#}").lines().map(|line| plain(line).into_owned()).collect();
    eprintln!("{red}error:{reset} {}", lines.join("\n       "));
    if let Some(hint) = hint {
        eprintln!("{dim}hint:{reset}  {hint}");
    }
    if let Some(id) = api.and_then(|answer| answer.request_id.as_ref()) {
        eprintln!("{dim}       request {}{reset}", plain(id));
    }
}

fn hint(error: &anyhow::Error) -> Option<String> {
    if let Some(hint) = error.downcast_ref::<Hint>() {
        return Some(hint.hint.clone());
    }
    let cause = error.chain().find_map(|cause| cause.downcast_ref::<ClientError>())?;
    Some(match cause {
        ClientError::Unreachable { url, .. } => {
            format!(
                "is it running there? `atoll up` starts it on this machine; --url or ATOLL_URL name another (now {url})"
            )
        }
        ClientError::TimedOut { .. } => "it may still happen: look with `atoll ps`".to_owned(),
        ClientError::NotAtoll { .. } => "is --url (ATOLL_URL) the address of Atoll itself?".to_owned(),
        ClientError::Api(answer) => match answer.known_code()? {
            ErrorCode::Unauthorized => {
                "set ATOLL_API_KEY to a key of this server, or store one with `atoll login`".to_owned()
            }
            // Of a field (a template, a volume) the message says what there is none of.
            ErrorCode::NotFound if answer.field.is_none() && answer.message.ends_with("such sandbox") => {
                "`atoll ps` lists the sandboxes of your team".to_owned()
            }
            ErrorCode::NoHostsAvailable | ErrorCode::HostUnavailable => {
                "`atoll host check` says what a machine can run; the server's log says why hosts were passed over"
                    .to_owned()
            }
            ErrorCode::RateLimited | ErrorCode::Overloaded | ErrorCode::NotReady => match answer.retry_after {
                Some(seconds) => format!("try again in {seconds} s"),
                None => "try again in a moment".to_owned(),
            },
            _ => return None,
        },
        _ => return None,
    })
}

/// An error that brings its own next step.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Hint {
    pub message: String,
    pub hint: String,
}

/// An error with its next step.
pub fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Hint { message: message.into(), hint: hint.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_elsewhere_controls_the_terminal() {
        assert_eq!(plain("a\x1b]0;owned\x07b\u{9b}c"), "a\u{fffd}]0;owned\u{fffd}b\u{fffd}c");
        assert!(matches!(plain("harmless ü"), Cow::Borrowed(_)));
    }

    #[test]
    fn ages_are_short() {
        assert_eq!(age(Utc::now() - chrono::Duration::minutes(3)), "3m");
        assert_eq!(age(Utc::now() - chrono::Duration::days(40)), "40d");
        assert_eq!(age(Utc::now() + chrono::Duration::days(1)), "0s");
    }
}
