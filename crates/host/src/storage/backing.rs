//! Where the pool's bytes lie: a directory of the data directory's own btrfs, or a sparse image with a btrfs in it.
//!
//! Makes, grows and mounts it; finds it again when an earlier agent has left it mounted. The mount is
//! nosuid,nodev: layers hold setuid files that are meant for sandboxes, never for the host. (A sandbox sees them
//! through its own overlay mount, whose flags are the ones that count there.)

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::btrfs::{self, QuotaKind};
use super::loop_device::{LoopDevice, has_magic, is_mount_point, mount};
use super::{PoolOptions, StorageError, io_error};

const BTRFS_MAGIC: u64 = 0x9123_683E;
/// mkfs.btrfs refuses less than about 109 MiB; with less than this nothing useful fits anyway.
const SMALLEST_IMAGE: u64 = 256 << 20;
const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOATIME);

/// An open pool directory.
#[derive(Debug)]
pub(super) struct Backing {
    /// The mounted pool.
    pub dir: PathBuf,
    /// The directory whose file system the pool's bytes lie in.
    pub below: PathBuf,
    /// Whether a sparse image is between the two.
    pub image: bool,
    pub sysfs: String,
}

impl Backing {
    pub fn open(data_dir: &Path, options: &PoolOptions) -> Result<Self, StorageError> {
        let dir = data_dir.join("pool");
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("making the directory", &dir)(error));
            }
            _ => {}
        }
        let image_path = data_dir.join("pool.img");
        let mounted = is_mount_point(&dir).map_err(io_error("looking at", &dir))?;
        let direct = !image_path.exists() && is_btrfs(data_dir).map_err(io_error("looking at", data_dir))?;
        if !mounted {
            if !(direct && mount_directory(&dir, options)?) {
                mount_image(&image_path, &dir, options)?;
            }
            tracing::info!(pool = %dir.display(), "mounted the storage pool");
        }
        let opened = (|| {
            let root = File::open(&dir).map_err(io_error("opening", &dir))?;
            let sysfs = btrfs::sysfs(root.as_fd()).map_err(io_error("identifying the btrfs at", &dir))?;
            ensure_quotas(&root, &sysfs, options).map_err(io_error("switching on the quotas of", &dir))?;
            Ok(Self { image: image_path.exists(), below: data_dir.to_owned(), dir: dir.clone(), sysfs })
        })();
        if opened.is_err() && !mounted {
            // Don't leave behind what this very call has mounted.
            let _ = rustix::mount::unmount(&dir, UnmountFlags::DETACH);
        }
        opened
    }

    /// Takes the pool out of sight; the kernel ends the file system with the last descriptor in it.
    pub fn unmount(&self) -> io::Result<()> {
        rustix::mount::unmount(&self.dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(io::Error::from)
    }
}

fn is_btrfs(dir: &Path) -> io::Result<bool> {
    has_magic(File::open(dir)?.as_fd(), BTRFS_MAGIC)
}

fn ensure_quotas(root: &File, sysfs: &str, options: &PoolOptions) -> io::Result<()> {
    if btrfs::quota_kind(sysfs).is_some() {
        return Ok(());
    }
    if !options.force_full_quotas && btrfs::enable_quotas(root.as_fd(), QuotaKind::Simple).is_ok() {
        return Ok(());
    }
    btrfs::enable_quotas(root.as_fd(), QuotaKind::Full)
}

/// Makes the pool a mount of its own in the data directory's btrfs. False where that would force full quotas, which
/// slow down everything else in that file system, onto it.
fn mount_directory(dir: &Path, options: &PoolOptions) -> Result<bool, StorageError> {
    let root = File::open(dir).map_err(io_error("opening", dir))?;
    let sysfs = btrfs::sysfs(root.as_fd()).map_err(io_error("identifying the btrfs at", dir))?;
    let usable = btrfs::quota_kind(&sysfs).is_some()
        || (!options.force_full_quotas && btrfs::enable_quotas(root.as_fd(), QuotaKind::Simple).is_ok());
    drop(root);
    if !usable {
        return Ok(false);
    }
    let bind = || -> io::Result<()> {
        rustix::mount::mount_bind(dir, dir)?;
        rustix::mount::mount_change(dir, MountPropagationFlags::PRIVATE)?;
        rustix::mount::mount_remount(dir, MountFlags::BIND | FLAGS, "")?;
        Ok(())
    };
    bind().map_err(io_error("mounting the storage pool at", dir))?;
    Ok(true)
}

/// Mounts the image, making or growing it first.
fn mount_image(path: &Path, dir: &Path, options: &PoolOptions) -> Result<(), StorageError> {
    let below = path.parent().unwrap_or(path);
    let room = rustix::fs::statvfs(below).map_err(|error| io_error("measuring", below)(error.into()))?;
    let size = options.size_limit.unwrap_or(room.f_blocks * room.f_frsize).max(SMALLEST_IMAGE) & !0xf_ffff;
    let made = match fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_image(path, size)?;
            size
        }
        Err(error) => return Err(io_error("looking at", path)(error)),
    };
    let file = File::options().read(true).write(true).open(path).map_err(io_error("opening the pool's image", path))?;
    if made < size {
        file.set_len(size).map_err(io_error("growing the pool's image", path))?;
    }
    let device = LoopDevice::attach(&file, false).map_err(io_error("making a loop device of", path))?;
    // discard=async gives freed space back to the file below, and a commit every 5 s (as ext4 has it, not 30) wakes the
    // thread that frees deleted volumes.
    mount(device.path(), dir, "btrfs", FLAGS, "discard=async,commit=5")
        .map_err(io_error("mounting the storage pool at", dir))?;
    if made < size {
        let root = File::open(dir).map_err(io_error("opening", dir))?;
        btrfs::grow(root.as_fd()).map_err(io_error("growing the storage pool at", dir))?;
    }
    Ok(())
}

/// Makes the image under another name, so that a crash in the middle leaves none.
fn make_image(path: &Path, size: u64) -> Result<(), StorageError> {
    let draft = path.with_extension("img.new");
    let file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&draft)
        .map_err(io_error("making the pool's image", &draft))?;
    file.set_len(size).map_err(io_error("making the pool's image", &draft))?;
    let output = Command::new("mkfs.btrfs")
        .args(["-q", "-K", "-f", "-d", "single", "-m", "single", "-L", "atoll"])
        .arg(&draft)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| StorageError::MakeFileSystem(format!("{error} (is btrfs-progs installed?)")))?;
    if !output.status.success() {
        let _ = fs::remove_file(&draft);
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(StorageError::MakeFileSystem(text.trim().chars().take(500).collect()));
    }
    file.sync_all().map_err(io_error("writing out", &draft))?;
    fs::rename(&draft, path).map_err(io_error("putting into place", path))
}
