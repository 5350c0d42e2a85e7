//! The way into sandboxes: `/proxy/{sandbox_id}/{port}/{path}` on the agent's listener.
//!
//! Port `guest` is the sandbox's guest agent (a unix socket), a number is what listens there inside, and a number with
//! `+tls` the same spoken to by TLS. The proxy adds
//! nothing but routing and bounds: bodies stream both ways as they come, upgrades (WebSockets) become tunnels, and all
//! streams of a sandbox are reset at the moment when it is destroyed. It never wakes a paused sandbox; that is control's
//! decision. Only control can call it (see [`super::peer`]).

mod guest;
mod port;
mod refusal;
mod stream;
mod tls;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use atoll_model::SandboxId;
use atoll_model::api::hosts::PROXY_ERROR_HEADER;
use atoll_rpc::hop;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::any;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderName, Request, StatusCode, Version};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use guest::GuestClient;
use port::Speaks;
pub use refusal::Refusal;
use stream::{CutBody, Place};

/// Of a request that is refused, so much is taken, and for so long.
const REFUSED_BODY: usize = 8 << 20;
const REFUSED_TIME: Duration = Duration::from_secs(1);

/// Control vouches for a request with it; the guest agent believes it, so it goes nowhere else.
const TRUSTED: HeaderName = HeaderName::from_static("x-atoll-trusted");

/// How a running sandbox is reached.
#[derive(Debug, Clone)]
pub struct Route {
    /// The guest agent's socket.
    pub socket: PathBuf,
    pub address: Ipv4Addr,
    /// Cancelled when the sandbox is destroyed or ends.
    pub cut: CancellationToken,
    /// The bound of streams into this sandbox.
    pub streams: Arc<Semaphore>,
    pub streams_limit: usize,
}

/// Knows the sandboxes.
pub trait Directory: Send + Sync + 'static {
    /// # Errors
    /// When the sandbox is not one that runs.
    fn route(&self, id: &SandboxId) -> Result<Route, Refusal>;
}

struct Proxy {
    directory: Arc<dyn Directory>,
    guests: GuestClient,
    streams: Arc<Semaphore>,
    streams_limit: usize,
}

/// The proxy's part of the agent's router.
pub fn router(directory: Arc<dyn Directory>, streams_limit: usize) -> Router {
    let guests = guest::client(directory.clone());
    let streams = Arc::new(Semaphore::new(streams_limit));
    let proxy = Arc::new(Proxy { directory, guests, streams, streams_limit });
    Router::new().route("/proxy/{*rest}", any(handle)).with_state(proxy)
}

async fn handle(State(proxy): State<Arc<Proxy>>, request: Request<Body>) -> Response {
    let target = Target::of(request.uri());
    let asked_for = target.sandbox.to_owned();
    let result = match target.parse() {
        Ok((id, port, path)) => match proxy.directory.route(&id) {
            Ok(route) => proxy.forward(&id, route, (port, path), request).await,
            Err(refusal) => {
                drain(request.into_body()).await;
                Err(refusal)
            }
        },
        Err(refusal) => Err(refusal),
    };
    result.unwrap_or_else(|refusal| refusal.answer(&asked_for))
}

/// Takes what was sent along with a request that is refused: whoever still sends when the connection is closed may never
/// read why.
async fn drain(body: Body) {
    let whole = Limited::new(body, REFUSED_BODY).collect();
    let _taken = tokio::time::timeout(REFUSED_TIME, whole).await;
}

/// Where in a sandbox a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Guest,
    Number(u16, Speaks),
}

/// The parts of `/proxy/{sandbox_id}/{port}/{path}?{query}`, still as text: what follows the port travels on as it is.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    sandbox: &'a str,
    port: &'a str,
    path: String,
}

impl<'a> Target<'a> {
    fn of(uri: &'a Uri) -> Self {
        let rest = uri.path().strip_prefix("/proxy/").unwrap_or_default();
        let (sandbox, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let (port, path) = rest.split_once('/').unwrap_or((rest, ""));
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        Self { sandbox, port, path: format!("/{path}{query}") }
    }

    fn parse(&self) -> Result<(SandboxId, Port, PathAndQuery), Refusal> {
        let id = self.sandbox.parse().map_err(|_| Refusal::BadSandboxId)?;
        let port = match self.port {
            "guest" => Port::Guest,
            text => {
                let (text, speaks) =
                    text.strip_suffix("+tls").map_or((text, Speaks::Plain), |text| (text, Speaks::Tls));
                match text.parse() {
                    Ok(number) if number != 0 && !text.starts_with('+') => Port::Number(number, speaks),
                    _ => return Err(Refusal::BadPort),
                }
            }
        };
        let path = self.path.parse().map_err(|_| Refusal::BadPort)?;
        Ok((id, port, path))
    }
}

impl Proxy {
    async fn forward(
        &self,
        id: &SandboxId,
        route: Route,
        (port, path): (Port, PathAndQuery),
        mut request: Request<Body>,
    ) -> Result<Response, Refusal> {
        let place = self.place(&route)?;
        let upgrade = hop::upgrade_of(request.headers()).filter(|_| request.version() == Version::HTTP_11);
        let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));

