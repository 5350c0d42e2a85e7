//! What is in shared volumes, for control: `/volumes/{id}/path`, `/dir` and `/file` on the agent's listener. Bodies stream
//! both ways with flat memory. Only control can call it (see [`super::peer`]), which has judged who asks.
//!
//! A volume takes a bounded number of requests at once, and so does the host: whoever stops reading or writing keeps
//! others of that volume waiting at most, and is given up after a while.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use atoll_model::VolumeId;
use atoll_model::api::hosts::VOLUME_FILES_HEADER;
use axum::body::{Body, BodyDataStream};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::storage::clear;
use crate::storage::{Pool, StorageError};
use crate::volume_files::{FileError, Named, Owner, Volume, Writing};

/// Requests at once.
const OF_ONE_VOLUME: usize = 16;
const OF_ALL: usize = 512;
/// A client that sends nothing for so long has gone.
const SILENCE: Duration = Duration::from_secs(60);
/// As much is written to the disk at once.
const CHUNK: usize = 256 * 1024;

struct Rooms {
    pool: Arc<Pool>,
    all: Arc<Semaphore>,
    each: Mutex<HashMap<VolumeId, Weak<Semaphore>>>,
}

type Shared = State<Arc<Rooms>>;

/// The routes; what an agent that died left half done is cleared away meanwhile.
pub fn router(pool: Arc<Pool>) -> Router {
    // Listed before there is anybody who could begin an upload.
    match pool.left_in_shared_volumes() {
        Ok(left) => drop(tokio::task::spawn_blocking(move || {
            for (dir, names) in left {
                for name in names {
                    if let Err(error) = clear::tree(&dir, name) {
                        tracing::warn!(%error, "what is left of an upload into a volume can't be cleared away");
                    }
                }
            }
        })),
        Err(error) => tracing::warn!(%error, "what is left of uploads into volumes can't be found"),
    }
    let rooms = Rooms { pool, all: Arc::new(Semaphore::new(OF_ALL)), each: Mutex::default() };
    Router::new()
        .route("/volumes/{id}/path", get(stat).patch(update).delete(remove))
        .route("/volumes/{id}/dir", get(list).post(make_dir))
        .route("/volumes/{id}/file", get(read).put(write))
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(rooms))
}

/// What every request says.
#[derive(Deserialize)]
struct Asked {
    path: String,
    /// What the volume may hold, if it has to be made.
    size_bytes: u64,
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
    #[serde(default)]
    parents: bool,
    #[serde(default)]
    fresh: bool,
    depth: Option<u32>,
}

/// An answer that is no success.
struct Refusal(StatusCode, String);

