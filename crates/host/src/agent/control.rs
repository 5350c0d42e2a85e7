//! What the agent asks of control, as typed calls: register, refresh, heartbeat, images.
//!
//! [`ControlApi`] is a trait so that a simulation can put a network of its own under the same logic. [`HttpControl`] is
//! the real one. It decides nothing: an answer is told apart by status and error code, and judged by the caller.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use atoll_image::packed;
use atoll_model::api::ErrorBody;
use atoll_model::api::hosts::{
    HOST_SIGNATURE_HEADER, HOST_TOKEN_HEADER, HeartbeatRequest, HostCredentials, HostTombstone, IdentityToken,
    IdentityTokenRequest, RegisterHostRequest, TUNNEL_PROTOCOL,
};
use atoll_model::{ErrorCode, HostId};
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE, HOST, RANGE, RETRY_AFTER, UPGRADE, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::Service;

use super::dial::ControlDialer;
use super::endpoint::Endpoint;
use super::trust::{Trust, client_config};
use crate::network::Identity;

/// Answers of control are small; more than this is not one.
const MAX_ANSWER: usize = 1 << 20;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a part of an image may stand still.
const STALL: Duration = Duration::from_secs(30);

/// A call that brought no answer that counts: transport, a server's own failure, or somebody else's answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{attempted}: {cause}")]
pub struct NoAnswer {
    pub attempted: &'static str,
    pub cause: String,
    /// The status, when there was an answer after all.
    pub status: Option<u16>,
}

/// Control's answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeartbeatAnswer {
    Accepted,
    /// 401 or 403.
    Unauthorized,
    /// 410 with a tombstone, not yet verified.
    Gone(HostTombstone),
}

/// Control's answer to a refresh.
pub enum RefreshAnswer {
    Renewed(Box<HostCredentials>),
    /// 401: the credentials are worth nothing any more.
    Rejected,
    Gone(HostTombstone),
}

/// Control's answer to an enrolment.
pub enum RegisterAnswer {
    Enrolled(Box<HostCredentials>),
    /// The token is unknown, used or expired.
    Refused(String),
    /// Something else in the request is wrong; trying again won't help.
    Invalid(String),
}

/// What control is asked.
#[async_trait]
pub trait ControlApi: Send + Sync + 'static {
    async fn register(&self, request: &RegisterHostRequest) -> Result<RegisterAnswer, NoAnswer>;

    /// `body` is a `RefreshHostRequest` as JSON; `signature` covers its exact bytes.
    async fn refresh(&self, body: Bytes, signature: &str) -> Result<RefreshAnswer, NoAnswer>;

    async fn heartbeat(
        &self,
        host: &HostId,
        access_token: &str,
        beat: &HeartbeatRequest,
    ) -> Result<HeartbeatAnswer, NoAnswer>;

    /// Connections are judged by this from now on.
    fn trust(&self, trust: &Trust) -> anyhow::Result<()>;
}

/// Control over HTTP/1.1 and TLS.
pub struct HttpControl {
    endpoint: Arc<Endpoint>,
    dialer: ControlDialer,
    client: Client<ControlDialer, Full<Bytes>>,
    user_agent: String,
}

