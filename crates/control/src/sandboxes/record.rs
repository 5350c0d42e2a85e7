//! A sandbox's row.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use atoll_model::api::sandboxes::{AddedHeader, Mount, NetworkPolicy, Sandbox};
use atoll_model::sandbox::OnReboot;
use atoll_model::{HostId, OnTimeout, SandboxId, SandboxStatus, TeamId, TemplateId};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;

use super::pause::Kept;
use crate::db::{Millis, Text};
use crate::secrets::egress_proxy::KeptProxy;
use crate::secrets::headers::{Filled, identity_names, secret_names};
use crate::secrets::{SecretError, Secrets};
use crate::templates::store::Template;

/// What a sandbox may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// All ways out are closed.
    #[serde(default)]
    pub deny_egress: bool,
    /// Anybody may send requests to its ports.
    #[serde(default)]
    pub public: bool,
    /// Networks, and names, that may be reached whatever is denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_out: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_out: Vec<String>,
    /// Their values as they were given, with the names of secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<AddedHeader>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_proxy: Option<KeptProxy>,
    /// To the world, and as much from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_second: Option<u64>,
    /// The audience of each of its identities (`identities`), by the names that headers call them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub identities: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Inbound::is_plain")]
    pub inbound: Inbound,
    /// Addresses that may be reached beside those of `allow_out`, if that has names: to ask them for these. None when
    /// nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_servers: Option<Vec<Ipv4Addr>>,
}

/// The secrets of what a sandbox may reach, for its host alone.
#[derive(Debug, Default)]
pub struct Filling {
    headers: Vec<Filled>,
    proxy_password: Option<SecretString>,
}

/// How requests arrive at a sandbox's ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    /// The host name that they are for, whatever they were sent to; `${PORT}` in it stands for the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Ports behind which TLS is spoken, with whatever certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls_ports: Vec<u16>,
}

impl Inbound {
    fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// The host name that a request to `port` is for.
    #[must_use]
    pub fn host_of(&self, port: u16) -> Option<String> {
        self.host.as_ref().map(|host| host.replace("${PORT}", &port.to_string()))
    }
}

impl Network {
    /// Its secrets as they are now.
    ///
    /// # Errors
    /// [`SecretError`], when one that it names isn't there or doesn't fit.
    pub async fn filling(&self, secrets: &Secrets, team: &TeamId) -> Result<Filling, SecretError> {
        let unknown = |name: &&str| !self.identities.contains_key(*name);
        if let Some(name) = self.headers.iter().flat_map(|header| identity_names(&header.value)).find(unknown) {
            return Err(SecretError::NoIdentity(name.to_owned()));
        }
        let headers = secrets.fill(team, &self.headers).await?;
        let proxy_password = match &self.egress_proxy {
            Some(proxy) => secrets.password_of(team, proxy).await?,
            None => None,
        };
        Ok(Filling { headers, proxy_password })
    }

    /// The same without what can't be filled any more, as when a secret has been deleted: what a sandbox may reach must not
    /// stay as it was for that. A proxy without its password refuses, and nothing goes past it.
    ///
    /// # Errors
    /// [`SecretError`], but for what is lacking.
    pub async fn what_can_be_filled(&self, secrets: &Secrets, team: &TeamId) -> Result<Filling, SecretError> {
        let headers = secrets.fill_what_can_be(team, &self.headers).await?;
        let proxy_password = match &self.egress_proxy {
            Some(proxy) => match secrets.password_of(team, proxy).await {
                Err(SecretError::NotForProxy(_) | SecretError::UnfitForProxy) => None,
                other => other?,
            },
            None => None,
        };
        Ok(Filling { headers, proxy_password })
    }

