//! Waiting machines: booted once for each shape of machine, kept while the guest waits, and copied for every later one of
//! that shape, which spares it the boot.
//!
//! A guest waits twice: to be told what it stands on, and then, with its root file system, to be told who it is. So the
//! one serves all templates, and the other, which is kept with its disk, is nearer to its end. Neither knows a sandbox or an
//! address yet, so a copy differs from a fresh boot in nothing but time; its randomness is renewed by each letter. A
//! [`Shape`] is all that QEMU is told, the kernel, the guest agent and QEMU itself, and for one that stands the images and
//! the size of its disk: whatever changes, it is another shape. They lie beside the kernel in the machine-wide cache, a few of them,
//! the longest unused goes first; each is checked by its digest once in an agent's life. Without one, or when a copy
//! fails, the machine boots.

use std::collections::HashSet;
use std::fs::{self, File, FileTimes};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use atoll_model::SandboxId;
use sha2::{Digest, Sha256};

use super::qemu::Command;
use super::qmp::Qmp;
use super::stored::{DISK, Drafts, Stored, go_on};
use super::{QMP_SOCKET, Shared, memory};
use crate::driver::LaunchSpec;

const DIRECTORY: &str = "waiting";
const DIGEST: &str = "digest";
/// Some sixty megabytes each.
const MOST: usize = 12;
/// Of the way in which they are made.
const VERSION: u32 = 1;

/// What machines have in common of which one can go on as the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Shape(String);

impl Shape {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

pub(super) struct Waiting {
    directory: PathBuf,
    /// Those that were checked: name and inode.
    checked: Mutex<HashSet<(Shape, u64)>>,
    /// Being made.
    making: Mutex<HashSet<Shape>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Waiting {
    /// Those of a kernel, which has a directory to itself.
    pub fn of_kernel(image: &Path) -> Self {
        let directory = image.parent().unwrap_or(Path::new("/")).join(DIRECTORY);
        Self { directory, checked: Mutex::default(), making: Mutex::default() }
    }

    fn place(&self, shape: &Shape) -> PathBuf {
        self.directory.join(&shape.0)
    }

    /// One of this shape. What is broken is removed. Blocks.
    pub fn find(&self, shape: &Shape) -> Option<Stored> {
        let place = self.place(shape);
        let found = (|| {
            let Some(stored) = Stored::open(&place)? else { return Ok(None) };
            let inode = stored.memory.metadata()?.ino();
            let known = lock(&self.checked).contains(&(shape.clone(), inode));
            if !known {
                if fs::read_to_string(place.join(DIGEST))? != digest(&stored)? {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "its digest is another"));
                }
                lock(&self.checked).insert((shape.clone(), inode));
            }
            // Says when it was used last; no harm if it can't.
            let _unsaid = File::open(&place)?.set_times(FileTimes::new().set_modified(SystemTime::now()));
            Ok(Some(stored))
        })();
        found.unwrap_or_else(|error: io::Error| {
            tracing::warn!(place = %place.display(), %error, "a waiting machine can't be used: it is removed");
            self.remove(shape);
            None
        })
    }

