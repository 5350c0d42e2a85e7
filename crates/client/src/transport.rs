//! Sends requests: one pool of kept-alive connections per server, a deadline on everything that is not a stream,
//! a bound on every answer that is read whole, and retries only of what can't take effect twice.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connect::Connector;
use crate::{ApiError, Credentials, Endpoint, Error};

/// A request body that is sent as it is made.
pub type Upload = UnsyncBoxBody<Bytes, io::Error>;

/// For a call whose work is bounded by the server itself.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// No answer that is read whole is larger.
const MAX_ANSWER: usize = 256 << 20;
/// Tries of a request that can't take effect twice, with these pauses between.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(400)];

/// Who asks.
#[derive(Clone, Default)]
pub enum Auth {
    #[default]
    Nobody,
    /// `X-API-Key`.
    ApiKey(SecretString),
    /// A signed-in user's token, `Authorization: Bearer`.
    Bearer(SecretString),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nobody => "nobody",
            Self::ApiKey(_) => "API key",
            Self::Bearer(_) => "user token",
        })
    }
}

/// A client of one server. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) connector: Connector,
    pool: Pool<Connector, Upload>,
    auth: Auth,
    once: Option<HeaderValue>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint).field("auth", &self.auth).finish_non_exhaustive()
    }
}

impl Client {
    pub fn new(credentials: &Credentials) -> Result<Self, Error> {
        let token = credentials.token.clone().map_or(Auth::Nobody, Auth::Bearer);
        let auth = credentials.api_key.clone().map_or(token, Auth::ApiKey);
        Self::to(Endpoint::parse(&credentials.url)?, auth)
    }

    /// A client of the server at `endpoint`.
    pub fn to(endpoint: Endpoint, auth: Auth) -> Result<Self, Error> {
        let endpoint = Arc::new(endpoint);
        let connector = Connector::new(endpoint.clone());
        connector.check()?;
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector.clone());
        Ok(Self { endpoint, connector, pool, auth, once: None })
    }

    /// The same client for one thing that is to be made once, however often it is asked for: its POSTs bear this
    /// `Idempotency-Key` (1 to 255 printable ASCII characters; nothing is sent of another text), and are sent again when
    /// their answer was lost.
    #[must_use]
    pub fn once(&self, key: &str) -> Self {
        Self { once: HeaderValue::from_str(key).ok(), ..self.clone() }
    }

    /// The same server, asked by someone else.
    #[must_use]
    pub fn with_auth(&self, auth: Auth) -> Self {
        Self { auth, ..self.clone() }
    }

    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The credential's header.
    pub(crate) fn credential(&self) -> Option<(header::HeaderName, HeaderValue)> {
        let (name, text) = match &self.auth {
            Auth::Nobody => return None,
            Auth::ApiKey(key) => (header::HeaderName::from_static("x-api-key"), key.expose_secret().to_owned()),
            Auth::Bearer(token) => (header::AUTHORIZATION, format!("Bearer {}", token.expose_secret())),
        };
        let mut value = HeaderValue::from_str(text.trim()).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.json(Method::GET, path, None::<&()>, DEADLINE).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Error> {
        self.json(Method::POST, path, Some(body), DEADLINE).await
    }

    /// A JSON request and its JSON answer; an empty answer reads as `null`.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        deadline: Duration,
    ) -> Result<T, Error> {
        let what = what(&method, path);
        let body = match body {
            Some(body) => Bytes::from(serde_json::to_vec(body).map_err(|error| Error::NotAtoll {
                what: what.clone(),
                cause: format!("the request can't be written: {error}"),
            })?),
            None => Bytes::new(),
        };
        let answer = self.whole(method, path, "application/json", body, deadline).await?;
        let answer: &[u8] = if answer.is_empty() { b"null" } else { &answer };
        serde_json::from_slice(answer).map_err(|error| Error::NotAtoll { what, cause: error.to_string() })
    }

    /// Sends a whole body and reads the whole answer, with retries where they are safe.
    pub(crate) async fn whole(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, Error> {
        let repeatable = matches!(method, Method::GET | Method::HEAD | Method::DELETE | Method::PUT)
            || (method == Method::POST && self.once.is_some());
        let what = what(&method, path);
        let attempt = async || {
            let upload = Full::new(body.clone()).map_err(|never| match never {}).boxed_unsync();
            let content_type = (!body.is_empty()).then_some(content_type);
            let response = self.send(method.clone(), path, content_type, upload).await?;
            self.read_whole(&what, response).await
        };
        let timed_out = || Error::TimedOut { what: what.clone(), seconds: deadline.as_secs() };
        let tries = async {
            for pause in PAUSES {
                match attempt().await {
                    Err(error) if repeatable && passes(&error) => tokio::time::sleep(pause).await,
                    result => return result,
                }
            }
            attempt().await
        };
        tokio::time::timeout(deadline, tries).await.map_err(|_| timed_out())?
    }

    /// Sends a request and answers as soon as the head of a successful answer is there.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&'static str>,
        body: Upload,
    ) -> Result<Response<Incoming>, Error> {
        let what = what(&method, path);
        let mut request = Request::builder()
            .method(&method)
            .uri(self.endpoint.url(path))
            .header(header::USER_AGENT, concat!("atoll/", env!("CARGO_PKG_VERSION")));
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        if let Some((name, value)) = self.credential() {
            request = request.header(name, value);
        }
        if let (&Method::POST, Some(key)) = (&method, &self.once) {
            request = request.header("idempotency-key", key);
        }
        let request = request
            .body(body)
            .map_err(|error| Error::NotAtoll { what: what.clone(), cause: format!("no valid request: {error}") })?;
        let response = self.pool.request(request).await.map_err(|error| self.failed(&what, &error))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let headers = response.headers().clone();
        // An error whose body breaks off is still that error.
        let body = self.read_whole(&what, response).await.unwrap_or_default();
        Err(Error::Api(Box::new(ApiError::read(status, &headers, &body))))
    }

    async fn read_whole(&self, what: &str, response: Response<Incoming>) -> Result<Bytes, Error> {
        let mut body = response.into_body();
        let mut first = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(what, &error))?;
            let Ok(data) = frame.into_data() else { continue };
            if first.is_empty() && more.is_empty() {
                first = data;
                continue;
            }
            if more.is_empty() {
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(&data);
            if more.len() > MAX_ANSWER {
                let cause = format!("it is larger than {} MiB", MAX_ANSWER >> 20);
                return Err(Error::NotAtoll { what: what.to_owned(), cause });
            }
        }
        Ok(if more.is_empty() { first } else { more.freeze() })
    }

    fn failed(&self, what: &str, error: &hyper_util::client::legacy::Error) -> Error {
        if error.is_connect() {
            return self.unreachable(root_cause(error));
        }
        self.broken(what, error)
    }

    pub(crate) fn unreachable(&self, source: io::Error) -> Error {
        Error::Unreachable { url: self.endpoint.to_string(), source }
    }

    pub(crate) fn broken(&self, what: &str, error: &dyn std::error::Error) -> Error {
        let mut cause = error.to_string();
        let mut next = error.source();
        while let Some(source) = next {
            let text = source.to_string();
            if !cause.contains(&text) {
                cause = format!("{cause}: {text}");
            }
            next = source.source();
        }
        Error::Broken { url: self.endpoint.to_string(), what: what.to_owned(), cause }
    }
}

