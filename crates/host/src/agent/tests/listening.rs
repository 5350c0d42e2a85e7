//! Who is let in at the agent's listener, and what the proxy does for them.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use atoll_model::SandboxId;
use atoll_model::api::hosts::{HOST_URI_PREFIX, PROXY_ERROR_HEADER, PROXY_LIMIT_HEADER};
use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::{Request, StatusCode};
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::*;
use crate::agent::listener::Listener;
use crate::agent::peer::server_config;
use crate::agent::proxy::{self, Directory, Refusal, Route};
use crate::agent::trust::provider;

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Sandboxes that are just sockets.
#[derive(Default)]
struct Sandboxes(Mutex<HashMap<SandboxId, Result<Route, Refusal>>>);

impl Directory for Sandboxes {
    fn route(&self, id: &SandboxId) -> Result<Route, Refusal> {
        self.0.lock().unwrap().get(id).cloned().unwrap_or(Err(Refusal::NotFound))
    }
}

struct Listening {
    host: Enrolled,
    address: SocketAddr,
    sandboxes: Arc<Sandboxes>,
}

async fn listening() -> Listening {
    let host = enrolled().await;
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.bound();
    listener.tls().store(Some(server_config(&host.store.load().unwrap().current).unwrap()));
    let sandboxes = Arc::new(Sandboxes::default());
    let router = proxy::router(sandboxes.clone(), 64);
    tokio::spawn(listener.serve(router, 64, CancellationToken::new()));
    Listening { host, address, sandboxes }
}

impl Listening {
    /// A connection of somebody who trusts the CA and shows this.
    async fn connect(
        &self,
        identity: Option<Identity>,
    ) -> std::io::Result<hyper::client::conn::http1::SendRequest<Body>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.host.control.with(|state| state.ca.der.clone())).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = format!("{}.hosts.atoll.internal", self.host.control.with(|state| state.host.clone()));
        let tcp = TcpStream::connect(self.address).await?;
        let tls = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).unwrap(), tcp).await?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    async fn as_control(&self) -> hyper::client::conn::http1::SendRequest<Body> {
        let identity = self.host.control.with(|state| state.ca.control_client());
        self.connect(Some(identity)).await.unwrap()
    }

    async fn send(&self, request: Request<Body>) -> hyper::Response<hyper::body::Incoming> {
        self.as_control().await.send_request(request).await.unwrap()
    }

    /// A sandbox whose guest agent and whose port 127.0.0.1:`port` serve this.
    async fn sandbox(&self, router: Router) -> (SandboxId, u16, CancellationToken) {
        let id = SandboxId::new();
        let socket = self.host.dir.path().join(format!("{id}.sock"));
        let guest = UnixListener::bind(&socket).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let number = port.local_addr().unwrap().port();
        tokio::spawn(axum::serve(guest, router.clone()).into_future());
        tokio::spawn(axum::serve(port, router).into_future());
        let cut = CancellationToken::new();
        let route = Route {
            socket,
            address: Ipv4Addr::LOCALHOST,
            cut: cut.clone(),
            streams: Arc::new(Semaphore::new(4)),
            streams_limit: 4,
        };
        self.sandboxes.0.lock().unwrap().insert(id.clone(), Ok(route));
        (id, number, cut)
    }
}

fn to(path: &str) -> Request<Body> {
    Request::builder().uri(path).header("host", "h").body(Body::empty()).unwrap()
}

async fn text(answer: hyper::Response<hyper::body::Incoming>) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn only_control_is_let_in() {
    let host = listening().await;
    let (a_host, stranger) = host.host.control.with(|state| {
        let uri = format!("{HOST_URI_PREFIX}{}", state.host);
        let a_host = state.ca.leaf(vec![SanType::URI(uri.try_into().unwrap())], ExtendedKeyUsagePurpose::ServerAuth);
        (a_host, toy_control::Ca::new().control_client())
    });
    let wrong_role = host.host.control.with(|state| {
        let uri = format!("{HOST_URI_PREFIX}{}", state.host);
        state.ca.leaf(vec![SanType::URI(uri.try_into().unwrap())], ExtendedKeyUsagePurpose::ClientAuth)
    });
    for identity in [None, Some(a_host), Some(stranger), Some(wrong_role)] {
        // In TLS 1.3 the client learns with its first read that it was not let in.
        let answered = match host.connect(identity).await {
            Ok(mut sender) => sender.send_request(to("/proxy/x/y/z")).await.is_ok(),
            Err(_) => false,
        };
        assert!(!answered);
    }
    assert_eq!(host.send(to("/proxy/x/y/z")).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_guest_and_ports_are_reached_with_path_query_and_body_as_they_are() {
    let host = listening().await;
    let echo = |request: Request<Body>| async move {
        let trusted = request.headers().contains_key("x-atoll-trusted");
        let line = format!("{} {} trusted={trusted} ", request.method(), request.uri());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        [line.as_bytes(), &body].concat()
    };
    let (id, port, _) = host.sandbox(Router::new().fallback(any(echo))).await;
    let send = |target: String| {
        let request = Request::post(format!("/proxy/{id}/{target}/a%2Fb/c?d=e%20f"))
            .header("host", "h")
            .header("x-atoll-trusted", "1");
        host.send(request.body(Body::from("body")).unwrap())
    };
    assert_eq!(text(send("guest".to_owned()).await).await, "POST /a%2Fb/c?d=e%20f trusted=true body");
    assert_eq!(text(send(port.to_string()).await).await, "POST /a%2Fb/c?d=e%20f trusted=false body");
    let root = host.send(to(&format!("/proxy/{}/guest", id.dns_label()))).await;
    assert_eq!(text(root).await, "GET / trusted=false ");
}

/// Serves TLS on a port of 127.0.0.1 with a certificate that nobody has signed for.
async fn behind_tls(router: Router) -> u16 {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["nobody".to_owned()]).unwrap().self_signed(&key).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await?;
                let service = hyper_util::service::TowerToHyperService::new(router);
                let serving =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                serving.with_upgrades().await.map_err(std::io::Error::other)
            });
        }
    });
    port
}

