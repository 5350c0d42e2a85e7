//! Programs as they run: `exec/stream` and `pty`, over a WebSocket.
//!
//! Output comes as binary frames, so it is byte-exact. Both directions push back: who does not read makes the
//! other side wait.

use std::collections::BTreeMap;

use atoll_model::SandboxId;
use atoll_model::api::sandboxes::{StreamInput, StreamOutput};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::connect::Stream;
use crate::sandboxes::bytes_of;
use crate::transport::query;
use crate::{ApiError, Client, Error};

/// No frame of the server is larger.
const MAX_FRAME: usize = 16 << 20;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

/// The program to start. Without a command, a terminal gets the user's shell.
#[derive(Debug, Clone, Default)]
pub struct Start {
    pub cmd: Option<String>,
    pub args: Vec<String>,
    pub cwd: Option<String>,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub tag: Option<String>,
    /// Without it the program's stdin is empty.
    pub stdin: bool,
    /// Columns and rows, for a terminal.
    pub size: Option<(u16, u16)>,
}

/// What is sent to a running program.
#[derive(Debug, Clone)]
pub enum Input {
    /// Bytes for its stdin or terminal.
    Bytes(Bytes),
    CloseStdin,
    /// By name (`SIGINT`) or number.
    Signal(String),
    Resize {
        cols: u16,
        rows: u16,
    },
    /// SIGTERM, and SIGKILL after a moment.
    Stop,
}

/// What comes from a running program.
#[derive(Debug, Clone)]
pub enum Event {
    Started {
        pid: u32,
    },
    /// Also what a terminal shows.
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last event. The code is 128 + the signal when one ended it.
    Exited {
        code: i32,
        signal: Option<String>,
    },
}

impl Client {
    /// Starts a program and stays connected to it. When the session is dropped, the program goes on.
    pub async fn exec_stream(&self, id: &SandboxId, start: Start) -> Result<Session, Error> {
        self.session(&format!("/v1/sandboxes/{id}/exec/stream?binary=true"), start, false).await
    }

    /// Starts a program in a terminal.
    pub async fn pty(&self, id: &SandboxId, start: Start) -> Result<Session, Error> {
        let query = query(&[("tag", start.tag.clone())]);
        self.session(&format!("/v1/sandboxes/{id}/pty{query}"), start, true).await
    }

    async fn session(&self, path: &str, start: Start, terminal: bool) -> Result<Session, Error> {
        let what = crate::transport::what(&http::Method::GET, path);
        let url = self.endpoint.websocket_url(path);
        let mut request = url
            .into_client_request()
            .map_err(|error| Error::NotAtoll { what: what.clone(), cause: error.to_string() })?;
        if let Some((name, value)) = self.credential() {
            request.headers_mut().insert(name, value);
        }
        let stream = self.connector.connect().await.map_err(|error| self.unreachable(error))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(128 << 10)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_FRAME))
            .max_frame_size(Some(MAX_FRAME));
        let handshake = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
        let (socket, _) = match handshake.await {
            Ok(done) => done,
            Err(WsError::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                return Err(Error::Api(Box::new(ApiError::read(response.status(), response.headers(), body))));
            }
            Err(error) => return Err(self.broken(&what, &error)),
        };
        let (sink, source) = socket.split();
        let mut session = Session {
            sender: Sender { sink, what: what.clone() },
            receiver: Receiver { source, what, terminal, over: false },
        };
        let (cols, rows) = start.size.unzip();
        let start = StreamInput::Start {
            cmd: start.cmd,
            args: start.args,
            cwd: start.cwd,
            env: start.env,
            user: start.user,
            tag: start.tag,
            stdin: start.stdin,
            cols,
            rows,
        };
        session.sender.control(&start).await?;
        Ok(session)
    }
}

/// A connection to a running program.
pub struct Session {
    sender: Sender,
    receiver: Receiver,
}

impl Session {
    pub async fn send(&mut self, input: Input) -> Result<(), Error> {
        self.sender.send(input).await
    }

    /// The next event; after [`Event::Exited`], `None`.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        self.receiver.next().await
    }

    /// Both halves, for use from two places.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }
}

/// The half that sends.
pub struct Sender {
    sink: SplitSink<WebSocketStream<Stream>, Message>,
    what: String,
}

impl Sender {
    pub async fn send(&mut self, input: Input) -> Result<(), Error> {
        let control = match input {
            Input::Bytes(bytes) => return self.frame(Message::Binary(bytes)).await,
            Input::CloseStdin => StreamInput::CloseStdin,
            Input::Signal(signal) => StreamInput::Signal { signal },
            Input::Resize { cols, rows } => StreamInput::Resize { cols, rows },
            Input::Stop => StreamInput::Stop,
        };
        self.control(&control).await
    }

    async fn control(&mut self, input: &StreamInput) -> Result<(), Error> {
        let text = serde_json::to_string(input)
            .map_err(|error| Error::NotAtoll { what: self.what.clone(), cause: error.to_string() })?;
        self.frame(Message::text(text)).await
    }

    async fn frame(&mut self, message: Message) -> Result<(), Error> {
        self.sink.send(message).await.map_err(|error| ended(&self.what, &error))
    }

    /// Says goodbye in order.
    pub async fn close(&mut self) {
        let _ = self.sink.close().await;
    }
}

/// The half that receives.
pub struct Receiver {
    source: SplitStream<WebSocketStream<Stream>>,
    what: String,
    terminal: bool,
    over: bool,
}

impl Receiver {
    /// The next event; after [`Event::Exited`], `None`. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        while !self.over {
            let message = match self.source.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(ended(&self.what, &error)),
                None => return Err(self.lost("the connection ended before the program did")),
            };
            match message {
                Message::Binary(bytes) if self.terminal => return Ok(Some(Event::Stdout(bytes))),
                Message::Binary(bytes) => match bytes.first() {
                    Some(&STDOUT) => return Ok(Some(Event::Stdout(bytes.slice(1..)))),
                    Some(&STDERR) => return Ok(Some(Event::Stderr(bytes.slice(1..)))),
                    _ => {}
                },
                Message::Text(text) => {
                    if let Some(event) = self.control(&text)? {
                        return Ok(Some(event));
                    }
                }
                Message::Close(frame) => {
                    let reason = frame.map(|frame| frame.reason.to_string()).filter(|reason| !reason.is_empty());
                    return Err(self.lost(&reason.unwrap_or_else(|| "the server closed the stream".to_owned())));
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        Ok(None)
    }

    fn control(&mut self, text: &str) -> Result<Option<Event>, Error> {
        let Ok(output) = serde_json::from_str::<StreamOutput>(text) else {
            // A newer server may send kinds of frames that this build does not know.
            return Ok(None);
        };
        Ok(Some(match output {
            StreamOutput::Start { pid } => Event::Started { pid },
            StreamOutput::Stdout { data, encoding } => Event::Stdout(bytes_of(&data, encoding)?.into()),
            StreamOutput::Stderr { data, encoding } => Event::Stderr(bytes_of(&data, encoding)?.into()),
            StreamOutput::Exit { exit_code, signal } => {
                self.over = true;
                Event::Exited { code: exit_code, signal }
            }
            StreamOutput::Error { code, message, field, reason } => {
                self.over = true;
                return Err(Error::Stream { code, message, field, reason });
            }
        }))
    }

    fn lost(&mut self, message: &str) -> Error {
        self.over = true;
        Error::disconnected(message.to_owned())
    }
}

fn ended(what: &str, error: &WsError) -> Error {
    Error::disconnected(format!("the connection broke during {what}: {error}"))
}