    /// Whether it may name secrets.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        !self.headers.is_empty() || self.egress_proxy.is_some()
    }

    /// As the audit trail has it: of added headers the secrets' names, and no value.
    #[must_use]
    pub fn audited(&self) -> serde_json::Value {
        let mut audited = serde_json::json!(self);
        if !self.headers.is_empty() {
            let header = |header: &AddedHeader| {
                serde_json::json!({
                    "domain": header.domain, "name": header.name, "secrets": secret_names(&header.value),
                    "identities": identity_names(&header.value)
                })
            };
            audited["headers"] = self.headers.iter().map(header).collect();
        }
        if let Some(proxy) = &self.egress_proxy {
            audited["egress_proxy"] = proxy.audited();
        }
        audited
    }

    /// As hosts are told, with the secrets filled in. What is no network is a name.
    #[must_use]
    pub fn to_wire(&self, filling: &Filling, id: &SandboxId) -> atoll_rpc::atoll::host::v1::NetworkPolicy {
        let is_name = |text: &&String| text.bytes().any(|byte| byte.is_ascii_alphabetic() || byte == b'*');
        let split = |rules: &[String]| rules.iter().cloned().partition::<Vec<_>, _>(|text| is_name(&text));
        let (allow_domains, mut allow_cidrs) = split(&self.allow_out);
        if !allow_domains.is_empty() {
            allow_cidrs.extend(self.dns_servers.iter().flatten().map(ToString::to_string));
        }
        let (deny_domains, deny_cidrs) = split(&self.deny_out);
        atoll_rpc::atoll::host::v1::NetworkPolicy {
            // A host that knows nothing of proxies must let nothing go past one.
            deny_egress: self.deny_egress || self.egress_proxy.is_some(),
            allow_cidrs,
            deny_cidrs,
            allow_domains,
            deny_domains,
            headers: filling.headers.iter().map(|header| header.to_wire(id)).collect(),
            own_proxy: (self.egress_proxy.as_ref())
                .map(|proxy| atoll_rpc::atoll::host::v1::OwnProxy {
                    deny_egress: self.deny_egress,
                    ..proxy.to_wire(filling.proxy_password.as_ref(), id)
                })
                .into(),
            bandwidth_bytes_per_second: self.bandwidth_bytes_per_second.unwrap_or(0),
            ..Default::default()
        }
    }
}

/// What of a template a sandbox was made with, however that template changes afterwards. Forks and snapshots get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeOf {
    pub user: String,
    pub workdir: String,
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_cmd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_cmd: Option<String>,
}

impl MadeOf {
    #[must_use]
    pub fn of(template: &Template) -> Self {
        Self {
            user: template.default_user.clone(),
            workdir: template.default_workdir.clone(),
            env: template.env.0.clone(),
            start_cmd: template.start_cmd.clone(),
            ready_cmd: template.ready_cmd.clone(),
        }
    }

    /// The template as it was.
    #[must_use]
    pub fn on(self, template: Template) -> Template {
        Template {
            default_user: self.user,
            default_workdir: self.workdir,
            env: Json(self.env),
            start_cmd: self.start_cmd,
            ready_cmd: self.ready_cmd,
            ..template
        }
    }
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SandboxRecord {
    pub id: Text<SandboxId>,
    pub team_id: Text<TeamId>,
    pub host_id: Option<Text<HostId>>,
    /// The template's name at the time of creation.
    pub template: String,
    pub template_id: Text<TemplateId>,
    pub digest: String,
    pub status: Text<SandboxStatus>,
    /// What a missing one was.
    pub former_status: Option<Text<SandboxStatus>>,
    pub reason: Option<String>,
    pub generation: i64,
    pub driver: String,
    pub vcpus: i64,
    pub memory_mb: i64,
    pub disk_mb: i64,
    pub timeout_sec: i64,
    pub on_timeout: Text<OnTimeoutName>,
    pub auto_resume: bool,
    pub on_reboot: Text<OnRebootName>,
    pub metadata: Json<BTreeMap<String, String>>,
    pub network: Json<Network>,
    /// What it was given to mount; what it has mounted now is in `volume_mounts`.
    pub mounts: Json<Vec<Mount>>,
    pub access_token: String,
    pub created_by: Option<String>,
    pub created_at: Millis,
    pub started_at: Option<Millis>,
    pub last_active_at: Millis,
    pub status_changed_at: Millis,
    /// Counts changes of `network`.
    pub network_generation: i64,
    /// What it goes on with of what it was made from, where that had more than files; who made it is told, and nobody later.
    #[sqlx(skip)]
    pub begun_with: Option<Kept>,
}

/// An `on_timeout` as the database writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnTimeoutName(pub OnTimeout);

impl std::str::FromStr for OnTimeoutName {
    type Err = atoll_model::sandbox::UnknownName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// An `on_reboot` as the database writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnRebootName(pub OnReboot);

impl std::str::FromStr for OnRebootName {
    type Err = atoll_model::sandbox::UnknownName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "restart" => Ok(Self(OnReboot::Restart)),
            "stop" => Ok(Self(OnReboot::Stop)),
            _ => Err(atoll_model::sandbox::UnknownName { kind: "on_reboot", text: text.to_owned() }),
        }
    }
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

impl SandboxRecord {
    #[must_use]
    pub fn status(&self) -> SandboxStatus {
        self.status.0
    }

