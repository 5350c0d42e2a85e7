//! Starts programs: as a user, in a directory, with an environment, on pipes or a terminal.
//!
//! This file turns a [`Command`] into plain C data and descriptors, and failures into words; `sys` does the rest.
//! It registers every child with the `reaper`, and knows nothing of requests, streams or the table of processes.

mod sys;
mod terminal;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::oneshot;

pub use terminal::{TerminalSize, resize};

use crate::reaper::{Exit, Reaper};
use crate::users::Account;

/// Where programs are sought when the environment doesn't say.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Added to the guest's own score, so that the kernel's out-of-memory killer takes a program before the guest.
const OOM_SCORE_RAISE: i32 = 500;

/// A step on the way from clone to exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Clone,
    Signals,
    Session,
    Stdio,
    Terminal,
    Limits,
    Identity,
    Cwd,
    Exec,
}

/// What a program's first three descriptors are.
#[derive(Debug, Clone, Copy)]
pub enum Stdio {
    /// Pipes; without `stdin` the program reads an empty input.
    Pipes { stdin: bool },
    /// One terminal for all three, which the program controls.
    Terminal(TerminalSize),
}

pub struct Command {
    pub program: String,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub account: Account,
    pub stdio: Stdio,
}

/// The guest's ends of a child's descriptors, all non-blocking.
pub enum Ends {
    Pipes { stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd },
    Terminal(OwnedFd),
}

pub struct Child {
    pub pid: u32,
    pub exit: oneshot::Receiver<Exit>,
    pub ends: Ends,
}

/// Why a program didn't start. All but `Exhausted` and `Internal` are the request's fault.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("{what} contains a NUL byte")]
    Nul { what: &'static str },
    #[error("no program was given")]
    NoProgram,
    #[error("environment variable name '{0}' isn't valid: it's empty or contains '='")]
    VariableName(String),
    #[error("cwd '{0}' does not exist")]
    NoCwd(String),
    #[error("cwd '{0}' is not a directory")]
    CwdNotDirectory(String),
    #[error("user '{user}' may not enter cwd '{cwd}'")]
    CwdForbidden { cwd: String, user: String },
    #[error("program '{program}' was not found (PATH is {path})")]
    NotFound { program: String, path: String },
    #[error("program '{program}' can't be executed by user '{user}': permission denied")]
    Forbidden { program: String, user: String },
    #[error(
        "the command line and environment of '{program}' are too long: {bytes} bytes in {strings} strings (limits of the kernel: 128 KiB for one string, 2 MiB in all)"
    )]
    TooLong { program: String, bytes: usize, strings: usize },
    #[error("program '{program}' can't be executed: {source}")]
    NotExecutable { program: String, source: io::Error },
    #[error("the sandbox has no room for another process: {0}")]
    Exhausted(io::Error),
    #[error("starting '{program}' failed at step {stage:?}: {source}")]
    Internal { program: String, stage: Stage, source: io::Error },
}

/// What the guest found at its own start and passes on to programs.
struct Inherited {
    score: Option<sys::Score>,
    open_files: Option<(u64, u64)>,
}

static INHERITED: OnceLock<Inherited> = OnceLock::new();

/// Notes what children inherit, then raises the guest's own limit on descriptors as far as it may, and closes its memory
/// and its files in /proc to everybody inside, root too.
pub fn prepare_guest() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

    sys::reset_ignored_signals();
    let limit = getrlimit(Resource::Nofile);
    let score = sys::Score::raised_by(OOM_SCORE_RAISE);
    let open_files = limit.current.zip(limit.maximum);
    // A clone of the zygote has the memory of a process of the host: so nobody has a right to it by any namespace.
    let _never_refused = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if INHERITED.set(Inherited { score, open_files }).is_ok() {
        // Refused only where the limit is already as high as it gets.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// Starts the program and registers it with the reaper.
pub fn spawn(reaper: &Reaper, command: &Command) -> Result<Child, SpawnError> {
    let prepared = prepare(command)?;
    match rustix::fs::stat(command.cwd.as_str()) {
        Ok(meta) if rustix::fs::FileType::from_raw_mode(meta.st_mode).is_dir() => {}
        Ok(_) => return Err(SpawnError::CwdNotDirectory(command.cwd.clone())),
        Err(_) => return Err(SpawnError::NoCwd(command.cwd.clone())),
    }
    let internal =
        |stage: Stage| move |errno: Errno| describe(command, &prepared_size(command), stage, errno.raw_os_error());
    let (ends, started) = match command.stdio {
        Stdio::Pipes { stdin } => {
            let (their_stdin, our_stdin) = if stdin {
                let (read, write) = pipe_of(&command.account).map_err(internal(Stage::Stdio))?;
                set_nonblocking(&write).map_err(internal(Stage::Stdio))?;
                (read, Some(write))
            } else {
                (open_null().map_err(internal(Stage::Stdio))?, None)
            };
            let (our_stdout, their_stdout) = pipe_of(&command.account).map_err(internal(Stage::Stdio))?;
            let (our_stderr, their_stderr) = pipe_of(&command.account).map_err(internal(Stage::Stdio))?;
            set_nonblocking(&our_stdout).map_err(internal(Stage::Stdio))?;
            set_nonblocking(&our_stderr).map_err(internal(Stage::Stdio))?;
            let started = reaper
                .start(|| sys::launch(&prepared, [their_stdin.as_fd(), their_stdout.as_fd(), their_stderr.as_fd()]));
            (Ends::Pipes { stdin: our_stdin, stdout: our_stdout, stderr: our_stderr }, started)
        }
        Stdio::Terminal(size) => {
            let (ours, theirs) = terminal::open(size, &command.account).map_err(internal(Stage::Terminal))?;
            let started = reaper.start(|| sys::launch(&prepared, [theirs.as_fd(), theirs.as_fd(), theirs.as_fd()]));
            (Ends::Terminal(ours), started)
        }
    };
    let (pid, exit) =
        started.map_err(|failure| describe(command, &prepared_size(command), failure.stage, failure.errno))?;
    Ok(Child { pid, exit, ends })
}

/// A pipe that belongs to the user, who can then open it by the names `/dev/stdin`, `/dev/stdout` and `/dev/stderr` too.
fn pipe_of(account: &Account) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // Both ends are one inode. A guest that may not give things away runs everything as itself.
    let _ = rustix::fs::fchown(
        &read,
        Some(rustix::fs::Uid::from_raw(account.uid)),
        Some(rustix::fs::Gid::from_raw(account.gid)),
    );
    Ok((read, write))
}

