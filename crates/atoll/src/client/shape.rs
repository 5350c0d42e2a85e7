//! From the options of a new sandbox to the request that creates it.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use atoll_client::model::api::sandboxes::{
    AddedHeader, CreateSandboxRequest, EgressProxy, EgressProxyTls, NetworkPolicy, SetNetworkRequest, VolumeMount,
};

use crate::cli::sandboxes::Shape;

pub fn request(shape: &Shape) -> anyhow::Result<CreateSandboxRequest> {
    Ok(CreateSandboxRequest {
        template: shape.template.clone(),
        vcpus: shape.vcpus,
        memory_mb: shape.memory,
        disk_mb: shape.disk,
        driver: shape.driver.clone(),
        start_from: shape.start_from.clone(),
        env: environment(&shape.env)?,
        secrets: secrets(&shape.secret)?,
        identities: pairs(&shape.identity)?.into_iter().collect(),
        volumes: shape.volume.iter().map(|text| volume(text)).collect::<Result<_, _>>()?,
        metadata: pairs(&shape.label)?.into_iter().collect(),
        network: Some(NetworkPolicy {
            headers: headers(&shape.header)?,
            egress_proxy: shape.egress_proxy.as_deref().map(egress_proxy).transpose()?,
            bandwidth_bytes_per_second: shape.bandwidth,
            ..NetworkPolicy::default()
        })
        .filter(|policy| !policy.is_empty()),
        internet: shape.no_internet.then_some(false),
        public: shape.public.then_some(true),
        ..CreateSandboxRequest::default()
    })
}

/// `NAME=VALUE`, or `NAME` for the value that it has here.
pub fn environment(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut environment = BTreeMap::new();
    for text in given {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => {
                let value =
                    std::env::var(text).with_context(|| format!("--env {text}: there is no such variable here"))?;
                (text.as_str(), value)
            }
        };
        if name.is_empty() {
            bail!("--env `{text}`: expected NAME=VALUE");
        }
        environment.insert(name.to_owned(), value);
    }
    Ok(environment)
}

/// `VARIABLE=NAME`, or `NAME` for both.
fn secrets(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let split = |text: &String| match text.split_once('=').unwrap_or((text, text)) {
        ("", _) | (_, "") => bail!("--secret `{text}`: expected NAME, or VARIABLE=NAME"),
        (variable, name) => Ok((variable.to_owned(), name.to_owned())),
    };
    given.iter().map(split).collect()
}

/// `DOMAIN=HEADER: VALUE`.
pub fn headers(given: &[String]) -> anyhow::Result<Vec<AddedHeader>> {
    let split = |text: &String| {
        let (domain, header) = text.split_once('=')?;
        let (name, value) = header.split_once(':')?;
        let (domain, name, value) = (domain.to_owned(), name.trim().to_owned(), value.trim().to_owned());
        (!domain.is_empty() && !name.is_empty()).then_some(AddedHeader { domain, name, value })
    };
    let read = |text| split(text).with_context(|| format!("--header `{text}`: expected DOMAIN=HEADER: VALUE"));
    given.iter().map(read).collect()
}

/// What is said of a network by options.
pub fn network(
    closed: bool,
    allow_out: Vec<String>,
    deny_out: Vec<String>,
    header: &[String],
    proxy: Option<&str>,
    bandwidth: Option<u64>,
) -> anyhow::Result<SetNetworkRequest> {
    Ok(SetNetworkRequest {
        internet: closed.then_some(false),
        allow_out,
        deny_out,
        headers: headers(header)?,
        egress_proxy: proxy.map(egress_proxy).transpose()?,
        bandwidth_bytes_per_second: bandwidth,
    })
}

