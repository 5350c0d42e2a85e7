//! A host for tests: a TLS listener with a certificate of control's CA that answers what it was asked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use atoll_model::HostId;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::clock::Clock;
use crate::db::Millis;
use crate::fleet::{Fleet, FleetError, FleetSettings, HostDirectory, HostLocation, TcpDialer};
use crate::pki::{Authority, CertificateRequest, HostKey, agent_client_config};

/// A key and a certificate for it.
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub host_key: HostKey,
}

/// As a host gets it.
pub fn host_identity(authority: &Authority, host: &HostId) -> Identity {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let host_key = CertificateRequest::from_pem(&csr).unwrap().key;
    let certificate = authority.issue_host(host, &host_key, Duration::from_secs(3600)).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Identity { chain: vec![certificate.der], key, host_key }
}

/// A listener that demands a client certificate of control's CA, as agents do.
pub fn server_config(authority: &Authority, identity: &Identity) -> Arc<ServerConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// A running host. Dropped, it stops listening and breaks its connections.
pub struct TestHost {
    pub address: SocketAddr,
    pub accepted: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
}

impl TestHost {
    pub async fn start(authority: &Authority, identity: &Identity) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(server_config(authority, identity));
        let (stop, stopped) = watch::channel(false);
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let mut stopping = stopped.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    _ = stopping.changed() => return,
                };
                count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, mut stopping) = (acceptor.clone(), stopped.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let serve = builder.serve_connection_with_upgrades(TokioIo::new(tls), service_fn(answer));
                    tokio::select! {
                        _ = serve => {}
                        _ = stopping.changed() => {}
                    }
                });
            }
        });
        Self { address, accepted, stop }
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

type Answer = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

fn whole(text: impl Into<Bytes>) -> Response<Answer> {
    Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed_unsync())
}

/// Says what it was asked; `/proxy/.../echo` sends the body back, `/proxy/.../ws` upgrades and echoes. Breaks off in the
/// middle of the answer to a pause.
async fn answer(mut request: Request<Incoming>) -> Result<Response<Answer>, hyper::Error> {
    let path = request.uri().path().to_owned();
    if path.ends_with("/echo") {
        return Ok(Response::new(request.into_body().map_err(Into::into).boxed_unsync()));
    }
    if path.ends_with("/ws") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut bytes = [0; 4];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut bytes).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await.unwrap();
        });
        let mut response = whole("");
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("connection", "upgrade".parse().unwrap());
        response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        return Ok(response);
    }
    if path.ends_with("/hang") {
        std::future::pending::<()>().await;
    }
    if path.starts_with("/atoll.host.v1.HostService/GetStatus") {
        let mut response = whole("");
        response.headers_mut().insert("content-type", "application/proto".parse().unwrap());
        return Ok(response);
    }
    if path.starts_with("/atoll.host.v1.HostService/PauseSandbox") {
        let pieces = [Ok(Frame::data(Bytes::from_static(b"\n"))), Err("it dies".into())];
        let mut response = Response::new(StreamBody::new(futures::stream::iter(pieces)).boxed_unsync());
        response.headers_mut().insert("content-type", "application/proto".parse().unwrap());
        return Ok(response);
    }
    let trusted = request.headers().get("x-atoll-trusted").is_some();
    let version = request.version();
    request.into_body().collect().await?;
    Ok(whole(format!("{version:?} {path} trusted={trusted}")))
}

/// A directory that the test writes.
#[derive(Default)]
pub struct Known(pub Mutex<Option<HostLocation>>);

impl Known {
    pub fn set(&self, address: SocketAddr, key: &HostKey) {
        let location = HostLocation {
            address: address.to_string(),
            tunnel: None,
            since: Millis(0),
            key_sha256: key.sha256(),
            certificate: String::new(),
        };
        *self.0.lock().unwrap() = Some(location);
    }
}

#[async_trait]
impl HostDirectory for Known {
    async fn locate(&self, host: &HostId) -> Result<HostLocation, FleetError> {
        self.0.lock().unwrap().clone().ok_or_else(|| FleetError::Unknown { host: host.clone() })
    }
}

/// Control with one host that runs.
pub struct Rig {
    pub authority: Authority,
    pub host: HostId,
    pub identity: Identity,
    pub directory: Arc<Known>,
    pub fleet: Fleet,
    pub server: TestHost,
}

pub async fn rig() -> Rig {
    rig_with(FleetSettings::default()).await
}

pub async fn rig_with(settings: FleetSettings) -> Rig {
    let authority = Authority::for_tests(Clock::system());
    let host = HostId::new();
    let identity = host_identity(&authority, &host);
    let server = TestHost::start(&authority, &identity).await;
    let directory = Arc::new(Known::default());
    directory.set(server.address, &identity.host_key);
    let dialer = Arc::new(TcpDialer::new(&agent_client_config(&authority).unwrap()));
    let fleet = Fleet::new(Arc::clone(&directory) as Arc<dyn HostDirectory>, dialer, settings);
    Rig { authority, host, identity, directory, fleet, server }
}

pub async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

pub fn get(path: &str) -> Request<Full<Bytes>> {
    Request::builder().uri(path).body(Full::default()).unwrap()
}
