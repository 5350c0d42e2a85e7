//! Where QEMU runs: as nobody's user, in the sandbox's cgroups, in namespaces of its own with hardly a file in them.
//!
//! A fork of a threaded process may hardly do anything, so the agent executes itself once more as `atoll vm-jail`
//! ([`jail_main`]), which takes a [`Plan`] with its descriptors from its standard input, prepares everything, forks QEMU
//! into a pid namespace, tells its number, and ends. QEMU is then nobody's child: it lives on whatever becomes of the
//! agent. What it sees: the system's libraries, read-only; its kernel; three device nodes; no /proc, no network.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::process::{Gid, Resource, Rlimit, Uid, chdir, fchdir, pivot_root, setrlimit, setsid};
use rustix::thread::{UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid, unshare_unsafe};
use serde::{Deserialize, Serialize};

use super::memory;
use super::qemu::FIRST;
use crate::aside;
use atoll_launch::sys::{self, Cloned};
use atoll_launch::{lend, wire};

/// The word that makes an `atoll` this.
pub const ARGUMENT: &str = "vm-jail";

/// Descriptors, in this order: the v2 cgroup if `unified`, one `tasks` file per v1 hierarchy, the file for what the
/// program says, the file that it is lent as its memory if it is, then those that it inherits from number [`FIRST`] on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub unified: bool,
    pub tasks: usize,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// User and group on the host: the first of the sandbox's ids.
    pub id: u32,
    /// Files of this machine, and where they are seen inside.
    pub files: Vec<(PathBuf, String)>,
    pub kvm: bool,
    pub max_open_files: u64,
    /// Lend QEMU the descriptor that follows the log's as its memory.
    pub lend: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// With the pidfd.
    Started {
        pid: i32,
    },
    Failed {
        what: String,
        errno: i32,
    },
}

/// Until QEMU asks for its memory, which it does first.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the system's programs and libraries are made of; links among them stay links.
const SYSTEM: [&str; 6] = ["usr", "lib", "lib64", "lib32", "etc/ld.so.cache", "etc/qemu"];

struct Problem(String, io::Error);

trait During<T> {
    fn during(self, what: &str) -> Result<T, Problem>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, what: &str) -> Result<T, Problem> {
        self.map_err(|error| Problem(what.to_owned(), error.into()))
    }
}

/// Starts it; answers when QEMU has begun and has its memory. The agent's side; blocks for some milliseconds.
pub(super) fn start(jail: &Path, plan: &Plan, fds: &[BorrowedFd<'_>]) -> io::Result<(i32, OwnedFd)> {
    let (mut child, ours) = aside::start(jail, &[ARGUMENT.as_ref()])?;
    let talk = || -> io::Result<(i32, OwnedFd)> {
        wire::send(ours.as_fd(), plan, fds)?;
        let mut started = None;
        loop {
            match wire::receive::<Report>(ours.as_fd())? {
                Some((Report::Started { pid }, mut fds)) => started = fds.pop().map(|pidfd| (pid, pidfd)),
                Some((Report::Failed { what, errno }, _)) => {
                    let error = io::Error::from_raw_os_error(errno);
                    return Err(io::Error::new(error.kind(), format!("{what}: {error}")));
                }
                // Exec has closed the last copy of the other end.
                None => return started.ok_or_else(|| io::Error::other("the jail ended without a word")),
            }
        }
    };
    let result = talk();
    if result.is_err() {
        let _ended_already = child.kill();
    }
    let _reaped = child.wait();
    result
}

/// What `atoll vm-jail` does. Must be called first thing in `main`, while the process has one thread.
pub fn jail_main() -> ! {
    let code = match take_socket() {
        Ok(socket) => match build(&socket) {
            Ok(()) => 0,
            Err(Problem(what, error)) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                let what = if error.raw_os_error().is_some() { what } else { format!("{what}: {error}") };
                let _agent_gone = wire::send(socket.as_fd(), &Report::Failed { what, errno }, &[]);
                1
            }
        },
        Err(_) => 1,
    };
    sys::exit_now(code)
}

