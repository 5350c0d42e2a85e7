//! What docs/network.md promises, on real kernel objects.

mod bandwidth;
mod egress;
mod fake_socks;
mod forged;
mod lab;
mod led;
mod names;
mod policies;

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::slots::Slot;
use lab::{Agent, CLOSED, Lab, Namespace, PATIENCE, PUBLIC, Sandbox, echoes, line};

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(30), "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_sandbox_reaches_the_internet_under_the_hosts_address() {
    let lab = Lab::new();
    let agent = lab.start();
    let sandbox = agent.sandbox();
    let mut stream = sandbox.namespace.connect(&format!("{PUBLIC}:80")).unwrap();
    assert_eq!(line(&mut stream), "192.0.2.2");
    assert!(echoes(&mut stream));
}

#[test]
fn a_sandbox_reaches_nothing_private_unless_the_operator_allows_it() {
    let mut lab = Lab::new();
    {
        let agent = lab.start();
        let sandbox = agent.sandbox();
        for address in CLOSED {
            let address = format!("{address}:80");
            // 240/4 is closed to the host as well, by the kernel of some machines.
            assert!(
                lab.host.reaches(&address) || address.starts_with("240"),
                "the test proves nothing about {address}"
            );
            assert!(!sandbox.namespace.reaches(&address), "{address}");
        }
        agent.shutdown(true);
    }
    lab.config.egress_allow = vec!["10.5.0.0/24".parse().unwrap()];
    let agent = lab.start();
    let sandbox = agent.sandbox();
    assert!(sandbox.namespace.reaches("10.5.0.1:80"));
    assert!(!sandbox.namespace.reaches("192.168.7.1:80"));
}

#[test]
fn a_sandbox_reaches_neither_the_host_nor_another_sandbox() {
    let lab = Lab::new();
    lab.host.serve(80);
    let agent = lab.start();
    let (one, other) = (agent.sandbox(), agent.sandbox());
    other.namespace.serve(80);
    let other_address = format!("{}:80", other.slot.address());
    assert!(lab.host.reaches(&other_address), "the host's proxy must reach a sandbox's ports");
    assert!(lab.host.reaches("192.0.2.2:80"));
    for address in [other_address, "192.0.2.2:80".to_owned(), format!("{}:80", one.slot.gateway())] {
        assert!(!one.namespace.reaches(&address), "{address}");
    }
}

#[test]
fn two_agents_on_one_machine_keep_their_sandboxes_apart() {
    let (lab, mut neighbour) = (Lab::new(), Lab::new());
    neighbour.host = Namespace(lab.host.0.try_clone().unwrap());
    let here = lab.start();
    // The neighbour claims in a directory of its own here, so it is moved off the first one's block by hand.
    let taken = here.slots.take().unwrap();
    let slots = neighbour.slots(&[Slot::new(taken.network(), taken.block() + 1, 1).unwrap()]);
    let there = neighbour.restart(slots, &[]);
    let (one, other) = (here.sandbox(), there.sandbox());
    for sandbox in [&one, &other] {
        sandbox.namespace.serve(80);
        assert!(sandbox.namespace.reaches(&format!("{PUBLIC}:80")));
    }
    assert!(!one.namespace.reaches(&format!("{}:80", other.slot.address())));
    assert!(!other.namespace.reaches(&format!("{}:80", one.slot.address())));
    there.shutdown(false);
    assert!(one.namespace.reaches(&format!("{PUBLIC}:80")), "the neighbour's end was felt");
}

