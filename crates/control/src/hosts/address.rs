//! Judging the address that an agent advertises: control will connect to it, so it must not point somewhere that the
//! agent has no business to send control to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use atoll_model::api::hosts::TUNNEL_ADDRESS;

use super::HostError;

const MAX_LENGTH: usize = 255;

/// Whether hosts may be on this very machine's loopback: only when control itself listens there (development,
/// `atoll up`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    Allowed,
    Refused,
}

/// Checks `address`, which must be `host:port` with an IP address or a DNS name, or say that there is a tunnel.
///
/// # Errors
/// [`HostError::Invalid`] for the field `address`, saying why.
pub fn check(address: &str, loopback: Loopback) -> Result<(), HostError> {
    if address == TUNNEL_ADDRESS {
        return Ok(());
    }
    let refuse = |message: &str| Err(HostError::Invalid { field: "address", message: format!("`address` {message}") });
    if address.len() > MAX_LENGTH {
        return refuse("is too long");
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return refuse("must be host:port");
    };
    if port.parse::<u16>().is_ok_and(|port| port > 0) && port.bytes().all(|byte| byte.is_ascii_digit()) {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        return match host.parse::<IpAddr>() {
            Ok(ip) => match objection(ip, loopback) {
                Some(objection) => refuse(objection),
                None => Ok(()),
            },
            Err(_) => check_name(host, loopback),
        };
    }
    refuse("must end with a port from 1 to 65535")
}

/// Why control would never connect to `ip`; also asked about what a name resolves to.
#[must_use]
pub fn objection(ip: IpAddr, loopback: Loopback) -> Option<&'static str> {
    match ip {
        IpAddr::V4(v4) => objection_v4(v4, loopback),
        IpAddr::V6(v6) => objection_v6(v6, loopback),
    }
}

fn objection_v4(v4: Ipv4Addr, loopback: Loopback) -> Option<&'static str> {
    match v4 {
        _ if v4.is_loopback() => (loopback == Loopback::Refused).then_some("must not be a loopback address"),
        _ if v4.is_unspecified() => Some(UNSPECIFIED),
        _ if v4.is_multicast() => Some("must not be a multicast address"),
        _ if v4.is_link_local() => Some("must not be a link-local or metadata address"),
        Ipv4Addr::BROADCAST => Some("must not be the broadcast address"),
        // Clouds answer for their metadata here too.
        _ if v4 == Ipv4Addr::new(100, 100, 100, 200) => Some("must not be a metadata address"),
        _ => None,
    }
}

fn objection_v6(v6: Ipv6Addr, loopback: Loopback) -> Option<&'static str> {
    const METADATA: [Ipv6Addr; 2] =
        [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];
    match v6 {
        _ if v6.is_loopback() => (loopback == Loopback::Refused).then_some("must not be a loopback address"),
        _ if v6.is_unspecified() => Some(UNSPECIFIED),
        _ if v6.is_multicast() => Some("must not be a multicast address"),
        _ if v6.is_unicast_link_local() => Some("must not be a link-local address"),
        _ if METADATA.contains(&v6) => Some("must not be a metadata address"),
        _ => inside(v6).into_iter().flatten().find_map(|v4| objection_v4(v4, loopback)),
    }
}

const UNSPECIFIED: &str = "must be an address that control can reach, not 0.0.0.0 or [::]";

/// The IPv4 addresses that an IPv6 address may lead to: mapped and compatible ones, NAT64's well-known and local
/// prefixes (RFC 6052 and 8215; where the local one keeps the address is up to the network), and 6to4.
fn inside(v6: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let of = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => [of(high, low), None],
        [0x64, 0xff9b, 1, high, fourth, fifth, last_high, last_low] => {
            // A byte of zeros lies in the middle of it.
            let low = (fourth << 8) | (fifth >> 8);
            [of(last_high, last_low), of(high, low)].map(|v4| v4.filter(|v4| !v4.is_unspecified()))
        }
        [0x2002, high, low, ..] => [of(high, low), None],
        _ => [None, None],
    }
}

fn check_name(name: &str, loopback: Loopback) -> Result<(), HostError> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let invalid = |message: &str| HostError::Invalid { field: "address", message: format!("`address` {message}") };
    // A name whose last label is a number would be an address in some unusual notation.
    let numeric = name.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_digit()));
    if numeric || !name.split('.').all(label) {
        return Err(invalid("must begin with an IP address or a DNS name"));
    }
    let local = name == "localhost" || name.ends_with(".localhost");
    if local && loopback == Loopback::Refused {
        return Err(invalid("must not be a loopback address"));
    }
    if name == "metadata" || name == "metadata.google.internal" || name == "instance-data" {
        return Err(invalid("must not be a metadata address"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_addresses_are_taken() {
        for address in [
            "10.0.0.5:7070",
            "192.168.1.2:1",
            "host-7.example.com:443",
            "[2001:db8::1]:7070",
            "a_b.local:9",
            "[64:ff9b::8.8.8.8]:7070",
            "[64:ff9b:1::8.8.8.8]:7070",
        ] {
            assert!(check(address, Loopback::Refused).is_ok(), "{address}");
        }
    }

    #[test]
    fn addresses_that_lead_astray_are_refused() {
        for address in [
            "",
            "10.0.0.5",
            "10.0.0.5:0",
            "10.0.0.5:65536",
            "10.0.0.5:+80",
            ":80",
            "0.0.0.0:80",
            "[::]:80",
            "127.0.0.1:80",
            "127.8.8.8:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "localhost:80",
            "LOCALHOST.:80",
            "169.254.169.254:80",
            "[::ffff:169.254.169.254]:80",
            "[fe80::1]:80",
            "[fd00:ec2::254]:80",
            "[fd20:ce::254]:80",
            "[64:ff9b::169.254.169.254]:80",
            "[64:ff9b::7f00:1]:80",
            "[64:ff9b:1::169.254.169.254]:80",
            "[64:ff9b:1:a9fe:a9:fe00::]:80",
            "[2002:a9fe:a9fe::1]:80",
            "[::127.0.0.1]:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "metadata.google.internal:80",
            "0x7f000001:80",
            "2130706433:80",
            "127.1:80",
            "user@host:80",
            "host/path:80",
            "ho st:80",
            "a..b:80",
        ] {
            assert!(check(address, Loopback::Refused).is_err(), "{address}");
        }
    }

    #[test]
    fn loopback_is_taken_only_where_control_is_on_loopback_itself() {
        for address in ["127.0.0.1:80", "[::1]:80", "localhost:80"] {
            assert!(check(address, Loopback::Allowed).is_ok(), "{address}");
        }
        assert!(check("169.254.169.254:80", Loopback::Allowed).is_err());
    }
}
