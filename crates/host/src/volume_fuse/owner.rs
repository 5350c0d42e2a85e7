//! Threads that make files as somebody else, so that those belong to who asked for them from their first moment, and
//! directories pass on their group as everywhere.

use std::io;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use super::abi::Answer;

/// A sandbox has so many ids, of containers and machines alike.
const IDS: u32 = 1 << 16;
/// These threads work for one sandbox, and go behind what the agent does for all.
const NICE: libc::c_int = 15;

/// Makes the calling thread fit for a server's work: modes are taken as they are asked for. It is for nothing else then.
///
/// # Errors
/// When the kernel refuses.
pub fn begin_thread() -> io::Result<()> {
    // SAFETY: working directory, root and mask become this thread's own; nothing else does, no descriptor above all.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
    rustix::process::umask(rustix::fs::Mode::empty());
    // SAFETY: it takes numbers only; 0 is the calling thread.
    let _as_important_as_others = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    Ok(())
}

/// An id that a sandbox may have.
pub fn id(id: u32) -> Answer<u32> {
    if id < IDS { Ok(id) } else { Err(Errno::OVERFLOW) }
}

/// Does something for which the files that it makes are this owner's. The thread keeps the right to pass by modes.
pub fn acting_as<T>(uid: u32, gid: u32, work: impl FnOnce() -> Answer<T>) -> Answer<T> {
    let (uid, gid) = (id(uid)?, id(gid)?);
    if (uid, gid) == (0, 0) {
        return work();
    }
    let _back = Back;
    set(uid, gid)?;
    if uid != 0 {
        // The kernel has taken what root may do with files out of use; it is still ours.
        let mut sets = rustix::thread::capabilities(None)?;
        sets.effective |= CapabilitySet::DAC_OVERRIDE;
        rustix::thread::set_capabilities(None, sets)?;
    }
    work()
}

/// Does something that takes set-user-id and set-group-id from a file, as a write by who may not keep them does: the
/// kernel takes them, in one step with the change.
pub fn without_set_ids<T>(work: impl FnOnce() -> Answer<T>) -> Answer<T> {
    let sets = rustix::thread::capabilities(None)?;
    let _back = Whole(sets);
    let effective = sets.effective - CapabilitySet::FSETID;
    rustix::thread::set_capabilities(None, CapabilitySets { effective, ..sets })?;
    work()
}

/// Has the thread's powers again, whatever happens.
struct Whole(CapabilitySets);

impl Drop for Whole {
    fn drop(&mut self) {
        if rustix::thread::set_capabilities(None, self.0).is_err() {
            // As below.
            std::process::abort();
        }
    }
}

/// Becomes root again, whatever happens.
struct Back;

impl Drop for Back {
    fn drop(&mut self) {
        if set(0, 0).is_err() {
            // Nothing that a request says leads here; a thread that is somebody else must not go on.
            std::process::abort();
        }
    }
}

fn set(uid: u32, gid: u32) -> Answer<()> {
    // SAFETY: these take numbers only, and act on the calling thread. An id that can't be is how one asks for the id.
    let now = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
    };
    if (i64::from(now.0), i64::from(now.1)) == (i64::from(uid), i64::from(gid)) { Ok(()) } else { Err(Errno::PERM) }
}
