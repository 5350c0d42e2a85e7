//! Connect's transports over the fleet's connections.

use std::sync::Arc;

use atoll_model::api::hosts::PROXY_ERROR_HEADER;
use atoll_model::{HostId, SandboxId};
use atoll_rpc::connectrpc::ConnectError;
use atoll_rpc::connectrpc::client::{BoxFuture, ClientBody, ClientTransport};
use http::{Request, Response, Version, header};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::MapErr;
use hyper::body::Incoming;

use super::answer::{BrokenOff, GuestAnswer, Meter};
use super::channel::Lane;
use super::{Fleet, FleetBody, FleetError};

/// Unary requests with a body beyond this go over a connection of their own.
const SMALL_BODY: u64 = 64 * 1024;

/// Calls of a host's own service.
#[derive(Clone)]
pub struct HostTransport {
    fleet: Fleet,
    host: HostId,
}

/// Calls into a sandbox on a host.
#[derive(Clone)]
pub struct GuestTransport {
    fleet: Fleet,
    host: HostId,
    sandbox: SandboxId,
    meter: Option<Arc<dyn Meter>>,
}

impl HostTransport {
    pub(super) fn new(fleet: Fleet, host: HostId) -> Self {
        Self { fleet, host }
    }
}

impl GuestTransport {
    pub(super) fn new(fleet: Fleet, host: HostId, sandbox: SandboxId, meter: Option<Arc<dyn Meter>>) -> Self {
        Self { fleet, host, sandbox, meter }
    }
}

/// What Connect wants to see; our own error stays in its chain for [`FleetError::from_rpc`].
fn as_rpc(error: FleetError) -> ConnectError {
    let text = error.to_string();
    let rpc = match error {
        FleetError::Timeout { .. } => ConnectError::deadline_exceeded(text),
        _ => ConnectError::unavailable(text),
    };
    rpc.with_shared_source(Arc::new(error))
}

/// Whether the agent's proxy says that the sandbox is paused.
pub fn stands_still<B>(answer: &Response<B>) -> bool {
    answer.headers().get(PROXY_ERROR_HEADER).is_some_and(|code| code == "paused")
}

fn boxed(request: Request<ClientBody>) -> Request<FleetBody> {
    request.map(|body| body.map_err(Into::into).boxed_unsync())
}

/// The body of a host's answer. That it broke off must be seen in Connect's error, which keeps nothing but the words.
pub type HostAnswer = MapErr<Incoming, fn(hyper::Error) -> BrokenOff>;

impl ClientTransport for HostTransport {
    type ResponseBody = HostAnswer;
    type Error = ConnectError;

    fn send(&self, request: Request<ClientBody>) -> BoxFuture<'static, Result<Response<HostAnswer>, ConnectError>> {
        let Self { fleet, host } = self.clone();
        Box::pin(async move {
            let channels = fleet.channels(&host).await.map_err(as_rpc)?;
            let answer = channels.multiplexed(Lane::Rpc, boxed(request)).await.map_err(as_rpc)?;
            Ok(answer.map(|body| body.map_err(BrokenOff as fn(_) -> _)))
        })
    }
}

impl ClientTransport for GuestTransport {
    type ResponseBody = GuestAnswer;
    type Error = ConnectError;

    fn send(&self, request: Request<ClientBody>) -> BoxFuture<'static, Result<Response<GuestAnswer>, ConnectError>> {
        let Self { fleet, host, sandbox, meter } = self.clone();
        Box::pin(async move {
            let unary = request
                .headers()
                .get(header::CONTENT_TYPE)
                .is_some_and(|kind| matches!(kind.as_bytes(), b"application/proto" | b"application/json"));
            let small = request.body().size_hint().upper().is_some_and(|size| size <= SMALL_BODY);
            let channels = fleet.channels(&host).await.map_err(as_rpc)?;
            if unary && small {
                let answer = channels.multiplexed(Lane::Guest, boxed(request)).await.map_err(as_rpc)?;
                if stands_still(&answer) {
                    return Err(as_rpc(FleetError::Paused { host }));
                }
                return Ok(GuestAnswer::of(answer, unary, meter));
            }
            let mut request = boxed(request);
            if let Some(name) = request.uri().authority().map(ToString::to_string)
                && let Ok(name) = name.parse()
            {
                request.headers_mut().insert(header::HOST, name);
            }
            // HTTP/1.1 carries the path alone.
            if let Some(path) = request.uri().path_and_query().cloned() {
                *request.uri_mut() = path.into();
            }
            *request.version_mut() = Version::HTTP_11;
            let answer = channels.bulk(Some(&sandbox), request).await.map_err(as_rpc)?;
            if stands_still(&answer) {
                return Err(as_rpc(FleetError::Paused { host }));
            }
            Ok(GuestAnswer::of(answer, unary, meter))
        })
    }
}
