//! Slots: who owns which address, user ids and link name on this machine.
//!
//! A data directory claims *blocks* in a directory that all Atolls of the machine share ([`claims`]), one at first and
//! more as they fill; a block holds 255 [`Slot`]s. Which slots are taken is kept in memory only: what lasts is the
//! slot in each sandbox's record, from which [`Slots::open`] learns it again. A slot that was given back goes to the
//! end of the queue, so that an address isn't reused while something out there still talks to it.

mod claims;
mod foreign;
mod slot;

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::Rng;

use crate::instance::Instance;
use claims::{Claim, Claims};
use foreign::Foreign;
pub use slot::{FIRST_BLOCK, IDS_PER_SLOT, LAST_BLOCK, NotANetwork, SLOTS_PER_BLOCK, SandboxNetwork, Slot};

/// The interface group of an instance is this plus its first block.
pub const GROUP_BASE: u32 = 0xA700_0000;

/// Where claims live and which addresses new blocks have.
#[derive(Debug, Clone)]
pub struct SlotsConfig {
    /// One directory per machine: Atolls that don't share it collide.
    pub claims_dir: PathBuf,
    /// For blocks claimed from now on; a block keeps the network it was claimed with.
    pub network: SandboxNetwork,
}

impl Default for SlotsConfig {
    fn default() -> Self {
        Self { claims_dir: PathBuf::from("/run/atoll/blocks"), network: SandboxNetwork::default() }
    }
}

/// No block is free: all are claimed, or overlap what the machine uses otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no slot is free on this machine: {reason}")]
pub struct SlotsExhausted {
    pub reason: String,
}

/// Why slots can't be had at all.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    #[error("{action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Exhausted(#[from] SlotsExhausted),
    #[error(
        "{ours} has the same instance id as {theirs}: it is a copy; remove its file `instance` to make it one of its own",
        ours = ours.display(), theirs = theirs.display()
    )]
    CopiedDirectory { ours: PathBuf, theirs: PathBuf },
    #[error("{0} sandboxes still use slots")]
    InUse(usize),
}

/// The slots of one data directory. Quick, and safe to call from many threads.
#[derive(Debug)]
pub struct Slots {
    claims: Claims,
    group: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blocks: Vec<Claim>,
    free: VecDeque<Slot>,
    used: HashSet<Slot>,
}

impl State {
    fn add_block(&mut self, claim: Claim) {
        let slots = (1..=u8::MAX).filter_map(|index| Slot::new(claim.network, claim.block, index));
        let fresh: Vec<_> = slots.filter(|slot| !self.used.contains(slot)).collect();
        // Begin anywhere: after a restart nobody remembers which address was given back last.
        let start = if fresh.is_empty() { 0 } else { rand::rng().random_range(0..fresh.len()) };
        self.free.extend(fresh[start..].iter().chain(&fresh[..start]));
        self.blocks.push(claim);
    }
}

impl Slots {
    /// Finds the blocks that this data directory has claimed, claims those of `in_use` where a claim is missing, and a
    /// first one if there is none.
    ///
    /// # Errors
    /// When the claims can't be read or written, no block is free, or the data directory is a copy of another.
    pub fn open(instance: &Instance, config: SlotsConfig, in_use: &[Slot]) -> Result<Self, SlotsError> {
        Self::open_on(Claims::new(instance, config, Foreign::read), in_use)
    }

    fn open_on(claims: Claims, in_use: &[Slot]) -> Result<Self, SlotsError> {
        let (found, group) = claims.open(in_use)?;
        let mut state = State { used: in_use.iter().copied().collect(), ..State::default() };
        for claim in found {
            state.add_block(claim);
        }
        Ok(Self { claims, group, state: Mutex::new(state) })
    }

    /// Takes a free slot, claiming another block when all are taken.
    ///
    /// # Errors
    /// When no slot and no block is free.
    pub fn take(&self) -> Result<Slot, SlotsExhausted> {
        let mut state = self.state();
        if state.free.is_empty() {
            let claim = self.claims.claim_another(self.group).map_err(|error| match error {
                SlotsError::Exhausted(exhausted) => exhausted,
                other => SlotsExhausted { reason: other.to_string() },
            })?;
            tracing::info!(block = format_args!("{:#04x}", claim.block), "claimed another block of slots");
            state.add_block(claim);
        }
        let slot = state.free.pop_front().ok_or_else(|| SlotsExhausted { reason: "an empty block".to_owned() })?;
        state.used.insert(slot);
        Ok(slot)
    }

    /// Gives a slot back once nothing lives in it. Giving back what is not taken does nothing.
    pub fn give_back(&self, slot: Slot) {
        let mut state = self.state();
        if state.used.remove(&slot) {
            state.free.push_back(slot);
        }
    }

    /// The interface group of all sandboxes of this instance; the same as long as the instance has a claim.
    #[must_use]
    pub const fn group(&self) -> u32 {
        self.group
    }

    /// The claimed blocks with their networks.
    #[must_use]
    pub fn blocks(&self) -> Vec<(u8, SandboxNetwork)> {
        self.state().blocks.iter().map(|claim| (claim.block, claim.network)).collect()
    }

    /// The slots that are taken.
    #[must_use]
    pub fn in_use(&self) -> Vec<Slot> {
        self.state().used.iter().copied().collect()
    }

    /// Gives up all claims; the last act of an agent that leaves no sandbox behind.
    ///
    /// # Errors
    /// When a slot is still taken, or a claim can't be removed.
    pub fn release_all(&self) -> Result<(), SlotsError> {
        let mut state = self.state();
        if !state.used.is_empty() {
            return Err(SlotsError::InUse(state.used.len()));
        }
        state.free.clear();
        let blocks = std::mem::take(&mut state.blocks);
        self.claims.release(blocks)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements, so a panic elsewhere under the lock spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
