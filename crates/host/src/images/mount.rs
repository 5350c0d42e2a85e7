//! Mounting an erofs file, directly where the kernel can (6.12 and later), through a loop device elsewhere.
//!
//! The mount is read-only, nosuid and nodev: setuid files in it are meant for sandboxes, not for the host. They work
//! inside all the same, since a sandbox reaches them through its overlay, and the kernel goes by the flags and the
//! user namespace of the mount that a program is run from, not of the layers below. Device files are root's idea of
//! a device only in an init-namespace mount without nodev; a sandbox's overlay is never one.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags};

use crate::storage::loop_device::{self, LoopDevice};

const FLAGS: MountFlags =
    MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV).union(MountFlags::NOATIME);

/// Mounts the image; the mount point is made, and removed again on failure.
pub(super) fn mount(file: &Path, point: &Path, force_loop: bool) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(point) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mounted = mount_either(file, point, force_loop);
    if mounted.is_err() {
        let _ = fs::remove_dir(point);
    }
    mounted
}

fn mount_either(file: &Path, point: &Path, force_loop: bool) -> io::Result<()> {
    let direct = if force_loop {
        io::Error::from(io::ErrorKind::Unsupported)
    } else {
        match loop_device::mount(file, point, "erofs", FLAGS, "") {
            Ok(()) => return Ok(()),
            Err(error) => error,
        }
    };
    let through_loop = || -> io::Result<()> {
        let device = LoopDevice::attach(&File::open(file)?, true)?;
        loop_device::mount(device.path(), point, "erofs", FLAGS, "")
    };
    through_loop().map_err(|error| {
        let text = format!("{}: {error}; without a loop device: {direct}", file.display());
        io::Error::new(error.kind(), text)
    })
}

/// Mounts the image, only where the kernel can mount the file itself.
pub(super) fn mount_directly(file: &Path, point: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(point)?;
    loop_device::mount(file, point, "erofs", FLAGS, "")
}

pub(super) fn is_mounted(point: &Path) -> io::Result<bool> {
    match loop_device::is_mount_point(point) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other,
    }
}

/// Unmounts and removes the mount point; does nothing where there is none.
pub(super) fn unmount(point: &Path) -> io::Result<()> {
    if is_mounted(point)? {
        // Whoever still has a file open keeps the file system; the name is free at once.
        rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    match fs::remove_dir(point) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether only root can have written the file: the kernel parses it with full rights.
pub(super) fn is_trusted(meta: &Metadata) -> bool {
    meta.is_file() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o022 == 0
}
