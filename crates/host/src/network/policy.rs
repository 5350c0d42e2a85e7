//! What one sandbox may reach, beyond what all may: networks and names, allowed and denied.
//!
//! What is allowed wins over what is denied. Names are judged where sandboxes ask for them, in the DNS forwarder: a
//! name that is denied is refused there, and the addresses of one that is allowed are let through for as long as the
//! answer may be kept. With every address denied, names that are not allowed are refused too, so that questions can't
//! carry anything out. Nothing here opens what the table keeps closed to all sandboxes (private and special networks).

use std::fmt;
use std::net::Ipv4Addr;

use atoll_model::SandboxId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Ipv4Cidr;

/// Of one sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// No way out at all, names included.
    pub closed: bool,
    pub allow: Vec<Ipv4Cidr>,
    pub deny: Vec<Ipv4Cidr>,
    /// Lower case; `*.example.com` for all names below it.
    pub allow_names: Vec<String>,
    pub deny_names: Vec<String>,
    /// What the egress proxy adds to requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<AddedHeader>,
    /// What all TCP goes out through. Nothing goes past it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_proxy: Option<OwnProxy>,
    /// Bytes a second that it may send to the world, and as many that it may get from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
}

/// A SOCKS5 proxy of whoever owns the sandbox, which never sees it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnProxy {
    /// A name, or an IPv4 address.
    pub host: String,
    pub port: u16,
    /// User and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ProxyTls>,
}

/// How a proxy proves over TLS who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyTls {
    /// In its certificate; its host's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Who vouches for it, in PEM; those whom this machine trusts when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// Without the login.
impl fmt::Debug for OwnProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnProxy").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

/// A header that requests to a name get on their way out. The sandbox never sees it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedHeader {
    /// Lower case; `*.example.com` for all names below it.
    pub domain: String,
    pub name: String,
    pub value: String,
    /// The value in pieces, when an identity is one of them; `value` is empty then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<HeaderPart>,
}

/// A piece of a header's value.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderPart {
    Text(String),
    /// A token of this identity.
    Identity(Identity),
}

/// One of a sandbox's identities: control makes tokens of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub sandbox: SandboxId,
    pub name: String,
}

/// Without the value.
impl fmt::Debug for AddedHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddedHeader").field("domain", &self.domain).field("name", &self.name).finish_non_exhaustive()
    }
}

/// What becomes of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ruling {
    Refuse,
    /// Its answer's addresses are let through.
    Admit,
    /// As if there were no policy.
    Pass,
    /// It is not denied, and the egress proxy's.
    Proxy,
}

impl Policy {
    /// Whether it asks for anything but an open or a closed network.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        !(self.allow.is_empty() && self.deny.is_empty() && !self.has_names())
    }

    /// Whether it says anything that the table, the forwarder or the proxies must know.
    pub(super) fn says_something(&self) -> bool {
        self.has_rules() || self.is_served() || self.bandwidth.is_some()
    }

    /// Whether both let the same be reached in the same way, however fast.
    pub(super) fn reaches_as(&self, other: &Self) -> bool {
        let unbounded = |policy: &Self| Self { bandwidth: None, ..policy.clone() };
        unbounded(self) == unbounded(other)
    }

    /// A word for what may be reached: the same for the same networks and names.
    pub(super) fn reach(&self) -> String {
        let said = serde_json::json!([self.closed, self.allow, self.deny, self.allow_names, self.deny_names]);
        hex::encode(&Sha256::digest(said.to_string())[..8])
    }

    /// Whether the proxies of this host have anything to do for it.
    pub(super) fn is_served(&self) -> bool {
        !self.headers.is_empty() || self.own_proxy.is_some()
    }

    fn has_names(&self) -> bool {
        !(self.allow_names.is_empty() && self.deny_names.is_empty())
    }

    /// Whether names are judged at all.
    pub(super) fn judges_names(&self) -> bool {
        self.restricts_names() || !self.headers.is_empty()
    }

    /// Whether there may be names that are refused.
    pub(super) fn restricts_names(&self) -> bool {
        self.has_names() || self.denies_everything()
    }

    /// Whether a connection to this address may be led through the proxy of its own: what the table has said when it began,
    /// as far as that can be told without knowing which addresses names have opened.
    pub(super) fn may_be_led_to(&self, address: Ipv4Addr) -> bool {
        let any = |networks: &[Ipv4Cidr]| networks.iter().any(|network| network.contains(address));
        !self.closed && (any(&self.allow) || !any(&self.deny) || !self.allow_names.is_empty())
    }

    /// What requests to this name get.
    pub(super) fn headers_for<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a AddedHeader> {
        self.headers.iter().filter(move |header| covers(&header.domain, name))
    }

    /// What becomes of the question for a name in lower case, without its final dot.
    pub(super) fn judge_question(&self, name: &str) -> Ruling {
        match self.judge(name) {
            Ruling::Refuse => Ruling::Refuse,
            _ if self.headers_for(name).next().is_some() => Ruling::Proxy,
            ruling => ruling,
        }
    }

    /// Whether a name in lower case, without its final dot, may be reached.
    pub(super) fn judge(&self, name: &str) -> Ruling {
        let matches = |rules: &[String]| rules.iter().any(|rule| covers(rule, name));
        if matches(&self.allow_names) {
            Ruling::Admit
        } else if matches(&self.deny_names) || self.denies_everything() {
            Ruling::Refuse
        } else {
            Ruling::Pass
        }
    }

    /// Whether the denied networks together are all there is, in however many pieces.
    fn denies_everything(&self) -> bool {
        let mut pieces: Vec<(u32, u32)> = self.deny.iter().map(|network| network.range()).collect();
        pieces.sort_unstable();
        let mut next = 0_u64;
        for (first, last) in pieces {
            if u64::from(first) > next {
                return false;
            }
            next = next.max(u64::from(last) + 1);
        }
        next > u64::from(u32::MAX)
    }

    /// The elements of the sets `allow_rules` and `deny_rules` for the sandbox at `address`.
    pub(super) fn elements(&self, address: Ipv4Addr) -> (Vec<String>, Vec<String>) {
        let of = |networks: &[Ipv4Cidr]| {
            outermost(networks).into_iter().map(|network| format!("{address} . {network}")).collect()
        };
        (of(&self.allow), of(&self.deny))
    }
}

