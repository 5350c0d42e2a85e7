//! Pseudo-terminals: opening a pair and changing its size.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::users::Account;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

impl TerminalSize {
    /// From a request's numbers; absurd ones are cut to what a terminal can have, and 0 means the usual 80 by 24.
    pub fn new(columns: u32, rows: u32) -> Self {
        let or = |given: u32, usual: u16| if given == 0 { usual } else { u16::try_from(given).unwrap_or(u16::MAX) };
        Self { columns: or(columns, 80), rows: or(rows, 24) }
    }
}

/// Opens a pair (ours, theirs) of the given size that belongs to `account`. Ours doesn't block.
pub fn open(size: TerminalSize, account: &Account) -> Result<(OwnedFd, OwnedFd), Errno> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    // The group stays the one that devpts gives (tty). Where ids can't be changed the terminal still works.
    let _ = rustix::fs::fchown(&theirs, Some(Uid::from_raw(account.uid)), None::<Gid>);
    resize(&ours, size)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

pub fn resize(terminal: impl AsFd, size: TerminalSize) -> Result<(), Errno> {
    tcsetwinsize(terminal, Winsize { ws_col: size.columns, ws_row: size.rows, ws_xpixel: 0, ws_ypixel: 0 })
}
