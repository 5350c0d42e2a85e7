//! What the control plane can be told. Every field is a setting of `atoll server` and `atoll up`; defaults here are
//! the documented ones.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;

pub use crate::objects::BucketSettings;
pub use crate::otlp::OtlpSettings;
pub use crate::sign_in::{GithubSettings, OidcSettings};
pub use crate::templates::shipped::ShippedRecipes;

/// A file of the dashboard, as the binary carries it.
#[derive(Debug, Clone, Copy)]
pub struct DashboardFile {
    pub bytes: &'static [u8],
    /// The same bytes gzipped, where that pays.
    pub gzip: Option<&'static [u8]>,
    /// The `Content-Type`.
    pub mime: &'static str,
    /// Its name changes with its content: may be cached for ever.
    pub immutable: bool,
    /// Hex of a hash over the bytes, for an `ETag`.
    pub hash: &'static str,
}

/// Finds a file of the dashboard by its path (`index.html`, `_app/immutable/...`).
pub type DashboardLookup = fn(&str) -> Option<DashboardFile>;

/// Who may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SignupMode {
    Open,
    #[default]
    Invite,
    Closed,
}

impl FromStr for SignupMode {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "open" => Ok(Self::Open),
            "invite" => Ok(Self::Invite),
            "closed" => Ok(Self::Closed),
            other => Err(format!("unknown signup mode `{other}`: expected open, invite or closed")),
        }
    }
}

/// Which scheduler picks hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SchedulerKind {
    #[default]
    RoundRobin,
    LeastLoaded,
}

impl FromStr for SchedulerKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "round-robin" => Ok(Self::RoundRobin),
            "least-loaded" => Ok(Self::LeastLoaded),
            other => Err(format!("unknown scheduler `{other}`: expected round-robin or least-loaded")),
        }
    }
}

/// A network of addresses: `10.0.0.0/8`, `192.0.2.7`, `2001:db8::/32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address.to_canonical() {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let ((network, width), (address, other)) = (bits(self.address), bits(address));
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
        width == other && network & mask == address & mask
    }
}

impl FromStr for Network {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a network; expected something like 10.0.0.0/8 or 192.0.2.7");
        let (address, prefix) = text.trim().split_once('/').map_or((text.trim(), None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let widest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(widest), str::parse).map_err(|_| wrong())?;
        if prefix > widest { Err(wrong()) } else { Ok(Self { address, prefix }) }
    }
}

/// The user's own TLS certificate for the listener, PEM files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// How many times over a host's resources may be promised to sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overcommit {
    /// Default 32.
    pub cpu: u64,
    /// Default 4.
    pub memory: u64,
    /// Default 4.
    pub disk: u64,
}

impl Default for Overcommit {
    fn default() -> Self {
        Self { cpu: 32, memory: 4, disk: 4 }
    }
}

/// What a team's sandboxes that are not stopped may take together. None: no limit, which is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quotas {
    pub sandboxes: Option<u64>,
    pub vcpus: Option<u64>,
    pub memory_mb: Option<u64>,
    pub disk_mb: Option<u64>,
}

/// How long things of hosts last, and how often they happen. See docs/hosts.md.
#[derive(Debug, Clone)]
pub struct HostTimes {
    /// Default 30 s.
    pub heartbeat_interval: Duration,
    /// A heartbeat older than this makes a host unreachable. Default 90 s.
    pub stale_after: Duration,
    /// Default 15 s.
    pub monitor_interval: Duration,
    /// A sandbox in a transitional status for longer is brought to its host's truth. Default 2 min.
    pub transition_limit: Duration,
    /// Default 1 h.
    pub registration_token_ttl: Duration,
    /// Default 7 days.
    pub access_token_ttl: Duration,
    /// Default 60 days.
    pub refresh_token_ttl: Duration,
    /// Of a host's certificate. Default 7 days.
    pub certificate_ttl: Duration,
}

