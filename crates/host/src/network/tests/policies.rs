//! What single sandboxes may reach, by network and by name, changed while their traffic flows.

use std::io::{BufRead, BufReader};
use std::process::Command;
use std::time::Duration;

use super::eventually;
use super::lab::{Agent, Lab, Namespace, Sandbox, echoes, line};
use super::names::{FIRST, SECOND, ask_udp, ask_udp_at, ends_with, serve, serve_for};
use crate::network::Policy;

const OTHER: &str = "198.51.100.9";

fn lab() -> Lab {
    let lab = Lab::new();
    for address in [FIRST.to_string(), SECOND.to_string(), OTHER.to_owned()] {
        lab.internet.ip(&format!("addr add {address}/32 dev lo"));
    }
    lab
}

fn policy(allow: &[&str], deny: &[&str]) -> Policy {
    let is_name = |text: &&&str| text.bytes().any(|byte| byte.is_ascii_alphabetic());
    let networks = |rules: &[&str]| {
        rules.iter().filter(|text| !is_name(text)).map(|text| text.parse().unwrap()).collect::<Vec<_>>()
    };
    let names = |rules: &[&str]| rules.iter().filter(is_name).map(|text| (*text).to_owned()).collect::<Vec<_>>();
    Policy {
        closed: false,
        allow: networks(allow),
        deny: networks(deny),
        allow_names: names(allow),
        deny_names: names(deny),
        ..Policy::default()
    }
}

fn set(agent: &Agent<'_>, sandbox: &Sandbox, policy: &Policy) {
    agent.lab.host.run(|| agent.network.set_policy(sandbox.slot, policy)).unwrap();
}

fn reaches(sandbox: &Sandbox, address: impl std::fmt::Display) -> bool {
    sandbox.namespace.reaches(&format!("{address}:80"))
}

#[test]
fn networks_are_opened_and_closed_for_one_sandbox_while_its_connections_flow() {
    let lab = lab();
    let agent = lab.start();
    let (sandbox, neighbour) = (agent.sandbox(), agent.sandbox());
    let mut open = sandbox.namespace.connect(&format!("{OTHER}:80")).unwrap();
    line(&mut open);
    assert!(echoes(&mut open));
    // Denied: what is open there ends, what is elsewhere goes on, and the neighbour notices nothing.
    let mut elsewhere = sandbox.namespace.connect(&format!("{FIRST}:80")).unwrap();
    line(&mut elsewhere);
    set(&agent, &sandbox, &policy(&[], &["198.51.100.0/24"]));
    assert!(!echoes(&mut open) && !reaches(&sandbox, OTHER));
    assert!(echoes(&mut elsewhere) && reaches(&sandbox, SECOND) && reaches(&neighbour, OTHER));
    // Allowed wins over denied, and only what is allowed is open when everything is denied.
    set(&agent, &sandbox, &policy(&["203.0.113.1"], &["0.0.0.0/0"]));
    assert!(reaches(&sandbox, FIRST) && echoes(&mut elsewhere));
    assert!(!reaches(&sandbox, SECOND) && !reaches(&sandbox, OTHER));
    // What all sandboxes are kept from stays closed, whatever a sandbox is allowed.
    set(&agent, &sandbox, &policy(&["0.0.0.0/0"], &[]));
    assert!(reaches(&sandbox, OTHER));
    for address in ["10.5.0.1", "169.254.169.254", "192.0.2.2"] {
        assert!(!reaches(&sandbox, address), "{address}");
    }
    set(&agent, &sandbox, &Policy::default());
    assert!(reaches(&sandbox, OTHER) && reaches(&sandbox, SECOND));
}