    #[must_use]
    pub fn host(&self) -> Option<&HostId> {
        self.host_id.as_ref().map(|host| &host.0)
    }

    /// Of a virtual machine, memory can be kept with its files.
    #[must_use]
    pub fn can_keep_memory(&self) -> bool {
        self.driver == "vm"
    }

    /// That it has begun with files is worth a word where there was memory.
    #[must_use]
    pub(super) fn of_memory(self, had_memory: bool) -> Self {
        Self { begun_with: self.begun_with.filter(|_| had_memory), ..self }
    }

    /// The generation as hosts count it.
    #[must_use]
    pub fn host_generation(&self) -> u64 {
        unsigned(self.generation)
    }

    /// The same of what it may reach.
    #[must_use]
    pub fn host_network_generation(&self) -> u64 {
        unsigned(self.network_generation)
    }

    /// The answer's shape.
    #[must_use]
    pub fn to_api(&self) -> Sandbox {
        Sandbox {
            id: self.id.0.clone(),
            status: self.status.0,
            driver: self.driver.clone(),
            reason: self.reason.clone(),
            template: self.template.clone(),
            vcpus: u32::try_from(self.vcpus).unwrap_or(0),
            memory_mb: unsigned(self.memory_mb),
            disk_mb: unsigned(self.disk_mb),
            timeout_sec: unsigned(self.timeout_sec),
            on_timeout: self.on_timeout.0.0,
            auto_resume: self.auto_resume,
            public: self.network.public,
            internet: !self.network.deny_egress,
            identities: self.network.identities.clone(),
            network: NetworkPolicy {
                allow_out: self.network.allow_out.clone(),
                deny_out: self.network.deny_out.clone(),
                headers: self.network.headers.clone(),
                egress_proxy: self.network.egress_proxy.as_ref().map(KeptProxy::shown),
                bandwidth_bytes_per_second: self.network.bandwidth_bytes_per_second,
            },
            host_id: self.host().cloned(),
            mounts: self.mounts.0.clone(),
            metadata: self.metadata.0.clone(),
            created_at: self.created_at.to_utc(),
            started_at: self.started_at.map(Millis::to_utc),
            last_active_at: self.last_active_at.to_utc(),
            status_changed_at: self.status_changed_at.to_utc(),
            kept: self.begun_with.clone(),
            freed_bytes: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_for_names_are_open_beside_names_alone() {
        let rules = |allow: &[&str]| Network {
            allow_out: allow.iter().map(|rule| (*rule).to_owned()).collect(),
            deny_out: vec!["0.0.0.0/0".to_owned()],
            dns_servers: Some(vec![Ipv4Addr::new(198, 51, 100, 9)]),
            ..Network::default()
        };
        let told = rules(&["example.com", "192.0.2.1"]).to_wire(&Filling::default(), &SandboxId::new());
        assert_eq!(
            (told.allow_domains, told.allow_cidrs),
            (vec!["example.com".into()], vec!["192.0.2.1".into(), "198.51.100.9".into()])
        );
        let told = rules(&["192.0.2.1"]).to_wire(&Filling::default(), &SandboxId::new());
        assert_eq!((told.allow_domains, told.allow_cidrs), (Vec::new(), vec!["192.0.2.1".to_owned()]));
    }
}
