//! What one port promises: plain HTTP and TLS side by side, bounds, and an end in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::{Tls, serve};
use crate::clock::Clock;
use crate::config::ControlConfig;
use crate::db::testing::sqlite;
use crate::pki::Authority;
use crate::testing::{TestApp, app_with};

struct Server {
    test: TestApp,
    address: SocketAddr,
    /// By the machine's clock, as clients judge certificates.
    authority: Authority,
    task: JoinHandle<()>,
}

async fn server(settings: impl FnOnce(&mut ControlConfig)) -> Server {
    let test = app_with(sqlite().await, settings).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let authority = Authority::for_tests(Clock::system());
    let tls = Tls::load(&authority, None).unwrap();
    let router = crate::http::router(test.app.clone());
    let task = tokio::spawn(serve(test.app.clone(), listener, tls, router));
    Server { test, address, authority, task }
}

/// A request on a connection that stays open.
async fn ask(stream: &mut TcpStream) {
    stream.write_all(b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 4096];
    let mut filled = 0;
    while !answer[..filled].windows(4).any(|window| window == b"\r\n\r\n") {
        let read = stream.read(&mut answer[filled..]).await.unwrap();
        assert!(read > 0, "closed");
        filled += read;
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

impl Server {
    async fn connect_and_ask(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        ask(&mut stream).await;
        stream
    }
}

async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn over_tls(server: &Server, name: &str, trust: bool) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    if trust {
        roots.add(server.authority.der().clone()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(server.address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    Ok(get(TlsConnector::from(Arc::new(config)).connect(name, stream).await?).await)
}

#[tokio::test]
async fn one_port_speaks_plain_http_and_tls_and_agents_can_trust_its_certificate() {
    let server = server(|_| {}).await;
    assert!(get(TcpStream::connect(server.address).await.unwrap()).await.starts_with("HTTP/1.1 200"));
    let trusted = over_tls(&server, atoll_model::api::hosts::CONTROL_SERVER_NAME, true).await.unwrap();
    assert!(trusted.starts_with("HTTP/1.1 200"), "{trusted}");
    assert!(over_tls(&server, atoll_model::api::hosts::CONTROL_SERVER_NAME, false).await.is_err());
    assert!(over_tls(&server, "elsewhere.example", true).await.is_err(), "the certificate is for one name");
}

#[tokio::test]
async fn who_says_nothing_and_who_never_ends_a_head_is_hung_up_on() {
    let server = server(|config| config.http.header_timeout = Duration::from_millis(100)).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for begun in [&b""[..], b"GET / HTTP/1.1\r\nhost: x\r\n", b"\x16\x03\x01", b"P", b"PRI", &preface[..24], preface] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let mut rest = Vec::new();
        // Closed or reset: either way it is over.
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{begun:?}");
    }
    assert!(get(TcpStream::connect(server.address).await.unwrap()).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn one_address_has_half_of_the_connections_unless_it_is_a_trusted_proxys() {
    let server = server(|config| config.http.max_connections = 4).await;
    let mut held = [server.connect_and_ask().await, server.connect_and_ask().await];
    let mut third = TcpStream::connect(server.address).await.unwrap();
    let mut rest = Vec::new();
    let _ = third.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "closed without a word");
    for open in &mut held {
        ask(open).await;
    }

    let server = self::server(|config| {
        config.http.max_connections = 4;
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let _held = [server.connect_and_ask().await, server.connect_and_ask().await, server.connect_and_ask().await];
}

#[tokio::test]
async fn websockets_are_counted_for_as_long_as_they_are_open() {
    use secrecy::ExposeSecret;

    let server = server(|config| config.http.max_sockets = 2).await;
    server.test.fleet.add_host();
    let made = server.test.client.post("/v1/sandboxes", serde_json::json!({})).await.json();
    let (id, key) = (made["id"].as_str().unwrap(), server.test.admin.api_key.expose_secret());
    let open = async |path: &str| {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "GET /v1/sandboxes/{id}/{path} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        (stream, String::from_utf8_lossy(&status[9..]).into_owned())
    };
    let (first, status) = open("exec/stream").await;
    assert_eq!(status, "101");
    for path in ["exec/stream", "pty", "files/watch?path=/"] {
        assert_eq!(open(path).await.1, "429", "{path}: half of two is one");
    }
    drop(first);
    while server.test.app.places.sockets_open() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(open("pty").await.1, "101");
}

#[tokio::test]
async fn more_connections_than_are_let_in_wait_for_their_turn() {
    let server = server(|config| config.http.max_connections = 1).await;
    let first = TcpStream::connect(server.address).await.unwrap();
    let second = tokio::spawn(get(TcpStream::connect(server.address).await.unwrap()));
    assert!(get(first).await.starts_with("HTTP/1.1 200"));
    assert!(second.await.unwrap().starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn at_the_end_open_connections_are_closed_and_nobody_new_is_let_in() {
    let server = server(|_| {}).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    server.test.app.shutdown.cancel();
    server.task.await.unwrap();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
