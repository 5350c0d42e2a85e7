//! The btrfs calls that the pool needs: subvolumes, quota groups, resizing.
//!
//! Thin and synchronous: one function per ioctl, with the argument laid out as linux/btrfs.h has it. Policy is in
//! [`super`]. Reading goes through /sys/fs/btrfs, where the kernel shows live numbers.

use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

const NAME_BYTES: usize = 4040;
const LIMIT_REFERENCED: u64 = 1;
const INHERIT_SET_LIMITS: u64 = 1;
const SUBVOLUME_READ_ONLY: u64 = 1 << 1;
const SUBVOLUME_QGROUP_INHERIT: u64 = 1 << 2;

const fn request(direction: u32, number: u32, size: usize) -> u32 {
    (direction << 30) | ((size as u32) << 16) | (0x94 << 8) | number
}

const WRITE: u32 = 1;
const READ: u32 = 2;
const RESIZE: u32 = request(WRITE, 3, 4096);
const INO_LOOKUP: u32 = request(READ | WRITE, 18, 4096);
const WAIT_SYNC: u32 = request(WRITE, 22, size_of::<u64>());
const SNAP_CREATE_V2: u32 = request(WRITE, 23, size_of::<VolumeArgs>());
const SUBVOL_CREATE_V2: u32 = request(WRITE, 24, size_of::<VolumeArgs>());
const START_SYNC: u32 = request(READ, 24, size_of::<u64>());
const FS_INFO: u32 = request(READ, 31, 1024);
const QUOTA_CTL: u32 = request(READ | WRITE, 40, size_of::<[u64; 2]>());
const QGROUP_CREATE: u32 = request(WRITE, 42, size_of::<[u64; 2]>());
const QGROUP_LIMIT: u32 = request(READ, 43, size_of::<[u64; 6]>());
const QUOTA_RESCAN: u32 = request(WRITE, 44, size_of::<[u64; 8]>());
const SNAP_DESTROY_V2: u32 = request(WRITE, 63, size_of::<VolumeArgs>());

#[repr(C)]
struct VolumeArgs {
    fd: i64,
    transid: u64,
    flags: u64,
    inherit_size: u64,
    inherit: *const Inherit,
    unused: [u64; 2],
    name: [u8; NAME_BYTES],
}

const _: () = assert!(size_of::<VolumeArgs>() == 4096);

#[repr(C)]
struct Inherit {
    flags: u64,
    groups: u64,
    copies: [u64; 2],
    limit: Limit,
    group: u64,
}

impl Inherit {
    /// A member of one group, with a limit of its own.
    const fn limited(bytes: u64, group: u64) -> Self {
        let limit = Limit { flags: LIMIT_REFERENCED, max_referenced: bytes, max_exclusive: 0, reserved: [0; 2] };
        Self { flags: INHERIT_SET_LIMITS, groups: 1, copies: [0; 2], limit, group }
    }
}

#[repr(C)]
struct Limit {
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved: [u64; 2],
}

/// Calls an ioctl whose argument is a structure of exactly the size that the request number says.
fn call<T>(fd: BorrowedFd<'_>, request: u32, argument: &mut T) -> io::Result<()> {
    debug_assert_eq!((request >> 16) as usize & 0x3fff, size_of::<T>());
    // SAFETY: the argument is valid for reads and writes of the size encoded in the request, which is the most that
    // the kernel touches; pointers inside it (Inherit) are kept alive by the caller across the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(request), std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn volume_args(name: &str) -> io::Result<Box<VolumeArgs>> {
    // One byte stays zero: the kernel wants the name terminated.
    if name.is_empty() || name.len() >= 256 || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a subvolume's name"));
    }
    let mut args = Box::new(VolumeArgs {
        fd: 0,
        transid: 0,
        flags: 0,
        inherit_size: 0,
        inherit: std::ptr::null(),
        unused: [0; 2],
        name: [0; NAME_BYTES],
    });
    args.name[..name.len()].copy_from_slice(name.as_bytes());
    Ok(args)
}

/// Makes a subvolume in `parent` whose quota group is a member of `group` and has this limit from the start.
pub(super) fn create_subvolume(parent: BorrowedFd<'_>, name: &str, limit: u64, group: u64) -> io::Result<()> {
    let mut args = volume_args(name)?;
    let inherit = Inherit::limited(limit, group);
    args.flags = SUBVOLUME_QGROUP_INHERIT;
    args.inherit_size = size_of::<Inherit>() as u64;
    args.inherit = &raw const inherit;
    call(parent, SUBVOL_CREATE_V2, &mut *args)
}

/// Makes a read-only snapshot of the subvolume that `source` is the top of. What was written before the call is in it.
pub(super) fn snapshot_subvolume(parent: BorrowedFd<'_>, name: &str, source: BorrowedFd<'_>) -> io::Result<()> {
    let mut args = volume_args(name)?;
    args.fd = i64::from(source.as_raw_fd());
    args.flags = SUBVOLUME_READ_ONLY;
    call(parent, SNAP_CREATE_V2, &mut *args)
}