/// `*.example.com` covers what is below it, `example.com` itself alone, `*` everything.
fn covers(rule: &str, name: &str) -> bool {
    match rule.strip_prefix('*') {
        Some("") => true,
        Some(below) => name.len() > below.len() && name.ends_with(below),
        None => rule == name,
    }
}

/// Networks lie in each other or apart; those that lie in another say nothing new, and the kernel refuses them.
fn outermost(networks: &[Ipv4Cidr]) -> Vec<Ipv4Cidr> {
    let mut kept: Vec<Ipv4Cidr> = Vec::new();
    for network in networks {
        if !kept.iter().any(|other| other.covers(*network)) {
            kept.retain(|other| !network.covers(*other));
            kept.push(*network);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(allow_names: &[&str], deny: &[&str], deny_names: &[&str]) -> Policy {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Policy {
            allow_names: texts(allow_names),
            deny_names: texts(deny_names),
            deny: deny.iter().map(|text| text.parse().unwrap()).collect(),
            ..Policy::default()
        }
    }

    #[test]
    fn names_are_judged_by_the_whole_name_or_by_what_they_are_below() {
        let only = policy(&["example.com", "*.pypi.org"], &["0.0.0.0/0"], &[]);
        assert_eq!(only.judge("example.com"), Ruling::Admit);
        assert_eq!(only.judge("files.pypi.org"), Ruling::Admit);
        for other in ["www.example.com", "pypi.org", "notpypi.org", "example.com.evil.net", "evil.net"] {
            assert_eq!(only.judge(other), Ruling::Refuse, "{other}");
        }
        let but = policy(&[], &[], &["*.evil.net"]);
        assert_eq!((but.judge("a.evil.net"), but.judge("example.com")), (Ruling::Refuse, Ruling::Pass));
        // Allowed wins over denied.
        let both = policy(&["good.evil.net"], &[], &["*.evil.net"]);
        assert_eq!((both.judge("good.evil.net"), both.judge("bad.evil.net")), (Ruling::Admit, Ruling::Refuse));
    }

    #[test]
    fn with_every_address_denied_no_other_name_is_asked_for() {
        for deny in [&["0.0.0.0/0"][..], &["128.0.0.0/1", "0.0.0.0/1"], &["0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/1"]] {
            let nothing = policy(&[], deny, &[]);
            assert!(nothing.judges_names());
            assert_eq!(nothing.judge("secret.evil.net"), Ruling::Refuse, "{deny:?}");
            let one = Policy { allow: vec!["1.2.3.4/32".parse().unwrap()], ..policy(&[], deny, &[]) };
            assert_eq!(one.judge("secret.evil.net"), Ruling::Refuse);
            assert_eq!(policy(&["pypi.org"], deny, &[]).judge("pypi.org"), Ruling::Admit);
        }
        for deny in [&["0.0.0.0/1"][..], &["0.0.0.0/1", "192.0.0.0/2"], &["1.0.0.0/8"], &[]] {
            let most = policy(&[], deny, &[]);
            assert!(!most.judges_names());
            assert_eq!(most.judge("example.com"), Ruling::Pass, "{deny:?}");
        }
    }

    proptest! {
        #[test]
        fn outermost_networks_cover_the_same_addresses_and_never_overlap(
            networks in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..12), probe: u32,
        ) {
            let mask = |prefix: u8| u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            let networks: Vec<_> = networks
                .into_iter()
                .map(|(base, prefix)| Ipv4Cidr::new((base & mask(prefix)).into(), prefix).unwrap())
                .collect();
            let kept = outermost(&networks);
            let all = Policy { deny: networks.clone(), ..Policy::default() };
            let probe = Ipv4Addr::from(probe);
            prop_assert!(!all.denies_everything() || networks.iter().any(|network| network.contains(probe)));
            prop_assert_eq!(
                networks.iter().any(|network| network.contains(probe)),
                kept.iter().any(|network| network.contains(probe))
            );
            for (at, one) in kept.iter().enumerate() {
                prop_assert!(!kept.iter().enumerate().any(|(other, it)| other != at && it.covers(*one)));
            }
        }
    }
}
