//! A sandbox's link: a veth pair with one end inside, named `eth0`, and the host's end in the instance's group.
//!
//! Both ends are made, addressed and up after two batches of messages. They have the same hardware address and no
//! ARP: what leaves one end is meant for the other, so there is nobody to ask, and nothing to ask about the host's
//! other addresses. The host's end has an index that follows from the slot, so that no message has to wait for an
//! earlier one's answer. There is no IPv6 on either end; `::1` works inside, since `lo` has it.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage, State,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::thread::LinkNameSpaceType;

use super::rtnetlink::{Change, Connection};
use crate::slots::Slot;

/// Indexes from here on are ours; the kernel itself counts from 1.
const INDEX_BASE: u32 = 0x0A70_0000;
const LOOPBACK_INDEX: u32 = 1;
/// The index of `eth0` inside.
const INNER_INDEX: u32 = 2;

/// How often and how long an old kernel is given to notice a carrier; half a second in all.
const CARRIER_LOOKS: usize = 1000;
const CARRIER_PAUSE: Duration = Duration::from_micros(500);

/// The index of the host's end.
pub(super) const fn index_of(slot: Slot) -> u32 {
    INDEX_BASE + ((slot.block() as u32) << 8) + slot.index() as u32
}

/// Makes the link. `host` is a connection to the host's namespace; the calling thread may be anywhere.
pub(super) fn attach(host: &mut Connection, slot: Slot, group: u32, mtu: u32, netns: BorrowedFd<'_>) -> io::Result<()> {
    // A thread of its own: it never comes back from the sandbox's namespace, so nothing can go wrong on the way.
    let attached = std::thread::scope(|scope| {
        let work = || attach_from_inside(host, slot, group, mtu, netns);
        let builder = std::thread::Builder::new().name("attach".to_owned()).stack_size(256 * 1024);
        builder.spawn_scoped(scope, work)?.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    });
    attached.map_err(|error| io::Error::new(error.kind(), format!("attaching {}: {error}", slot.link_name())))
}

fn attach_from_inside(
    host: &mut Connection,
    slot: Slot,
    group: u32,
    mtu: u32,
    netns: BorrowedFd<'_>,
) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
        .map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("entering the namespace: {error}")))?;
    let mut inside = Connection::open()?;
    if let Err(refused) = host.change(host_side(slot, group, mtu, netns)) {
        let leftover = refused.index == 0 && refused.code == libc::EEXIST;
        if !leftover {
            let _ = remove(host, slot);
            return Err(refused.error);
        }
        // The last user of the slot is gone, but the kernel hasn't got round to its link yet.
        remove(host, slot)?;
        host.change(host_side(slot, group, mtu, netns))?;
    }
    let finish = inside.change(inner_side(slot)).map_err(io::Error::from).and_then(|()| await_carrier(host, slot));
    finish.inspect_err(|_| {
        let _ = remove(host, slot);
    })
}

/// Waits until the host's end sends what it is given.
///
/// It was brought up before it had another end that was up too. The kernel notices that the link is whole a moment
/// later, and until then it drops packets: the answer to a sandbox's first question, which would ask again only after
/// seconds. Newer kernels (6.8) notice when asked.
fn await_carrier(host: &mut Connection, slot: Slot) -> io::Result<()> {
    for _ in 0..CARRIER_LOOKS {
        let mut question = LinkMessage::default();
        question.header.index = index_of(slot);
        let mut is_up = false;
        host.ask("looking for the link's carrier", RouteNetlinkMessage::GetLink(question), false, |answer| {
            let RouteNetlinkMessage::NewLink(link) = answer else { return };
            is_up = link.attributes.contains(&LinkAttribute::OperState(State::Up));
        })?;
        if is_up {
            return Ok(());
        }
        std::thread::sleep(CARRIER_PAUSE);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the link has no carrier"))
}

/// Removes the link if it is there. Takes the kernel some 30 ms.
pub(super) fn remove(host: &mut Connection, slot: Slot) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index_of(slot);
    let change = Change { what: "removing the link", message: RouteNetlinkMessage::DelLink(message), flags: 0 };
    match host.change(vec![change]) {
        Err(refused) if refused.code != libc::ENODEV => Err(refused.error),
        _ => Ok(()),
    }
}

