//! The order of a launch: everything that QEMU inherits is opened, QEMU begins in its jail, the guest boots, is told who
//! it is, and says that it is ready. Undone as a whole when any part of it fails.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use atoll_model::SandboxId;
use atoll_rpc::channel::{Beginning, Ground, Knows, Network};

use super::channel::{ANSWERED, Bridge, INSISTENCE, Met, Talk};
use super::disk::{Content, Disk};
use super::kept::SHAPE;
use super::origin::{Instead, Origin};
use super::patience::Patience;
use super::qmp::{Cont, Qmp, QueryStatus, ReadConsole, is_gone};
use super::said::{end_of, log, said};
use super::stored::Stored;
use super::volumes::Volumes;
use super::waiting::Shape;
use super::{GUEST_SOCKET, PORT_SOCKET, QMP_SOCKET, Shared, VOLUMES_SOCKET, disk, jail, qemu};
use crate::cgroup::{Cgroups, Limits};
use crate::driver::launch::{failpoint, machine_id};
use crate::driver::{
    DriverError, InitProcess, LaunchSpec, NetworkAttach, Role, Running, SharedVolume, StartFrom, Steps, socket,
};
use atoll_launch::wire;

/// The process gets so much more of them than its guest has processors; it opens nothing by itself.
const THREADS: u32 = 192;
const OPEN_FILES: u64 = 1024;
/// The step in which it turns out whether what was stored can be gone on with.
const READING: &str = "reading its stored memory";
/// In which it is lent its memory.
const STARTING: &str = "starting QEMU";
const LETTING_GO_ON: &str = "letting it go on";
/// The step by which a stored machine that goes on is known.
pub const RESTORED: &str = "restore";

/// The step by which one is known that goes on as another did.
pub const CLONED: &str = "clone";

pub(super) struct Problem(pub String, pub io::Error);

impl Problem {
    /// Whether it says nothing against the memory that was to be gone on with: it was not read, and can be lent here. (Beneath
    /// another supervisor of system calls it can't.)
    fn is_passing(&self) -> bool {
        self.0 != READING && (self.0 != STARTING || self.1.kind() != io::ErrorKind::ResourceBusy)
    }

    /// Whether QEMU was gone before it had read the memory: somebody has killed it, or what it read did.
    fn is_death(&self) -> bool {
        self.0 == READING && is_gone(&self.1)
    }
}

pub(super) trait InStep<T> {
    fn in_step(self, step: &str) -> Result<T, Problem>;
}

impl<T, E: Into<io::Error>> InStep<T> for Result<T, E> {
    fn in_step(self, step: &str) -> Result<T, Problem> {
        self.map_err(|error| Problem(step.to_owned(), error.into()))
    }
}

impl Begun {
    pub fn running(&self, id: &SandboxId, cgroups: &Arc<Cgroups>) -> io::Result<Running> {
        Ok(Running::new(id.clone(), self.init.clone(), self.pidfd.try_clone()?, Arc::clone(cgroups)))
    }
}

/// A launch that failed, and what may be done about it.
struct Failure(Problem, Instead);

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(problem, Instead::Nothing)
    }
}

/// QEMU, begun.
pub(super) struct Begun {
    init: InitProcess,
    pidfd: OwnedFd,
    /// Of the sandbox's own socket.
    listener: OwnedFd,
    log: OwnedFd,
    ground: Ground,
    pub beginning: Beginning,
    volumes: Vec<SharedVolume>,
    from: Origin,
    /// Of machines that know nothing yet; and with its disk, of those that stand on the same, if there may be any.
    shape: Shape,
    standing: Option<(Shape, File)>,
}

impl Shared {
    pub(super) async fn launch(
        self: Arc<Self>,
        spec: LaunchSpec,
        network: Arc<dyn NetworkAttach>,
        is_over: &(dyn Fn() -> bool + Send + Sync),
        trace: &mut Steps,
    ) -> Result<Running, DriverError> {
        let id = spec.id.clone();
        if self.cgroups.is_populated(id.as_str()) {
            let source = io::Error::new(io::ErrorKind::AlreadyExists, "its processes are running");
            return Err(DriverError::Launch { id, step: "looking for an earlier launch".to_owned(), source });
        }
        let result = match spec.role.clone() {
            Role::Sandbox | Role::Spare => self.attempt(spec, network, is_over, trace).await,
            Role::TakesOver(spare) => self.take_over(spec, spare, trace).await,
        };
        if result.is_err() {
            self.undo(id.clone()).await;
        }
        result.map_err(|Problem(step, source)| DriverError::Launch { id, step, source })
    }

