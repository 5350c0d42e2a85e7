//! The WebSocket `files/watch`: what changes in a directory.

use std::time::Duration;

use atoll_model::SandboxId;
use atoll_model::api::sandboxes::{FileChange, WatchOutput};
use atoll_rpc::connectrpc::ConnectError;
use atoll_rpc::filesystem::__buffa::oneof::watch_dir_response::Event;
use atoll_rpc::filesystem::{EventType, WatchDirRequest};
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket};
use axum::response::Response;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use serde::Deserialize;

use super::caller::Key;
use super::error::ApiResult;
use super::extract::{Id, Query};
use super::guest::{Guest, stream};
use super::places::TeamShare;
use super::streams::{Upgrade, upgrade};
use super::validate;
use crate::app::App;

const PING: Duration = Duration::from_secs(25);

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WatchQuery {
    /// The directory.
    path: String,
    #[serde(default)]
    recursive: bool,
    user: Option<String>,
}

/// Tells what changes in a directory, in text frames (`WatchOutput`).
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/watch", tag = "files",
    params(("id" = SandboxId, Path), WatchQuery),
    responses((status = 101, description = "A WebSocket; see WatchOutput"), (status = 409)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn watch(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Query(query): Query<WatchQuery>,
    socket: Upgrade,
) -> ApiResult<Response> {
    validate::path("path", &query.path)?;
    validate::user(query.user.as_deref())?;
    let (socket, place) = upgrade(&app, &owner.team, socket)?;
    let guest = Guest::of(&app, &owner, id, "watch files of").await?;
    Ok(socket.on_upgrade(move |socket| app.tasks.clone().track_future(serve(socket, guest, query, place))))
}

async fn serve(mut socket: WebSocket, guest: Guest, query: WatchQuery, _place: TeamShare) {
    if let Err(error) = run(&mut socket, &guest, query).await {
        let error = guest.error("watch the directory", Some("path"), error);
        let frame = WatchOutput::Error { code: error.code.to_string(), message: error.message.to_string() };
        let _ = send(&mut socket, &frame).await;
    }
    let _ = socket.close().await;
}

async fn run(socket: &mut WebSocket, guest: &Guest, query: WatchQuery) -> Result<(), ConnectError> {
    let request = WatchDirRequest { path: query.path, recursive: query.recursive, ..Default::default() };
    let mut events = guest.files().watch_dir_with_options(request, stream(query.user.as_deref())).await?;
    let mut ping = tokio::time::interval(PING);
    loop {
        tokio::select! {
            event = events.message() => {
                let Some(event) = event? else { return Ok(()) };
                let Some(frame) = event.to_owned_message().event.and_then(frame) else { continue };
                if !send(socket, &frame).await {
                    return Ok(());
                }
            }
            // A client has nothing to say here; what it sends is read so that its leaving is seen.
            heard = socket.next() => match heard {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                Some(Ok(_)) => {}
            },
            _ = ping.tick() => {
                if SinkExt::send(socket, Message::Ping(Bytes::new())).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

fn frame(event: Event) -> Option<WatchOutput> {
    match event {
        Event::Start(_) => Some(WatchOutput::Start),
        Event::Keepalive(_) => None,
        Event::Filesystem(event) => {
            let change = match event.r#type.as_known()? {
                EventType::EVENT_TYPE_CREATE => FileChange::Create,
                EventType::EVENT_TYPE_WRITE => FileChange::Write,
                EventType::EVENT_TYPE_REMOVE => FileChange::Remove,
                EventType::EVENT_TYPE_RENAME => FileChange::Rename,
                EventType::EVENT_TYPE_CHMOD => FileChange::Chmod,
                EventType::EVENT_TYPE_UNSPECIFIED => return None,
            };
            Some(WatchOutput::Change { name: event.name.clone(), change })
        }
    }
}

async fn send(socket: &mut WebSocket, frame: &WatchOutput) -> bool {
    let Ok(text) = serde_json::to_string(frame) else { return false };
    SinkExt::send(socket, Message::Text(text.into())).await.is_ok()
}
