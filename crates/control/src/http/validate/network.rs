//! What a sandbox may be told to reach, and what is added to its requests.

use atoll_model::api::sandboxes::{AddedHeader, BANDWIDTH, NetworkPolicy};

use super::{identity_name, secret_name, within};
use crate::http::egress_proxy;
use crate::http::error::{ApiError, ApiResult};
use crate::sandboxes::Network;
use crate::secrets::egress_proxy::Sealer;
use crate::secrets::headers::{Piece, pieces};

/// Rules of one sandbox's network.
const MAX_RULES: usize = 128;

/// What a sandbox may reach, checked, and its secrets sealed. `former` is what it may reach now.
pub fn network(
    sealer: &Sealer<'_>,
    internet: Option<bool>,
    policy: NetworkPolicy,
    former: Option<&Network>,
) -> ApiResult<Network> {
    let allow_out = rules("network.allow_out", policy.allow_out)?;
    let deny_out = rules("network.deny_out", policy.deny_out)?;
    let headers = added_headers(policy.headers)?;
    let former = former.and_then(|network| network.egress_proxy.as_ref());
    let egress_proxy = policy.egress_proxy.map(|proxy| egress_proxy::kept(sealer, proxy, former)).transpose()?;
    let bandwidth = policy.bandwidth_bytes_per_second;
    let bandwidth =
        bandwidth.map(|value| within("network.bandwidth_bytes_per_second", value, BANDWIDTH)).transpose()?;
    Ok(Network {
        deny_egress: !internet.unwrap_or(true),
        allow_out,
        deny_out,
        headers,
        egress_proxy,
        bandwidth_bytes_per_second: bandwidth,
        ..Network::default()
    })
}

/// Added to one sandbox's requests.
const MAX_ADDED_HEADERS: usize = 64;
const MAX_ADDED_VALUE: usize = 8192;
/// What belongs to the connection, or says how long a body is and whom it is for.
const NOT_ADDED: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

fn added_headers(headers: Vec<AddedHeader>) -> ApiResult<Vec<AddedHeader>> {
    const FIELD: &str = "network.headers";
    if headers.len() > MAX_ADDED_HEADERS {
        return Err(ApiError::invalid(FIELD, format!("must have at most {MAX_ADDED_HEADERS} entries")));
    }
    for header in &headers {
        if !is_name(&header.domain) {
            return Err(ApiError::invalid(FIELD, "`domain` must be a name (api.example.com, *.example.com)"));
        }
        match header.name.parse::<http::HeaderName>() {
            Ok(name) if NOT_ADDED.contains(&name.as_str()) => {
                return Err(ApiError::invalid(FIELD, format!("`{name}` is not a header that can be added")));
            }
            Ok(_) if header.name.len() <= 128 => {}
            _ => return Err(ApiError::invalid(FIELD, "`name` must be a header's name of 1 to 128 characters")),
        }
        if header.value.len() > MAX_ADDED_VALUE || http::HeaderValue::from_str(&header.value).is_err() {
            let message = format!("`value` must have at most {MAX_ADDED_VALUE} bytes and no control characters");
            return Err(ApiError::invalid(FIELD, message));
        }
        let Some(pieces) = pieces(&header.value) else {
            return Err(ApiError::invalid(
                FIELD,
                "in a `value` a secret is written `${secrets.NAME}`, an identity `${identity.NAME}`",
            ));
        };
        for piece in pieces {
            match piece {
                Piece::Secret(name) => secret_name(FIELD, name)?,
                Piece::Identity(name) => identity_name(FIELD, name)?,
                Piece::Plain(_) => {}
            }
        }
    }
    Ok(headers)
}

fn rules(field: &'static str, rules: Vec<String>) -> ApiResult<Vec<String>> {
    if rules.len() > MAX_RULES {
        return Err(ApiError::invalid(field, format!("must have at most {MAX_RULES} entries")));
    }
    let rules = rules.into_iter().map(|rule| match network_of(&rule) {
        Some(network) => Ok(network),
        None if is_name(&rule) => Ok(rule),
        None => {
            let shown: String = rule.chars().take(80).collect();
            let message = format!(
                "`{shown}` is neither an IPv4 address or network (10.1.0.0/16) nor a name (example.com, *.example.com)"
            );
            Err(ApiError::invalid(field, message))
        }
    });
    rules.collect()
}

/// An address as it is, a network by its first address: what is behind the prefix in 10.1.2.3/16 means nothing.
fn network_of(text: &str) -> Option<String> {
    let Some((address, prefix)) = text.split_once('/') else {
        return text.parse::<std::net::Ipv4Addr>().ok().map(|_| text.to_owned());
    };
    let (address, bits) = (address.parse::<std::net::Ipv4Addr>().ok()?, prefix.parse::<u32>().ok()?);
    // No sign and no leading zeros either.
    if bits > 32 || prefix != bits.to_string() {
        return None;
    }
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    Some(format!("{}/{bits}", std::net::Ipv4Addr::from(u32::from(address) & mask)))
}

pub fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let name = text.strip_prefix("*.").unwrap_or(text);
    name.len() <= 253 && name.split('.').all(label) && name.bytes().any(|byte| byte.is_ascii_alphabetic())
}