/// Makes a subvolume that begins as `source` is and can be written to; its quota group a member of `group`, if one is
/// given.
pub(super) fn clone_subvolume(
    parent: BorrowedFd<'_>,
    name: &str,
    source: BorrowedFd<'_>,
    group: Option<u64>,
) -> io::Result<()> {
    let mut args = volume_args(name)?;
    args.fd = i64::from(source.as_raw_fd());
    let inherit = Inherit { flags: 0, ..Inherit::limited(0, group.unwrap_or(0)) };
    if group.is_some() {
        args.flags = SUBVOLUME_QGROUP_INHERIT;
        args.inherit_size = size_of::<Inherit>() as u64;
        args.inherit = &raw const inherit;
    }
    call(parent, SNAP_CREATE_V2, &mut *args)
}

/// Deletes a subvolume by name; its contents are freed by the kernel behind the call.
pub(super) fn destroy_subvolume(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    call(parent, SNAP_DESTROY_V2, &mut *volume_args(name)?)
}

/// The id of the subvolume that the descriptor lies in, which is its quota group's too.
pub(super) fn subvolume_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    #[repr(C)]
    struct Lookup {
        tree: u64,
        object: u64,
        name: [u8; 4080],
    }
    let mut args = Box::new(Lookup { tree: 0, object: 256, name: [0; 4080] });
    call(fd, INO_LOOKUP, &mut *args)?;
    Ok(args.tree)
}

/// How the pool counts what each volume takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QuotaKind {
    /// Extents are accounted to the subvolume that made them (kernel 6.7 and later).
    Simple,
    /// Backreferences are walked.
    Full,
}

/// Switches quotas on. The kind stays what it is when they are on already.
pub(super) fn enable_quotas(fd: BorrowedFd<'_>, kind: QuotaKind) -> io::Result<()> {
    let command: u64 = match kind {
        QuotaKind::Full => 1,
        QuotaKind::Simple => 4,
    };
    match call(fd, QUOTA_CTL, &mut [command, 0]) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Has the disk take what was made and written down so far: subvolumes, limits, names. What was written into files waits for
/// its own turn, so that a busy neighbour's is not waited for.
pub(super) fn commit(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut transaction = 0_u64;
    call(fd, START_SYNC, &mut transaction)?;
    call(fd, WAIT_SYNC, &mut transaction)
}

/// Makes a quota group; success when there is one already.
pub(super) fn create_group(fd: BorrowedFd<'_>, group: u64) -> io::Result<()> {
    match call(fd, QGROUP_CREATE, &mut [1, group]) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Removes a quota group; success when there is none. Refused while its subvolume is being cleaned up.
pub(super) fn remove_group(fd: BorrowedFd<'_>, group: u64) -> io::Result<()> {
    match call(fd, QGROUP_CREATE, &mut [0, group]) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// Has full quotas counted anew, behind the call: a snapshot leaves their numbers uncertain, and uncertain limits don't
/// hold. Success when that goes on already.
pub(super) fn recount(fd: BorrowedFd<'_>) -> io::Result<()> {
    match call(fd, QUOTA_RESCAN, &mut [0u64; 8]) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        other => other,
    }
}

/// Limits what a quota group may hold.
pub(super) fn limit_group(fd: BorrowedFd<'_>, group: u64, bytes: u64) -> io::Result<()> {
    call(fd, QGROUP_LIMIT, &mut [group, LIMIT_REFERENCED, bytes, 0, 0, 0])
}

/// Grows the file system to its device's size.
pub(super) fn grow(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut args = [0u8; 4096];
    args[8..11].copy_from_slice(b"max");
    call(fd, RESIZE, &mut args)
}

/// The file system's directory in /sys/fs/btrfs.
pub(super) fn sysfs(fd: BorrowedFd<'_>) -> io::Result<String> {
    let mut info = [0u8; 1024];
    call(fd, FS_INFO, &mut info)?;
    let hex = hex::encode(&info[16..32]);
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    Ok(format!("/sys/fs/btrfs/{a}-{b}-{c}-{d}-{e}"))
}

/// Bytes that a quota group holds, as the kernel counts them now.
pub(super) fn group_usage(sysfs: &str, group: u64) -> io::Result<u64> {
    let path = format!("{sysfs}/qgroups/{}_{}/referenced", group >> 48, group & ((1 << 48) - 1));
    let text = fs::read_to_string(&path).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{path}: not a number")))
}

/// The ids of all quota groups of subvolumes.
pub(super) fn subvolume_groups(sysfs: &str) -> io::Result<Vec<u64>> {
    let entries = fs::read_dir(format!("{sysfs}/qgroups"))?;
    let id = |name: &str| name.strip_prefix("0_").and_then(|id| id.parse().ok());
    Ok(entries.flatten().filter_map(|entry| id(entry.file_name().to_str()?)).collect())
}

/// The quota kind that is on, if any.
pub(super) fn quota_kind(sysfs: &str) -> Option<QuotaKind> {
    let mode = fs::read_to_string(format!("{sysfs}/qgroups/mode")).ok();
    match (mode.as_deref().map(str::trim), fs::exists(format!("{sysfs}/qgroups"))) {
        (Some("squota"), _) => Some(QuotaKind::Simple),
        (Some("disabled"), _) | (_, Ok(false) | Err(_)) => None,
        _ => Some(QuotaKind::Full),
    }
}
