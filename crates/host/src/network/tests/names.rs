//! The DNS forwarder, asked by real sandboxes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use super::eventually;
use super::lab::{Lab, PATIENCE, Sandbox};

/// A question for the address of `name`.
fn question(name: &str) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// A resolver that answers every question with this address.
pub fn serve(lab: &Lab, at: &str, address: Ipv4Addr) {
    serve_for(lab, at, address, 60);
}

/// The same, to be kept for so many seconds.
pub fn serve_for(lab: &Lab, at: &str, address: Ipv4Addr, seconds: u32) {
    let at: Ipv4Addr = at.parse().unwrap();
    let (udp, tcp) = lab.internet.run(|| (UdpSocket::bind((at, 53)).unwrap(), TcpListener::bind((at, 53)).unwrap()));
    let answer = move |question: &[u8]| {
        let mut bytes = question.to_vec();
        bytes[2] |= 0x80;
        bytes[7] = 1;
        bytes.extend([0xc0, 12, 0, 1, 0, 1]);
        bytes.extend(seconds.to_be_bytes());
        bytes.extend([0, 4]);
        bytes.extend(address.octets());
        bytes
    };
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, source)) = udp.recv_from(&mut buffer) {
            let asked = &buffer[..length];
            // What a forger would send first: an answer under another id.
            let mut forged = answer(asked);
            forged[0] ^= 0xff;
            let _ = udp.send_to(&forged, source);
            let _ = udp.send_to(&answer(asked), source);
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_ok() {
                let mut asked = vec![0; usize::from(u16::from_be_bytes(length))];
                let _ = stream.read_exact(&mut asked);
                let bytes = answer(&asked);
                let _ = stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes());
                let _ = stream.write_all(&bytes);
            }
        }
    });
}

pub fn ask_udp(sandbox: &Sandbox, name: &str) -> Option<Vec<u8>> {
    ask_udp_at(sandbox, sandbox.slot.gateway(), name)
}

/// The same, of a server of one's own choice.
pub fn ask_udp_at(sandbox: &Sandbox, server: Ipv4Addr, name: &str) -> Option<Vec<u8>> {
    let socket = sandbox.namespace.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.set_read_timeout(Some(PATIENCE * 5)).unwrap();
    socket.connect((server, 53)).unwrap();
    socket.send(&question(name)).ok()?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).ok()?;
        // Not what a forger has sent.
        if buffer[..length].starts_with(&[0xab, 0xcd]) {
            return Some(buffer[..length].to_vec());
        }
    }
}

pub fn ends_with(answer: &Option<Vec<u8>>, address: Ipv4Addr) -> bool {
    answer.as_ref().is_some_and(|bytes| bytes.starts_with(&[0xab, 0xcd]) && bytes.ends_with(&address.octets()))
}

pub const FIRST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

#[test]
fn names_are_resolved_by_the_hosts_resolver_by_udp_and_tcp() {
    let lab = Lab::new();
    serve(&lab, "192.0.2.1", FIRST);
    let agent = lab.start();
    let sandbox = agent.sandbox();
    assert!(ends_with(&ask_udp(&sandbox, "example.org"), FIRST));
    let mut stream = sandbox.namespace.connect(&format!("{}:53", sandbox.slot.gateway())).unwrap();
    for _ in 0..2 {
        let asked = question("example.org");
        stream.write_all(&[&[0, u8::try_from(asked.len()).unwrap()], &asked[..]].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        assert!(ends_with(&Some(answer), FIRST));
    }
}

#[test]
fn a_changed_resolv_conf_is_followed_and_a_dead_resolver_is_passed_over() {
    let lab = Lab::new();
    serve(&lab, "192.0.2.1", FIRST);
    let agent = lab.start();
    let sandbox = agent.sandbox();
    assert!(ends_with(&ask_udp(&sandbox, "example.org"), FIRST));
    serve(&lab, "203.0.113.7", SECOND);
    // The first of the two refuses.
    std::fs::write(&lab.config.resolv_conf, "nameserver 10.5.0.1\nnameserver 203.0.113.7\n").unwrap();
    eventually("the new resolver is asked", || ends_with(&ask_udp(&sandbox, "example.org"), SECOND));
}

#[test]
fn without_a_resolver_the_answer_is_a_failure_and_not_silence() {
    let lab = Lab::new();
    std::fs::write(&lab.config.resolv_conf, "").unwrap();
    let agent = lab.start();
    let answer = ask_udp(&agent.sandbox(), "example.org").unwrap();
    assert_eq!((answer[0], answer[1], answer[3] & 0xf), (0xab, 0xcd, 2));
}

#[test]
fn names_are_resolved_again_after_an_agents_restart() {
    let lab = Lab::new();
    serve(&lab, "192.0.2.1", FIRST);
    let agent = lab.start();
    let sandbox = agent.sandbox();
    assert!(ends_with(&ask_udp(&sandbox, "example.org"), FIRST));
    let in_use = agent.slots.in_use();
    // The new agent starts while the old one still holds its addresses.
    let next = lab.restart(lab.slots(&in_use), &[]);
    agent.shutdown(true);
    eventually("the forwarder is back", || ends_with(&ask_udp(&sandbox, "example.org"), FIRST));
    drop(next);
}

#[test]
fn a_sandbox_without_egress_resolves_nothing() {
    let lab = Lab::new();
    serve(&lab, "192.0.2.1", FIRST);
    let agent = lab.start();
    let sandbox = agent.sandbox();
    agent.deny(&sandbox, true);
    assert_eq!(ask_udp(&sandbox, "secret.example.org"), None);
    agent.deny(&sandbox, false);
    assert!(ends_with(&ask_udp(&sandbox, "example.org"), FIRST));
}

#[test]
fn a_sandbox_that_floods_the_forwarder_slows_no_other() {
    let lab = Lab::new();
    // Nobody answers at the resolver's address: every question stays in flight for seconds.
    let silent = lab.internet.run(|| UdpSocket::bind("192.0.2.1:53").unwrap());
    std::fs::write(&lab.config.resolv_conf, "nameserver 192.0.2.1\nnameserver 203.0.113.7\n").unwrap();
    serve(&lab, "203.0.113.7", SECOND);
    let agent = lab.start();
    let (flooder, neighbour) = (agent.sandbox(), agent.sandbox());
    let socket = flooder.namespace.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for number in 0..5_000 {
        let _ = socket.send_to(&question(&format!("{number}.example.org")), (flooder.slot.gateway(), 53));
    }
    assert!(ends_with(&ask_udp(&neighbour, "example.org"), SECOND));
    drop(silent);
}
