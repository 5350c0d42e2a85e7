//! Detached mounts that the agent makes for a child: layers whose owners are those of the sandbox's user namespace, and
//! read-only looks at its cgroups. They belong to no namespace; the last descriptor takes them away.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::MountAttrFlags;

use atoll_launch::sys;

fn context(what: &str, path: &Path, error: io::Error) -> io::Error {
    // Keeps the errno's kind; the text says the rest.
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

/// A layer on whose disk owners are 0-based: root of the user namespace owns what root owns there.
pub(super) fn idmapped(path: &Path, userns: BorrowedFd<'_>, read_only: bool) -> io::Result<OwnedFd> {
    let copy = sys::detached_copy(CWD, path).map_err(|error| context("copying the mount at", path, error))?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    if read_only {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    sys::mount_setattr(copy.as_fd(), attributes, Some(userns))
        .map_err(|error| context("mapping the owners of", path, error))?;
    Ok(copy)
}

/// A cgroup directory to look at.
pub(super) fn read_only(path: &Path) -> io::Result<OwnedFd> {
    let copy = sys::detached_copy(CWD, path).map_err(|error| context("copying the mount at", path, error))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    sys::mount_setattr(copy.as_fd(), attributes, None).map_err(|error| context("closing", path, error))?;
    Ok(copy)
}