impl Default for HostTimes {
    fn default() -> Self {
        const DAY: u64 = 24 * 3600;
        Self {
            heartbeat_interval: Duration::from_secs(30),
            stale_after: Duration::from_secs(90),
            monitor_interval: Duration::from_secs(15),
            transition_limit: Duration::from_secs(120),
            registration_token_ttl: Duration::from_secs(3600),
            access_token_ttl: Duration::from_secs(7 * DAY),
            refresh_token_ttl: Duration::from_secs(60 * DAY),
            certificate_ttl: Duration::from_secs(7 * DAY),
        }
    }
}

/// Bounds on what clients may ask for at once.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Open connections; more wait in the kernel's queue. One address, but for trusted proxies, may have half of them: its
    /// others are closed. Default 4,096.
    pub max_connections: usize,
    /// Requests under way; more are answered 503 `overloaded`. One team may have half of them: its others are answered 429
    /// `rate_limited`. Default 2,048.
    pub max_requests: usize,
    /// Requests of hosts under way, beside the others. Default 1,024.
    pub max_host_requests: usize,
    /// WebSockets and upgraded connections into ports, of which one team may have half. Default 4,096.
    pub max_sockets: usize,
    /// Memory for answers that programs and lists in sandboxes make, beyond small ones; one team may have half. Default 1 GiB.
    pub max_answer_bytes: usize,
    /// Creates under way; more wait their turn for at most `queue_timeout`. One team may have three quarters. Default 64.
    pub max_creates: usize,
    /// Default 30 s.
    pub queue_timeout: Duration,
    /// The time in which a client must send its request's head. Default 15 s.
    pub header_timeout: Duration,
    /// How long a request's body may stand still while it is waited for. Default 120 s.
    pub body_timeout: Duration,
    /// From a request to its answer's head, streams and uploads excepted. Default 120 s.
    pub request_timeout: Duration,
    /// Largest file of one upload. Default 64 GiB.
    pub max_upload_bytes: u64,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_requests: 2048,
            max_host_requests: 1024,
            max_sockets: 4096,
            max_answer_bytes: 1 << 30,
            max_creates: 64,
            queue_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(120),
            max_upload_bytes: 64 << 30,
        }
    }
}

/// Browsers take it to be this machine, with anything before it.
pub const DEFAULT_DOMAIN: &str = "localhost";

