//! Standing still, and going on.
//!
//! A pause is written down before the processes stop, a resume after they go on: a crash in between leaves a sandbox
//! that recovery stops again, never one that runs on while control believes that it is paused. Whose processes end in
//! between has its files, and is paused with them.

use std::time::Duration;

use super::entry::{Answer, Kept};
use super::error::OrderError;
use super::generation::{Seen, Verdict};
use super::owner::Owner;
use super::record::{Phase, State};
use crate::driver::{DriverError, Kind, Paused, RESTORED, Steps};
use crate::failpoint;

/// What a killed process takes to end, and far more.
const DYING: Duration = Duration::from_secs(3);

impl Owner {
    /// Without `seen`, by the agent's own decision.
    pub(super) async fn pause(&mut self, seen: Option<Seen>, reason: String, keep: Kept) -> Result<Answer, OrderError> {
        if let Some(seen) = &seen {
            self.judge(seen)?;
        }
        match self.record.state {
            State::Running if self.record.phase == Phase::Live => {}
            State::Paused => {
                // Control's own reason takes the place of the agent's.
                if let Some(seen) = seen
                    && self.judge(&seen)? == Verdict::New
                {
                    self.record.seen = seen;
                    self.set_state(State::Paused, &reason);
                }
                return Ok(self.answer(self.kept()));
            }
            _ => return Err(self.wrong_state("only a running one can be paused")),
        }
        let mut steps = Steps::new();
        if keep == Kept::Files {
            // Its files are all that stays. A machine has the newest of them in its memory.
            let settled = self.shared.machine.settle(&self.record.id).await;
            settled.map_err(|error| OrderError::failed("writing the sandbox's files to its disk", &error))?;
            steps.done("files");
        }
        let former = (self.record.seen.clone(), self.record.reason.clone());
        if let Some(seen) = seen {
            self.record.seen = seen;
        }
        if keep == Kept::Files {
            // Nobody looks for processes that are not in the record: they end here, at a start of the agent, or at a resume.
            self.record.init = None;
        }
        self.set_state(State::Paused, &reason);
        steps.done("record");
        failpoint!("agent.pause.after_record");
        if keep == Kept::Files {
            self.end_processes().await;
            self.shared.durable.note_files(&self.record.id);
            return Ok(self.answer(Kept::Files));
        }
        let id = self.record.id.clone();
        if self.record.spec.kind() == Kind::Vm {
            // What is stored makes its directory durable, and with that all names in it: what they name is, before.
            let (records, of) = (self.shared.records.clone(), id.clone());
            let written = tokio::task::spawn_blocking(move || records.write_out(&of)).await;
            if let Err(error) = written.map_err(std::io::Error::other).and_then(|written| written) {
                tracing::error!(sandbox = %id, %error, "the record of a machine that pauses can't be written out");
            }
        }
        let freed_bytes = match self.stand_still().await {
            Ok(freed_bytes) => freed_bytes,
            Err(error) => {
                // It runs on, and says so. What was half stopped goes on as well.
                let gone_on = self.shared.machine.resume(&id).await;
                if gone_on.is_err() && self.has_died().await {
                    tracing::warn!(sandbox = %id, %error, "the processes of a sandbox ended while it was paused; its files stay");
                    self.record.init = None;
                    self.save();
                    self.end_processes().await;
                    self.shared.durable.note_files(&id);
                    return Ok(self.answer(Kept::Files));
                }
                self.record.seen = former.0;
                self.set_state(State::Running, &former.1);
                return Err(OrderError::failed("pausing the sandbox", &error));
            }
        };
        steps.done("stand still");
        failpoint!("agent.pause.after_stop");
        self.shared.durable.note_files(&id);
        Ok(Answer { freed_bytes, steps: steps.as_slice().to_vec(), ..self.answer(Kept::Memory) })
    }

