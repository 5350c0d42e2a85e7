//! What a sandbox is made from: control's wish, checked, in a form that is kept on disk.
//!
//! Secrets (environment, access token) are apart, so that nothing that is logged or listed can hold them.

use std::collections::BTreeMap;

use atoll_model::api::sandboxes::BANDWIDTH;
use atoll_model::sandbox::OnReboot;
use atoll_model::{LayerId, SandboxId, VolumeId};
use atoll_rpc::atoll::host::v1 as wire;
use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::OrderError;
use super::own_proxy::own_proxy;
use crate::driver::{Kind, StartFrom};
use crate::network::{AddedHeader, HeaderPart, Identity, Ipv4Cidr, Policy};
use atoll_launch::{MAX_LOWERS, MAX_VOLUMES};

pub const DRIVER_CONTAINER: &str = "container";
pub const DRIVER_VM: &str = "vm";

const MAX_VCPUS: u32 = 64;
const MIN_MEMORY: u64 = 16 << 20;
const MAX_MEMORY: u64 = 1 << 40;
/// A kernel of its own and the guest agent.
const MIN_VM_MEMORY: u64 = 128 << 20;
const MIN_DISK: u64 = 16 << 20;
const MAX_DISK: u64 = 16 << 40;
const MAX_ENV_BYTES: usize = 1 << 20;
const MAX_ENV_ENTRIES: usize = 4096;
const MAX_LABELS: usize = 256;
const MAX_TEXT: usize = 4096;
const MAX_COMMAND: usize = 64 << 10;
const MAX_RULES: usize = 128;
/// Bytes of an added header's value.
const MAX_HEADER: usize = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub image: Image,
    pub driver: String,
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub hostname: String,
    pub default_user: String,
    pub default_workdir: String,
    pub on_reboot: OnReboot,
    pub labels: BTreeMap<String, String>,
    pub deny_egress: bool,
    /// Over the image, topmost first.
    #[serde(default)]
    pub layers: Vec<Layer>,
    #[serde(default)]
    pub volumes: Vec<VolumeMount>,
    /// Run at each start of its processes.
    #[serde(default)]
    pub startup: Option<Startup>,
    #[serde(default)]
    pub policy: Policy,
    #[serde(default, skip_serializing_if = "StartFrom::is_either")]
    pub start_from: StartFrom,
}

impl Spec {
    /// What its volume may take. A machine's disk is a file there: what is written over before it goes counts twice for a
    /// while, and a guest whose own disk is not full must never be told that it is.
    #[must_use]
    pub fn volume_bytes(&self) -> u64 {
        match self.kind() {
            Kind::Container => self.disk_bytes,
            Kind::Vm => self.disk_bytes + self.disk_bytes / 2 + (64 << 20),
        }
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.driver == DRIVER_VM { Kind::Vm } else { Kind::Container }
    }

