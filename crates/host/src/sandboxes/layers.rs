//! Layers of sandboxes: kept, counted on, deleted; and what a sandbox may reach, changed while it lives.

use std::collections::HashSet;

use atoll_model::{LayerId, SandboxId, VolumeId};

use super::Keeper;
use super::entry::{Answer, Kept, Order};
use super::error::OrderError;
use super::owner::Owner;
use super::record::{Phase, State};
use crate::failpoint;
use crate::network::Policy;
use crate::storage::surplus;

impl Owner {
    /// Running or paused: the files are those of one moment either way. Of a running one, what a program had not yet
    /// handed to the kernel is not among them, unless its memory is kept too.
    pub(super) async fn snapshot(&mut self, layer: &LayerId, memory: bool) -> Result<Answer, OrderError> {
        let alive = matches!(self.record.state, State::Running | State::Paused) && self.record.phase == Phase::Live;
        if !alive {
            return Err(self.wrong_state("only one that runs or is paused has files to keep"));
        }
        failpoint!("agent.snapshot.before");
        let memory = self.shared.machine.snapshot(&self.record.id, layer, memory).await?;
        failpoint!("agent.snapshot.after");
        let kept = if memory { Kept::Memory } else { Kept::Files };
        let mut standing = self.record.standing();
        // A machine's disk began as a copy of the one below.
        standing.retain(|layer| !self.shared.machine.is_disk(layer));
        Ok(Answer { standing, ..self.answer(kept) })
    }

    /// Policies are counted apart from the other orders: one that is older than what is in force is refused.
    pub(super) async fn set_policy(&mut self, generation: u64, policy: Policy) -> Result<Answer, OrderError> {
        if self.record.phase != Phase::Live || self.record.state == State::Exited {
            return Err(self.wrong_state("only a living one has a network"));
        }
        let highest = self.record.policy_generation;
        if generation != 0 && generation < highest {
            return Err(OrderError::Stale { generation, highest });
        }
        // Written first: after a crash in between, the next agent loads what was wanted.
        let former = std::mem::replace(&mut self.record.spec.policy, policy);
        self.record.policy_generation = generation.max(highest);
        let knew = std::mem::replace(&mut self.record.knows_bandwidth, true);
        self.record.spec.deny_egress = self.record.spec.policy.closed;
        self.save();
        if let Some(slot) = self.record.slot
            && let Err(error) = self.shared.machine.set_policy(slot, &self.record.spec.policy).await
        {
            self.record.spec.deny_egress = former.closed;
            self.record.spec.policy = former;
            // Control sees that it is not in force, and orders it again.
            self.record.policy_generation = highest;
            self.record.knows_bandwidth = knew;
            self.save();
            return Err(error.into());
        }
        self.teach_trust().await;
        Ok(self.answer(Kept::Memory))
    }

    /// A guest whose requests get headers must trust the proxy that adds them. One that stands still learns of it when it
    /// goes on; one that won't listen does without.
    pub(super) async fn teach_trust(&self) {
        if self.record.state != State::Running || self.record.spec.policy.headers.is_empty() {
            return;
        }
        let (machine, id) = (&self.shared.machine, &self.record.id);
        let socket = self.shared.records.directory_of(id).join("guest.sock");
        let taught = async { machine.trust(&socket, &machine.egress_authority().await?).await };
        if let Err(error) = taught.await {
            tracing::warn!(sandbox = %id, %error, "requests that headers are added to will fail in this sandbox");
        }
    }
}

impl Keeper {
    /// Keeps what a sandbox has written so far as a layer.
    ///
    /// # Errors
    /// [`OrderError`].
    pub async fn snapshot(&self, id: &SandboxId, layer: LayerId, memory: bool) -> Result<Answer, OrderError> {
        self.known(id)?.order(|reply| Order::Snapshot { layer, memory, reply }).await
    }

    /// # Errors
    /// [`OrderError`].
    pub async fn set_policy(&self, id: &SandboxId, generation: u64, policy: Policy) -> Result<Answer, OrderError> {
        self.known(id)?.order(|reply| Order::SetPolicy { generation, policy: Box::new(policy), reply }).await
    }

    /// Deletes a layer. Success when there is none.
    ///
    /// # Errors
    /// `Busy` while a sandbox stands on it.
    pub async fn delete_layer(&self, layer: &LayerId) -> Result<(), OrderError> {
        if self.layers_in_use().contains(layer) {
            return Err(OrderError::Busy { reason: format!("a sandbox stands on layer {layer}") });
        }
        Ok(self.shared.machine.delete_layer(layer).await?)
    }

    /// Deletes layers that came to this host as the image `digest`. Success when there are none.
    ///
    /// # Errors
    /// `Busy` while a sandbox stands on one.
    pub async fn delete_imported(&self, digest: &str) -> Result<(), OrderError> {
        let imports = self.shared.machine.imports().await?;
        for import in imports.iter().filter(|import| import.digest == digest) {
            self.delete_layer(&import.layer).await?;
        }
        Ok(())
    }

    /// Deletes layers that came from other hosts, the longest unused first, until they take no more than `most` bytes. How
    /// many went. Those that sandboxes stand on stay.
    ///
    /// # Errors
    /// When they can't be listed or deleted.
    pub async fn trim_imports(&self, most: u64) -> Result<usize, OrderError> {
        let surplus = surplus(self.shared.machine.imports().await?, &self.layers_in_use(), most);
        let mut gone = 0;
        for layer in surplus {
            match self.delete_layer(&layer).await {
                Ok(()) => gone += 1,
                Err(OrderError::Busy { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }

    /// Whether a sandbox of this host has the volume.
    #[must_use]
    pub fn has_volume(&self, volume: &VolumeId) -> bool {
        self.shared.entries().iter().any(|entry| entry.view.load().volumes.contains(volume))
    }

    /// What sandboxes of this host were made from, by digest.
    #[must_use]
    pub fn images_in_use(&self) -> HashSet<String> {
        self.shared.entries().iter().flat_map(|entry| entry.view.load().images.clone()).collect()
    }

    fn layers_in_use(&self) -> HashSet<LayerId> {
        self.shared.entries().iter().flat_map(|entry| entry.view.load().layers.clone()).collect()
    }
}
