//! One machine of the fake fleet: its sandboxes are entries in a map, and it fails when it is told to. [`host`] is what
//! control asks of it, [`guest`] what is asked of its sandboxes, [`web`] what of both is plain HTTP.

mod guest;
mod host;
mod web;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_model::SandboxId;
use atoll_rpc::atoll::host::v1::*;
use atoll_rpc::connectrpc::ConnectError;
use axum::body::Bytes;

use super::process::Ran;
pub use web::Lie;

#[derive(Clone, Default)]
pub struct FakeAgent(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    sandboxes: HashMap<String, Sandbox>,
    specs: HashMap<String, SandboxSpec>,
    unreachable: bool,
    /// So many creates fail.
    failing_creates: usize,
    /// Creates take this long.
    create_takes: Duration,
    failing_pauses: usize,
    /// So many bytes of memory each pause gives up.
    freed_by_pauses: u64,
    failing_policies: usize,
    /// So many requests into sandboxes find them paused.
    paused_for: usize,
    /// Pauses of these are never answered.
    hanging_pauses: Vec<SandboxId>,
    /// What programs end with.
    exit_code: i32,
    full: bool,
    calls: Vec<String>,
    layers: std::collections::BTreeSet<String>,
    images: HashMap<String, Bytes>,
    lie: Option<Lie>,
    /// Files of all sandboxes.
    files: HashMap<String, Bytes>,
    ran: Vec<Ran>,
    /// What its machines run on: it keeps their memory when asked to.
    vm_version: Option<String>,
    /// Layers that it can't pack.
    unpackable: std::collections::BTreeSet<String>,
    /// It doesn't answer to packs while this is locked.
    packing: Arc<tokio::sync::Mutex<()>>,
    /// It measures these too, whatever it is asked.
    unasked: Vec<SandboxMetrics>,
}

impl FakeAgent {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// It runs machines from now on, on this, and keeps their memory.
    pub fn run_machines_on(&self, vm_version: &str) {
        self.state().vm_version = Some(vm_version.to_owned());
    }

    pub fn vm_version(&self) -> Option<String> {
        self.state().vm_version.clone()
    }

    pub fn fail_creates(&self, count: usize) {
        self.state().failing_creates = count;
    }

    /// It refuses creates from now on, for want of room.
    pub fn fill(&self) {
        self.state().full = true;
    }

    pub fn fail_pauses(&self, count: usize) {
        self.state().failing_pauses = count;
    }

    /// Each pause gives up so many bytes of memory.
    pub fn free_by_pauses(&self, bytes: u64) {
        self.state().freed_by_pauses = bytes;
    }

    /// The next requests into its sandboxes find them paused.
    pub fn refuse_as_paused(&self, count: usize) {
        self.state().paused_for = count;
    }

    pub fn fail_policies(&self, count: usize) {
        self.state().failing_policies = count;
    }

    /// It has passed over a part of what a sandbox may reach, and wants to hear it again.
    pub fn forget_policy(&self, id: &SandboxId) {
        let mut state = self.state();
        if let Some(spec) = state.specs.get_mut(id.as_str()) {
            spec.network = Default::default();
            spec.network_generation = 0;
        }
        if let Some(sandbox) = state.sandboxes.get_mut(id.as_str()) {
            sandbox.network_generation = 0;
        }
    }

    pub fn hang_pauses_of(&self, id: &SandboxId) {
        self.state().hanging_pauses.push(id.clone());
    }

    pub fn end_programs_with(&self, exit_code: i32) {
        self.state().exit_code = exit_code;
    }

    pub fn also_tell(&self, metrics: SandboxMetrics) {
        self.state().unasked.push(metrics);
    }

    pub fn let_guests_lie(&self, lie: Lie) {
        self.state().lie = Some(lie);
    }

    pub fn take_for_creates(&self, time: Duration) {
        self.state().create_takes = time;
    }

    pub fn set_unreachable(&self, unreachable: bool) {
        self.state().unreachable = unreachable;
    }

    pub fn is_unreachable(&self) -> bool {
        self.state().unreachable
    }

    /// What it was asked, in order: `create`, `destroy`, ...
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    pub fn state_of(&self, id: &SandboxId) -> Option<SandboxState> {
        self.state().sandboxes.get(id.as_str()).and_then(|sandbox| sandbox.state.as_known())
    }

    pub fn spec_of(&self, id: &SandboxId) -> Option<SandboxSpec> {
        self.state().specs.get(id.as_str()).cloned()
    }

    fn take_policy(&self, id: &str, network: Option<NetworkPolicy>, generation: u64) -> Result<(), ConnectError> {
        let mut state = self.state();
        if state.failing_policies > 0 {
            state.failing_policies -= 1;
            return Err(ConnectError::internal("told to fail"));
        }
        let spec = state.specs.get_mut(id).ok_or_else(|| ConnectError::not_found("no such sandbox"))?;
        if generation < spec.network_generation {
            return Err(ConnectError::aborted("an older policy"));
        }
        spec.network = network.into();
        spec.network_generation = generation;
        if let Some(sandbox) = state.sandboxes.get_mut(id) {
            sandbox.network_generation = generation;
        }
        Ok(())
    }

    fn spec_of_id(&self, id: &str) -> Option<SandboxSpec> {
        self.state().specs.get(id).cloned()
    }

    /// What was run in its sandboxes, in order.
    pub fn programs(&self) -> Vec<Ran> {
        self.state().ran.clone()
    }

    pub(super) fn ran(&self, program: Ran) {
        self.state().ran.push(program);
    }

    /// It can't pack this layer, as one of too many files.
    pub fn refuse_to_pack(&self, layer: &str) {
        self.state().unpackable.insert(layer.to_owned());
    }

    /// Packs wait for as long as the guard lives.
    pub async fn hold_packs(&self) -> tokio::sync::OwnedMutexGuard<()> {
        let packing = self.state().packing.clone();
        packing.lock_owned().await
    }

    /// It has lost what it packed.
    pub fn lose_images(&self) {
        self.state().images.clear();
    }

    pub fn layers(&self) -> Vec<String> {
        self.state().layers.iter().cloned().collect()
    }

    pub fn count(&self) -> usize {
        self.state().sandboxes.len()
    }

    fn note(&self, call: &str) {
        self.state().calls.push(call.to_owned());
    }

    fn move_to(&self, id: &str, generation: u64, state: SandboxState) -> Result<Sandbox, ConnectError> {
        let mut this = self.state();
        let sandbox = this.sandboxes.get_mut(id).ok_or_else(|| ConnectError::not_found("no such sandbox"))?;
        if generation < sandbox.generation {
            return Err(ConnectError::failed_precondition("an older generation"));
        }
        sandbox.generation = generation;
        sandbox.state = state.into();
        Ok(sandbox.clone())
    }
}