    /// Records of older agents say no more than whether the network is closed.
    #[must_use]
    pub fn network_policy(&self) -> Policy {
        Policy { closed: self.deny_egress || self.policy.closed, ..self.policy.clone() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub id: LayerId,
    /// SHA-256 of the image that it can be fetched as; empty when this host alone has it.
    pub digest: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    pub id: VolumeId,
    pub path: String,
    pub size_bytes: u64,
    pub read_only: bool,
    /// Nobody else may have it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exclusive: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Startup {
    pub cmd: String,
    pub user: String,
    pub cwd: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// SHA-256 of the image file, hex.
    pub digest: String,
    /// For people and logs.
    pub name: String,
}

/// Kept in a file of its own; has no `Debug`, so that it can't reach a log.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    pub env: BTreeMap<String, String>,
    /// Of the guest protocol; empty for none.
    pub access_token: String,
}

/// Reads control's wish. Of the drivers on offer the first is for those that don't mind.
///
/// # Errors
/// When it can't be a sandbox on this host; the field is named.
pub fn parse(
    id: &atoll_model::SandboxId,
    spec: wire::SandboxSpec,
    offered: &[String],
) -> Result<(Spec, Secrets), OrderError> {
    let image = spec.template.into_option().unwrap_or_default();
    require("template.digest", is_digest(&image.digest), "must be a SHA-256 in lower-case hex")?;
    require("vcpus", (1..=MAX_VCPUS).contains(&spec.vcpus), "must be 1 to 64")?;
    require("memory_bytes", (MIN_MEMORY..=MAX_MEMORY).contains(&spec.memory_bytes), "must be 16 MiB to 1 TiB")?;
    require("disk_bytes", (MIN_DISK..=MAX_DISK).contains(&spec.disk_bytes), "must be 16 MiB to 16 TiB")?;
    let env_bytes: usize = spec.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    require("env", spec.env.len() <= MAX_ENV_ENTRIES && env_bytes <= MAX_ENV_BYTES, "must be 1 MiB at most")?;
    let names_fit = spec.env.keys().all(|name| !name.is_empty() && !name.contains(['=', '\0']));
    let values_fit = spec.env.values().all(|value| !value.contains('\0'));
    require("env", names_fit && values_fit, "names must not be empty or hold `=` or NUL, values no NUL")?;
    require("labels", spec.labels.len() <= MAX_LABELS, "must be 256 at most")?;
    for (field, text) in [
        ("default_user", &spec.default_user),
        ("default_workdir", &spec.default_workdir),
        ("access_token", &spec.access_token),
        ("template.name", &image.name),
    ] {
        require(field, text.len() <= MAX_TEXT && !text.contains('\0'), "must be 4096 bytes at most, without NUL")?;
    }
    let hostname = if spec.hostname.is_empty() { id.dns_label() } else { spec.hostname };
    require("hostname", is_hostname(&hostname), "must be 1 to 63 letters, digits and hyphens")?;
    let on_reboot = match spec.on_reboot.as_str() {
        "" | "restart" => OnReboot::Restart,
        "stop" => OnReboot::Stop,
        _ => return Err(invalid("on_reboot", "must be `restart` or `stop`")),
    };
    let driver = match spec.driver.as_str() {
        "" | "auto" => offered.first().cloned().unwrap_or_else(|| DRIVER_CONTAINER.to_owned()),
        known if offered.iter().any(|driver| driver == known) => known.to_owned(),
        other => {
            return Err(OrderError::Unsupported { what: "the driver", problem: format!("`{other}` is not offered") });
        }
    };
    if driver == DRIVER_VM {
        require("memory_bytes", spec.memory_bytes >= MIN_VM_MEMORY, "must be 128 MiB at least for a virtual machine")?;
    }
    let start_from = match spec.start_from.as_str() {
        "" => StartFrom::Either,
        "memory" => StartFrom::Memory,
        "files" => StartFrom::Files,
        _ => return Err(invalid("start_from", "must be `memory` or `files`")),
    };
    let policy = policy(spec.network.into_option().unwrap_or_default())?;
    require("layers", spec.layers.len() < MAX_LOWERS, "must be 15 at most")?;
    let layers = spec.layers.iter().map(layer).collect::<Result<_, _>>()?;
    require("volumes", spec.volumes.len() <= MAX_VOLUMES, "must be 8 at most")?;
    let volumes = spec.volumes.into_iter().map(volume).collect::<Result<_, _>>()?;
    let startup = spec.startup.into_option().map(|it| Startup { cmd: it.cmd, user: it.user, cwd: it.cwd });
    if let Some(startup) = &startup {
        let fits = |text: &str, most: usize| text.len() <= most && !text.contains('\0');
        let fit = fits(&startup.cmd, MAX_COMMAND) && fits(&startup.user, MAX_TEXT) && fits(&startup.cwd, MAX_TEXT);
        require("startup", fit && !startup.cmd.is_empty(), "must be 64 KiB at most, without NUL")?;
    }
    let parsed = Spec {
        image: Image { digest: image.digest, name: image.name },
        driver,
        vcpus: spec.vcpus,
        memory_bytes: spec.memory_bytes,
        disk_bytes: spec.disk_bytes,
        hostname,
        default_user: spec.default_user,
        default_workdir: spec.default_workdir,
        on_reboot,
        labels: spec.labels.into_iter().collect(),
        deny_egress: policy.closed,
        layers,
        volumes,
        startup,
        policy,
        start_from,
    };
    Ok((parsed, Secrets { env: spec.env.into_iter().collect(), access_token: spec.access_token }))
}

fn layer(layer: &wire::Layer) -> Result<Layer, OrderError> {
    let id = layer.id.parse().map_err(|_| invalid("layers.id", "must be a layer's id"))?;
    let known = layer.digest.is_empty() || is_digest(&layer.digest);
    require("layers.digest", known, "must be a SHA-256 in lower-case hex, or empty")?;
    Ok(Layer { id, digest: layer.digest.clone() })
}

fn volume(mount: wire::VolumeMount) -> Result<VolumeMount, OrderError> {
    let id = mount.id.parse().map_err(|_| invalid("volumes.id", "must be a volume's id"))?;
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    let inside = mount.path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain));
    let fits = mount.path.len() <= 1024 && !mount.path.contains('\0');
    require("volumes.path", inside && fits, "must be absolute, without `.` and `..`, and not the root")?;
    require("volumes.size_bytes", (MIN_DISK..=MAX_DISK).contains(&mount.size_bytes), "must be 16 MiB to 16 TiB")?;
    Ok(VolumeMount {
        id,
        path: mount.path,
        size_bytes: mount.size_bytes,
        read_only: mount.read_only,
        exclusive: mount.exclusive,
    })
}

