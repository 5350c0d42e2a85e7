//! Files of a sandbox, all but their contents: list, make directories, remove, move.

use atoll_model::api::sandboxes::{FileEntry, FileList, FileType, ListFilesRequest, MoveFileRequest, PathRequest};
use atoll_model::{ErrorCode, SandboxId};
use atoll_rpc::filesystem as wire;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};

use super::caller::Key;
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json};
use super::guest::{Guest, as_themselves};
use super::places::AnswerMeter;
use super::validate;
use crate::app::App;

/// Of one listing.
const MAX_LISTING: usize = 32 << 20;
const MAX_DEPTH: u32 = 32;

fn entry(wire: wire::EntryInfo) -> FileEntry {
    let kind = match wire.r#type.as_known() {
        Some(wire::FileType::FILE_TYPE_FILE) => FileType::File,
        Some(wire::FileType::FILE_TYPE_DIRECTORY) => FileType::Directory,
        Some(wire::FileType::FILE_TYPE_SYMLINK) => FileType::Symlink,
        _ => FileType::Other,
    };
    // The protocol tells of a link's target in `type`; the link itself is known by having a target.
    let kind = if wire.symlink_target.is_some() { FileType::Symlink } else { kind };
    let modified_at = wire
        .modified_time
        .into_option()
        .and_then(|time| DateTime::<Utc>::from_timestamp(time.seconds, u32::try_from(time.nanos).unwrap_or(0)));
    FileEntry {
        name: wire.name,
        path: wire.path,
        kind,
        size_bytes: u64::try_from(wire.size).unwrap_or(0),
        mode: wire.mode,
        owner: wire.owner,
        group: wire.group,
        modified_at,
        symlink_target: wire.symlink_target,
    }
}

/// What a change has no room for is the sandbox's disk.
fn no_space(error: ApiError) -> ApiError {
    match error.code {
        ErrorCode::QuotaExceeded => ApiError { code: ErrorCode::InsufficientStorage, ..error },
        _ => error,
    }
}

/// Lists a directory, down to `depth`.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/list", tag = "files", params(("id" = SandboxId, Path)),
    request_body = ListFilesRequest, responses((status = 200, body = FileList), (status = 403), (status = 409), (status = 429), (status = 502)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Json(request): Json<ListFilesRequest>,
) -> ApiResult<Response> {
    validate::path("path", &request.path)?;
    validate::user(request.user.as_deref())?;
    let depth = validate::within("depth", request.depth.unwrap_or(1), (1, MAX_DEPTH))?;
    let guest = Guest::of(&app, &owner, id, "list files of").await?;
    let wanted = wire::ListDirRequest { path: request.path, depth, ..Default::default() };
    let meter = AnswerMeter::new(&app, &owner.team, MAX_LISTING);
    let files = guest.metered_files(&meter);
    let listed = files.list_dir_with_options(wanted, as_themselves(request.user.as_deref())).await;
    let failed = |error| meter.refusal().unwrap_or_else(|| guest.error("list the directory", Some("path"), error));
    let listed = listed.map_err(failed)?.into_owned();
    let listed = FileList { items: listed.entries.into_iter().map(entry).collect() };
    Ok(meter.keep(axum::Json(listed).into_response()))
}

/// Makes a directory and its parents. 409 when it exists.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/mkdir", tag = "files", params(("id" = SandboxId, Path)),
    request_body = PathRequest, responses((status = 201, body = FileEntry), (status = 403), (status = 409), (status = 502), (status = 507)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn mkdir(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Json(request): Json<PathRequest>,
) -> ApiResult<(StatusCode, axum::Json<FileEntry>)> {
    validate::path("path", &request.path)?;
    validate::user(request.user.as_deref())?;
    let guest = Guest::of(&app, &owner, id, "make a directory in").await?;
    let wanted = wire::MakeDirRequest { path: request.path, ..Default::default() };
    let made = guest.files().make_dir_with_options(wanted, as_themselves(request.user.as_deref())).await;
    let made = made.map_err(|error| no_space(guest.error("make the directory", Some("path"), error)))?.into_owned();
    let made = made.entry.into_option().ok_or_else(|| ApiError::agent("an answer without an entry"))?;
    Ok((StatusCode::CREATED, axum::Json(entry(made))))
}

/// Removes a file, or a directory with all that is in it. Success also when there is none.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/remove", tag = "files", params(("id" = SandboxId, Path)),
    request_body = PathRequest, responses((status = 204), (status = 403), (status = 409), (status = 502)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn remove(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Json(request): Json<PathRequest>,
) -> ApiResult<StatusCode> {
    validate::path("path", &request.path)?;
    validate::user(request.user.as_deref())?;
    let guest = Guest::of(&app, &owner, id, "remove a file of").await?;
    let wanted = wire::RemoveRequest { path: request.path, ..Default::default() };
    let removed = guest.files().remove_with_options(wanted, as_themselves(request.user.as_deref())).await;
    removed.map_err(|error| guest.error("remove the file", Some("path"), error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Moves a file or directory; parents of the destination are made.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/move", tag = "files", params(("id" = SandboxId, Path)),
    request_body = MoveFileRequest, responses((status = 200, body = FileEntry), (status = 403), (status = 409), (status = 502), (status = 507)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn rename(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Json(request): Json<MoveFileRequest>,
) -> ApiResult<axum::Json<FileEntry>> {
    validate::path("source", &request.source)?;
    validate::path("destination", &request.destination)?;
    validate::user(request.user.as_deref())?;
    let guest = Guest::of(&app, &owner, id, "move a file of").await?;
    let wanted = wire::MoveRequest { source: request.source, destination: request.destination, ..Default::default() };
    let moved = guest.files().r#move_with_options(wanted, as_themselves(request.user.as_deref())).await;
    let moved = moved.map_err(|error| no_space(guest.error("move the file", Some("source"), error)))?.into_owned();
    let moved = moved.entry.into_option().ok_or_else(|| ApiError::agent("an answer without an entry"))?;
    Ok(axum::Json(entry(moved)))
}
