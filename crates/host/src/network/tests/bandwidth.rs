//! How fast sandboxes send and get: all of a host by its bound, one by its policy, by way of proxies too.
//!
//! What is bounded is told apart by how much of a flood comes through: at these rates half of it would take most of a minute.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use super::eventually;
use super::fake_socks::FakeSocks;
use super::lab::{Agent, Lab, Namespace, PATIENCE, PUBLIC, Sandbox};
use super::names::{FIRST, ask_udp, ends_with, serve};
use crate::network::Policy;

const DATAGRAM: usize = 1000;
const FLOOD: u64 = 4_000_000;
/// Bytes a second.
const SLOW: u64 = 50_000;
const FAST: u64 = 10_000_000_000;

fn at(rate: u64) -> Policy {
    Policy { bandwidth: Some(rate), ..Policy::default() }
}

fn set(agent: &Agent<'_>, sandbox: &Sandbox, policy: &Policy) {
    agent.lab.host.run(|| agent.network.set_policy(sandbox.slot, policy)).unwrap();
}

/// Where floods go to and come from.
struct World<'a> {
    lab: &'a Lab,
    server: UdpSocket,
}

impl<'a> World<'a> {
    fn new(lab: &'a Lab) -> Self {
        let server = lab.internet.run(|| UdpSocket::bind((PUBLIC, 98))).unwrap();
        server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { lab, server }
    }

    /// How much of a sandbox's flood the host lets out, as the wire behind it counts.
    fn sent_by(&self, sandbox: &Sandbox) -> u64 {
        let out = || {
            let shown = || Command::new("ip").args(["-s", "-j", "link", "show", "net0"]).output().unwrap();
            let shown: serde_json::Value = serde_json::from_slice(&self.lab.internet.run(shown).stdout).unwrap();
            shown[0]["stats64"]["rx"]["bytes"].as_u64().unwrap()
        };
        // Nobody listens on this port of theirs.
        let socket = sandbox.namespace.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        let before = out();
        for _ in 0..FLOOD / DATAGRAM as u64 {
            let _ = socket.send_to(&[0; DATAGRAM], (PUBLIC, 97));
        }
        out() - before
    }

    /// How much of a flood from the world the host lets in.
    fn got_by(&self, agent: &Agent<'_>, sandbox: &Sandbox) -> u64 {
        let socket = sandbox.namespace.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        let asking = format!("{} {}", sandbox.slot.address(), socket.local_addr().unwrap().port());
        let mut source = None;
        // It opens the way back. While the sandbox may send little, some are lost.
        eventually("the world hears of the sandbox", || {
            socket.send_to(asking.as_bytes(), (PUBLIC, 98)).unwrap();
            let mut buffer = [0; 64];
            let heard = self.server.recv_from(&mut buffer).ok();
            source = heard.filter(|(length, _)| &buffer[..*length] == asking.as_bytes()).map(|(_, source)| source);
            source.is_some()
        });
        let received = || self.lab.host.run(|| agent.network.counters(sandbox.slot)).unwrap().received;
        let before = received();
        for _ in 0..FLOOD / DATAGRAM as u64 {
            let _ = self.server.send_to(&[0; DATAGRAM], source.unwrap());
        }
        received() - before
    }

    fn is_bounded(&self, agent: &Agent<'_>, sandbox: &Sandbox) {
        let (sent, got) = (self.sent_by(sandbox), self.got_by(agent, sandbox));
        assert!(sent < FLOOD / 2 && got < FLOOD / 2, "{sent} bytes went out and {got} came in of {FLOOD} each");
    }

    fn is_free(&self, agent: &Agent<'_>, sandbox: &Sandbox) {
        // On a busy machine queues between the namespaces overflow.
        eventually("most of a flood goes out", || self.sent_by(sandbox) > FLOOD / 2);
        eventually("most of a flood comes in", || self.got_by(agent, sandbox) > FLOOD / 2);
    }
}

#[test]
fn a_sandbox_sends_and_gets_no_more_than_the_host_lets_each_and_a_neighbour_has_its_own() {
    let mut lab = Lab::new();
    lab.config.max_bandwidth = Some(SLOW);
    let agent = lab.start();
    let world = World::new(&lab);
    let (greedy, neighbour) = (agent.sandbox(), agent.sandbox());
    world.is_bounded(&agent, &greedy);
    lab.internet.serve_udp(PUBLIC, 99);
    let other = neighbour.namespace.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..20 {
        other.send_to(&[0; DATAGRAM], (PUBLIC, 99)).unwrap();
        assert_eq!(other.recv(&mut [0; 2048]).unwrap(), DATAGRAM, "the neighbour has a bandwidth of its own");
    }
    world.is_bounded(&agent, &neighbour);
}