/// Standard input, moved out of the way of what QEMU inherits.
fn take_socket() -> io::Result<OwnedFd> {
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?;
    let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: std's standard input is a handle without an owner; it may mean another file.
    unsafe { sys::place(null.as_fd(), 0)? };
    Ok(socket)
}

fn build(socket: &OwnedFd) -> Result<(), Problem> {
    let received = wire::receive::<Plan>(socket.as_fd()).during("reading the plan")?;
    let missing = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (plan, fds) = received.ok_or_else(missing).during("reading the plan")?;
    let mut fds = fds.into_iter();
    if plan.unified {
        let group = fds.next().ok_or_else(missing).during("the cgroup")?;
        let procs = openat(&group, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        rustix::io::write(procs.during("opening cgroup.procs")?, b"0").during("entering the cgroup")?;
    }
    for tasks in fds.by_ref().take(plan.tasks) {
        rustix::io::write(&tasks, b"0").during("entering a cgroup")?;
    }
    let log = fds.next().ok_or_else(missing).during("the log")?;
    let memory = match plan.lend {
        true => Some((fds.next().ok_or_else(missing).during("the memory")?, wire::pair().during("a pair of sockets")?)),
        false => None,
    };
    let proc = memory::proc().during("opening /proc")?;
    let _leader = setsid();
    sys::reset_signals();
    sys::new_session_keyring().during("a session keyring")?;
    let namespaces = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWCGROUP;
    // SAFETY: without CLONE_FILES the table of descriptors stays as it is.
    unsafe { unshare_unsafe(namespaces) }.during("making namespaces")?;
    make_root(&plan)?;
    let files = Rlimit { current: Some(plan.max_open_files), maximum: Some(plan.max_open_files) };
    setrlimit(Resource::Nofile, files).during("the limit of open files")?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).during("the limit of core files")?;
    // SAFETY: this process has one thread.
    match unsafe { sys::clone3(0, None) }.during("forking")? {
        Cloned::Parent { pid, pidfd } => {
            wire::send(socket.as_fd(), &Report::Started { pid }, &[pidfd.as_fd()]).during("telling the agent")?;
            if let Some((memory, (ours, theirs))) = memory {
                drop(theirs);
                let received = wire::receive::<()>(ours.as_fd()).during("waiting for QEMU")?;
                // Without one it has told itself why.
                let Some(listener) = received.and_then(|((), mut fds)| fds.pop()) else { return Ok(()) };
                let (name, file) = (memory::NAME, memory.as_fd());
                let lent = lend::lend(listener.as_fd(), proc.as_fd(), name, file, PATIENCE);
                lent.during("lending it its memory")?;
            }
            Ok(())
        }
        Cloned::Child => {
            // It has no business there.
            drop(proc);
            // By its number alone it will know the memory.
            let ask = memory.map(|(memory, (ours, theirs))| {
                drop((memory, ours));
                theirs
            });
            become_qemu(&plan, socket, ask, log, fds.collect())
        }
    }
}

