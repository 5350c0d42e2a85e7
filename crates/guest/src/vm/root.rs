//! The root file system: the host's disks, laid over each other, with what every Linux has mounted in it.
//!
//! Disks are known by their serial numbers: `lower0` and so on are erofs images, `disk` is the sandbox's own, an ext4
//! that holds the overlay's two directories.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use atoll_rpc::channel::Beginning;
use rustix::fs::{AtFlags, CWD};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{Resource, Rlimit, chdir, chroot, setrlimit};

use super::During;

const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Open files: what a process may raise its own limit to, and has at first.
const OPEN_FILES: u64 = 65_536;

const QUIET: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);
const INERT: MountFlags = QUIET.union(MountFlags::NODEV);

/// What the initramfs needs itself.
pub fn first_mounts() -> io::Result<()> {
    for (kind, path) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(path)?;
        attach(kind, path, MountFlags::empty(), "")?;
    }
    Ok(())
}

/// Makes the sandbox's root file system, of its own disk over `count` others, and moves into it.
pub fn enter(count: usize) -> io::Result<()> {
    rustix::process::umask(rustix::fs::Mode::empty());
    let mut lowers = Vec::new();
    for number in 0..count {
        let (name, path) = (format!("lower{number}"), format!("/lower{number}"));
        mount_disk(&name, &path, "erofs", MountFlags::RDONLY | MountFlags::NOATIME, "")?;
        lowers.push(path);
    }
    let of_disk = |options: &str| mount_disk("disk", "/disk", "ext4", MountFlags::NOATIME, options);
    // Without a thread that reads and writes ahead what may never be needed.
    of_disk("discard,noinit_itable,no_prefetch_block_bitmaps")
        .or_else(|_| of_disk("discard,noinit_itable"))
        .or_else(|_| of_disk(""))?;
    for (name, mode) in [("up", 0o755), ("work", 0o700)] {
        match fs::DirBuilder::new().mode(mode).create(format!("/disk/{name}")) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    fs::create_dir_all("/root")?;
    // As for containers, whose layers may lie below: what they have removed is marked in the user's name space.
    let options = format!("lowerdir={},upperdir=/disk/up,workdir=/disk/work,userxattr", lowers.join(":"));
    attach("overlay", "/root", MountFlags::empty(), &options).during("mounting the overlay")?;
    chdir("/root")?;
    mount_move(".", "/").during("moving the root")?;
    chroot(".").during("entering the root")?;
    chdir("/")?;
    standard_mounts()?;
    blank_names()?;
    crate::marks::blank();
    let files = Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) };
    setrlimit(Resource::Nofile, files)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

fn mount_disk(name: &str, path: &str, kind: &str, flags: MountFlags, options: &str) -> io::Result<()> {
    let device = disk(name)?;
    if let Some(name) = device.file_name() {
        // The host has the order of requests in hand. Where this can't be said, nothing is lost.
        let queue = PathBuf::from("/sys/block").join(name).join("queue");
        let _as_it_is = fs::write(queue.join("scheduler"), "none");
        let _as_it_is = fs::write(queue.join("wbt_lat_usec"), "0");
    }
    fs::create_dir_all(path)?;
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    let mounted = mount(&device, path, kind, flags, options.as_c_str());
    mounted.during(&format!("mounting {} ({name}) as {kind}", device.display()))
}

/// The device file of the disk with this serial number.
fn disk(name: &str) -> io::Result<PathBuf> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for entry in fs::read_dir("/sys/block")?.flatten() {
            let serial = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
            let device = PathBuf::from("/dev").join(entry.file_name());
            if serial.trim_end() == name && device.exists() {
                return Ok(device);
            }
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("the machine has no disk `{name}`")));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn attach(kind: &str, path: &str, flags: MountFlags, options: &str) -> io::Result<()> {
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    Ok(mount(kind, path, kind, flags, options.as_c_str())?)
}

/// What may lie in /dev/shm: half of the memory, as everywhere, but not what the kernel and programs can't live without:
/// nothing of it can be reclaimed.
fn shared_memory_kib() -> u64 {
    const NEEDED: u64 = 64 << 10;
    const LEAST: u64 = 8 << 10;
    let info = rustix::system::sysinfo();
    let total = info.totalram * u64::from(info.mem_unit) / 1024;
    (total / 2).min(total.saturating_sub(NEEDED)).max(LEAST)
}

fn standard_mounts() -> io::Result<()> {
    let shared = format!("mode=1777,size={}k", shared_memory_kib());
    let all = [
        ("proc", "/proc", INERT, ""),
        ("sysfs", "/sys", INERT, ""),
        ("devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755"),
        ("devpts", "/dev/pts", QUIET, "ptmxmode=0666,mode=0620,gid=5"),
        ("tmpfs", "/dev/shm", MountFlags::NOSUID | MountFlags::NODEV, shared.as_str()),
        ("mqueue", "/dev/mqueue", INERT, ""),
    ];
    for (kind, path, flags, options) in all {
        if rustix::fs::accessat(CWD, path, rustix::fs::Access::EXISTS, AtFlags::empty()).is_err() {
            fs::create_dir_all(path).during(path)?;
        }
        attach(kind, path, flags, options).during(path)?;
    }
    // For programs that make groups of their own, such as container engines.
    let _without = attach("cgroup2", "/sys/fs/cgroup", INERT, "");
    for (name, target) in [("fd", "self/fd"), ("stdin", "self/fd/0"), ("stdout", "self/fd/1"), ("stderr", "self/fd/2")]
    {
        match symlink(format!("/proc/{target}"), format!("/dev/{name}")) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

const HOSTNAME: &str = "/etc/hostname";
const HOSTS: &str = "/etc/hosts";
const MACHINE_ID: &str = "/etc/machine-id";
const RESOLVER: &str = "/etc/resolv.conf";

/// Has those files lie on the sandbox's own disk before anybody waits for what they will say.
fn blank_names() -> io::Result<()> {
    fs::create_dir_all("/etc").during("/etc")?;
    [HOSTNAME, HOSTS, MACHINE_ID, RESOLVER].into_iter().try_for_each(|path| replace(path, "\n"))
}

/// Host name and resolver, as plain files.
pub fn etc(start: &Beginning) -> io::Result<()> {
    fs::create_dir_all("/etc").during("/etc")?;
    let host = &start.hostname;
    let own = start.network.as_ref().map(|it| format!("{}\t{host}\n", it.address)).unwrap_or_default();
    replace(HOSTNAME, &format!("{host}\n"))?;
    replace(HOSTS, &format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}"))?;
    replace(MACHINE_ID, &format!("{}\n", start.machine_id))?;
    match &start.network {
        Some(network) => replace(RESOLVER, &format!("nameserver {}\n", network.gateway)),
        None => Ok(()),
    }
}

/// Writes a file in place of whatever the image has there: a link, for one, is not followed.
fn replace(path: &str, text: &str) -> io::Result<()> {
    let open = || {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).custom_flags(flags).open(path)
    };
    let opened = match open() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => {
            fs::remove_file(path).during(path)?;
            open()
        }
        result => result,
    };
    let write = |mut file: fs::File| {
        io::Write::write_all(&mut file, text.as_bytes())?;
        // Not emptied first: the kernel would take care to write such a file to the disk at once.
        if file.metadata()?.len() == text.len() as u64 { Ok(()) } else { file.set_len(text.len() as u64) }
    };
    opened.and_then(write).during(path)
}
