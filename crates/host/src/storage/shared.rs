//! Volumes that outlive sandboxes and are mounted into them: a subvolume each, with a quota of its own.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use atoll_model::VolumeId;
use rustix::fs::{AtFlags, Mode};

use super::{Pool, StorageError, btrfs, io_error, open_dir};

pub(super) const FOLDER: &str = "volumes";
/// What is mounted: a directory in the subvolume, so that its own attributes stay the pool's.
const FILES: &str = "files";

impl Pool {
    /// The volume's directory; the volume is made, with room for `limit_bytes`, when it is not there yet.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn shared_volume(&self, id: &VolumeId, limit_bytes: u64) -> Result<PathBuf, StorageError> {
        let path = self.backing.dir.join(FOLDER).join(id.as_str());
        let parent = self.folder(FOLDER)?;
        match btrfs::create_subvolume(parent.as_fd(), id.as_str(), limit_bytes, self.group) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("making the volume", &path)(error));
            }
            _ => {}
        }
        let fill = || -> io::Result<()> {
            let volume = open_dir(&parent, id.as_str())?;
            match rustix::fs::mkdirat(&volume, FILES, Mode::from_raw_mode(0o700)) {
                Err(rustix::io::Errno::EXIST) => return Ok(()),
                other => other?,
            }
            // Everybody in a sandbox may write to it, as to /tmp: it belongs to no user of any image.
            rustix::fs::chmodat(&volume, FILES, Mode::from_raw_mode(0o1777), AtFlags::empty())?;
            Ok(())
        };
        fill().map_err(io_error("filling the volume", &path))?;
        Ok(path.join(FILES))
    }

    /// Deletes a volume with all that is in it. Does nothing where there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_shared_volume(&self, id: &VolumeId) -> Result<(), StorageError> {
        self.delete_in(FOLDER, id.as_str())
    }
}
