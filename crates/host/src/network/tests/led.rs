//! Connections that go through a SOCKS5 proxy of the sandbox's own, which is a fake in the lab's internet.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;

use super::fake_socks::FakeSocks;
use super::lab::{Agent, CLOSED, Lab, PATIENCE, PUBLIC, Sandbox, echoes, line};
use super::names::{FIRST, SECOND, ask_udp, ends_with, serve};
use crate::agent::trust::provider;
use crate::network::{OwnProxy, Policy, ProxyTls};

/// Where the proxy is. It connects from there, or from whichever address of the internet is nearest.
const PROXY: &str = "203.0.113.7:1080";
const OTHER: &str = "198.51.100.9";

fn lab() -> Lab {
    let lab = Lab::new();
    for address in [FIRST.to_string(), SECOND.to_string(), OTHER.to_owned()] {
        lab.internet.ip(&format!("addr add {address}/32 dev lo"));
    }
    lab
}

fn through(proxy: OwnProxy) -> Policy {
    Policy { own_proxy: Some(proxy), ..Policy::default() }
}

fn set(agent: &Agent<'_>, sandbox: &Sandbox, policy: &Policy) {
    agent.lab.host.run(|| agent.network.set_policy(sandbox.slot, policy)).unwrap();
}

/// Where the address's server thinks that the connection comes from; nothing where there is none, for whatever reason. It
/// must be known at once: what hangs is a failure.
fn seen_from(sandbox: &Sandbox, address: &str) -> Option<String> {
    let mut stream = sandbox.namespace.connect(&format!("{address}:80")).ok()?;
    stream.set_read_timeout(Some(PATIENCE * 10)).unwrap();
    let mut text = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(1) if byte[0] != b'\n' => text.push(byte[0]),
            Ok(1) => return String::from_utf8(text).ok(),
            Ok(_) => return None,
            Err(error) => {
                assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{address} hangs");
                return None;
            }
        }
    }
}

fn is_reset(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE * 10)).unwrap();
    matches!(stream.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
}