fn host_side(slot: Slot, group: u32, mtu: u32, netns: BorrowedFd<'_>) -> Vec<Change> {
    let mut peer = end("eth0".to_owned(), INNER_INDEX, slot, mtu);
    peer.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
    // It can't be up yet: while it is made, it has no other end.
    peer.header.flags = LinkFlags::Noarp;
    peer.header.change_mask = LinkFlags::Noarp;
    let mut link = end(slot.link_name(), index_of(slot), slot, mtu);
    link.attributes.push(LinkAttribute::Group(group));
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    link.header.flags = LinkFlags::Noarp;
    link.header.change_mask = LinkFlags::Noarp;

    let create = NLM_F_CREATE | NLM_F_EXCL;
    let mut changes =
        vec![Change { what: "making the veth pair", message: RouteNetlinkMessage::NewLink(link), flags: create }];
    changes.extend(keep_ipv6_off(index_of(slot)));
    changes.push(up(index_of(slot)));
    changes.push(route_to(slot));
    changes
}

/// The host's route to the sandbox.
pub(super) fn route_to(slot: Slot) -> Change {
    Change {
        what: "routing to the sandbox",
        message: route(
            slot.address(),
            32,
            index_of(slot),
            RouteScope::Link,
            &[RouteAttribute::PrefSource(RouteAddress::Inet(slot.gateway()))],
        ),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

fn inner_side(slot: Slot) -> Vec<Change> {
    let gateway = RouteAttribute::Gateway(RouteAddress::Inet(slot.gateway()));
    let mut default = route(Ipv4Addr::UNSPECIFIED, 0, INNER_INDEX, RouteScope::Universe, &[gateway]);
    if let RouteNetlinkMessage::NewRoute(message) = &mut default {
        message.header.flags = RouteFlags::Onlink;
    }
    let mut changes = vec![up(LOOPBACK_INDEX)];
    changes.extend(keep_ipv6_off(INNER_INDEX));
    changes.extend([
        up(INNER_INDEX),
        address("addressing eth0", slot.address(), INNER_INDEX),
        Change { what: "setting the default route", message: default, flags: NLM_F_CREATE | NLM_F_EXCL },
    ]);
    changes
}

/// Before a link is up: otherwise the kernel gives it a link-local address, and looks for others that have it.
///
/// (Writing `disable_ipv6` in /proc costs more, and ever more the more namespaces there are.)
pub(super) fn keep_ipv6_off(index: u32) -> Option<Change> {
    if !super::sysctl::has_ipv6() {
        return None;
    }
    let mut message = LinkMessage::default();
    message.header.index = index;
    let none = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(none)]));
    Some(Change { what: "keeping IPv6 off the link", message: RouteNetlinkMessage::SetLink(message), flags: 0 })
}

/// Locally administered, and the same at both ends.
pub(super) const fn hardware_address(slot: Slot) -> [u8; 6] {
    [0x02, 0x61, 0x74, 0x6c, slot.block(), slot.index()]
}

/// What both ends have in common.
fn end(name: String, index: u32, slot: Slot, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![
        LinkAttribute::IfName(name),
        LinkAttribute::Address(hardware_address(slot).to_vec()),
        LinkAttribute::Mtu(mtu),
        // One queue, not one per processor: a sandbox's memory is counted in megabytes.
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
    ];
    message
}

pub(super) fn up(index: u32) -> Change {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Change { what: "bringing the link up", message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// Gives a link a single address.
pub(super) fn address(what: &'static str, address: Ipv4Addr, index: u32) -> Change {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes =
        vec![AddressAttribute::Local(IpAddr::V4(address)), AddressAttribute::Address(IpAddr::V4(address))];
    Change { what, message: RouteNetlinkMessage::NewAddress(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

fn route(
    destination: Ipv4Addr,
    prefix: u8,
    index: u32,
    scope: RouteScope,
    more: &[RouteAttribute],
) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = scope;
    message.header.kind = RouteType::Unicast;
    if prefix > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(destination)));
    }
    message.attributes.push(RouteAttribute::Oif(index));
    message.attributes.extend_from_slice(more);
    RouteNetlinkMessage::NewRoute(message)
}