fn set_nonblocking(fd: &OwnedFd) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(fd, true)
}

fn open_null() -> Result<OwnedFd, Errno> {
    rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn c_string(text: impl Into<Vec<u8>>, what: &'static str) -> Result<CString, SpawnError> {
    CString::new(text).map_err(|_| SpawnError::Nul { what })
}

fn search_path(command: &Command) -> &str {
    command.env.iter().rev().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, value)| value)
}

fn prepare(command: &Command) -> Result<sys::Prepared, SpawnError> {
    if command.program.is_empty() {
        return Err(SpawnError::NoProgram);
    }
    let mut argv = Vec::with_capacity(command.args.len() + 1);
    argv.push(c_string(command.program.as_str(), "the program's name")?);
    for argument in &command.args {
        argv.push(c_string(argument.as_str(), "an argument")?);
    }
    let mut envp = Vec::with_capacity(command.env.len());
    for (name, value) in &command.env {
        if name.is_empty() || name.contains('=') {
            return Err(SpawnError::VariableName(name.chars().take(100).collect()));
        }
        envp.push(c_string(format!("{name}={value}"), "an environment variable")?);
    }
    let candidates = if command.program.contains('/') {
        vec![c_string(command.program.as_str(), "the program's name")?]
    } else {
        search_path(command)
            .split(':')
            .map(|directory| if directory.is_empty() { "." } else { directory })
            .map(|directory| c_string(format!("{directory}/{}", command.program), "PATH"))
            .collect::<Result<_, _>>()?
    };
    let inherited = INHERITED.get();
    Ok(sys::Prepared {
        candidates,
        argv,
        envp,
        cwd: c_string(command.cwd.as_str(), "the working directory")?,
        uid: command.account.uid,
        gid: command.account.gid,
        groups: command.account.groups.clone(),
        score: inherited.and_then(|inherited| inherited.score.as_ref()),
        open_files: inherited.and_then(|inherited| inherited.open_files),
        controls_terminal: matches!(command.stdio, Stdio::Terminal(_)),
    })
}

/// Bytes and number of the strings that exec has to copy.
fn prepared_size(command: &Command) -> (usize, usize) {
    let args = command.args.iter().map(|argument| argument.len() + 1).sum::<usize>();
    let env = command.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>();
    (command.program.len() + 1 + args + env, 1 + command.args.len() + command.env.len())
}

fn describe(command: &Command, &(bytes, strings): &(usize, usize), stage: Stage, errno: i32) -> SpawnError {
    let source = io::Error::from_raw_os_error(errno);
    let program = command.program.chars().take(200).collect::<String>();
    let user = command.account.name.clone();
    match (stage, errno) {
        (Stage::Cwd, libc::ENOENT) => SpawnError::NoCwd(command.cwd.clone()),
        (Stage::Cwd, libc::ENOTDIR) => SpawnError::CwdNotDirectory(command.cwd.clone()),
        (Stage::Cwd, libc::EACCES) => SpawnError::CwdForbidden { cwd: command.cwd.clone(), user },
        (Stage::Exec, libc::ENOENT | libc::ENOTDIR) => {
            SpawnError::NotFound { program, path: search_path(command).chars().take(500).collect() }
        }
        (Stage::Exec, libc::EACCES) => SpawnError::Forbidden { program, user },
        (Stage::Exec, libc::E2BIG) => SpawnError::TooLong { program, bytes, strings },
        (_, libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOSPC) => SpawnError::Exhausted(source),
        (Stage::Exec, _) => SpawnError::NotExecutable { program, source },
        _ => SpawnError::Internal { program, stage, source },
    }
}
