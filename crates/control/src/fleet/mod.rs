//! Reaching hosts: which host takes a new sandbox (`scheduler`, `placement`), and one pool of mutually
//! authenticated connections to all of them ([`Fleet`]).
//!
//! The fleet never decides what a sandbox or host *is*; that is the business of `sandboxes`, `hosts` and
//! `reconcile`. It keeps nothing that can't be lost: connections are dialled when first needed, replaced when a
//! host's address or certificate changes, and dropped when the host is deleted.
//!
//! Three kinds of connection per host, so that nobody waits for somebody else's data:
//! - `rpc`: one HTTP/2 connection for [`HostServiceClient`] alone: small calls of control, read at once.
//! - `guest`: one HTTP/2 connection for small unary calls into sandboxes, so that a sandbox that stalls can at worst
//!   slow other calls into sandboxes, never control's own.
//! - `bulk`: HTTP/1.1 connections, one request at a time each: files, streams, upgrades. A reader that stops reading
//!   fills only its own connection.

mod answer;
mod channel;
mod dial;
mod directory;
mod error;
mod least_loaded;
mod load_order;
mod placement;
mod round_robin;
mod scheduler;
mod transport;
mod tunnel;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::{HostId, SandboxId};
use atoll_rpc::atoll::guest::v1::GuestServiceClient;
use atoll_rpc::atoll::host::v1::HostServiceClient;
use atoll_rpc::connectrpc::client::ClientConfig;
use atoll_rpc::filesystem::FilesystemClient;
use atoll_rpc::process::ProcessClient;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;

pub use answer::{GuestAnswer, Meter};
pub use dial::{Dial, TcpDialer};
#[cfg(test)]
pub use dial::{Http, Wire};
pub use directory::{HostDirectory, HostLocation, TunnelPlace};
pub use error::{FleetError, said};
pub use least_loaded::LeastLoaded;
pub use placement::{CandidateSource, PlaceError, Placement};
pub use round_robin::RoundRobin;
#[cfg(test)]
pub use scheduler::Objection;
pub use scheduler::{ANY_DRIVER, Candidate, Demand, HostList, Limits, NoHost, Scheduler};
pub use transport::{GuestTransport, HostTransport, stands_still};
pub use tunnel::{RELAY_HEADER, RelayTokens, Tunnels};

/// Any error, boxed: what request bodies may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The request body that travels to hosts.
pub type FleetBody = UnsyncBoxBody<Bytes, BoxError>;

/// Client of a host's own service.
pub type HostClient = HostServiceClient<HostTransport>;
/// Clients of a sandbox's guest agent, through its host.
pub type GuestClient = GuestServiceClient<GuestTransport>;
pub type GuestProcesses = ProcessClient<GuestTransport>;
pub type GuestFiles = FilesystemClient<GuestTransport>;

/// Tells the agent that the request comes from control itself, which has judged the caller: the guest's own access
/// token is then not asked for. The agent strips it from anything that comes any other way.
pub const TRUSTED_HEADER: &str = "x-atoll-trusted";

/// What a program in a sandbox speaks at its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Plain,
    /// TLS, with whatever certificate.
    Tls,
}

impl Way {
    /// As the host's proxy is told, behind the port's number.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Tls => "+tls",
        }
    }
}

/// How the fleet behaves towards hosts.
#[derive(Debug, Clone)]
pub struct FleetSettings {
    /// For TCP and TLS together. Default 2 s.
    pub dial_timeout: Duration,
    /// Of a call that sets none. Default 30 s.
    pub call_timeout: Duration,
    /// A connection with something under way that is silent for `ping_interval`, and then for `ping_timeout` after a
    /// ping, is given up. Defaults 10 s and 10 s.
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    /// Bulk requests per host that wait for their answer's head. Default 4,096; more is [`FleetError::Overloaded`].
    pub max_bulk: usize,
    /// Of those, what one sandbox may have: nobody takes the host from its neighbours. Default 512:
    /// hundreds of terminals may be opened at once.
    pub max_bulk_of_sandbox: usize,
    /// Idle bulk connections kept per host. Default 32.
    pub max_idle_bulk: usize,
    /// Largest message of a call, either way. Default 64 MiB.
    pub max_message_bytes: usize,
}

impl Default for FleetSettings {
    fn default() -> Self {
        Self {
            dial_timeout: Duration::from_secs(2),
            call_timeout: Duration::from_secs(30),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(10),
            max_bulk: 4096,
            max_bulk_of_sandbox: 512,
            max_idle_bulk: 32,
            max_message_bytes: 64 << 20,
        }
    }
}

/// The pool of connections to all hosts. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Fleet {
    shared: Arc<Shared>,
}

