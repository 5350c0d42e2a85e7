//! Where a webhook may connect to. The name is resolved, the addresses are checked, and the connection goes to one
//! that was checked: resolving again would let an answer change in between.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::Uri;

use crate::config::Network;

#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("must be an http:// or https:// address with a host name, and without user name and password")]
    Form,
    #[error("the name could not be resolved")]
    Resolve(#[source] std::io::Error),
    #[error("it leads to a private address, which is refused (--webhook-allow lets some through)")]
    Private,
}

/// An address to send to, in its parts.
#[derive(Debug, Clone)]
pub struct Target {
    pub secure: bool,
    pub host: String,
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl Target {
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let uri: Uri = url.parse().map_err(|_| TargetError::Form)?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(TargetError::Form),
        };
        let authority = uri.authority().ok_or(TargetError::Form)?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(TargetError::Form);
        }
        Ok(Self {
            secure,
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }

    /// Scheme and host, for the audit trail: paths of webhooks often hold a token.
    #[must_use]
    pub fn without_path(&self) -> String {
        format!("{}://{}/", if self.secure { "https" } else { "http" }, self.authority())
    }

    /// `Host` of the request.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.secure, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// Refuses a host that is written as a private address. Names are looked at when they are resolved.
    pub fn check_literal(&self, allowed: &[Network]) -> Result<(), TargetError> {
        let Ok(ip) = self.host.parse::<IpAddr>() else { return Ok(()) };
        let open = is_public(ip) || allowed.iter().any(|network| network.contains(ip));
        if open { Ok(()) } else { Err(TargetError::Private) }
    }

    /// The first of its addresses that may be connected to.
    pub async fn resolve(&self, allowed: &[Network]) -> Result<SocketAddr, TargetError> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await.map_err(TargetError::Resolve)?;
        let open = |address: &SocketAddr| {
            is_public(address.ip()) || allowed.iter().any(|network| network.contains(address.ip()))
        };
        found.into_iter().find(open).ok_or(TargetError::Private)
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19)))
}

/// Whether an address is one of the open internet, whatever clothes it wears.
fn is_public(ip: IpAddr) -> bool {
    let v6 = match ip.to_canonical() {
        IpAddr::V4(v4) => return is_public_v4(v4),
        IpAddr::V6(v6) => v6,
    };
    let segments = v6.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // NAT64 and 6to4 lead to the IPv4 address inside.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // Global unicast is 2000::/3; in it Teredo and documentation lead nowhere.
        [0x2001, 0 | 0xdb8, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_known_in_all_their_clothes() {
        for private in [
            "10.0.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "ff02::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:8.8.8.8"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn an_address_is_taken_apart_and_odd_ones_are_refused() {
        let target = Target::parse("https://hooks.example:8443/a?b=c").unwrap();
        assert_eq!((target.authority().as_str(), target.path.as_str()), ("hooks.example:8443", "/a?b=c"));
        let target = Target::parse("http://[2001:db8::1]/").unwrap();
        assert_eq!((target.host.as_str(), target.authority().as_str()), ("2001:db8::1", "[2001:db8::1]"));
        for odd in ["", "hooks.example", "ftp://a/", "https://user@a/", "https:///x", "file:///etc/passwd"] {
            assert!(Target::parse(odd).is_err(), "{odd}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_home_is_refused_unless_it_is_allowed() {
        let target = Target::parse("http://localhost:1/").unwrap();
        assert!(matches!(target.resolve(&[]).await, Err(TargetError::Private)));
        let allowed = ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        assert!(target.resolve(&allowed).await.unwrap().ip().is_loopback());
    }
}
