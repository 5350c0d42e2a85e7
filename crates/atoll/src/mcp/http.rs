//! MCP over HTTP: many agents, each with a key of its own, asked for at every request and tried at the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use atoll_client::{Client, Error};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gate::{Caller, Gate};
use super::session::{Session, Settings};
use super::tools::Tools;
use crate::output::{self, with_hint};

const PATH: &str = "/mcp";
const SESSION_ID: &str = "mcp-session-id";
const MAX_CONNECTIONS: usize = 512;
/// A file of 4 MB as base64, and some.
const MAX_BODY: usize = 8 << 20;
/// A session that nobody uses for so long ends, and its sandboxes with it.
const IDLE: Duration = Duration::from_secs(3600);
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

type Body = BoxBody<Bytes, std::convert::Infallible>;
type Service = StreamableHttpService<Tools, LocalSessionManager>;

/// Serves until a signal, then ends every session. `names` are what it is called besides loopback's names.
pub async fn serve(address: SocketAddr, names: Vec<String>, client: Client, settings: Settings) -> anyhow::Result<()> {
    if !address.ip().is_loopback() && names.is_empty() {
        return Err(with_hint(
            format!("{address} can be reached from other machines, but under no name that is allowed"),
            "name what agents call it: --allow-host mcp.example.com (or the machine's address)",
        ));
    }
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address} (--http)"))?;
    let local = listener.local_addr().context("asking for the listener's address")?;
    if !local.ip().is_loopback() {
        eprintln!("atoll: API keys come in the clear here: put a proxy with TLS in front of {local}");
    }
    let (shutdown, endings) = (CancellationToken::new(), TaskTracker::new());
    let gate = Arc::new(Gate::new(client.clone()));
    let mcp = service(names, client, settings, &gate, &shutdown, &endings);
    output::print(&format!("http://{local}{PATH}\n"))?;
    let asked_to_end = super::signals()?;
    tokio::select! {
        () = accept(&listener, &mcp, &gate, &shutdown) => {}
        () = asked_to_end => {}
    }
    shutdown.cancel();
    super::ended(endings).await;
    Ok(())
}

fn service(
    names: Vec<String>,
    client: Client,
    settings: Settings,
    gate: &Gate,
    shutdown: &CancellationToken,
    endings: &TaskTracker,
) -> Service {
    // A name that leads here by an attacker's DNS must not let a browser in, and no web page has any business here.
    let mut config = StreamableHttpServerConfig::default()
        .with_cancellation_token(shutdown.child_token())
        .with_max_request_body_bytes(MAX_BODY)
        .enforce_origin_validation();
    config.allowed_hosts.extend(names);
    let mut sessions = LocalSessionManager::default();
    sessions.session_config.keep_alive = Some(IDLE);
    let (seats, endings) = (gate.seats().clone(), endings.clone());
    let tools = move || {
        let session = Session::new(settings.clone(), endings.clone());
        Ok(Tools::for_one_of_many(session, client.clone(), seats.clone()))
    };
    StreamableHttpService::new(tools, Arc::new(sessions), config)
}

/// Lets connections in, as many as there is room for. HTTP/1.1 alone: its waits are bounded, and clients ask for no more.
async fn accept(listener: &TcpListener, mcp: &Service, gate: &Arc<Gate>, shutdown: &CancellationToken) {
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
                async move { Ok::<_, std::convert::Infallible>(answer(&mcp, &gate, request).await) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            // However a connection ends, there is nobody left to tell.
            tokio::select! {
                _ = server.serve_connection(TokioIo::new(stream), service) => {}
                () = ended.cancelled() => {}
            }
        });
    }
}

async fn answer(mcp: &Service, gate: &Gate, mut request: Request<Incoming>) -> Response<Body> {
    if request.uri().path().trim_end_matches('/') != PATH {
        return refusal(StatusCode::NOT_FOUND, "the Model Context Protocol is spoken at /mcp");
    }
    let Some(caller) = Caller::of(request.headers()) else {
        return refusal(StatusCode::UNAUTHORIZED, "an API key of Atoll is needed: Authorization: Bearer KEY");
    };
    if let Err(error) = gate.try_key(&caller).await {
        return not_let_in(&error);
    }
    if let Some(sealed) = request.headers().get(SESSION_ID) {
        let own = sealed.to_str().ok().and_then(|sealed| gate.unsealed(sealed, &caller));
        let Some(own) = own.and_then(|own| HeaderValue::from_str(own).ok()) else {
            return refusal(StatusCode::NOT_FOUND, "there is no such session (any more): begin a new one");
        };
        request.headers_mut().insert(SESSION_ID, own);
    }
    request.extensions_mut().insert(caller.clone());
    let mut response = mcp.handle(request).await;
    let sealed = response.headers().get(SESSION_ID).and_then(|id| {
        let sealed = gate.sealed(id.to_str().ok()?, &caller);
        HeaderValue::from_str(&sealed).ok()
    });
    if let Some(sealed) = sealed {
        response.headers_mut().insert(SESSION_ID, sealed);
    }
    response
}

fn not_let_in(error: &Error) -> Response<Body> {
    match error {
        Error::Api(answer) if answer.status == 401 => {
            refusal(StatusCode::UNAUTHORIZED, "the API key is not known to the server, or not good any more")
        }
        Error::Api(answer) if answer.status == 403 => refusal(StatusCode::FORBIDDEN, &answer.message),
        Error::Api(answer) if answer.status == 429 => {
            let mut response = refusal(StatusCode::TOO_MANY_REQUESTS, &answer.message);
            response.headers_mut().insert(RETRY_AFTER, answer.retry_after.unwrap_or(1).into());
            response
        }
        error => {
            let mut response = refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("the server can't be asked about the API key: {error}"),
            );
            response.headers_mut().insert(RETRY_AFTER, 1.into());
            response
        }
    }
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
