//! One connection of a sandbox: its requests, with what is added to them, and the answers of the real server.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use atoll_rpc::hop;
use bytes::Bytes;
use http::header::{ALT_SVC, CONTENT_TYPE, HOST};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::upstream::{Connector, NoWay};
use super::{Client, Shared, value_of};

const HEAD: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(30);
const MAX_STREAMS: u32 = 64;

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// All requests of a connection go to the one name that it was opened for.
struct Exchange {
    name: String,
    client: Arc<Client>,
    shared: Arc<Shared>,
    http: HttpClient<Connector, Incoming>,
    /// For what becomes something else than HTTP.
    upgrades: HttpClient<Connector, Incoming>,
}

/// Serves the connection to its end.
pub async fn serve(
    stream: TlsStream<TcpStream>,
    name: String,
    shared: Arc<Shared>,
    client: Arc<Client>,
) -> io::Result<()> {
    let connector = Connector { shared: shared.clone(), client: client.clone(), name: name.clone(), only_http1: false };
    let http = |connector| {
        HttpClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(4)
            .build(connector)
    };
    let upgrades = http(Connector { only_http1: true, ..connector.clone() });
    let exchange = Arc::new(Exchange { name, client, shared, http: http(connector), upgrades });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS).keep_alive_interval(HEAD);
    let service = service_fn(move |request| {
        let exchange = exchange.clone();
        async move { Ok::<_, Infallible>(exchange.answer(request).await) }
    });
    server.serve_connection_with_upgrades(TokioIo::new(stream), service).await.map_err(io::Error::other)
}

impl Exchange {
    async fn answer(&self, mut request: Request<Incoming>) -> Answer {
        if !self.is_meant(&request) {
            return say(StatusCode::MISDIRECTED_REQUEST, "the request is for another host than its connection");
        }
        let Some(additions) = self.client.additions(&self.name) else {
            return say(StatusCode::MISDIRECTED_REQUEST, "nothing is added to requests to this host any more");
        };
        let mut filled = Vec::with_capacity(additions.len());
        for (header, added) in additions {
            let Some(header) = header else { continue };
            match value_of(added, &self.shared.tokens).await {
                Ok(value) => filled.push((header, value)),
                Err(why) => {
                    tracing::warn!(sandbox = %self.client.address, host = self.name, why, "a request can't get its header");
                    return say(StatusCode::BAD_GATEWAY, &format!("a header can't be added: {why}"));
                }
            }
        }
        let upgrade = hop::upgrade_of(request.headers()).filter(|_| request.version() == Version::HTTP_11);
        let sandbox_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let Ok(uri) = Uri::builder().scheme("https").authority(self.name.as_str()).path_and_query(path).build() else {
            return say(StatusCode::BAD_REQUEST, "the request's path is none");
        };
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        add(request.headers_mut(), filled);
        if let Some(to) = &upgrade {
            hop::ask_upgrade(request.headers_mut(), to.clone());
        }
        let http = if upgrade.is_some() { &self.upgrades } else { &self.http };
        match http.request(request).await {
            Ok(answer) => passed_on(answer, sandbox_side, &self.client),
            Err(error) => self.failed(&error),
        }
    }

    /// A server that serves many hosts must not be made to hand what is added to another of them.
    fn is_meant(&self, request: &Request<Incoming>) -> bool {
        let is_name = |host: &str| host.strip_suffix(":443").unwrap_or(host).eq_ignore_ascii_case(&self.name);
        let mut hosts = request.headers().get_all(HOST).iter();
        let authority = request.uri().authority().map(|it| it.as_str());
        let header = hosts.next().map(|host| host.to_str().unwrap_or_default());
        hosts.next().is_none()
            && authority.is_none_or(is_name)
            && header.is_none_or(is_name)
            && (authority.is_some() || header.is_some())
    }

    fn failed(&self, error: &hyper_util::client::legacy::Error) -> Answer {
        let no_way = error.source().and_then(|source| source.downcast_ref::<NoWay>());
        let status = match no_way {
            Some(NoWay::Denied(_)) => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_GATEWAY,
        };
        let why = no_way.map_or_else(|| "it ended the connection".to_owned(), ToString::to_string);
        tracing::debug!(sandbox = %self.client.address, host = self.name, why, %error, "a request through the egress proxy failed");
        say(status, &format!("{} could not be asked: {why}", self.name))
    }
}

/// What is added takes the place of what the sandbox has sent under the same name.
fn add(headers: &mut HeaderMap, additions: Vec<(HeaderName, HeaderValue)>) {
    hop::strip_hop_by_hop(headers);
    // The client makes it of the address.
    headers.remove(HOST);
    for (name, value) in additions {
        headers.insert(name, value);
    }
}

fn say(status: StatusCode, text: &str) -> Answer {
    let body = Full::new(Bytes::from(format!("atoll: {text}\n"))).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn passed_on(
    mut answer: Response<Incoming>,
    sandbox_side: Option<hyper::upgrade::OnUpgrade>,
    client: &Arc<Client>,
) -> Answer {
    let to = answer.headers().get(http::header::UPGRADE).cloned();
    let switched = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    if let (true, Some(sandbox_side)) = (switched, sandbox_side) {
        let server_side = hyper::upgrade::on(&mut answer);
        tokio::spawn(tunnel(sandbox_side, server_side, client.cut.clone()));
    }
    let (mut head, body) = answer.into_parts();
    hop::strip_hop_by_hop(&mut head.headers);
    // It would lead around the proxy.
    head.headers.remove(ALT_SVC);
    if let (true, Some(to)) = (switched, to) {
        hop::ask_upgrade(&mut head.headers, to);
    }
    head.version = Version::HTTP_11;
    Response::from_parts(head, body.boxed())
}

/// Both ends have agreed to speak something else: from here on bytes are bytes.
async fn tunnel(
    sandbox: hyper::upgrade::OnUpgrade,
    server: hyper::upgrade::OnUpgrade,
    cut: tokio_util::sync::CancellationToken,
) {
    let copied = async {
        let (sandbox, server) = tokio::try_join!(sandbox, server)?;
        let (mut sandbox, mut server) = (TokioIo::new(sandbox), TokioIo::new(server));
        let _ended = tokio::io::copy_bidirectional_with_sizes(&mut sandbox, &mut server, 64 * 1024, 64 * 1024).await;
        Ok::<_, hyper::Error>(())
    };
    tokio::select! {
        _ended = copied => {}
        () = cut.cancelled() => {}
    }
}
