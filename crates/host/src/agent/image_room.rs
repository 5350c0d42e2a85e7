//! Keeps fetched images within their bound: when the agent starts, and whenever one has come.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::images::Images;
use crate::sandboxes::Keeper;

pub async fn keep(images: Arc<Images>, keeper: Keeper, stop: CancellationToken) {
    loop {
        match images.trim(&keeper.images_in_use()).await {
            Ok(0) => {}
            Ok(freed_bytes) => tracing::info!(freed_bytes, "images that were not used for the longest time are gone"),
            Err(error) => tracing::warn!(%error, "fetched images can't be kept within their bound"),
        }
        tokio::select! {
            () = images.grown() => {}
            () = stop.cancelled() => return,
        }
    }
}