/// Whether the same request may succeed in a moment.
fn passes(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } | Error::Broken { .. } => true,
        Error::Api(answer) => matches!(answer.status, 502..=504) && answer.retry_after.unwrap_or(0) <= 1,
        _ => false,
    }
}

fn root_cause(error: &hyper_util::client::legacy::Error) -> io::Error {
    let mut next = error.source();
    while let Some(source) = next {
        if let Some(found) = source.downcast_ref::<io::Error>() {
            return io::Error::new(found.kind(), found.to_string());
        }
        next = source.source();
    }
    io::Error::other(error.to_string())
}

/// How a request is named in errors: without its query, which may hold what is nobody's business.
pub(crate) fn what(method: &Method, path: &str) -> String {
    format!("{method} {}", path.split('?').next().unwrap_or_default())
}

/// Percent-encodes a text for a path segment or a query value.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte as char);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// `?a=1&b=2` from the pairs that have a value.
pub(crate) fn query(pairs: &[(&str, Option<String>)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if let Some(value) = value {
            text.push(if text.is_empty() { '?' } else { '&' });
            text.push_str(&format!("{name}={}", encode(value)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_can_hold_anything() {
        let pairs = [("path", Some("/a b/ü&=%".to_owned())), ("user", None), ("n", Some("1".to_owned()))];
        assert_eq!(query(&pairs), "?path=%2Fa%20b%2F%C3%BC%26%3D%25&n=1");
    }

    #[tokio::test]
    async fn nobody_at_the_address_is_said_so() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let client = Client::to(Endpoint::parse(&address.to_string()).unwrap(), Auth::Nobody).unwrap();
        let error = client.get::<serde_json::Value>("/v1/me").await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }
}
