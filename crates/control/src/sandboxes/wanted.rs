//! What is asked for when a sandbox is to be made, and what that asks of a host.

use std::collections::BTreeMap;

use atoll_model::OnTimeout;
use atoll_model::sandbox::OnReboot;
use serde_json::json;

use super::timing::StepTimes;
use super::{Network, Owner, SandboxError, SandboxRecord};
use crate::fleet::{ANY_DRIVER, Demand};
use crate::layers::LayerRow;
use crate::templates::store::Template;
use crate::volumes::{Mount, Wish};

pub const DEFAULT_VCPUS: u32 = 1;
pub const DEFAULT_MEMORY_MB: u64 = 512;
pub const DEFAULT_DISK_MB: u64 = 5120;
/// The drivers by their names.
pub const CONTAINER: &str = "container";
pub const VM: &str = "vm";
/// Memory of a virtual machine, at least. Hosts refuse what is smaller.
pub const MIN_MACHINE_MB: u64 = 128;

/// What a sandbox begins with, of a snapshot of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFrom {
    Memory,
    Files,
}

impl StartFrom {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Files => "files",
        }
    }
}

/// What is asked for, validated.
#[derive(Debug, Clone)]
pub struct NewSandbox {
    pub template: String,
    pub vcpus: Option<u32>,
    pub memory_mb: Option<u64>,
    pub disk_mb: Option<u64>,
    pub timeout_sec: u64,
    /// Seconds after which it ends whatever it does.
    pub lifetime_sec: Option<u64>,
    pub on_timeout: OnTimeout,
    pub auto_resume: bool,
    pub on_reboot: OnReboot,
    /// None: the template's.
    pub driver: Option<String>,
    /// None: memory, if there is any to go on with.
    pub start_from: Option<StartFrom>,
    /// Passed to the host and kept nowhere here.
    pub env: BTreeMap<String, String>,
    /// Variables, and the team's secrets that they get their values from.
    pub secrets: BTreeMap<String, String>,
    pub volumes: Vec<Wish>,
    pub metadata: BTreeMap<String, String>,
    pub network: Network,
    /// The client will ask again with the same key if it goes away, so the sandbox is kept for it.
    pub keep_if_abandoned: bool,
    /// `build` and the build's id for sandboxes of control's own, else empty.
    pub purpose: String,
    /// Filled with where the time went.
    pub times: StepTimes,
}

pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn demand(owner: &Owner, new: &NewSandbox, template: &Template) -> Demand {
    let size = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
    let driver = new.driver.as_deref().filter(|driver| *driver != ANY_DRIVER).unwrap_or(&template.driver);
    Demand {
        team: owner.team.clone(),
        team_is_byoc: owner.team_is_byoc,
        driver: driver.to_owned(),
        vm_version: None,
        vcpus: new
            .vcpus
            .or_else(|| size(template.vcpus).and_then(|value| u32::try_from(value).ok()))
            .unwrap_or(DEFAULT_VCPUS),
        memory_mb: new.memory_mb.or_else(|| size(template.memory_mb)).unwrap_or(DEFAULT_MEMORY_MB),
        disk_mb: new.disk_mb.or_else(|| size(template.disk_mb)).unwrap_or(DEFAULT_DISK_MB),
        image: Some(template.digest.clone()),
        only: None,
        volumes_on: None,
        tried: Vec::new(),
    }
}

/// What machines must run on for what this begins with in memory to go on; none when it begins with files: nothing was
/// kept in memory, or that of a machine of another size.
pub(super) fn memory_of(
    start_from: Option<StartFrom>,
    template: &Template,
    layers: &[LayerRow],
    demand: &Demand,
) -> Result<Option<String>, SandboxError> {
    let size = (Some(i64::from(demand.vcpus)), Some(signed(demand.memory_mb)));
    let top = layers.first().filter(|top| top.memory && start_from != Some(StartFrom::Files));
    let refused = match top {
        Some(top) if size == (template.vcpus, template.memory_mb) => return Ok(top.vm_version.clone()),
        Some(_) => "memory goes on with the `vcpus` and `memory_mb` that it was kept with alone".to_owned(),
        None => format!("`{}` has no memory to go on with", template.name),
    };
    if start_from == Some(StartFrom::Memory) { Err(SandboxError::NoMemory(refused)) } else { Ok(None) }
}

/// What the audit trail says of a create: of secrets and volumes, what they are called.
pub(super) fn details(record: &SandboxRecord, new: &NewSandbox, mounts: &[Mount]) -> serde_json::Value {
    let mut details = json!({ "template": record.template, "driver": record.driver });
    if !new.secrets.is_empty() {
        details["secrets"] = json!(new.secrets.values().collect::<Vec<_>>());
    }
    if !record.network.identities.is_empty() {
        details["identities"] = json!(record.network.identities);
    }
    if !record.network.headers.is_empty() {
        details["headers"] = record.network.audited()["headers"].take();
    }
    if let Some(proxy) = &record.network.egress_proxy {
        details["egress_proxy"] = proxy.audited();
    }
    if !mounts.is_empty() {
        details["volumes"] = json!(mounts.iter().map(|mount| mount.volume.name.as_str()).collect::<Vec<_>>());
    }
    details
}
