//! Settings of the host agent, as the command line and the environment give them.
//!
//! Plain values: nothing here touches the machine. What control decides for its hosts (the heartbeat's interval, unless
//! it is overridden here) comes with the credentials instead.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

use crate::slots::SandboxNetwork;

/// Everything that an agent is told at its start.
#[derive(Clone)]
pub struct HostConfig {
    /// What this agent owns: credentials, records, the storage pool. Made 0700 when missing.
    pub data_dir: PathBuf,
    /// Images that all Atolls of this machine share.
    pub cache_dir: PathBuf,
    /// Where control is: `http://host:port` or `https://host`. The agent speaks TLS to either.
    pub server_url: String,
    /// One-time registration token; needed until the host has its credentials.
    pub register_token: Option<SecretString>,
    /// Where control reaches this agent, `host:port`; when absent, the address from which control is reached and the
    /// port that is listened on.
    pub address: Option<String>,
    /// Control can't reach this agent: it keeps a connection open, through which control calls it. `address` is then
    /// not needed.
    pub tunnel: bool,
    /// Where to listen for control. Port 0 takes any free one (and keeps it over restarts when it can).
    pub listen: SocketAddr,
    pub driver: DriverChoice,
    /// The guest agent, a static binary.
    pub guest_binary: &'static [u8],
    /// Networks (CIDR) that sandboxes may reach although they are private.
    pub egress_allow: Vec<String>,
    /// Bytes a second that a sandbox may exchange with the world, each way.
    pub max_bandwidth: Option<u64>,
    /// The /16 that sandboxes' addresses come from.
    pub sandbox_network: SandboxNetwork,
    /// Size of the storage pool; what the disk has to spare when absent.
    pub pool_bytes: Option<u64>,
    /// What images that were fetched may take together.
    pub image_cache_bytes: Option<u64>,
    pub on_disconnect: OnDisconnect,
    /// Takes precedence over the interval that control asks for.
    pub heartbeat_interval: Option<Duration>,
    /// Contact with control counts as lost after this long.
    pub disconnect_after: Duration,
    /// How long an unknown sandbox or an order may take; see [`Limits`].
    pub limits: Limits,
    /// Version of the agent, for control and people.
    pub version: String,
}

impl HostConfig {
    /// The defaults, for an agent that belongs to the control plane at `server_url`.
    #[must_use]
    pub fn new(data_dir: PathBuf, cache_dir: PathBuf, server_url: String, guest_binary: &'static [u8]) -> Self {
        Self {
            data_dir,
            cache_dir,
            server_url,
            register_token: None,
            address: None,
            tunnel: false,
            listen: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
            driver: DriverChoice::Auto,
            guest_binary,
            egress_allow: Vec::new(),
            max_bandwidth: None,
            sandbox_network: SandboxNetwork::default(),
            pool_bytes: None,
            image_cache_bytes: None,
            on_disconnect: OnDisconnect::Pause,
            heartbeat_interval: None,
            disconnect_after: Duration::from_secs(90),
            limits: Limits::default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Bounds of what control and sandboxes can make this agent do at once.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sandboxes of this host, paused ones included.
    pub sandboxes: usize,
    /// Sandboxes that are being launched at the same moment; more wait.
    pub parallel_launches: usize,
    /// Creates that wait for their turn; more are refused at once.
    pub waiting_launches: usize,
    /// How long a create waits for its turn.
    pub launch_wait: Duration,
    /// How long a launch takes at most, from the slot to the guest's first word.
    pub launch: Duration,
    /// Sandboxes that are paused or destroyed at the same moment when all of them are.
    pub parallel_sweep: usize,
    /// How long pausing all sandboxes takes at most.
    pub pause_all: Duration,
    /// Streams into one sandbox.
    pub streams_per_sandbox: usize,
    /// Streams into all sandboxes.
    pub streams: usize,
    /// Connections from control.
    pub connections: usize,
    /// Memory that sandboxes may be promised, as a multiple of what the machine has.
    pub memory_overcommit: u64,
    /// Virtual machines that are kept ready for whoever asks for the like.
    pub spare_machines: usize,
    /// Free room on the pool below which nothing new is created.
    pub pool_reserve_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sandboxes: 4096,
            parallel_launches: 16,
            waiting_launches: 1024,
            launch_wait: Duration::from_secs(30),
            launch: Duration::from_secs(30),
            parallel_sweep: 32,
            pause_all: Duration::from_secs(30),
            streams_per_sandbox: 2048,
            streams: 16_384,
            connections: 4096,
            memory_overcommit: 4,
            spare_machines: 0,
            pool_reserve_bytes: 256 << 20,
        }
    }
}

/// Text that names none of a setting's choices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {setting} `{text}`: expected {expected}")]
pub struct UnknownChoice {
    setting: &'static str,
    text: String,
    expected: &'static str,
}

/// Which isolation this host offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriverChoice {
    Container,
    Vm,
    /// The strongest that this machine runs well.
    #[default]
    Auto,
}

impl DriverChoice {
    /// As settings name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Vm => "vm",
            Self::Auto => "auto",
        }
    }
}

impl FromStr for DriverChoice {
    type Err = UnknownChoice;
    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        match text {
            "container" => Ok(Self::Container),
            "vm" => Ok(Self::Vm),
            "auto" => Ok(Self::Auto),
            _ => {
                Err(UnknownChoice { setting: "driver", text: text.to_owned(), expected: "`container`, `vm` or `auto`" })
            }
        }
    }
}

/// What becomes of running sandboxes when control can't be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDisconnect {
    #[default]
    Pause,
    KeepRunning,
}

impl OnDisconnect {
    /// As settings name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::KeepRunning => "keep-running",
        }
    }
}

impl FromStr for OnDisconnect {
    type Err = UnknownChoice;
    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        match text {
            "pause" => Ok(Self::Pause),
            "keep-running" => Ok(Self::KeepRunning),
            _ => Err(UnknownChoice {
                setting: "on-disconnect",
                text: text.to_owned(),
                expected: "`pause` or `keep-running`",
            }),
        }
    }
}
