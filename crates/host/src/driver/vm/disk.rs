//! The writable disk of a machine: a sparse file in the sandbox's volume with an ext4 in it, or a copy of another
//! machine's that shares its blocks.
//!
//! The file system is made by the host while it is empty; what a guest has written to it is never mounted or parsed here.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NAME: &str = "disk";
const DRAFT: &str = "disk.new";

/// The disk in a layer, by the layer's directory, if a machine has left it.
#[must_use]
pub fn of_layer(directory: &Path) -> Option<PathBuf> {
    directory.parent().map(of_volume).filter(|disk| disk.is_file())
}

/// Where the disk in a volume is.
fn of_volume(volume: &Path) -> PathBuf {
    volume.join(NAME)
}

/// Whether there is one.
pub(super) fn is_in(volume: &Path) -> bool {
    of_volume(volume).exists()
}

/// The sandbox's disk, open for writing and for reading only: QEMU wants both. Where there is none it is made: from
/// `parent`, or empty and `bytes` large.
pub(super) fn open_or_make(volume: &Path, parent: Option<&Path>, bytes: u64) -> io::Result<[File; 2]> {
    let path = of_volume(volume);
    if !path.exists() {
        let draft = volume.join(DRAFT);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("making {}: {error}", path.display()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&draft);
        let file = file.map_err(named)?;
        match parent {
            Some(parent) => rustix::fs::ioctl_ficlone(file.as_fd(), File::open(parent).map_err(named)?.as_fd())
                .map_err(|error| named(error.into()))?,
            None => {
                file.set_len(bytes).map_err(named)?;
                make_file_system(&draft)?;
            }
        }
        fs::rename(&draft, &path).map_err(named)?;
    }
    Ok([OpenOptions::new().read(true).write(true).open(&path)?, File::open(&path)?])
}

fn make_file_system(path: &Path) -> io::Result<()> {
    let mut command = Command::new("mkfs.ext4");
    // Lazily: its tables are written when they are used, so that an empty disk stays empty.
    command.args([
        "-q",
        "-F",
        "-m",
        "0",
        "-E",
        "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
        "-O",
        "^resize_inode",
    ]);
    let output = command.arg(path).stdin(Stdio::null()).output();
    let output = output.map_err(|error| io::Error::new(error.kind(), format!("mkfs.ext4: {error} (e2fsprogs)")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect::<String>();
    Err(io::Error::other(format!("mkfs.ext4: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn an_empty_disk_takes_hardly_any_room_and_is_made_once() {
        let volume = tempfile::tempdir_in("/var/tmp").unwrap();
        let [disk, _] = open_or_make(volume.path(), None, 1 << 30).unwrap();
        let meta = disk.metadata().unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777), (1 << 30, 0o600));
        assert!(meta.blocks() * 512 < 8 << 20, "{} blocks", meta.blocks());
        let [again, _] = open_or_make(volume.path(), None, 2 << 30).unwrap();
        assert_eq!(again.metadata().unwrap().ino(), meta.ino());
        assert!(!volume.path().join(DRAFT).exists());
    }
}