impl HttpControl {
    /// # Errors
    /// When the trust is unusable.
    pub fn new(endpoint: Endpoint, trust: &Trust, version: &str) -> anyhow::Result<Self> {
        let endpoint = Arc::new(endpoint);
        let dialer = ControlDialer::new(endpoint.clone(), client_config(trust, endpoint.public_name())?);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(75))
            .pool_max_idle_per_host(4)
            .build(dialer.clone());
        Ok(Self { endpoint, dialer, client, user_agent: format!("atoll-host/{version}") })
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(self.endpoint.uri(path)).header(USER_AGENT, &self.user_agent)
    }

    async fn send(
        &self,
        attempted: &'static str,
        request: Result<Request<Full<Bytes>>, http::Error>,
    ) -> Result<Answer, NoAnswer> {
        let fail = |cause: String| NoAnswer { attempted, cause, status: None };
        let work = async {
            let request = request.map_err(|error| fail(error.to_string()))?;
            let response = self.client.request(request).await.map_err(|error| fail(chain(&error)))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| fail(error.to_string()))?;
            Ok(Answer { attempted, head, body: body.to_bytes() })
        };
        let late = |_| Err(fail(format!("no answer within {REQUEST_TIMEOUT:?}")));
        tokio::time::timeout(REQUEST_TIMEOUT, work).await.unwrap_or_else(late)
    }

    /// Asks for an image; the answer's body is a stream of any length, packed if its head says so.
    ///
    /// # Errors
    /// When control does not answer, or not with the image.
    pub async fn image(&self, host: &HostId, access_token: &str, digest: &str) -> Result<Response<Incoming>, NoAnswer> {
        let path = format!("/v1/hosts/{host}/images/{digest}");
        self.file(access_token, &path, None, StatusCode::OK).await
    }

    /// Asks for these bytes of a packed image, or for its index.
    ///
    /// # Errors
    /// When control does not answer, or not with them.
    pub async fn part_of_image(
        &self,
        host: &HostId,
        access_token: &str,
        digest: &str,
        part: Range<u64>,
    ) -> Result<Bytes, NoAnswer> {
        let path = format!("/v1/hosts/{host}/images/{digest}");
        let range = format!("bytes={}-{}", part.start, part.end.saturating_sub(1));
        let answer = self.file(access_token, &path, Some(&range), StatusCode::PARTIAL_CONTENT).await?;
        let length = usize::try_from(part.end.saturating_sub(part.start)).unwrap_or(usize::MAX);
        whole(answer, length).await
    }

    /// Asks what an image consists of.
    ///
    /// # Errors
    /// When control does not answer, or not with that.
    pub async fn index_of_image(&self, host: &HostId, access_token: &str, digest: &str) -> Result<Bytes, NoAnswer> {
        let path = format!("/v1/hosts/{host}/images/{digest}/index");
        whole(self.file(access_token, &path, None, StatusCode::OK).await?, packed::MAX_INDEX).await
    }

    async fn file(
        &self,
        access_token: &str,
        path: &str,
        range: Option<&str>,
        wanted: StatusCode,
    ) -> Result<Response<Incoming>, NoAnswer> {
        let mut request = self
            .request(Method::GET, path)
            .header(HOST_TOKEN_HEADER, access_token)
            .header(ACCEPT_ENCODING, packed::ENCODING);
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        let request = request.body(Full::default()).map_err(|error| no_image(error.to_string()))?;
        let late = |_| no_image(format!("no answer within {REQUEST_TIMEOUT:?}"));
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, self.client.request(request)).await.map_err(late)?;
        let response = answer.map_err(|error| no_image(chain(&error)))?;
        if response.status() != wanted {
            let cause = format!("control answered {} for {path}", response.status());
            return Err(NoAnswer { status: Some(response.status().as_u16()), ..no_image(cause) });
        }
        Ok(response)
    }
}

fn no_image(cause: String) -> NoAnswer {
    NoAnswer { attempted: "fetching an image from control", cause, status: None }
}

/// All of an answer, of so many bytes at most.
async fn whole(answer: Response<Incoming>, most: usize) -> Result<Bytes, NoAnswer> {
    let (mut body, mut bytes) = (Limited::new(answer.into_body(), most), BytesMut::new());
    loop {
        let late = |_| no_image(format!("nothing came for {STALL:?}"));
        let Some(frame) = tokio::time::timeout(STALL, body.frame()).await.map_err(late)? else { break };
        if let Ok(data) = frame.map_err(|error| no_image(error.to_string()))?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

impl HttpControl {
    /// A token of a sandbox's identity.
    ///
    /// # Errors
    /// When control does not answer, or not with one.
    pub async fn identity_token(
        &self,
        host: &HostId,
        access_token: &str,
        identity: &Identity,
    ) -> Result<IdentityToken, NoAnswer> {
        const ATTEMPTED: &str = "asking control for a token of an identity";
        let unreadable =
            |error: serde_json::Error| NoAnswer { attempted: ATTEMPTED, cause: error.to_string(), status: None };
        let asked = IdentityTokenRequest { name: identity.name.clone() };
        let body = serde_json::to_vec(&asked).map_err(unreadable)?;
        let request = self
            .request(Method::POST, &format!("/v1/hosts/{host}/sandboxes/{}/identity-token", identity.sandbox))
            .header(HOST_TOKEN_HEADER, access_token)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body));
        let answer = self.send(ATTEMPTED, request).await?;
        if answer.head.status != StatusCode::OK {
            return Err(answer.meaningless());
        }
        serde_json::from_slice(&answer.body).map_err(unreadable)
    }

    /// Opens a connection of its own that becomes the host's tunnel.
    ///
    /// # Errors
    /// When control does not answer, or refuses.
    pub async fn open_tunnel(&self, host: &HostId, access_token: &str) -> Result<Upgraded, NoAnswer> {
        const ATTEMPTED: &str = "opening the tunnel to control";
        let fail = |cause: String| NoAnswer { attempted: ATTEMPTED, cause, status: None };
        let work = async {
            let stream = self.dialer.clone().call(Uri::default()).await.map_err(|error| fail(chain(&error)))?;
            let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| fail(chain(&error)))?;
            tokio::spawn(connection.with_upgrades());
            let request = Request::builder()
                .uri(self.endpoint.path(&format!("/v1/hosts/{host}/tunnel")))
                .header(HOST, self.endpoint.authority())
                .header(USER_AGENT, &self.user_agent)
                .header(HOST_TOKEN_HEADER, access_token)
                .header(CONNECTION, "upgrade")
                .header(UPGRADE, TUNNEL_PROTOCOL)
                .body(Full::<Bytes>::default())
                .map_err(|error| fail(error.to_string()))?;
            let response = sender.send_request(request).await.map_err(|error| fail(chain(&error)))?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let status = response.status();
                let cause = format!("control answered {status}, or a proxy on the way does not pass upgrades on");
                return Err(NoAnswer { status: Some(status.as_u16()), ..fail(cause) });
            }
            hyper::upgrade::on(response).await.map_err(|error| fail(chain(&error)))
        };
        let late = |_| Err(fail(format!("no answer within {REQUEST_TIMEOUT:?}")));
        tokio::time::timeout(REQUEST_TIMEOUT, work).await.unwrap_or_else(late)
    }
}