    pub fn remove(&self, shape: &Shape) {
        match fs::remove_dir_all(self.place(shape)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "a waiting machine can't be removed");
            }
            _ => {}
        }
    }

    /// Room for one more: the longest unused go.
    fn make_room(&self) -> io::Result<()> {
        let mut all: Vec<_> = fs::read_dir(&self.directory)?
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        all.sort();
        let surplus = (all.len() + 1).saturating_sub(MOST);
        all.into_iter().take(surplus).try_for_each(|(_, path)| fs::remove_dir_all(path))
    }

    /// A directory to write into, which nobody takes for a whole one.
    fn draft(&self) -> io::Result<tempfile::TempDir> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        self.make_room()?;
        tempfile::Builder::new().prefix(".draft-").tempdir_in(&self.directory)
    }

    /// Blocks, for as long as the digest takes.
    fn name(&self, shape: &Shape, draft: tempfile::TempDir) -> io::Result<()> {
        let stored = Stored::open(draft.path())?.ok_or(io::ErrorKind::NotFound)?;
        fs::write(draft.path().join(DIGEST), digest(&stored)?)?;
        match fs::rename(draft.path(), self.place(shape)) {
            Ok(()) => {
                let _moved = draft.keep();
                Ok(())
            }
            // Another agent of this machine was first.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn digest(stored: &Stored) -> io::Result<String> {
    let mut hash = Sha256::new();
    let (mut devices, mut file) = (Vec::new(), File::from(stored.devices.try_clone()?));
    file.read_to_end(&mut devices)?;
    // QEMU reads from where this has come to.
    file.rewind()?;
    hash.update((devices.len() as u64).to_le_bytes());
    hash.update(&devices);
    // Where the file system has holes is its own affair.
    for file in [Some(&stored.memory), stored.disk.as_ref()].into_iter().flatten() {
        let size = file.metadata()?.len();
        hash.update(size.to_le_bytes());
        memory::extents(file, 0..size, |at, bytes| {
            let pages = bytes.chunks(memory::PAGE).enumerate().filter(|(_, page)| page.iter().any(|it| *it != 0));
            for (number, page) in pages {
                hash.update((at + (number * memory::PAGE) as u64).to_le_bytes());
                hash.update(page);
            }
            Ok(())
        })?;
    }
    Ok(hex::encode(hash.finalize()))
}

impl Shared {
    /// Of a machine from its boot on, or of one whose kernel runs already: where that came from does not matter then.
    pub(super) fn shape_of(&self, command: &Command, boots: bool) -> Shape {
        self.shape_under(command, boots, &self.version.now().unwrap_or_default())
    }

    /// The same as it was under this version.
    pub(super) fn shape_under(&self, command: &Command, boots: bool, version: &str) -> Shape {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        add(&VERSION.to_string());
        add(version);
        if boots {
            add(&self.version.stamp().unwrap_or_default());
            for file in [&self.qemu, &self.kernel.image, &self.kernel.initramfs] {
                add(&file.display().to_string());
            }
        }
        command.shape(boots).for_each(add);
        Shape(hex::encode(&hash.finalize()[..16]))
    }

    /// Of a machine of this shape that stands on such images, with a new disk. None when it can't be told by them.
    pub(super) fn standing_shape(&self, shape: &Shape, spec: &LaunchSpec) -> io::Result<Option<Shape>> {
        let mut hash = Sha256::new();
        hash.update(shape.as_str());
        hash.update(spec.disk_bytes.to_le_bytes());
        for lower in &spec.lowers {
            let Some(file) = &lower.file else { return Ok(None) };
            // An image is never changed, and its file is called by its digest: memory of a machine that stands on one must
            // never meet another. The rest is for those who call files as they like.
            let (name, image) = (file.file_name().unwrap_or_default().as_encoded_bytes(), fs::metadata(file)?);
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            for number in [image.dev(), image.ino(), image.len()] {
                hash.update(number.to_le_bytes());
            }
            hash.update(image.mtime().to_le_bytes());
            hash.update(image.mtime_nsec().to_le_bytes());
        }
        Ok(Some(Shape(hex::encode(&hash.finalize()[..16]))))
    }

    /// Keeps a machine whose guest waits, and its disk if it has come to know that, unless one of its shape is kept. It
    /// goes on in any case, or else that fails. Whether it stood still for that.
    pub(super) async fn keep_waiting(&self, id: &SandboxId, shape: &Shape, disk: Option<&File>) -> io::Result<bool> {
        if self.waiting.place(shape).exists() || !lock(&self.waiting.making).insert(shape.clone()) {
            return Ok(false);
        }
        let mut qmp = Qmp::connect(&self.socket(id, QMP_SOCKET)).await?;
        let kept = self.keep(id, shape, disk, &mut qmp).await;
        if let Err(error) = kept {
            tracing::warn!(sandbox = %id, %error, "a waiting machine can't be kept for others");
            lock(&self.waiting.making).remove(shape);
        }
        go_on(&mut qmp).await.map(|()| true)
    }

    async fn keep(&self, id: &SandboxId, shape: &Shape, disk: Option<&File>, qmp: &mut Qmp) -> io::Result<()> {
        let (waiting, shape) = (Arc::clone(&self.waiting), shape.clone());
        let memory = self.memory_of(id)?;
        let draft = waiting.draft()?;
        let drafts = Drafts::make(draft.path())?;
        let disk = disk.map(|disk| io::Result::Ok((disk.try_clone()?, File::create_new(draft.path().join(DISK))?)));
        let disk = disk.transpose()?;
        self.stop_with_devices(qmp, &drafts.devices).await?;
        let copied = tokio::task::spawn_blocking(move || {
            memory.begin(&drafts.memory)?;
            if let Some((disk, kept)) = disk {
                memory::copy(&disk, &kept, true)?;
            }
            drafts.name()
        });
        copied.await.map_err(io::Error::other)??;
        // The machine need not wait for the rest.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = waiting.name(&shape, draft) {
                tracing::warn!(%error, "a waiting machine can't be kept for others");
            }
            lock(&waiting.making).remove(&shape);
        });
        Ok(())
    }
}
