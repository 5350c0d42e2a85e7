//! Registering descriptors that we own with the runtime.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor, which must not block, for readiness.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays the same open descriptor until it is dropped, which AsyncFd does after deregistering it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