        let authority = request.uri().authority().cloned();
        let map = request.headers_mut();
        hop::carry_host(map, authority.as_ref());
        hop::strip_hop_by_hop(map);
        if let Some(to) = upgrade {
            hop::ask_upgrade(map, to);
        }
        *request.version_mut() = Version::HTTP_11;

        let sent = async {
            match port {
                Port::Guest => self.send_to_guest(id, path, request).await,
                Port::Number(number, speaks) => {
                    request.headers_mut().remove(TRUSTED);
                    *request.uri_mut() = Uri::from(path);
                    let address = SocketAddr::from((route.address, number));
                    port::send(address, speaks, request, route.cut.clone()).await.map_err(|error| match error {
                        port::PortError::Closed => Refusal::PortClosed(number),
                        port::PortError::Broken => Refusal::Broken,
                    })
                }
            }
        };
        let answer = tokio::select! {
            answer = sent => answer.map_err(|refusal| self.explain(id, refusal))?,
            () = route.cut.cancelled() => return Err(Refusal::Destroyed),
        };
        Ok(match client_side {
            Some(client_side) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
                tunnel(answer, client_side, route.cut, place)
            }
            _ => passed_on(answer, route.cut, place),
        })
    }

    async fn send_to_guest(
        &self,
        id: &SandboxId,
        path: PathAndQuery,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Refusal> {
        let uri = Uri::builder().scheme("http").authority(id.as_str()).path_and_query(path).build();
        *request.uri_mut() = uri.map_err(|_| Refusal::BadPort)?;
        self.guests.request(request).await.map_err(|error| {
            tracing::debug!(sandbox = %id, %error, "a request to a guest agent failed");
            if error.is_connect() { Refusal::NotFound } else { Refusal::Broken }
        })
    }

    /// A connection that broke because the sandbox has just ended or been paused is told as what it is. But for one that
    /// the request may have gone into: that it is paused says that nothing has arrived, and it may be sent again.
    fn explain(&self, id: &SandboxId, refusal: Refusal) -> Refusal {
        match self.directory.route(id) {
            Ok(_) => refusal,
            Err(Refusal::Paused) if refusal == Refusal::Broken => refusal,
            Err(state) => state,
        }
    }

    fn place(&self, route: &Route) -> Result<Place, Refusal> {
        let full = |limit| move |_| Refusal::TooManyStreams { limit };
        let sandbox = route.streams.clone().try_acquire_owned().map_err(full(route.streams_limit))?;
        let host = self.streams.clone().try_acquire_owned().map_err(full(self.streams_limit))?;
        Ok(Place::new(sandbox, host))
    }
}

fn passed_on(answer: Response<Incoming>, cut: CancellationToken, place: Place) -> Response {
    let (mut head, body) = answer.into_parts();
    hop::strip_hop_by_hop(&mut head.headers);
    head.headers.remove(PROXY_ERROR_HEADER);
    head.version = Version::HTTP_11;
    Response::from_parts(head, Body::new(CutBody::new(body, cut, place)))
}

/// Both ends have agreed to speak something else: from here on bytes are bytes.
fn tunnel(
    mut answer: Response<Incoming>,
    client_side: hyper::upgrade::OnUpgrade,
    cut: CancellationToken,
    place: Place,
) -> Response {
    let to = answer.headers().get(http::header::UPGRADE).cloned();
    let sandbox_side = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        let copied = async {
            let (client, sandbox) = tokio::try_join!(client_side, sandbox_side)?;
            let (mut client, mut sandbox) = (TokioIo::new(client), TokioIo::new(sandbox));
            let _ended =
                tokio::io::copy_bidirectional_with_sizes(&mut client, &mut sandbox, 64 * 1024, 64 * 1024).await;
            Ok::<_, hyper::Error>(())
        };
        tokio::select! {
            _ended = copied => {}
            () = cut.cancelled() => {}
        }
        drop(place);
    });
    let (mut head, _) = answer.into_parts();
    hop::strip_hop_by_hop(&mut head.headers);
    head.headers.remove(PROXY_ERROR_HEADER);
    if let Some(to) = to {
        hop::ask_upgrade(&mut head.headers, to);
    }
    Response::from_parts(head, Body::empty())
}