struct Shared {
    directory: Arc<dyn HostDirectory>,
    dial: Arc<dyn Dial>,
    settings: FleetSettings,
    hosts: Mutex<HashMap<HostId, Arc<channel::HostChannels>>>,
}

impl Fleet {
    /// `dial` makes connections ([`TcpDialer`] outside of simulations); `directory` knows where hosts are.
    #[must_use]
    pub fn new(directory: Arc<dyn HostDirectory>, dial: Arc<dyn Dial>, settings: FleetSettings) -> Self {
        Self { shared: Arc::new(Shared { directory, dial, settings, hosts: Mutex::new(HashMap::new()) }) }
    }

    /// The host's own service. Nothing is dialled before the first call; errors of calls are sorted by
    /// [`FleetError::from_rpc`].
    #[must_use]
    pub fn host_client(&self, host: &HostId) -> HostClient {
        let config = self.client_config(&authority(host), "");
        HostServiceClient::new(HostTransport::new(self.clone(), host.clone()), config)
    }

    /// Atoll's own guest service of a sandbox (one-shot exec, signals, logs).
    #[must_use]
    pub fn guest_client(&self, host: &HostId, sandbox: &SandboxId) -> GuestClient {
        GuestServiceClient::new(self.guest_transport(host, sandbox, None), self.guest_config(host, sandbox))
    }

    /// The same for answers that may be large: `meter` has room for them, or they are cut off.
    #[must_use]
    pub fn metered_guest_client(&self, host: &HostId, sandbox: &SandboxId, meter: Arc<dyn Meter>) -> GuestClient {
        GuestServiceClient::new(self.guest_transport(host, sandbox, Some(meter)), self.guest_config(host, sandbox))
    }

    /// Processes and terminals of a sandbox: the E2B guest protocol.
    #[must_use]
    pub fn guest_processes(&self, host: &HostId, sandbox: &SandboxId) -> GuestProcesses {
        ProcessClient::new(self.guest_transport(host, sandbox, None), self.guest_config(host, sandbox))
    }

    /// Files of a sandbox, all but their contents: the E2B guest protocol.
    #[must_use]
    pub fn guest_files(&self, host: &HostId, sandbox: &SandboxId) -> GuestFiles {
        FilesystemClient::new(self.guest_transport(host, sandbox, None), self.guest_config(host, sandbox))
    }

    /// The same for answers that may be large.
    #[must_use]
    pub fn metered_guest_files(&self, host: &HostId, sandbox: &SandboxId, meter: Arc<dyn Meter>) -> GuestFiles {
        FilesystemClient::new(self.guest_transport(host, sandbox, Some(meter)), self.guest_config(host, sandbox))
    }

