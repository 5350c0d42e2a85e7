//! The RPCs of `process.Process`.

use std::sync::Arc;

use atoll_rpc::process::__buffa::oneof::process_input::Input as WireInput;
use atoll_rpc::process::__buffa::oneof::process_selector::Selector as WireSelector;
use atoll_rpc::process::__buffa::oneof::stream_input_request::Event as StreamInputEvent;
use atoll_rpc::process::{
    CloseStdinRequest, CloseStdinResponse, ConnectRequest, ConnectResponse, ListRequest, ListResponse, PTY, Process,
    ProcessInfo, ProcessInput, ProcessSelector, SendInputRequest, SendInputResponse, SendSignalRequest,
    SendSignalResponse, Signal, StartRequest, StartResponse, StreamInputRequest, StreamInputResponse, UpdateRequest,
    UpdateResponse,
};
use connectrpc::{ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::StreamExt;

use super::descriptors::InputError;
use super::stream::{Subscription, messages};
use super::table::Selector;
use super::{Listening, Request, start};
use crate::auth;
use crate::guest::Guest;
use crate::spawn::{Stdio, TerminalSize};

/// A killed process that takes longer to die is told of as killed all the same.
const KILL_PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);

pub struct ProcessService(pub Arc<Guest>);

type Running = Arc<super::Process>;

fn selector(wire: ProcessSelector) -> Result<Selector, ConnectError> {
    match wire.selector {
        Some(WireSelector::Pid(pid)) => Ok(Selector::Pid(pid)),
        Some(WireSelector::Tag(tag)) => Ok(Selector::Tag(tag)),
        None => Err(ConnectError::invalid_argument("the process selector is empty: give a pid or a tag")),
    }
}

fn not_found(selector: &Selector) -> ConnectError {
    ConnectError::not_found(selector.to_string())
}

fn terminal_size(pty: &PTY) -> TerminalSize {
    TerminalSize::new(pty.size.cols, pty.size.rows)
}

impl ProcessService {
    fn find(&self, wire: Option<ProcessSelector>) -> Result<Running, ConnectError> {
        let selector = selector(wire.unwrap_or_default())?;
        self.0.processes.find(&selector).ok_or_else(|| not_found(&selector))
    }
}

async fn write_input(process: &Running, input: Option<ProcessInput>) -> Result<(), ConnectError> {
    let written = match input.and_then(|input| input.input) {
        Some(WireInput::Stdin(data)) => process.input.write(&data, false).await,
        Some(WireInput::Pty(data)) => process.input.write(&data, true).await,
        None => return Err(ConnectError::unimplemented("the request has no input: give stdin or pty")),
    };
    written.map_err(|error: InputError| ConnectError::internal(error.to_string()))
}

impl Process for ProcessService {
    async fn list(&self, _: RequestContext, _: ServiceRequest<'_, ListRequest>) -> ServiceResult<ListResponse> {
        let info = |process: Running| ProcessInfo {
            config: process.config.clone().into(),
            pid: process.pid,
            tag: process.tag.clone(),
            ..Default::default()
        };
        let processes = self.0.processes.list().into_iter().map(info).collect();
        Response::ok(ListResponse { processes, ..Default::default() })
    }

    async fn start(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, StartRequest>,
    ) -> ServiceResult<ServiceStream<StartResponse>> {
        let account = auth::rpc_account(&self.0, &context)?;
        let request = request.to_owned_message();
        let config = request
            .process
            .into_option()
            .ok_or_else(|| ConnectError::invalid_argument("the request has no process configuration"))?;
        let stdio = match request.pty.into_option() {
            Some(pty) => Stdio::Terminal(terminal_size(&pty)),
            None => Stdio::Pipes { stdin: request.stdin.unwrap_or(true) },
        };
        let deadline = context.deadline();
        let wanted = Request { config, account, tag: request.tag, stdio, deadline, ends_with_process: false };
        let (process, events) = start(&self.0, wanted)?;
        let keepalive = auth::keepalive(&context);
        let subscription = Subscription { pid: process.pid, events: Ok(events), keepalive, deadline, owner: true };
        Response::ok(messages(subscription, |event| StartResponse { event: event.into(), ..Default::default() }))
    }