/// Comes back only when it fails.
fn become_qemu(
    plan: &Plan,
    socket: &OwnedFd,
    ask: Option<OwnedFd>,
    log: OwnedFd,
    inherited: Vec<OwnedFd>,
) -> Result<(), Problem> {
    if let Some(ask) = ask {
        let listener = lend::filter().during("asking for its memory")?;
        wire::send(ask.as_fd(), &(), &[listener.as_fd()]).during("asking for its memory")?;
    }
    // Above every number that is given out below.
    let lift = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 200);
    let status = lift(socket.as_fd()).during("placing descriptors")?;
    let log = lift(log.as_fd()).during("placing descriptors")?;
    let lifted: Result<Vec<_>, _> = inherited.iter().map(|fd| lift(fd.as_fd())).collect();
    let lifted = lifted.during("placing descriptors")?;
    // Their numbers are given to others now; nobody uses or closes them by their old owners any more.
    inherited.into_iter().for_each(std::mem::forget);
    let numbered = (FIRST..).zip(&lifted).filter_map(|(number, fd)| Some((i32::try_from(number).ok()?, fd)));
    for (number, fd) in [(1, &log), (2, &log)].into_iter().chain(numbered) {
        // SAFETY: what was open at these numbers is the old socket, which this process never closes or uses again (it
        // ends by exec or exit), and descriptors whose owners were forgotten above.
        unsafe { sys::place(fd.as_fd(), number) }.during("placing descriptors")?;
    }
    set_thread_groups(&[]).during("dropping groups")?;
    let (uid, gid) = (Uid::from_raw(plan.id), Gid::from_raw(plan.id));
    set_thread_res_gid(gid, gid, gid).during("taking the group")?;
    set_thread_res_uid(uid, uid, uid).during("taking the user")?;
    let error = Command::new(&plan.program).args(&plan.arguments).env_clear().exec();
    let what = format!("executing {}", plan.program.display());
    let report = Report::Failed { what, errno: error.raw_os_error().unwrap_or(libc::EIO) };
    let _agent_gone = wire::send(status.as_fd(), &report, &[]);
    sys::exit_now(1)
}

fn make_root(plan: &Plan) -> Result<(), Problem> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).during("making mounts private")?;
    let root = new_root().during("making an empty root")?;
    let mut sources = Vec::new();
    for name in SYSTEM {
        let path = Path::new("/").join(name);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() => {
                let target = fs::read_link(&path).during(name)?;
                sources.push((Source::Link(target), name.to_owned(), false));
            }
            Ok(meta) => sources.push((Source::Mount(read_only(&path).during(name)?), name.to_owned(), meta.is_dir())),
            Err(_) => {}
        }
    }
    for (path, inside) in &plan.files {
        let mount = read_only(path).during(&path.display().to_string())?;
        sources.push((Source::Mount(mount), inside.trim_start_matches('/').to_owned(), false));
    }
    // Any directory will do as the place to pivot from.
    let place = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root.as_fd(), "", CWD, "/proc", place).during("attaching the root")?;
    fchdir(&root).during("entering the root")?;
    for (source, name, is_directory) in sources {
        if let Some(parent) = Path::new(&name).parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).during(&name)?;
        }
        match source {
            Source::Link(target) => symlink(target, &name).during(&name)?,
            Source::Mount(mount) => {
                if is_directory {
                    fs::DirBuilder::new().mode(0o755).create(&name).during(&name)?;
                } else {
                    File::create(&name).during(&name)?;
                }
                move_mount(mount.as_fd(), "", CWD, &*name, place).during(&name)?;
            }
        }
    }
    devices(plan.kvm)?;
    pivot_root(".", ".").during("pivot_root")?;
    unmount(".", UnmountFlags::DETACH).during("unmounting the old root")?;
    chdir("/").during("entering the new root")?;
    let closed = openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during("opening the root")?;
    sys::mount_setattr(closed.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, None).during("closing the root")
}

enum Source {
    Link(PathBuf),
    Mount(OwnedFd),
}

fn new_root() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("size", "64k"), ("nr_inodes", "64"), ("mode", "0755")] {
        fsconfig_set_string(context.as_fd(), key, value)?;
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID)?)
}

/// A private copy of what is at `path`, to be read only.
fn read_only(path: &Path) -> io::Result<OwnedFd> {
    let copy = sys::detached_copy(CWD, path)?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    sys::mount_setattr(copy.as_fd(), attributes, None)?;
    Ok(copy)
}

fn devices(kvm: bool) -> Result<(), Problem> {
    fs::DirBuilder::new().mode(0o755).create("dev").during("making dev")?;
    let kvm = kvm.then_some(("kvm", 10, 232));
    for (name, major, minor) in [("null", 1, 3), ("urandom", 1, 9)].into_iter().chain(kvm) {
        let path = format!("dev/{name}");
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device).during(&path)?;
        // mknod's mode went through this process's umask.
        rustix::fs::chmodat(CWD, &path, Mode::from_raw_mode(0o666), rustix::fs::AtFlags::empty()).during(&path)?;
    }
    Ok(())
}
