//! Keeps what was fetched within its bound, images and machines' layers: when the agent starts, and whenever one has come.

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
        match keeper.trim_imports(images.most_fetched()).await {
            Ok(0) => {}
            Ok(gone) => tracing::info!(gone, "machines' layers that were not used for the longest time are gone"),
            Err(error) => tracing::warn!(%error, "layers of other hosts can't be kept within their bound"),
        }
        tokio::select! {
            () = images.grown() => {}
            () = stop.cancelled() => return,
        }
    }
}
