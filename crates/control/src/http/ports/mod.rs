//! The way from outside to what listens inside a sandbox: any request to the host name `{port}-{sandbox}.{domain}`, or,
//! on a plain one-port setup, one with the headers `E2b-Sandbox-Id` and `E2b-Sandbox-Port`.
//!
//! It stands before the API's routes, since such a request has any path. `target` says where it goes, `access` who may,
//! `hygiene` which headers stay behind, `link` makes and checks signed links, `signed` reads signed addresses of files
//! and `lookup` finds their sandbox, `refusal` has the answers of the proxy itself. Bodies stream both ways as they come;
//! an upgrade becomes a tunnel. Any replica can do it: the fleet finds the sandbox's host. It never answers for the
//! sandbox, caches, or looks into a body.

mod access;
mod hygiene;
pub mod link;
mod lookup;
mod refusal;
mod signed;
pub mod target;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::SandboxStatus;
use atoll_rpc::hop;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Version};
use axum::middleware::Next;
use axum::response::Response;
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use self::access::Admission;
use self::refusal::Refusal;
use self::signed::Signed;
use self::target::Target;
use super::places::TeamShare;
use super::site::client_address;
use crate::app::App;
use crate::fleet::{FleetError, Way, stands_still};
use crate::sandboxes::{OpenGuard, SandboxError, SandboxRecord, Sandboxes, store};

pub use lookup::Lookup;

/// The guest agent's own port, by the E2B protocol.
pub const GUEST_PORT: u16 = 49983;
/// Where SDKs ask the guest agent whether it runs.
const HEALTH: &str = "/health";
/// Between two looks at a sandbox that somebody waits for.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const COPY_BUFFER: usize = 64 * 1024;
/// Of a request that is refused, so much is taken.
const REFUSED_BODY: usize = 64 * 1024;
/// Bodies up to this size can be sent again.
const SENT_AGAIN: u64 = 64 * 1024;
const REFUSED_TIME: Duration = Duration::from_secs(1);

/// Takes requests into sandboxes, and leaves all others to the API.
pub async fn route(State(app): State<App>, request: Request, next: Next) -> Response {
    let target = match Target::of(&request, &app.config.domain) {
        found @ (Ok(None) | Err(Refusal::MissingHeader(_))) => match Signed::of(&request) {
            Some(signed) if Target::is_unnamed(&request, &app.config.domain) => {
                let client = request.extensions().get::<super::caller::Peer>().map(|peer| peer.0.ip());
                let client = client.map(|ip| client_address(ip, request.headers(), &app.config.trusted_proxies));
                signed::target(&app, &signed, client).await
            }
            _ => found,
        },
        found => found,
    };
    let target = match target {
        Ok(None) => return next.run(request).await,
        Ok(Some(target)) => target,
        Err(refusal) => return refusal.answer("", false),
    };
    let (method, started) = (request.method().clone(), Instant::now());
    let (asked_for, browser) = (target.asked_for.clone(), refusal::wants_html(request.headers()));
    let Ok(place) = app.requests.clone().try_acquire_owned() else {
        return Refusal::Overloaded.answer(&asked_for, browser);
    };
    let response = match into_sandbox(&app, target, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.answer(&asked_for, browser),
    };
    drop(place);
    app.metrics.request(&method, response.status(), started.elapsed());
    response
}

