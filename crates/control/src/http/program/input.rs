//! The way in: what the client sends, delivered to its program.

use std::time::Duration;

use atoll_model::SandboxId;
use atoll_model::api::sandboxes::{Encoding, StreamInput};
use atoll_rpc::atoll::guest::v1::__buffa::oneof::signal_request::Selector as SignalSelector;
use atoll_rpc::atoll::guest::v1::SignalRequest;
use atoll_rpc::process::__buffa::oneof::process_input::Input;
use atoll_rpc::process::__buffa::oneof::process_selector::Selector;
use atoll_rpc::process::{CloseStdinRequest, ProcessInput, SendInputRequest, UpdateRequest};
use axum::extract::ws::{Message, WebSocket};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use futures::stream::SplitStream;

use super::Ahead;
use super::events::{pty_size, selector};
use super::wanted::parse;
use crate::http::error::{ApiError, ApiResult};
use crate::http::guest::{Guest, call, stream};
use crate::http::signals;

/// Between SIGTERM and SIGKILL of a stop.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Bytes sent to a program in one call.
const INPUT_CHUNK: usize = 256 << 10;

pub(super) struct Program<'a> {
    pub guest: &'a Guest,
    pub pid: u32,
    pub terminal: bool,
    pub has_stdin: bool,
}

impl Program<'_> {
    /// From the client to the program, until the client is gone. Frames that can't be delivered because the program
    /// has ended or closed its stdin are dropped: its exit is on the way.
    pub(super) async fn pump_input(&self, ahead: Ahead, source: &mut SplitStream<WebSocket>) -> ApiResult<()> {
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
    pub(super) async fn kill(&self) {
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
