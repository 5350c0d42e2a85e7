//! Who is let in, on both ends.

use std::sync::Arc;

use atoll_model::{HostId, SandboxId};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::host::{Identity, Rig, TestHost, get, host_identity, rig, text};
use crate::clock::Clock;
use crate::fleet::{FleetError, authority};
use crate::pki::{Authority, internal_server_config};

/// Whether a client with this certificate gets an answer out of the host.
async fn is_let_in(rig: &Rig, identity: Option<&Identity>) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(rig.authority.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from(authority(&rig.host)).unwrap();
    let tcp = TcpStream::connect(rig.server.address).await.unwrap();
    let Ok(mut tls) = TlsConnector::from(Arc::new(config)).connect(name, tcp).await else { return false };
    // In TLS 1.3 the server's refusal comes after the client believes to be done.
    if tls.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.is_err() {
        return false;
    }
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).await.is_ok() && answer.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn control_is_let_in_and_nobody_else() {
    let rig = rig().await;
    let sandbox = SandboxId::new();
    let answer = rig.fleet.guest_http(&rig.host, &sandbox, get("/files?path=a")).await.unwrap();
    assert_eq!(text(answer).await, format!("HTTP/1.1 /proxy/{sandbox}/guest/files trusted=true"));

    assert!(!is_let_in(&rig, None).await, "no certificate");
    assert!(!is_let_in(&rig, Some(&rig.identity)).await, "the host's own");
    let other = host_identity(&rig.authority, &HostId::new());
    assert!(!is_let_in(&rig, Some(&other)).await, "another host's");
    let elsewhere = host_identity(&Authority::for_tests(Clock::system()), &rig.host);
    assert!(!is_let_in(&rig, Some(&elsewhere)).await, "another CA's");
}

#[tokio::test]
async fn control_talks_to_nobody_but_the_host_it_means() {
    let rig = rig().await;
    let sandbox = SandboxId::new();
    let other = HostId::new();
    let impostors = [
        ("another host", host_identity(&rig.authority, &other)),
        ("a key that this host used to have", host_identity(&rig.authority, &rig.host)),
        ("another CA", host_identity(&Authority::for_tests(Clock::system()), &rig.host)),
    ];
    for (who, identity) in impostors {
        let server = TestHost::start(&rig.authority, &identity).await;
        // The directory knows the real host's key; for the other host even that is right.
        let expected = if who == "another host" { &identity.host_key } else { &rig.identity.host_key };
        rig.directory.set(server.address, expected);
        let refused = rig.fleet.guest_http(&rig.host, &sandbox, get("/x")).await;
        assert!(matches!(refused, Err(FleetError::Unavailable { .. })), "{who}: {refused:?}");
        let refused = rig.fleet.host_client(&rig.host).get_status(Default::default()).await;
        assert!(refused.is_err(), "{who}");
    }
    rig.directory.set(rig.server.address, &rig.identity.host_key);
    assert!(rig.fleet.guest_http(&rig.host, &sandbox, get("/x")).await.is_ok());
}

#[tokio::test]
async fn an_agent_that_knows_only_the_fingerprint_finds_the_ca_in_the_chain() {
    let authority = Authority::for_tests(Clock::system());
    let config = internal_server_config(&authority).unwrap();
    let (client, server) = tokio::io::duplex(64 * 1024);
    let accept = tokio::spawn(async move { tokio_rustls::TlsAcceptor::from(config).accept(server).await });
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("control.atoll.internal").unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, client).await.unwrap();
    let chain = tls.get_ref().1.peer_certificates().unwrap();
    use sha2::Digest;
    assert_eq!(sha2::Sha256::digest(&chain[1])[..], authority.fingerprint());
    drop(accept.await.unwrap().unwrap());
}
