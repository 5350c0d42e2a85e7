//! What is asked of the guest agents of the fake machine.
#![allow(refining_impl_trait, reason = "naming the answers' types is what the service traits are used like")]

use atoll_rpc::atoll::guest::v1 as guest;
use atoll_rpc::connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult};

use super::FakeAgent;

impl guest::GuestService for FakeAgent {
    /// Answers with its own command line; `sleep` runs into its timeout, `yes` writes too much, `flood` a MiB.
    async fn exec(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, guest::ExecRequest>,
    ) -> ServiceResult<guest::ExecResponse> {
        self.note("exec");
        let request = request.to_owned_message();
        let stdout = if request.cmd == "flood" {
            vec![b'x'; 1 << 20]
        } else {
            format!("{} {}", request.cmd, request.args.join(" ")).into_bytes()
        };
        Response::ok(guest::ExecResponse {
            stdout,
            timed_out: request.cmd == "sleep",
            truncated: request.cmd == "yes",
            exit_code: self.state().exit_code,
            pid: 7,
            ..Default::default()
        })
    }

    async fn signal(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, guest::SignalRequest>,
    ) -> ServiceResult<guest::SignalResponse> {
        self.note("signal");
        Response::ok(guest::SignalResponse::default())
    }

    async fn trust(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, guest::TrustRequest>,
    ) -> ServiceResult<guest::TrustResponse> {
        Response::ok(guest::TrustResponse::default())
    }

    async fn configure(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, guest::ConfigureRequest>,
    ) -> ServiceResult<guest::ConfigureResponse> {
        Response::ok(guest::ConfigureResponse::default())
    }

    async fn logs(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, guest::LogsRequest>,
    ) -> ServiceResult<guest::LogsResponse> {
        let line = guest::LogLine { sequence: 1, message: "hello".to_owned(), ..Default::default() };
        Response::ok(guest::LogsResponse { lines: vec![line], ..Default::default() })
    }

    async fn quiesce(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, guest::QuiesceRequest>,
    ) -> ServiceResult<guest::QuiesceResponse> {
        Response::ok(guest::QuiesceResponse::default())
    }
}
