//! The system calls between a request to start a program and its first instruction. All `unsafe` of starting is here.
//!
//! A child is made by `clone(CLONE_VM | CLONE_VFORK)`: it runs in the guest's own address space, on a stack of its own,
//! while the calling thread stands still until the child has become the program or has given up. Nothing is copied, so
//! it takes the same short time whatever the guest's size, and a failure is handed back through plain memory.
//!
//! The rules that make this sound:
//! - Everything the child needs (C strings, pointer arrays, group lists) is made before, and outlives the call.
//! - The child calls no allocator, takes no lock, and changes no memory of the guest but the failure record.
//! - All signals are blocked before, so that no handler of the guest ever runs in the child; the child sets the ones
//!   that the guest handles or ignores to their default, and clears its mask as the last thing before exec.
//! - Ids are set by raw system calls: the C library's wrappers would try to change all threads of the guest.
//! - Descriptors and signal dispositions are copied, not shared (no CLONE_FILES, no CLONE_SIGHAND).
//! - The memory is nobody's to look into (`spawn::prepare_guest`): while the child has a user's ids and the guest's memory,
//!   that alone keeps the user's other programs out of it.

use std::ffi::{CString, c_char, c_int, c_void};
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::Mutex;

use crate::spawn::Stage;

/// A program ready to be started: nothing is left to allocate.
pub struct Prepared {
    /// Where the program may be, tried in this order.
    pub candidates: Vec<CString>,
    pub argv: Vec<CString>,
    pub envp: Vec<CString>,
    pub cwd: CString,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// The guest's own, which is another's while a child is made, for the child to inherit; none leaves it as it is.
    pub score: Option<&'static Score>,
    /// Soft and hard limit on descriptors.
    pub open_files: Option<(u64, u64)>,
    /// Descriptor 0 is a terminal that the program shall control.
    pub controls_terminal: bool,
}

/// Where starting ended, and the kernel's reason.
pub struct Failure {
    pub stage: Stage,
    pub errno: i32,
}

/// What the child reads, in its parent's memory.
struct Plan {
    stdio: [RawFd; 3],
    candidates: Vec<*const c_char>,
    argv: Vec<*const c_char>,
    /// `/bin/sh`, the script, the arguments: used when the kernel doesn't know the file's format.
    shell_argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    cwd: *const c_char,
    uid: u32,
    gid: u32,
    groups: *const u32,
    group_count: usize,
    open_files: Option<libc::rlimit>,
    controls_terminal: bool,
    failure: Option<Failure>,
}

/// How willingly the kernel ends this process when memory is short, and its programs.
pub struct Score {
    /// `/proc/self/oom_score_adj`, opened while this process was still allowed to.
    file: File,
    own: String,
    programs: String,
}

impl Score {
    /// Programs are ended by so much more willingly. None where that can't be read or set.
    pub fn raised_by(more: i32) -> Option<Self> {
        let mut file = File::options().read(true).write(true).open("/proc/self/oom_score_adj").ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        let own: i32 = text.trim().parse().ok()?;
        Some(Self { file, own: own.to_string(), programs: (own + more).min(1000).to_string() })
    }
}

/// The guest has its programs' score for as long as this lives.
struct Raised(Option<&'static Score>);

impl Raised {
    fn of(score: Option<&'static Score>) -> Self {
        // Not being allowed to is no reason not to start.
        Self(score.filter(|score| score.file.write_at(score.programs.as_bytes(), 0).is_ok()))
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        if let Some(score) = self.0 {
            let _as_good_as_it_gets = score.file.write_at(score.own.as_bytes(), 0);
        }
    }
}

/// The kernel's own form of a signal's disposition, on 64-bit machines.
#[repr(C)]
#[derive(Default)]
struct KernelAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// Sets every signal that was inherited as ignored to its default, since programs would inherit that in turn. SIGPIPE
/// stays ignored, for the guest's own writes; children set it to its default.
pub fn reset_ignored_signals() {
    const LAST_SIGNAL: c_int = 64;
    // The kernel is asked directly: the C library won't speak of the two signals that it keeps for itself.
    for signal in (1..=LAST_SIGNAL).filter(|signal| *signal != libc::SIGPIPE) {
        let mut now = KernelAction::default();
        let size = std::mem::size_of::<u64>();
        // SAFETY: reads a disposition into a struct of the kernel's layout.
        let read =
            unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, ptr::null::<KernelAction>(), &raw mut now, size) };
        if read == 0 && now.handler == libc::SIG_IGN {
            let default = KernelAction { handler: libc::SIG_DFL, ..KernelAction::default() };
            // SAFETY: the default disposition runs none of our code.
            unsafe {
                libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, ptr::null_mut::<KernelAction>(), size)
            };
        }
    }
}

const STACK_BYTES: usize = 128 * 1024;

/// The children's stack. One at a time can use it, which the lock sees to; untouched pages cost nothing.
struct Stack(*mut c_void);

// SAFETY: the pointer is to a private anonymous mapping that is never unmapped; the mutex around it gives one user at a time.
unsafe impl Send for Stack {}

static STACK: Mutex<Option<Stack>> = Mutex::new(None);

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain(std::iter::once(ptr::null())).collect()
}

