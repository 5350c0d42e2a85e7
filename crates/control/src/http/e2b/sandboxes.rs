//! The lives of sandboxes in E2B's words: create, get, kill, timeout, pause, resume, connect, network.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use atoll_model::api::sandboxes::{
    AddedHeader, CreateSandboxRequest, EgressProxy, EgressProxyTls, Mount, NetworkPolicy, VolumeMount,
};
use atoll_model::{OnTimeout, SandboxStatus};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};

use super::reference::Sandbox as Named;
use super::{domain_of, errors, names, secrets, wire};
use crate::app::App;
use crate::db::Millis;
use crate::http::caller::Key;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::Json;
use crate::http::ports::{GUEST_PORT, link};
use crate::http::{idempotent, validate};
use crate::sandboxes::{Inbound, Keep, Listed, NewSandbox, Owner, SandboxError, SandboxRecord, Sandboxes};
use crate::secrets::egress_proxy::KeptProxy;
use crate::templates::shipped::ShippedError;

/// Seconds that a sandbox lives when the client doesn't say.
const DEFAULT_LIFETIME: i64 = 300;
/// Seconds that a connect or a resume gives when the client doesn't say.
const DEFAULT_CONNECT: i64 = 300;
/// How long a connect waits for a sandbox that is on its way to another state.
const SETTLING: Duration = Duration::from_secs(20);
/// How long a create waits for its template to be built. SDKs wait for a minute.
const BUILDING: Duration = Duration::from_secs(55);
const LOOK_WHETHER_BUILT: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Characters of the host name that requests are made for.
const MAX_HOST: usize = 255;
const MAX_TLS_PORTS: usize = 64;
const MAX_DNS_SERVERS: usize = 10;
/// How long a request waits for an earlier one with its `Idempotency-Key`.
const FIRST_ONE: Duration = Duration::from_secs(55);
/// The end of what has none, in days from its start: SDKs want a date.
const FAR: i64 = 3650;

/// Creates a sandbox.
pub async fn create(
    State(app): State<App>,
    Key(owner): Key,
    headers: HeaderMap,
    domain: Domain,
    Json(request): Json<wire::NewSandbox>,
) -> ApiResult<Response> {
    let key = idempotent::key(&headers, owner.team.as_str(), "e2b sandboxes", &request)?;
    let lifetime = lifetime(request.timeout.unwrap_or(DEFAULT_LIFETIME), 1)?;
    let without_memory = request.auto_pause_memory == Some(false);
    let inbound = request.network.as_ref().map(inbound).transpose()?.unwrap_or_default();
    let dns_servers = request.network.as_ref().map(dns_servers).transpose()?.flatten();
    let mut wanted = translated(request)?;
    if let Some(template) = &mut wanted.template {
        *template = names::with_namespace_of_others(&app, &owner, template).await?;
    }
    let mut new =
        validate::new_sandbox(&app.secrets.sealer(&owner.team), wanted, owner.team_network.as_ref(), key.is_some())?;
    new.lifetime_sec = Some(lifetime.unsigned_abs());
    new.network.inbound = inbound;
    new.network.dns_servers = dns_servers;
    // E2B has no word for it: what its team says holds whatever else the request says.
    new.network.bandwidth_bytes_per_second =
        owner.team_network.as_ref().and_then(|network| network.bandwidth_bytes_per_second);
    let (service, times) = (app.sandboxes.clone(), new.times.clone());
    let work = async move {
        let template = new.template.clone();
        match created(&service, &owner, new).await {
            Ok(record) => {
                if without_memory {
                    service.pause_without_memory(&record.id).await?;
                }
                Ok(shown(&record, &domain))
            }
            Err(SandboxError::NoTemplate { .. }) => Err(names::missing(&template)),
            Err(error) => Err(error.into()),
        }
    };
    let remembered = |sandbox: &wire::Sandbox| sandbox.clone();
    let made = idempotent::once_within(&app, key, FIRST_ONE, StatusCode::CREATED, work, remembered).await;
    let mut response = made.map_err(errors::of_a_key)?;
    if let Ok(value) = HeaderValue::from_str(&times.header())
        && !value.is_empty()
    {
        response.headers_mut().insert("server-timing", value);
    }
    Ok(response)
}

