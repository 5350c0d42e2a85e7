//! Frames that a guest makes up, with addresses that are not its own, written to a machine's TAP device as its emulator
//! would write them.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::process::Command;

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};

use super::eventually;
use super::lab::{Lab, Namespace, PUBLIC};
use crate::network::Tap;
use crate::slots::Slot;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;
const IPV6: u16 = 0x86dd;
/// Before each frame: of no use to who forges.
const VNET_HEADER: [u8; 10] = [0; 10];
const PORT: u16 = 99;
const LIE: &[u8] = b"this is a lie";
const TRUTH: &[u8] = b"this is the truth";
/// Locally administered, and nobody's.
const NOBODY: [u8; 6] = [0x02, 0xde, 0xad, 0xbe, 0xef, 0x01];
const EVERYBODY: [u8; 6] = [0xff; 6];

/// Ones' complement of the sum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (!u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()).to_be_bytes()
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
    [&PORT.to_be_bytes(), &PORT.to_be_bytes(), &length, &[0, 0], payload].concat()
}

/// A datagram; without a checksum of its own, which IPv4 allows.
fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let body = udp(payload);
    let mut header = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0];
    header[2..4].copy_from_slice(&u16::try_from(20 + body.len()).unwrap().to_be_bytes());
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    [header, body].concat()
}

/// What follows an IPv6 header, with the checksum at this place of it.
fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, mut body: Vec<u8>, sum_at: usize) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    let ends = [source.octets(), destination.octets()].concat();
    let sum = checksum(&[&ends[..], &[0, 0], &length, &[0, 0, 0, next], &body].concat());
    body[sum_at..sum_at + 2].copy_from_slice(&sum);
    [&[0x60, 0, 0, 0], &length[..], &[next, 255], &ends, &body].concat()
}

/// A guest that speaks to its network card itself.
struct Guest {
    tap: Tap,
    file: std::fs::File,
}

impl Guest {
    fn new(tap: Tap) -> Self {
        let file = tap.fd.try_clone().unwrap().into();
        Self { tap, file }
    }

    fn send(&self, to: [u8; 6], from: [u8; 6], kind: u16, packet: &[u8]) {
        let frame = [&VNET_HEADER[..], &to, &from, &kind.to_be_bytes(), packet].concat();
        // The kernel takes frames as one write each, and has no word for what becomes of them.
        let _no_word = (&self.file).write(&frame);
    }
}

/// Everything that passes in a namespace, whoever it is for.
struct Wire(OwnedFd);

impl Wire {
    fn of(namespace: &Namespace) -> Self {
        const ALL: u32 = (libc::ETH_P_ALL as u16).to_be() as u32;
        let (flags, all) = (SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, NonZeroU32::new(ALL).map(Protocol::from_raw));
        let open = || rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, all).unwrap();
        Self(namespace.run(open))
    }

    fn frames(&self) -> Vec<Vec<u8>> {
        let mut buffer = [0; 4096];
        let next = || rustix::io::read(&self.0, &mut buffer).ok().map(|length| buffer[..length].to_vec());
        std::iter::from_fn(next).collect()
    }
}

fn has(frame: &[u8], part: &[u8]) -> bool {
    frame.windows(part.len()).any(|window| window == part)
}

fn hardware_address(namespace: &Namespace, link: &str) -> [u8; 6] {
    let shown = namespace.run(|| Command::new("ip").args(["-j", "link", "show", link]).output().unwrap().stdout);
    let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
    let bytes = shown[0]["address"].as_str().unwrap().split(':');
    let bytes: Vec<u8> = bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

struct World {
    lab: Lab,
    up: [u8; 6],
}

impl World {
    /// IPv6 goes through the host, for whoever is let out.
    fn new() -> Self {
        let lab = Lab::new();
        lab.host.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap());
        lab.host.ip("-6 addr add 2001:db8::2/64 dev up0 nodad");
        lab.internet.ip("-6 addr add 2001:db8::1/64 dev net0 nodad");
        lab.internet.ip("-6 route add default via 2001:db8::2");
        let up = hardware_address(&lab.host, "up0");
        Self { lab, up }
    }
}

fn other(slot: Slot) -> Ipv4Addr {
    let [a, b, c, d] = slot.address().octets();
    Ipv4Addr::new(a, b, c, d.wrapping_add(40))
}

