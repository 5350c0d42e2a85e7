//! The two things that change while sandboxes come and go, told to netfilter without a subprocess: members of the
//! table's sets, and forgetting the connections of an address.
//!
//! Messages are built by hand, since they are few and small; layouts as in linux/netfilter/nf_tables.h and
//! nfnetlink_conntrack.h.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const ERROR: u16 = 0x2;
const NESTED: u16 = 0x8000;
const PATIENCE: Duration = Duration::from_secs(10);

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const TABLES: u16 = 10;
const NEW_ELEMENTS: u16 = (TABLES << 8) | 12;
const DELETE_ELEMENTS: u16 = (TABLES << 8) | 14;
const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;
const CONNTRACK_DELETE: u16 = (1 << 8) | 2;

/// Puts an address into a set of the table, or takes it out. Doing so twice is no error.
pub(super) fn set_member(table: &str, set: &str, address: Ipv4Addr, member: bool) -> io::Result<()> {
    change_element(table, set, &address.octets(), None, member)
}

/// Puts a pair of addresses into a set for a while. Doing so again begins the time anew.
pub(super) fn add_pair(table: &str, set: &str, pair: (Ipv4Addr, Ipv4Addr), lifetime: Duration) -> io::Result<()> {
    let key = [pair.0.octets(), pair.1.octets()].concat();
    // An element keeps its first time when it is added again, so it is taken out before: in one transaction, or what
    // the sandbox sends in between would be refused. Only one that is there can be taken out.
    let renewed = change_elements(table, set, &[(&key, None, false), (&key, Some(lifetime), true)]);
    match renewed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => change_element(table, set, &key, Some(lifetime), true),
        result => result,
    }
}

/// Takes a pair of addresses out of a set. One that is not there is no error.
pub(super) fn remove_pair(table: &str, set: &str, pair: (Ipv4Addr, Ipv4Addr)) -> io::Result<()> {
    change_element(table, set, &[pair.0.octets(), pair.1.octets()].concat(), None, false)
}

fn change_element(table: &str, set: &str, key: &[u8], lifetime: Option<Duration>, member: bool) -> io::Result<()> {
    match change_elements(table, set, &[(key, lifetime, member)]) {
        Err(error) if !member && error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Changes of a set, all or none: a key, for how long, and whether it is to be in it.
fn change_elements(table: &str, set: &str, changes: &[(&[u8], Option<Duration>, bool)]) -> io::Result<()> {
    let mut bytes = message(BATCH_BEGIN, REQUEST, 1, &header(0, TABLES));
    let mut sequence = 1;
    for (key, lifetime, member) in changes {
        // NFTA_DATA_VALUE in NFTA_SET_ELEM_KEY, then NFTA_SET_ELEM_TIMEOUT, in NFTA_LIST_ELEM.
        let mut element = attribute(1 | NESTED, &attribute(1, key));
        if let Some(lifetime) = lifetime {
            let millis = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
            element.extend(attribute(4, &millis.to_be_bytes()));
        }
        let mut body = header(FAMILY_INET, 0).to_vec();
        body.extend(attribute(1, &text(table)));
        body.extend(attribute(2, &text(set)));
        body.extend(attribute(3 | NESTED, &attribute(1 | NESTED, &element)));
        let (kind, flags) = if *member { (NEW_ELEMENTS, CREATE) } else { (DELETE_ELEMENTS, 0) };
        sequence += 1;
        bytes.extend(message(kind, REQUEST | ACK | flags, sequence, &body));
    }
    bytes.extend(message(BATCH_END, REQUEST, sequence + 1, &header(0, TABLES)));
    converse(&bytes, sequence)
        .map_err(|error| io::Error::new(error.kind(), format!("changing set {set} of table {table}: {error}")))
}

/// Forgets all connections that the address has opened.
pub(super) fn forget_connections(source: Ipv4Addr) -> io::Result<()> {
    // CTA_TUPLE_ORIG { CTA_TUPLE_IP { CTA_IP_V4_SRC } }, and CTA_FILTER { CTA_FILTER_ORIG_FLAGS: by source }.
    let by_source: u32 = 1;
    let tuple = attribute(1 | NESTED, &attribute(1 | NESTED, &attribute(1, &source.octets())));
    let filter = [attribute(1, &by_source.to_ne_bytes()), attribute(2, &0u32.to_ne_bytes())].concat();
    let mut body = header(FAMILY_IPV4, 0).to_vec();
    body.extend(tuple);
    body.extend(attribute(25 | NESTED, &filter));
    match converse(&message(CONNTRACK_DELETE, REQUEST | ACK, 1, &body), 1) {
        // None were there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("forgetting the connections of {source}: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Family, version and a big-endian resource id.
fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes
}

/// Sends the messages; done when the one with this sequence number is acknowledged, failed at the first error.
fn converse(bytes: &[u8], sequence: u32) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // SAFETY: the socket outlives this borrow.
    let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    set_socket_timeout(fd, Timeout::Recv, Some(PATIENCE))?;
    socket.send(bytes, 0)?;
    loop {
        let mut buffer = Vec::with_capacity(16 * 1024);
        match socket.recv(&mut buffer, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let mut rest = &buffer[..];
        while let Some((length, kind, answered, code)) = parse(rest) {
            if kind == ERROR {
                if code != 0 {
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                if answered == sequence {
                    return Ok(());
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Length, kind, sequence number and error code of the message that begins here.
fn parse(bytes: &[u8]) -> Option<(usize, u16, u32, i32)> {
    let field = |at: usize| bytes.get(at..at + 4).and_then(|field| field.try_into().ok());
    let length = u32::from_ne_bytes(field(0)?) as usize;
    let kind = u32::from_ne_bytes(field(4)?) & 0xffff;
    let sequence = u32::from_ne_bytes(field(8)?);
    let code = field(16).map_or(0, i32::from_ne_bytes);
    (length >= 16).then_some((length, u16::try_from(kind).ok()?, sequence, code))
}