/// Everything that [`crate::Control::start`] needs to know.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// Holds the embedded database; 0700.
    pub data_dir: PathBuf,
    /// The machine-wide cache: template images by digest.
    pub cache_dir: PathBuf,
    pub listen: SocketAddr,
    /// `postgres://...` or `sqlite:PATH`; the embedded SQLite in `data_dir` when absent.
    pub database_url: Option<SecretString>,
    /// The bucket of the object store; a folder in `data_dir` when absent. Replicas on several machines need one.
    pub bucket: Option<BucketSettings>,
    /// How people and the command line reach it; made from `listen` when absent.
    pub public_url: Option<String>,
    /// `host:port` at which other replicas of control reach this one; needed where there are several and hosts behind
    /// NAT.
    pub advertise: Option<String>,
    /// Ports of sandboxes are reached at `{port}-{sandbox}.{domain}`; may end with a port, which links then bear.
    /// Default [`DEFAULT_DOMAIN`].
    pub domain: String,
    pub tls: Option<TlsFiles>,
    pub dashboard: DashboardLookup,
    /// The templates that ship besides `base`; none without.
    pub shipped: Option<ShippedRecipes>,
    /// They are built before anybody asks for them, when there is nothing else to do. Default true.
    pub build_ahead: bool,
    /// Of the whole product, for `/healthz` and logs.
    pub version: &'static str,
    pub signup: SignupMode,
    pub scheduler: SchedulerKind,
    pub hosts: HostTimes,
    pub overcommit: Overcommit,
    /// What a team may have that has no limits of its own.
    pub quotas: Quotas,
    /// Under `atoll up`: what still keeps this machine's own host from taking a sandbox, `None` when nothing does. What
    /// the database knows of it may be older than the start of its agent.
    pub local_problem: Option<watch::Receiver<Option<String>>>,
    /// Sandboxes that their host paused for loss of contact are resumed when it is back (`on_reconnect = resume`).
    pub resume_on_reconnect: bool,
    pub http: HttpLimits,
    /// Bearer token that opens `/metrics` from elsewhere than loopback.
    pub metrics_token: Option<SecretString>,
    /// Where metrics are sent by OpenTelemetry's protocol; nowhere when absent.
    pub otlp: Option<OtlpSettings>,
    /// How long a user JWT and its session last. Default 6 h.
    pub session_ttl: Duration,
    /// How long a browser stays signed in. Default 7 days.
    pub browser_session_ttl: Duration,
    /// Networks of reverse proxies in front: what they say in `X-Forwarded-For`, `-Proto` and `-Host` is believed.
    pub trusted_proxies: Vec<Network>,
    /// Registries (`host` or `host:port`) that may be at private addresses and speak plain HTTP.
    pub registry_allow: Vec<String>,
    /// Private networks that webhooks may be sent to all the same.
    pub webhook_allow: Vec<Network>,
    /// A file of the operator's with the keys that sign people's tokens (Ed25519, PEM): the first signs, all are accepted.
    /// Keys in the database when absent.
    pub jwt_key: Option<PathBuf>,
    /// The key that secrets are encrypted under: a file with 64 hexadecimal characters. One in the data directory, made at
    /// the first start, when absent.
    pub secrets_key: Option<PathBuf>,
    /// Where people can sign in besides here.
    pub oidc: Option<OidcSettings>,
    pub github: Option<GithubSettings>,
    /// `smtp://` or `smtps://`, with user and password; no mail when absent.
    pub smtp_url: Option<SecretString>,
    /// Whom mail comes from.
    pub smtp_from: Option<String>,
    /// How often idle sandboxes are looked for. Default 1 s.
    pub reaper_interval: Duration,
}

impl ControlConfig {
    /// The documented defaults, for a control plane that keeps its things in `data_dir`.
    #[must_use]
    pub fn new(data_dir: PathBuf, cache_dir: PathBuf, listen: SocketAddr) -> Self {
        Self {
            data_dir,
            cache_dir,
            listen,
            database_url: None,
            public_url: None,
            advertise: None,
            domain: DEFAULT_DOMAIN.to_owned(),
            tls: None,
            dashboard: |_| None,
            shipped: None,
            build_ahead: true,
            version: env!("CARGO_PKG_VERSION"),
            signup: SignupMode::default(),
            scheduler: SchedulerKind::default(),
            hosts: HostTimes::default(),
            overcommit: Overcommit::default(),
            quotas: Quotas::default(),
            local_problem: None,
            resume_on_reconnect: true,
            http: HttpLimits::default(),
            metrics_token: None,
            otlp: None,
            session_ttl: Duration::from_secs(6 * 3600),
            browser_session_ttl: Duration::from_secs(7 * 24 * 3600),
            trusted_proxies: Vec::new(),
            registry_allow: Vec::new(),
            webhook_allow: Vec::new(),
            jwt_key: None,
            secrets_key: None,
            oidc: None,
            github: None,
            bucket: None,
            smtp_url: None,
            smtp_from: None,
            reaper_interval: Duration::from_secs(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        let holds =
            |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.1.2") && !holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.1.1"), "an IPv4 address in IPv6 clothes");
        assert!(holds("192.0.2.7", "192.0.2.7") && !holds("192.0.2.7", "192.0.2.6"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("2001:db8::/32", "2001:db8:1::1") && !holds("2001:db8::/32", "2001:db9::1"));
        for wrong in ["", "10.0.0.0/33", "x/8", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
