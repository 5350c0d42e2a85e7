//! File work with a user's own rights, on the thread that does it.
//!
//! The guest is root, and E2B's protocol wants its files written as root and given away. Where a caller asks for the
//! user's rights (`rights=user`), the thread takes the user's file system ids and groups for as long as the work takes.
//! Linux drops the powers over other people's files with the id, and gives them back with it. Only the calling thread
//! changes: the ids are set by raw system calls, which the C library's wrappers would spread over all threads.

use std::io;

use crate::users::Account;

/// Root again when it is dropped.
struct Rights;

impl Rights {
    fn take(account: &Account) -> io::Result<Self> {
        let rights = Self;
        set_groups(&account.groups)?;
        set_ids(account.uid, account.gid);
        Ok(rights)
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        set_ids(0, 0);
        if set_groups(&[]).is_err() {
            // The thread would go on with somebody's groups: it must not serve anybody else.
            std::process::abort();
        }
    }
}

fn set_ids(uid: u32, gid: u32) {
    // SAFETY: both calls take plain numbers, concern the calling thread alone, and can't fail for root in ways that
    // matter: an id that is not mapped leaves the thread without rights to anything but what all have.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer is valid for as many numbers as the length says, for the duration of the call.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Does the work as the user, or as the guest itself for nobody. Not across an await: it is the thread that changes.
///
/// # Errors
/// When the user's groups can't be taken.
pub fn with<T, E: From<io::Error>>(account: Option<&Account>, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // Root has them all, and a guest that is not root (in development) has its own anyway.
    let account = account.filter(|account| account.uid != 0 && rustix::process::geteuid().is_root());
    let _rights = account.map(Rights::take).transpose()?;
    work()
}
