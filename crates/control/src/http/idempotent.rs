//! `Idempotency-Key` on requests that create something.

use std::future::Future;
use std::time::Duration;

use atoll_model::ErrorCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::error::{ApiError, ApiResult};
use crate::app::App;
use crate::db::idempotency::{self, Begun, Key};
use crate::db::{Db, DbError};

pub const HEADER: &str = "idempotency-key";
const MAX_KEY: usize = 255;
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Pauses between attempts to note an answer while the database is away.
const NOTE_AGAIN: Duration = Duration::from_millis(100);
const NOTE_AGAIN_AT_MOST: Duration = Duration::from_secs(5);

/// The request's key, if it has one.
pub fn key(headers: &HeaderMap, owner: &str, route: &str, request: &impl Serialize) -> ApiResult<Option<Key>> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    if key.is_empty() || key.len() > MAX_KEY || key.contains('\t') {
        let message = format!("must have 1 to {MAX_KEY} printable ASCII characters");
        return Err(ApiError::invalid("Idempotency-Key", message));
    }
    let body = serde_json::to_vec(request).map_err(ApiError::internal)?;
    let request_hash = hex::encode(Sha256::new().chain_update(route).chain_update([0]).chain_update(body).finalize());
    Ok(Some(Key { owner: owner.to_owned(), key: key.to_owned(), request_hash }))
}

/// Runs `work` once, as [`once_within`] does; who comes while another one is at it is told so at once.
pub async fn once<T, F>(
    app: &App,
    key: Option<Key>,
    status: StatusCode,
    work: F,
    remembered: fn(&T) -> T,
) -> ApiResult<Response>
where
    T: Serialize + Send + 'static,
    F: Future<Output = ApiResult<T>> + Send + 'static,
{
    once_within(app, key, Duration::ZERO, status, work, remembered).await
}

/// Runs `work` once for all requests with this key, in a task of its own, so that it is completed although the client
/// has gone. Who comes while another one is at it waits for `patience` at most, and gets the same answer. `remembered` is
/// what a repeated request is answered with: the answer without its secrets.
pub async fn once_within<T, F>(
    app: &App,
    key: Option<Key>,
    patience: Duration,
    status: StatusCode,
    work: F,
    remembered: fn(&T) -> T,
) -> ApiResult<Response>
where
    T: Serialize + Send + 'static,
    F: Future<Output = ApiResult<T>> + Send + 'static,
{
    let Some(key) = key else {
        return work.await.map(|value| (status, axum::Json(value)).into_response());
    };
    let until = tokio::time::Instant::now() + patience;
    let begun = loop {
        match idempotency::begin(&app.db, &key, app.clock.now()).await? {
            Begun::UnderWay if tokio::time::Instant::now() < until => tokio::time::sleep(LOOK_AGAIN).await,
            begun => break begun,
        }
    };
    match begun {
        Begun::Fresh => {}
        Begun::Done { status, response } => return Ok(replay(status, response)),
        Begun::UnderWay => return Err(under_way()),
        Begun::Mismatch => return Err(mismatch()),
    }
    let app = app.clone();
    let task = app.tasks.clone().spawn(async move {
        let result = work.await;
        let answer = result.as_ref().ok().and_then(|value| serde_json::to_string(&remembered(value)).ok());
        let ending = Ending { db: app.db.clone(), key, status, answer };
        if let Err(error) = ending.note().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "an idempotent request's answer is noted later");
            app.tasks.spawn(ending.note_later(app.shutdown.clone()));
        }
        result
    });
    let value = task.await.map_err(ApiError::internal)??;
    Ok((status, axum::Json(value)).into_response())
}

/// The member of an error that says what is the matter with a key.
pub const PROBLEM: &str = "idempotency";
pub const MISMATCH: &str = "mismatch";
pub const UNDER_WAY: &str = "under_way";

fn mismatch() -> ApiError {
    ApiError::new(ErrorCode::Conflict, "this Idempotency-Key was used for another request")
        .with_field("Idempotency-Key")
        .with_detail(PROBLEM, MISMATCH)
}

fn under_way() -> ApiError {
    ApiError::conflict("the first request with this Idempotency-Key is under way").with_detail(PROBLEM, UNDER_WAY)
}

/// For what is made once by its nature, since an address has one account and a token works once, by whoever comes: nothing
/// is noted before there is something, so that a stranger's requests cost no writes. `kept` is noted of what was made; who
/// sends the request again gets what `again` makes of that.
pub async fn by_nature<T, F, G>(
    app: &App,
    key: Option<Key>,
    make: F,
    kept: fn(&T) -> String,
    again: impl FnOnce(String) -> G,
) -> ApiResult<T>
where
    T: Send + 'static,
    F: Future<Output = ApiResult<T>> + Send + 'static,
    G: Future<Output = ApiResult<T>>,
{
    let Some(key) = key else { return make.await };
    match idempotency::look(&app.db, &key, app.clock.now()).await? {
        Some(Begun::Done { response, .. }) => return again(response).await,
        Some(Begun::Mismatch) => return Err(mismatch()),
        Some(Begun::Fresh | Begun::UnderWay) | None => {}
    }
    let (db, clock) = (app.db.clone(), app.clock.clone());
    let task = app.tasks.spawn(async move {
        let made = make.await?;
        let noted = idempotency::keep(&db, &key, StatusCode::CREATED.as_u16(), &kept(&made), clock.now()).await;
        if let Err(error) = noted {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not note an idempotent request's answer");
        }
        Ok(made)
    });
    task.await.map_err(ApiError::internal)?
}

/// How a request with a key ended: with this answer, or with an error, so that it can be tried again.
struct Ending {
    db: Db,
    key: Key,
    status: StatusCode,
    answer: Option<String>,
}

impl Ending {
    async fn note(&self) -> Result<(), DbError> {
        match &self.answer {
            Some(answer) => idempotency::complete(&self.db, &self.key, self.status.as_u16(), answer).await,
            None => idempotency::forget(&self.db, &self.key).await,
        }
    }

    /// Goes on trying, since the key would be free again after a while and the thing be made twice: as long as it is not.
    async fn note_later(self, shutdown: CancellationToken) {
        let (mut pause, mut waited) = (NOTE_AGAIN, Duration::ZERO);
        while waited < idempotency::ABANDONED {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            waited += pause;
            pause = (pause * 2).min(NOTE_AGAIN_AT_MOST);
            match self.note().await {
                Ok(()) => return,
                Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "still not noted"),
            }
        }
        tracing::error!(key = self.key.key, "could not note an idempotent request's answer");
    }
}

fn replay(status: u16, response: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let mut answer = (status, response).into_response();
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("idempotent-replay", HeaderValue::from_static("true"));
    answer
}