#[test]
fn names_open_their_addresses_and_nothing_beside_them() {
    let lab = lab();
    serve(&lab, "192.0.2.1", FIRST);
    let agent = lab.start();
    let (sandbox, neighbour) = (agent.sandbox(), agent.sandbox());
    set(&agent, &sandbox, &policy(&["*.pypi.org", "example.com"], &["0.0.0.0/0"]));
    // Not before it has asked: the address is a stranger until it is the answer to a name.
    assert!(!reaches(&sandbox, FIRST));
    let refused = |name: &str| {
        let answer = ask_udp(&sandbox, name);
        // REFUSED, without an address.
        answer.is_some_and(|bytes| bytes[3] & 0x0f == 5 && bytes[6..8] == [0, 0])
    };
    for name in ["evil.net", "pypi.org", "www.example.com", "example.com.evil.net", "notpypi.org"] {
        assert!(refused(name), "{name}");
    }
    assert!(!reaches(&sandbox, FIRST), "a refused question must open nothing");
    assert!(ends_with(&ask_udp(&sandbox, "files.pypi.org"), FIRST));
    assert!(reaches(&sandbox, FIRST) && !reaches(&sandbox, SECOND) && !reaches(&sandbox, OTHER));
    assert!(ends_with(&ask_udp(&sandbox, "EXAMPLE.com"), FIRST), "letters' case does not matter");
    // Another sandbox's questions open nothing here, and the rules are not the neighbour's.
    assert!(ends_with(&ask_udp(&neighbour, "evil.net"), FIRST) && reaches(&neighbour, OTHER));
    // Taken away while it runs: neither the name nor what it had opened is left.
    set(&agent, &sandbox, &policy(&["example.com"], &["0.0.0.0/0", "files.pypi.org"]));
    assert!(refused("files.pypi.org") && !reaches(&sandbox, FIRST));
    assert!(ends_with(&ask_udp(&sandbox, "example.com"), FIRST) && reaches(&sandbox, FIRST));
    agent.detach(sandbox.slot);
    let next = Sandbox { namespace: Namespace::new(), slot: sandbox.slot };
    set(&agent, &next, &policy(&["example.com"], &["0.0.0.0/0"]));
    agent.attach(&next).unwrap();
    assert!(!reaches(&next, FIRST), "what names have opened is not for whoever gets the address next");
}

/// What the kernel's set of addresses that names have opened holds.
fn learned(lab: &Lab) -> Vec<serde_json::Value> {
    let table = lab.instance().name('_');
    let arguments = ["-j", "list", "set", "inet", &table, "learned"];
    let shown = lab.host.run(|| Command::new("nft").args(arguments).output().unwrap().stdout);
    let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
    shown["nftables"][1]["set"]["elem"].as_array().cloned().unwrap_or_default()
}

#[test]
fn what_a_name_has_opened_closes_when_its_answer_is_over_to_what_is_new_until_it_is_asked_again() {
    let mut lab = lab();
    lab.config.names_open = (Duration::ZERO, Duration::from_secs(3));
    // One for two seconds, and one for as long as there may be.
    serve_for(&lab, "192.0.2.1", FIRST, 2);
    serve_for(&lab, OTHER, SECOND, u32::MAX);
    let agent = lab.start();
    let sandbox = agent.sandbox();
    set(&agent, &sandbox, &policy(&["example.com", "files.test"], &["0.0.0.0/0"]));
    for (resolver, address, seconds) in [("192.0.2.1", FIRST, 2), (OTHER, SECOND, 3)] {
        std::fs::write(&lab.config.resolv_conf, format!("nameserver {resolver}\n")).unwrap();
        for name in ["example.com", "files.test"] {
            assert!(!reaches(&sandbox, address) && learned(&lab).is_empty());
            // Asked again if this machine takes so long that it is over before it is tried.
            eventually("its address is open", || {
                ends_with(&ask_udp(&sandbox, name), address) && reaches(&sandbox, address)
            });
            let mut open = None;
            eventually("a connection, and what the kernel says of it", || {
                ask_udp(&sandbox, name);
                open = sandbox.namespace.connect(&format!("{address}:80")).ok();
                let _greeted = open.as_mut().map(|stream| BufReader::new(stream).read_line(&mut String::new()));
                learned(&lab).first().is_some_and(|element| {
                    let pair = serde_json::json!([sandbox.slot.address().to_string(), address.to_string()]);
                    assert_eq!(element["elem"]["val"]["concat"], pair, "{element}");
                    assert_eq!(element["elem"]["timeout"], seconds, "{element}");
                    open.is_some()
                })
            });
            // Nobody asks any more.
            eventually("its address is closed", || !reaches(&sandbox, address));
            eventually("the kernel has forgotten it", || learned(&lab).is_empty());
            let mut open = open.unwrap();
            assert!(echoes(&mut open), "what is open there goes on, as a long download does");
            assert!(!reaches(&sandbox, address), "and lets nobody else in");
            set(&agent, &sandbox, &policy(&[], &["0.0.0.0/0"]));
            assert!(!echoes(&mut open), "until the rules are replaced");
            set(&agent, &sandbox, &policy(&["example.com", "files.test"], &["0.0.0.0/0"]));
        }
    }
}

