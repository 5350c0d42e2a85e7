//! Programs in the fake fleet's sandboxes: a script is not run but noted, and does what its words say.
#![allow(refining_impl_trait, reason = "naming the answers' types is what the service traits are used like")]

use atoll_rpc::connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use atoll_rpc::process::process_event::data_event::Output;
use atoll_rpc::process::process_event::{DataEvent, EndEvent, StartEvent};
use atoll_rpc::process::*;
use futures::StreamExt;

use super::FakeAgent;

/// A program that was started.
#[derive(Debug, Clone)]
pub struct Ran {
    pub script: String,
    pub env: std::collections::HashMap<String, String>,
}

fn nothing<T>() -> ServiceResult<T> {
    Err(ConnectError::unimplemented("not in the fake fleet"))
}

impl Process for FakeAgent {
    /// What a script with `last-words` in it says ends without a line feed; `fail` ends with 3, `hang` never.
    async fn start(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, StartRequest>,
    ) -> ServiceResult<ServiceStream<StartResponse>> {
        let config = request.to_owned_message().process.into_option().unwrap_or_default();
        let script = config.args.last().cloned().unwrap_or_default();
        let env = config.envs.into_iter().collect();
        self.ran(Ran { script: script.clone(), env });
        let mut events: Vec<process_event::Event> = vec![StartEvent { pid: 7, ..Default::default() }.into()];
        if script.contains("last-words") {
            let output = Some(Output::Stderr(b"it goes wrong\nbecause of this".to_vec()));
            events.push(DataEvent { output, ..Default::default() }.into());
        }
        let hangs = script.contains("hang");
        if !hangs {
            let exit_code = if script.contains("fail") { 3 } else { 0 };
            events.push(EndEvent { exit_code, exited: true, ..Default::default() }.into());
        }
        let message = |event| {
            let event = ProcessEvent { event: Some(event), ..Default::default() };
            Ok(StartResponse { event: event.into(), ..Default::default() })
        };
        let said = futures::stream::iter(events).map(message);
        if hangs { Response::ok(said.chain(futures::stream::pending()).boxed()) } else { Response::ok(said.boxed()) }
    }

    async fn list(&self, _: RequestContext, _: ServiceRequest<'_, ListRequest>) -> ServiceResult<ListResponse> {
        nothing()
    }

    async fn connect(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, ConnectRequest>,
    ) -> ServiceResult<ServiceStream<ConnectResponse>> {
        nothing()
    }

    async fn update(&self, _: RequestContext, _: ServiceRequest<'_, UpdateRequest>) -> ServiceResult<UpdateResponse> {
        nothing()
    }

    async fn stream_input(
        &self,
        _: RequestContext,
        _: InboundStream<StreamInputRequest>,
    ) -> ServiceResult<StreamInputResponse> {
        nothing()
    }

    async fn send_input(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, SendInputRequest>,
    ) -> ServiceResult<SendInputResponse> {
        nothing()
    }

    async fn send_signal(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, SendSignalRequest>,
    ) -> ServiceResult<SendSignalResponse> {
        nothing()
    }

    async fn close_stdin(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, CloseStdinRequest>,
    ) -> ServiceResult<CloseStdinResponse> {
        nothing()
    }
}
