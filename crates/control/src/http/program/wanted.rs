//! What the client of a WebSocket says: the frame that names the program, and those that follow.

use atoll_model::api::sandboxes::StreamInput;
use atoll_rpc::process::ProcessConfig;
use axum::extract::ws::{Message, WebSocket};
use futures::StreamExt;
use futures::stream::SplitStream;

use super::{Dialect, START_LIMIT};
use crate::http::error::{ApiError, ApiResult};
use crate::http::strict::{self, Refused};
use crate::http::validate;

/// What the client wants to run, checked.
pub(super) struct Wanted {
    pub config: Option<ProcessConfig>,
    pub user: Option<String>,
    pub tag: Option<String>,
    pub stdin: bool,
    pub size: Option<(u16, u16)>,
}

/// The frame that says what to start. Nothing when the client left without a word.
pub(super) async fn first_frame(source: &mut SplitStream<WebSocket>, dialect: Dialect) -> ApiResult<Option<Wanted>> {
    let first = tokio::time::timeout(START_LIMIT, async {
        loop {
            match source.next().await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => return other,
            }
        }
    });
    let Ok(first) = first.await else {
        return Err(ApiError::invalid("type", format!("no start frame within {} s", START_LIMIT.as_secs())));
    };
    match first {
        Some(Ok(Message::Text(text))) => wanted(parse(&text)?, dialect).map(Some),
        Some(Ok(Message::Binary(_))) => Err(ApiError::invalid("type", "the first frame must be a start frame")),
        Some(Err(error)) => Err(ApiError::invalid("frame", "the frame is broken or too large").with_source(error)),
        _ => Ok(None),
    }
}

pub(super) fn parse(text: &str) -> ApiResult<StreamInput> {
    let invalid = |error: Refused| ApiError::invalid("frame", format!("the frame is not valid: {}", error.inner()));
    strict::from_slice(text.as_bytes()).map_err(invalid)
}

fn wanted(input: StreamInput, dialect: Dialect) -> ApiResult<Wanted> {
    let StreamInput::Start { cmd, args, cwd, mut env, user, tag, stdin, cols, rows } = input else {
        return Err(ApiError::invalid("type", "the first frame must be a start frame"));
    };
    let terminal = dialect == Dialect::Terminal;
    let (cmd, args) = match cmd {
        Some(cmd) => (Some(cmd), args),
        None if terminal => (Some("/bin/bash".to_owned()), vec!["-i".to_owned(), "-l".to_owned()]),
        // An attachment to a running program by its tag.
        None if tag.is_some() => (None, args),
        None => return Err(ApiError::invalid("cmd", "say what to run, or the tag of what is running")),
    };
    if let Some(cmd) = &cmd {
        validate::command(cmd, &args, &env)?;
    }
    if terminal {
        env.entry("TERM".to_owned()).or_insert_with(|| "xterm-256color".to_owned());
    }
    validate::user(user.as_deref())?;
    validate::tag(tag.as_deref())?;
    if let Some(cwd) = &cwd {
        validate::path("cwd", cwd)?;
    }
    let size = terminal.then(|| (cols.unwrap_or(80).max(1), rows.unwrap_or(24).max(1)));
    let config = cmd.map(|cmd| ProcessConfig { cmd, args, envs: env.into_iter().collect(), cwd, ..Default::default() });
    Ok(Wanted { config, user, tag, stdin: stdin || terminal, size })
}