/// Starts the program with `stdio` as its first three descriptors and returns its pid.
pub fn launch(prepared: &Prepared, stdio: [BorrowedFd<'_>; 3]) -> Result<u32, Failure> {
    use std::os::fd::AsRawFd;

    let argv = pointers(&prepared.argv);
    let shell = c"/bin/sh";
    let mut shell_argv = vec![shell.as_ptr(), ptr::null()];
    shell_argv.extend(argv.iter().skip(1));
    let mut plan = Plan {
        stdio: stdio.map(|fd| fd.as_raw_fd()),
        candidates: pointers(&prepared.candidates),
        argv,
        shell_argv,
        envp: pointers(&prepared.envp),
        cwd: prepared.cwd.as_ptr(),
        uid: prepared.uid,
        gid: prepared.gid,
        groups: prepared.groups.as_ptr(),
        group_count: prepared.groups.len(),
        open_files: prepared.open_files.map(|(soft, hard)| libc::rlimit { rlim_cur: soft, rlim_max: hard }),
        controls_terminal: prepared.controls_terminal,
        failure: None,
    };

    let mut stack = STACK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if stack.is_none() {
        *stack = Some(map_stack().map_err(|error| failure(Stage::Clone, &error))?);
    }
    let raised = Raised::of(prepared.score);
    let Some(Stack(base)) = *stack else { return Err(Failure { stage: Stage::Clone, errno: libc::ENOMEM }) };

    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are valid for writes; sigfillset initialises the first before it is read.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    // SAFETY: the stack is ours (the lock is held) and grows down from its end. `plan` and all it points to outlive the
    // call, since CLONE_VFORK holds this thread until the child has executed or ended. The child keeps to the rules above.
    let pid = unsafe {
        libc::clone(
            child,
            base.byte_add(STACK_BYTES),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut plan).cast::<c_void>(),
        )
    };
    let clone_error = io::Error::last_os_error();
    // SAFETY: `before` was initialised by the first call.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    drop(raised);
    drop(stack);

    if pid < 0 {
        return Err(failure(Stage::Clone, &clone_error));
    }
    // SAFETY: plan is a live local; read as volatile since another process wrote it behind the compiler's back.
    let failed = unsafe { ptr::read_volatile(&raw const plan.failure) };
    if let Some(failed) = failed {
        // SAFETY: a plain wait for our own child, which has called _exit.
        unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
        return Err(failed);
    }
    Ok(pid.unsigned_abs())
}

fn failure(stage: Stage, error: &io::Error) -> Failure {
    Failure { stage, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

fn map_stack() -> io::Result<Stack> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
    let base = unsafe {
        libc::mmap(
            ptr::null_mut(),
            STACK_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Stack(base)) }
}

/// The child's life up to exec. Returns only by failing; what it returns is its exit code.
extern "C" fn child(argument: *mut c_void) -> c_int {
    let plan = argument.cast::<Plan>();
    // SAFETY: `argument` is the Plan that `launch` passed, alive and used by nobody else while the parent stands still.
    let stage_and_errno = unsafe { become_program(&mut *plan) };
    // SAFETY: as above; volatile because the parent reads it through memory that the compiler thinks unshared.
    unsafe {
        ptr::write_volatile(&raw mut (*plan).failure, Some(stage_and_errno));
        libc::_exit(127)
    }
}

/// The kernel's reason for the last failure of a libc call on this thread.
fn errno() -> i32 {
    // SAFETY: the location is valid for the running thread (the child shares its parent's).
    unsafe { *libc::__errno_location() }
}

/// # Safety
/// Only in a vforked child, with a plan whose pointers are all valid.
unsafe fn become_program(plan: &mut Plan) -> Failure {
    macro_rules! attempt {
        ($stage:expr, $call:expr) => {
            if $call < 0 {
                return Failure { stage: $stage, errno: errno() };
            }
        };
    }
    // SAFETY: plain system calls on the child's own state, with pointers that the caller vouches for.
    unsafe {
        for signal in [libc::SIGPIPE, libc::SIGCHLD] {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = libc::SIG_DFL;
            attempt!(Stage::Signals, libc::sigaction(signal, &raw const action, ptr::null_mut()));
        }
        attempt!(Stage::Session, libc::setsid());
        for (target, source) in plan.stdio.iter().enumerate() {
            attempt!(Stage::Stdio, libc::dup2(*source, target as c_int));
        }
        if plan.controls_terminal {
            attempt!(Stage::Terminal, libc::ioctl(0, libc::TIOCSCTTY as _, 0));
        }
        // Everything else is marked close-on-exec already; this makes it certain whatever was inherited.
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        if let Some(limit) = &plan.open_files {
            attempt!(Stage::Limits, libc::setrlimit(libc::RLIMIT_NOFILE, limit));
        }
        libc::umask(0o022);
        attempt!(Stage::Identity, libc::syscall(libc::SYS_setgroups, plan.group_count, plan.groups));
        attempt!(Stage::Identity, libc::syscall(libc::SYS_setresgid, plan.gid, plan.gid, plan.gid));
        attempt!(Stage::Identity, libc::syscall(libc::SYS_setresuid, plan.uid, plan.uid, plan.uid));
        attempt!(Stage::Cwd, libc::chdir(plan.cwd));

        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        let mut refused = None;
        for candidate in &plan.candidates {
            if candidate.is_null() {
                break;
            }
            libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
            libc::execve(*candidate, plan.argv.as_ptr(), plan.envp.as_ptr());
            match errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                // Perhaps a later directory of PATH has one that may be run; if not, this is the reason to tell.
                libc::EACCES => refused = Some(libc::EACCES),
                libc::ENOEXEC => {
                    plan.shell_argv[1] = *candidate;
                    libc::execve(plan.shell_argv[0], plan.shell_argv.as_ptr(), plan.envp.as_ptr());
                    return Failure { stage: Stage::Exec, errno: libc::ENOEXEC };
                }
                other => return Failure { stage: Stage::Exec, errno: other },
            }
        }
        Failure { stage: Stage::Exec, errno: refused.unwrap_or(libc::ENOENT) }
    }
}