/// What a sandbox may reach, read from control's words.
///
/// # Errors
/// When an entry is no network or no name.
pub fn policy(network: wire::NetworkPolicy) -> Result<Policy, OrderError> {
    // Control has closed the rest for hosts that know nothing of proxies: nothing may go past one.
    let closed = network.own_proxy.as_option().map_or(network.deny_egress, |proxy| proxy.deny_egress);
    Ok(Policy {
        closed,
        allow: networks("network.allow_cidrs", &network.allow_cidrs)?,
        deny: networks("network.deny_cidrs", &network.deny_cidrs)?,
        allow_names: names("network.allow_domains", network.allow_domains)?,
        deny_names: names("network.deny_domains", network.deny_domains)?,
        headers: headers(network.headers)?,
        own_proxy: network.own_proxy.into_option().map(own_proxy).transpose()?,
        bandwidth: bandwidth(network.bandwidth_bytes_per_second)?,
    })
}

fn bandwidth(rate: u64) -> Result<Option<u64>, OrderError> {
    let (low, high) = BANDWIDTH;
    let fits = rate == 0 || (low..=high).contains(&rate);
    require("network.bandwidth_bytes_per_second", fits, "must be 1,000 to 10,000,000,000, or 0")?;
    Ok(Some(rate).filter(|rate| *rate != 0))
}

fn headers(headers: Vec<wire::AddedHeader>) -> Result<Vec<AddedHeader>, OrderError> {
    const FIELD: &str = "network.headers";
    require(FIELD, headers.len() <= MAX_RULES, "must be 128 at most")?;
    let domains = names(FIELD, headers.iter().map(|header| header.domain.clone()).collect())?;
    let parse = |(header, domain): (wire::AddedHeader, String)| {
        require(FIELD, header.name.parse::<HeaderName>().is_ok(), "each must have a header's name")?;
        let parts = parts(header.parts, &header.sandbox_id)?;
        // With parts the value is none, so that an agent that knows of no parts refuses it.
        let value = if parts.is_empty() { header.value } else { String::new() };
        require(FIELD, HeaderValue::from_str(&value).is_ok(), "each must have a header's value")?;
        require(FIELD, value.len() <= MAX_HEADER, "each must have 64 KiB at most")?;
        Ok(AddedHeader { domain, name: header.name, value, parts })
    };
    headers.into_iter().zip(domains).map(parse).collect()
}