#[test]
fn the_rules_of_a_data_directory_that_is_gone_bind_nobody() {
    let (lab, mut next) = (Lab::new(), Lab::new());
    let gone = lab.start();
    let group = gone.slots.group();
    // Its agent was killed, its directory deleted: the rules are all that is left.
    drop(gone);
    next.host = Namespace(lab.host.0.try_clone().unwrap());
    next.config.egress_allow = vec!["10.5.0.0/24".parse().unwrap()];
    let agent = next.start();
    assert_eq!(agent.slots.group(), group, "the test proves nothing");
    assert!(agent.sandbox().namespace.reaches("10.5.0.1:80"));
    let tables = next.host.run(|| Command::new("nft").args(["list", "tables"]).output().unwrap().stdout);
    assert_eq!(String::from_utf8(tables).unwrap().trim(), format!("table inet {}", next.instance().name('_')));
}

#[test]
fn nobody_outside_reaches_a_sandbox_or_its_gateway() {
    let lab = Lab::new();
    let agent = lab.start();
    let sandbox = agent.sandbox();
    sandbox.namespace.serve(80);
    assert!(!lab.internet.reaches(&format!("{}:80", sandbox.slot.address())));
    assert!(!lab.internet.reaches(&format!("{}:53", sandbox.slot.gateway())));
}

#[test]
fn there_is_no_ipv6_on_the_way_out_but_there_is_inside() {
    let lab = Lab::new();
    lab.host.serve(80);
    let agent = lab.start();
    let sandbox = agent.sandbox();
    sandbox.namespace.serve(81);
    assert!(sandbox.namespace.reaches("[::1]:81"));
    let addresses = sandbox.namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap());
    assert!(!addresses.contains("eth0"), "{addresses}");
    let addresses = lab.host.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap());
    assert!(!addresses.contains("atl"), "{addresses}");
    // A sandbox that helps itself to an address gets no further.
    sandbox.namespace.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").unwrap());
    sandbox.namespace.ip("-6 addr add fd00::2/64 dev eth0 nodad");
    let link = sandbox.slot.link_name();
    lab.host.ip(&format!("-6 addr add fd00::1/64 dev {link} nodad"));
    eventually("the address is usable", || lab.host.reaches("[fd00::1]:80"));
    assert!(!sandbox.namespace.reaches("[fd00::1]:80"));
}

#[test]
fn a_packet_with_a_source_that_is_not_the_sandboxes_goes_nowhere() {
    let lab = Lab::new();
    let agent = lab.start();
    let (liar, victim) = (agent.sandbox(), agent.sandbox());
    let server = lab.internet.run(|| UdpSocket::bind((PUBLIC, 99)).unwrap());
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    for false_address in [victim.slot.address().to_string(), "203.0.113.99".to_owned(), "192.0.2.2".to_owned()] {
        liar.namespace.ip(&format!("addr add {false_address}/32 dev eth0"));
        let send = || UdpSocket::bind((false_address.as_str(), 0)).unwrap().send_to(b"lie", (PUBLIC, 99));
        liar.namespace.run(send).unwrap();
    }
    let honest = || UdpSocket::bind((liar.slot.address(), 0)).unwrap().send_to(b"truth", (PUBLIC, 99));
    liar.namespace.run(honest).unwrap();
    let mut buffer = [0; 16];
    let length = server.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"truth");
}

#[test]
fn a_sandbox_can_fill_its_share_of_the_connection_table_and_no_more() {
    let mut lab = Lab::new();
    lab.config.max_connections = 20;
    lab.internet.serve_udp(PUBLIC, 99);
    let agent = lab.start();
    let (greedy, neighbour) = (agent.sandbox(), agent.sandbox());
    let open = |sandbox: &Sandbox, tries: usize| -> Vec<UdpSocket> {
        sandbox.namespace.run(|| {
            let open = |_| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_nonblocking(true).unwrap();
                socket.connect((PUBLIC, 99)).unwrap();
                // Beyond the bound the answer is "prohibited", here or at the next call.
                let _ = socket.send(b"x");
                socket
            };
            (0..tries).map(open).collect()
        })
    };
    let answered = |sockets: &[UdpSocket]| {
        let peek = |socket: &&UdpSocket| socket.peek(&mut [0; 16]).is_ok();
        sockets.iter().filter(peek).count()
    };
    let all = open(&greedy, 40);
    let others = open(&neighbour, 10);
    eventually("the neighbour has all that it wants", || answered(&others) == 10);
    eventually("the greedy one has its share", || answered(&all) >= 20);
    assert_eq!(answered(&all), 20);
    // Whoever gets the slot next begins with a clean slate.
    agent.detach(greedy.slot);
    let next = Sandbox { namespace: Namespace::new(), slot: greedy.slot };
    agent.attach(&next).unwrap();
    let all = open(&next, 20);
    eventually("the next one has its share", || answered(&all) == 20);
}

