//! The connection that a host behind NAT keeps open to control, and the way from one replica to a tunnel of another.

use std::time::Duration;

use atoll_model::api::ErrorBody;
use atoll_model::api::hosts::{HOST_TOKEN_HEADER, TUNNEL_PROTOCOL};
use atoll_model::{ErrorCode, HostId};
use atoll_rpc::hop;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult};
use super::extract::Id;
use crate::app::App;
use crate::fleet::{RELAY_HEADER, TunnelPlace};

/// How often it is looked whether a tunnel may stay open.
const LOOK_AFTER: Duration = Duration::from_secs(10);
const UPGRADE_LIMIT: Duration = Duration::from_secs(10);
const COPY_BUFFER: usize = 64 * 1024;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(open)).routes(routes!(relay))
}

/// A host's tunnel: the connection is upgraded to `atoll-tunnel`, HTTP/2 in which control is the client.
#[utoipa::path(get, path = "/v1/hosts/{id}/tunnel", tag = "hosts",
    params(("id" = HostId, Path), ("X-Host-Token" = String, Header)),
    responses((status = 101, description = "The tunnel is open"), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 410, body = ErrorBody)))]
pub async fn open(State(app): State<App>, Id(host): Id<HostId>, mut request: Request) -> ApiResult<Response> {
    let token = request.headers().get(HOST_TOKEN_HEADER).and_then(|value| value.to_str().ok());
    let family = app.hosts.authenticate_tunnel(&host, token).await?;
    let upgrade = upgrade(&mut request)?;
    let tasks = app.tasks.clone();
    tasks.spawn(async move {
        if let Some(io) = upgraded(upgrade).await {
            serve(&app, &host, &family, io).await;
        }
    });
    Ok(switching())
}

async fn serve(app: &App, host: &HostId, family: &str, io: Upgraded) {
    let (connection, run) = match app.tunnels.accept(host, io).await {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::info!(%host, %error, "a host's tunnel could not be opened");
            return;
        }
    };
    let place = TunnelPlace { connection, replica: app.replica.clone(), advertise: app.config.advertise.clone() };
    tracing::info!(%host, connection = place.connection, "a host's tunnel is open");
    let looked_after = async {
        if let Err(error) = app.hosts.tunnel_opened(host, &place).await {
            tracing::warn!(%host, error = &error as &dyn std::error::Error, "a tunnel could not be noted");
            return;
        }
        loop {
            tokio::time::sleep(LOOK_AFTER).await;
            match app.hosts.tunnel_counts(host, &place, family).await {
                Ok(true) => {}
                Ok(false) => return,
                // Nothing is known: the tunnel may stay.
                Err(error) => {
                    tracing::debug!(%host, error = &error as &dyn std::error::Error, "a tunnel was not looked after");
                }
            }
        }
    };
    tokio::select! {
        () = run => {}
        () = looked_after => {}
        () = app.shutdown.cancelled() => {}
    }
    app.tunnels.close(host, &place.connection);
    if let Err(error) = app.hosts.tunnel_closed(host, &place).await {
        tracing::warn!(%host, error = &error as &dyn std::error::Error, "a closed tunnel could not be forgotten");
    }
    tracing::info!(%host, connection = place.connection, "a host's tunnel has ended");
}

/// For other replicas of control: a stream to a host whose tunnel ends at this one.
#[utoipa::path(get, path = "/v1/hosts/{id}/tunnel/relay", tag = "hosts",
    params(("id" = HostId, Path), ("X-Atoll-Relay" = String, Header)),
    responses((status = 101, description = "A stream to the host's listener"), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn relay(State(app): State<App>, Id(host): Id<HostId>, mut request: Request) -> ApiResult<Response> {
    let token =
        request.headers().get(RELAY_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if !app.hosts.is_relay(&host, &token).await? {
        return Err(ApiError::unauthorized());
    }
    let upgrade = upgrade(&mut request)?;
    let mut stream = app.tunnels.local(&host).await.map_err(|error| {
        ApiError::new(ErrorCode::HostUnavailable, "the host's tunnel does not end here").with_source(error)
    })?;
    let shutdown = app.shutdown.clone();
    tokio::spawn(async move {
        let Some(io) = upgraded(upgrade).await else { return };
        let mut io = TokioIo::new(io);
        tokio::select! {
            _ended = tokio::io::copy_bidirectional_with_sizes(&mut io, &mut stream, COPY_BUFFER, COPY_BUFFER) => {}
            () = shutdown.cancelled() => {}
        }
    });
    Ok(switching())
}

fn upgrade(request: &mut Request) -> ApiResult<OnUpgrade> {
    let asks = |headers: &HeaderMap| hop::upgrade_of(headers).is_some_and(|to| to == TUNNEL_PROTOCOL);
    if !asks(request.headers()) {
        return Err(ApiError::invalid("upgrade", format!("this route is a tunnel: send `Upgrade: {TUNNEL_PROTOCOL}`")));
    }
    Ok(hyper::upgrade::on(request))
}

async fn upgraded(upgrade: OnUpgrade) -> Option<Upgraded> {
    match tokio::time::timeout(UPGRADE_LIMIT, upgrade).await {
        Ok(Ok(io)) => Some(io),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection did not become a tunnel");
            None
        }
        Err(_) => None,
    }
}

fn switching() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    hop::ask_upgrade(response.headers_mut(), HeaderValue::from_static(TUNNEL_PROTOCOL));
    response
}
