//! The agent's side of a launch: one blocking call, undone as a whole when any part of it fails.
//!
//! What can be done before the child exists or while it works is done then: the zygote clones while the limits are
//! written and the small file system is made; the network is attached while the child mounts.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_launch::etc;
use atoll_launch::wire::{self, CloneRequest, Failure, Go, Plan, Report, Stage};
use atoll_model::SandboxId;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal};
use rustix::time::{ClockId, clock_gettime};

use super::files::{self, Processors};
use super::process::InitProcess;
use super::{DriverError, LaunchSpec, NetworkAttach, Running, Step, Steps, dev, mounts, socket, wait};
use crate::cgroup::{Cgroups, Limits};
use crate::zygote::Zygote;

/// From the first step to the guest's word that it is ready. Far more than it takes, even a hundred at a time.
const PATIENCE: Duration = Duration::from_secs(20);
/// After a failure: for the child, which was killed, to be gone.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// What every launch uses.
#[derive(Debug)]
pub(super) struct Launcher {
    pub zygote: Zygote,
    pub cgroups: Arc<Cgroups>,
    pub processors: Processors,
    /// The processors that the agent itself may run on.
    pub cpus: Vec<usize>,
    /// Mount namespaces of sandboxes that were killed and are not cleaned up yet, by name.
    pub held: Mutex<HashMap<String, OwnedFd>>,
}

/// What went wrong, before it is said for which sandbox.
enum Problem {
    Step(String, io::Error),
    NotReady(String),
}

/// Names the step that an I/O error happened in.
trait InStep<T> {
    fn in_step(self, step: &str) -> Result<T, Problem>;
}

impl<T, E: Into<io::Error>> InStep<T> for Result<T, E> {
    fn in_step(self, step: &str) -> Result<T, Problem> {
        self.map_err(|error| Problem::Step(step.to_owned(), error.into()))
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let step = format!("{}: {}", failure.stage.name(), failure.what);
        Self::Step(step, io::Error::from_raw_os_error(failure.errno))
    }
}

/// For fault tests; nothing in a release.
#[allow(unused_variables)]
pub(super) fn failpoint(name: &str) -> io::Result<()> {
    fail::fail_point!(name, |what| match what.as_deref() {
        Some("abort") => std::process::abort(),
        Some(kill) if kill.starts_with("kill ") => super::vm::doomed::kill_youngest(&kill["kill ".len()..]),
        _ => Err(io::Error::other("failing on purpose")),
    });
    Ok(())
}

/// The stage at which the child is to fail, if a fault test says so.
fn stage_to_fail() -> Option<Stage> {
    if !fail::has_failpoints() {
        return None;
    }
    Stage::CHILD.into_iter().find(|stage| failpoint(&format!("launch::{}", stage.name())).is_err())
}

/// Takes everything back unless the launch was completed. Also when the launching thread panics.
struct Undo<'a> {
    launcher: &'a Launcher,
    spec: &'a LaunchSpec,
    pidfd: Option<OwnedFd>,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.launcher.remove(&self.spec.id, self.pidfd.as_ref().map(AsFd::as_fd));
            let _not_made = fs::remove_file(&self.spec.socket_path);
        }
    }
}

impl Launcher {
    /// Launches, and waits until the guest agent is ready.
    pub(super) fn launch(
        &self,
        spec: &LaunchSpec,
        network: &dyn NetworkAttach,
        trace: &mut Steps,
    ) -> Result<Running, DriverError> {
        self.attempt(spec, network, trace).map_err(|problem| match problem {
            Problem::Step(step, source) => DriverError::Launch { id: spec.id.clone(), step, source },
            Problem::NotReady(reason) => DriverError::NotReady { id: spec.id.clone(), reason },
        })
    }

    /// Ends all its processes. Its mounts stay until [`Self::release`]: to unmount an overlay writes back the whole file
    /// system below it, and the last process would not be gone before that.
    pub(super) fn kill(&self, name: &str) -> io::Result<()> {
        let first = self.cgroups.processes(name).ok().and_then(|pids| pids.first().copied());
        let mounts = first.and_then(|pid| namespace(pid, "mnt").ok());
        self.cgroups.kill(name)?;
        if let Some(mounts) = mounts {
            self.held().insert(name.to_owned(), mounts);
        }
        Ok(())
    }