/// Creates it. A template that ships and is being built is waited for, as long as SDKs wait: they don't try again.
async fn created(service: &Sandboxes, owner: &Owner, new: NewSandbox) -> Result<SandboxRecord, SandboxError> {
    let until = tokio::time::Instant::now() + BUILDING;
    loop {
        match service.create(owner, new.clone()).await {
            Err(SandboxError::Shipped(ShippedError::BeingBuilt { .. })) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(LOOK_WHETHER_BUILT).await;
            }
            done => return done,
        }
    }
}

/// The same request in our own words. What can't be had is refused by name, never ignored.
fn translated(request: wire::NewSandbox) -> ApiResult<CreateSandboxRequest> {
    let template = request.template_id.ok_or_else(|| ApiError::invalid("templateID", "is missing"))?;
    let (auto_pause, auto_resume) = (request.auto_pause.unwrap_or(false), request.auto_resume.unwrap_or_default());
    if request.auto_pause_memory == Some(false) && (!auto_pause || auto_resume.enabled) {
        return Err(ApiError::invalid("autoPauseMemory", "false goes with autoPause, and not with autoResume"));
    }
    let identities = identities(request.iam.unwrap_or_default())?;
    let mount = |mount: wire::VolumeMount| VolumeMount { volume: mount.name, path: mount.path, read_only: false };
    let network = request.network.unwrap_or_default();
    let policy = policy(&network, request.allow_internet_access)?;
    let (env, secrets) = secrets::in_environment(request.env_vars.unwrap_or_default())?;
    Ok(CreateSandboxRequest {
        template: Some(without_tag(&template).to_owned()),
        timeout_sec: Some(0),
        on_timeout: Some(if auto_pause { OnTimeout::Pause } else { OnTimeout::Kill }),
        auto_resume: Some(auto_resume.enabled),
        env,
        secrets,
        identities,
        volumes: request.volume_mounts.unwrap_or_default().into_iter().map(mount).collect(),
        metadata: request.metadata.unwrap_or_default(),
        internet: request.allow_internet_access,
        public: Some(network.allow_public_traffic.unwrap_or(true)),
        network: (!policy.is_empty()).then_some(policy),
        ..CreateSandboxRequest::default()
    })
}

/// The default tag says nothing.
pub fn without_tag(name: &str) -> &str {
    name.strip_suffix(":default").unwrap_or(name)
}

fn policy(network: &wire::Network, internet: Option<bool>) -> ApiResult<NetworkPolicy> {
    let list = |rules: &Option<Vec<String>>| rules.clone().unwrap_or_default();
    let (allow_out, deny_out) = (list(&network.allow_out), list(&network.deny_out));
    // Who names what may be reached means that nothing else may.
    let is_name = |rule: &String| rule.bytes().any(|byte| byte.is_ascii_alphabetic()) && !rule.contains(':');
    let is_closed = internet == Some(false) || deny_out.iter().any(|rule| rule == EVERYTHING);
    if !is_closed && allow_out.iter().any(is_name) {
        let text = format!("with domains in allowOut, denyOut must have {EVERYTHING} to block all other traffic");
        return Err(ApiError::invalid("network.denyOut", text));
    }
    let headers = added(network.rules.clone().unwrap_or_default())?;
    let egress_proxy = network.egress_proxy.clone().map(own_proxy);
    Ok(NetworkPolicy { allow_out, deny_out, headers, egress_proxy, ..NetworkPolicy::default() })
}

