//! Volumes that outlive sandboxes and are mounted into them: a subvolume each, with a quota of its own.
//!
//! Beside what is mounted lie directories that no sandbox sees: files on their way in, trees on their way out, and files that
//! virtual machines have removed and may have open ([`crate::volume_fuse`]).

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{MutexGuard, PoisonError};

use atoll_model::{SandboxId, VolumeId};
use rustix::fs::{AtFlags, Dir, Mode};

use super::{Pool, StorageError, btrfs, clear, io_error, open_dir};

pub(super) const FOLDER: &str = "volumes";
/// What is mounted: a directory in the subvolume, so that its own attributes stay the pool's.
const FILES: &str = "files";
const INCOMING: &str = "incoming";
const OUTGOING: &str = "outgoing";
/// What virtual machines have removed and may still have open.
pub const UNLINKED: &str = "unlinked";
/// Of a volume's directories, those that no sandbox sees.
pub const HOSTS_OWN: [&str; 3] = [INCOMING, OUTGOING, UNLINKED];
/// Deleted volumes that are remembered, so that no late request makes one anew.
const REMEMBERED: usize = 1024;

/// A volume's directories, open.
#[derive(Debug)]
pub struct SharedVolume {
    /// What sandboxes mount.
    pub files: File,
    /// Files that are not whole yet.
    pub incoming: File,
    /// Trees that are being deleted.
    pub outgoing: File,
}

impl Pool {
    /// The volume's directory; the volume is made, with room for `limit_bytes`, when it is not there yet.
    ///
    /// # Errors
    /// When it was deleted a while ago, or the kernel refuses.
    pub fn shared_volume(&self, id: &VolumeId, limit_bytes: u64) -> Result<PathBuf, StorageError> {
        let path = self.backing.dir.join(FOLDER).join(id.as_str());
        let parent = self.folder(FOLDER)?;
        let made = {
            // Held, so that a deletion comes wholly before or wholly after.
            let deleted = self.deleted();
            if deleted.contains(id) {
                return Err(StorageError::Deleted(id.clone()));
            }
            btrfs::create_subvolume(parent.as_fd(), id.as_str(), limit_bytes, self.group)
        };
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("making the volume", &path)(error));
            }
            _ => {}
        }
        let fill = || -> io::Result<()> {
            let volume = open_dir(&parent, id.as_str())?;
            if !make_dir(&volume, FILES)? {
                return Ok(());
            }
            // Everybody in a sandbox may write to it, as to /tmp: it belongs to no user of any image.
            rustix::fs::chmodat(&volume, FILES, Mode::from_raw_mode(0o1777), AtFlags::empty())?;
            // While there is room for them: a volume that is full must be opened too.
            make_hosts_own(&volume)
        };
        fill().map_err(io_error("filling the volume", &path))?;
        Ok(path.join(FILES))
    }

    /// The same, with its directories open.
    ///
    /// # Errors
    /// As above.
    pub fn open_shared_volume(&self, id: &VolumeId, limit_bytes: u64) -> Result<SharedVolume, StorageError> {
        let path = self.shared_volume(id, limit_bytes)?;
        let open = || -> io::Result<SharedVolume> {
            let volume = open_dir(&self.root, &format!("{FOLDER}/{id}"))?;
            make_hosts_own(&volume)?;
            let [files, incoming, outgoing] = [FILES, INCOMING, OUTGOING].map(|name| open_dir(&volume, name));
            Ok(SharedVolume { files: files?, incoming: incoming?, outgoing: outgoing? })
        };
        open().map_err(io_error("opening the volume", &path))
    }

    /// What an agent that died has left in the directories of all volumes that are here, but for `files`: it is nobody's.
    ///
    /// # Errors
    /// When the pool can't be read.
    pub fn left_in_shared_volumes(&self) -> Result<Vec<(File, Vec<CString>)>, StorageError> {
        let names = self.names_in(FOLDER)?;
        let folders =
            names.iter().flat_map(|name| [INCOMING, OUTGOING].map(|inside| format!("{FOLDER}/{name}/{inside}")));
        let dirs = folders.filter_map(|folder| open_dir(&self.root, &folder).ok());
        let left = dirs.map(|dir| clear::names(&dir).map(|names| (dir, names)));
        left.collect::<io::Result<_>>().map_err(io_error("listing what is left in volumes", &self.backing.dir))
    }

    /// A sandbox is gone, and nothing that it had removed from a volume can be open any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear_unlinked(&self, id: &VolumeId, sandbox: &SandboxId) -> Result<(), StorageError> {
        let path = format!("{FOLDER}/{id}/{UNLINKED}");
        let cleared = match open_dir(&self.root, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(unlinked) => clear_unlinked(&unlinked, sandbox),
        };
        cleared.map_err(io_error("clearing what was removed from the volume", &self.backing.dir.join(path)))
    }

    /// Deletes a volume with all that is in it. Does nothing where there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_shared_volume(&self, id: &VolumeId) -> Result<(), StorageError> {
        {
            let mut deleted = self.deleted();
            if !deleted.contains(id) {
                deleted.push_back(id.clone());
                if deleted.len() > REMEMBERED {
                    deleted.pop_front();
                }
            }
        }
        self.delete_in(FOLDER, id.as_str())
    }

    fn deleted(&self) -> MutexGuard<'_, VecDeque<VolumeId>> {
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes those of a volume's directories that no sandbox sees, where they are missing.
///
/// # Errors
/// The kernel's.
pub fn make_hosts_own(volume: &File) -> io::Result<()> {
    HOSTS_OWN.iter().try_for_each(|name| make_dir(volume, name).map(drop))
}

/// Deletes what a sandbox has removed, and may have had open, from the directory where such is kept: all that can be.
///
/// # Errors
/// The kernel's last one.
pub fn clear_unlinked(unlinked: &File, sandbox: &SandboxId) -> io::Result<()> {
    let its = |name: &[u8]| name.strip_prefix(sandbox.as_str().as_bytes()).is_some_and(|rest| rest.starts_with(b"."));
    let mut cleared = Ok(());
    for entry in Dir::read_from(unlinked)? {
        let entry = entry?;
        if its(entry.file_name().to_bytes())
            && let Err(error) = clear::tree(unlinked, entry.file_name().to_owned())
        {
            cleared = Err(error);
        }
    }
    cleared
}

/// Bytes in the subvolume that this lies in, as its quota counts them.
///
/// # Errors
/// The kernel's.
pub fn held_bytes(inside: &File) -> io::Result<u64> {
    let group = btrfs::subvolume_id(inside.as_fd())?;
    btrfs::group_usage(&btrfs::sysfs(inside.as_fd())?, group)
}

/// Whether it was not there before.
fn make_dir(volume: &File, name: &str) -> io::Result<bool> {
    match rustix::fs::mkdirat(volume, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