#[test]
fn denied_egress_ends_open_connections_and_can_be_given_back() {
    let lab = Lab::new();
    let agent = lab.start();
    let (sandbox, neighbour) = (agent.sandbox(), agent.sandbox());
    let mut stream = sandbox.namespace.connect(&format!("{PUBLIC}:80")).unwrap();
    line(&mut stream);
    assert!(echoes(&mut stream));
    agent.deny(&sandbox, true);
    agent.deny(&sandbox, true);
    assert!(!echoes(&mut stream) && !sandbox.namespace.reaches(&format!("{PUBLIC}:80")));
    sandbox.namespace.serve(80);
    assert!(lab.host.reaches(&format!("{}:80", sandbox.slot.address())), "its own ports are shut too");
    assert!(neighbour.namespace.reaches(&format!("{PUBLIC}:80")));
    agent.deny(&sandbox, false);
    agent.deny(&sandbox, false);
    assert!(sandbox.namespace.reaches(&format!("{PUBLIC}:80")));
}

#[test]
fn an_agents_restart_is_not_felt_inside() {
    let lab = Lab::new();
    let (_sandbox, denied, mut stream, slots) = {
        let agent = lab.start();
        let (sandbox, denied) = (agent.sandbox(), agent.sandbox());
        agent.deny(&denied, true);
        let mut stream = sandbox.namespace.connect(&format!("{PUBLIC}:80")).unwrap();
        line(&mut stream);
        let Agent { slots, .. } = agent;
        (sandbox, denied, stream, slots)
    };
    assert!(echoes(&mut stream), "the crash was felt");
    let in_use = slots.in_use();
    drop(slots);
    let agent = lab.restart(lab.slots(&in_use), &[denied.slot]);
    assert!(echoes(&mut stream), "the restart was felt");
    assert!(!denied.namespace.reaches(&format!("{PUBLIC}:80")));
    assert_eq!(agent.leftovers().len(), 2);
}

#[test]
fn a_link_that_was_left_in_another_group_is_brought_under_the_rules() {
    let lab = Lab::new();
    lab.host.serve(80);
    let agent = lab.start();
    let sandbox = agent.sandbox();
    lab.host.ip(&format!("link set dev {} group 7", sandbox.slot.link_name()));
    assert!(sandbox.namespace.reaches("192.0.2.2:80"));
    let in_use = agent.slots.in_use();
    drop(agent);
    let agent = lab.restart(lab.slots(&in_use), &[]);
    assert_eq!(agent.leftovers(), [sandbox.slot.link_name()]);
    assert!(!sandbox.namespace.reaches("192.0.2.2:80"));
}

#[test]
fn an_address_is_free_again_after_detach_however_its_last_user_ended() {
    let lab = Lab::new();
    let agent = lab.start();
    let first = agent.sandbox();
    agent.detach(first.slot);
    agent.detach(first.slot);
    assert!(agent.leftovers().is_empty());
    // This time the namespace dies first; and its link may not even be gone yet.
    let second = Sandbox { namespace: Namespace::new(), slot: first.slot };
    agent.attach(&second).unwrap();
    let third = Sandbox { namespace: Namespace::new(), slot: first.slot };
    agent.attach(&third).unwrap();
    assert!(third.namespace.reaches(&format!("{PUBLIC}:80")));
    assert!(!second.namespace.reaches(&format!("{PUBLIC}:80")));
    drop(third);
    eventually("the dead namespace's link is gone", || agent.leftovers().is_empty());
}