#[test]
fn a_sandboxes_own_bandwidth_is_set_changed_and_taken_away_while_it_runs_and_no_neighbour_feels_it() {
    let lab = Lab::new();
    let agent = lab.start();
    let world = World::new(&lab);
    let (sandbox, neighbour) = (agent.sandbox(), agent.sandbox());
    world.is_free(&agent, &sandbox);
    set(&agent, &sandbox, &at(SLOW));
    world.is_bounded(&agent, &sandbox);
    world.is_free(&agent, &neighbour);
    set(&agent, &neighbour, &at(FAST));
    world.is_free(&agent, &neighbour);
    set(&agent, &sandbox, &at(FAST));
    world.is_free(&agent, &sandbox);
    set(&agent, &sandbox, &at(SLOW / 2));
    world.is_bounded(&agent, &sandbox);
    world.is_free(&agent, &neighbour);
    set(&agent, &sandbox, &Policy::default());
    world.is_free(&agent, &sandbox);
}

#[test]
fn of_the_hosts_bandwidth_and_a_sandboxes_own_the_smaller_counts() {
    for (all, own) in [(SLOW, FAST), (FAST, SLOW)] {
        let mut lab = Lab::new();
        lab.config.max_bandwidth = Some(all);
        let agent = lab.start();
        let world = World::new(&lab);
        let sandbox = agent.sandbox();
        set(&agent, &sandbox, &at(own));
        world.is_bounded(&agent, &sandbox);
    }
}

#[test]
fn a_bandwidth_outlives_the_agent_that_set_it_and_is_not_for_whoever_gets_the_address_next() {
    let lab = Lab::new();
    let world = World::new(&lab);
    let (sandbox, slots) = {
        let agent = lab.start();
        let sandbox = agent.sandbox();
        set(&agent, &sandbox, &at(SLOW));
        (sandbox, agent.slots)
    };
    let sent = world.sent_by(&sandbox);
    assert!(sent < FLOOD / 2, "{sent} bytes went out while there was no agent");
    let agent = lab.restart_with(slots, &[(sandbox.slot, at(SLOW))]);
    world.is_bounded(&agent, &sandbox);
    // The next agent knows what it took over.
    set(&agent, &sandbox, &at(FAST));
    world.is_free(&agent, &sandbox);
    set(&agent, &sandbox, &at(SLOW));
    agent.detach(sandbox.slot);
    let next = Sandbox { namespace: Namespace::new(), slot: sandbox.slot };
    agent.attach(&next).unwrap();
    world.is_free(&agent, &next);
}

#[test]
fn names_and_addresses_that_are_open_stay_so_when_the_bandwidth_changes() {
    let lab = Lab::new();
    lab.internet.ip(&format!("addr add {FIRST}/32 dev lo"));
    serve(&lab, "192.0.2.1", FIRST);
    let agent = lab.start();
    let sandbox = agent.sandbox();
    let rules = Policy {
        allow_names: vec!["example.com".to_owned()],
        deny: vec!["0.0.0.0/0".parse().unwrap()],
        ..Policy::default()
    };
    set(&agent, &sandbox, &rules);
    assert!(ends_with(&ask_udp(&sandbox, "example.com"), FIRST));
    for bandwidth in [Some(SLOW), Some(FAST), None] {
        set(&agent, &sandbox, &Policy { bandwidth, ..rules.clone() });
        assert!(sandbox.namespace.reaches(&format!("{FIRST}:80")), "{bandwidth:?}");
        assert!(!sandbox.namespace.reaches(&format!("{PUBLIC}:80")), "{bandwidth:?}");
    }
}

/// What arrives within a while, at most `most`.
fn arrives(stream: &mut TcpStream, most: usize) -> usize {
    let start = Instant::now();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut buffer, mut sum) = (vec![0; 64 << 10], 0);
    while sum < most && start.elapsed() < PATIENCE {
        match stream.read(&mut buffer) {
            Ok(length) if length > 0 => sum += length,
            _ => break,
        }
    }
    sum
}

#[test]
fn what_goes_by_way_of_a_proxy_counts_too_and_a_change_ends_no_connection() {
    const BYTES: usize = 2_000_000;
    let lab = Lab::new();
    let proxy = FakeSocks::serve(&lab.internet, &format!("{PUBLIC}:1080"), None, None);
    let listener = lab.internet.run(|| TcpListener::bind((PUBLIC, 82))).unwrap();
    let agent = lab.start();
    let sandbox = agent.sandbox();
    for namespace in [&lab.host, &sandbox.namespace] {
        // BBR, the default of some machines, goes on for long as slowly as it had to.
        namespace.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "reno")).unwrap();
    }
    let through = Policy { own_proxy: Some(proxy.named()), ..Policy::default() };
    for outward in [true, false] {
        set(&agent, &sandbox, &Policy { bandwidth: Some(SLOW / 10), ..through.clone() });
        let inside = sandbox.namespace.connect(&format!("{PUBLIC}:82")).unwrap();
        let outside = listener.accept().unwrap().0;
        let (mut from, mut to) = if outward { (inside, outside) } else { (outside, inside) };
        let writer = std::thread::spawn(move || from.write_all(&vec![7; BYTES]));
        let early = arrives(&mut to, BYTES);
        assert!(early < BYTES / 2, "{early} of {BYTES} bytes arrived");
        set(&agent, &sandbox, &through);
        to.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut rest = Vec::new();
        to.read_to_end(&mut rest).unwrap();
        assert_eq!(early + rest.len(), BYTES, "all of it arrives in the end");
        writer.join().unwrap().unwrap();
    }
    assert_eq!(proxy.asked().len(), 2);
}
