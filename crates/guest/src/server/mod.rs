//! The way in: listeners, connections, and which request goes where.
//!
//! Two kinds of door. The control socket is held by the host agent, which has already decided who may reach this
//! sandbox; `GuestService` and `/init` are answered there only, and calls marked as the control plane's own need no
//! access token. The TCP door, if there is one, is for programs inside the sandbox and has none of these.
//! Neighbours: `answers` makes responses, `init` is `POST /init`; services live with their subjects.

pub mod answers;
mod init;
mod listener;

use std::convert::Infallible;
use std::sync::Arc;

use atoll_rpc::atoll::guest::v1::GuestServiceServer;
use atoll_rpc::filesystem::FilesystemServer;
use atoll_rpc::process::ProcessServer;
use connectrpc::{Chain, ConnectRpcBody, ConnectRpcService, Limits};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tower::Service;

pub use listener::{Listener, serve};

use crate::auth;
use crate::exec::Control;
use crate::files;
use crate::filesystem::service::FilesystemService;
use crate::guest::Guest;
use crate::process::service::ProcessService;
use answers::Body;

/// The largest message of an RPC: inputs and command lines are far smaller, files don't travel this way.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Control,
    Tcp,
}

type Public = ConnectRpcService<Chain<ProcessServer<ProcessService>, FilesystemServer<FilesystemService>>>;
type Private = ConnectRpcService<GuestServiceServer<Control>>;

/// Everything that answers requests; cheap to clone.
#[derive(Clone)]
pub struct Router {
    guest: Arc<Guest>,
    public: Public,
    private: Private,
}

impl Router {
    pub fn new(guest: Arc<Guest>) -> Self {
        let limits =
            Limits::default().with_max_message_size(MAX_MESSAGE_BYTES).with_max_request_body_size(MAX_MESSAGE_BYTES);
        let services = Chain(
            ProcessServer::new(ProcessService(guest.clone())),
            FilesystemServer::new(FilesystemService(guest.clone())),
        );
        Self {
            public: ConnectRpcService::new(services).with_limits(limits),
            private: ConnectRpcService::new(GuestServiceServer::new(Control(guest.clone()))).with_limits(limits),
            guest,
        }
    }

    pub async fn answer(self, door: Door, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let from_browser = request.headers().contains_key(http::header::ORIGIN);
        let mut response = if from_browser && answers::is_preflight(&request) {
            answers::preflight(request.headers())
        } else {
            self.dispatch(door, request).await
        };
        if from_browser {
            answers::allow_any_origin(response.headers_mut());
        }
        Ok(response)
    }

    async fn dispatch(mut self, door: Door, request: Request<Incoming>) -> Response<Body> {
        let trusted = door == Door::Control && is_marked_trusted(request.headers());
        let allowed = || trusted || auth::has_access(&self.guest, request.headers());
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET, "/health") => answers::no_content(),
            (&Method::POST, "/init") if door == Door::Control => init::answer(&self.guest, trusted, request).await,
            (&Method::GET, "/files") => files::read::answer(&self.guest, trusted, request).await,
            (&Method::POST, "/files") => files::write::answer(&self.guest, trusted, request).await,
            _ if path.starts_with("/atoll.guest.v1.GuestService/") && door == Door::Control => {
                self.private.call(request).await.map_or_else(|never| match never {}, from_rpc)
            }
            _ if !is_known(path, door) => answers::error(StatusCode::NOT_FOUND, "there is nothing at this path"),
            _ if !allowed() => answers::error(StatusCode::UNAUTHORIZED, auth::UNAUTHORIZED),
            (&Method::GET, "/metrics") => answers::json(&self.guest.meter.read(&self.guest.cgroup)),
            (&Method::GET, "/envs") => answers::json(&self.guest.settings().env),
            (&Method::POST, "/files/compose") => files::compose::answer(&self.guest, request).await,
            _ if is_rpc(path) => self.public.call(request).await.map_or_else(|never| match never {}, from_rpc),
            _ => answers::error(StatusCode::METHOD_NOT_ALLOWED, "the method isn't allowed at this path"),
        }
    }
}

fn is_rpc(path: &str) -> bool {
    path.starts_with("/process.Process/") || path.starts_with("/filesystem.Filesystem/")
}

fn is_known(path: &str, door: Door) -> bool {
    is_rpc(path)
        || matches!(path, "/health" | "/metrics" | "/envs" | "/files" | "/files/compose")
        || (path == "/init" && door == Door::Control)
}

fn is_marked_trusted(headers: &HeaderMap) -> bool {
    headers.get(auth::TRUSTED).is_some_and(|value| value == "1")
}

fn from_rpc(response: Response<ConnectRpcBody>) -> Response<Body> {
    response.map(|body| match body {
        // By itself, so that its length is known and sent.
        ConnectRpcBody::Full(message) => message.map_err(|never| match never {}).boxed_unsync(),
        stream => stream.map_err(|never| match never {}).boxed_unsync(),
    })
}