    /// Plain HTTP to a sandbox's guest agent: file contents, and anything else that is no RPC. The path of
    /// `request` is the guest's own (`/files?path=...`). Bodies stream both ways with flat memory. There is no
    /// deadline on the answer, because an upload is answered at its end: callers bound it by dropping the future.
    ///
    /// # Errors
    /// Whatever [`FleetError`] says; an HTTP error status is an answer, not an error.
    pub async fn guest_http<B>(
        &self,
        host: &HostId,
        sandbox: &SandboxId,
        request: http::Request<B>,
    ) -> Result<http::Response<Incoming>, FleetError>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut request = self.proxied(host, &format!("/proxy/{sandbox}/guest"), request)?;
        request.headers_mut().insert(TRUSTED_HEADER, HeaderValue::from_static("1"));
        self.bulk(host, Some(sandbox), request).await
    }

    /// The same for a request that comes from outside: the guest agent asks for its own access token.
    ///
    /// # Errors
    /// Whatever [`FleetError`] says; an HTTP error status is an answer, not an error.
    pub async fn guest_http_untrusted<B>(
        &self,
        host: &HostId,
        sandbox: &SandboxId,
        request: http::Request<B>,
    ) -> Result<http::Response<Incoming>, FleetError>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut request = self.proxied(host, &format!("/proxy/{sandbox}/guest"), request)?;
        request.headers_mut().remove(TRUSTED_HEADER);
        self.bulk(host, Some(sandbox), request).await
    }

    /// Plain HTTP to the host's agent itself: images that it has packed.
    ///
    /// # Errors
    /// Whatever [`FleetError`] says; an HTTP error status is an answer, not an error.
    pub async fn host_http<B>(
        &self,
        host: &HostId,
        request: http::Request<B>,
    ) -> Result<http::Response<Incoming>, FleetError>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let request = self.proxied(host, "", request)?;
        self.bulk(host, None, request).await
    }

    /// HTTP to a port inside a sandbox, in the way that is spoken there. An `Upgrade` request is passed through: on a 101 answer take the connection
    /// with `hyper::upgrade::on(response)`.
    ///
    /// # Errors
    /// Whatever [`FleetError`] says; an HTTP error status is an answer, not an error.
    pub async fn port_http<B>(
        &self,
        host: &HostId,
        sandbox: &SandboxId,
        (port, way): (u16, Way),
        request: http::Request<B>,
    ) -> Result<http::Response<Incoming>, FleetError>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut request = self.proxied(host, &format!("/proxy/{sandbox}/{port}{}", way.suffix()), request)?;
        request.headers_mut().remove(TRUSTED_HEADER);
        self.bulk(host, Some(sandbox), request).await
    }

    /// Drops the host's connections. Requests under way end by themselves.
    pub fn evict(&self, host: &HostId) {
        self.hosts().remove(host);
    }

    /// Drops the connections of hosts that are gone: deleted by another replica, and asked for by nobody here since.
    ///
    /// # Errors
    /// When the hosts can't be looked up; those that were not are kept.
    pub async fn evict_gone(&self) -> Result<(), FleetError> {
        let pooled: Vec<HostId> = self.hosts().keys().cloned().collect();
        for host in &pooled {
            match self.shared.directory.locate(host).await {
                Err(FleetError::Unknown { .. }) => self.evict(host),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// How many hosts have a place in the pool.
    #[must_use]
    pub fn pooled(&self) -> usize {
        self.hosts().len()
    }

    fn hosts(&self) -> std::sync::MutexGuard<'_, HashMap<HostId, Arc<channel::HostChannels>>> {
        self.shared.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The channels of a host, replaced when it has moved or has a new certificate.
    async fn channels(&self, host: &HostId) -> Result<Arc<channel::HostChannels>, FleetError> {
        let location = match self.shared.directory.locate(host).await {
            Ok(location) => location,
            Err(error) => {
                if matches!(error, FleetError::Unknown { .. }) {
                    self.evict(host);
                }
                return Err(error);
            }
        };
        let mut hosts = self.hosts();
        if let Some(channels) = hosts.get(host)
            && channels.location() == &location
        {
            return Ok(Arc::clone(channels));
        }
        let channels = Arc::new(channel::HostChannels::new(
            host.clone(),
            location,
            Arc::clone(&self.shared.dial),
            self.shared.settings.clone(),
        ));
        hosts.insert(host.clone(), Arc::clone(&channels));
        Ok(channels)
    }

    async fn bulk(
        &self,
        host: &HostId,
        sandbox: Option<&SandboxId>,
        request: http::Request<FleetBody>,
    ) -> Result<http::Response<Incoming>, FleetError> {
        self.channels(host).await?.bulk(sandbox, request).await
    }

    fn guest_transport(&self, host: &HostId, sandbox: &SandboxId, meter: Option<Arc<dyn Meter>>) -> GuestTransport {
        GuestTransport::new(self.clone(), host.clone(), sandbox.clone(), meter)
    }

    fn guest_config(&self, host: &HostId, sandbox: &SandboxId) -> ClientConfig {
        self.client_config(&authority(host), &format!("/proxy/{sandbox}/guest"))
            .with_default_header(TRUSTED_HEADER, "1")
    }

    fn client_config(&self, authority: &str, prefix: &str) -> ClientConfig {
        let uri = Uri::builder()
            .scheme("https")
            .authority(authority)
            .path_and_query(if prefix.is_empty() { "/" } else { prefix })
            .build()
            // Ids are lower-case letters, digits and a dash: always a valid URI. This keeps the types honest.
            .unwrap_or_else(|_| Uri::from_static("https://invalid.host.atoll.internal/"));
        ClientConfig::new(uri)
            .proto()
            .with_default_timeout(self.shared.settings.call_timeout)
            .with_default_max_message_size(self.shared.settings.max_message_bytes)
    }

    /// Rewrites the request's URI to go through the agent's proxy at `prefix`, and boxes its body.
    fn proxied<B>(
        &self,
        host: &HostId,
        prefix: &str,
        request: http::Request<B>,
    ) -> Result<http::Request<FleetBody>, FleetError>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        let rest = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let path = format!("{prefix}{}{rest}", if rest.starts_with('/') { "" } else { "/" });
        parts.uri = path.parse().map_err(|error: http::uri::InvalidUri| FleetError::Internal {
            host: host.clone(),
            attempted: format!("address {prefix}"),
            cause: error.to_string().into(),
        })?;
        if !parts.headers.contains_key(http::header::HOST)
            && let Ok(name) = HeaderValue::from_str(&authority(host))
        {
            parts.headers.insert(http::header::HOST, name);
        }
        parts.version = http::Version::HTTP_11;
        Ok(http::Request::from_parts(parts, body.map_err(Into::into).boxed_unsync()))
    }
}

/// The name by which a host is known inside Atoll, and which its certificate proves.
#[must_use]
pub fn authority(host: &HostId) -> String {
    format!("{host}.host.atoll.internal")
}
