//! How a sandbox goes: killed and answered first, taken down behind the answer, the record last.
//!
//! Each step succeeds when there is nothing to do, so a crash in the middle is finished by doing all of it again.

use std::time::Duration;

use super::entry::{Kept, Reply};
use super::error::OrderError;
use super::generation::{Seen, Verdict};
use super::owner::{Flow, Owner};
use super::record::{Phase, State};
use crate::driver::Kind;
use crate::failpoint;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);

impl Owner {
    pub(super) async fn destroy(&mut self, seen: Option<Seen>, reply: Reply) -> Flow {
        if let Some(seen) = seen {
            match self.judge(&seen) {
                Ok(Verdict::New | Verdict::Repeated) => self.record.seen = seen,
                Err(error) => {
                    let _asker_is_gone = reply.send(Err(error));
                    return Flow::Stays;
                }
            }
        }
        self.record.phase = Phase::Destroying;
        self.save();
        self.entry.cut.cancel();
        self.life = None;
        failpoint!("agent.destroy.before_kill", Flow::Stays);
        match self.shared.machine.kill(&self.record.id).await {
            Ok(()) => {
                self.shared.graves.dig(&self.record.id, self.record.seen.generation);
                let _asker_is_gone = reply.send(Ok(self.answer(Kept::Files)));
            }
            Err(error) => {
                tracing::error!(sandbox = %self.record.id, %error, "a sandbox's processes resist; trying on");
                let error = OrderError::failed("killing the sandbox's processes", &error);
                let _asker_is_gone = reply.send(Err(error));
            }
        }
        failpoint!("agent.destroy.after_answer", Flow::Stays);
        self.take_down().await;
        Flow::Gone
    }

    /// Control knows that it has ended: nothing of it is needed any more.
    pub(super) async fn die_acknowledged(&mut self) -> Flow {
        self.record.phase = Phase::Destroying;
        self.save();
        self.shared.graves.dig(&self.record.id, self.record.seen.generation);
        self.take_down().await;
        Flow::Gone
    }

    /// A crash interrupted its birth or its death.
    pub(super) async fn finish_dying(&mut self) {
        tracing::info!(sandbox = %self.record.id, phase = ?self.record.phase, "finishing what a crash interrupted");
        if self.record.phase == Phase::Destroying {
            self.shared.graves.dig(&self.record.id, self.record.seen.generation);
        }
        self.take_down().await;
    }

    /// Takes everything down, however often it takes. Ends early when the agent does; the next one goes on.
    pub(super) async fn take_down(&mut self) {
        let mut wait = FIRST_RETRY;
        while !self.try_take_down().await {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.shared.stop.cancelled() => return,
            }
            wait = (wait * 2).min(LAST_RETRY);
        }
    }

    /// Processes, cgroup, network, disk, slot, record: in this order. Whether nothing is left.
    pub(super) async fn try_take_down(&mut self) -> bool {
        match self.remove_all().await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(sandbox = %self.record.id, %error, "taking a sandbox down is not finished yet");
                false
            }
        }
    }

    async fn remove_all(&mut self) -> Result<(), OrderError> {
        let shared = self.shared.clone();
        let machine = &shared.machine;
        let id = self.record.id.clone();
        self.life = None;
        self.images.clear();
        if self.record.phase != Phase::Destroying {
            // A crash from here on finds a birth that was given up.
            self.record.phase = Phase::Destroying;
            self.record.state = State::Exited;
            if shared.records.directory_of(&id).exists() {
                self.save();
            }
        }
        machine.clean_up(&id).await.map_err(|error| OrderError::failed("removing its cgroups", &error))?;
        failpoint!("agent.destroy.after_cgroups");
        if let Some(slot) = self.record.slot {
            machine.detach(slot).await?;
        }
        if self.record.spec.kind() == Kind::Vm {
            for mount in &self.record.spec.volumes {
                // Whatever stays there, the sandbox goes.
                if let Err(error) = machine.clear_unlinked(&mount.id, &id).await {
                    tracing::warn!(sandbox = %id, %error, "what it had removed from a volume is not all gone");
                }
            }
        }
        machine.delete_volume(&id).await?;
        failpoint!("agent.destroy.after_volume");
        shared.records.remove(&id).map_err(|error| OrderError::failed("removing its record", &error))?;
        if let Some(slot) = self.record.slot.take() {
            machine.give_back_slot(slot);
        }
        Ok(())
    }
}
