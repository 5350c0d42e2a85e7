//! Layers of this host as images, for the many sandboxes that a fork makes at once.
//!
//! A volume that begins as a clone of a layer costs a transaction of the pool, one after the other. An empty volume costs
//! next to nothing, and the layer's image below it is mounted once and cached once for all of them. The image has the
//! layer's name, is never fetched, and is deleted with the layer, before it.

use std::path::PathBuf;
use std::sync::Arc;

use atoll_image::Limits;
use atoll_model::LayerId;

use super::pack::pack_into;
use super::{ImageError, Images, Mounted};

impl Images {
    fn layer_file(&self, layer: &LayerId) -> PathBuf {
        self.store.join(format!("{layer}.erofs"))
    }

    /// Packs the layer that lies in `directory`; again is success.
    ///
    /// # Errors
    /// When it is larger than `limits`, can't be read, or the disk refuses.
    pub async fn pack_layer(&self, layer: &LayerId, directory: PathBuf, limits: Limits) -> Result<(), ImageError> {
        let (store, file) = (self.store.clone(), self.layer_file(layer));
        let packing = tokio::task::spawn_blocking(move || {
            if file.is_file() {
                return Ok(());
            }
            pack_into(&store, &[directory], limits, |_| file).map(drop)
        });
        packing.await.map_err(|_| ImageError::Lost)?
    }

    /// The image of a layer, mounted; none when it was not packed.
    ///
    /// # Errors
    /// When it can't be mounted.
    pub async fn layer(&self, layer: &LayerId) -> Result<Option<Arc<Mounted>>, ImageError> {
        let file = self.layer_file(layer);
        if !file.is_file() {
            return Ok(None);
        }
        let entry = Arc::clone(self.entries().entry(layer.to_string()).or_default());
        let mut slot = entry.lock().await;
        if let Some(mounted) = &slot.mounted {
            return Ok(Some(Arc::clone(mounted)));
        }
        let mounted = self.mount_file(layer.as_str(), file).await?;
        Ok(Some(Arc::clone(slot.mounted.insert(Arc::new(mounted)))))
    }

    /// Success when there is none.
    ///
    /// # Errors
    /// `InUse` while somebody holds the mount.
    pub async fn delete_layer(&self, layer: &LayerId) -> Result<(), ImageError> {
        self.remove(layer.as_str(), &[&self.layer_file(layer)]).await
    }
}