    async fn connect(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, ConnectRequest>,
    ) -> ServiceResult<ServiceStream<ConnectResponse>> {
        let selector = selector(request.to_owned_message().process.into_option().unwrap_or_default())?;
        let (pid, events) = match self.0.processes.find(&selector) {
            Some(process) => match process.listen() {
                Listening::Events(events) => (process.pid, Ok(events)),
                Listening::Ended(end) => (process.pid, Err(end)),
                Listening::TooMany => {
                    return Err(ConnectError::resource_exhausted("the process has as many listeners as it may"));
                }
            },
            None => {
                let (pid, end) = self.0.processes.find_ended(&selector).ok_or_else(|| not_found(&selector))?;
                (pid, Err(end))
            }
        };
        let (keepalive, deadline) = (auth::keepalive(&context), context.deadline());
        let subscription = Subscription { pid, events, keepalive, deadline, owner: false };
        Response::ok(messages(subscription, |event| ConnectResponse { event: event.into(), ..Default::default() }))
    }

    async fn update(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, UpdateRequest>,
    ) -> ServiceResult<UpdateResponse> {
        let request = request.to_owned_message();
        let process = self.find(request.process.into_option())?;
        if let Some(pty) = request.pty.into_option() {
            match process.resize(terminal_size(&pty)) {
                Ok(true) => {}
                Ok(false) => return Err(ConnectError::internal("the process has no terminal that could be resized")),
                Err(error) => return Err(ConnectError::internal(format!("resizing the terminal failed: {error}"))),
            }
        }
        Response::ok(UpdateResponse::default())
    }

    async fn stream_input(
        &self,
        _: RequestContext,
        mut requests: InboundStream<StreamInputRequest>,
    ) -> ServiceResult<StreamInputResponse> {
        let mut process: Option<Running> = None;
        while let Some(message) = requests.next().await {
            match message?.to_owned_message().event {
                Some(StreamInputEvent::Start(begin)) => process = Some(self.find(begin.process.into_option())?),
                Some(StreamInputEvent::Data(data)) => match &process {
                    Some(process) => write_input(process, data.input.into_option()).await?,
                    None => return Err(ConnectError::invalid_argument("the stream's first message must be start")),
                },
                Some(StreamInputEvent::Keepalive(_)) | None => {}
            }
        }
        Response::ok(StreamInputResponse::default())
    }

    async fn send_input(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, SendInputRequest>,
    ) -> ServiceResult<SendInputResponse> {
        let request = request.to_owned_message();
        let process = self.find(request.process.into_option())?;
        write_input(&process, request.input.into_option()).await?;
        Response::ok(SendInputResponse::default())
    }

    async fn send_signal(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, SendSignalRequest>,
    ) -> ServiceResult<SendSignalResponse> {
        let request = request.to_owned_message();
        let process = self.find(request.process.into_option())?;
        let signal = match request.signal.as_known() {
            Some(Signal::SIGNAL_SIGKILL) => rustix::process::Signal::KILL,
            Some(Signal::SIGNAL_SIGTERM) => rustix::process::Signal::TERM,
            _ => return Err(ConnectError::unimplemented("only SIGKILL and SIGTERM can be sent here")),
        };
        process
            .signal(signal, true)
            .map_err(|error| ConnectError::internal(format!("signalling process {} failed: {error}", process.pid)))?;
        if signal == rustix::process::Signal::KILL {
            // Whoever looks next finds it gone.
            self.0.processes.gone(&process, KILL_PATIENCE).await;
        }
        Response::ok(SendSignalResponse::default())
    }

    async fn close_stdin(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, CloseStdinRequest>,
    ) -> ServiceResult<CloseStdinResponse> {
        let process = self.find(request.to_owned_message().process.into_option())?;
        if process.input.close().await {
            Response::ok(CloseStdinResponse::default())
        } else {
            Err(ConnectError::unknown("a terminal's input can't be closed; send the end-of-file character instead"))
        }
    }
}