    /// Takes everything back; logs what can't be.
    pub(super) async fn undo(self: &Arc<Self>, id: SandboxId) {
        let (shared, name) = (Arc::clone(self), id.clone());
        match tokio::task::spawn_blocking(move || shared.remove(&name)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%id, %error, "undoing the launch of a machine"),
            Err(error) => tracing::error!(%id, %error, "undoing the launch of a machine"),
        }
    }

    /// Goes on with what was stored of it, if that can be done, and boots it otherwise. One that nobody waits for any more
    /// is tried in no other way: it may have been ended.
    async fn attempt(
        self: &Arc<Self>,
        spec: LaunchSpec,
        network: Arc<dyn NetworkAttach>,
        is_over: &(dyn Fn() -> bool + Send + Sync),
        trace: &mut Steps,
    ) -> Result<Running, Problem> {
        trace.skip();
        let id = spec.id.clone();
        let step = "opening its stored memory";
        let (mut stored, mut deaths) = (self.open_stored(&id).in_step(step)?, 0);
        if stored.is_none() {
            self.clear_half_stored(&id).in_step("removing what a pause has left")?;
        }
        while stored.is_some() {
            match self.once(spec.clone(), network.clone(), stored.take(), true, trace).await {
                Ok(running) => return Ok(running),
                // If its memory was the reason, it is again.
                Err(Failure(problem, _)) if problem.is_death() && deaths == 0 && self.is_stored(&id) => {
                    tracing::warn!(%id, error = %problem.1, "QEMU was gone before it had read a stored machine");
                    deaths += 1;
                    self.undo(id.clone()).await;
                    stored = self.open_stored(&id).in_step(step)?;
                }
                // What has nothing to do with its memory may pass, and leaves it as it was.
                Err(Failure(problem, _)) if problem.is_passing() && self.is_stored(&id) => {
                    return Err(problem);
                }
                Err(Failure(Problem(step, error), _)) => {
                    tracing::warn!(%id, step, %error, "a stored machine can't go on: it starts from its disk");
                    self.undo(id.clone()).await;
                    self.forget_stored(&id).in_step("removing its stored memory")?;
                }
            }
        }
        let Failure(Problem(step, error), instead) =
            match self.once(spec.clone(), network.clone(), None, true, trace).await {
                Ok(running) => return Ok(running),
                Err(failure) => failure,
            };
        match instead {
            _ if is_over() => return Err(Problem(step, error)),
            Instead::Nothing => return Err(Problem(step, error)),
            Instead::Boot if spec.start_from == StartFrom::Memory => return Err(Problem(step, error)),
            Instead::Boot => {}
            Instead::BootWithout(shape) => self.waiting.remove(&shape),
        }
        tracing::warn!(%id, step, %error, "a copy does not work: the machine is booted");
        self.undo(id).await;
        self.once(spec, network, None, false, trace).await.map_err(|Failure(problem, _)| problem)
    }

    async fn once(
        self: &Arc<Self>,
        spec: LaunchSpec,
        network: Arc<dyn NetworkAttach>,
        own: Option<Stored>,
        copies: bool,
        trace: &mut Steps,
    ) -> Result<Running, Failure> {
        let (shared, id, role) = (Arc::clone(self), spec.id.clone(), spec.role.clone());
        let beginning = tokio::task::spawn_blocking(move || shared.begin(&spec, &*network, own, copies));
        let begun = beginning.await.map_err(io::Error::other).in_step(STARTING)??;
        trace.done("start qemu");
        let greeted = self.greet(&id, &begun, trace).await;
        let talk = greeted.map_err(|problem| {
            let answered = problem.1.kind() == ANSWERED;
            match begun.from.instead() {
                // Another sandbox would have had another answer.
                Instead::BootWithout(_) if answered => Failure(problem, Instead::Boot),
                instead => Failure(problem, instead),
            }
        })?;
        if role == Role::Spare {
            return Ok(self.rehearse(id, begun, talk, trace).await?);
        }
        Ok(self.serve(id, begun, talk)?)
    }

    /// From here on it is a sandbox like any other.
    pub(super) fn serve(&self, id: SandboxId, begun: Begun, talk: Talk) -> Result<Running, Problem> {
        let port = self.socket(&id, PORT_SOCKET);
        let bridge = Bridge::start(begun.listener, port, Some(talk)).in_step("serving the guest's socket")?;
        self.bridges().insert(id.clone(), bridge);
        Ok(Running::new(id, begun.init, begun.pidfd, Arc::clone(&self.cgroups)))
    }

    /// From QEMU's begin to a guest that knows who it is.
    async fn greet(&self, id: &SandboxId, begun: &Begun, trace: &mut Steps) -> Result<Talk, Problem> {
        if let Some(stored) = begun.from.stored() {
            let step = READING;
            let mut qmp = self.load(id, stored).await.in_step(step)?;
            failpoint("vm::loaded").in_step(step)?;
            if let Origin::Own(_) = begun.from {
                failpoint("vm::resume::loaded").in_step(LETTING_GO_ON)?;
                self.note_begun(id, &begun.init).in_step(LETTING_GO_ON)?;
                // Who is dead by now has not taken a step: there still is a way back.
                qmp.execute(&QueryStatus {}).await.in_step(step)?;
                self.forget_stored(id).in_step(LETTING_GO_ON)?;
                failpoint("vm::resume::forgotten").in_step(LETTING_GO_ON)?;
            }
            qmp.execute(&Cont {}).await.in_step(step)?;
            failpoint("vm::goes_on").in_step(step)?;
            trace.done("load memory");
        }
        let mounted = self.mount(id, &begun.volumes);
        let talk = self.talk(id, begun, mounted).await?;
        failpoint("vm::ready").in_step("waiting for the guest")?;
        trace.done(match begun.from {
            Origin::Own(_) => RESTORED,
            Origin::Other(_) => CLONED,
            Origin::Waiting(..) => "copy",
            Origin::Boot => "boot",
        });
        Ok(talk)
    }

    /// Offers volumes, and waits until the guest has mounted them. It is greeted meanwhile: a guest that boots has its mounts
    /// before it says that it is ready. Whoever undoes this launch ends what is under way.
    pub(super) fn mount(
        &self,
        id: &SandboxId,
        volumes: &[SharedVolume],
    ) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let volumes = Volumes::start(self.socket(id, VOLUMES_SOCKET), id, volumes);
        let mounted = volumes.as_ref().map(Volumes::mounted);
        if let Some(volumes) = volumes {
            self.volumes().insert(id.clone(), volumes);
        }
        async move {
            match mounted {
                Some(mounted) => mounted.await,
                None => Ok(()),
            }
        }
    }

    /// Everything up to QEMU's begin. Blocks for some ten milliseconds.
    fn begin(
        &self,
        spec: &LaunchSpec,
        network: &dyn NetworkAttach,
        own: Option<Stored>,
        copies: bool,
    ) -> Result<Begun, Failure> {
        spec.check().in_step("checking the request")?;
        let name = spec.id.as_str();
        let into = self.cgroups.begin(name).in_step("making cgroups")?;
        let limits = Limits {
            vcpus: spec.vcpus,
            memory_bytes: spec.memory_bytes + self.accel.overhead_bytes(),
            pids_max: spec.vcpus + THREADS,
        };
        let tasks = self.cgroups.complete(name, &limits).in_step("setting limits")?;
        failpoint("vm::cgroups").in_step("setting limits")?;
        let (lowers, parent) = layers(spec)?;
        let disk = Disk::open(&spec.volume).in_step("opening its disk")?;
        let new = disk.is_new();
        let listen =
            |name: &str| socket::listener(&self.socket(&spec.id, name)).in_step(&format!("listening on {name}"));
        let (listener, port, qmp) = (listen(GUEST_SOCKET)?, listen(PORT_SOCKET)?, listen(QMP_SOCKET)?);
        let volumes = listen(VOLUMES_SOCKET)?;
        let tap = network.tap(&spec.slot).in_step("attaching the network")?;
        failpoint("vm::network").in_step("attaching the network")?;
        let ground = Ground { lowers: lowers.len(), vcpus: spec.vcpus, memory_bytes: spec.memory_bytes, warm: false };
        let network = tap.as_ref().map(|tap| Network {
            address: spec.slot.address(),
            gateway: spec.slot.gateway(),
            mtu: tap.mtu,
            mac: tap.mac,
        });
        let beginning = who_it_is(spec, network, ground.lowers);
        let machine = qemu::Machine {
            accel: self.accel,
            vcpus: spec.vcpus,
            memory_bytes: spec.memory_bytes,
            lowers,
            disk: disk.descriptors().in_step("opening its disk")?,
            port,
            volumes: Some(volumes),
            old_processor: false,
            clock: true,
            qmp,
            tap,
        };
        let step = "looking for what it can go on with";
        let wanted = copies && new && spec.start_from != StartFrom::Files;
        let mut command = self.command(machine, spec, own.is_some(), wanted).in_step(step)?;
        let shape = self.shape_of(&command, true);
        let running = self.shape_of(&command, false);
        // Never written over: it may be kept under another name too. It is synced with what is stored.
        super::remove_file(&self.socket(&spec.id, SHAPE)).in_step(step)?;
        fs::write(self.socket(&spec.id, SHAPE), self.shape_text(&running)).in_step(step)?;
        let kept = if wanted { self.kept_for(spec, &running).in_step(step)? } else { None };
        if new && kept.is_none() && spec.start_from == StartFrom::Memory {
            let text = "no memory is kept here that a machine of this shape could go on with";
            return Err(Problem(step.to_owned(), io::Error::new(io::ErrorKind::NotFound, text)).into());
        }
        let standing = match new && parent.is_none() {
            true => {
                let mtu = beginning.network.as_ref().map(|network| network.mtu);
                self.standing_shape(&shape, spec, mtu).in_step(step)?
            }
            false => None,
        };
        let waiting = || {
            let found = |shape: &Shape, stands: bool| {
                self.waiting.find(shape, stands).map(|stored| Origin::Waiting(stored, shape.clone()))
            };
            let standing = || standing.as_ref().and_then(|shape| found(shape, true));
            if copies { standing().or_else(|| found(&shape, false)) } else { None }
        };
        let from = own.map(Origin::Own).or_else(|| kept.map(Origin::Other));
        let from = from.or_else(waiting).unwrap_or(Origin::Boot);
        let content = match (parent.as_deref(), from.stored().and_then(|stored| stored.disk.as_ref())) {
            (Some(layer), _) => Content::Layer(layer),
            (None, Some(file)) => Content::Copy(file),
            (None, None) => Content::Empty(spec.disk_bytes),
        };
        disk.make(&content).in_step("making its disk")?;
        failpoint("vm::disk").in_step("making its disk")?;
        let standing = standing.map(|shape| disk.descriptors().map(|[_, disk]| (shape, disk.into())));
        let standing = standing.transpose().in_step("opening its disk")?;
        if let Some(stored) = from.stored() {
            command.go_on(stored.with_configuration().in_step(step)?);
        }
        let qemu::Command { arguments, descriptors } = command;
        let log = log().in_step("making a log")?;
        let plan = jail::Plan {
            unified: into.is_some(),
            tasks: tasks.len(),
            program: self.qemu.clone(),
            arguments,
            id: spec.slot.id_base(),
            files: vec![
                (self.kernel.image.clone(), qemu::KERNEL.to_owned()),
                (self.kernel.initramfs.clone(), qemu::INITRAMFS.to_owned()),
            ],
            kvm: self.accel == super::Accel::Kvm,
            max_open_files: OPEN_FILES,
            lend: from.stored().is_some(),
        };
        let mut fds: Vec<_> = into.iter().map(AsFd::as_fd).collect();
        fds.extend(wire::borrowed(&tasks));
        fds.push(log.as_fd());
        fds.extend(from.stored().map(|stored| stored.memory.as_fd()));
        fds.extend(wire::borrowed(&descriptors));
        let started = jail::start(&self.jail, &plan, &fds).in_step(STARTING);
        let (pid, pidfd) = started.map_err(|problem| Failure(problem, from.instead()))?;
        #[cfg(feature = "failpoints")]
        super::doomed::note(pid);
        failpoint("vm::started").in_step(STARTING)?;
        let init = InitProcess::of(pid).in_step("reading QEMU's start time")?;
        let volumes = spec.volumes.clone();
        Ok(Begun { init, pidfd, listener, log, ground, beginning, volumes, from, shape, standing })
    }

    /// What QEMU is told. A machine that goes on with what a former agent's was, is as that one was.
    fn command(&self, machine: qemu::Machine, spec: &LaunchSpec, own: bool, kept: bool) -> io::Result<qemu::Command> {
        if !own && !kept {
            return Ok(machine.command());
        }
        let fits = |command: &qemu::Command| match own {
            true => self.was_as(&spec.id, command),
            false => Ok(self.kept_for(spec, &self.shape_of(command, false))?.is_some()),
        };
        let former = machine.formerly()?;
        let command = machine.command();
        if fits(&command)? {
            return Ok(command);
        }
        for former in former {
            let can_mount = former.volumes.is_some() || spec.volumes.is_empty();
            let former = former.command();
            if can_mount && fits(&former)? {
                return Ok(former);
            }
        }
        Ok(command)
    }

    /// Waits for the guest to come up, tells it what it stands on, and who it is. Before each it is kept for others.
    async fn talk(
        &self,
        id: &SandboxId,
        begun: &Begun,
        mounted: impl Future<Output = io::Result<()>> + Send,
    ) -> Result<Talk, Problem> {
        let talk = async {
            let mut met = Met::at(&self.socket(id, PORT_SOCKET), INSISTENCE).await?;
            if met.knows == Knows::Nothing {
                let booted = matches!(begun.from, Origin::Boot);
                let kept = booted && self.keep_waiting(id, &begun.shape, None).await?;
                // One that was booted has cost its sandbox time enough.
                let standing = begun.standing.as_ref().filter(|_| !kept);
                let standing = standing.filter(|(shape, _)| self.waiting.is_wanted(shape));
                met = met.stand(Ground { warm: standing.is_some(), ..begun.ground.clone() }).await?;
                if let Some((shape, disk)) = standing {
                    self.keep_waiting(id, shape, Some(disk)).await?;
                }
            }
            let new = met.knows == Knows::Ground || begun.from.is_elsewhere();
            let talk = Talk::with(met, new.then_some(&begun.beginning));
            tokio::try_join!(talk, mounted).map(|(talk, ())| talk)
        };
        self.in_time(id, begun, begun.from.patience(), talk).await
    }

    /// Waits for what needs the guest, as long as there is hope. When it fails, it says what QEMU and the guest's console
    /// have said.
    pub(super) async fn in_time<T>(
        &self,
        id: &SandboxId,
        begun: &Begun,
        patience: Patience,
        talk: impl Future<Output = io::Result<T>>,
    ) -> Result<T, Problem> {
        let step = "waiting for the guest";
        let watched = begun.running(id, &self.cgroups).in_step(step)?;
        let why = tokio::select! {
            talk = talk => match talk {
                Ok(talk) => return Ok(talk),
                // What it answers is about what it was told.
                Err(error) if error.kind() == ANSWERED => return Err(Problem(step.to_owned(), error)),
                Err(error) => error.to_string(),
            },
            silence = patience.with(begun.init.pid) => silence,
            exit = watched.exited() => format!("QEMU ended ({:?})", exit.ok().and_then(|exit| exit.code)),
        };
        let mut words = vec![why];
        words.extend(said(&begun.log));
        if let Ok(mut qmp) = Qmp::connect(&self.socket(id, QMP_SOCKET)).await
            && let Ok(console) = qmp.execute(&ReadConsole { device: "console", size: 64 << 10 }).await
        {
            words.extend(end_of(&console).map(|text| format!("its console: {text}")));
        }
        Err(Problem(step.to_owned(), io::Error::other(words.join("; "))))
    }
}