    /// Lets go of the mounts of a sandbox that was killed; takes as long as the disk needs.
    pub(super) fn release(&self, name: &str) {
        let mounts = self.held().remove(name);
        drop(mounts);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, OwnedFd>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends whatever there is of a sandbox and removes its cgroups; logs what can't be removed.
    pub(super) fn remove(&self, id: &SandboxId, pidfd: Option<BorrowedFd<'_>>) {
        if let Some(pidfd) = pidfd {
            let _ended_already = pidfd_send_signal(pidfd, Signal::KILL);
            if let Err(error) = wait::readable(&[pidfd], Instant::now() + END_PATIENCE) {
                tracing::error!(%id, %error, "the first process of a failed launch does not end");
            }
        }
        let name = id.as_str();
        if let Err(error) = self.cgroups.kill(name).and_then(|()| self.cgroups.remove(name)) {
            tracing::error!(%id, %error, "removing the cgroups of a failed launch");
        }
    }

    fn attempt(&self, spec: &LaunchSpec, network: &dyn NetworkAttach, trace: &mut Steps) -> Result<Running, Problem> {
        let deadline = Instant::now() + PATIENCE;
        spec.check().in_step("checking the request")?;
        let name = spec.id.as_str();
        if self.cgroups.is_populated(name) {
            let error = io::Error::new(io::ErrorKind::AlreadyExists, "its processes are running");
            return Err(Problem::Step("looking for an earlier launch".to_owned(), error));
        }
        let mut undo = Undo { launcher: self, spec, pidfd: None, armed: true };
        trace.skip();

        let into = self.cgroups.begin(name).in_step("making cgroups")?;
        failpoint("launch::begin").in_step("making cgroups")?;
        let (mut status, zygote) = self.ask(spec, into.as_ref()).in_step("asking the zygote")?;
        trace.done("request clone");

        let (mut plan, fds, ready) = self.prepare(spec, trace)?;
        plan.etc_laid = lay_out(spec, &plan).in_step("making its layer")?;
        trace.done("layer");
        failpoint("launch::plan").in_step("sending the plan")?;
        let plan_fds = wire::borrowed(&fds);
        let (pid, pidfd) = match clone_with(status.as_fd(), &plan, &plan_fds, deadline)? {
            Some(cloned) => cloned,
            None => {
                // The zygote had died, or died over it. A child that it may have made sees our end close, and ends.
                self.zygote.retire(zygote);
                status = self.ask(spec, into.as_ref()).in_step("asking another zygote")?.0;
                let gone = || Problem::Step("waiting for the zygote".to_owned(), io::ErrorKind::BrokenPipe.into());
                clone_with(status.as_fd(), &plan, &plan_fds, deadline)?.ok_or_else(gone)?
            }
        };
        drop((fds, into));
        let pidfd: &OwnedFd = undo.pidfd.insert(pidfd);
        let init = InitProcess::of(pid).in_step("reading the start time")?;
        failpoint("launch::cloned").in_step("cloning")?;
        trace.done("await clone");

        let (go, fds) = layers(spec, pid).in_step("making idmapped mounts")?;
        wire::send(status.as_fd(), &go, &wire::borrowed(&fds))
            .and_then(|()| failpoint("launch::mounts"))
            .in_step("sending the mounts")?;
        drop(fds);
        trace.done("idmapped mounts");

        let netns = match namespace(pid, "net") {
            Ok(netns) => netns,
            // It has ended over its layers, and has said why.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.await_ready(status, &ready, pidfd.as_fd(), deadline, trace)?;
                return Err(error).in_step("opening the network namespace");
            }
            Err(error) => return Err(error).in_step("opening the network namespace"),
        };
        network
            .attach(&spec.slot, netns.as_fd())
            .and_then(|()| failpoint("launch::network"))
            .in_step("attaching the network")?;
        trace.done("attach network");

        self.await_ready(status, &ready, pidfd.as_fd(), deadline, trace)?;
        failpoint("launch::ready").in_step("waiting for the guest")?;
        trace.done("await guest");
        undo.armed = false;
        match undo.pidfd.take() {
            Some(pidfd) => Ok(Running::new(spec.id.clone(), init, pidfd, Arc::clone(&self.cgroups))),
            None => Err(Problem::NotReady("its process was lost".to_owned())),
        }
    }

