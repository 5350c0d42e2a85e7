//! A machine's link: a TAP device in place of a veth pair, with the same name, index, group, addresses and route.
//!
//! Rules, counters and removal know links by these and see no difference. The other end is a descriptor, which the
//! emulator gets; the device goes when the last copy of it is closed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::link;
use super::rtnetlink::{Change, Connection};
use crate::slots::Slot;

const TUNSETIFF: libc::Ioctl = 0x4004_54ca as libc::Ioctl;
const TUNSETIFINDEX: libc::Ioctl = 0x4004_54da as libc::Ioctl;

/// The emulator's end, and what the guest's end must be like.
#[derive(Debug)]
pub struct Tap {
    pub fd: OwnedFd,
    pub mtu: u32,
    pub mac: [u8; 6],
}

pub(super) fn make(host: &mut Connection, slot: Slot, group: u32, mtu: u32) -> io::Result<Tap> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("making {}: {error}", slot.link_name()));
    let mac = link::hardware_address(slot);
    let fd = match device(slot) {
        // The last user of the slot is gone, but the kernel hasn't got round to its link yet.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST | libc::EINVAL)) => {
            link::remove(host, slot)?;
            device(slot).map_err(named)?
        }
        result => result.map_err(named)?,
    };
    // What is made is removed with the descriptor, if this fails.
    let mut message = LinkMessage::default();
    message.header.index = link::index_of(slot);
    message.header.flags = LinkFlags::Noarp;
    message.header.change_mask = LinkFlags::Noarp;
    message.attributes =
        vec![LinkAttribute::Address(mac.to_vec()), LinkAttribute::Mtu(mtu), LinkAttribute::Group(group)];
    let set = Change { what: "setting up the TAP device", message: RouteNetlinkMessage::SetLink(message), flags: 0 };
    let mut changes = vec![set];
    changes.extend(link::keep_ipv6_off(link::index_of(slot)));
    changes.extend([link::up(link::index_of(slot)), link::route_to(slot)]);
    host.change(changes).map_err(io::Error::from).map_err(named)?;
    Ok(Tap { fd, mtu, mac })
}

fn device(slot: Slot) -> io::Result<OwnedFd> {
    let fd = openat(CWD, "/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    let index = link::index_of(slot);
    // SAFETY: all-zero is a valid value of this plain structure of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(slot.link_name().bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the first request reads one number, the second a structure whose name ends within its room and writes to
    // it; both live until the calls return.
    let result = unsafe {
        match libc::ioctl(fd.as_raw_fd(), TUNSETIFINDEX, &raw const index) {
            0 => libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut request),
            refused => refused,
        }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}
