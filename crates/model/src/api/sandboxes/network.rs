//! What a sandbox may reach, and who reaches it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What a sandbox may reach: IPv4 networks (`10.1.0.0/16`, or an address) and names (`example.com`, or `*.example.com`
/// for all below it). What is allowed wins over what is denied; what is named by neither is open. With `0.0.0.0/0`
/// denied, only what is allowed can be reached, and only allowed names are resolved. Networks that the platform keeps
/// closed to all sandboxes stay closed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkPolicy {
    /// At most 128.
    #[cfg_attr(feature = "openapi", schema(max_items = 128))]
    pub allow_out: Vec<String>,
    /// At most 128.
    #[cfg_attr(feature = "openapi", schema(max_items = 128))]
    pub deny_out: Vec<String>,
    /// What requests get on their way out, the last word for each name; at most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 64))]
    pub headers: Vec<AddedHeader>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_proxy: Option<EgressProxy>,
    /// What it may send to the world each second, and as much that it may get from there: 1,000 to 10,000,000,000 bytes. What
    /// is beyond is dropped. Null for no bound of its own; where its host has one for all, the smaller counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1_000, maximum = 10_000_000_000_u64))]
    pub bandwidth_bytes_per_second: Option<u64>,
}

/// Of a sandbox's bandwidth, in bytes a second. The upper end is what the kernel can count.
pub const BANDWIDTH: (u64, u64) = (1_000, 10_000_000_000);

/// A SOCKS5 proxy of one's own, through which the host leads all TCP connections of a sandbox that the rest of its policy
/// lets out. Nothing inside sees it, and nothing of TCP goes past it: when it can't be reached, or refuses, connections fail.
/// It must have an IPv4 address that sandboxes may reach. Names are resolved by the host, and UDP goes out directly.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EgressProxy {
    /// `proxy.example.com:1080`.
    pub address: String,
    /// `{{sandboxID}}` in it, and in the password, stands for the sandbox's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Never shown. `${secrets.NAME}` in it stands for the team's secret of that name. Left out when everything else of the
    /// proxy stays as it is, it stays too; empty, there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Speaks TLS with it, and asks who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<EgressProxyTls>,
}

/// Without the password.
impl std::fmt::Debug for EgressProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EgressProxy")
            .field("address", &self.address)
            .field("username", &self.username)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// How a proxy shows who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EgressProxyTls {
    /// The name in its certificate; that of its address when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Who vouches for it, in PEM, of at most 64 KiB; whom the host's machine trusts when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<String>,
}

/// A header that the host adds to requests that a sandbox sends over HTTPS (port 443) to a name, in place of what the
/// sandbox has sent under the same header's name. `${secrets.NAME}` in the value stands for the team's secret of that name,
/// `${identity.NAME}` for a token of the sandbox's identity of that name; it sees neither. It opens nothing: the name must be one that the sandbox may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AddedHeader {
    /// `api.example.com`, or `*.example.com` for all names below it.
    pub domain: String,
    /// `Authorization`.
    pub name: String,
    /// `Bearer ${secrets.example}`.
    pub value: String,
}

impl NetworkPolicy {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The whole of what a sandbox may reach from now on; what is left out is cleared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetNetworkRequest {
    /// False closes all ways out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internet: Option<bool>,
    #[cfg_attr(feature = "openapi", schema(max_items = 128))]
    pub allow_out: Vec<String>,
    #[cfg_attr(feature = "openapi", schema(max_items = 128))]
    pub deny_out: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 64))]
    pub headers: Vec<AddedHeader>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_proxy: Option<EgressProxy>,
    /// 1,000 to 10,000,000,000, for each direction; null for no bound of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1_000, maximum = 10_000_000_000_u64))]
    pub bandwidth_bytes_per_second: Option<u64>,
}

impl SetNetworkRequest {
    /// The policy in it, apart from whether there is any network.
    #[must_use]
    pub fn into_policy(self) -> (Option<bool>, NetworkPolicy) {
        let Self { internet, allow_out, deny_out, headers, egress_proxy, bandwidth_bytes_per_second } = self;
        (internet, NetworkPolicy { allow_out, deny_out, headers, egress_proxy, bandwidth_bytes_per_second })
    }
}

/// Which port a signed link opens, and for how long.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LinkRequest {
    /// A port that a program in the sandbox listens on.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 65535))]
    pub port: u16,
    /// 1 to 2,592,000 (30 days); 3,600 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 2_592_000))]
    pub ttl_sec: Option<u64>,
}

/// Where a port of a sandbox is reached from outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Link {
    pub port: u16,
    /// Opens the port to whoever has it, until it expires. Of a public sandbox it is the plain address.
    pub url: String,
    /// The host name alone, to which programs can send an API key.
    pub host: String,
    /// Nothing for a public sandbox: its address doesn't expire.
    pub expires_at: Option<DateTime<Utc>>,
}