async fn into_sandbox(app: &App, target: Target, request: Request) -> Result<Response, Refusal> {
    let (mut parts, body) = request.into_parts();
    let (record, _place) = match admitted(app, &target, &mut parts).await {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(welcome)) => return Ok(*welcome),
        Err(refusal) => {
            drain(body).await;
            return Err(refusal);
        }
    };
    let guard = app.sandboxes.activity().open(&target.sandbox);

    let upgrade = hop::upgrade_of(&parts.headers).filter(|_| parts.version == Version::HTTP_11);
    let stays = match &upgrade {
        Some(_) => Some(app.places.socket(&record.team_id).map_err(|_| Refusal::TooManyConnections(None))?),
        None => None,
    };
    let inbound = &record.network.inbound;
    let own_name = hygiene::way_in(&mut parts, &target, inbound, app.accounts.tokens());
    if let Some(to) = upgrade.clone() {
        hop::ask_upgrade(&mut parts.headers, to);
    }
    let mut request = Request::from_parts(parts, body);
    let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let (body, again) = if record.auto_resume { twice(body).await? } else { (body, None) };
    let again = again.map(|body| Request::from_parts(parts.clone(), body));
    let mut answer = forward(app, &record, &target, Request::from_parts(parts, body)).await?;
    if stands_still(&answer)
        && let Some(again) = again
    {
        // It was paused between the look and the request, which has not reached it: it wakes up once more.
        let record = store::get_any(&app.db, &target.sandbox).await?.ok_or(Refusal::NotFound)?;
        answer = forward(app, &awake(app, record).await?, &target, again).await?;
    }
    if let Some(refusal) = Refusal::of_agent(answer.headers(), target.port) {
        return Err(refusal);
    }
    hygiene::way_out(answer.headers_mut(), own_name.as_deref());
    Ok(match client_side {
        Some(client_side) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
            tunnel(app, answer, client_side, (guard, stays))
        }
        _ => passed_on(answer, guard),
    })
}

/// Sends a request to where it goes.
async fn forward(
    app: &App,
    record: &SandboxRecord,
    target: &Target,
    request: Request,
) -> Result<axum::http::Response<Incoming>, Refusal> {
    let host = Sandboxes::host_of(record).map_err(|_| Refusal::NotFound)?;
    let fleet = app.sandboxes.fleet();
    let asks_for_health = request.method() == Method::GET && request.uri().path() == HEALTH;
    let answer = if target.port == GUEST_PORT && asks_for_health {
        // Whoever asks whether it runs wants to hear that it doesn't any more, not to wait until it does again.
        tokio::select! {
            answer = fleet.guest_http_untrusted(host, &target.sandbox, request) => answer,
            () = stopped_running(app, target) => return Err(Refusal::NotFound),
        }
    } else if target.port == GUEST_PORT {
        fleet.guest_http_untrusted(host, &target.sandbox, request).await
    } else {
        let inbound = &record.network.inbound;
        let way = if inbound.tls_ports.contains(&target.port) { Way::Tls } else { Way::Plain };
        fleet.port_http(host, &target.sandbox, (target.port, way), request).await
    };
    Ok(answer?)
}

/// A body, and the same once more if it is small: what is larger is sent once.
async fn twice(body: Body) -> Result<(Body, Option<Body>), Refusal> {
    if body.size_hint().exact().is_none_or(|bytes| bytes > SENT_AGAIN) {
        return Ok((body, None));
    }
    let bytes = body.collect().await.map_err(|_| Refusal::Broken)?.to_bytes();
    Ok((Body::from(bytes.clone()), Some(Body::from(bytes))))
}

/// Returns when the sandbox does not run any more.
async fn stopped_running(app: &App, target: &Target) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if let Ok(found) = store::get_any(&app.db, &target.sandbox).await
            && found.is_none_or(|record| record.status() != SandboxStatus::Running)
        {
            return;
        }
    }
}

/// The sandbox, which runs and may be asked by whoever asks, and a place among its team's requests; or an answer that
/// needs no sandbox.
async fn admitted(
    app: &App,
    target: &Target,
    parts: &mut Parts,
) -> Result<Result<(SandboxRecord, TeamShare), Box<Response>>, Refusal> {
    let record = store::get_any(&app.db, &target.sandbox).await?.ok_or(Refusal::NotFound)?;
    match access::judge(app, parts, target, &record).await? {
        Admission::Granted => {}
        Admission::Welcome(response) => return Ok(Err(response)),
    }
    // Public ports ask for no key: without a share, anybody's visitors would be all that control serves.
    let place = app.places.request(&record.team_id).map_err(|_| Refusal::TooManyConnections(None))?;
    Ok(Ok((awake(app, record).await?, place)))
}

