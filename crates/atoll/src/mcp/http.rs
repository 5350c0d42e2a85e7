//! MCP over HTTP: many agents, each with a key of its own, asked for at every request and tried at the server.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use atoll_client::{Auth, Client, ListSandboxes};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::session::{Session, Settings};
use super::tools::Tools;
use crate::output;

const PATH: &str = "/mcp";
const MAX_CONNECTIONS: usize = 512;
const MAX_BODY: usize = 16 << 20;
/// How long a key that was good is believed.
const BELIEVED: Duration = Duration::from_secs(30);
const MAX_REMEMBERED: usize = 4096;
/// A session that nobody uses for so long ends, and its sandboxes with it.
const IDLE: Duration = Duration::from_secs(3600);
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the end of sessions may take when the server ends.
const DRAIN: Duration = Duration::from_secs(20);

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// Whose key a request bore.
#[derive(Clone)]
pub struct Caller(SecretString);

impl Caller {
    pub fn auth(&self) -> Auth {
        Auth::ApiKey(self.0.clone())
    }

    /// `Authorization: Bearer KEY` or `X-API-Key: KEY`.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key)
        });
        let key = bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()))?.trim();
        (!key.is_empty()).then(|| Self(key.to_owned().into()))
    }
}

struct Gate {
    client: Client,
    good: Mutex<HashMap<[u8; 32], Instant>>,
}

impl Gate {
    /// Whether the server knows the key.
    async fn lets_in(&self, caller: &Caller) -> Result<bool, atoll_client::Error> {
        let hash: [u8; 32] = Sha256::digest(caller.0.expose_secret()).into();
        let known = |good: &HashMap<_, Instant>| good.get(&hash).is_some_and(|since| since.elapsed() < BELIEVED);
        if known(&self.good.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(true);
        }
        let one = ListSandboxes { limit: Some(1), ..ListSandboxes::default() };
        match self.client.with_auth(caller.auth()).list_sandboxes(&one).await {
            Ok(_) => {}
            Err(error) if matches!(error.status(), Some(401 | 403)) => return Ok(false),
            Err(error) => return Err(error),
        }
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= MAX_REMEMBERED {
            good.retain(|_, since| since.elapsed() < BELIEVED);
        }
        if good.len() < MAX_REMEMBERED {
            good.insert(hash, Instant::now());
        }
        Ok(true)
    }
}

/// Serves until a signal, then ends every session.
pub async fn serve(
    address: SocketAddr,
    allowed_hosts: &[String],
    client: Client,
    settings: Settings,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address} (--http)"))?;
    let local = listener.local_addr().context("asking for the listener's address")?;
    let (shutdown, endings) = (CancellationToken::new(), TaskTracker::new());
    let mut config = StreamableHttpServerConfig::default()
        .with_cancellation_token(shutdown.child_token())
        .with_max_request_body_bytes(MAX_BODY)
        .enforce_origin_validation();
    // A name that leads here by an attacker's DNS must not let a browser in; neither must a page of somebody else.
    config.allowed_hosts.extend(allowed_hosts.iter().cloned());
    let mut sessions = LocalSessionManager::default();
    sessions.session_config.keep_alive = Some(IDLE);
    let tools = {
        let (client, endings) = (client.clone(), endings.clone());
        move || {
            let session = Session::one_of_many(settings.clone(), endings.clone());
            Ok(Tools::for_one_of_many(session, client.clone()))
        }
    };
    let mcp = StreamableHttpService::new(tools, Arc::new(sessions), config);
    let gate = Arc::new(Gate { client, good: Mutex::default() });
    output::print(&format!("http://{local}{PATH}\n"))?;

    let accepting = async {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: connections that end give some back.
                    eprintln!("atoll: a connection could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let (mcp, gate, ended) = (mcp.clone(), gate.clone(), shutdown.clone());
            tokio::spawn(async move {
                let _permit = permit;
                let service = hyper::service::service_fn(move |request| {
                    let (mcp, gate) = (mcp.clone(), gate.clone());
                    async move { anyhow::Ok(answer(&mcp, &gate, request).await) }
                });
                let mut server = auto::Builder::new(TokioExecutor::new());
                server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
                // However a connection ends, there is nobody left to tell.
                tokio::select! {
                    _ = server.serve_connection(TokioIo::new(stream), service) => {}
                    () = ended.cancelled() => {}
                }
            });
        }
    };
    let asked_to_end = super::signals()?;
    tokio::select! {
        () = accepting => {}
        () = asked_to_end => {}
    }
    shutdown.cancel();
    // Every session that is left ends now, and its sandboxes with it.
    endings.close();
    let _ = tokio::time::timeout(DRAIN, endings.wait()).await;
    Ok(())
}

async fn answer(
    mcp: &StreamableHttpService<Tools, LocalSessionManager>,
    gate: &Gate,
    mut request: Request<Incoming>,
) -> Response<Body> {
    if request.uri().path().trim_end_matches('/') != PATH {
        return refusal(StatusCode::NOT_FOUND, "the Model Context Protocol is spoken at /mcp");
    }
    let Some(caller) = Caller::of(request.headers()) else {
        return refusal(StatusCode::UNAUTHORIZED, "an API key is needed: Authorization: Bearer KEY");
    };
    match gate.lets_in(&caller).await {
        Ok(true) => {}
        Ok(false) => return refusal(StatusCode::UNAUTHORIZED, "the API key is not known to the server"),
        Err(error) => return refusal(StatusCode::BAD_GATEWAY, &format!("the server can't be asked: {error}")),
    }
    request.extensions_mut().insert(caller);
    mcp.handle(request).await
}

fn refusal(status: StatusCode, why: &str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{why}\n"))).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
