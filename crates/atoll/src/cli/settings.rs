//! Settings of `up`, `server` and `host`. Each is a flag and an `ATOLL_*` variable; a `.env` file in the working
//! directory is read first.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use atoll_control::config::{BucketSettings, Network, SchedulerKind, SignupMode};
use atoll_host::config::{DriverChoice, OnDisconnect};
use atoll_host::slots::SandboxNetwork;
use clap::Args;

/// Where `atoll up` and `atoll server` listen unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7420";
/// Where `atoll host` listens for control unless told otherwise.
pub const DEFAULT_HOST_LISTEN: &str = "0.0.0.0:7421";

/// What all services share.
#[derive(Debug, Clone, Args)]
pub struct PlaceArgs {
    /// Where everything of this Atoll is kept
    #[arg(long, env = "ATOLL_DATA_DIR", value_name = "DIR", default_value_os_t = default_data_dir())]
    pub data_dir: PathBuf,
    /// Template images, shared by all Atolls of this machine
    #[arg(long, env = "ATOLL_CACHE_DIR", value_name = "DIR", default_value_os_t = default_cache_dir())]
    pub cache_dir: PathBuf,
    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,atoll_host=debug`
    #[arg(long, env = "ATOLL_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

/// How often hosts say that they are alive: one setting of both sides.
#[derive(Debug, Clone, Args)]
pub struct HeartbeatArgs {
    /// How often a host says that it is alive [default: 30s]
    #[arg(long, env = "ATOLL_HEARTBEAT_INTERVAL", value_name = "DURATION", value_parser = duration)]
    #[arg(help_heading = "Hosts")]
    pub heartbeat_interval: Option<Duration>,
}

/// Settings of the control plane.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Control plane")]
pub struct ControlArgs {
    /// Address and port of the API and the dashboard; port 0 takes any free one
    #[arg(long, env = "ATOLL_LISTEN", value_name = "ADDR:PORT", default_value = DEFAULT_LISTEN)]
    pub listen: SocketAddr,
    /// postgres://… or sqlite:PATH [default: SQLite in the data directory]
    #[arg(long, env = "ATOLL_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// How people and programs reach it [default: made from --listen]
    #[arg(long, env = "ATOLL_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// Where other replicas of control reach this one, for hosts behind NAT
    #[arg(long, env = "ATOLL_ADVERTISE", value_name = "HOST:PORT", value_parser = host_and_port)]
    pub advertise: Option<String>,
    /// Ports of sandboxes are reached at {port}-{sandbox}.DOMAIN; needs a wildcard name that leads here
    #[arg(long, env = "ATOLL_DOMAIN", value_name = "DOMAIN", default_value = "localhost", value_parser = domain)]
    pub domain: String,
    /// Certificate chain for the listener, PEM
    #[arg(long, env = "ATOLL_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, env = "ATOLL_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Who may make an account: open, invite or closed
    #[arg(long, env = "ATOLL_SIGNUP", value_name = "MODE", default_value = "invite")]
    pub signup: SignupMode,
    /// Networks of reverse proxies in front, whose X-Forwarded-For, -Proto and -Host are believed
    #[arg(long, env = "ATOLL_TRUSTED_PROXIES", value_name = "CIDR", value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,
    /// Private networks that webhooks may be sent to all the same
    #[arg(long, env = "ATOLL_WEBHOOK_ALLOW", value_name = "CIDR", value_delimiter = ',')]
    pub webhook_allow: Vec<Network>,
    /// Keys that sign people's tokens, Ed25519 in PEM: the first signs, all are accepted [default: in the database]
    #[arg(long, env = "ATOLL_JWT_KEY", value_name = "FILE")]
    pub jwt_key: Option<PathBuf>,
    /// The key that secrets are encrypted under: 64 hexadecimal characters, the same for all servers of a database
    /// [default: made in the data directory]
    #[arg(long, env = "ATOLL_SECRETS_KEY", value_name = "FILE")]
    pub secrets_key: Option<PathBuf>,
    /// An OpenID Connect provider where people can sign in: its address
    #[arg(long, env = "ATOLL_OIDC_ISSUER", value_name = "URL", requires_all = ["oidc_client_id", "oidc_client_secret"])]
    pub oidc_issuer: Option<String>,
    /// What Atoll is called there
    #[arg(long, env = "ATOLL_OIDC_CLIENT_ID", value_name = "ID")]
    pub oidc_client_id: Option<String>,
    /// Its secret there. Arguments can be seen by others: prefer the variable
    #[arg(long, env = "ATOLL_OIDC_CLIENT_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub oidc_client_secret: Option<String>,
    /// What the button for it says
    #[arg(long, env = "ATOLL_OIDC_NAME", value_name = "NAME", default_value = "Single sign-on")]
    pub oidc_name: String,
    /// Lets people sign in with GitHub: what Atoll is called there
    #[arg(long, env = "ATOLL_GITHUB_CLIENT_ID", value_name = "ID", requires = "github_client_secret")]
    pub github_client_id: Option<String>,
    /// Its secret there. Arguments can be seen by others: prefer the variable
    #[arg(long, env = "ATOLL_GITHUB_CLIENT_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub github_client_secret: Option<String>,
    /// Where GitHub is, for a GitHub Enterprise
    #[arg(long, env = "ATOLL_GITHUB_URL", value_name = "URL", default_value = "https://github.com")]
    pub github_url: String,
    /// Where its API is
    #[arg(long, env = "ATOLL_GITHUB_API_URL", value_name = "URL", default_value = "https://api.github.com")]
    pub github_api_url: String,
    /// Where mail goes out, such as smtps://user:password@mail.example.com; needs --smtp-from and --public-url
    #[arg(long, env = "ATOLL_SMTP_URL", value_name = "URL", hide_env_values = true)]
    pub smtp_url: Option<String>,
    /// Whom mail comes from, such as "Atoll <atoll@example.com>"
    #[arg(long, env = "ATOLL_SMTP_FROM", value_name = "ADDRESS")]
    pub smtp_from: Option<String>,
    /// Where images of templates and snapshots are kept: s3://BUCKET or s3://BUCKET/PREFIX. A folder of the data
    /// directory without it, which does for one server
    #[arg(long, env = "ATOLL_OBJECT_STORE", value_name = "URL", value_parser = BucketSettings::parse)]
    pub object_store: Option<BucketSettings>,
    /// Where that S3 is, if it is not Amazon's, such as https://minio.example.com:9000
    #[arg(long, env = "ATOLL_S3_ENDPOINT", value_name = "URL", requires = "object_store", value_parser = endpoint)]
    pub s3_endpoint: Option<String>,
    /// Its region; us-east-1 without it, which most servers that are not Amazon's take for theirs
    #[arg(long, env = "AWS_REGION", value_name = "NAME")]
    pub s3_region: Option<String>,
    /// The key to it; the role of the machine without it
    #[arg(long, env = "AWS_ACCESS_KEY_ID", value_name = "ID")]
    pub s3_access_key_id: Option<String>,
    /// Its secret. Arguments can be seen by others: prefer the variable
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", value_name = "SECRET", hide_env_values = true)]
    pub s3_secret_access_key: Option<String>,
    /// Beside a temporary key
    #[arg(long, env = "AWS_SESSION_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub s3_session_token: Option<String>,
    /// How a host is picked: round-robin or least-loaded
    #[arg(long, env = "ATOLL_SCHEDULER", value_name = "KIND", default_value = "round-robin")]
    pub scheduler: SchedulerKind,
    /// How many times over a host's processors may be promised to sandboxes
    #[arg(long, env = "ATOLL_CPU_OVERCOMMIT", value_name = "FACTOR", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub cpu_overcommit: u64,
    /// The same for its memory
    #[arg(long, env = "ATOLL_MEMORY_OVERCOMMIT", value_name = "FACTOR", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub memory_overcommit: u64,
    /// The same for its disk
    #[arg(long, env = "ATOLL_DISK_OVERCOMMIT", value_name = "FACTOR", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub disk_overcommit: u64,
    /// A registry (host or host:port) at a private address, asked without TLS, that images may come from; can be repeated
    #[arg(long, env = "ATOLL_REGISTRY_ALLOW", value_name = "HOST", value_delimiter = ',')]
    pub registry_allow: Vec<String>,
    #[command(flatten)]
    pub interpreter: super::templates::InterpreterArgs,
    /// Whether the code interpreter's template is built before anybody asks for it, when the machine has nothing else to do
    #[arg(long, env = "ATOLL_BUILD_AHEAD", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub build_ahead: bool,
    /// How many sandboxes a team may have that has no limit of its own (not counting stopped ones)
    #[arg(long, env = "ATOLL_QUOTA_SANDBOXES", value_name = "N")]
    pub quota_sandboxes: Option<u64>,
    /// The same for the virtual CPUs of all its sandboxes
    #[arg(long, env = "ATOLL_QUOTA_VCPUS", value_name = "N")]
    pub quota_vcpus: Option<u64>,
    /// The same for their memory
    #[arg(long, env = "ATOLL_QUOTA_MEMORY_MB", value_name = "MB")]
    pub quota_memory_mb: Option<u64>,
    /// The same for their disks
    #[arg(long, env = "ATOLL_QUOTA_DISK_MB", value_name = "MB")]
    pub quota_disk_mb: Option<u64>,
    /// Bearer token that opens /metrics from elsewhere than loopback
    #[arg(long, env = "ATOLL_METRICS_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub metrics_token: Option<String>,
    /// An OpenTelemetry collector that metrics are sent to (OTLP over HTTP), such as http://127.0.0.1:4318
    /// [default: what OTEL_EXPORTER_OTLP_ENDPOINT says, else none]
    #[arg(long, env = "ATOLL_OTLP_ENDPOINT", value_name = "URL", hide_env_values = true)]
    pub otlp_endpoint: Option<String>,
    /// Headers for it, name=value with commas between them, values percent-encoded. Arguments can be seen by others: prefer
    /// the variable [default: OTEL_EXPORTER_OTLP_HEADERS, for the address that OTEL_EXPORTER_OTLP_ENDPOINT says]
    #[arg(long, env = "ATOLL_OTLP_HEADERS", value_name = "HEADERS", hide_env_values = true)]
    pub otlp_headers: Option<String>,
    /// How often metrics are sent there, from 1s to 1h [default: 60s]
    #[arg(long, env = "ATOLL_OTLP_INTERVAL", value_name = "DURATION", value_parser = duration)]
    pub otlp_interval: Option<Duration>,
    /// A heartbeat older than this makes a host unreachable [default: 90s]
    #[arg(long, env = "ATOLL_HOST_STALE_AFTER", value_name = "DURATION", value_parser = duration)]
    pub host_stale_after: Option<Duration>,
    /// How often hosts and sandboxes are compared [default: 15s]
    #[arg(long, env = "ATOLL_MONITOR_INTERVAL", value_name = "DURATION", value_parser = duration)]
    pub monitor_interval: Option<Duration>,
    /// A sandbox that is starting, pausing or resuming for longer is brought to what its host has [default: 2m]
    #[arg(long, env = "ATOLL_TRANSITION_LIMIT", value_name = "DURATION", value_parser = duration)]
    pub transition_limit: Option<Duration>,
    /// What sandboxes come to that were paused for loss of contact, when their host is back
    #[arg(long, env = "ATOLL_ON_RECONNECT", value_name = "ACTION", value_enum, default_value = "resume")]
    pub on_reconnect: OnReconnect,
    /// Life of a host's registration token [default: 1h]
    #[arg(long, env = "ATOLL_REGISTRATION_TOKEN_TTL", value_name = "DURATION", value_parser = duration)]
    pub registration_token_ttl: Option<Duration>,
    /// Life of a host's access token [default: 7days]
    #[arg(long, env = "ATOLL_ACCESS_TOKEN_TTL", value_name = "DURATION", value_parser = duration)]
    pub access_token_ttl: Option<Duration>,
    /// Life of a host's refresh token [default: 60days]
    #[arg(long, env = "ATOLL_REFRESH_TOKEN_TTL", value_name = "DURATION", value_parser = duration)]
    pub refresh_token_ttl: Option<Duration>,
}

/// What becomes of sandboxes that a host paused because it had lost contact, when it is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnReconnect {
    Resume,
    StayPaused,
}

/// Settings of a host agent, wherever it runs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Host")]
pub struct AgentArgs {
    /// Where control reaches this host [default: the address from which it reaches control]
    #[arg(long, env = "ATOLL_ADDRESS", value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// Isolation: container, vm or auto
    #[arg(long, env = "ATOLL_DRIVER", value_name = "DRIVER", default_value = "auto")]
    pub driver: DriverChoice,
    /// A private network (CIDR) that sandboxes may reach; can be repeated
    #[arg(long, env = "ATOLL_EGRESS_ALLOW", value_name = "CIDR", value_delimiter = ',')]
    pub egress_allow: Vec<String>,
    /// Bytes a second that each sandbox may send to the world, and get from there, such as 20M [default: unbounded]
    #[arg(long, env = "ATOLL_SANDBOX_BANDWIDTH", value_name = "SIZE", value_parser = size)]
    pub sandbox_bandwidth: Option<u64>,
    /// The /16 that sandboxes' addresses come from, when the default is in use otherwise
    #[arg(long, env = "ATOLL_SANDBOX_NETWORK", value_name = "CIDR", default_value = "198.18.0.0/16")]
    pub sandbox_network: SandboxNetwork,
    /// Size of the storage pool, such as 50G [default: what the disk has to spare]
    #[arg(long, env = "ATOLL_POOL_SIZE", value_name = "SIZE", value_parser = size)]
    pub pool_size: Option<u64>,
    /// What images fetched from control may take on the disk; the longest unused go first [default: 32G]
    #[arg(long, env = "ATOLL_IMAGE_CACHE_SIZE", value_name = "SIZE", value_parser = size)]
    pub image_cache_size: Option<u64>,
    /// What sandboxes come to when control can't be reached: pause or keep-running
    #[arg(long, env = "ATOLL_ON_DISCONNECT", value_name = "ACTION", default_value = "pause")]
    pub on_disconnect: OnDisconnect,
    /// Contact with control counts as lost after this long [default: 90s]
    #[arg(long, env = "ATOLL_DISCONNECT_AFTER", value_name = "DURATION", value_parser = duration)]
    pub disconnect_after: Option<Duration>,
    /// Virtual machines that have come up already and wait for a create of the like, at most: made when the like is
    /// created a second time, ended when nobody has wanted them for ten minutes
    #[arg(long, env = "ATOLL_SPARE_MACHINES", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=256))]
    pub spare_machines: u16,
    /// Sandboxes on this host at most, paused ones included [default: 4096]
    #[arg(long, env = "ATOLL_MAX_SANDBOXES", value_name = "N")]
    pub max_sandboxes: Option<usize>,
}

#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub control: ControlArgs,
    #[command(flatten)]
    pub agent: AgentArgs,
    #[command(flatten)]
    pub heartbeat: HeartbeatArgs,
    /// Where this machine's agent listens for control
    #[arg(long, env = "ATOLL_AGENT_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    #[arg(help_heading = "Host")]
    pub agent_listen: SocketAddr,
    /// Account of the first admin, made at the first start
    #[arg(long, env = "ATOLL_ADMIN_EMAIL", value_name = "EMAIL", default_value = "admin@atoll.local")]
    pub admin_email: String,
}

#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub control: ControlArgs,
    #[command(flatten)]
    pub heartbeat: HeartbeatArgs,
}

#[derive(Debug, Clone, Args)]
pub struct RotateArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The server's database, when it is not the one in the data directory
    #[arg(long, env = "ATOLL_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Refuse what the older keys signed from now on: everybody signs in again
    #[arg(long)]
    pub at_once: bool,
}

#[derive(Debug, Clone, Args)]
pub struct HostArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Where control is; remembered after the first time
    #[arg(long, env = "ATOLL_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// One-time registration token. Arguments can be seen by others: prefer ATOLL_REGISTER or --register-file
    #[arg(long, env = "ATOLL_REGISTER", value_name = "TOKEN", hide_env_values = true)]
    pub register: Option<String>,
    /// A file with the registration token
    #[arg(long, env = "ATOLL_REGISTER_FILE", value_name = "FILE", conflicts_with = "register")]
    pub register_file: Option<PathBuf>,
    /// How many times over this host's memory may be promised to sandboxes; not less than what control promises
    #[arg(long, env = "ATOLL_MEMORY_OVERCOMMIT", value_name = "FACTOR", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub memory_overcommit: u64,
    /// Control can't reach this host: keep a connection open to it in place of an address
    #[arg(long, env = "ATOLL_TUNNEL", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    #[arg(action = clap::ArgAction::Set, conflicts_with = "address")]
    pub tunnel: bool,
    /// Where to listen for control; port 0 takes any free one
    #[arg(long, env = "ATOLL_LISTEN", value_name = "ADDR:PORT", default_value = DEFAULT_HOST_LISTEN)]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub agent: AgentArgs,
    #[command(flatten)]
    pub heartbeat: HeartbeatArgs,
}

#[derive(Debug, Clone, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    pub host: HostArgs,
    /// Where the unit goes
    #[arg(long, value_name = "FILE", default_value = "/etc/systemd/system/atoll-host.service")]
    pub unit: PathBuf,
    /// Where the settings go, read by root alone
    #[arg(long, value_name = "FILE", default_value = "/etc/atoll/host.env")]
    pub env_file: PathBuf,
    /// Print the unit in place of writing it
    #[arg(long)]
    pub print: bool,
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A folder of the user for those who are not root.
fn user_dir(variable: &str, fallback: &str) -> PathBuf {
    let named = std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into()));
    named.unwrap_or_else(|| home().join(fallback)).join("atoll")
}

fn endpoint(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    match rest {
        Some(host) if !host.is_empty() && !host.contains(['?', '#', '@']) => Ok(url.trim_end_matches('/').to_owned()),
        _ => Err("it must be http://HOST:PORT or https://HOST:PORT".to_owned()),
    }
}

fn default_data_dir() -> PathBuf {
    if is_root() { PathBuf::from("/var/lib/atoll") } else { user_dir("XDG_DATA_HOME", ".local/share") }
}

pub fn default_cache_dir() -> PathBuf {
    if is_root() { PathBuf::from("/var/cache/atoll") } else { user_dir("XDG_CACHE_HOME", ".cache") }
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("it must be longer than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; expected something like 30s, 5m or 1h")),
    }
}

/// Bytes from `50G`, `512M` or a plain number; units are powers of 1,024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let text = text.trim().trim_end_matches("iB").trim_end_matches('B');
    let (digits, shift) = match text.chars().last().map(|unit| unit.to_ascii_uppercase()) {
        Some('K') => (&text[..text.len() - 1], 10),
        Some('M') => (&text[..text.len() - 1], 20),
        Some('G') => (&text[..text.len() - 1], 30),
        Some('T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 = digits.trim().parse().map_err(|_| "expected something like 50G or 800M".to_owned())?;
    number.checked_shl(shift).filter(|bytes| bytes >> shift == number).ok_or_else(|| "too large".to_owned())
}

fn host_and_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) => {
            Ok(text.to_owned())
        }
        _ => Err("expected HOST:PORT".to_owned()),
    }
}

/// A DNS name, with a port if links are to bear one.
fn domain(text: &str) -> Result<String, String> {
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if name.len() > 200 || !name.split('.').all(label) || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err("expected a domain such as sandboxes.example.com, or example.com:8443".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

/// How this machine itself reaches a server that listens on `listen`: its port speaks plain HTTP beside TLS.
pub fn loopback_url(listen: SocketAddr) -> String {
    let mut reachable = listen;
    if listen.ip().is_unspecified() {
        reachable.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    format!("http://{reachable}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_as_people_write_them() {
        assert_eq!(size("50G"), Ok(50 << 30));
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("1000"), Ok(1000));
        assert!(size("G").is_err() && size("-1M").is_err() && size("99999999999T").is_err());
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert!(duration("0s").is_err() && duration("soon").is_err());
    }

    #[test]
    fn a_domain_is_a_name_and_perhaps_a_port() {
        assert_eq!(domain("Sbx.test:8443").as_deref(), Ok("sbx.test:8443"));
        assert_eq!(domain("localhost").as_deref(), Ok("localhost"));
        for bad in ["", "a..b", "a_b", "https://a.b", "a.b:x", "a.b/c", ".a"] {
            assert!(domain(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_server_on_all_addresses_is_reached_on_loopback() {
        assert_eq!(loopback_url("0.0.0.0:7".parse().unwrap()), "http://127.0.0.1:7");
        assert_eq!(loopback_url("10.0.0.1:7".parse().unwrap()), "http://10.0.0.1:7");
    }
}
