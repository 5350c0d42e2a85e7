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
use std::time::{Duration, SystemTime};

use atoll_model::SandboxId;
use sha2::{Digest, Sha256};

use super::qemu::Command;
use super::qmp::{Qmp, Stop};
use super::stored::{DISK, Drafts, Stored, blocking, written_down};
use super::{QMP_SOCKET, Shared, memory};
use crate::driver::LaunchSpec;

const DIRECTORY: &str = "waiting";
const DIGEST: &str = "digest";
/// Of those that stand, and of the others; some sixty megabytes each.
const MOST: usize = 8;
/// One that was used lately does not go for another.
const LATELY: Duration = Duration::from_mins(10);
/// One that was not used for so long goes: its images may be gone too.
const LONG_AGO: Duration = Duration::from_hours(7 * 24);
/// Shapes that were seen once, at most.
const SEEN: usize = 256;
/// Before the names of what is not whole, or is being removed.
const DRAFT: &str = ".draft-";
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
    /// Of those that stand, which were wanted once.
    seen: Mutex<HashSet<Shape>>,
}

/// One that is being made, until this is dropped.
struct Making(Arc<Waiting>, Shape);

impl Drop for Making {
    fn drop(&mut self) {
        lock(&self.0.making).remove(&self.1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Waiting {
    /// Those of a kernel, which has a directory to itself.
    pub fn of_kernel(image: &Path) -> Self {
        let directory = image.parent().unwrap_or(Path::new("/")).join(DIRECTORY);
        Self { directory, checked: Mutex::default(), making: Mutex::default(), seen: Mutex::default() }
    }

    fn place(&self, shape: &Shape) -> PathBuf {
        self.directory.join(&shape.0)
    }

    /// Whether it pays to keep one that stands: somebody has wanted one of this shape before.
    pub fn is_wanted(&self, shape: &Shape) -> bool {
        let mut seen = lock(&self.seen);
        let wanted = !seen.insert(shape.clone());
        if seen.len() > SEEN {
            seen.clear();
        }
        wanted
    }

    /// One of this shape, with a disk if it `stands`. What is broken is removed. Blocks.
    pub fn find(&self, shape: &Shape, stands: bool) -> Option<Stored> {
        let place = self.place(shape);
        let found = (|| {
            let Some(stored) = Stored::open(&place)? else { return Ok(None) };
            if stored.disk.is_some() != stands {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not whole"));
            }
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
        self.discard(&self.place(shape));
    }

    /// Nobody finds half of it meanwhile.
    fn discard(&self, place: &Path) {
        let gone = tempfile::Builder::new().prefix(DRAFT).tempdir_in(&self.directory);
        match gone.and_then(|gone| fs::rename(place, gone.path().join("gone")).map(|()| gone)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(place = %place.display(), %error, "a waiting machine can't be removed");
            }
            // With all that is in it.
            _ => {}
        }
    }

    /// Whether there is room for one more, which `stands` or doesn't: what was unused for long goes, and the longest unused.
    fn make_room(&self, stands: bool) -> io::Result<bool> {
        let now = SystemTime::now();
        let unused = |entry: &fs::DirEntry| now.duration_since(entry.metadata().ok()?.modified().ok()?).ok();
        let (mut same, mut count) = (Vec::new(), 0);
        for entry in fs::read_dir(&self.directory)?.flatten() {
            let (path, age) = (entry.path(), unused(&entry).unwrap_or_default());
            let is_draft = entry.file_name().as_encoded_bytes().starts_with(DRAFT.as_bytes());
            if age > LONG_AGO {
                self.discard(&path);
            } else if !is_draft && path.join(DISK).exists() == stands {
                count += 1;
                same.push((age, path));
            }
        }
        same.sort();
        if count >= MOST {
            match same.pop() {
                Some((age, path)) if age > LATELY => self.discard(&path),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// A directory to write into, which nobody takes for a whole one; none when there is no room.
    fn draft(&self, stands: bool) -> io::Result<Option<tempfile::TempDir>> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        if !self.make_room(stands)? {
            return Ok(None);
        }
        tempfile::Builder::new().prefix(DRAFT).tempdir_in(&self.directory).map(Some)
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
    pub(super) fn standing_shape(
        &self,
        shape: &Shape,
        spec: &LaunchSpec,
        mtu: Option<u32>,
    ) -> io::Result<Option<Shape>> {
        let mut hash = Sha256::new();
        hash.update(shape.as_str());
        // Its driver has asked its network for that already.
        hash.update(mtu.unwrap_or_default().to_le_bytes());
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
        let making = Making(Arc::clone(&self.waiting), shape.clone());
        let Some(draft) = self.waiting.draft(disk.is_some())? else { return Ok(false) };
        let mut qmp = Qmp::connect(&self.socket(id, QMP_SOCKET)).await?;
        if let Err(error) = self.keep(id, making, draft, disk, &mut qmp).await {
            tracing::warn!(sandbox = %id, %error, "a waiting machine can't be kept for others");
        }
        drop(qmp);
        self.go_on(id).await.map(|()| true)
    }

    async fn keep(
        &self,
        id: &SandboxId,
        making: Making,
        draft: tempfile::TempDir,
        disk: Option<&File>,
        qmp: &mut Qmp,
    ) -> io::Result<()> {
        let memory = self.memory_of(id)?;
        let drafts = Drafts::make(draft.path())?;
        let disk = disk.map(|disk| io::Result::Ok((disk.try_clone()?, File::create_new(draft.path().join(DISK))?)));
        let disk = disk.transpose()?;
        qmp.execute(&Stop {}).await?;
        let memory = Arc::new(memory);
        let all = Arc::clone(&memory);
        let (drafts, before) = blocking(move || {
            let before = all.begin(&drafts.memory)?;
            if let Some((disk, kept)) = disk {
                memory::copy(&disk, &kept, true)?;
            }
            Ok((drafts, before))
        })
        .await?;
        let (drafts, _) = written_down(qmp, drafts, memory, before).await?;
        drafts.name()?;
        // The machine need not wait for the rest.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = making.0.name(&making.1, draft) {
                tracing::warn!(%error, "a waiting machine can't be kept for others");
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `count` that were used just now.
    fn waiting(count: usize) -> (tempfile::TempDir, Waiting) {
        let dir = tempfile::tempdir().unwrap();
        let waiting = Waiting::of_kernel(&dir.path().join("vmlinux"));
        for number in 0..count {
            fs::create_dir_all(waiting.directory.join(number.to_string())).unwrap();
        }
        (dir, waiting)
    }

    fn unused_for(waiting: &Waiting, name: &str, time: Duration) {
        let place = File::open(waiting.directory.join(name)).unwrap();
        place.set_times(FileTimes::new().set_modified(SystemTime::now() - time)).unwrap();
    }

    #[test]
    fn the_longest_unused_makes_room_and_none_that_was_used_lately() {
        let (_dir, waiting) = waiting(MOST);
        assert!(!waiting.make_room(false).unwrap());
        assert!(waiting.make_room(true).unwrap(), "those that stand are counted by themselves");
        unused_for(&waiting, "3", LATELY * 2);
        unused_for(&waiting, "5", LATELY * 3);
        assert!(waiting.make_room(false).unwrap());
        let there = |name: &str| waiting.directory.join(name).exists();
        assert!(there("3") && !there("5"));
        // Of whichever kind it is, and whether there is room or not.
        unused_for(&waiting, "0", LONG_AGO * 2);
        assert!(waiting.make_room(true).unwrap() && !there("0") && there("3"));
    }

    #[test]
    fn one_that_is_not_whole_is_removed_and_not_used() {
        let (_dir, waiting) = waiting(2);
        for (name, stands) in [("0", true), ("1", false)] {
            let place = waiting.directory.join(name);
            fs::write(place.join("memory"), b"").unwrap();
            fs::write(place.join("devices"), b"").unwrap();
            if !stands {
                fs::write(place.join(DISK), b"").unwrap();
            }
            assert!(waiting.find(&Shape(name.to_owned()), stands).is_none());
            assert!(!place.exists());
        }
        assert_eq!(fs::read_dir(&waiting.directory).unwrap().count(), 0, "nothing is left of them");
    }

    #[test]
    fn what_is_wanted_a_second_time_pays() {
        let (_dir, waiting) = waiting(0);
        let shape = |name: &str| Shape(name.to_owned());
        assert!(!waiting.is_wanted(&shape("a")) && !waiting.is_wanted(&shape("b")) && waiting.is_wanted(&shape("a")));
    }
}