/// The letter for a new sandbox's guest.
pub(super) fn who_it_is(spec: &LaunchSpec, network: Option<Network>, lowers: usize) -> Beginning {
    Beginning {
        guest: spec.guest_config.to_string(),
        hostname: spec.hostname.clone(),
        machine_id: machine_id(&spec.id),
        network,
        lowers,
        volumes: !spec.volumes.is_empty(),
        rehearsed: false,
    }
}

/// The read-only disks, and the disk to begin with: that of the topmost layer which another machine has left.
fn layers(spec: &LaunchSpec) -> Result<(Vec<OwnedFd>, Option<std::path::PathBuf>), Problem> {
    let mut lowers = Vec::new();
    let mut parent = None;
    for lower in &spec.lowers {
        match (&lower.file, disk::of_layer(&lower.path)) {
            (Some(file), _) => {
                let opened = File::open(file).in_step(&format!("opening {}", file.display()))?;
                lowers.push(opened.into());
            }
            // What lies below is in it already.
            (None, Some(disk)) => {
                parent.get_or_insert(disk);
            }
            (None, None) => {
                let error = io::Error::new(
                    io::ErrorKind::Unsupported,
                    "it stands on files that a container has left on this host, which a machine can't mount",
                );
                return Err(Problem("opening its layers".to_owned(), error));
            }
        }
    }
    Ok((lowers, parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_something_of_the_memory_costs_it() {
        let passes = |step: &str, kind: io::ErrorKind| Problem(step.to_owned(), kind.into()).is_passing();
        assert!(passes("attaching the network", io::ErrorKind::ResourceBusy));
        assert!(passes(STARTING, io::ErrorKind::NotFound));
        assert!(!passes(STARTING, io::ErrorKind::ResourceBusy) && !passes(READING, io::ErrorKind::TimedOut));
        let dies = |step: &str, kind: io::ErrorKind| Problem(step.to_owned(), kind.into()).is_death();
        assert!(dies(READING, io::ErrorKind::UnexpectedEof));
        assert!(!dies(READING, io::ErrorKind::Other) && !dies(STARTING, io::ErrorKind::UnexpectedEof));
    }
}
