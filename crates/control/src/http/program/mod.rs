//! A program that runs at the other end of a WebSocket: `exec/stream` and `pty` are two dialects of this.
//!
//! Two pumps run side by side, so that a program that waits for its output to be read can't keep its input from being
//! delivered, nor the reverse. Each waits for its other end: a client that doesn't read makes the program wait, and
//! the other way round; nothing is queued. When the client goes away, the program and its group are killed, unless it
//! has a tag.

mod events;
mod input;
mod wanted;

use std::time::Duration;

use atoll_model::ErrorCode;
use atoll_model::api::sandboxes::{Encoding, StreamOutput};
use atoll_rpc::process::__buffa::oneof::process_event::Event;
use atoll_rpc::process::__buffa::oneof::process_event::data_event::Output;
use axum::extract::ws::{Message, WebSocket};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, Stream, StreamExt};
use tokio::sync::Mutex;

use self::events::{Events, started};
use self::input::Program;
use self::wanted::first_frame;
use super::error::{ApiError, ApiResult};
use super::guest::Guest;
use super::places::TeamShare;
use super::{edge, signals};

/// How long a client may take to say what is to be started, and the sandbox to start it.
const START_LIMIT: Duration = Duration::from_secs(30);
/// A quiet connection is pinged, so that proxies on the way keep it and a dead one is noticed.
const PING: Duration = Duration::from_secs(25);
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

/// How output is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `exec/stream`: JSON text frames; output in binary frames when asked for.
    Stream { binary: bool },
    /// `pty`: output in binary frames as it is.
    Terminal,
}

type Sink = Mutex<SplitSink<WebSocket, Message>>;

/// What a WebSocket is for.
pub struct Session {
    pub guest: Guest,
    pub dialect: Dialect,
    pub tag: Option<String>,
    /// The id of the request that it began as.
    pub request: Option<String>,
    pub _place: TeamShare,
}

/// Serves one WebSocket until the program has ended or the client is gone.
pub async fn serve(socket: WebSocket, session: Session) {
    let (sink, mut source) = socket.split();
    let sink = Mutex::new(sink);
    if let Err(error) = run(&sink, &mut source, &session).await {
        edge::log(&error, session.request.as_deref().unwrap_or_default());
        let frame = StreamOutput::Error {
            code: error.code.to_string(),
            message: error.message.to_string(),
            field: error.field.as_deref().map(str::to_owned),
            reason: error.details.get("reason").and_then(|reason| reason.as_str()).map(str::to_owned),
        };
        let _ = send_text(&sink, &frame).await;
    }
    let _ = sink.lock().await.close().await;
}

async fn run(sink: &Sink, source: &mut SplitStream<WebSocket>, session: &Session) -> ApiResult<()> {
    let (guest, dialect) = (&session.guest, session.dialect);
    let Some(mut wanted) = first_frame(source, dialect).await? else { return Ok(()) };
    wanted.tag = wanted.tag.or_else(|| session.tag.clone());
    let (opened, ahead) = opened(source, started(guest, &wanted, dialect)).await;
    let (mut events, pid) = opened?;
    let program = Program { guest, pid, terminal: dialect == Dialect::Terminal, has_stdin: wanted.stdin };
    if matches!(ahead, Ahead::Gone) {
        if wanted.tag.is_none() {
            program.kill().await;
        }
        return Ok(());
    }
    send_text(sink, &StreamOutput::Start { pid }).await?;
    tokio::select! {
        ended = pump_output(sink, &mut events, dialect) => ended,
        gone = program.pump_input(ahead, source) => {
            if wanted.tag.is_none() {
                program.kill().await;
            }
            gone
        }
        broken = ping(sink) => {
            if wanted.tag.is_none() {
                program.kill().await;
            }
            broken
        }
    }
}

/// What the client did while its program was being started.
enum Ahead {
    Nothing,
    /// Sent this. More is not read yet.
    Said(Message),
    Gone,
}

/// Waits for the start, for so long, and notices a client that leaves meanwhile. Whether it came to a program that must be
/// ended is known only when the start is.
async fn opened<T>(
    source: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin),
    start: impl Future<Output = ApiResult<T>>,
) -> (ApiResult<T>, Ahead) {
    let mut start = std::pin::pin!(tokio::time::timeout(START_LIMIT, start));
    let mut ahead = Ahead::Nothing;
    let result = loop {
        tokio::select! {
            result = start.as_mut() => break result,
            heard = source.next(), if matches!(ahead, Ahead::Nothing) => match heard {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => {
                    ahead = Ahead::Gone;
                    break start.as_mut().await;
                }
                Some(Ok(message)) => ahead = Ahead::Said(message),
            },
        }
    };
    let late = || {
        let message = format!("the sandbox did not start the program within {} s", START_LIMIT.as_secs());
        ApiError::new(ErrorCode::Timeout, message)
    };
    (result.unwrap_or_else(|_| Err(late())), ahead)
}