#[tokio::test]
async fn a_port_behind_tls_is_spoken_to_by_tls_whatever_its_certificate() {
    let host = listening().await;
    let (id, plain, _) = host.sandbox(Router::new()).await;
    let secure = behind_tls(Router::new().fallback(any(|| async { "by TLS" }))).await;
    let ask = async |port: String| host.send(to(&format!("/proxy/{id}/{port}/"))).await;
    assert_eq!(text(ask(format!("{secure}+tls")).await).await, "by TLS");
    for (port, code) in
        [(format!("{plain}+tls"), "broken"), (secure.to_string(), "broken"), ("0+tls".to_owned(), "bad_port")]
    {
        assert_eq!(ask(port.clone()).await.headers()[PROXY_ERROR_HEADER], code, "{port}");
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_apart() {
    let host = listening().await;
    let (id, _, _) = host.sandbox(Router::new()).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let paused = SandboxId::new();
    host.sandboxes.0.lock().unwrap().insert(paused.clone(), Err(Refusal::Paused));
    let unknown = SandboxId::new();
    let cases = [
        (format!("/proxy/{unknown}/guest/"), 502, "not_found", "was not found"),
        (format!("/proxy/{id}/{closed}/"), 502, "port_closed", "port is not open"),
        (format!("/proxy/{paused}/guest/"), 409, "paused", "is paused"),
        ("/proxy/nobody/guest/".to_owned(), 400, "bad_sandbox_id", "Invalid sandbox ID"),
        (format!("/proxy/{id}/99999/"), 400, "bad_port", "Invalid sandbox port"),
        (format!("/proxy/{id}/0/"), 400, "bad_port", "Invalid sandbox port"),
    ];
    for (path, status, code, words) in cases {
        let answer = host.send(to(&path)).await;
        assert_eq!(answer.status().as_u16(), status, "{path}");
        assert_eq!(answer.headers()[PROXY_ERROR_HEADER], code, "{path}");
        let body = text(answer).await;
        assert!(body.contains(words), "{path}: {body}");
    }
}

#[tokio::test]
async fn an_answer_of_the_sandbox_cannot_pass_for_one_of_the_proxy() {
    let host = listening().await;
    let lie = || async { ([(PROXY_ERROR_HEADER, "not_found")], "lie") };
    let (id, _, _) = host.sandbox(Router::new().route("/", get(lie))).await;
    let answer = host.send(to(&format!("/proxy/{id}/guest/"))).await;
    assert!(!answer.headers().contains_key(PROXY_ERROR_HEADER));
    assert_eq!(text(answer).await, "lie");
}

#[tokio::test]
async fn streams_are_bounded_per_sandbox_and_reset_when_it_is_destroyed() {
    let host = listening().await;
    let endless = || async {
        let first = futures::stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"x")) });
        Body::from_stream(first.chain(futures::stream::pending()))
    };
    let (id, _, cut) = host.sandbox(Router::new().route("/endless", get(endless))).await;
    let path = format!("/proxy/{id}/guest/endless");
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut answer = host.send(to(&path)).await;
        assert!(answer.body_mut().frame().await.unwrap().is_ok());
        open.push(answer);
    }
    let refused = host.send(to(&path)).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()[PROXY_LIMIT_HEADER], "4");
    assert!(text(refused).await.contains("\"connectionLimit\":4"));
    // A neighbour goes on.
    let (neighbour, _, _) = host.sandbox(Router::new().route("/", get(|| async { "well" }))).await;
    assert_eq!(text(host.send(to(&format!("/proxy/{neighbour}/guest/"))).await).await, "well");
    cut.cancel();
    for answer in open {
        assert!(answer.into_body().collect().await.is_err());
    }
}

#[tokio::test]
async fn a_websocket_goes_through_to_guest_and_port() {
    let host = listening().await;
    let ws = |upgrade: WebSocketUpgrade| async move {
        upgrade.on_upgrade(|mut socket| async move {
            while let Some(Ok(message)) = socket.recv().await {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
        })
    };
    let (id, port, cut) = host.sandbox(Router::new().route("/ws", any(ws))).await;
    for target in ["guest".to_owned(), port.to_string()] {
        let request = Request::get(format!("/proxy/{id}/{target}/ws"))
            .header("host", "h")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(Body::empty())
            .unwrap();
        let answer = host.send(request).await;
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        let stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
        let mut socket = tokio_tungstenite::WebSocketStream::from_raw_socket(stream, role, None).await;
        socket.send("ping".into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), "ping".into());
        if target != "guest" {
            cut.cancel();
            assert!(socket.next().await.is_none_or(|message| message.is_err()));
        }
    }
}

#[tokio::test]
async fn a_large_upload_and_download_come_through_whole() {
    let host = listening().await;
    let router = Router::new().route("/", post(|body: Body| async { body }));
    let (id, _, _) = host.sandbox(router.layer(axum::extract::DefaultBodyLimit::disable())).await;
    let chunk = Bytes::from(vec![7_u8; 1 << 20]);
    let chunks = futures::stream::iter((0..64).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let request = Request::post(format!("/proxy/{id}/guest/")).header("host", "h");
    let answer = host.send(request.body(Body::from_stream(chunks)).unwrap()).await;
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), 64 << 20);
    assert!(body.iter().all(|byte| *byte == 7));
}
