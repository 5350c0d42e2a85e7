//! Lends a program a file for the memory that it asks the kernel for.
//!
//! A program that makes its memory by memfd_create(2) gets, in place of a new file, one that we hold open for reading:
//! it maps that privately, so that any number of programs begin with the same pages and write to none of them. It can't
//! know, so two calls for that very descriptor say that they were done and do nothing: ftruncate(2) to the size that it
//! has, and fallocate(2), which would punch holes.
//!
//! The program's process asks for a [`filter`] that reports the first call to who holds the listener (seccomp's user
//! notification, since Linux 5.0; descriptors are given through it since 5.14). That [`lend`]s once and lets go: every
//! later call for a memfd is refused by the kernel, as if it had none.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, openat};
use seccompiler::sock_filter;

/// The descriptor by which the program knows the file.
pub const NUMBER: i32 = 900;

/// Of a name that a program gives to a memfd, as much is looked at.
const NAME_BYTES: usize = 64;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// The fields of `struct seccomp_data`; of an argument its lower half, which is all that a descriptor has.
const CALL: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

fn program() -> [sock_filter; 11] {
    let step = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    [
        step(LOAD, ARCHITECTURE, 0, 0),
        step(IF_EQUAL, NATIVE, 0, 7),
        step(LOAD, CALL, 0, 0),
        step(IF_EQUAL, libc::SYS_memfd_create as u32, 6, 0),
        step(IF_EQUAL, libc::SYS_ftruncate as u32, 1, 0),
        step(IF_EQUAL, libc::SYS_fallocate as u32, 0, 3),
        step(LOAD, FIRST_ARGUMENT, 0, 0),
        step(IF_EQUAL, NUMBER as u32, 0, 1),
        // No error: it is said to be done.
        step(RETURN, libc::SECCOMP_RET_ERRNO, 0, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
        step(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0),
    ]
}

/// Has this thread, and what it executes, ask whoever holds the returned listener. Needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// The kernel's; `EBUSY` when another supervisor of this machine listens to this process already.
pub fn filter() -> io::Result<OwnedFd> {
    let program = program();
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let prog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: prog points to `len` instructions of the layout that the kernel defines; the kernel copies them.
    let listener = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const prog) };
    match i32::try_from(listener) {
        // SAFETY: the kernel has just handed out this descriptor, and nobody else knows of it.
        Ok(number) if number >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(number) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until the program makes the memfd called `name`, and gives it `file` as its descriptor [`NUMBER`]. Other
/// memfds are its own. `proc` is a directory of processes.
///
/// # Errors
/// `TimedOut` when it does not ask; `BrokenPipe` when it has ended; the kernel's.
pub fn lend(
    listener: BorrowedFd<'_>,
    proc: BorrowedFd<'_>,
    name: &str,
    file: BorrowedFd<'_>,
    patience: Duration,
) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        wait(listener, deadline)?;
        // SAFETY: all-zero is a valid value of this plain structure of numbers, and what the kernel wants of it.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        let answered = request(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &mut asked)
            .and_then(|()| answer(listener, proc, name, file, &asked));
        match answered {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // It does not wait any more: a signal came, and it asks again behind that, or it was killed, which the next look
            // at the listener tells.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether that was the one.
fn answer(
    listener: BorrowedFd<'_>,
    proc: BorrowedFd<'_>,
    name: &str,
    file: BorrowedFd<'_>,
    asked: &libc::seccomp_notif,
) -> io::Result<bool> {
    if called(proc, asked.pid, asked.data.args[0])? == name.as_bytes() {
        // Sent as the call's own result, in one.
        let flags = (libc::SECCOMP_ADDFD_FLAG_SETFD | libc::SECCOMP_ADDFD_FLAG_SEND) as u32;
        let mut given = libc::seccomp_notif_addfd {
            id: asked.id,
            flags,
            srcfd: file.as_raw_fd() as u32,
            newfd: NUMBER as u32,
            newfd_flags: libc::O_CLOEXEC as u32,
        };
        return request(listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, &mut given).map(|()| true);
    }
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    let mut go_on = libc::seccomp_notif_resp { id: asked.id, val: 0, error: 0, flags };
    request(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &mut go_on).map(|()| false)
}

fn wait(listener: BorrowedFd<'_>, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = rustix::event::Timespec::try_from(left).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut waiting = [PollFd::from_borrowed_fd(listener, PollFlags::IN)];
    match poll(&mut waiting, Some(&timeout)) {
        Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(0) => Err(io::Error::new(io::ErrorKind::TimedOut, "the program does not ask for its memory")),
        Ok(_) if waiting[0].revents().contains(PollFlags::IN) => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the program has ended")),
    }
}

/// The text at an address of a process that waits for us, up to its end.
fn called(proc: BorrowedFd<'_>, pid: u32, address: u64) -> io::Result<Vec<u8>> {
    let memory = openat(proc, format!("{pid}/mem"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut name = vec![0; NAME_BYTES];
    // It may lie at the end of what can be read.
    let read = std::fs::File::from(memory).read_at(&mut name, address)?;
    let end = name[..read].iter().position(|byte| *byte == 0).unwrap_or(read);
    name.truncate(end);
    Ok(name)
}

fn request<T>(listener: BorrowedFd<'_>, number: libc::Ioctl, value: &mut T) -> io::Result<()> {
    // SAFETY: each number is used with the structure that the kernel defines for it (the number has its size), which
    // is valid, and ours alone, for as long as the call takes.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), number, std::ptr::from_mut(value)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use super::*;

    extern "C" fn ignore(_: libc::c_int) {}

    /// Signals come between the question and its answer: then it asks again.
    #[test]
    fn who_is_interrupted_while_it_asks_gets_its_memory_all_the_same() {
        // SAFETY: all-zero is a valid value of it, and the handler does nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_RESTART;
            assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
        }
        let proc = openat(rustix::fs::CWD, "/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        for _ in 0..50 {
            let (tell, told) = mpsc::channel();
            let asking = std::thread::spawn(move || {
                // SAFETY: it takes nothing. The filter is this thread's alone.
                let thread = unsafe { libc::gettid() };
                tell.send((thread, filter().unwrap())).unwrap();
                // SAFETY: the name ends with a zero.
                unsafe { libc::memfd_create(c"lent".as_ptr(), 0) }
            });
            let (thread, listener) = told.recv().unwrap();
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::Acquire) {
                        // SAFETY: it takes numbers; the thread is there until it is joined below.
                        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR1) };
                        std::thread::sleep(Duration::from_micros(20));
                    }
                });
                let lent = lend(listener.as_fd(), proc.as_fd(), "lent", file.as_fd(), Duration::from_secs(20));
                over.store(true, Ordering::Release);
                lent.unwrap();
            });
            assert_eq!(asking.join().unwrap(), NUMBER);
        }
    }
}