/// A header's value in pieces.
fn parts(parts: Vec<wire::HeaderPart>, sandbox: &str) -> Result<Vec<HeaderPart>, OrderError> {
    const FIELD: &str = "network.headers.parts";
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    let sandbox: SandboxId = sandbox.parse().map_err(|_| invalid(FIELD, "must name a sandbox"))?;
    let bytes: usize = parts.iter().map(|part| part.text.len() + part.identity.len()).sum();
    require(FIELD, bytes <= MAX_HEADER, "must have 64 KiB at most")?;
    let parse = |part: wire::HeaderPart| {
        require(FIELD, part.text.is_empty() || part.identity.is_empty(), "each is a text or an identity")?;
        require(FIELD, HeaderValue::from_str(&part.text).is_ok(), "each must fit into a header's value")?;
        Ok(match part.identity {
            name if name.is_empty() => HeaderPart::Text(part.text),
            name => HeaderPart::Identity(Identity { sandbox: sandbox.clone(), name }),
        })
    };
    parts.into_iter().map(parse).collect()
}

fn networks(field: &'static str, texts: &[String]) -> Result<Vec<Ipv4Cidr>, OrderError> {
    require(field, texts.len() <= MAX_RULES, "must be 128 at most")?;
    texts.iter().map(|text| text.parse::<Ipv4Cidr>().map_err(|error| invalid(field, &error.to_string()))).collect()
}

fn names(field: &'static str, texts: Vec<String>) -> Result<Vec<String>, OrderError> {
    require(field, texts.len() <= MAX_RULES, "must be 128 at most")?;
    let fits = |text: &String| text == "*" || is_domain(text.strip_prefix("*.").unwrap_or(text));
    require(field, texts.iter().all(fits), "must be names such as `example.com` or `*.example.com`")?;
    Ok(texts.into_iter().map(|text| text.to_ascii_lowercase()).collect())
}

pub(super) fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Tells two wishes apart, secrets included, without keeping them.
#[must_use]
pub fn digest(spec: &Spec, secrets: &Secrets) -> String {
    // Both are structs of ordered maps and texts: the same content gives the same bytes.
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(spec).unwrap_or_default());
    hash.update([0]);
    hash.update(serde_json::to_vec(secrets).unwrap_or_default());
    hex::encode(hash.finalize())
}

pub(super) fn invalid(field: &'static str, problem: &str) -> OrderError {
    OrderError::Invalid { field, problem: problem.to_owned() }
}

