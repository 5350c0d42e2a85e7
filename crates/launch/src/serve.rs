//! The zygote's own life: an almost empty root, then one clone per request until the agent is gone.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::process::{Gid, Signal, Uid, chdir, fchdir, pidfd_send_signal, pivot_root, setsid};
use rustix::thread::{
    CapabilitiesSecureBits, CpuSet, UnshareFlags, sched_getaffinity, sched_setaffinity, set_capabilities_secure_bits,
    set_name, set_thread_groups, set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
};
use seccompiler::BpfProgram;

use super::IDS_PER_SANDBOX;
use super::child;
use super::confine;
use super::mounts::{self, Masks};
use super::sys::{self, Cloned};
use super::wire::{self, CloneRequest, Failure, Report, Stage};

/// Made once, inherited by every child.
pub(super) struct Prepared {
    pub filter: BpfProgram,
    pub masks: Masks,
    /// Capabilities that the kernel knows and a sandbox does not get.
    pub dropped: Vec<u32>,
    /// The processors that the zygote was started on.
    cpus: CpuSet,
}

/// The namespaces of a sandbox. Its cgroup namespace comes later, once it is in its cgroups.
const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET;

/// What a child becomes: it never comes back.
pub type Guest = fn() -> Infallible;

/// The request socket's number in the zygote; it arrives as standard input.
const REQUESTS: i32 = 3;

/// Serves launches until the agent's end of the socket on standard input closes. Must be called first thing in `main`,
/// while the process has one thread. `guest` is what a child goes on with, as PID 1 of its sandbox: descriptors 3 to 6
/// are the listener, the configuration, the pipe that says ready and the directory behind the bound files.
pub fn zygote_main(guest: Guest) -> ! {
    let code = match set_up() {
        Ok((requests, prepared)) => serve(requests.as_fd(), &prepared, guest),
        Err(error) => {
            eprintln!("atoll zygote: {error}");
            1
        }
    };
    sys::exit_now(code)
}

fn named<T, E: Into<io::Error>>(what: &str, result: Result<T, E>) -> io::Result<T> {
    result.map_err(|error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("{what}: {error}"))
    })
}

fn set_up() -> io::Result<(OwnedFd, Prepared)> {
    let requests = take_requests()?;
    let _already_leader = setsid();
    let _only_for_people = set_name(c"atoll-zygote");
    sys::ignore_children();
    named("setting groups", set_thread_groups(&[]))?;
    // The zygote takes a sandbox's first id for each clone, and must keep its capabilities while it is somebody else.
    named("setting securebits", set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP))?;
    named("making an empty root", make_root())?;
    let filter = seccomp_filter()?;
    let prepared = Prepared {
        filter,
        masks: Masks::of_this_kernel(),
        dropped: confine::to_drop(),
        cpus: sched_getaffinity(None)?,
    };
    Ok((requests, prepared))
}

fn seccomp_filter() -> io::Result<BpfProgram> {
    super::seccomp::compile().map_err(|error| io::Error::other(format!("compiling the seccomp profile: {error}")))
}

/// Moves the socket from standard input to its number, closes everything else that was inherited.
fn take_requests() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    // SAFETY: this is the first thing that the process does, so no object owns descriptors above the standard three.
    unsafe {
        named("taking the request socket", sys::place(stdin.as_fd(), REQUESTS))?;
        named("closing inherited descriptors", sys::close_from(REQUESTS as u32 + 1))?;
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = named("opening /dev/null", rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty()))?;
    for number in [0, 1] {
        // SAFETY: std's own standard input and output are handles without an owner; they may mean another file.
        named("closing a standard stream", unsafe { sys::place(null.as_fd(), number) })?;
    }
    // SAFETY: descriptor 3 was placed above and belongs to nobody else.
    let requests = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(REQUESTS) };
    rustix::io::fcntl_setfd(&requests, rustix::io::FdFlags::CLOEXEC)?;
    Ok(requests)
}

