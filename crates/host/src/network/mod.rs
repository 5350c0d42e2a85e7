//! The sandboxes' network: one veth pair each, routed, behind one nft table per data directory.
//!
//! Neighbours: [`crate::slots`] says which address, link name and interface group a sandbox has; the driver makes the
//! namespace and passes it to [`Network::attach`]. What a sandbox may reach is decided by the table alone (see
//! docs/network.md), which is loaded once and holds no rule per sandbox.

mod cidr;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

pub use cidr::{Ipv4Cidr, NotACidr};

use crate::instance::Instance;
use crate::slots::{Slot, Slots};

/// Settings of the network.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Destinations that are reachable although they are private (`--egress-allow`).
    pub egress_allow: Vec<Ipv4Cidr>,
    /// Connections that one sandbox may have in the host's connection tracking.
    pub max_connections: u32,
    /// Where the DNS forwarder learns its upstream resolvers.
    pub resolv_conf: PathBuf,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { egress_allow: Vec::new(), max_connections: 4096, resolv_conf: PathBuf::from("/etc/resolv.conf") }
    }
}

/// Bytes as the sandbox sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    pub received: u64,
    pub sent: u64,
}

/// The network of one data directory.
#[derive(Debug)]
pub struct Network {}

impl Network {
    /// Loads the table, brings up the gateways and the DNS forwarder. `denied` are the running sandboxes whose policy
    /// is to reach nothing. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the kernel or `nft` refuses; the message says what was attempted.
    pub async fn start(
        _instance: &Instance,
        _config: NetworkConfig,
        _slots: &Slots,
        _denied: &[Slot],
    ) -> io::Result<Self> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// Gives the namespace its `eth0` and a way out. Blocks for well under a millisecond; safe from many threads.
    ///
    /// # Errors
    /// When the kernel refuses; nothing is left then.
    pub fn attach(&self, _slot: Slot, _netns: BorrowedFd<'_>) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// Takes the sandbox's way out, but for names and replies (`NetworkPolicy.deny_egress`), or gives it back.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_egress_denied(&self, _slot: Slot, _denied: bool) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// Removes what is left of a sandbox: its link, its connections, its policy. Does nothing where nothing is. To be
    /// called behind the answer (the kernel may take 30 ms over a link) and before the slot is given back.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&self, _slot: Slot) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// What the sandbox has received and sent so far.
    ///
    /// # Errors
    /// When it has no link.
    pub fn counters(&self, _slot: Slot) -> io::Result<Counters> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// The links of this instance that are there, for adoption after a crash and for leak checks.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn leftovers(&self) -> io::Result<Vec<Slot>> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// Ends the forwarder. With no sandbox left also removes the table and the gateways; otherwise they stay, so that
    /// running sandboxes keep their network.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn shutdown(&self, _sandboxes_left: bool) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}
