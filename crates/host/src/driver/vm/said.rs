//! What QEMU and the guest's console have said, for the error of a launch that failed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

/// What QEMU may say of why it ended.
const LOG_BYTES: u64 = 16 << 10;
/// Of a console, so much is told in an error.
const SHOWN: usize = 600;

/// A file in memory that can't grow: whatever QEMU says, it fills no disk.
pub(super) fn log() -> io::Result<OwnedFd> {
    let log = memfd_create("atoll-qemu-log", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&log, LOG_BYTES)?;
    fcntl_add_seals(&log, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(log)
}

pub(super) fn said(log: &OwnedFd) -> Option<String> {
    let mut bytes = vec![0; usize::try_from(LOG_BYTES).ok()?];
    File::from(log.try_clone().ok()?).read_at(&mut bytes, 0).ok()?;
    let text = String::from_utf8_lossy(&bytes).replace('\0', "");
    end_of(&text).map(|text| format!("QEMU said: {text}"))
}

pub(super) fn end_of(text: &str) -> Option<String> {
    let text = text.trim();
    let skip = text.chars().count().saturating_sub(SHOWN);
    let end: String = text.chars().skip(skip).map(|c| if c.is_control() { ' ' } else { c }).collect();
    (!end.is_empty()).then_some(end)
}
