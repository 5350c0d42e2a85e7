//! A proxy of a sandbox's own, read from control's words.

use atoll_rpc::atoll::host::v1 as wire;

use super::error::OrderError;
use super::spec::{invalid, is_domain};
use crate::network::{OwnProxy, ProxyTls};

/// What logins have room for.
const MAX_LOGIN: usize = 255;
const MAX_CERTIFICATES: usize = 64 << 10;

/// # Errors
/// When it has no address, or has more than fits.
pub fn own_proxy(proxy: wire::OwnProxy) -> Result<OwnProxy, OrderError> {
    let wrong = |problem| invalid("network.own_proxy", problem);
    let address = proxy.address.rsplit_once(':').filter(|(host, _)| is_domain(host));
    let (host, port) = address.ok_or_else(|| wrong("must have an address, HOST:PORT"))?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| wrong("must have a port"))?;
    if proxy.username.len() > MAX_LOGIN || proxy.password.len() > MAX_LOGIN {
        return Err(wrong("must have a login of 255 bytes each at most"));
    }
    if proxy.ca_cert.len() > MAX_CERTIFICATES {
        return Err(wrong("must have 64 KiB of certificates at most"));
    }
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(OwnProxy {
        host: host.to_ascii_lowercase(),
        port,
        login: (!proxy.username.is_empty()).then_some((proxy.username, proxy.password)),
        tls: proxy.tls.then(|| ProxyTls { server_name: some(proxy.server_name), ca: some(proxy.ca_cert) }),
    })
}

#[cfg(test)]
mod tests {
    use super::super::spec::policy;
    use super::*;

    fn read(proxy: wire::OwnProxy) -> Result<OwnProxy, OrderError> {
        let network = wire::NetworkPolicy { deny_egress: true, own_proxy: Some(proxy).into(), ..Default::default() };
        policy(network).map(|policy| policy.own_proxy.unwrap())
    }

    fn at(address: &str) -> wire::OwnProxy {
        wire::OwnProxy { address: address.to_owned(), ..Default::default() }
    }

    #[test]
    fn a_proxy_is_read_and_what_is_none_is_refused() {
        let proxy = wire::OwnProxy {
            username: "ann".to_owned(),
            password: "hunter2".to_owned(),
            tls: true,
            server_name: "p.example.com".to_owned(),
            ..at("Proxy.example.com:1080")
        };
        let found = read(proxy).unwrap();
        assert_eq!((found.host.as_str(), found.port), ("proxy.example.com", 1080));
        assert_eq!(found.login, Some(("ann".to_owned(), "hunter2".to_owned())));
        assert_eq!(found.tls, Some(ProxyTls { server_name: Some("p.example.com".to_owned()), ca: None }));
        assert!(!format!("{found:?}").contains("hunter2"), "what is logged has no login");
        assert_eq!(read(at("192.0.2.1:1")).unwrap().login, None);
        for wrong in ["", "a", "a:", "a:0", "a:65536", ":1", "[::1]:1", "a b:1"] {
            assert!(read(at(wrong)).is_err(), "{wrong}");
        }
        let long = || "x".repeat(256);
        assert!(read(wire::OwnProxy { username: long(), ..at("a:1") }).is_err());
        assert!(read(wire::OwnProxy { password: long(), ..at("a:1") }).is_err());
    }

    #[test]
    fn whether_anything_may_go_out_is_what_the_proxy_says() {
        let closed = |denied: bool| {
            let proxy = wire::OwnProxy { deny_egress: denied, ..at("a:1") };
            let network =
                wire::NetworkPolicy { deny_egress: true, own_proxy: Some(proxy).into(), ..Default::default() };
            policy(network).unwrap().closed
        };
        assert!(closed(true) && !closed(false));
    }
}
