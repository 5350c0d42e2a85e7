//! What fetched images may take of the disk: when they take more, those go that were not used for the longest time.
//!
//! Only what was fetched goes, since it can be fetched again; what this host has packed itself is control's to delete.
//! An image that somebody holds stays, and so does one that a sandbox of this host was made from: it must come back
//! after a reboot although control may be away. The longest unused is known by the file's time of change, which each
//! use renews, at most once a minute, and the end of the agent.

use std::collections::HashSet;
use std::fs::{self, File, FileTimes};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::lazy::Lazies;
use super::{ImageError, Images, Slot, check_digest, io_error};

/// A use is written down so often.
const NOTED: Duration = Duration::from_secs(60);

impl Slot {
    /// Somebody wants it.
    pub(super) fn note_use(&mut self, images: &Images) {
        let now = SystemTime::now();
        self.used = Some(now);
        if self.noted.is_none_or(|noted| now.duration_since(noted).is_ok_and(|passed| passed >= NOTED)) {
            self.write_use_down(images);
        }
    }

    /// For the next agent. Nothing is written to the machine-wide cache.
    pub(super) fn write_use_down(&mut self, images: &Images) {
        let Some((used, mounted)) = self.used.zip(self.mounted.as_ref()) else { return };
        let is_fetched =
            mounted.file.starts_with(&images.fetched) || images.lazies().is_some_and(|it| it.holds(&mounted.file));
        if self.noted == Some(used) || !is_fetched {
            return;
        }
        let noted = File::open(&mounted.file).and_then(|file| file.set_times(FileTimes::new().set_modified(used)));
        if let Err(error) = noted {
            tracing::debug!(image = %mounted.file.display(), %error, "the use of an image can't be noted");
        }
        self.noted = Some(used);
    }
}

struct Fetched {
    used: SystemTime,
    digest: String,
    path: PathBuf,
    bytes: u64,
}

impl Images {
    /// Waits until an image was fetched since the last wait.
    pub async fn grown(&self) {
        self.grown.notified().await;
    }

    /// Deletes what was given up, and fetched images until they are within their bound and the disk has room for the next
    /// one. `named` are those that sandboxes of this host were made from. How many bytes went.
    ///
    /// # Errors
    /// When the directory can't be read. What can't be deleted is logged and stays.
    pub async fn trim(&self, named: &HashSet<String>) -> Result<u64, ImageError> {
        for digest in self.lazies().map(Lazies::failed).unwrap_or_default() {
            match self.remove(&digest, &[]).await {
                Ok(()) | Err(ImageError::InUse(_)) => {}
                Err(error) => tracing::warn!(%error, "an image that was given up can't be deleted"),
            }
        }
        let mut all = self.all_fetched().map_err(io_error("listing", &self.fetched))?;
        all.sort_by_key(|image| image.used);
        let mut total: u64 = all.iter().map(|image| image.bytes).sum();
        // Those that are not whole are in use, and have their room already.
        total = total.saturating_add(self.lazies().map_or(0, Lazies::bytes));
        let disk = rustix::fs::statvfs(&self.fetched).map_err(io::Error::from);
        let disk = disk.map_err(io_error("asking for the room of", &self.fetched))?;
        let room = disk.f_bavail.saturating_mul(disk.f_frsize);
        // So much again as a fetch must leave.
        let there = total.saturating_add(room).saturating_sub(self.options.reserve.saturating_mul(2));
        let most = self.options.max_fetched_bytes.min(there);
        let mut freed = 0;
        for image in all {
            if total <= most {
                break;
            }
            if named.contains(&image.digest) {
                continue;
            }
            match self.remove(&image.digest, &[&image.path]).await {
                Ok(()) => {
                    tracing::debug!(image = image.digest, bytes = image.bytes, "a fetched image makes room");
                    total -= image.bytes;
                    freed += image.bytes;
                }
                Err(ImageError::InUse(_)) => {}
                Err(error) => tracing::warn!(%error, "a fetched image can't be deleted"),
            }
        }
        Ok(freed)
    }

    fn all_fetched(&self) -> io::Result<Vec<Fetched>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.fetched)? {
            let path = entry?.path();
            let Some(digest) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".erofs")) else {
                continue;
            };
            if check_digest(digest).is_err() {
                continue;
            }
            let meta = match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                meta => meta?,
            };
            let digest = digest.to_owned();
            // Held by somebody: it is in use, and counts as used now.
            let slot = self.entries().get(&digest).cloned();
            let used = slot.map(|slot| slot.try_lock().map_or_else(|_| Some(SystemTime::now()), |slot| slot.used));
            let used = used.flatten().into_iter().chain([meta.modified()?]).max();
            all.push(Fetched { used: used.unwrap_or(SystemTime::UNIX_EPOCH), digest, path, bytes: meta.len() });
        }
        Ok(all)
    }
}
