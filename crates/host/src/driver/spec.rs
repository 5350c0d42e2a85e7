//! What a launch needs to know. All of it comes from the keeper's record; nothing is looked up.

use std::fmt;
use std::io;
use std::path::PathBuf;

use atoll_model::{SandboxId, VolumeId};
use serde::{Deserialize, Serialize};

use crate::slots::Slot;
use atoll_launch::{MAX_LOWERS, MAX_VOLUMES};

/// The kernel's own limit on a host name.
const MAX_HOSTNAME: usize = 64;

/// A directory of this host that is mounted into a sandbox. Owners in it are 0-based.
#[derive(Debug, Clone)]
pub struct SharedVolume {
    pub id: VolumeId,
    pub source: PathBuf,
    /// What it may hold.
    pub bytes: u64,
    /// Inside, absolute.
    pub path: String,
    pub read_only: bool,
}

/// What a machine begins with when it starts for the first time, on layers with which memory may have been kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartFrom {
    /// Memory if it can go on with that, else files.
    #[default]
    Either,
    /// Nothing else will do.
    Memory,
    Files,
}

impl StartFrom {
    #[must_use]
    pub const fn is_either(&self) -> bool {
        matches!(self, Self::Either)
    }
}

/// What a launch is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Role {
    #[default]
    Sandbox,
    /// A machine for whoever comes: once it has come up it rehearses, and stands still.
    Spare,
    /// A sandbox that is to be made of this spare, whose slot and volume it has already.
    TakesOver(SandboxId),
}

/// Which driver runs a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    #[default]
    Container,
    Vm,
}

/// A read-only layer of the root file system.
#[derive(Debug, Clone)]
pub struct Lower {
    /// The directory: a mounted image, or what another sandbox has left in the pool.
    pub path: PathBuf,
    /// The image that is mounted there, if one is.
    pub file: Option<PathBuf>,
}

impl From<PathBuf> for Lower {
    fn from(path: PathBuf) -> Self {
        Self { path, file: None }
    }
}

#[derive(Clone)]
pub struct LaunchSpec {
    pub id: SandboxId,
    pub kind: Kind,
    /// Address, gateway and the 65,536 user ids.
    pub slot: Slot,
    /// Read-only layers of the root file system, topmost first: the mounted template image last.
    pub lowers: Vec<Lower>,
    /// The volume of the sandbox; holds the directories `up` and `work` (made when missing) on one file system.
    pub volume: PathBuf,
    /// Of its own files at most.
    pub disk_bytes: u64,
    /// Mounted into it.
    pub volumes: Vec<SharedVolume>,
    /// At least 1.
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub pids_max: u32,
    pub start_from: StartFrom,
    pub role: Role,
    pub hostname: String,
    /// Passed to the guest agent as JSON in a sealed memory file (descriptor 4). May hold secrets: never logged.
    pub guest_config: serde_json::Value,
    /// Where the agent connects to the guest. Its directory must be there; a socket left by a crash is replaced.
    pub socket_path: PathBuf,
}

/// Without the guest's configuration.
impl fmt::Debug for LaunchSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaunchSpec")
            .field("id", &self.id)
            .field("slot", &self.slot)
            .field("lowers", &self.lowers)
            .field("volume", &self.volume)
            .field("vcpus", &self.vcpus)
            .field("memory_bytes", &self.memory_bytes)
            .field("pids_max", &self.pids_max)
            .field("hostname", &self.hostname)
            .field("socket_path", &self.socket_path)
            .finish_non_exhaustive()
    }
}

impl LaunchSpec {
    /// Whether it can be launched at all.
    pub(super) fn check(&self) -> io::Result<()> {
        let wrong = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        if self.lowers.is_empty() || self.lowers.len() > MAX_LOWERS {
            return wrong("the number of layers must be 1 to 16");
        }
        if self.volumes.len() > MAX_VOLUMES {
            return wrong("the number of volumes must be 8 at most");
        }
        if self.hostname.is_empty() || self.hostname.len() > MAX_HOSTNAME {
            return wrong("the host name must have 1 to 64 bytes");
        }
        if !self.hostname.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.') {
            return wrong("the host name must be letters, digits, hyphens and dots");
        }
        if self.vcpus == 0 || self.memory_bytes == 0 || self.pids_max == 0 {
            return wrong("processors, memory and processes must be at least 1");
        }
        Ok(())
    }
}