async fn send_text(sink: &Sink, frame: &StreamOutput) -> ApiResult<()> {
    let text = serde_json::to_string(frame).map_err(ApiError::internal)?;
    send(sink, Message::Text(text.into())).await
}

async fn send(sink: &Sink, message: Message) -> ApiResult<()> {
    sink.lock().await.send(message).await.map_err(|_| ApiError::invalid("connection", "the client is gone"))
}

/// From the program to the client, until the program has ended.
async fn pump_output(sink: &Sink, events: &mut Events, dialect: Dialect) -> ApiResult<()> {
    while let Some(event) = events.next().await? {
        match event {
            Event::Data(data) => {
                if let Some(output) = data.output.clone() {
                    send(sink, output_frame(output, dialect)?).await?;
                }
            }
            Event::End(end) => {
                let signal = if end.exited { None } else { signals::from_status(&end.status) };
                let exit_code = match &signal {
                    Some((number, _)) => 128 + i32::try_from(*number).unwrap_or(0),
                    None => end.exit_code,
                };
                let signal = signal.map(|(_, name)| name);
                return send_text(sink, &StreamOutput::Exit { exit_code, signal }).await;
            }
            Event::Start(_) | Event::Keepalive(_) => {}
        }
    }
    Err(ApiError::new(ErrorCode::HostUnavailable, "the program's output ended without its exit code"))
}

fn output_frame(output: Output, dialect: Dialect) -> ApiResult<Message> {
    let (stream, bytes) = match output {
        Output::Stdout(bytes) | Output::Pty(bytes) => (STDOUT, bytes),
        Output::Stderr(bytes) => (STDERR, bytes),
    };
    Ok(match dialect {
        Dialect::Terminal => Message::Binary(bytes.into()),
        Dialect::Stream { binary: true } => {
            let mut frame = Vec::with_capacity(bytes.len() + 1);
            frame.push(stream);
            frame.extend_from_slice(&bytes);
            Message::Binary(frame.into())
        }
        Dialect::Stream { binary: false } => {
            let (data, encoding) = match String::from_utf8(bytes) {
                Ok(text) => (text, Encoding::Utf8),
                Err(binary) => (STANDARD.encode(binary.as_bytes()), Encoding::Base64),
            };
            let frame = match stream {
                STDERR => StreamOutput::Stderr { data, encoding },
                _ => StreamOutput::Stdout { data, encoding },
            };
            Message::Text(serde_json::to_string(&frame).map_err(ApiError::internal)?.into())
        }
    })
}

async fn ping(sink: &Sink) -> ApiResult<()> {
    loop {
        tokio::time::sleep(PING).await;
        send(sink, Message::Ping(Bytes::new())).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn while_a_program_is_started_its_clients_words_wait_and_its_leaving_is_seen() {
        let said = |text: &str| Ok(Message::Text(text.to_owned().into()));
        let mut source = futures::stream::iter([Ok(Message::Ping(Bytes::new())), said("one"), said("two")]);
        // Each turn asks one of the two, or both, in any order.
        let slow = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            Ok(7)
        };
        let (started, ahead) = opened(&mut source, slow).await;
        assert_eq!(started.unwrap(), 7);
        assert!(matches!(ahead, Ahead::Said(Message::Text(text)) if text.as_str() == "one"), "in their order");
        assert_eq!(source.next().await.unwrap().unwrap(), Message::Text("two".into()), "no more than one is taken");

        // Whoever left is known when the start is: what was started is to be ended.
        let (started, ahead) = opened(&mut futures::stream::empty(), async { Ok(7) }).await;
        assert_eq!(started.unwrap(), 7);
        assert!(matches!(ahead, Ahead::Gone | Ahead::Nothing));
        let (tell, told) = tokio::sync::oneshot::channel();
        let mut leaves = futures::stream::once(async { Ok(Message::Close(None)) }).boxed().chain(
            futures::stream::once(async {
                tell.send(()).unwrap();
                Ok(Message::Close(None))
            })
            .boxed(),
        );
        let waits = async {
            tokio::task::yield_now().await;
            Ok(7)
        };
        let (started, ahead) = opened(&mut leaves, waits).await;
        assert!(started.is_ok() && matches!(ahead, Ahead::Gone));
        drop(leaves);
        assert!(told.await.is_err(), "nothing is read of one who has left");
    }
}