#[test]
fn no_frame_with_a_source_that_is_not_the_machines_leaves_its_link() {
    let world = World::new();
    let (lab, agent) = (&world.lab, world.lab.start());
    let neighbour = agent.sandbox();
    let slot = agent.slots.take().unwrap();
    let guest = Guest::new(lab.host.run(|| agent.network.tap(slot)).unwrap());
    let own = guest.tap.mac;
    let (outside, beside, host) = (Wire::of(&lab.internet), Wire::of(&neighbour.namespace), Wire::of(&lab.host));
    let public: Ipv4Addr = PUBLIC.parse().unwrap();
    let host_hears: Vec<_> = ["192.0.2.2", "2001:db8::2"]
        .iter()
        .map(|at| lab.host.run(|| UdpSocket::bind((*at, PORT)).unwrap()))
        .inspect(|socket| socket.set_nonblocking(true).unwrap())
        .collect();
    let server = lab.internet.run(|| UdpSocket::bind((PUBLIC, PORT)).unwrap());
    server.set_nonblocking(true).unwrap();

    // IPv4: of a neighbour, nobody's, the gateway's, the host's, the world's, and of no single machine.
    let sources = [
        neighbour.slot.address(),
        other(slot),
        slot.gateway(),
        Ipv4Addr::new(192, 0, 2, 2),
        Ipv4Addr::new(192, 0, 2, 1),
        public,
        Ipv4Addr::new(8, 8, 8, 8),
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(169, 254, 169, 254),
    ];
    // Looked at often, since it holds only so many frames.
    let mut seen = Vec::new();
    let destinations = [public, Ipv4Addr::new(192, 0, 2, 2), neighbour.slot.address(), slot.gateway()];
    for source in sources {
        for destination in destinations {
            for from in [own, NOBODY] {
                guest.send(own, from, IPV4, &ipv4(source, destination, LIE));
            }
            // In a virtual LAN that nobody has, and to all.
            let tagged = [&[0, 7], &IPV4.to_be_bytes()[..], &ipv4(source, destination, LIE)].concat();
            guest.send(own, own, VLAN, &tagged);
            guest.send(EVERYBODY, own, IPV4, &ipv4(source, destination, LIE));
            seen.extend(host.frames());
        }
    }
    // IPv6, with any source at all: a machine has none.
    let sixes: [Ipv6Addr; 6] =
        ["2001:db8::99", "2001:db8::2", "fe80::1", "::1", "::", "::ffff:192.0.2.2"].map(|text| text.parse().unwrap());
    for source in sixes {
        for destination in ["2001:db8::1", "2001:db8::2", "ff02::1"] {
            let destination = destination.parse().unwrap();
            for (to, from) in [(own, own), (own, NOBODY), ([0x33, 0x33, 0, 0, 0, 1], NOBODY)] {
                guest.send(to, from, IPV6, &ipv6(source, destination, 17, udp(LIE), 6));
            }
        }
        // A router that says that all the world is reached through it (RFC 4861, 4.2), with a network to take an address of.
        let mut advertisement = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
        advertisement.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
        advertisement.extend("2001:db8:bad::".parse::<Ipv6Addr>().unwrap().octets());
        let packet = ipv6(source, "ff02::1".parse().unwrap(), 58, advertisement, 2);
        guest.send([0x33, 0x33, 0, 0, 0, 1], NOBODY, IPV6, &packet);
        seen.extend(host.frames());
    }
    // ARP: that the world's addresses, and a neighbour's, are at nobody's hardware address (RFC 826).
    for stolen in [Ipv4Addr::new(192, 0, 2, 1), neighbour.slot.address(), slot.gateway()] {
        for operation in [1, 2] {
            let reply = [&[0, 1, 8, 0, 6, 4, 0, operation], &NOBODY[..], &stolen.octets(), &own, &stolen.octets()];
            guest.send(EVERYBODY, NOBODY, ARP, &reply.concat());
        }
    }

    // What is true leaves, also with a hardware address that is not the guest's: that stays behind, as any does.
    for from in [own, NOBODY] {
        guest.send(own, from, IPV4, &ipv4(slot.address(), public, TRUTH));
        eventually("what is true arrives", || {
            let mut buffer = [0; 64];
            server.recv_from(&mut buffer).is_ok_and(|(length, peer)| {
                assert_eq!(&buffer[..length], TRUTH, "a lie has arrived");
                assert_eq!(peer.ip(), Ipv4Addr::new(192, 0, 2, 2));
                true
            })
        });
    }
    // Frames of one link keep their order, so all that could have left before has left.
    let frames = outside.frames();
    let sent: Vec<_> = frames.iter().filter(|frame| has(frame, TRUTH)).collect();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|frame| frame[6..12] == world.up), "{sent:?}");
    for (place, frames) in [("outside", frames), ("beside", beside.frames())] {
        let wrong: Vec<_> = frames.iter().filter(|frame| has(frame, LIE) || has(frame, &NOBODY)).collect();
        assert!(wrong.is_empty(), "{place}: {wrong:x?}");
    }
    for socket in &host_hears {
        assert!(socket.recv(&mut [0; 64]).is_err(), "the host has listened to a lie");
    }
    // The host has seen them, or this has proved nothing; and believes none of them.
    seen.extend(host.frames());
    let kinds: BTreeSet<_> = seen.iter().filter(|it| it[6..12] == NOBODY).map(|it| [it[12], it[13]]).collect();
    assert_eq!(kinds, [IPV4, ARP, IPV6].map(u16::to_be_bytes).into());
    let shown = |arguments: &str| {
        let shown = || Command::new("ip").args(arguments.split(' ')).output().unwrap().stdout;
        String::from_utf8(lab.host.run(shown)).unwrap()
    };
    let believed = [shown("neigh show"), shown("-6 addr show"), shown("-6 route show table all")].concat();
    assert!(!believed.contains("02:de:ad:be:ef:01") && !believed.contains("2001:db8:bad"), "{believed}");
    // It knows of nobody and nothing there; the one line that the kernel makes for every link is no way to anywhere.
    let link = slot.link_name();
    let mut there = believed.lines().filter(|line| line.contains(&link));
    assert!(there.all(|line| line.starts_with("multicast ff00::/8")), "{believed}");
}
