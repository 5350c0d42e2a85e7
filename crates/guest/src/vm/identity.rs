//! What a machine that stood still, or is a copy of another, must not go on with: its clock and its randomness.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use atoll_rpc::channel::Orders;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::During;

/// A clock that is less than this off is left alone: the letter took some of it to get here.
const CLOSE_NS: i128 = 100_000_000;

const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

pub fn take(orders: &Orders) -> io::Result<()> {
    set_clock(orders.now_ns).during("setting the clock")?;
    stir(&orders.entropy).during("taking in randomness")
}

fn set_clock(now_ns: u64) -> io::Result<()> {
    let here = clock_gettime(ClockId::Realtime);
    let here = i128::from(here.tv_sec) * 1_000_000_000 + i128::from(here.tv_nsec);
    if (here - i128::from(now_ns)).abs() < CLOSE_NS {
        return Ok(());
    }
    let tv_sec = i64::try_from(now_ns / 1_000_000_000).map_err(io::Error::other)?;
    let tv_nsec = (now_ns % 1_000_000_000) as i64;
    Ok(clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec })?)
}

/// Another id of this boot, as every process sees it.
pub fn cover_boot_id() -> io::Result<()> {
    const COVER: &str = "/dev/.boot_id";
    let random = Path::new("/proc/sys/kernel/random");
    let id = fs::read_to_string(random.join("uuid"))?;
    // A copy of a copy has its original's. Whatever else lies there, it is not asked about.
    let _not_covered = rustix::mount::unmount(random.join("boot_id"), rustix::mount::UnmountFlags::DETACH);
    match fs::remove_file(COVER) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write(COVER, id)?;
    fs::set_permissions(COVER, fs::Permissions::from_mode(0o444))?;
    Ok(rustix::mount::mount_bind(COVER, random.join("boot_id"))?)
}

#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    size: libc::c_int,
    bytes: [u8; 32],
}

fn stir(entropy: &[u8; 32]) -> io::Result<()> {
    let info = PoolInfo { entropy_bits: 256, size: 32, bytes: *entropy };
    let random = File::options().write(true).open("/dev/urandom")?;
    // SAFETY: the kernel reads `size` bytes behind the two numbers, which is the length of the array.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, &raw const info) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the request takes no argument.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG as _) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