/// A proxy in our words. Who doesn't name its password means none.
fn own_proxy(proxy: wire::EgressProxy) -> EgressProxy {
    let wire::EgressProxy { address, username, password, tls } = proxy;
    let tls = tls.filter(|tls| tls.enabled);
    EgressProxy {
        address: address.trim().to_owned(),
        username,
        password: Some(password.unwrap_or_default().replace(secrets::BEFORE, OWN_SECRET)),
        tls: tls.map(|tls| EgressProxyTls { server_name: tls.server_name, ca_cert: tls.ca_cert }),
    }
}

/// A proxy as it is shown: without its password, and without its certificates, which are large.
fn shown_proxy(proxy: &KeptProxy) -> wire::EgressProxy {
    let EgressProxy { address, username, tls, .. } = proxy.shown();
    let tls = tls.map(|tls| wire::EgressProxyTls { enabled: true, server_name: tls.server_name, ca_cert: None });
    wire::EgressProxy { address, username, password: None, tls }
}

/// The servers that names may be asked of; none when nobody says.
fn dns_servers(network: &wire::Network) -> ApiResult<Option<Vec<Ipv4Addr>>> {
    let Some(given) = &network.dns_servers else { return Ok(None) };
    let invalid = |text: String| ApiError::invalid("network.dnsServers", text);
    if given.len() > MAX_DNS_SERVERS {
        return Err(invalid(format!("dnsServers must have at most {MAX_DNS_SERVERS} entries")));
    }
    let parsed: Result<_, _> = given.iter().map(|text| text.parse()).collect();
    parsed.map(Some).map_err(|_| invalid("dnsServers must be IPv4 addresses".to_owned()))
}

/// The rules for names, in our words.
fn added(rules: BTreeMap<String, Vec<wire::Rule>>) -> ApiResult<Vec<AddedHeader>> {
    let mut added = Vec::new();
    for (domain, rules) in rules {
        let headers = rules.into_iter().filter_map(|rule| rule.transform?.headers).flatten();
        for (name, value) in headers {
            let value = value.replace(secrets::BEFORE, OWN_SECRET).replace(IDENTITY, OWN_IDENTITY);
            added.push(AddedHeader { domain: domain.clone(), name, value });
        }
    }
    Ok(added)
}

/// Such headers as rules.
fn as_rules(headers: &[AddedHeader]) -> BTreeMap<String, Vec<wire::Rule>> {
    let mut rules: BTreeMap<String, Vec<wire::Rule>> = BTreeMap::new();
    for header in headers {
        let value = header.value.replace(OWN_SECRET, secrets::BEFORE).replace(OWN_IDENTITY, IDENTITY);
        let headers = Some(BTreeMap::from([(header.name.clone(), value)]));
        rules
            .entry(header.domain.clone())
            .or_default()
            .push(wire::Rule { transform: Some(wire::Transform { headers }) });
    }
    rules
}

/// How a secret's name begins in a header.
const OWN_SECRET: &str = "${secrets.";
/// What SDKs call all traffic.
const EVERYTHING: &str = "0.0.0.0/0";
const IDENTITY: &str = "${e2b.identity.tokens.";
const OWN_IDENTITY: &str = "${identity.";

/// The audiences of its identities, by name.
fn identities(iam: wire::Iam) -> ApiResult<BTreeMap<String, String>> {
    let audience = |(name, token): (String, wire::IamToken)| {
        if token.token_type != "JWT-SVID" {
            let text = format!("iam token `{name}`: the only tokenType is JWT-SVID");
            return Err(ApiError::invalid("iam.tokens", text));
        }
        Ok((name, token.audience))
    };
    iam.tokens.unwrap_or_default().into_iter().map(audience).collect()
}