/// Takes a small body that goes nowhere: a client that is still sending when the connection is closed may never read
/// the answer. What is large or slow has its connection closed.
async fn drain(body: Body) {
    let whole = Limited::new(body, REFUSED_BODY).collect();
    let _taken = tokio::time::timeout(REFUSED_TIME, whole).await;
}

/// The sandbox, running: woken up first when it is one that wakes by itself.
async fn awake(app: &App, record: SandboxRecord) -> Result<SandboxRecord, Refusal> {
    match record.status() {
        SandboxStatus::Running => return Ok(record),
        SandboxStatus::Pending | SandboxStatus::Starting => return Err(Refusal::Transitioning),
        SandboxStatus::Stopped | SandboxStatus::Missing | SandboxStatus::Error => return Err(Refusal::NotFound),
        // Nothing brings it back but its owner: to whoever asks whether it runs, it doesn't.
        SandboxStatus::Paused | SandboxStatus::Pausing if !record.auto_resume => return Err(Refusal::NotFound),
        SandboxStatus::Paused | SandboxStatus::Pausing | SandboxStatus::Resuming => {}
    }
    match app.sandboxes.usable(&record.team_id.0, &record.id.0, "reach").await {
        Ok(record) => Ok(Arc::unwrap_or_clone(record)),
        Err(SandboxError::InvalidState { status, .. }) if status.is_transitional() => Err(Refusal::Transitioning),
        Err(SandboxError::InvalidState { .. } | SandboxError::NotFound) => Err(Refusal::NotFound),
        Err(SandboxError::Host(error)) => Err(error.into()),
        Err(error) => Err(Refusal::internal(&error)),
    }
}

/// The sandbox's answer; the sandbox counts as used until the last byte has been taken.
fn passed_on(answer: axum::http::Response<Incoming>, guard: OpenGuard) -> Response {
    let (mut head, body) = answer.into_parts();
    hop::strip_hop_by_hop(&mut head.headers);
    head.version = Version::HTTP_11;
    let body = body.map_frame(move |frame| {
        let _in_use = &guard;
        frame
    });
    Response::from_parts(head, Body::new(body))
}

/// Both ends have agreed to speak something else: from here on bytes are bytes.
fn tunnel(
    app: &App,
    mut answer: axum::http::Response<Incoming>,
    client_side: hyper::upgrade::OnUpgrade,
    guards: (OpenGuard, Option<TeamShare>),
) -> Response {
    let to = answer.headers().get(axum::http::header::UPGRADE).cloned();
    let sandbox_side = hyper::upgrade::on(&mut answer);
    let shutdown = app.shutdown.clone();
    tokio::spawn(async move {
        let copied = async {
            let (client, sandbox) = tokio::try_join!(client_side, sandbox_side)?;
            let (mut client, mut sandbox) = (TokioIo::new(client), TokioIo::new(sandbox));
            let _ended =
                tokio::io::copy_bidirectional_with_sizes(&mut client, &mut sandbox, COPY_BUFFER, COPY_BUFFER).await;
            Ok::<_, hyper::Error>(())
        };
        tokio::select! {
            _ended = copied => {}
            () = shutdown.cancelled() => {}
        }
        drop(guards);
    });
    let (mut head, _) = answer.into_parts();
    hop::strip_hop_by_hop(&mut head.headers);
    if let Some(to) = to {
        hop::ask_upgrade(&mut head.headers, to);
    }
    Response::from_parts(head, Body::empty())
}

/// The address that the other end of the connection has, for `X-Forwarded-For`.
fn peer_of(parts: &Parts) -> Option<String> {
    parts.extensions.get::<super::caller::Peer>().map(|peer| peer.0.ip().to_string())
}

impl From<FleetError> for Refusal {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::Overloaded { .. } => Self::TooManyConnections(None),
            FleetError::Timeout { .. } => Self::TimedOut,
            FleetError::Paused { .. } => Self::Transitioning,
            FleetError::Internal { .. } => Self::internal(&error),
            FleetError::Unknown { .. } | FleetError::Unavailable { .. } | FleetError::Agent { .. } => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a request into a sandbox failed");
                Self::HostUnreachable
            }
        }
    }
}
