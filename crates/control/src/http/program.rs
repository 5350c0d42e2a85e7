//! A program that runs at the other end of a WebSocket: `exec/stream` and `pty` are two dialects of this.
//!
//! Two pumps run side by side, so that a program that waits for its output to be read can't keep its input from being
//! delivered, nor the reverse. Each waits for its other end: a client that doesn't read makes the program wait, and
//! the other way round; nothing is queued. When the client goes away, the program and its group are killed, unless it
//! has a tag.

use std::time::Duration;

use atoll_model::api::sandboxes::{Encoding, StreamInput, StreamOutput};
use atoll_model::{ErrorCode, SandboxId};
use atoll_rpc::atoll::guest::v1::__buffa::oneof::signal_request::Selector as SignalSelector;
use atoll_rpc::atoll::guest::v1::SignalRequest;
use atoll_rpc::process::__buffa::oneof::process_event::Event;
use atoll_rpc::process::__buffa::oneof::process_event::data_event::Output;
use atoll_rpc::process::__buffa::oneof::process_input::Input;
use atoll_rpc::process::__buffa::oneof::process_selector::Selector;
use atoll_rpc::process::{
    self, CloseStdinRequest, PTY, ProcessConfig, ProcessEvent, ProcessInput, ProcessSelector, SendInputRequest,
    StartRequest, UpdateRequest,
};
use axum::extract::ws::{Message, WebSocket};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, Stream, StreamExt};
use tokio::sync::Mutex;

use super::convert::Refusal;
use super::error::{ApiError, ApiResult};
use super::guest::{Guest, call, stream};
use super::places::TeamShare;
use super::strict::{self, Refused};
use super::{edge, signals, validate};
use crate::fleet::{GuestAnswer, said};

/// How long a client may take to say what is to be started, and the sandbox to start it.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Between SIGTERM and SIGKILL of a stop.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// A quiet connection is pinged, so that proxies on the way keep it and a dead one is noticed.
const PING: Duration = Duration::from_secs(25);
/// Bytes sent to a program in one call.
const INPUT_CHUNK: usize = 256 << 10;
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

/// What the client wants to run, checked.
struct Wanted {
    config: Option<ProcessConfig>,
    user: Option<String>,
    tag: Option<String>,
    stdin: bool,
    size: Option<(u16, u16)>,
}

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

/// The program's events behind its start event, and its pid.
async fn started(guest: &Guest, wanted: &Wanted, dialect: Dialect) -> ApiResult<(Events, u32)> {
    let mut events = open(guest, wanted, dialect).await?;
    match events.next().await? {
        Some(Event::Start(start)) => Ok((events, start.pid)),
        _ => Err(ApiError::agent("its stream did not begin with a start event")),
    }
}