/// A new mount namespace whose root is a tiny tmpfs with a proc, a sysfs and places to mount on. A child may mount a
/// proc and a sysfs of its own only where the kernel sees fully visible ones.
fn make_root() -> io::Result<()> {
    // SAFETY: without CLONE_FILES the table of descriptors stays as it is.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS)? };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let hidden = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("size", "64k"), ("nr_inodes", "64"), ("mode", "0755")] {
        fsconfig_set_string(context.as_fd(), key, value)?;
    }
    fsconfig_create(context.as_fd())?;
    let root = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, hidden)?;
    // Any directory will do as the place to pivot from; this one is always there, and private to this namespace.
    move_mount(root.as_fd(), "", CWD, "/proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    for name in mounts::ROOT_DIRS {
        rustix::fs::mkdirat(&root, *name, Mode::from_raw_mode(0o755))?;
    }
    for layer in 0..mounts::MAX_LOWERS {
        rustix::fs::mkdirat(&root, mounts::lower_dir(layer).trim_start_matches('/'), Mode::from_raw_mode(0o755))?;
    }
    for (kind, name) in [("proc", "proc"), ("sysfs", "sys")] {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(context.as_fd())?;
        let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        move_mount(mount.as_fd(), "", root.as_fd(), name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    fchdir(&root)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    Ok(())
}

fn serve(requests: BorrowedFd<'_>, prepared: &Prepared, guest: Guest) -> i32 {
    loop {
        let (request, mut fds) = match wire::receive::<CloneRequest>(requests) {
            Ok(Some(received)) => received,
            Ok(None) => return 0,
            Err(error) => {
                eprintln!("atoll zygote: reading a request: {error}");
                return 1;
            }
        };
        if fds.is_empty() {
            continue;
        }
        // The agent has closed its own processor to us, until here.
        let _as_good_as_it_gets = sched_setaffinity(None, &prepared.cpus);
        let status = fds.remove(0);
        let cgroup = if request.into_cgroup { fds.pop() } else { None };
        match launch(&request, cgroup, &status, prepared, guest) {
            Ok((pid, pidfd)) => {
                // If the agent has gone away it does not want the child either, and the child will notice.
                let _gone = wire::send(status.as_fd(), &Report::Cloned { pid }, &[pidfd.as_fd()]);
            }
            Err(failure) => {
                let _gone = wire::send(status.as_fd(), &Report::Failed(failure), &[]);
            }
        }
    }
}

/// Clones one child and writes its id maps; the child never returns from here.
fn launch(
    request: &CloneRequest,
    cgroup: Option<OwnedFd>,
    status: &OwnedFd,
    prepared: &Prepared,
    guest: Guest,
) -> Result<(i32, OwnedFd), Failure> {
    let failed = |stage: Stage, what: &str, error: io::Error| Failure::new(stage, what, &error);
    // The creator owns the new user namespace, and what the kernel counts per user across namespaces (inotify, pending
    // signals, locked memory, message queues) is counted for the owner: an owner per sandbox keeps them apart.
    become_id(request.id_base).map_err(|error| failed(Stage::Clone, "taking the sandbox's id", error))?;
    // SAFETY: the zygote has one thread.
    let cloned = unsafe { sys::clone3(NAMESPACES as u32 as u64, cgroup.as_ref().map(AsFd::as_fd)) };
    if matches!(cloned, Ok(Cloned::Child)) {
        drop(cgroup);
        child::run(status.as_fd(), prepared, guest);
    }
    let restored = become_id(0);
    let (pid, pidfd) = match cloned {
        Ok(Cloned::Parent { pid, pidfd }) => (pid, pidfd),
        Ok(Cloned::Child) => sys::exit_now(1),
        Err(error) => return Err(failed(Stage::Clone, "clone3 with all namespaces", error)),
    };
    let mapped = restored.and_then(|()| write_maps(pid, request.id_base));
    if let Err(error) = mapped {
        let _gone = pidfd_send_signal(&pidfd, Signal::KILL);
        return Err(failed(Stage::IdMaps, "writing the id maps", error));
    }
    Ok((pid, pidfd))
}

fn become_id(id: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

fn write_maps(pid: i32, id_base: u32) -> io::Result<()> {
    let map = format!("0 {id_base} {IDS_PER_SANDBOX}\n");
    for name in ["uid_map", "gid_map"] {
        fs::write(Path::new("/proc").join(pid.to_string()).join(name), &map)?;
    }
    Ok(())
}
