//! A control plane just large enough to enrol, renew and answer heartbeats, over real TLS on loopback. It answers as it
//! is told to, and writes down what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use atoll_model::HostId;
use atoll_model::api::hosts::{
    CONTROL_SERVER_NAME, CONTROL_URI, HOST_SIGNATURE_HEADER, HOST_TOKEN_HEADER, HOST_URI_PREFIX, HeartbeatRequest,
    HostCredentials, HostSettings, HostTombstone, RefreshHostRequest, RegisterHostRequest,
};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType, SigningKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::agent::registration_token::RegistrationToken;
use crate::agent::trust::{fingerprint, provider};

pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub der: CertificateDer<'static>,
    pub pem: String,
}

impl Ca {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "toy CA");
        let certificate = params.self_signed(&key).unwrap();
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(params, key), der, pem }
    }

    /// A certificate and its key.
    pub fn leaf(
        &self,
        names: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.subject_alt_names = names;
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        (vec![certificate.der().clone(), self.der.clone()], key)
    }

    pub fn control_client(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        self.leaf(vec![SanType::URI(CONTROL_URI.try_into().unwrap())], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn certify(&self, csr: &str, host: &HostId) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params.subject_alt_names = vec![
            SanType::DnsName(format!("{host}.hosts.atoll.internal").try_into().unwrap()),
            SanType::URI(format!("{HOST_URI_PREFIX}{host}").try_into().unwrap()),
        ];
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        request.signed_by(&self.issuer).unwrap().pem()
    }

    pub fn registration_token(&self) -> RegistrationToken {
        let mut bytes = vec![7_u8; 32];
        bytes.extend(fingerprint(&self.der));
        RegistrationToken::parse(&SecretString::from(format!("atr_{}", URL_SAFE_NO_PAD.encode(bytes)))).unwrap()
    }

    pub fn tombstone(&self, host: &HostId) -> HostTombstone {
        let text = HostTombstone::signed_text(host, "del-1", 5);
        HostTombstone {
            host_id: host.clone(),
            deletion_id: "del-1".to_owned(),
            deleted_at_ms: 5,
            signature: STANDARD.encode(self.issuer.key().sign(text.as_bytes()).unwrap()),
        }
    }
}

/// What it says next.
#[derive(Debug, Clone, PartialEq)]
pub enum Says {
    /// What control would say: yes to good credentials, 401 to others.
    Truth,
    Status(u16),
    /// Does as asked, but the answer is lost.
    Lost,
    Gone(HostTombstone),
}

#[derive(Default)]
pub struct Asked {
    pub registrations: Vec<String>,
    pub refreshes: Vec<String>,
    pub bad_signatures: usize,
    pub beats: Vec<HeartbeatRequest>,
}

pub struct State_ {
    pub ca: Ca,
    pub host: HostId,
    pub asked: Asked,
    pub register: Says,
    pub heartbeat: Says,
    pub refresh: Says,
    /// The tokens that count.
    pub access: String,
    pub refresh_tokens: Vec<String>,
    issued: u32,
    csr: String,
}

type Shared = Arc<Mutex<State_>>;

pub struct ToyControl {
    pub address: SocketAddr,
    pub state: Shared,
    changed: tokio::sync::watch::Receiver<()>,
}

