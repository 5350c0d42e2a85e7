//! `Idempotency-Key` on requests that create something.

use std::future::Future;

use atoll_model::ErrorCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::error::{ApiError, ApiResult};
use crate::app::App;
use crate::db::idempotency::{self, Begun, Key};

const HEADER: &str = "idempotency-key";
const MAX_KEY: usize = 255;

/// The request's key, if it has one.
pub fn key(headers: &HeaderMap, owner: &str, route: &str, request: &impl Serialize) -> ApiResult<Option<Key>> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    if key.is_empty() || key.len() > MAX_KEY {
        let message = format!("must have 1 to {MAX_KEY} printable ASCII characters");
        return Err(ApiError::invalid("Idempotency-Key", message));
    }
    let body = serde_json::to_vec(request).map_err(ApiError::internal)?;
    let request_hash = hex::encode(Sha256::new().chain_update(route).chain_update([0]).chain_update(body).finalize());
    Ok(Some(Key { owner: owner.to_owned(), key: key.to_owned(), request_hash }))
}

/// Runs `work` once for all requests with this key, in a task of its own, so that it is completed although the client
/// has gone. `remembered` is what a repeated request is answered with: the answer without its secrets.
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
    let Some(key) = key else {
        return work.await.map(|value| (status, axum::Json(value)).into_response());
    };
    match idempotency::begin(&app.db, &key, app.clock.now()).await? {
        Begun::Fresh => {}
        Begun::Done { status, response } => return Ok(replay(status, response)),
        Begun::UnderWay => return Err(ApiError::conflict("the first request with this Idempotency-Key is under way")),
        Begun::Mismatch => {
            let error = ApiError::new(ErrorCode::Conflict, "this Idempotency-Key was used for another request");
            return Err(error.with_field("Idempotency-Key"));
        }
    }
    let db = app.db.clone();
    let task = app.tasks.spawn(async move {
        let result = work.await;
        let noted = match &result {
            Ok(value) => match serde_json::to_string(&remembered(value)) {
                Ok(text) => idempotency::complete(&db, &key, status.as_u16(), &text).await,
                Err(_) => idempotency::forget(&db, &key).await,
            },
            Err(_) => idempotency::forget(&db, &key).await,
        };
        if let Err(error) = noted {
            tracing::error!(error = &error as &dyn std::error::Error, "could not note an idempotent request's answer");
        }
        result
    });
    let value = task.await.map_err(ApiError::internal)??;
    Ok((status, axum::Json(value)).into_response())
}

fn replay(status: u16, response: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let mut answer = (status, response).into_response();
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("idempotent-replay", HeaderValue::from_static("true"));
    answer
}
