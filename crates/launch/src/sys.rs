//! System calls that neither std nor rustix offer in the form we need. The only raw calls of the launcher.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::mount::{MountAttrFlags, OpenTreeFlags};
use seccompiler::sock_filter;

/// libc's constant of this name is too narrow for its value.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn to_fd(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = libc::c_int::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just handed out this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Who `clone` returned to.
pub enum Cloned {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// clone3(2) with a copy of the address space (a fork).
///
/// # Safety
/// The calling process must have one thread only: the child gets no other, and any lock that another held stays held.
pub unsafe fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    let cgroup_flag = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let mut args = libc::clone_args {
        flags: flags | libc::CLONE_PIDFD as u64 | cgroup_flag,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: args is valid and as large as we say; without CLONE_VM and a stack this behaves as fork does, and the
    // caller promises that there is one thread.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match check(result)? {
        0 => Ok(Cloned::Child),
        pid => {
            let pid = i32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
            Ok(Cloned::Parent { pid, pidfd: to_fd(pidfd.into())? })
        }
    }
}

/// mount_setattr(2) on the mount that `mount` stands for.
pub fn mount_setattr(mount: BorrowedFd<'_>, set: MountAttrFlags, idmap: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let idmap_flag = if idmap.is_some() { MountAttrFlags::MOUNT_ATTR_IDMAP.bits() } else { 0 };
    let attr = MountAttr {
        attr_set: u64::from(set.bits() | idmap_flag),
        attr_clr: 0,
        propagation: 0,
        userns_fd: idmap.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: the empty path is a valid C string, attr is valid and as large as we say, and the kernel only reads.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    check(result).map(drop)
}

/// A private copy of the mount at `path`, attached nowhere.
pub fn detached_copy<P: rustix::path::Arg>(dir: BorrowedFd<'_>, path: P) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(rustix::mount::open_tree(dir, path, flags)?)
}

/// Puts a seccomp filter on this thread without no_new_privs, which needs CAP_SYS_ADMIN in the user namespace.
pub fn install_filter(program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let prog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: prog points to `len` instructions of the layout that the kernel defines; the kernel copies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_u64, &raw const prog) };
    check(result).map(drop)
}

/// Closes every descriptor from `first` on.
///
/// # Safety
/// Nothing in this process may use an object that owns one of these descriptors any more, but to forget it.
pub unsafe fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the call itself touches no memory; the caller answers for the descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0_u32) }).map(drop)
}

/// Gives the process an empty session keyring of its own.
pub fn new_session_keyring() -> io::Result<()> {
    // SAFETY: a null name asks for an anonymous keyring; no memory is read.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    check(result).map(drop)
}

/// Default action for every signal, none blocked: what was ignored would stay ignored after exec.
pub fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL installs no handler. SIGKILL and SIGSTOP are refused, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero sigset is the empty set; it is initialised by sigemptyset before use and outlives the call.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// As Rust's own start of a program has it: a write to nobody is an error, not the end.
pub fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Lets the kernel reap children by itself.
pub fn ignore_children() {
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Ends the process at once: no destructors, no handlers. For a child that shares its parent's memory image.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit may be called in any state.
    unsafe { libc::_exit(code) }
}

/// Puts a copy of a descriptor at a number, open across exec.
///
/// # Safety
/// Nothing in this process may use an object that owns descriptor `number` any more, but to forget it.
pub unsafe fn place(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: the call touches no memory; the caller answers for what was open at `number`.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into()).map(drop)
}

/// Sets an interface up; its other flags are those that a new one has.
pub fn set_interface_up(socket: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: all-zero is a valid value of this plain structure of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes().iter().take(room)) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request carries a name that ends within its room, and the kernel only reads it.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }.into()).map(drop)
}

/// Bytes of a huge page on the machines that Atoll runs on.
pub const HUGE_PAGE: usize = 2 << 20;

/// Puts a file in memory into huge pages (MADV_COLLAPSE of madvise(2), since Linux 6.1). `bytes` is a multiple of
/// [`HUGE_PAGE`], and the file as long at least.
pub fn collapse(file: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let failed = |address: *mut libc::c_void| address == libc::MAP_FAILED;
    let reserved = bytes + HUGE_PAGE;
    // SAFETY: a new mapping of nothing, at an address that the kernel chooses; unmapped below, and nothing of it is
    // ever read or written. The second mapping lies inside of the first.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let place = libc::mmap(std::ptr::null_mut(), reserved, libc::PROT_NONE, flags, -1, 0);
        if failed(place) {
            return Err(io::Error::last_os_error());
        }
        let aligned = place.byte_add(place.addr().next_multiple_of(HUGE_PAGE) - place.addr());
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let mapped = libc::mmap(aligned, bytes, libc::PROT_READ, flags, file.as_raw_fd(), 0);
        let result = if failed(mapped) { -1 } else { libc::madvise(mapped, bytes, libc::MADV_COLLAPSE) };
        let result = check(result.into()).map(drop);
        libc::munmap(place, reserved);
        result
    }
}