    /// Asks for a clone; answers with our end of the status socket, and which zygote was asked.
    fn ask(&self, spec: &LaunchSpec, into: Option<&OwnedFd>) -> io::Result<(OwnedFd, u32)> {
        let (status, childs) = wire::pair()?;
        let request = CloneRequest { id_base: spec.slot.id_base(), into_cgroup: into.is_some() };
        let zygote = self.zygote.request(&request, childs.as_fd(), into.map(AsFd::as_fd))?;
        failpoint("launch::request")?;
        Ok((status, zygote))
    }

    /// Limits, small file system, socket, configuration, pipe: what the child needs beside its layers.
    fn prepare(&self, spec: &LaunchSpec, trace: &mut Steps) -> Result<(Plan, Vec<OwnedFd>, OwnedFd), Problem> {
        let name = spec.id.as_str();
        let limits = Limits { vcpus: spec.vcpus, memory_bytes: spec.memory_bytes, pids_max: spec.pids_max };
        let mut fds = self.cgroups.complete(name, &limits).in_step("setting limits")?;
        let tasks = fds.len();
        let views = self.cgroups.views(name);
        let names: Vec<_> = views.iter().map(|view| view.name.clone()).collect();
        failpoint("launch::cgroups").in_step("setting limits")?;
        trace.done("cgroups");

        let contents = files::first_contents(&self.processors, spec.vcpus, spec.memory_bytes);
        let shared = dev::make(spec.slot.id_base(), &names, &contents)
            .and_then(|fd| failpoint("launch::shared").map(|()| fd))
            .in_step("making the file system for /dev")?;
        trace.done("dev");

        fds.push(
            socket::listener(&spec.socket_path)
                .and_then(|fd| failpoint("launch::socket").map(|()| fd))
                .in_step(&format!("listening on {}", spec.socket_path.display()))?,
        );
        fds.push(
            files::sealed_config(&spec.guest_config, spec.slot.id_base())
                .in_step("writing the guest's configuration")?,
        );
        let (ready, theirs) = pipe_with(PipeFlags::CLOEXEC).in_step("making the ready pipe")?;
        fds.push(theirs);
        fds.push(shared);
        for view in &views {
            fds.push(mounts::read_only(&view.path).in_step("making mounts of its cgroups")?);
        }
        let plan = Plan {
            tasks,
            cgroup_views: names,
            hostname: spec.hostname.clone(),
            machine_id: machine_id(&spec.id),
            address: spec.slot.address(),
            nameserver: spec.slot.gateway(),
            etc_laid: false,
            cpus: self.cpus_for(spec),
            shm_bytes: spec.memory_bytes / 2,
            fail_at: stage_to_fail(),
        };
        Ok((plan, fds, ready))
    }

    /// As many processors as the sandbox has, spread over the machine by slot; none named when it has all.
    fn cpus_for(&self, spec: &LaunchSpec) -> Vec<usize> {
        let wanted = spec.vcpus as usize;
        if wanted >= self.cpus.len() {
            return Vec::new();
        }
        let first = usize::from(spec.slot.index()) * wanted;
        self.cpus.iter().cycle().skip(first % self.cpus.len()).take(wanted).copied().collect()
    }

    /// Waits for the guest's word, and for what the child says before it becomes the guest.
    fn await_ready(
        &self,
        status: OwnedFd,
        ready: &OwnedFd,
        pidfd: BorrowedFd<'_>,
        deadline: Instant,
        trace: &mut Steps,
    ) -> Result<(), Problem> {
        let (mut status, mut ready, mut executed) = (Some(status), Some(ready), false);
        loop {
            // The guest has closed the pipe without a word, and nobody is left to explain it.
            if ready.is_none() && status.is_none() {
                return Err(Problem::NotReady(wait::ending(pidfd, executed)));
            }
            let fds = [status.as_ref().map(AsFd::as_fd), ready.map(AsFd::as_fd), Some(pidfd)];
            let open: Vec<_> = fds.iter().flatten().copied().collect();
            let readable = wait::readable(&open, deadline).map_err(|error| Problem::NotReady(error.to_string()))?;
            let mut readable = readable.into_iter();
            let [reported, spoken, ended] = fds.map(|fd| fd.is_some() && readable.next().unwrap_or_default());
            if let (true, Some(socket)) = (reported, &status) {
                // What the child has to say explains why the rest has ended, so it is looked at first.
                match wire::receive::<Report>(socket.as_fd()).in_step("reading the child's report")? {
                    Some((Report::Failed(failure), _)) => return Err(failure.into()),
                    Some((Report::Done { steps }, _)) => {
                        executed = true;
                        add_steps(trace, &steps);
                    }
                    Some((Report::Cloned { .. }, _)) => {}
                    None => status = None,
                }
            } else if let (true, Some(pipe)) = (spoken, ready) {
                match rustix::io::read(pipe, &mut [0_u8; 16]) {
                    Ok(0) => ready = None,
                    Ok(_) => return Ok(()),
                    Err(error) => return Err(Problem::NotReady(format!("reading the ready pipe: {error}"))),
                }
            } else if ended {
                return Err(Problem::NotReady(wait::ending(pidfd, executed)));
            }
        }
    }
}

