//! Headers that the egress proxy adds: real sandboxes' namespaces, a real TLS server beyond them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use atoll_model::SandboxId;

use super::eventually;
use super::fake_socks::FakeSocks;
use super::lab::{Agent, Lab, PATIENCE, PUBLIC, Sandbox};
use super::names::{ask_udp, ends_with, serve};
use crate::agent::trust::provider;
use crate::network::{AddedHeader, HeaderPart, Identities, Identity, Policy, Token};

const NAME: &str = "api.example.com";

/// A server at 203.0.113.7:443 that answers with the head that it was sent, and the certificate of who vouches for it.
fn server(lab: &Lab, name: &str) -> String {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new([]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new([name.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = lab.internet.run(|| TcpListener::bind((PUBLIC, 443))).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), config) = (stream, config.clone()) else { return };
            std::thread::spawn(move || {
                let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
                while let Some(head) = head(&mut stream) {
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    ca_certificate.pem()
}

fn head(stream: &mut impl Read) -> Option<String> {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return None;
        }
        text.push(byte[0]);
    }
    String::from_utf8(text).ok()
}

type Secure = StreamOwned<ClientConnection, TcpStream>;

/// A connection as a program of the sandbox makes it, that trusts `authority`.
fn connect(sandbox: &Sandbox, name: &str, authority: &str) -> std::io::Result<Secure> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = sandbox.namespace.connect(&format!("{}:443", sandbox.slot.gateway()))?;
    stream.set_read_timeout(Some(PATIENCE * 5))?;
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap());
    let mut secure = StreamOwned::new(connection.unwrap(), stream);
    secure.conn.complete_io(&mut secure.sock)?;
    Ok(secure)
}

/// Status and body of an answer, the body being what came to the server.
fn ask(stream: &mut Secure, host: &str, more: &str) -> Option<(u16, String)> {
    stream.write_all(format!("GET /v1/things?a=b HTTP/1.1\r\nHost: {host}\r\n{more}\r\n").as_bytes()).ok()?;
    let answer = head(stream)?.to_ascii_lowercase();
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let length = answer.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((status, String::from_utf8(body).unwrap().to_ascii_lowercase()))
}

fn policy(domain: &str, value: &str) -> Policy {
    let header = AddedHeader {
        domain: domain.to_owned(),
        name: "Authorization".to_owned(),
        value: value.to_owned(),
        parts: Vec::new(),
    };
    Policy { headers: vec![header], ..Policy::default() }
}

fn set(agent: &Agent, sandbox: &Sandbox, policy: &Policy) {
    agent.lab.host.run(|| agent.network.set_policy(sandbox.slot, policy)).unwrap();
}

/// Says for whom a token is.
#[derive(Debug)]
struct Named;

#[async_trait::async_trait]
impl Identities for Named {
    async fn token(&self, identity: &Identity) -> Result<Token, String> {
        match identity.name.as_str() {
            "aws" => Ok(Token { text: format!("of-{}", identity.sandbox), ttl: PATIENCE * 100 }),
            _ => Err("control does not answer".to_owned()),
        }
    }
}

/// One at a time: it is a variable of the process.
static ROOTS: Mutex<()> = Mutex::new(());

