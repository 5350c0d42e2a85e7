//! What machines had in memory, kept for those who will stand on their layers: forks, and sandboxes made from a
//! snapshot with memory go on with the very processes, as another sandbox.
//!
//! Memory and disk are of one moment: the machine stands still while its layer is made. What was kept belongs to one
//! [`Shape`] and to the layer as it is, so only a machine's first start may use it, on a disk that nobody has written to.
//! It lies on this host, as the layer does (`<data>/memories/LAYER`), and goes with it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use atoll_model::{LayerId, SandboxId};
use futures::future::BoxFuture;

use super::qmp::Qmp;
use super::stored::{DEVICES, MEMORY, Stored, blocking, go_on};
use super::waiting::Shape;
use super::{QMP_SOCKET, Shared, disk, remove_file};
use crate::driver::LaunchSpec;

/// Beside a machine's record, and with what is kept of it: its shape.
pub(super) const SHAPE: &str = "shape";

impl Shared {
    fn kept_of(&self, layer: &LayerId) -> PathBuf {
        self.memories.join(layer.as_str())
    }

    pub(super) fn has_kept(&self, layer: &LayerId) -> bool {
        self.kept_of(layer).join(DEVICES).is_file()
    }

    pub(super) fn all_kept(&self) -> Vec<LayerId> {
        let names = fs::read_dir(&self.memories).into_iter().flatten().flatten();
        names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    pub(super) fn forget_kept(&self, layer: &LayerId) -> io::Result<()> {
        match fs::remove_dir_all(self.kept_of(layer)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn place_for(&self, layer: &LayerId) -> io::Result<PathBuf> {
        let place = self.kept_of(layer);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&place)?;
        Stored::remove(&place)?;
        remove_file(&place.join(SHAPE))?;
        Ok(place)
    }

    /// Keeps memory for who will stand on `layer`, which `files` makes while the machine stands still. It goes on in any
    /// case, and its files are kept in any case: whether its memory was.
    pub(super) async fn keep_for(
        &self,
        id: &SandboxId,
        layer: &LayerId,
        files: BoxFuture<'_, bool>,
    ) -> io::Result<bool> {
        let begun = async {
            let place = self.place_for(layer)?;
            // One that an older agent has started has none: nobody could go on as it.
            fs::copy(self.socket(id, SHAPE), place.join(SHAPE))?;
            Ok((place, Qmp::connect(&self.socket(id, QMP_SOCKET)).await?))
        };
        let (place, mut qmp) = match begun.await {
            Ok(begun) => begun,
            Err(error) => {
                files.await;
                return self.without_memory(id, layer, &error).map(|()| false);
            }
        };
        let drafts = self.stand_still(id, &place, &mut qmp).await;
        let made = files.await;
        let gone_on = go_on(&mut qmp).await;
        let kept = match drafts {
            Ok(drafts) if made => blocking(move || drafts.keep()).await,
            Ok(_) => Err(io::Error::other("its files were not kept")),
            Err(error) => Err(error),
        };
        if let Err(error) = &kept {
            self.without_memory(id, layer, error)?;
        }
        gone_on.map(|()| kept.is_ok())
    }

    fn without_memory(&self, id: &SandboxId, layer: &LayerId, error: &io::Error) -> io::Result<()> {
        tracing::warn!(sandbox = %id, %error, "the memory of a machine could not be kept");
        self.forget_kept(layer)
    }

    /// What is kept for this machine's first start, if it is of the same shape.
    pub(super) fn kept_for(&self, spec: &LaunchSpec, shape: &Shape) -> io::Result<Option<Stored>> {
        let layer = spec.lowers.first().filter(|lower| lower.file.is_none() && disk::of_layer(&lower.path).is_some());
        let name = layer.and_then(|lower| lower.path.parent()).and_then(Path::file_name);
        let layer = name.and_then(|name| name.to_str()?.parse::<LayerId>().ok());
        let Some(place) = layer.map(|layer| self.kept_of(&layer)) else { return Ok(None) };
        match fs::read_to_string(place.join(SHAPE)) {
            Ok(text) if text == shape.as_str() => Stored::open(&place),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(None),
        }
    }
}

/// The same for a machine that is paused: it has been written down already, and nothing ever changes those files.
pub(super) fn stored(layer: LayerId) -> impl FnOnce(&Shared, &SandboxId) -> io::Result<bool> + Send + 'static {
    move |shared, id| {
        let linked = shared.place_for(&layer).and_then(|place| {
            let mut names = [SHAPE, MEMORY, DEVICES].into_iter();
            names.try_for_each(|name| fs::hard_link(shared.socket(id, name), place.join(name)))
        });
        if let Err(error) = &linked {
            shared.without_memory(id, &layer, error)?;
        }
        Ok(linked.is_ok())
    }
}