/// The frame that says what to start. Nothing when the client left without a word.
async fn first_frame(source: &mut SplitStream<WebSocket>, dialect: Dialect) -> ApiResult<Option<Wanted>> {
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

fn parse(text: &str) -> ApiResult<StreamInput> {
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

/// The program's events, from a start or from an attachment: the same on the wire.
enum Events {
    Started(
        atoll_rpc::connectrpc::client::ServerStream<GuestAnswer, process::__buffa::view::StartResponseView<'static>>,
    ),
    Attached(
        atoll_rpc::connectrpc::client::ServerStream<GuestAnswer, process::__buffa::view::ConnectResponseView<'static>>,
    ),
}

impl Events {
    async fn next(&mut self) -> ApiResult<Option<Event>> {
        loop {
            let event: Option<ProcessEvent> = match self {
                Self::Started(stream) => match stream.message().await.map_err(stream_broke)? {
                    Some(message) => message.to_owned_message().event.into_option(),
                    None => return Ok(None),
                },
                Self::Attached(stream) => match stream.message().await.map_err(stream_broke)? {
                    Some(message) => message.to_owned_message().event.into_option(),
                    None => return Ok(None),
                },
            };
            match event.and_then(|event| event.event) {
                None | Some(Event::Keepalive(_)) => {}
                Some(event) => return Ok(Some(event)),
            }
        }
    }
}

fn stream_broke(error: atoll_rpc::connectrpc::ConnectError) -> ApiError {
    use atoll_rpc::connectrpc::ErrorCode as RpcCode;
    let (code, field) = match error.code {
        RpcCode::InvalidArgument => (ErrorCode::InvalidRequest, Some("cmd")),
        RpcCode::Unauthenticated => (ErrorCode::InvalidRequest, Some("user")),
        RpcCode::NotFound => (ErrorCode::NotFound, Some("tag")),
        RpcCode::AlreadyExists | RpcCode::FailedPrecondition => (ErrorCode::Conflict, None),
        RpcCode::ResourceExhausted => (ErrorCode::QuotaExceeded, None),
        _ => (ErrorCode::HostUnavailable, None),
    };
    let message = match code {
        ErrorCode::HostUnavailable => "the connection to the program broke: the sandbox may be gone".to_owned(),
        _ => error.message.as_deref().map_or_else(|| error.code.as_str().to_owned(), said),
    };
    let refusal = Refusal::of(&error);
    let mut answer = ApiError::new(code, message).with_source(said(&error.to_string()));
    answer.field = field.map(Into::into);
    match refusal {
        Some(refusal) => refusal.told_in(answer),
        None => answer,
    }
}

/// Starts the program, or attaches to the one that runs under the tag: always without a command, and for terminals
/// whenever there is one.
async fn open(guest: &Guest, wanted: &Wanted, dialect: Dialect) -> ApiResult<Events> {
    if let Some(tag) = &wanted.tag
        && (wanted.config.is_none() || (dialect == Dialect::Terminal && is_running(guest, tag).await?))
    {
        let request = process::ConnectRequest { process: selector(Selector::Tag(tag.clone())), ..Default::default() };
        let attached = guest.processes().connect_with_options(request, stream(wanted.user.as_deref())).await;
        let events =
            Events::Attached(attached.map_err(|error| guest.error("attach to the program", Some("tag"), error))?);
        return Ok(events);
    }
    let request = StartRequest {
        process: wanted.config.clone().unwrap_or_default().into(),
        pty: wanted.size.map(pty_size).unwrap_or_default(),
        tag: wanted.tag.clone(),
        stdin: Some(wanted.stdin),
        ..Default::default()
    };
    let started = guest.processes().start_with_options(request, stream(wanted.user.as_deref())).await;
    Ok(Events::Started(started.map_err(|error| guest.error("start the program", Some("cmd"), error))?))
}

async fn is_running(guest: &Guest, tag: &str) -> ApiResult<bool> {
    let listed = guest.processes().list_with_options(process::ListRequest::default(), call(None)).await;
    let listed = listed.map_err(|error| guest.error("list its processes", None, error))?.into_owned();
    Ok(listed.processes.iter().any(|process| process.tag.as_deref() == Some(tag)))
}

fn selector<P: atoll_rpc::buffa::ProtoBox<ProcessSelector>>(
    selector: Selector,
) -> atoll_rpc::buffa::MessageField<ProcessSelector, P> {
    atoll_rpc::buffa::MessageField::some(ProcessSelector { selector: Some(selector), ..Default::default() })
}

fn pty_size<P: atoll_rpc::buffa::ProtoBox<PTY>>((cols, rows): (u16, u16)) -> atoll_rpc::buffa::MessageField<PTY, P> {
    let size = process::pty::Size { cols: cols.into(), rows: rows.into(), ..Default::default() };
    atoll_rpc::buffa::MessageField::some(PTY { size: size.into(), ..Default::default() })
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

struct Program<'a> {
    guest: &'a Guest,
    pid: u32,
    terminal: bool,
    has_stdin: bool,
}

impl Program<'_> {
    /// From the client to the program, until the client is gone. Frames that can't be delivered because the program
    /// has ended or closed its stdin are dropped: its exit is on the way.
    async fn pump_input(&self, ahead: Ahead, source: &mut SplitStream<WebSocket>) -> ApiResult<()> {
        let mut ahead = match ahead {
            Ahead::Said(message) => Some(Ok(message)),
            Ahead::Nothing | Ahead::Gone => None,
        };
        loop {
            let heard = match ahead.take() {
                Some(heard) => Some(heard),
                None => source.next().await,
            };
            match heard {
                Some(Ok(Message::Binary(bytes))) => self.input(&bytes).await?,
                Some(Ok(Message::Text(text))) => self.control(parse(&text)?).await?,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
            }
        }
    }

    async fn control(&self, input: StreamInput) -> ApiResult<()> {
        match input {
            StreamInput::Start { .. } => Err(ApiError::invalid("type", "the program has been started already")),
            StreamInput::Stdin { data, encoding: Some(Encoding::Base64) } => {
                let bytes = STANDARD.decode(data).map_err(|_| ApiError::invalid("data", "not valid base64"))?;
                self.input(&bytes).await
            }
            StreamInput::Stdin { data, .. } => self.input(data.as_bytes()).await,
            StreamInput::CloseStdin => {
                let request = CloseStdinRequest { process: selector(Selector::Pid(self.pid)), ..Default::default() };
                self.delivered(self.guest.processes().close_stdin_with_options(request, call(None)).await.err());
                Ok(())
            }
            StreamInput::Signal { signal } => {
                self.signal(signals::parse(&signal)?).await;
                Ok(())
            }
            StreamInput::Resize { cols, rows } => {
                if !self.terminal {
                    return Err(ApiError::invalid("type", "only a terminal can be resized"));
                }
                let request = UpdateRequest {
                    process: selector(Selector::Pid(self.pid)),
                    pty: pty_size((cols.max(1), rows.max(1))),
                    ..Default::default()
                };
                self.delivered(self.guest.processes().update_with_options(request, call(None)).await.err());
                Ok(())
            }
            StreamInput::Stop => {
                self.signal(signals::SIGTERM).await;
                tokio::time::sleep(STOP_GRACE).await;
                self.signal(signals::SIGKILL).await;
                Ok(())
            }
        }
    }

    async fn input(&self, bytes: &[u8]) -> ApiResult<()> {
        if !self.has_stdin {
            return Err(ApiError::invalid("stdin", "the program was started without stdin"));
        }
        for chunk in bytes.chunks(INPUT_CHUNK) {
            let input = if self.terminal { Input::Pty(chunk.to_vec()) } else { Input::Stdin(chunk.to_vec()) };
            let request = SendInputRequest {
                process: selector(Selector::Pid(self.pid)),
                input: ProcessInput { input: Some(input), ..Default::default() }.into(),
                ..Default::default()
            };
            // As long as the program takes to read it.
            self.delivered(self.guest.processes().send_input_with_options(request, stream(None)).await.err());
        }
        Ok(())
    }

    async fn signal(&self, signal: u32) {
        let selector = Some(SignalSelector::Pid(self.pid));
        let request = SignalRequest { selector, signal, group: true, ..Default::default() };
        self.delivered(self.guest.service().signal_with_options(request, call(None)).await.err());
    }

    /// The client is gone.
    async fn kill(&self) {
        if self.terminal {
            self.signal(signals::SIGHUP).await;
        }
        self.signal(signals::SIGKILL).await;
    }

    fn delivered(&self, error: Option<atoll_rpc::connectrpc::ConnectError>) {
        if let Some(error) = error {
            let sandbox: &SandboxId = &self.guest.id;
            tracing::debug!(%sandbox, pid = self.pid, %error, "not delivered to a program");
        }
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
