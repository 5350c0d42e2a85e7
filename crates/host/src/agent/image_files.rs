//! Images for control: `GET /images/{digest}` on the agent's listener, streamed from the disk. Control fetches what this
//! host has packed, and checks the digest itself. Only control can call it (see [`super::peer`]).

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio_util::io::ReaderStream;

use crate::images::Images;

const CHUNK: usize = 256 * 1024;

pub fn router(images: Arc<Images>) -> Router {
    Router::new().route("/images/{digest}", get(image)).with_state(images)
}

async fn image(State(images): State<Arc<Images>>, Path(digest): Path<String>) -> Response {
    let Ok(Some(path)) = images.file(&digest) else { return StatusCode::NOT_FOUND.into_response() };
    let opened = async {
        let file = tokio::fs::File::open(&path).await?;
        let length = file.metadata().await?.len();
        std::io::Result::Ok((file, length))
    };
    match opened.await {
        Ok((file, length)) => {
            let body = Body::from_stream(ReaderStream::with_capacity(file, CHUNK));
            ([(CONTENT_LENGTH, length)], body).into_response()
        }
        Err(error) => {
            tracing::error!(digest, %error, "an image can't be read");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