fn require(field: &'static str, holds: bool, problem: &str) -> Result<(), OrderError> {
    if holds { Ok(()) } else { Err(invalid(field, problem)) }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_hostname(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.'])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use atoll_model::SandboxId;

    pub(crate) fn wish() -> wire::SandboxSpec {
        wire::SandboxSpec {
            template: wire::Image { digest: "ab".repeat(32), name: "base".to_owned(), ..Default::default() }.into(),
            vcpus: 1,
            memory_bytes: 512 << 20,
            disk_bytes: 1 << 30,
            ..Default::default()
        }
    }

    pub(crate) fn offered() -> Vec<String> {
        vec!["container".to_owned()]
    }

    fn at_rate(rate: u64) -> wire::NetworkPolicy {
        wire::NetworkPolicy { bandwidth_bytes_per_second: rate, ..Default::default() }
    }

    #[test]
    fn a_bandwidth_of_nothing_is_none() {
        let read = |rate: u64| policy(at_rate(rate)).unwrap().bandwidth;
        assert_eq!((read(0), read(BANDWIDTH.0), read(BANDWIDTH.1)), (None, Some(1_000), Some(10_000_000_000)));
    }

    #[test]
    fn the_driver_is_the_one_that_was_asked_for_or_the_hosts_first() {
        let both = ["vm".to_owned(), "container".to_owned()];
        let driver = |asked: &str, offered: &[String]| {
            let wish = wire::SandboxSpec { driver: asked.to_owned(), ..wish() };
            parse(&SandboxId::new(), wish, offered).map(|(spec, _)| spec.driver)
        };
        assert_eq!(driver("auto", &both).unwrap(), "vm");
        assert_eq!(driver("container", &both).unwrap(), "container");
        assert_eq!(driver("", &offered()).unwrap(), "container");
        assert!(matches!(driver("vm", &offered()), Err(OrderError::Unsupported { .. })));
        let small = wire::SandboxSpec { memory_bytes: 64 << 20, ..wish() };
        assert!(parse(&SandboxId::new(), small.clone(), &offered()).is_ok());
        let refused = parse(&SandboxId::new(), small, &both).err();
        assert!(matches!(refused, Some(OrderError::Invalid { field: "memory_bytes", .. })));
    }

    #[test]
    fn a_plain_wish_gets_the_defaults() {
        let id = SandboxId::new();
        let (spec, _) = parse(&id, wish(), &offered()).unwrap();
        assert_eq!((spec.driver.as_str(), spec.on_reboot), ("container", OnReboot::Restart));
        assert_eq!(spec.hostname, id.dns_label());
    }

    #[test]
    fn each_absurd_wish_is_refused_with_the_name_of_its_field() {
        type Spoil = fn(&mut wire::SandboxSpec);
        let cases: &[(&str, Spoil)] = &[
            ("template.digest", |it| it.template = wire::Image::default().into()),
            ("vcpus", |it| it.vcpus = 0),
            ("vcpus", |it| it.vcpus = 65),
            ("memory_bytes", |it| it.memory_bytes = 1),
            ("disk_bytes", |it| it.disk_bytes = u64::MAX),
            ("hostname", |it| it.hostname = "a b".to_owned()),
            ("on_reboot", |it| it.on_reboot = "dance".to_owned()),
            ("default_user", |it| it.default_user = "a\0b".to_owned()),
            ("env", |it| drop(it.env.insert("A=B".to_owned(), String::new()))),
            ("env", |it| drop(it.env.insert("A".to_owned(), "x".repeat(2 << 20)))),
            ("network.bandwidth_bytes_per_second", |it| it.network = at_rate(1).into()),
            ("network.bandwidth_bytes_per_second", |it| it.network = at_rate(u64::MAX).into()),
        ];
        for (field, spoil) in cases {
            let mut wish = wish();
            spoil(&mut wish);
            match parse(&SandboxId::new(), wish, &offered()) {
                Err(OrderError::Invalid { field: named, .. }) => assert_eq!(named, *field),
                Err(other) => panic!("{field}: {other:?}"),
                Ok(_) => panic!("{field} was accepted"),
            }
        }
    }

    /// Control sends it where there are parts: who knows of none has to refuse.
    #[test]
    fn a_headers_value_that_is_none_is_refused_without_parts() {
        let read = |value: &str, parts: Vec<wire::HeaderPart>| {
            let header = wire::AddedHeader {
                domain: "api.example.com".to_owned(),
                name: "Authorization".to_owned(),
                value: value.to_owned(),
                parts,
                sandbox_id: SandboxId::new().to_string(),
                ..Default::default()
            };
            policy(wire::NetworkPolicy { headers: vec![header], ..Default::default() })
                .map(|mut it| it.headers.remove(0))
        };
        for value in ["\n", "Bearer x\n", "a\0b"] {
            let refused = read(value, Vec::new());
            assert!(
                matches!(refused, Err(OrderError::Invalid { field: "network.headers", .. })),
                "{value:?}: {refused:?}"
            );
        }
        assert_eq!(read("Bearer x", Vec::new()).unwrap().value, "Bearer x");
        let part = wire::HeaderPart { identity: "aws".to_owned(), ..Default::default() };
        let header = read("\n", vec![part]).unwrap();
        assert_eq!((header.value.as_str(), header.parts.len()), ("", 1));
        let part = wire::HeaderPart { text: "\n".to_owned(), ..Default::default() };
        let refused = read("\n", vec![part]);
        assert!(matches!(refused, Err(OrderError::Invalid { field: "network.headers.parts", .. })), "{refused:?}");
    }

    #[test]
    fn wishes_that_differ_in_a_secret_alone_are_told_apart() {
        let id = SandboxId::new();
        let (spec, secrets) = parse(&id, wish(), &offered()).unwrap();
        let other = Secrets { access_token: "t".to_owned(), ..secrets.clone() };
        assert_ne!(digest(&spec, &secrets), digest(&spec, &other));
        assert_eq!(digest(&spec, &secrets), digest(&spec.clone(), &secrets.clone()));
    }
}