#[test]
fn headers_are_added_for_whom_the_policy_says_so_and_for_nobody_else() {
    let _alone = ROOTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut lab = Lab::new();
    lab.config.identities = Some(Arc::new(Named));
    let public: Ipv4Addr = PUBLIC.parse().unwrap();
    serve(&lab, "192.0.2.1", public);
    let roots = lab.dir.path().join("roots.pem");
    std::fs::write(&roots, server(&lab, NAME)).unwrap();
    // SAFETY: no other thread of this test reads the environment yet, and nextest gives each test a process of its own.
    unsafe { std::env::set_var("ATOLL_CA_FILE", &roots) };
    let agent = lab.start();
    let (one, other) = (agent.sandbox(), agent.sandbox());
    set(&agent, &one, &policy("*.example.com", "Bearer hunter2"));
    let authority = agent.network.egress_authority().unwrap();

    // Its name leads to the gateway for this sandbox alone.
    assert!(ends_with(&ask_udp(&one, NAME), one.slot.gateway()));
    assert!(ends_with(&ask_udp(&one, "other.org"), public));
    assert!(ends_with(&ask_udp(&other, NAME), public));

    let mut stream = connect(&one, NAME, &authority).unwrap();
    for _ in 0..2 {
        let (status, got) =
            ask(&mut stream, NAME, "Authorization: mine\r\nX-Own: yes\r\nConnection: X-Hop\r\nX-Hop: 1\r\n").unwrap();
        assert_eq!(status, 200, "{got}");
        assert!(got.starts_with("get /v1/things?a=b http/1.1\r\n"), "{got}");
        assert!(got.contains("\r\nauthorization: bearer hunter2\r\n") && !got.contains("mine"), "{got}");
        assert!(got.contains("\r\nx-own: yes\r\n") && !got.contains("x-hop"), "{got}");
        assert!(got.contains(&format!("\r\nhost: {NAME}\r\n")), "{got}");
    }
    // Another host behind the same address would get what is not meant for it.
    assert_eq!(ask(&mut stream, "evil.example.com", "").unwrap().0, 421);
    // No other name is spoken for, and nobody else is served.
    assert!(connect(&one, "other.org", &authority).is_err());
    assert!(connect(&other, NAME, &authority).is_err());
    // Its own certificate is of no use to a server that shows another name than it was asked for.
    let mut stream = connect(&one, "www.example.com", &authority).unwrap();
    assert_eq!(ask(&mut stream, "www.example.com", "").unwrap().0, 502);

    // Over plain HTTP nothing is added.
    let mut plain = one.namespace.connect(&format!("{}:80", one.slot.gateway())).unwrap();
    plain.write_all(format!("GET /x HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes()).unwrap();
    let told = head(&mut plain).unwrap();
    assert!(told.starts_with("HTTP/1.1 308 ") && told.contains(&format!("Location: https://{NAME}/x\r\n")), "{told}");

    // What changes holds at once, for what is open too.
    let mut open = connect(&one, NAME, &authority).unwrap();
    assert_eq!(ask(&mut open, NAME, "").unwrap().0, 200);
    set(&agent, &one, &policy(NAME, "Bearer second"));
    eventually("what was open ends", || ask(&mut open, NAME, "").is_none());
    let mut stream = connect(&one, NAME, &authority).unwrap();
    assert!(ask(&mut stream, NAME, "").unwrap().1.contains("bearer second"));
    assert!(connect(&one, "www.example.com", &authority).is_err());

    // A token of its own identity, where there is one.
    let sandbox = SandboxId::new();
    let identity = |name: &str| {
        let identity = Identity { sandbox: sandbox.clone(), name: name.to_owned() };
        let parts = vec![HeaderPart::Text("Bearer ".to_owned()), HeaderPart::Identity(identity)];
        let mut policy = policy(NAME, "");
        policy.headers[0].parts = parts;
        policy
    };
    set(&agent, &one, &identity("aws"));
    let (status, got) = ask(&mut connect(&one, NAME, &authority).unwrap(), NAME, "Authorization: mine\r\n").unwrap();
    assert!(status == 200 && got.contains(&format!("authorization: bearer of-{sandbox}\r\n")), "{got}");
    assert!(!got.contains("mine"), "{got}");
    set(&agent, &one, &identity("gone"));
    let (status, told) = ask(&mut connect(&one, NAME, &authority).unwrap(), NAME, "").unwrap();
    assert!(status == 502 && told.contains("control does not answer"), "{told}");

    // It is no way around what is denied.
    let denied = Policy { deny: vec![format!("{PUBLIC}/32").parse().unwrap()], ..policy(NAME, "x") };
    set(&agent, &one, &denied);
    assert_eq!(ask(&mut connect(&one, NAME, &authority).unwrap(), NAME, "").unwrap().0, 403);
    set(&agent, &one, &Policy { deny_names: vec![NAME.to_owned()], ..policy(NAME, "x") });
    assert!(connect(&one, NAME, &authority).is_err());
    set(&agent, &one, &Policy { closed: true, ..policy(NAME, "x") });
    assert!(connect(&one, NAME, &authority).is_err());

    // Where the sandbox has a proxy of its own, its requests go through that too, headers and all.
    let proxy = FakeSocks::serve(&lab.internet, "203.0.113.7:1080", None, None);
    set(&agent, &one, &Policy { own_proxy: Some(proxy.named()), ..policy(NAME, "Bearer led") });
    assert!(ask(&mut connect(&one, NAME, &authority).unwrap(), NAME, "").unwrap().1.contains("bearer led"));
    assert_eq!(proxy.asked(), [(None, "203.0.113.7:443".parse().unwrap())]);

    // An agent that is started anew goes on with it.
    let kept = policy(NAME, "Bearer third");
    set(&agent, &one, &kept);
    let slot = one.slot;
    agent.shutdown(true);
    drop(agent);
    let slots = lab.slots(&[slot, other.slot]);
    let again = lab.restart_with(slots, &[(slot, kept)]);
    assert_eq!(again.network.egress_authority().unwrap(), authority);
    let mut stream = connect(&one, NAME, &authority).unwrap();
    assert!(ask(&mut stream, NAME, "").unwrap().1.contains("bearer third"));
    again.detach(slot);
}
