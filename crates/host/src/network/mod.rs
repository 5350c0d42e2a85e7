//! The sandboxes' network: one veth pair (or, for a machine, one TAP device) each, routed, behind one nft table per data directory.
//!
//! Neighbours: [`crate::slots`] says which address, link name and interface group a sandbox has; the driver makes the
//! namespace and passes it to [`Network::attach`]. What a sandbox may reach is decided by the table alone ([`rules`],
//! docs/network.md), which is loaded once and holds no rule per sandbox. Names are resolved by a forwarder on the
//! gateway address of each block ([`dns`]). What a sandbox sends is read in two places only: its questions for names, and
//! its requests to names that its policy has headers added for ([`egress`]). Where a policy names a proxy of the sandbox's
//! own, its TCP connections pass unread through the agent and that proxy.

mod admission;
mod bandwidth;
mod cidr;
mod dns;
mod egress;
mod former;
mod link;
mod nfnetlink;
mod policy;
mod rtnetlink;
mod rules;
mod sysctl;
mod tap;
mod uplink;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

pub use cidr::{Ipv4Cidr, NotACidr};
pub use egress::identities::{Identities, Token};
pub use policy::{AddedHeader, HeaderPart, Identity, OwnProxy, Policy, ProxyTls};
pub use tap::Tap;

use crate::instance::Instance;
use crate::slots::{Slot, Slots};
use rtnetlink::{Change, Connection};
use rules::Rules;

const LOOPBACK_INDEX: u32 = 1;
/// Connections to the kernel that are kept open for the next caller.
const SPARE_CONNECTIONS: usize = 8;

/// Settings of the network.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Destinations that are reachable although they are private (`--egress-allow`).
    pub egress_allow: Vec<Ipv4Cidr>,
    /// Connections that one sandbox may have in the host's connection tracking.
    pub max_connections: u32,
    /// Bytes a second that one sandbox may send to the world, and as many that it may get from there.
    pub max_bandwidth: Option<u64>,
    /// Where the DNS forwarder learns its upstream resolvers; read again when it changes.
    pub resolv_conf: PathBuf,
    /// How long an address stays open that the answer to an allowed name has opened: as long as the answer may be kept, but
    /// so long at least, and at most. Programs connect a moment after they have asked, and keep addresses for longer than a
    /// short answer allows.
    pub names_open: (Duration, Duration),
    /// Who makes tokens of sandboxes' identities.
    pub identities: Option<Arc<dyn Identities>>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            egress_allow: Vec::new(),
            max_connections: 4096,
            max_bandwidth: None,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            names_open: (Duration::from_mins(1), Duration::from_hours(1)),
            identities: None,
        }
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
pub struct Network {
    table: String,
    group: u32,
    mtu: u32,
    spare: Mutex<Vec<Connection>>,
    gateways: RwLock<HashSet<Ipv4Addr>>,
    /// Members of the table's set of that name, so that most sandboxes cost it no change.
    denied: Mutex<HashSet<Ipv4Addr>>,
    /// The rules that the table has of single sandboxes.
    policies: Mutex<HashMap<Ipv4Addr, Policy>>,
    dns: dns::Forwarder,
    egress: egress::Proxy,
}

impl Network {
    /// Loads the table, brings up the gateways and the DNS forwarder. `policies` are those of the sandboxes that run
    /// already. To be called inside a tokio runtime, in the host's network namespace.
    ///
    /// # Errors
    /// When the kernel or `nft` refuses; the message says what was attempted.
    pub async fn start(
        instance: &Instance,
        config: NetworkConfig,
        slots: &Slots,
        policies: &[(Slot, Policy)],
    ) -> io::Result<Self> {
        let of = |wanted: fn(&Policy) -> bool| {
            policies
                .iter()
                .filter(move |(_, policy)| wanted(policy))
                .map(|(slot, policy)| (slot.address(), policy.clone()))
        };
        let denied: Vec<_> = of(|policy| policy.closed).map(|(address, _)| address).collect();
        let ruled: Vec<_> = of(Policy::has_rules).collect();
        let served: Vec<_> = of(Policy::is_served).collect();
        let capped: Vec<_> =
            policies.iter().filter_map(|(slot, policy)| Some((slot.address(), policy.bandwidth?))).collect();
        let that = |wanted: fn(&Policy) -> bool| of(wanted).map(|(address, _)| address).collect::<Vec<_>>();
        sysctl::enable_forwarding()?;
        sysctl::enlarge_connection_table();
        let mut connection = Connection::open()?;
        let dns = dns::Forwarder::new(config.resolv_conf.clone(), instance.name('_'), config.names_open);
        let network = Self {
            egress: egress::Proxy::new(instance.data_dir(), &config, dns.resolver()),
            table: instance.name('_'),
            group: slots.group(),
            mtu: uplink::mtu(&mut connection)?,
            spare: Mutex::new(vec![connection]),
            gateways: RwLock::default(),
            denied: Mutex::new(denied.iter().copied().collect()),
            policies: Mutex::new(of(Policy::says_something).collect()),
            dns,
        };
        let claimed = slots.blocks();
        let in_use = slots.in_use();
        let mut gateways: Vec<_> = claimed.iter().map(|(block, network)| network.gateway(*block)).collect();
        gateways.extend(in_use.iter().map(|slot| slot.gateway()));
        gateways.sort_unstable();
        gateways.dedup();
        let mut networks: Vec<_> = claimed.iter().map(|(_, network)| network.to_string()).collect();
        networks.sort_unstable();
        networks.dedup();
        let opened = Rules {
            table: &network.table,
            group: network.group,
            config: &config,
            gateways: &gateways,
            denied: &denied,
            policies: &ruled,
            capped: &capped,
            proxied: &that(|policy| !policy.headers.is_empty()),
            led: &that(|policy| policy.own_proxy.is_some()),
            networks: &networks,
        }
        .load()?;
        for (address, policy) in ruled.into_iter().chain(served) {
            network.egress.set_policy(address, &policy);
            network.dns.set_policy(address, policy);
        }
        network.dns.remember(&opened.learned);
        network.adopt(&in_use)?;
        for gateway in gateways {
            network.add_gateway(gateway)?;
        }
        Ok(network)
    }