impl ToyControl {
    pub async fn start() -> Self {
        let ca = Ca::new();
        let name = SanType::DnsName(CONTROL_SERVER_NAME.try_into().unwrap());
        let (chain, key) = ca.leaf(vec![name], ExtendedKeyUsagePurpose::ServerAuth);
        let tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let state = State_ {
            ca,
            host: HostId::new(),
            asked: Asked::default(),
            register: Says::Truth,
            heartbeat: Says::Truth,
            refresh: Says::Truth,
            access: String::new(),
            refresh_tokens: Vec::new(),
            issued: 0,
            csr: String::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let (tell, changed) = tokio::sync::watch::channel(());
        let router = Router::new()
            .route("/v1/hosts/register", post(register))
            .route("/v1/hosts/auth/refresh", post(refresh))
            .route("/v1/hosts/{id}/heartbeat", post(heartbeat))
            .with_state(state.clone())
            .layer(axum::middleware::from_fn(move |request, next: axum::middleware::Next| {
                let tell = tell.clone();
                async move {
                    let answer: Response = next.run(request).await;
                    tell.send_replace(());
                    answer
                }
            }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(tls));
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = TowerToHyperService::new(router);
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ended = server.serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        Self { address, state, changed }
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut State_) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// Waits until what it was asked satisfies a condition.
    pub async fn until(&self, condition: impl Fn(&State_) -> bool) {
        let mut changed = self.changed.clone();
        while !self.with(|state| condition(state)) {
            changed.changed().await.unwrap();
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl State_ {
    fn issue(&mut self, csr: &str) -> HostCredentials {
        self.issued += 1;
        self.csr = csr.to_owned();
        self.access = format!("access-{}", self.issued);
        let refresh_token = format!("refresh-{}", self.issued);
        self.refresh_tokens.push(refresh_token.clone());
        let at = |days: i64| -> DateTime<Utc> { Utc::now() + chrono::Duration::days(days) };
        HostCredentials {
            host_id: self.host.clone(),
            name: "reef".to_owned(),
            access_token: self.access.clone(),
            access_expires_at: at(7),
            refresh_token,
            refresh_expires_at: at(60),
            certificate: self.ca.certify(csr, &self.host),
            certificate_expires_at: at(7),
            ca: self.ca.pem.clone(),
            settings: HostSettings { heartbeat_interval_ms: 50 },
        }
    }
}

fn error(status: u16, code: &str, tombstone: Option<&HostTombstone>) -> Response {
    let mut error = serde_json::json!({"code": code, "message": code, "request_id": "r"});
    if let Some(tombstone) = tombstone {
        error["tombstone"] = serde_json::to_value(tombstone).unwrap();
    }
    let body = serde_json::json!({ "error": error }).to_string();
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

async fn register(State(shared): State<Shared>, body: Bytes) -> Response {
    let mut state = shared.lock().unwrap();
    let request: RegisterHostRequest = serde_json::from_slice(&body).unwrap();
    state.asked.registrations.push(request.csr.clone());
    // An agent that comes again is known by its key, until it has used what it got.
    let again =
        state.issued == 0 || (state.asked.beats.is_empty() && public_key(&state.csr) == public_key(&request.csr));
    if request.token != state.ca.registration_token().expose() || !again {
        return error(401, "unauthorized", None);
    }
    let credentials = state.issue(&request.csr);
    if state.register == Says::Lost {
        return error(502, "agent_error", None);
    }
    axum::Json(credentials).into_response()
}

async fn refresh(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mut state = shared.lock().unwrap();
    let request: RefreshHostRequest = serde_json::from_slice(&body).unwrap();
    state.asked.refreshes.push(request.refresh_token.clone());
    if !is_signed(&state.csr, &body, headers.get(HOST_SIGNATURE_HEADER)) {
        state.asked.bad_signatures += 1;
        return error(401, "unauthorized", None);
    }
    match state.refresh.clone() {
        Says::Status(status) => error(status, "internal", None),
        Says::Gone(tombstone) => error(410, "host_deleted", Some(&tombstone)),
        _ if !state.refresh_tokens.contains(&request.refresh_token) => error(401, "unauthorized", None),
        Says::Truth => axum::Json(state.issue(&request.csr)).into_response(),
        Says::Lost => {
            state.issue(&request.csr);
            error(502, "agent_error", None)
        }
    }
}

async fn heartbeat(
    State(shared): State<Shared>,
    Path(_): Path<String>,
    headers: HeaderMap,
    axum::Json(beat): axum::Json<HeartbeatRequest>,
) -> Response {
    let mut state = shared.lock().unwrap();
    state.asked.beats.push(beat);
    match state.heartbeat.clone() {
        Says::Status(status) => (StatusCode::from_u16(status).unwrap(), "nginx").into_response(),
        Says::Gone(tombstone) => error(410, "host_deleted", Some(&tombstone)),
        _ if headers.get(HOST_TOKEN_HEADER).is_none_or(|token| *token != state.access) => {
            error(401, "unauthorized", None)
        }
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}

/// The key of a signing request.
pub fn public_key(csr: &str) -> Vec<u8> {
    let request = CertificateSigningRequestParams::from_pem(csr).unwrap();
    rcgen::PublicKeyData::der_bytes(&request.public_key).to_vec()
}

/// Whether the key of a signing request signed these bytes.
fn is_signed(csr: &str, body: &[u8], signature: Option<&axum::http::HeaderValue>) -> bool {
    use x509_parser::prelude::FromDer;
    let Some(signature) = signature.and_then(|value| STANDARD.decode(value.as_bytes()).ok()) else { return false };
    let request = CertificateSigningRequestParams::from_pem(csr).unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&request.public_key);
    let (_, spki) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&spki).unwrap();
    let algorithms = provider().signature_verification_algorithms;
    let mut candidates = algorithms.mapping.iter().flat_map(|(_, candidates)| *candidates);
    candidates.any(|it| it.verify_signature(&spki.subject_public_key.data, body, &signature).is_ok())
}
