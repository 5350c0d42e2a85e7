//! What a launch needs to know. All of it comes from the keeper's record; nothing is looked up.

use std::path::PathBuf;

use atoll_model::SandboxId;

use crate::slots::Slot;

#[derive(Debug, Clone)]
pub struct LaunchSpec {
    pub id: SandboxId,
    /// Address, gateway and the 65,536 user ids.
    pub slot: Slot,
    /// Read-only layers of the root file system, topmost first: the mounted template image last.
    pub lowers: Vec<PathBuf>,
    /// The volume of the sandbox; holds the directories `up` and `work` (made when missing) on one file system.
    pub volume: PathBuf,
    /// At least 1.
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub pids_max: u32,
    pub hostname: String,
    /// Passed to the guest agent as JSON in a sealed memory file (descriptor 4). May hold secrets: never logged.
    pub guest_config: serde_json::Value,
    /// Where the agent connects to the guest. Its directory must be there; a socket left by a crash is replaced.
    pub socket_path: PathBuf,
}