    /// Gives the namespace its `eth0` and a way out. Blocks for well under a millisecond; safe from many threads.
    ///
    /// # Errors
    /// When the kernel refuses; nothing is left then.
    pub fn attach(&self, slot: Slot, netns: BorrowedFd<'_>) -> io::Result<()> {
        self.ensure_gateway(slot.gateway())?;
        self.with_connection(|host| link::attach(host, slot, self.group, self.mtu, netns))
    }

    /// The same for a machine: a device for its emulator, which has the link's name and index and lives as long as the
    /// descriptor.
    ///
    /// # Errors
    /// When the kernel refuses; nothing is left then.
    pub fn tap(&self, slot: Slot) -> io::Result<Tap> {
        self.ensure_gateway(slot.gateway())?;
        self.with_connection(|host| tap::make(host, slot, self.group, self.mtu))
    }

    /// Takes the sandbox's way out, names included (`NetworkPolicy.deny_egress`), or gives it back. Connections that
    /// are open end too.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_egress_denied(&self, slot: Slot, denied: bool) -> io::Result<()> {
        let mut members = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        if members.contains(&slot.address()) == denied {
            return Ok(());
        }
        nfnetlink::set_member(&self.table, "denied", slot.address(), denied)?;
        if denied {
            members.insert(slot.address())
        } else {
            members.remove(&slot.address())
        };
        Ok(())
    }

    /// Lets the sandbox reach what its policy says and nothing else, from now on. Connections that are open and not
    /// allowed any more end.
    ///
    /// # Errors
    /// When the kernel or `nft` refuses; the former policy stands then.
    pub fn set_policy(&self, slot: Slot, policy: &Policy) -> io::Result<()> {
        {
            let mut policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
            let old = policies.get(&slot.address()).cloned().unwrap_or_default();
            if old != *policy && (old.says_something() || policy.says_something()) {
                rules::change(&self.table, slot.address(), &old, policy)?;
                // How fast is the table's business alone: names that are known and connections that are open stay so.
                if !old.reaches_as(policy) {
                    self.dns.set_policy(slot.address(), policy.clone());
                    self.egress.set_policy(slot.address(), policy);
                    if !old.allow_names.is_empty() {
                        rules::end_talks(&self.table, slot.address())?;
                    }
                }
                if policy.says_something() {
                    policies.insert(slot.address(), policy.clone());
                } else {
                    policies.remove(&slot.address());
                }
            }
        }
        self.set_egress_denied(slot, policy.closed)
    }

    /// The certificate that a sandbox must trust for headers to be added to its requests, in PEM. Blocks for the disk the
    /// first time.
    ///
    /// # Errors
    /// When it can't be read or made.
    pub fn egress_authority(&self) -> io::Result<String> {
        self.egress.authority()
    }

    /// Removes what is left of a sandbox: its link, its policy, its connections. Does nothing where nothing is. To be
    /// called behind the answer (the kernel may take 30 ms over a link) and before the slot is given back.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&self, slot: Slot) -> io::Result<()> {
        self.with_connection(|host| link::remove(host, slot))?;
        self.set_policy(slot, &Policy::default())?;
        if let Err(error) = nfnetlink::forget_connections(slot.address()) {
            // Old kernels can't select by address. The address is the last to be used again, and they time out.
            tracing::debug!(%error, "connections of a former sandbox are left to time out");
        }
        Ok(())
    }

    /// What the sandbox has received and sent so far.
    ///
    /// # Errors
    /// When it has no link.
    pub fn counters(&self, slot: Slot) -> io::Result<Counters> {
        let mut question = LinkMessage::default();
        question.header.index = link::index_of(slot);
        let mut found = None;
        self.with_connection(|host| {
            host.ask("reading the link's counters", RouteNetlinkMessage::GetLink(question), false, |answer| {
                let RouteNetlinkMessage::NewLink(link) = answer else { return };
                found = link.attributes.iter().find_map(|attribute| match attribute {
                    // What the host's end sends, the sandbox receives.
                    LinkAttribute::Stats64(stats) => Some(Counters { received: stats.tx_bytes, sent: stats.rx_bytes }),
                    _ => None,
                });
            })
        })?;
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{} has no counters", slot.link_name())))
    }

    /// The sandboxes of this instance that have a link, for adoption after a crash and for leak checks.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn leftovers(&self) -> io::Result<Vec<String>> {
        Ok(self.links()?.into_iter().filter(|link| link.group == self.group).map(|link| link.name).collect())
    }

    /// Ends the forwarder. With no sandbox left also removes the table and the gateways; otherwise they stay, so that
    /// running sandboxes keep their network. Claims are given up after this ([`Slots::release_all`]).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn shutdown(&self, sandboxes_left: bool) -> io::Result<()> {
        self.dns.stop().await;
        self.egress.stop().await;
        if sandboxes_left {
            return Ok(());
        }
        let gateways: Vec<_> = self.gateways().drain().collect();
        for gateway in gateways {
            self.with_connection(|host| {
                let add = link::address("", gateway, LOOPBACK_INDEX);
                let RouteNetlinkMessage::NewAddress(message) = add.message else { return Ok(()) };
                let message = RouteNetlinkMessage::DelAddress(message);
                match host.change(vec![Change { what: "removing a gateway", message, flags: 0 }]) {
                    Err(refused) if refused.code != libc::EADDRNOTAVAIL => Err(refused.error),
                    _ => Ok(()),
                }
            })?;
        }
        rules::remove(&self.table)
    }

    /// The gateway of a block that was claimed after the start is made with its first sandbox.
    fn ensure_gateway(&self, gateway: Ipv4Addr) -> io::Result<()> {
        if self.gateways.read().unwrap_or_else(PoisonError::into_inner).contains(&gateway) {
            return Ok(());
        }
        nfnetlink::set_member(&self.table, "gateways", gateway, true)?;
        self.add_gateway(gateway)
    }

    fn add_gateway(&self, gateway: Ipv4Addr) -> io::Result<()> {
        let mut gateways = self.gateways();
        if gateways.contains(&gateway) {
            return Ok(());
        }
        self.with_connection(|host| {
            // A namespace that was made a moment ago has its loopback down.
            let changes = vec![link::up(LOOPBACK_INDEX), link::address("making a gateway", gateway, LOOPBACK_INDEX)];
            match host.change(changes) {
                Err(refused) if refused.code != libc::EEXIST => Err(refused.error),
                _ => Ok(()),
            }
        })?;
        self.dns.listen(gateway);
        self.egress.listen(gateway);
        gateways.insert(gateway);
        Ok(())
    }

    /// Sees to it that links of sandboxes from before are in the group that the rules speak of.
    fn adopt(&self, in_use: &[Slot]) -> io::Result<()> {
        let names: HashSet<_> = in_use.iter().map(|slot| slot.link_name()).collect();
        let strays = self.links()?.into_iter().filter(|link| link.group != self.group && names.contains(&link.name));
        for stray in strays {
            let mut message = LinkMessage::default();
            message.header.index = stray.index;
            message.attributes.push(LinkAttribute::Group(self.group));
            let message = RouteNetlinkMessage::SetLink(message);
            let change = Change { what: "moving a link into the group", message, flags: 0 };
            self.with_connection(|host| host.change(vec![change]).map_err(io::Error::from))?;
        }
        Ok(())
    }

    fn links(&self) -> io::Result<Vec<Link>> {
        let mut found = Vec::new();
        self.with_connection(|host| {
            let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
            host.ask("listing links", question, true, |answer| found.extend(Link::ours(answer)))
        })?;
        Ok(found)
    }

    /// Lends a connection to the host's namespace.
    fn with_connection<T>(&self, work: impl FnOnce(&mut Connection) -> io::Result<T>) -> io::Result<T> {
        let spare = self.spare().pop();
        let mut connection = match spare {
            Some(connection) => connection,
            None => Connection::open()?,
        };
        let result = work(&mut connection);
        let mut spare = self.spare();
        if connection.usable && spare.len() < SPARE_CONNECTIONS {
            spare.push(connection);
        }
        result
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gateways(&self) -> std::sync::RwLockWriteGuard<'_, HashSet<Ipv4Addr>> {
        self.gateways.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host's end of some sandbox's link.
struct Link {
    index: u32,
    name: String,
    group: u32,
}

impl Link {
    fn ours(answer: RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewLink(message) = answer else { return None };
        let (mut name, mut group) = (None, 0);
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text),
                LinkAttribute::Group(number) => group = number,
                _ => {}
            }
        }
        let name = name.filter(|name| name.starts_with("atl") && name.len() == 7)?;
        Some(Self { index: message.header.index, name, group })
    }
}

#[cfg(test)]
mod tests;
