//! Spares: machines that have come up before anybody asks, and that a sandbox takes over.
//!
//! A spare is launched under a name of its own, and rehearses: it runs programs, and is told in between that it is another,
//! so that what a sandbox does first has been done once (in software, translated). Then it is greeted, and
//! stopped where it waits for its letter. Whoever takes it over gets its slot and its volume from above; here its sockets move to the
//! sandbox's directory, its cgroup is called otherwise, it goes on, and the letter says who it is.
//!
//! Under which name its cgroup was made lies in the sandbox's directory ([`GROUP`]) before anything has moved. An agent
//! that dies before that leaves a spare, which is nobody's, and after it a sandbox that was being born: either is removed by the next.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atoll_model::SandboxId;
use atoll_rpc::channel::Beginning;

use super::channel::{INSISTENCE, Met, Talk};
use super::kept::SHAPE;
use super::launch::{Begun, InStep, Problem, who_it_is};
use super::patience::Patience;
use super::qmp::{Cont, Qmp, Stop};
use super::{GUEST_SOCKET, PORT_SOCKET, QMP_SOCKET, Shared, VOLUMES_SOCKET};
use crate::cgroup::Cgroups;
use crate::driver::launch::failpoint;
use crate::driver::{LaunchSpec, Running, Steps};

/// Beside a machine's record: the name that its cgroup was made under, if that is not its own.
pub(super) const GROUP: &str = "group";
/// One that is taken over has said already that it listens. When it says nothing more there must be time left to start another.
const PATIENCE: Patience = Patience { silent: Duration::from_secs(5), most: Duration::from_secs(15) };
const REHEARSALS_PATIENCE: Patience = Patience { silent: Duration::from_secs(15), most: Duration::from_secs(40) };
/// What is done first in most sandboxes is to start a program, which says something.
const PROGRAMS: [(&str, &[&str]); 2] = [("/bin/sh", &["-c", "/bin/echo ready"]), ("/bin/echo", &["ready"])];

/// One that stands still.
pub(super) struct Spare {
    begun: Begun,
    /// It waits for a letter.
    met: Met,
    qmp: Qmp,
}

/// Says again which machines' cgroups have other names.
pub(super) fn call_by_name(cgroups: &Cgroups, sandboxes: &Path) {
    for entry in fs::read_dir(sandboxes).into_iter().flatten().flatten() {
        let group = fs::read_to_string(entry.path().join(GROUP));
        let group = group.ok().and_then(|group| group.parse::<SandboxId>().ok());
        if let (Some(group), Some(name)) = (group, entry.file_name().to_str()) {
            cgroups.rename(group.as_str(), name);
        }
    }
}

impl Shared {
    /// Makes a spare of one that has come up.
    pub(super) async fn rehearse(
        &self,
        id: SandboxId,
        begun: Begun,
        mut talk: Talk,
        trace: &mut Steps,
    ) -> Result<Running, Problem> {
        let port = self.socket(&id, PORT_SOCKET);
        let another = Beginning { rehearsed: true, ..begun.beginning.clone() };
        let rehearsal = async {
            for (program, args) in PROGRAMS {
                talk.exec(program, args).await?;
                drop(talk);
                talk = Talk::with(Met::at(&port, INSISTENCE).await?, Some(&another)).await?;
            }
            let (program, args) = PROGRAMS[1];
            talk.exec(program, args).await?;
            drop(talk);
            let met = Met::at(&port, INSISTENCE).await?;
            let mut qmp = Qmp::connect(&self.socket(&id, QMP_SOCKET)).await?;
            qmp.execute(&Stop {}).await?;
            Ok((met, qmp))
        };
        let (met, qmp) = self.in_time(&id, &begun, REHEARSALS_PATIENCE, rehearsal).await?;
        let running = begun.running(&id, &self.cgroups).in_step("rehearsing")?;
        self.spares().insert(id, Spare { begun, met, qmp });
        trace.done("rehearse");
        Ok(running)
    }

    /// Makes a sandbox of a spare.
    pub(super) async fn take_over(
        self: &Arc<Self>,
        spec: LaunchSpec,
        of: SandboxId,
        trace: &mut Steps,
    ) -> Result<Running, Problem> {
        let spare = self.spares().remove(&of);
        let taken = self.give(&spec, &of, spare, trace).await;
        if taken.is_err() {
            // Under whichever of the two names it goes.
            self.undo(of).await;
        }
        taken
    }

    async fn give(
        self: &Arc<Self>,
        spec: &LaunchSpec,
        of: &SandboxId,
        spare: Option<Spare>,
        trace: &mut Steps,
    ) -> Result<Running, Problem> {
        let step = "taking over a spare";
        let Spare { mut begun, met, mut qmp } = spare.ok_or(io::ErrorKind::NotFound).in_step(step)?;
        spec.check().in_step("checking the request")?;
        self.move_to(of, &spec.id).in_step(step)?;
        let mut letter = who_it_is(spec, begun.beginning.network.take(), begun.beginning.lowers);
        letter.rehearsed = true;
        begun.beginning = letter;
        qmp.execute(&Cont {}).await.in_step(step)?;
        drop(qmp);
        failpoint("vm::spare::goes_on").in_step(step)?;
        trace.done("go on");
        let mounted = self.mount(&spec.id, &spec.volumes);
        // While it mounts what a slow disk has, it says nothing.
        let patience = if spec.volumes.is_empty() { PATIENCE } else { REHEARSALS_PATIENCE };
        let talk = async { tokio::try_join!(Talk::with(met, Some(&begun.beginning)), mounted).map(|(talk, ())| talk) };
        let talk = self.in_time(&spec.id, &begun, patience, talk).await?;
        trace.done("take over");
        self.serve(spec.id.clone(), begun, talk)
    }

    /// From now on what is here of one is the other's. Takes a moment.
    fn move_to(&self, from: &SandboxId, to: &SandboxId) -> io::Result<()> {
        fs::write(self.socket(to, GROUP), from.as_str())?;
        failpoint("vm::spare::named")?;
        self.cgroups.rename(from.as_str(), to.as_str());
        for name in [GUEST_SOCKET, PORT_SOCKET, VOLUMES_SOCKET, QMP_SOCKET, SHAPE] {
            fs::rename(self.socket(from, name), self.socket(to, name))?;
        }
        failpoint("vm::spare::moved")
    }
}
