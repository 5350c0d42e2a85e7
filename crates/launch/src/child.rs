//! The order of a launch, in the child: from the clone to the guest agent.
//!
//! The child begins as nobody with every capability in its own user namespace, and gives everything up on its way.
//! Whatever fails is reported with its stage and errno over the status socket; then the child ends, and its namespaces
//! with all that was mounted in them end with it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::Mode;
use rustix::thread::set_name;
use rustix::time::{ClockId, clock_gettime};

use super::confine;
use super::etc;
use super::mounts::{self, NewRoot};
use super::serve::{Guest, Prepared};
use super::sys;
use super::wire::{self, Failure, Go, Plan, Report, Stage, StageTime};

impl Failure {
    pub(super) fn new(stage: Stage, what: &str, error: &io::Error) -> Self {
        Self { stage, what: what.to_owned(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

/// What a stage's function gives back: what was attempted, and the error.
pub(super) type Attempt<T> = Result<T, (String, io::Error)>;

/// Names what was attempted.
pub(super) trait Attempted<T> {
    fn attempted(self, what: impl FnOnce() -> String) -> Attempt<T>;
}

impl<T, E: Into<io::Error>> Attempted<T> for Result<T, E> {
    fn attempted(self, what: impl FnOnce() -> String) -> Attempt<T> {
        self.map_err(|error| (what(), error.into()))
    }
}

/// The descriptors of a [`Plan`], each in its place.
struct Inherited {
    tasks: Vec<OwnedFd>,
    guest: GuestFds,
    dev: OwnedFd,
    cgroup_views: Vec<OwnedFd>,
}

/// What the guest agent gets.
struct GuestFds {
    listener: OwnedFd,
    config: OwnedFd,
    ready: OwnedFd,
}

/// Measures the stages as they end.
struct Clock {
    last: u64,
    steps: Vec<StageTime>,
    fail_at: Option<Stage>,
}

impl Clock {
    fn now() -> u64 {
        let now = clock_gettime(ClockId::Monotonic);
        u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
    }

    /// Ends a stage with its result.
    fn end<T>(&mut self, stage: Stage, result: Attempt<T>) -> Result<T, Failure> {
        let now = Self::now();
        self.steps.push(StageTime { stage, began_ns: self.last, took_ns: now.saturating_sub(self.last) });
        self.last = now;
        if self.fail_at == Some(stage) {
            return Err(Failure { stage, what: "failing on purpose".to_owned(), errno: libc::EIO });
        }
        result.map_err(|(what, error)| Failure::new(stage, &what, &error))
    }
}

/// Becomes the guest agent, or reports why not and ends.
pub(super) fn run(status: BorrowedFd<'_>, prepared: &Prepared, guest: Guest) -> ! {
    let mut clock = Clock { last: Clock::now(), steps: Vec::with_capacity(20), fail_at: None };
    let _agent_gone = match build(status, prepared, &mut clock) {
        Ok(placed) => match settle_down(&placed, prepared, &mut clock) {
            Ok(()) => {
                // Its end says that there is nothing more to say.
                drop(placed);
                sys::ignore_broken_pipes();
                match guest() {}
            }
            Err(failure) => wire::send(placed.as_fd(), &Report::Failed(failure), &[]),
        },
        Err(failure) => wire::send(status, &Report::Failed(failure), &[]),
    };
    sys::exit_now(1)
}

/// All that a sandbox is made of, up to its descriptors. Answers with the status socket in its new place.
fn build(status: BorrowedFd<'_>, prepared: &Prepared, clock: &mut Clock) -> Result<OwnedFd, Failure> {
    let received = receive_plan(status);
    clock.fail_at = received.as_ref().ok().and_then(|(plan, _)| plan.fail_at);
    let (plan, mut inherited) = clock.end(Stage::Plan, received)?;

    clock.end(Stage::JoinCgroups, confine::join_cgroups(std::mem::take(&mut inherited.tasks)))?;
    clock.end(Stage::Settle, settle(&plan))?;
    let Mounts { volume, lowers, shared } = clock.end(Stage::AwaitMounts, receive_mounts(status))?;
    clock.end(Stage::Ping, confine::set_ping_groups())?;

    // Modes below are meant literally; the guest gets the usual mask at the end.
    rustix::process::umask(Mode::empty());
    clock.end(Stage::Overlay, mounts::overlay(&volume, &lowers, &inherited.dev))?;
    drop((volume, lowers));
    let root = clock.end(Stage::Pivot, NewRoot::enter())?;
    clock.end(Stage::Proc, root.proc(&prepared.masks))?;
    clock.end(Stage::Sys, root.sys(&prepared.masks, &plan.cgroup_views, &inherited.cgroup_views))?;
    clock.end(Stage::Dev, root.dev(plan.shm_bytes))?;
    let attached = shared.iter().try_for_each(|(path, mount)| root.volume(mount.as_fd(), path));
    // Before descriptors are placed: closed later, these would close whatever has their numbers by then.
    drop(shared);
    clock.end(Stage::Volumes, attached)?;
    clock.end(Stage::Etc, if plan.etc_laid { Ok(()) } else { etc::write(&plan) })?;
    let state = clock.end(Stage::Detach, root.detach())?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    drop((inherited.dev, inherited.cgroup_views));
    let placed = place(inherited.guest, state, status);
    // Late, so that the launch itself runs wherever there is room.
    let placed = placed
        .and_then(|placed| confine::stay_on(&plan.cpus).attempted(|| "processor affinity".to_owned()).map(|()| placed));
    clock.end(Stage::Descriptors, placed)
}

/// Gives up what is left of its power, and tells the agent what it took.
fn settle_down(status: &OwnedFd, prepared: &Prepared, clock: &mut Clock) -> Result<(), Failure> {
    let filter = sys::install_filter(&prepared.filter).attempted(|| "the filter".to_owned());
    clock.end(Stage::Seccomp, filter)?;
    clock.end(Stage::Capabilities, confine::drop_capabilities(&prepared.dropped))?;
    let owned = confine::own_its_files();
    let _only_for_people = set_name(c"atoll-guest");
    clock.end(Stage::Begin, owned)?;
    let report = Report::Done { steps: std::mem::take(&mut clock.steps) };
    let told = wire::send(status.as_fd(), &report, &[]);
    told.map_err(|error| Failure::new(Stage::Begin, "telling the agent", &error))
}

fn receive_plan(status: BorrowedFd<'_>) -> Attempt<(Plan, Inherited)> {
    let received = wire::receive::<Plan>(status).attempted(|| "reading the plan".to_owned())?;
    let missing = || (("the plan".to_owned()), io::Error::from(io::ErrorKind::UnexpectedEof));
    let (plan, fds) = received.ok_or_else(missing)?;
    let mut fds = fds.into_iter();
    let tasks: Vec<_> = fds.by_ref().take(plan.tasks).collect();
    let mut next = || fds.next().ok_or_else(missing);
    let guest = GuestFds { listener: next()?, config: next()?, ready: next()? };
    let dev = next()?;
    let inherited = Inherited { tasks, guest, dev, cgroup_views: fds.collect() };
    Ok((plan, inherited))
}

/// What the root file system is put together from.
struct Mounts {
    volume: OwnedFd,
    lowers: Vec<OwnedFd>,
    /// Volumes that outlive the sandbox, with their paths.
    shared: Vec<(String, OwnedFd)>,
}

fn receive_mounts(status: BorrowedFd<'_>) -> Attempt<Mounts> {
    let received = wire::receive::<Go>(status).attempted(|| "reading the mounts".to_owned())?;
    let missing = || ("the mounts".to_owned(), io::Error::from(io::ErrorKind::UnexpectedEof));
    let (go, mut fds) = received.ok_or_else(missing)?;
    if fds.is_empty() || fds.len() != go.lowers + go.volumes.len() + 1 {
        return Err(missing());
    }
    let shared = fds.split_off(go.lowers + 1);
    let lowers = fds.split_off(1);
    Ok(Mounts { volume: fds.remove(0), lowers, shared: go.volumes.into_iter().zip(shared).collect() })
}

/// What needs neither id maps nor mounts.
fn settle(plan: &Plan) -> Attempt<()> {
    sys::reset_signals();
    let _first_of_its_session = rustix::process::setsid();
    sys::new_session_keyring().attempted(|| "a session keyring".to_owned())?;
    rustix::system::sethostname(plan.hostname.as_bytes()).attempted(|| "the host name".to_owned())?;
    confine::set_rlimits()?;
    confine::bring_loopback_up()?;
    confine::begin_boot_time()?;
    confine::set_sysctls()
}

/// Above every number that the guest agent knows.
const STATUS: i32 = 7;
/// Where descriptors wait while the low numbers are filled.
const ABOVE: i32 = 64;

/// 0 to 2: /dev/null; 3: listener; 4: configuration; 5: ready; 6: the directory behind the bound files; 7: the status
/// socket, which is answered; no others.
fn place(guest: GuestFds, state: OwnedFd, status: BorrowedFd<'_>) -> Attempt<OwnedFd> {
    use rustix::fs::{CWD, OFlags, openat};
    let what = || "descriptors".to_owned();
    let null = openat(CWD, "/dev/null", OFlags::RDWR, Mode::empty()).attempted(|| "/dev/null".to_owned())?;
    let lift = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, ABOVE).attempted(what);
    let lifted = [
        (lift(guest.listener.as_fd())?, 3),
        (lift(guest.config.as_fd())?, 4),
        (lift(guest.ready.as_fd())?, 5),
        (lift(state.as_fd())?, 6),
        (lift(status)?, STATUS),
        (lift(null.as_fd())?, 0),
        (lift(null.as_fd())?, 1),
        (lift(null.as_fd())?, 2),
    ];
    drop((guest, state, null));
    for (fd, number) in &lifted {
        // SAFETY: every descriptor of ours below ABOVE has been closed but the old status socket and the zygote's
        // request socket, which nobody uses from here on; std's own streams write nothing before the guest begins.
        unsafe { sys::place(fd.as_fd(), *number) }.attempted(what)?;
    }
    drop(lifted);
    // SAFETY: as above; and the one below was placed just now and is owned by nobody.
    let status = unsafe {
        sys::close_from(STATUS as u32 + 1).attempted(what)?;
        <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(STATUS)
    };
    rustix::io::fcntl_setfd(&status, rustix::io::FdFlags::CLOEXEC).attempted(what)?;
    Ok(status)
}
