//! Images for control: `GET /images/{digest}` on the agent's listener, streamed from the disk, and compressed on the way
//! if asked (`atoll_image::packed`). Control fetches what this host has made, and checks the digest itself. Only control
//! can call it (see [`super::peer`]).

use std::sync::Arc;

use atoll_image::packed;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::stream;
use tokio_util::io::ReaderStream;

use crate::images::Images;

const CHUNK: usize = 256 * 1024;

pub fn router(images: Arc<Images>) -> Router {
    Router::new().route("/images/{digest}", get(image)).with_state(images)
}

async fn image(State(images): State<Arc<Images>>, Path(digest): Path<String>, headers: HeaderMap) -> Response {
    let Ok(Some(path)) = images.file(&digest) else { return StatusCode::NOT_FOUND.into_response() };
    let opened = async {
        let file = tokio::fs::File::open(&path).await?;
        if headers.get(ACCEPT_ENCODING).is_some_and(|it| it == packed::ENCODING) {
            let body = packing(file.into_std().await)?;
            return Ok(([(CONTENT_ENCODING, packed::ENCODING)], body).into_response());
        }
        let length = file.metadata().await?.len();
        let body = Body::from_stream(ReaderStream::with_capacity(file, CHUNK));
        std::io::Result::Ok(([(CONTENT_LENGTH, length)], body).into_response())
    };
    opened.await.unwrap_or_else(|error| {
        tracing::error!(digest, %error, "an image can't be read");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    })
}

fn packing(file: std::fs::File) -> std::io::Result<Body> {
    let pieces = stream::try_unfold(packed::Packing::new(file)?, |mut packing| async {
        let next = tokio::task::spawn_blocking(move || packing.next().map(|piece| (piece, packing)));
        match next.await.map_err(std::io::Error::other)? {
            Some((piece, packing)) => Ok(Some((piece?, packing))),
            None => std::io::Result::Ok(None),
        }
    });
    Ok(Body::from_stream(pieces))
}
