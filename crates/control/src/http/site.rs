//! Where a request came from and under which name it reached us: directly, or through reverse proxies that are trusted
//! (`--trusted-proxies`). What anybody else says in `X-Forwarded-*` is not looked at.

use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::HOST;
use axum::http::request::Parts;

use super::caller::Peer;
use crate::config::{ControlConfig, Network};

/// Set on requests that came over TLS.
#[derive(Debug, Clone, Copy)]
pub struct OverTls;

/// The other end, behind trusted proxies.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub IpAddr);

/// Longest chain of proxies that is followed.
const MOST_HOPS: usize = 16;

/// The address of the client: the last one in `X-Forwarded-For` that no trusted proxy of ours stands for.
#[must_use]
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    if trusted.is_empty() || !is_trusted(client) {
        return client;
    }
    let named = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = named.flat_map(|value| value.split(',')).map(str::trim).collect();
    for hop in hops.iter().rev().take(MOST_HOPS) {
        let Some(address) = address_of(hop) else { break };
        client = address;
        if !is_trusted(client) {
            break;
        }
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`.
fn address_of(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').split(']').next().unwrap_or_default();
    let parsed = bare.parse().ok().or_else(|| text.rsplit_once(':').and_then(|(address, _)| address.parse().ok()));
    parsed.map(|address: IpAddr| address.to_canonical())
}

/// The name under which a request reached us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Host and, unless it is the scheme's own, port, as browsers write them.
    pub authority: String,
    /// Over TLS, as far as the browser is concerned. When a proxy doesn't say, this is not known to be so.
    pub https: bool,
}

impl Site {
    #[must_use]
    pub fn of(parts: &Parts, config: &ControlConfig) -> Self {
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
        let by_proxy = peer.is_some_and(|peer| config.trusted_proxies.iter().any(|network| network.contains(peer)));
        let forwarded = |name: &str| {
            let value = by_proxy.then(|| parts.headers.get(name)).flatten()?.to_str().ok()?;
            Some(value.split(',').next().unwrap_or_default().trim().to_owned())
        };
        let named = parts.headers.get(HOST).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let authority = forwarded("x-forwarded-host")
            .or_else(|| parts.uri.authority().map(|authority| authority.as_str().to_owned()))
            .or(named)
            .unwrap_or_default()
            .to_ascii_lowercase();
        let over_tls = parts.extensions.get::<OverTls>().is_some();
        let proxied = forwarded("x-forwarded-proto").is_some_and(|proto| proto.eq_ignore_ascii_case("https"));
        let public = config.public_url.as_deref().and_then(Origin::parse);
        let public = public.is_some_and(|public| public.https && same_authority(&public.authority, &authority));
        Self { authority, https: over_tls || proxied || public }
    }

    /// The host without the port.
    fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.authority,
        }
    }

    /// Reached through this machine's loopback, which browsers trust like TLS.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
    }

    /// The port, when it isn't a scheme's own.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        let port = self.authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        port.filter(|port| *port != 80 && *port != 443)
    }

    /// Where the dashboard is, for links: the public address, else how the client itself has reached us. Nothing of the
    /// latter may go to anybody but that client.
    #[must_use]
    pub fn base_url(&self, config: &ControlConfig) -> String {
        match &config.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("{}://{}", if self.https { "https" } else { "http" }, self.authority),
        }
    }

    /// Whether a page of this origin is one of ours.
    #[must_use]
    pub fn is_origin(&self, origin: &str, config: &ControlConfig) -> bool {
        let Some(origin) = Origin::parse(origin) else { return false };
        let ours = same_authority(&origin.authority, &self.authority) && (origin.https || !self.https);
        ours || config.public_url.as_deref().and_then(Origin::parse).is_some_and(|public| public == origin)
    }
}

/// Scheme and authority of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub https: bool,
    pub authority: String,
}

impl Origin {
    pub fn parse(text: &str) -> Option<Self> {
        let uri: axum::http::Uri = text.parse().ok()?;
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?.as_str().to_ascii_lowercase();
        Some(Self { https, authority: without_default_port(&authority).to_owned() })
    }
}

fn without_default_port(authority: &str) -> &str {
    authority.strip_suffix(":443").or_else(|| authority.strip_suffix(":80")).unwrap_or(authority)
}

fn same_authority(left: &str, right: &str) -> bool {
    !left.is_empty() && without_default_port(left).eq_ignore_ascii_case(without_default_port(right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn config() -> ControlConfig {
        ControlConfig::new("/nowhere".into(), "/nowhere".into(), ([127, 0, 0, 1], 0).into())
    }

    fn site(host: &str, config: &ControlConfig) -> Site {
        Site::of(&Request::builder().uri("/v1/me").header(HOST, host).body(()).unwrap().into_parts().0, config)
    }

    #[test]
    fn the_client_is_who_the_last_trusted_proxy_saw() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let address = |peer: &str, forwarded: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", forwarded.parse().unwrap());
            client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
        };
        assert_eq!(address("10.0.0.1", "192.0.2.9"), "192.0.2.9");
        assert_eq!(
            address("10.0.0.1", "1.1.1.1, 192.0.2.9, 10.0.0.2"),
            "192.0.2.9",
            "what the client claims is no proof"
        );
        assert_eq!(address("192.0.2.1", "1.1.1.1"), "192.0.2.1", "who is not trusted is not believed");
        assert_eq!(address("10.0.0.1", "nonsense"), "10.0.0.1");
        assert_eq!(address("::ffff:10.0.0.1", "[2001:db8::1]:443"), "2001:db8::1");
    }

    #[test]
    fn only_pages_of_this_very_site_are_ours() {
        let config = config();
        let here = site("atoll.example:7420", &config);
        assert!(
            here.is_origin("http://atoll.example:7420", &config)
                && here.is_origin("https://ATOLL.example:7420", &config)
        );
        for other in
            ["http://atoll.example", "http://atoll.example:7421", "http://evil.example:7420", "null", "", "x://y"]
        {
            assert!(!here.is_origin(other, &config), "{other}");
        }
    }

    #[test]
    fn behind_tls_a_page_without_it_is_not_ours() {
        let mut config = config();
        config.public_url = Some("https://atoll.example/".to_owned());
        let here = site("atoll.example", &config);
        assert!(here.https);
        assert!(here.is_origin("https://atoll.example", &config) && !here.is_origin("http://atoll.example", &config));
        assert!(site("127.0.0.1:7420", &config).is_origin("https://atoll.example", &config), "a proxy that renames");
        assert!(!site("127.0.0.1:7420", &config).https);
    }

    #[test]
    fn loopback_is_known_by_its_names() {
        let config = config();
        for host in ["localhost:7420", "127.0.0.1", "127.9.9.9:1", "[::1]:7420", "a.localhost"] {
            assert!(site(host, &config).is_loopback(), "{host}");
        }
        for host in ["localhost.evil.example", "10.0.0.1:80", "[2001:db8::1]:80", "", "127.0.0.1.evil.example"] {
            assert!(!site(host, &config).is_loopback(), "{host}");
        }
    }
}