/// How requests are to arrive at its ports.
fn inbound(network: &wire::Network) -> ApiResult<Inbound> {
    let host = network.mask_request_host.clone().filter(|host| !host.is_empty());
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if let Some(host) = &host
        && (host.len() > MAX_HOST || !host.replace("${PORT}", "1").bytes().all(is_host))
    {
        let text = format!(
            "maskRequestHost must be a host name of at most {MAX_HOST} characters, in which ${{PORT}} stands for the port"
        );
        return Err(ApiError::invalid("network.maskRequestHost", text));
    }
    let mut tls_ports = network.https_ports.clone().unwrap_or_default();
    tls_ports.sort_unstable();
    tls_ports.dedup();
    if tls_ports.len() > MAX_TLS_PORTS || tls_ports.iter().any(|port| *port == 0 || *port == GUEST_PORT) {
        let text = format!("httpsPorts must be at most {MAX_TLS_PORTS} ports from 1 to 65535, without {GUEST_PORT}");
        return Err(ApiError::invalid("network.httpsPorts", text));
    }
    Ok(Inbound { host, tls_ports })
}

/// A number of seconds from now.
fn lifetime(seconds: i64, least: i64) -> ApiResult<i64> {
    let most = u64::try_from(seconds).ok().filter(|_| seconds >= least);
    let seconds = most.ok_or_else(|| ApiError::invalid("timeout", format!("must be at least {least}")))?;
    let too_long = |_| {
        let hours = validate::MAX_TIMEOUT_SEC / 3600;
        ApiError::invalid("timeout", format!("Timeout cannot be greater than {hours} hours"))
    };
    let checked = validate::timeout_sec(seconds).map_err(too_long)?;
    Ok(i64::try_from(checked).unwrap_or(i64::MAX))
}

/// The domain below which the client finds its sandboxes: the one that it called, else the one that is configured.
pub struct Domain(Option<String>);

impl Domain {
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl axum::extract::FromRequestParts<App> for Domain {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, app: &App) -> Result<Self, Self::Rejection> {
        Ok(Self(domain_of(&parts.uri, &parts.headers).or_else(|| Some(app.config.domain.clone()))))
    }
}

/// A sandbox as a create or a connect answers it.
pub fn shown(record: &SandboxRecord, domain: &Domain) -> wire::Sandbox {
    wire::Sandbox {
        template_id: record.template_id.to_string(),
        sandbox_id: record.id.dns_label(),
        client_id: wire::CLIENT_ID.to_owned(),
        envd_version: wire::ENVD_VERSION.to_owned(),
        alias: record.template.clone(),
        envd_access_token: Some(record.access_token.clone()),
        traffic_access_token: (!record.network.public).then(|| link::traffic_token(record)),
        domain: domain.0.clone(),
    }
}

/// A sandbox as lists show it.
pub fn listed(listed: &Listed) -> wire::ListedSandbox {
    let record = &listed.record;
    let started = record.started_at.unwrap_or(record.created_at).to_utc();
    wire::ListedSandbox {
        template_id: record.template_id.to_string(),
        sandbox_id: record.id.dns_label(),
        client_id: wire::CLIENT_ID,
        alias: record.template.clone(),
        started_at: started,
        end_at: end_of(listed, started),
        cpu_count: record.vcpus,
        memory_mb: record.memory_mb,
        disk_size_mb: record.disk_mb,
        state: state(record),
        envd_version: wire::ENVD_VERSION,
        metadata: record.metadata.0.clone(),
        volume_mounts: record.mounts.iter().map(mounted).collect(),
    }
}

fn mounted(mount: &Mount) -> wire::VolumeMount {
    wire::VolumeMount { name: mount.volume.clone(), path: mount.path.clone() }
}

fn end_of(listed: &Listed, started: DateTime<Utc>) -> DateTime<Utc> {
    let record = &listed.record;
    match listed.lifetime() {
        Some(lifetime) => lifetime.end_of(record).to_utc(),
        None if record.timeout_sec > 0 => Millis(record.last_active_at.0 + record.timeout_sec * 1000).to_utc(),
        None => started + chrono::TimeDelta::days(FAR),
    }
}

