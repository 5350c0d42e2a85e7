//! What machines had in memory, kept for those who will stand on their layers: forks, and sandboxes made from a
//! snapshot with memory go on with the very processes, as another sandbox.
//!
//! Memory and disk are of one moment: the machine stands still while its layer is made. What was kept belongs to one
//! [`Shape`] and to the layer as it is, so only a machine's first start may use it, on a disk that nobody has written to.
//! It lies beside the layer (`<data>/memories/LAYER`), goes with it, and travels with it to other hosts ([`bundle`]).

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use atoll_model::{LayerId, SandboxId};
use futures::future::BoxFuture;

use super::disk::{Content, Disk};
use super::qemu::Command;
use super::qmp::{Qmp, is_gone};
use super::stored::{DEVICES, Drafts, MEMORY, MOVED, Stored, blocking};
use super::waiting::Shape;
use super::{QMP_SOCKET, Shared, bundle, disk, remove_file};
use crate::driver::LaunchSpec;
use crate::driver::launch::failpoint;

/// Beside a machine's record, and with what is kept of it: its shape, and in a second line what it ran on.
pub(super) const SHAPE: &str = "shape";

/// What the file [`SHAPE`] says, in its first line.
fn shape_in(text: &str) -> Option<&str> {
    text.lines().next()
}

fn version_in(text: &str) -> Option<&str> {
    text.lines().nth(1).filter(|version| !version.is_empty())
}

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

    pub(super) fn kept_version(&self, layer: &LayerId) -> Option<String> {
        let text = fs::read_to_string(self.kept_of(layer).join(SHAPE)).ok()?;
        version_in(&text).filter(|_| self.has_kept(layer)).map(str::to_owned)
    }

    /// What the file [`SHAPE`] says of a machine of this shape that begins now.
    pub(super) fn shape_text(&self, shape: &Shape) -> String {
        format!("{}\n{}\n", shape.as_str(), self.version.now().unwrap_or_default())
    }

    /// Whether what was stored of this machine was stored of one as in `command`.
    pub(super) fn was_as(&self, id: &SandboxId, command: &Command) -> io::Result<bool> {
        let text = match fs::read_to_string(self.socket(id, SHAPE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            text => text?,
        };
        // Under what it ran on then.
        let shape = self.shape_under(command, false, version_in(&text).unwrap_or_default());
        Ok(shape_in(&text) == Some(shape.as_str()))
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
            // One that an older agent has started has none, or does not say what it runs on: nobody could go on as it.
            let text = fs::read_to_string(self.socket(id, SHAPE))?;
            version_in(&text).ok_or_else(|| io::Error::other("what it runs on is not known"))?;
            let mut shape = File::create_new(place.join(SHAPE))?;
            shape.write_all(text.as_bytes())?;
            shape.sync_all()?;
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
        let made = files.await && failpoint("vm::keep::made").is_ok();
        // In a talk of its own: in the other one an answer may still be due.
        drop(qmp);
        let gone_on = match self.go_on(id).await {
            // What was kept of it is whole all the same; whoever watches it says that it has ended.
            Err(error) if is_gone(&error) => {
                tracing::warn!(sandbox = %id, %error, "a machine has ended while its memory was kept");
                Ok(())
            }
            gone_on => gone_on,
        };
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

    /// A layer with this disk as one file, for other hosts.
    pub(super) fn pack_kept(&self, layer: &LayerId, disk: &Path, into: &mut dyn io::Write) -> io::Result<()> {
        let mut files = vec![(bundle::DISK, File::open(disk)?)];
        let place = self.kept_of(layer);
        if self.has_kept(layer) {
            for name in [SHAPE, MEMORY, DEVICES] {
                files.push((name, File::open(place.join(name))?));
            }
        }
        bundle::write(&files, into)
    }

    /// The way back. Memory is there, whole and synced, before the caller names the layer.
    pub(super) fn unpack_kept(&self, layer: &LayerId, from: &mut dyn io::Read, disk: &File) -> io::Result<()> {
        let place = self.place_for(layer)?;
        let drafts = Drafts::make(&place)?;
        let names = bundle::read(from, &mut |name| match name {
            MEMORY => drafts.memory.try_clone(),
            DEVICES => drafts.devices.try_clone(),
            SHAPE => File::create_new(place.join(SHAPE)),
            _ => disk.try_clone(),
        })?;
        if !names.contains(&DEVICES) {
            return self.forget_kept(layer);
        }
        File::open(place.join(SHAPE))?.sync_all()?;
        drafts.keep()
    }

    /// Makes a sandbox that comes from another host as if it had been paused here. `devices` comes last: before it is there,
    /// it has its files alone.
    pub(super) fn lay_down(&self, id: &SandboxId, volume: &Path, layer: &LayerId, disk: &Path) -> io::Result<bool> {
        Disk::open(volume)?.make(&Content::Layer(disk))?;
        if !self.has_kept(layer) {
            return Ok(false);
        }
        File::create_new(self.socket(id, MOVED))?;
        for name in [SHAPE, MEMORY, DEVICES] {
            fs::hard_link(self.kept_of(layer).join(name), self.socket(id, name))?;
        }
        Ok(true)
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
            Ok(text) if shape_in(&text) == Some(shape.as_str()) => Stored::open(&place),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(None),
        }
    }
}

/// The same for a machine that is paused: it has been written down already, and nothing ever changes those files.
pub(super) fn stored(layer: LayerId) -> impl FnOnce(&Shared, &SandboxId) -> io::Result<bool> + Send + 'static {
    move |shared, id| {
        let usable = || {
            let text = fs::read_to_string(shared.socket(id, SHAPE))?;
            if version_in(&text) == Some(&*shared.version.now()?) {
                return Ok(());
            }
            Err(io::Error::other("it was written down by another QEMU than there is now"))
        };
        let linked = usable().and_then(|()| shared.place_for(&layer)).and_then(|place| {
            let mut names = [SHAPE, MEMORY, DEVICES].into_iter();
            names.try_for_each(|name| fs::hard_link(shared.socket(id, name), place.join(name)))?;
            // As whoever is told that it is kept may rely on.
            File::open(&place)?.sync_all()
        });
        if let Err(error) = &linked {
            shared.without_memory(id, &layer, error)?;
        }
        Ok(linked.is_ok())
    }
}
