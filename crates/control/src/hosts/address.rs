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
    let ip = match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    match ip {
        _ if ip.is_loopback() => (loopback == Loopback::Refused).then_some("must not be a loopback address"),
        _ if ip.is_unspecified() => Some("must be an address that control can reach, not 0.0.0.0 or [::]"),
        _ if ip.is_multicast() => Some("must not be a multicast address"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("must not be a link-local or metadata address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("must not be the broadcast address"),
        // Clouds answer for their metadata here too.
        IpAddr::V4(v4) if v4 == Ipv4Addr::new(100, 100, 100, 200) => Some("must not be a metadata address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("must not be a link-local address"),
        IpAddr::V6(v6) if v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) => {
            Some("must not be a metadata address")
        }
        _ => None,
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
        for address in ["10.0.0.5:7070", "192.168.1.2:1", "host-7.example.com:443", "[2001:db8::1]:7070", "a_b.local:9"]
        {
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