/// The two states that E2B knows.
fn state(record: &SandboxRecord) -> &'static str {
    let status = match record.status() {
        SandboxStatus::Missing => record.former_status.as_ref().map_or(SandboxStatus::Running, |former| former.0),
        status => status,
    };
    match status {
        SandboxStatus::Paused | SandboxStatus::Pausing => "paused",
        _ => "running",
    }
}

pub async fn get(State(app): State<App>, named: Named, domain: Domain) -> ApiResult<axum::Json<wire::SandboxDetail>> {
    let found = named.find(&app).await?;
    let record = &found.record;
    Ok(axum::Json(wire::SandboxDetail {
        envd_access_token: record.access_token.clone(),
        allow_internet_access: !record.network.deny_egress,
        domain: domain.0,
        network: wire::Network {
            allow_public_traffic: Some(record.network.public),
            allow_out: Some(record.network.allow_out.clone()),
            deny_out: Some(record.network.deny_out.clone()),
            egress_proxy: record.network.egress_proxy.as_ref().map(shown_proxy),
            rules: Some(as_rules(&record.network.headers)).filter(|rules| !rules.is_empty()),
            mask_request_host: record.network.inbound.host.clone(),
            https_ports: Some(record.network.inbound.tls_ports.clone()).filter(|ports| !ports.is_empty()),
            dns_servers: (record.network.dns_servers.as_ref())
                .map(|list| list.iter().map(ToString::to_string).collect()),
            ..wire::Network::default()
        },
        pause_mode: if found.keep() == Keep::Files { "filesystem" } else { "full" },
        lifecycle: wire::Lifecycle { auto_resume: record.auto_resume, on_timeout: record.on_timeout.0.0.as_str() },
        listed: listed(&found),
    }))
}