/// Whether a connection is reset, which may be before its beginning is told.
fn comes_to_a_reset(sandbox: &Sandbox, address: &str) -> bool {
    match sandbox.namespace.connect(address) {
        Ok(mut stream) => is_reset(&mut stream),
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn at(address: &str) -> SocketAddrV4 {
    SocketAddrV4::new(address.parse().unwrap(), 80)
}

const HOST: &str = "192.0.2.2";

#[test]
fn connections_go_through_the_proxy_with_its_login_and_nothing_else_does() {
    let lab = lab();
    let proxy = FakeSocks::serve(&lab.internet, PROXY, Some(("ann", "hunter2")), None);
    lab.internet.serve_udp(PUBLIC, 7);
    let agent = lab.start();
    let (sandbox, neighbour) = (agent.sandbox(), agent.sandbox());
    assert_eq!(seen_from(&sandbox, OTHER).unwrap(), HOST);
    let mut direct = sandbox.namespace.connect(&format!("{OTHER}:80")).unwrap();
    line(&mut direct);

    let login = Some(("ann".to_owned(), "hunter2".to_owned()));
    set(&agent, &sandbox, &through(OwnProxy { login: login.clone(), ..proxy.named() }));
    let from = seen_from(&sandbox, OTHER).unwrap();
    assert_ne!(from, HOST, "it comes from the proxy");
    assert_eq!(proxy.asked(), [(login.clone(), at(OTHER))]);
    assert_eq!(seen_from(&neighbour, OTHER).unwrap(), HOST, "nobody else's go through it");
    assert!(!echoes(&mut direct), "what went past it has ended");
    // All of it arrives, both ways, and an end is an end.
    let mut stream = sandbox.namespace.connect(&format!("{OTHER}:80")).unwrap();
    assert_eq!(line(&mut stream), from);
    let sent: Vec<u8> = (0..1 << 18).map(|byte: u32| byte.to_le_bytes()[1]).collect();
    let mut writing = stream.try_clone().unwrap();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || {
        writing.write_all(&copy).unwrap();
        writing.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
    // UDP goes its own way.
    let socket = sandbox.namespace.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"hello", (PUBLIC, 7)).unwrap();
    assert_eq!(socket.recv(&mut [0; 16]).unwrap(), 5);
    // The port where they are led to is nobody's to call.
    assert!(!sandbox.namespace.reaches(&format!("{}:64081", sandbox.slot.gateway())));

    // A login that is wrong, and one that is missing, is a reset.
    let before = proxy.asked().len();
    for login in [None, Some(("ann".to_owned(), "other".to_owned()))] {
        set(&agent, &sandbox, &through(OwnProxy { login, ..proxy.named() }));
        assert!(comes_to_a_reset(&sandbox, &format!("{OTHER}:80")));
    }
    assert_eq!(proxy.asked().len(), before);
    // Taken away, what went through it ends and what begins is direct.
    set(&agent, &sandbox, &through(OwnProxy { login, ..proxy.named() }));
    let mut led = sandbox.namespace.connect(&format!("{OTHER}:80")).unwrap();
    assert_eq!(line(&mut led), from);
    set(&agent, &sandbox, &Policy::default());
    assert!(is_reset(&mut led));
    assert_eq!(seen_from(&sandbox, OTHER).unwrap(), HOST);
}

#[test]
fn what_is_denied_is_denied_before_the_proxy_hears_of_it() {
    let lab = lab();
    serve(&lab, "192.0.2.1", FIRST);
    let proxy = FakeSocks::serve(&lab.internet, PROXY, None, None);
    let agent = lab.start();
    let sandbox = agent.sandbox();
    let net = |text: &str| text.parse().unwrap();
    set(&agent, &sandbox, &Policy { deny: vec![net("198.51.100.0/24")], ..through(proxy.named()) });
    let refused = sandbox.namespace.connect(&format!("{OTHER}:80")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    // What all are kept from, and this host.
    for address in CLOSED.iter().chain(&[HOST]) {
        assert_eq!(seen_from(&sandbox, address), None, "{address}");
    }
    assert_eq!(proxy.asked(), []);
    assert!(seen_from(&sandbox, &SECOND.to_string()).is_some());
    // The proxy itself needs no leave of the sandbox's rules; what is allowed by network, or by name, goes through it.
    let only = Policy {
        allow: vec![net(&format!("{SECOND}/32"))],
        allow_names: vec!["example.com".to_owned()],
        deny: vec![net("0.0.0.0/0")],
        ..through(proxy.named())
    };
    set(&agent, &sandbox, &only);
    assert_eq!(seen_from(&sandbox, &FIRST.to_string()), None);
    assert!(ends_with(&ask_udp(&sandbox, "example.com"), FIRST));
    for address in [FIRST, SECOND] {
        assert!(seen_from(&sandbox, &address.to_string()).is_some());
    }
    assert_eq!(seen_from(&sandbox, OTHER), None);
    let asked: Vec<_> = proxy.asked().into_iter().map(|(_, to)| to.ip().to_string()).collect();
    assert_eq!(asked, [SECOND.to_string(), FIRST.to_string(), SECOND.to_string()]);
    set(&agent, &sandbox, &Policy { closed: true, ..through(proxy.named()) });
    assert_eq!(seen_from(&sandbox, &SECOND.to_string()), None);
    assert_eq!(proxy.asked().len(), 3);
}

#[test]
fn a_proxy_that_is_not_there_is_a_reset_and_never_a_way_past_it() {
    let lab = lab();
    let agent = lab.start();
    let sandbox = agent.sandbox();
    let dead = |host: &str| OwnProxy { host: host.to_owned(), port: 1081, login: None, tls: None };
    for host in [PUBLIC, "no.such.name"] {
        set(&agent, &sandbox, &through(dead(host)));
        assert!(comes_to_a_reset(&sandbox, &format!("{OTHER}:80")), "{host}");
    }
    // What speaks something else is none either.
    set(&agent, &sandbox, &through(OwnProxy { port: 80, ..dead(PUBLIC) }));
    assert!(comes_to_a_reset(&sandbox, &format!("{OTHER}:80")));
}

#[test]
fn a_proxy_is_no_way_to_this_host_or_to_what_sandboxes_are_kept_from() {
    let mut lab = lab();
    let serving = [
        FakeSocks::serve(&lab.host, "192.0.2.2:1080", None, None),
        FakeSocks::serve(&lab.internet, "10.5.0.1:1080", None, None),
        FakeSocks::serve(&lab.internet, "169.254.169.254:1080", None, None),
    ];
    lab.config.egress_allow = vec!["172.16.0.0/24".parse().unwrap()];
    let allowed = FakeSocks::serve(&lab.internet, "172.16.0.1:1080", None, None);
    serve(&lab, "192.0.2.1", Ipv4Addr::new(10, 5, 0, 1));
    let agent = lab.start();
    let sandbox = agent.sandbox();
    for proxy in &serving {
        set(&agent, &sandbox, &through(proxy.named()));
        assert_eq!(seen_from(&sandbox, OTHER), None, "{}", proxy.at);
        assert_eq!(proxy.asked(), []);
    }
    // Nor by a name that says so.
    set(&agent, &sandbox, &through(OwnProxy { host: "proxy.example.com".to_owned(), ..serving[1].named() }));
    assert_eq!(seen_from(&sandbox, OTHER), None);
    assert_eq!(serving[1].asked(), []);
    // What the operator opens is open to it too.
    set(&agent, &sandbox, &through(allowed.named()));
    assert!(seen_from(&sandbox, OTHER).is_some());
    assert_eq!(allowed.asked().len(), 1);
}

#[test]
fn a_proxy_by_name_outlives_the_agent_and_nothing_goes_past_it_meanwhile() {
    let lab = lab();
    serve(&lab, "192.0.2.1", PUBLIC.parse().unwrap());
    let proxy = FakeSocks::serve(&lab.internet, PROXY, None, None);
    let policy = through(OwnProxy { host: "proxy.example.com".to_owned(), ..proxy.named() });
    let (sandbox, slots) = {
        let agent = lab.start();
        let sandbox = agent.sandbox();
        set(&agent, &sandbox, &policy);
        assert_ne!(seen_from(&sandbox, OTHER).unwrap(), HOST);
        agent.shutdown(true);
        (sandbox, agent.slots)
    };
    assert_eq!(seen_from(&sandbox, OTHER), None, "nobody leads it, and it stays");
    let agent = lab.restart_with(slots, &[(sandbox.slot, policy)]);
    assert_ne!(seen_from(&sandbox, OTHER).unwrap(), HOST);
    assert_eq!(proxy.asked().len(), 2);
    agent.detach(sandbox.slot);
    // Whoever gets the address next begins without it.
    let next = Sandbox { namespace: super::lab::Namespace::new(), slot: sandbox.slot };
    set(&agent, &next, &Policy::default());
    agent.attach(&next).unwrap();
    assert_eq!(seen_from(&next, OTHER).unwrap(), HOST);
}

#[test]
fn a_proxy_over_tls_has_to_show_who_it_is() {
    let lab = lab();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["proxy.example.com".to_owned()]).unwrap().self_signed(&key).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let login = Some(("ann".to_owned(), "hunter2".to_owned()));
    let proxy = FakeSocks::serve(&lab.internet, PROXY, Some(("ann", "hunter2")), Some(Arc::new(config)));
    let agent = lab.start();
    let sandbox = agent.sandbox();
    let over = |server_name: Option<&str>, ca: Option<String>| {
        let tls = Some(ProxyTls { server_name: server_name.map(str::to_owned), ca });
        through(OwnProxy { login: login.clone(), tls, ..proxy.named() })
    };
    let ca = Some(certificate.pem());
    for untrusted in
        [over(Some("proxy.example.com"), None), over(Some("other.org"), ca.clone()), over(None, ca.clone())]
    {
        set(&agent, &sandbox, &untrusted);
        assert_eq!(seen_from(&sandbox, OTHER), None, "{:?}", untrusted.own_proxy.unwrap().tls);
    }
    assert_eq!(proxy.asked(), []);
    set(&agent, &sandbox, &over(Some("proxy.example.com"), ca));
    assert_ne!(seen_from(&sandbox, OTHER).unwrap(), HOST);
    assert_eq!(proxy.asked(), [(login, at(OTHER))]);
}