/// Sends the plan and waits until the zygote says that the child is there; `None` when the zygote is gone.
fn clone_with(
    status: BorrowedFd<'_>,
    plan: &Plan,
    fds: &[BorrowedFd<'_>],
    deadline: Instant,
) -> Result<Option<(i32, OwnedFd)>, Problem> {
    match wire::send(status, plan, fds) {
        // Whoever had the other end may still have said why it is gone.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => {}
        result => result.in_step("sending the plan")?,
    }
    loop {
        wait::readable(&[status], deadline).in_step("waiting for the zygote")?;
        match wire::receive::<Report>(status).in_step("reading the zygote's answer")? {
            Some((Report::Cloned { pid }, mut fds)) => {
                let pidfd = fds.pop().ok_or_else(|| io::Error::other("it came without a pidfd"));
                return Ok(Some((pid, pidfd.in_step("reading the zygote's answer")?)));
            }
            Some((Report::Failed(failure), _)) => return Err(failure.into()),
            Some((Report::Done { .. }, _)) => {}
            None => return Ok(None),
        }
    }
}

fn namespace(pid: i32, kind: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat(CWD, format!("/proc/{pid}/ns/{kind}"), flags, Mode::empty())?)
}

/// The volume, then the layers, with the owners of the child's user namespace.
fn layers(spec: &LaunchSpec, pid: i32) -> io::Result<(Go, Vec<OwnedFd>)> {
    let userns = namespace(pid, "user")?;
    let mut fds = vec![mounts::idmapped(&spec.volume, userns.as_fd(), false)?];
    for lower in &spec.lowers {
        fds.push(mounts::idmapped(&lower.path, userns.as_fd(), true)?);
    }
    for shared in &spec.volumes {
        fds.push(mounts::idmapped(&shared.source, userns.as_fd(), shared.read_only)?);
    }
    let volumes = spec.volumes.iter().map(|shared| shared.path.clone()).collect();
    Ok((Go { lowers: spec.lowers.len(), volumes }, fds))
}

/// Makes the directories of the sandbox's own layer where they are missing. Tells whether its files in /etc are there.
fn lay_out(spec: &LaunchSpec, plan: &Plan) -> io::Result<bool> {
    let up = spec.volume.join("up");
    make_dir(&spec.volume.join("work"))?;
    make_dir(&up)?;
    let new = fs::read_dir(&up)?.next().is_none();
    Ok(new && etc::lay(&up, spec.lowers.iter().map(|lower| lower.path.as_path()), plan)?)
}

/// The same at each start of a sandbox, and another one for each sandbox, whatever it was forked from.
pub(super) fn machine_id(id: &SandboxId) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(&Sha256::digest(format!("machine-id of {id}"))[..16])
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("making {}: {error}", path.display()))),
        // The root directory of the sandbox has this one's mode, whatever the agent's mask is.
        Ok(()) => fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)),
    }
}

/// The child's times are of the same clock as ours.
fn add_steps(trace: &mut Steps, steps: &[wire::StageTime]) {
    let now = clock_gettime(ClockId::Monotonic);
    let now =
        u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default();
    let elapsed = trace.elapsed();
    for step in steps {
        let ago = Duration::from_nanos(now.saturating_sub(step.began_ns));
        trace.push(Step {
            name: step.stage.name(),
            began: elapsed.saturating_sub(ago),
            took: Duration::from_nanos(step.took_ns),
        });
    }
}