pub async fn kill(State(app): State<App>, named: Named) -> ApiResult<StatusCode> {
    named.find(&app).await?;
    app.sandboxes.destroy(&named.owner, &named.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets the end, in seconds from now.
pub async fn timeout(
    State(app): State<App>,
    named: Named,
    Json(options): Json<wire::Options>,
) -> ApiResult<StatusCode> {
    let seconds = options.timeout.ok_or_else(|| ApiError::invalid("timeout", "is missing"))?;
    named.find(&app).await?;
    app.sandboxes.set_lifetime(&named.owner, &named.id, lifetime(seconds, 0)?, false).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Puts the end off.
pub async fn refresh(
    State(app): State<App>,
    named: Named,
    Json(options): Json<wire::Options>,
) -> ApiResult<StatusCode> {
    let seconds = options.duration.unwrap_or(DEFAULT_LIFETIME);
    if !(0..=3600).contains(&seconds) {
        return Err(ApiError::invalid("duration", "must be between 0 and 3600"));
    }
    named.find(&app).await?;
    app.sandboxes.set_lifetime(&named.owner, &named.id, seconds, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn pause(State(app): State<App>, named: Named, Json(options): Json<wire::Options>) -> ApiResult<StatusCode> {
    let keep = if options.memory == Some(false) { Keep::Files } else { Keep::Memory };
    let until = tokio::time::Instant::now() + SETTLING;
    loop {
        let status = named.find(&app).await?.record.status();
        match app.sandboxes.pause_keeping(&named.owner, &named.id, keep).await {
            Ok(_) => return Ok(StatusCode::NO_CONTENT),
            Err(SandboxError::InvalidState { .. } | SandboxError::Changed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        // SDKs take a conflict for "it is paused already", so nothing else may be one.
        match status {
            SandboxStatus::Paused | SandboxStatus::Pausing => {
                return Err(ApiError::conflict("the sandbox is paused already"));
            }
            SandboxStatus::Error => return Err(named.missing()),
            SandboxStatus::Missing => return Err(passing(status)),
            _ if tokio::time::Instant::now() >= until => return Err(passing(status)),
            _ => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// What can't be done in this status, which it will not stay in.
fn passing(status: SandboxStatus) -> ApiError {
    ApiError::overloaded(format!("the sandbox is {} at the moment; try again", status.as_str()))
}

/// Wakes a paused sandbox; one that runs is a conflict.
pub async fn resume(
    State(app): State<App>,
    named: Named,
    domain: Domain,
    Json(options): Json<wire::Options>,
) -> ApiResult<Response> {
    let seconds = lifetime(options.timeout.unwrap_or(DEFAULT_CONNECT), 0)?;
    let found = named.find(&app).await?;
    if found.record.status() == SandboxStatus::Running {
        return Err(ApiError::conflict("the sandbox is running already"));
    }
    let record = awake(&app, &named, seconds, options.memory != Some(false)).await?.0;
    Ok((StatusCode::CREATED, axum::Json(shown(&record, &domain))).into_response())
}

/// Makes sure that the sandbox runs for the given time: 200 when it ran, 201 when it was woken up.
pub async fn connect(
    State(app): State<App>,
    named: Named,
    domain: Domain,
    Json(options): Json<wire::Options>,
) -> ApiResult<Response> {
    let seconds = lifetime(options.timeout.unwrap_or(DEFAULT_CONNECT), 0)?;
    named.find(&app).await?;
    let (record, woken) = awake(&app, &named, seconds, options.memory != Some(false)).await?;
    if !woken {
        app.sandboxes.set_lifetime(&named.owner, &named.id, seconds, true).await?;
    }
    let status = if woken { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, axum::Json(shown(&record, &domain))).into_response())
}

/// The sandbox, running, and whether it had to be woken up. Several may ask at once: one of them wakes it. What a pause
/// has kept of its memory is left behind when it is not wanted: then it starts anew, with its files. Its lifetime is set
/// before it wakes, since the former one may be over.
async fn awake(app: &App, named: &Named, seconds: i64, with_memory: bool) -> ApiResult<(SandboxRecord, bool)> {
    let until = tokio::time::Instant::now() + SETTLING;
    let mut woken = false;
    loop {
        let record = named.find(app).await?.record;
        match record.status() {
            SandboxStatus::Running => return Ok((record, woken)),
            SandboxStatus::Paused => {
                woken = true;
                let (owner, id) = (&named.owner, &named.id);
                app.sandboxes.set_lifetime(owner, id, seconds, false).await?;
                let resumed = async {
                    let resumed = app.sandboxes.resume(owner, id).await?;
                    if with_memory {
                        return Ok(resumed);
                    }
                    app.sandboxes.pause_keeping(owner, id, Keep::Files).await?;
                    app.sandboxes.resume(owner, id).await
                };
                match resumed.await {
                    Ok(resumed) => return Ok((resumed.record, true)),
                    Err(SandboxError::InvalidState { .. } | SandboxError::Changed { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            status if !status.is_transitional() => {
                return Err(SandboxError::InvalidState { attempted: "connect to", status }.into());
            }
            _ => {}
        }
        if tokio::time::Instant::now() >= until {
            return Err(SandboxError::Changed { attempted: "connect to" }.into());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Replaces what the sandbox may reach.
pub async fn network(State(app): State<App>, named: Named, Json(update): Json<wire::Network>) -> ApiResult<StatusCode> {
    let former = named.find(&app).await?.record.network;
    let internet = update.allow_internet_access;
    let sealer = app.secrets.sealer(&named.owner.team);
    let mut network = validate::network(&sealer, internet, policy(&update, internet)?, None)?;
    network.public = former.public;
    // E2B has no word for it: it stays.
    network.bandwidth_bytes_per_second = former.bandwidth_bytes_per_second;
    network.dns_servers = dns_servers(&update)?;
    app.sandboxes.set_network(&named.owner, &named.id, network).await?;
    Ok(StatusCode::NO_CONTENT)
}
