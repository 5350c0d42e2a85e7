//! The writable disk of a machine: a sparse file in the sandbox's volume with an ext4 in it, or a copy of another
//! machine's.
//!
//! The file system is made by the host while it is empty; what a guest has written to it is never mounted or parsed here.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::ioctl_ficlone;

use super::super::program;
use super::memory;

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

/// A disk, open; it may have to be made yet.
pub(super) struct Disk {
    volume: PathBuf,
    file: File,
    /// The same, for reading only.
    reading: File,
    is_new: bool,
}

/// What a new disk begins with.
pub(super) enum Content<'a> {
    /// An empty file system, of so many bytes.
    Empty(u64),
    /// What the disk of a layer has, whose blocks it shares.
    Layer(&'a Path),
    /// What a file has, wherever it is.
    Copy(&'a File),
}

impl Disk {
    /// The one in this volume. Where there is none it is new, and has no content yet.
    pub fn open(volume: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let (path, draft) = (of_volume(volume), volume.join(DRAFT));
        let (file, path, is_new) = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (options.create(true).truncate(true).mode(0o600).open(&draft)?, draft, true)
            }
            file => (file?, path, false),
        };
        Ok(Self { volume: volume.to_owned(), file, reading: File::open(path)?, is_new })
    }

    pub const fn is_new(&self) -> bool {
        self.is_new
    }

    /// For writing, and for reading only: QEMU wants both.
    pub fn descriptors(&self) -> io::Result<[OwnedFd; 2]> {
        Ok([self.file.try_clone()?.into(), self.reading.try_clone()?.into()])
    }

    /// Gives a new one its content, and then its name. Blocks.
    pub fn make(&self, content: &Content<'_>) -> io::Result<()> {
        if !self.is_new {
            return Ok(());
        }
        let (draft, path) = (self.volume.join(DRAFT), of_volume(&self.volume));
        let make = || {
            match content {
                Content::Empty(bytes) => {
                    self.file.set_len(*bytes)?;
                    make_file_system(&draft)?;
                }
                Content::Layer(layer) => ioctl_ficlone(self.file.as_fd(), File::open(layer)?.as_fd())?,
                Content::Copy(file) => drop(memory::copy(file, &self.file, true)?),
            }
            fs::rename(&draft, &path)
        };
        make().map_err(|error: io::Error| io::Error::new(error.kind(), format!("making {}: {error}", path.display())))
    }
}

/// What makes empty ones.
pub(super) const MAKER: &str = "mkfs.ext4";

fn make_file_system(path: &Path) -> io::Result<()> {
    let mut command = Command::new(program(MAKER).unwrap_or_else(|| MAKER.into()));
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
    let output = output.map_err(|error| io::Error::new(error.kind(), format!("{MAKER}: {error} (e2fsprogs)")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect::<String>();
    Err(io::Error::other(format!("{MAKER}: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn an_empty_disk_takes_hardly_any_room_and_is_made_once() {
        let volume = tempfile::tempdir_in("/var/tmp").unwrap();
        let disk = Disk::open(volume.path()).unwrap();
        let [_, reading] = disk.descriptors().unwrap();
        disk.make(&Content::Empty(1 << 30)).unwrap();
        let meta = File::from(reading).metadata().unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777), (1 << 30, 0o600));
        assert!(meta.blocks() * 512 < 8 << 20, "{} blocks", meta.blocks());
        let again = Disk::open(volume.path()).unwrap();
        again.make(&Content::Empty(2 << 30)).unwrap();
        assert!(disk.is_new() && !again.is_new() && !volume.path().join(DRAFT).exists());
        assert_eq!(again.file.metadata().unwrap().ino(), meta.ino());
        assert_eq!(again.file.metadata().unwrap().len(), meta.len());

        // The same elsewhere, and it takes as little.
        let other = tempfile::tempdir_in("/var/tmp").unwrap();
        let copy = Disk::open(other.path()).unwrap();
        copy.make(&Content::Copy(&again.file)).unwrap();
        let copied = copy.file.metadata().unwrap();
        assert!(copied.len() == meta.len() && copied.blocks() <= meta.blocks());
        let check = Command::new("e2fsck").arg("-fn").arg(of_volume(other.path())).output().unwrap();
        assert!(check.status.success(), "{check:?}");
    }
}
