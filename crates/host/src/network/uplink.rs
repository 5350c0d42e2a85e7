//! The host's way out: what the sandboxes' links must not exceed.

use std::io;

use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::rtnetlink::Connection;

const ETHERNET: u32 = 1500;
/// The least that IPv4 hosts must take, and the most that a veth does.
const SANE: std::ops::RangeInclusive<u32> = 576..=65535;

/// The MTU of the link that the best default route leads out of; Ethernet's where there is none.
pub(super) fn mtu(connection: &mut Connection) -> io::Result<u32> {
    let mut best: Option<(u32, u32)> = None;
    let mut question = RouteMessage::default();
    question.header.address_family = AddressFamily::Inet;
    connection.ask("listing routes", RouteNetlinkMessage::GetRoute(question), true, |answer| {
        let RouteNetlinkMessage::NewRoute(route) = answer else { return };
        if route.header.destination_prefix_length != 0 || route.header.table != RouteHeader::RT_TABLE_MAIN {
            return;
        }
        let (mut metric, mut out) = (0, None);
        for attribute in route.attributes {
            match attribute {
                RouteAttribute::Priority(number) => metric = number,
                RouteAttribute::Oif(index) => out = Some(index),
                _ => {}
            }
        }
        if let Some(index) = out.filter(|_| best.is_none_or(|(other, _)| metric < other)) {
            best = Some((metric, index));
        }
    })?;
    let Some((_, index)) = best else { return Ok(ETHERNET) };
    let mut question = LinkMessage::default();
    question.header.index = index;
    let mut mtu = ETHERNET;
    connection.ask("reading the uplink", RouteNetlinkMessage::GetLink(question), false, |answer| {
        let RouteNetlinkMessage::NewLink(link) = answer else { return };
        let found = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        mtu = found.filter(|mtu| SANE.contains(mtu)).unwrap_or(ETHERNET);
    })?;
    Ok(mtu)
}