struct Answer {
    attempted: &'static str,
    head: http::response::Parts,
    body: Bytes,
}

impl Answer {
    fn error(&self) -> Option<ErrorBody> {
        serde_json::from_slice(&self.body).ok()
    }

    fn tombstone(&self) -> Option<HostTombstone> {
        let error = self.error()?.error;
        (error.code == ErrorCode::HostDeleted).then_some(())?;
        serde_json::from_value(error.details.get("tombstone")?.clone()).ok()
    }

    /// Any answer that has no meaning here: somebody else's, or a failure.
    fn meaningless(&self) -> NoAnswer {
        let detail = self.error().map(|body| format!(" ({}: {})", body.error.code, body.error.message));
        let wait = self.head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let wait = wait.map(|seconds| format!(", retry after {seconds} s")).unwrap_or_default();
        let cause = format!("answered {}{}{wait}", self.head.status, detail.unwrap_or_default());
        NoAnswer { attempted: self.attempted, cause, status: Some(self.head.status.as_u16()) }
    }

    fn credentials(&self) -> Result<Box<HostCredentials>, NoAnswer> {
        serde_json::from_slice(&self.body).map(Box::new).map_err(|error| NoAnswer {
            attempted: self.attempted,
            cause: format!("the answer holds no credentials: {error}"),
            status: Some(self.head.status.as_u16()),
        })
    }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn json<T: serde::Serialize>(value: &T) -> Full<Bytes> {
    // Plain structs of strings and numbers can't fail to serialise.
    Full::new(Bytes::from(serde_json::to_vec(value).unwrap_or_default()))
}

#[async_trait]
impl ControlApi for HttpControl {
    async fn register(&self, request: &RegisterHostRequest) -> Result<RegisterAnswer, NoAnswer> {
        let http = self.request(Method::POST, "/v1/hosts/register").header(CONTENT_TYPE, "application/json");
        let answer = self.send("enrolling with control", http.body(json(request))).await?;
        let message = || answer.error().map_or_else(|| answer.head.status.to_string(), |body| body.error.message);
        match answer.head.status {
            StatusCode::OK | StatusCode::CREATED => answer.credentials().map(RegisterAnswer::Enrolled),
            StatusCode::UNAUTHORIZED => Ok(RegisterAnswer::Refused(message())),
            StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::CONFLICT | StatusCode::GONE => {
                Ok(RegisterAnswer::Invalid(message()))
            }
            _ => Err(answer.meaningless()),
        }
    }

    async fn refresh(&self, body: Bytes, signature: &str) -> Result<RefreshAnswer, NoAnswer> {
        let http = self
            .request(Method::POST, "/v1/hosts/auth/refresh")
            .header(CONTENT_TYPE, "application/json")
            .header(HOST_SIGNATURE_HEADER, signature);
        let answer = self.send("renewing the host's credentials", http.body(Full::new(body))).await?;
        match answer.head.status {
            StatusCode::OK => answer.credentials().map(RefreshAnswer::Renewed),
            // Only control's own word counts: a proxy in between may answer 401 as well.
            StatusCode::UNAUTHORIZED
                if answer.error().is_some_and(|body| body.error.code == ErrorCode::Unauthorized) =>
            {
                Ok(RefreshAnswer::Rejected)
            }
            StatusCode::GONE => answer.tombstone().map(RefreshAnswer::Gone).ok_or_else(|| answer.meaningless()),
            _ => Err(answer.meaningless()),
        }
    }

    async fn heartbeat(
        &self,
        host: &HostId,
        access_token: &str,
        beat: &HeartbeatRequest,
    ) -> Result<HeartbeatAnswer, NoAnswer> {
        let http = self
            .request(Method::POST, &format!("/v1/hosts/{host}/heartbeat"))
            .header(CONTENT_TYPE, "application/json")
            .header(HOST_TOKEN_HEADER, access_token);
        let answer = self.send("sending a heartbeat", http.body(json(beat))).await?;
        match answer.head.status {
            StatusCode::NO_CONTENT | StatusCode::OK => Ok(HeartbeatAnswer::Accepted),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(HeartbeatAnswer::Unauthorized),
            StatusCode::GONE => answer.tombstone().map(HeartbeatAnswer::Gone).ok_or_else(|| answer.meaningless()),
            _ => Err(answer.meaningless()),
        }
    }

    fn trust(&self, trust: &Trust) -> anyhow::Result<()> {
        self.dialer.replace_trust(client_config(trust, self.endpoint.public_name())?);
        Ok(())
    }
}