    /// Stops it, and gives up what memory it can; how much.
    pub(super) async fn stand_still(&mut self) -> Result<u64, DriverError> {
        let id = self.record.id.clone();
        match self.shared.machine.pause(&id).await? {
            Paused::Standing => Ok(self.shared.machine.reclaim(&id).await),
            Paused::Stored { freed_bytes } => {
                self.life = None;
                self.record.init = None;
                self.record.stored = true;
                self.save();
                Ok(freed_bytes)
            }
        }
    }

    /// Whether its processes are gone, or soon.
    async fn has_died(&self) -> bool {
        let Some(life) = self.life.clone() else { return true };
        matches!(tokio::time::timeout(DYING, life.exited()).await, Ok(Ok(_)))
    }

    /// Ends the processes of one that keeps its files alone, as a reboot of the machine would. What resists goes when new
    /// ones are started.
    pub(super) async fn end_processes(&mut self) {
        let (id, machine) = (self.record.id.clone(), self.shared.machine.clone());
        // Without its life the owner doesn't take the end of the first process for the sandbox's.
        self.life = None;
        self.images.clear();
        let cleaned = machine.clean_up(&id).await.map_err(|error| error.to_string());
        let detached = match self.record.slot {
            Some(slot) => machine.detach(slot).await.map_err(|error| error.to_string()),
            None => Ok(()),
        };
        if let Err(error) = cleaned.and(detached) {
            tracing::warn!(sandbox = %id, error, "the processes of a sandbox that was paused are not all gone yet");
        }
    }

    pub(super) async fn resume(&mut self, seen: Seen) -> Result<Answer, OrderError> {
        let verdict = self.judge(&seen)?;
        match self.record.state {
            State::Paused => {}
            State::Running => {
                if verdict == Verdict::New {
                    self.record.seen = seen;
                    self.save();
                }
                return Ok(self.answer(Kept::Memory));
            }
            _ => return Err(self.wrong_state("only a paused one can be resumed")),
        }
        failpoint!("agent.resume.before_start");
        let mut kept = self.kept();
        let former = std::mem::replace(&mut self.record.seen, seen);
        let steps = match self.life {
            Some(_) => {
                let mut steps = Steps::new();
                let resumed = self.shared.machine.resume(&self.record.id).await;
                steps.done("go on");
                let resumed = resumed.map(|()| steps.as_slice().to_vec());
                resumed.map_err(|error| OrderError::failed("resuming the sandbox", &error))
            }
            None => self.wake_from_disk().await,
        };
        if let Ok(steps) = &steps
            && std::mem::take(&mut self.record.stored)
            && !steps.iter().any(|step| step.name == RESTORED)
        {
            // What was stored could not be gone on with; it says so.
            kept = Kept::Files;
        }
        match steps {
            Ok(steps) => {
                failpoint!("agent.resume.before_record");
                self.set_state(State::Running, "");
                self.teach_trust().await;
                Ok(Answer { steps, ..self.answer(kept) })
            }
            Err(error) => {
                self.record.seen = former;
                self.save();
                Err(error)
            }
        }
    }

    /// Without processes it has its files: after a reboot of the machine nothing else, when it was stored its memory too.
    async fn wake_from_disk(&mut self) -> Result<Vec<crate::driver::Step>, OrderError> {
        self.fetch_missing().await?;
        let shared = self.shared.clone();
        let _turn = shared.admission.turn(&self.entry.give_up.clone()).await?;
        let woken = self.start_from_disk().await;
        if woken.is_err() {
            self.undo_start_from_disk().await;
            let reason = self.record.reason.clone();
            self.set_state(State::Paused, &reason);
        }
        woken
    }

    /// Nothing of a failed start stays in the kernel; the files do.
    pub(super) async fn undo_start_from_disk(&mut self) {
        self.record.init = None;
        self.end_processes().await;
    }

    pub(super) const fn kept(&self) -> Kept {
        if self.life.is_some() || self.record.stored { Kept::Memory } else { Kept::Files }
    }
}