impl From<FileError> for Refusal {
    fn from(error: FileError) -> Self {
        let status = match &error {
            FileError::NotFound(_) => StatusCode::NOT_FOUND,
            FileError::Exists(_) => StatusCode::CONFLICT,
            FileError::Invalid { .. } => StatusCode::BAD_REQUEST,
            FileError::Full => StatusCode::INSUFFICIENT_STORAGE,
            FileError::Io { .. } => {
                tracing::error!(error = &error as &dyn std::error::Error, "a request for a volume's files failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self(status, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        marked((self.0, Json(json!({ "message": self.1 }))))
    }
}

fn marked(answer: impl IntoResponse) -> Response {
    let mut answer = answer.into_response();
    answer.headers_mut().insert(HeaderName::from_static(VOLUME_FILES_HEADER), HeaderValue::from_static("1"));
    answer
}

/// A volume that a request works on, and its place among the others.
struct Open {
    volume: Arc<Volume>,
    named: Named,
    owner: Owner,
    place: Place,
}

struct Place {
    _volume: OwnedSemaphorePermit,
    _host: OwnedSemaphorePermit,
}

impl Rooms {
    fn place(&self, id: &VolumeId) -> Result<Place, Refusal> {
        let busy = |what: &str| {
            let text = format!("too many requests for the files of {what} are under way");
            move |_| Refusal(StatusCode::TOO_MANY_REQUESTS, text)
        };
        let room = {
            let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
            let known = each.get(id).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                each.retain(|_, room| room.strong_count() > 0);
                let room = Arc::new(Semaphore::new(OF_ONE_VOLUME));
                each.insert(id.clone(), Arc::downgrade(&room));
                room
            })
        };
        let volume = room.try_acquire_owned().map_err(busy("this volume"))?;
        let host = self.all.clone().try_acquire_owned().map_err(busy("volumes"))?;
        Ok(Place { _volume: volume, _host: host })
    }

    async fn open(&self, id: &str, asked: &Asked) -> Result<Open, Refusal> {
        let id: VolumeId = id.parse().map_err(|_| Refusal(StatusCode::NOT_FOUND, "no such volume".to_owned()))?;
        let place = self.place(&id)?;
        let named = Named::parse(&asked.path)?;
        let owner = Owner { uid: asked.uid, gid: asked.gid, mode: asked.mode }.check()?;
        let (pool, bytes) = (self.pool.clone(), asked.size_bytes);
        let dirs = blocking(move || pool.open_shared_volume(&id, bytes)).await?.map_err(|error| match error {
            StorageError::Deleted(_) => Refusal(StatusCode::NOT_FOUND, error.to_string()),
            error => {
                tracing::error!(%error, "a volume can't be opened");
                Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
        })?;
        Ok(Open { volume: Arc::new(Volume::new(dirs)), named, owner, place })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    let lost = |_| Refusal(StatusCode::INTERNAL_SERVER_ERROR, "the task was lost".to_owned());
    tokio::task::spawn_blocking(work).await.map_err(lost)
}

async fn stat(State(rooms): Shared, Path(id): Path<String>, Query(asked): Query<Asked>) -> Result<Response, Refusal> {
    let Open { volume, named, place: _place, .. } = rooms.open(&id, &asked).await?;
    Ok(marked(Json(blocking(move || volume.stat(&named)).await??)))
}

async fn update(State(rooms): Shared, Path(id): Path<String>, Query(asked): Query<Asked>) -> Result<Response, Refusal> {
    let Open { volume, named, owner, place: _place } = rooms.open(&id, &asked).await?;
    Ok(marked(Json(blocking(move || volume.update(&named, owner)).await??)))
}

async fn remove(State(rooms): Shared, Path(id): Path<String>, Query(asked): Query<Asked>) -> Result<Response, Refusal> {
    let Open { volume, named, place, .. } = rooms.open(&id, &asked).await?;
    let removed = volume.clone();
    if let Some(aside) = blocking(move || removed.remove(&named)).await?? {
        // Nobody sees it any more; what it takes is freed behind the answer.
        tokio::task::spawn_blocking(move || {
            let _place = place;
            if let Err(error) = volume.finish_removal(aside) {
                tracing::warn!(%error, "what was removed from a volume is not wholly deleted; the next start goes on");
            }
        });
    }
    Ok(marked(StatusCode::NO_CONTENT))
}

async fn list(State(rooms): Shared, Path(id): Path<String>, Query(asked): Query<Asked>) -> Result<Response, Refusal> {
    let Open { volume, named, place: _place, .. } = rooms.open(&id, &asked).await?;
    let depth = asked.depth.unwrap_or(1);
    Ok(marked(Json(blocking(move || volume.list(&named, depth)).await??)))
}

async fn make_dir(
    State(rooms): Shared,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Refusal> {
    let Open { volume, named, owner, place: _place } = rooms.open(&id, &asked).await?;
    let made = blocking(move || volume.make_dir(&named, owner, asked.parents)).await??;
    Ok(marked((StatusCode::CREATED, Json(made))))
}

async fn read(State(rooms): Shared, Path(id): Path<String>, Query(asked): Query<Asked>) -> Result<Response, Refusal> {
    let Open { volume, named, place, .. } = rooms.open(&id, &asked).await?;
    let (file, length) = blocking(move || volume.read(&named)).await??;
    // As long as it was when it was opened, whatever is added to it meanwhile.
    let chunks = futures::stream::try_unfold((file.take(length), place), |(mut file, place)| async move {
        let read = move || {
            let mut chunk = Vec::with_capacity(CHUNK);
            let count = file.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
            Ok::<_, std::io::Error>((count > 0).then(|| (Bytes::from(chunk), file)))
        };
        let next = tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other)??;
        Ok::<_, std::io::Error>(next.map(|(chunk, file)| (chunk, (file, place))))
    });
    let headers = [
        (CONTENT_LENGTH, HeaderValue::from(length)),
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
    ];
    Ok(marked((headers, Body::from_stream(chunks))))
}

async fn write(
    State(rooms): Shared,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
    body: Body,
) -> Result<Response, Refusal> {
    let Open { volume, named, owner, place: _place } = rooms.open(&id, &asked).await?;
    let way = Writing { parents: asked.parents, fresh: asked.fresh };
    let mut upload = blocking(move || volume.begin(&named, owner, way)).await??;
    let mut body = body.into_data_stream();
    while let Some(chunk) = next_chunk(&mut body).await? {
        upload = blocking(move || {
            upload.write(&chunk)?;
            Ok::<_, FileError>(upload)
        })
        .await??;
    }
    let written = blocking(move || upload.finish()).await??;
    Ok(marked((StatusCode::CREATED, Json(written))))
}

/// The next piece of a body, a large one when much has come; nothing at its end.
async fn next_chunk(body: &mut BodyDataStream) -> Result<Option<Vec<u8>>, Refusal> {
    let mut chunk = Vec::new();
    while chunk.len() < CHUNK {
        let next = tokio::time::timeout(SILENCE, body.next()).await;
        let next = next.map_err(|_| Refusal(StatusCode::REQUEST_TIMEOUT, "the body stalled".to_owned()))?;
        match next {
            Some(Ok(bytes)) => chunk.extend_from_slice(&bytes),
            Some(Err(_)) => return Err(Refusal(StatusCode::BAD_REQUEST, "the body broke off".to_owned())),
            None => break,
        }
    }
    Ok((!chunk.is_empty()).then_some(chunk))
}