#[test]
fn an_attach_that_fails_leaves_nothing() {
    let lab = Lab::new();
    let agent = lab.start();
    let sandbox = Sandbox { namespace: Namespace::new(), slot: agent.slots.take().unwrap() };
    sandbox.namespace.ip("link add eth0 type veth peer name other");
    agent.attach(&sandbox).unwrap_err();
    assert!(agent.leftovers().is_empty());
    sandbox.namespace.ip("link del eth0");
    // The inner half fails after the outer one has worked.
    sandbox.namespace.ip("link set lo up");
    sandbox.namespace.ip("route add default dev lo");
    let error = agent.attach(&sandbox).unwrap_err();
    assert!(error.to_string().contains("default route"), "{error}");
    assert!(agent.leftovers().is_empty());
    let not_a_namespace = std::fs::File::open("/dev/null").unwrap();
    use std::os::fd::AsFd;
    agent.network.attach(sandbox.slot, not_a_namespace.as_fd()).unwrap_err();
}

#[test]
fn traffic_is_counted_from_the_sandboxes_point_of_view() {
    let lab = Lab::new();
    lab.internet.serve_udp(PUBLIC, 99);
    let agent = lab.start();
    let sandbox = agent.sandbox();
    let counters = || lab.host.run(|| agent.network.counters(sandbox.slot)).unwrap();
    let before = counters();
    let socket = sandbox.namespace.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for _ in 0..10 {
        socket.send_to(&[0; 1000], (PUBLIC, 9)).unwrap();
    }
    eventually("what was sent is counted", || counters().sent >= before.sent + 10_000);
    assert!(counters().received < before.received + 5_000);
    let other = agent.slots.take().unwrap();
    lab.host.run(|| agent.network.counters(other)).unwrap_err();
}

#[test]
fn a_hundred_sandboxes_are_attached_at_once_across_blocks() {
    let lab = Lab::new();
    let agent = lab.start();
    // Leave less than a hundred in the first block.
    for _ in 0..200 {
        agent.slots.take().unwrap();
    }
    let sandboxes: Vec<_> =
        (0..100).map(|_| Sandbox { namespace: Namespace::new(), slot: agent.slots.take().unwrap() }).collect();
    lab.host.run(|| {
        std::thread::scope(|scope| {
            for chunk in sandboxes.chunks(10) {
                scope.spawn(|| chunk.iter().for_each(|sandbox| agent.attach(sandbox).unwrap()));
            }
        });
    });
    assert_eq!(agent.leftovers().len(), 100);
    for sandbox in [&sandboxes[0], &sandboxes[99]] {
        assert!(sandbox.namespace.reaches(&format!("{PUBLIC}:80")));
        let mtu = sandbox.namespace.run(|| Command::new("ip").args(["link", "show", "eth0"]).output().unwrap());
        assert!(String::from_utf8_lossy(&mtu.stdout).contains("mtu 1400"), "the uplink's MTU is not kept");
    }
    drop(sandboxes);
    eventually("all links are gone", || agent.leftovers().is_empty());
}

#[test]
fn a_shutdown_with_no_sandbox_left_leaves_nothing() {
    let lab = Lab::new();
    let agent = lab.start();
    let shown = |command: &[&str]| {
        let output = lab.host.run(|| Command::new(command[0]).args(&command[1..]).output().unwrap());
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(shown(&["nft", "list", "tables"]).contains(&lab.instance().name('_')));
    assert!(shown(&["ip", "addr", "show", "lo"]).contains("198.18."));
    agent.shutdown(false);
    assert_eq!(shown(&["nft", "list", "tables"]), "");
    assert!(!shown(&["ip", "addr", "show", "lo"]).contains("198.18."));
    agent.slots.release_all().unwrap();
}
