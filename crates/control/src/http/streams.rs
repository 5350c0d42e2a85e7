//! The WebSockets `exec/stream` and `pty`.

use atoll_model::{SandboxId, TeamId};
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::response::Response;
use serde::Deserialize;

use super::caller::{Key, WEBSOCKET_PROTOCOL};
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Query};
use super::guest::Guest;
use super::places::{TeamShare, refused};
use super::program::{Dialect, Session, serve};
use super::validate;
use crate::app::App;

/// A frame of a client: a command line (Linux runs none beyond 2 MiB), or a piece of stdin.
const MAX_FRAME: usize = 2 << 20;

/// The upgrade, after the caller has been judged: what is wrong with it is told in the usual shape.
pub type Upgrade = Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>;

/// The upgrade, and the team's place for the connection: whoever serves it keeps that until it ends.
pub fn upgrade(app: &App, team: &TeamId, upgrade: Upgrade) -> ApiResult<(WebSocketUpgrade, TeamShare)> {
    let upgrade = upgrade.map_err(|rejection| {
        ApiError::invalid("upgrade", "this route is a WebSocket: send an Upgrade request").with_source(rejection)
    })?;
    let place = app.places.socket(team).map_err(|full| refused(full, "WebSockets"))?;
    let upgrade = upgrade.protocols([WEBSOCKET_PROTOCOL]);
    Ok((upgrade.max_message_size(MAX_FRAME).max_frame_size(MAX_FRAME), place))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StreamQuery {
    /// Output in binary frames: one byte (1 stdout, 2 stderr), then the bytes.
    #[serde(default)]
    binary: bool,
}

/// Runs a program and stays connected to it. The client's first frame says what to start (`StreamInput`).
#[utoipa::path(get, path = "/v1/sandboxes/{id}/exec/stream", tag = "programs",
    params(("id" = SandboxId, Path), StreamQuery),
    responses((status = 101, description = "A WebSocket; see StreamInput and StreamOutput"), (status = 409)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn exec_stream(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Query(query): Query<StreamQuery>,
    socket: Upgrade,
) -> ApiResult<Response> {
    let (socket, place) = upgrade(&app, &owner.team, socket)?;
    let guest = Guest::of(&app, &owner, id, "run a program in").await?;
    let dialect = Dialect::Stream { binary: query.binary };
    let session = Session { guest, dialect, tag: None, request: owner.origin.request_id, _place: place };
    Ok(socket.on_upgrade(move |socket| app.tasks.clone().track_future(serve(socket, session))))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TerminalQuery {
    /// Makes it reconnectable: who comes with the same tag gets the same terminal.
    tag: Option<String>,
}

/// A terminal. Binary frames are its bytes; text frames are JSON control frames, the first one a start frame.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/pty", tag = "programs",
    params(("id" = SandboxId, Path), TerminalQuery),
    responses((status = 101, description = "A WebSocket; see StreamInput and StreamOutput"), (status = 409)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn pty(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Query(query): Query<TerminalQuery>,
    socket: Upgrade,
) -> ApiResult<Response> {
    let (socket, place) = upgrade(&app, &owner.team, socket)?;
    validate::tag(query.tag.as_deref())?;
    let guest = Guest::of(&app, &owner, id, "open a terminal in").await?;
    let dialect = Dialect::Terminal;
    let session = Session { guest, dialect, tag: query.tag, request: owner.origin.request_id, _place: place };
    Ok(socket.on_upgrade(move |socket| app.tasks.clone().track_future(serve(socket, session))))
}
