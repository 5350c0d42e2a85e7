//! Loop devices without `losetup`: a file becomes a block device that vanishes with its last user.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

const LOOP_CONFIGURE: u64 = 0x4C0A;
const LOOP_CTL_GET_FREE: u64 = 0x4C82;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// Others look for a free device at the same time; each round somebody wins.
const ATTEMPTS: usize = 64;

#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

const _: () = assert!(std::mem::size_of::<Config>() == 304);

/// A loop device; it is taken apart when this and everything that has it mounted is gone.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    path: PathBuf,
    _file: File,
}

impl LoopDevice {
    /// A device that shows the file.
    ///
    /// # Errors
    /// When the machine has no loop devices, or none is free.
    pub fn attach(file: &File, read_only: bool) -> io::Result<Self> {
        let control = File::options().read(true).write(true).open("/dev/loop-control")?;
        let mut last = io::Error::from(io::ErrorKind::ResourceBusy);
        for _ in 0..ATTEMPTS {
            // SAFETY: this request takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            if number < 0 {
                return Err(io::Error::last_os_error());
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            match configure(&path, file.as_raw_fd(), read_only) {
                Ok(device) => return Ok(Self { path, _file: device }),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => last = error,
                Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
            }
        }
        Err(last)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn configure(path: &Path, backing: RawFd, read_only: bool) -> io::Result<File> {
    let device = File::options().read(true).write(!read_only).open(path)?;
    let flags = AUTOCLEAR | if read_only { READ_ONLY } else { 0 };
    // Direct I/O keeps the host from caching the same bytes twice; not every file system under the file offers it.
    let result = set(&device, backing, flags | DIRECT_IO);
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set(&device, backing, flags)?,
        other => other?,
    }
    Ok(device)
}

fn set(device: &File, backing: RawFd, flags: u32) -> io::Result<()> {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut config: Config = unsafe { std::mem::zeroed() };
    config.fd = u32::try_from(backing).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    config.block_size = 4096;
    config.flags = flags;
    // SAFETY: the argument is a loop_config, which the kernel only reads.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Mounts a file system; `options` are the file system's own.
pub(crate) fn mount(
    source: &Path,
    target: &Path,
    kind: &str,
    flags: rustix::mount::MountFlags,
    options: &str,
) -> io::Result<()> {
    let options = std::ffi::CString::new(options)?;
    rustix::mount::mount(source, target, kind, flags, options.as_c_str()).map_err(io::Error::from)
}

/// Whether the file system that the descriptor lies in has this magic number.
pub(crate) fn has_magic(fd: BorrowedFd<'_>, magic: u64) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(fd)?.f_type as u64 == magic)
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let stat = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    Ok(stat.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT))
}