#[test]
fn a_server_for_names_is_asked_where_it_is_allowed_beside_them() {
    let lab = lab();
    serve(&lab, "192.0.2.1", SECOND);
    serve(&lab, OTHER, FIRST);
    let agent = lab.start();
    let sandbox = agent.sandbox();
    let server = OTHER.parse().unwrap();
    set(&agent, &sandbox, &policy(&["example.com"], &["0.0.0.0/0"]));
    assert_eq!(ask_udp_at(&sandbox, server, "example.com"), None, "what nobody has named is closed");
    set(&agent, &sandbox, &policy(&["example.com", OTHER], &["0.0.0.0/0"]));
    assert!(ends_with(&ask_udp_at(&sandbox, server, "anything.test"), FIRST), "it is asked itself, not the forwarder");
    assert!(!reaches(&sandbox, FIRST), "what it answers opens nothing");
    assert!(ends_with(&ask_udp(&sandbox, "example.com"), SECOND), "the forwarder goes on beside it");
}

#[test]
fn a_denied_name_is_refused_and_the_rest_is_open() {
    let lab = lab();
    serve(&lab, "192.0.2.1", SECOND);
    let agent = lab.start();
    let sandbox = agent.sandbox();
    set(&agent, &sandbox, &policy(&["good.evil.net"], &["*.evil.net"]));
    assert!(!ends_with(&ask_udp(&sandbox, "bad.evil.net"), SECOND));
    for name in ["good.evil.net", "evil.net", "example.com"] {
        assert!(ends_with(&ask_udp(&sandbox, name), SECOND), "{name}");
    }
    assert!(reaches(&sandbox, SECOND) && reaches(&sandbox, OTHER));
}

#[test]
fn what_names_have_opened_outlives_the_agent_unless_the_rules_are_others() {
    let lab = lab();
    serve(&lab, "192.0.2.1", FIRST);
    let rules = policy(&["example.com"], &["0.0.0.0/0"]);
    let (sandbox, slots, mut open) = {
        let agent = lab.start();
        let sandbox = agent.sandbox();
        set(&agent, &sandbox, &rules);
        assert!(ends_with(&ask_udp(&sandbox, "example.com"), FIRST));
        let mut open = sandbox.namespace.connect(&format!("{FIRST}:80")).unwrap();
        line(&mut open);
        assert!(echoes(&mut open));
        (sandbox, agent.slots, open)
    };
    // The same rules: what is open goes on, and what was asked counts.
    let slots = lab.restart_with(slots, &[(sandbox.slot, rules.clone())]).slots;
    assert!(echoes(&mut open) && reaches(&sandbox, FIRST) && !reaches(&sandbox, SECOND));
    let before = learned(&lab);
    assert!(before[0]["elem"]["expires"].as_u64() <= before[0]["elem"]["timeout"].as_u64(), "{before:?}");
    // The agent that follows takes it away as one that has opened it itself.
    let agent = lab.restart_with(slots, &[(sandbox.slot, rules.clone())]);
    assert!(echoes(&mut open));
    set(&agent, &sandbox, &policy(&["other.test"], &["0.0.0.0/0"]));
    assert!(!echoes(&mut open) && !reaches(&sandbox, FIRST));
    assert_eq!(learned(&lab), Vec::<serde_json::Value>::new());
    // Other rules than the table has: what was opened under those is nothing to them.
    set(&agent, &sandbox, &rules);
    assert!(ends_with(&ask_udp(&sandbox, "example.com"), FIRST));
    let mut open = sandbox.namespace.connect(&format!("{FIRST}:80")).unwrap();
    line(&mut open);
    assert!(echoes(&mut open));
    let others = policy(&["other.test"], &["0.0.0.0/0"]);
    let _agent = lab.restart_with(agent.slots, &[(sandbox.slot, others)]);
    assert!(!echoes(&mut open) && !reaches(&sandbox, FIRST));
}

#[test]
fn rules_outlive_the_agent_that_set_them() {
    let lab = lab();
    let rules = policy(&["203.0.113.1"], &["0.0.0.0/0"]);
    let (sandbox, slots) = {
        let agent = lab.start();
        let sandbox = agent.sandbox();
        set(&agent, &sandbox, &rules);
        (sandbox, agent.slots)
    };
    // While no agent runs, and with the next one.
    assert!(reaches(&sandbox, FIRST) && !reaches(&sandbox, OTHER));
    let agent = lab.restart_with(slots, &[(sandbox.slot, rules)]);
    assert!(reaches(&sandbox, FIRST) && !reaches(&sandbox, OTHER));
    agent.detach(sandbox.slot);
    // Whoever gets the address next begins without them.
    let next = Sandbox { namespace: Namespace::new(), slot: sandbox.slot };
    set(&agent, &next, &Policy::default());
    agent.attach(&next).unwrap();
    assert!(reaches(&next, OTHER));
}