/// `[tls://][USER[:PASSWORD]@]HOST:PORT`. The password may have colons and at signs in it.
pub fn egress_proxy(text: &str) -> anyhow::Result<EgressProxy> {
    let (rest, tls) = match (text.strip_prefix("tls://"), text.strip_prefix("socks5://")) {
        (Some(rest), _) => (rest, Some(EgressProxyTls::default())),
        (None, rest) => (rest.unwrap_or(text), None),
    };
    let (login, address) = rest.rsplit_once('@').map_or((None, rest), |(login, address)| (Some(login), address));
    let (username, password) =
        match login.map(|login| login.split_once(':').map_or((login, None), |(user, it)| (user, Some(it)))) {
            Some(("", _)) => bail!("--egress-proxy: expected a user before `@`"),
            Some((user, password)) => (Some(user.to_owned()), password.map(str::to_owned)),
            None => (None, None),
        };
    // What was given may have a password in it: it isn't repeated.
    if address.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        bail!("--egress-proxy: expected [USER:PASSWORD@]HOST:PORT");
    }
    Ok(EgressProxy { address: address.to_owned(), username, password, tls })
}

/// `NAME:PATH`, maybe with `:ro`.
fn volume(text: &str) -> anyhow::Result<VolumeMount> {
    let (rest, read_only) = text.strip_suffix(":ro").map_or((text, false), |rest| (rest, true));
    match rest.split_once(':') {
        Some((name, path)) if !name.is_empty() && path.starts_with('/') => {
            Ok(VolumeMount { volume: name.to_owned(), path: path.to_owned(), read_only })
        }
        _ => bail!("--volume `{text}`: expected NAME:/PATH, or NAME:/PATH:ro"),
    }
}

/// `NAME=VALUE` pairs.
pub fn pairs(given: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let split = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => bail!("`{text}`: expected NAME=VALUE"),
    };
    given.iter().map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        let given = ["api.example.com=Authorization: Bearer ${secrets.a=b}".to_owned()];
        let header = headers(&given).unwrap().remove(0);
        assert_eq!((header.domain.as_str(), header.name.as_str()), ("api.example.com", "Authorization"));
        assert_eq!(header.value, "Bearer ${secrets.a=b}");
        for bad in ["", "x", "x=y", "=a: b", "x=: b"] {
            assert!(headers(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_proxy_is_read_as_it_is_written() {
        let proxy = egress_proxy("tls://ann:p@ss:${secrets.x}@proxy.example.com:1080").unwrap();
        assert_eq!(proxy.address, "proxy.example.com:1080");
        assert_eq!((proxy.username.as_deref(), proxy.password.as_deref()), (Some("ann"), Some("p@ss:${secrets.x}")));
        assert!(proxy.tls.is_some());
        let proxy = egress_proxy("socks5://ann@192.0.2.1:1080").unwrap();
        assert_eq!((proxy.username.as_deref(), proxy.password, proxy.tls), (Some("ann"), None, None));
        assert_eq!(egress_proxy("a:1").unwrap().username, None);
        for wrong in ["", "a", ":1", "a:", "a:x", ":p@a:1", "ann:p@a"] {
            assert!(egress_proxy(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn secrets_and_volumes_are_read_as_they_are_written() {
        let given = ["KEY=openai".to_owned(), "token".to_owned()];
        let expected = [("KEY".to_owned(), "openai".to_owned()), ("token".to_owned(), "token".to_owned())];
        assert_eq!(secrets(&given).unwrap(), expected.into_iter().collect());
        assert!(secrets(&["=x".to_owned()]).is_err() && secrets(&["X=".to_owned()]).is_err());
        let mount = volume("data:/srv/data:ro").unwrap();
        assert_eq!((mount.volume.as_str(), mount.path.as_str(), mount.read_only), ("data", "/srv/data", true));
        assert!(!volume("data:/srv").unwrap().read_only);
        for wrong in ["data", "data:", ":/x", "data:x", "data:ro"] {
            assert!(volume(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_value_may_hold_equals_signs_and_be_empty() {
        let given = ["A=b=c".to_owned(), "EMPTY=".to_owned()];
        let environment = environment(&given).unwrap();
        assert_eq!((environment["A"].as_str(), environment["EMPTY"].as_str()), ("b=c", ""));
        assert!(super::environment(&["=x".to_owned()]).is_err());
        assert!(pairs(&["no-value".to_owned()]).is_err());
    }
}
