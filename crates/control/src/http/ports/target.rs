//! Where a request into a sandbox goes: by its host name, or by two headers where the host name can say nothing.
//!
//! The headers count where the host is no name below the domain (`localhost`, an IP address, a server's name on a network
//! of its own) or is `sandbox.<domain>`; the domain itself and names like `api.<domain>` are the API's. A page cannot make a
//! browser send them to another address without asking first, and that question (a CORS preflight) bears no headers and so
//! goes to the API, which refuses.

use std::net::IpAddr;

use atoll_model::SandboxId;
use axum::http::header::HOST;
use axum::http::{HeaderMap, Request};

use super::refusal::Refusal;

const ID_HEADER: &str = "e2b-sandbox-id";
const PORT_HEADER: &str = "e2b-sandbox-port";

/// A port of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub sandbox: SandboxId,
    pub port: u16,
    /// The sandbox's id as the request wrote it.
    pub asked_for: String,
    /// The request's host name, without its port, when it names the sandbox: the place that its cookies belong to.
    pub name: Option<String>,
}

impl Target {
    /// Nothing for a request that is for the API and the dashboard.
    ///
    /// # Errors
    /// When the request is meant for a sandbox and doesn't say for which.
    pub fn of<B>(request: &Request<B>, domain: &str) -> Result<Option<Self>, Refusal> {
        let Some(host) = host_of(request) else { return Ok(None) };
        let name = plain_name(&host);
        let domain = without_port(domain).to_ascii_lowercase();
        if let Some(label) = name.strip_suffix(&domain).and_then(|rest| rest.strip_suffix('.'))
            && let Some((port, id)) = sandbox_label(label)
        {
            let mut target = Self::parse(id, port)?;
            target.name = Some(name);
            return Ok(Some(target));
        }
        if is_unnamed(&name, &domain) {
            return by_headers(request.headers(), is_shared(&name, &domain));
        }
        Ok(None)
    }

    /// Whether the request's host name says nothing of a sandbox, so that headers may, or a signature.
    pub fn is_unnamed<B>(request: &Request<B>, domain: &str) -> bool {
        host_of(request).is_some_and(|host| is_unnamed(&plain_name(&host), &without_port(domain).to_ascii_lowercase()))
    }

    fn parse(id: &str, port: &str) -> Result<Self, Refusal> {
        let sandbox = id.parse().map_err(|_| Refusal::BadSandboxId)?;
        let number = port.parse::<u16>().ok().filter(|number| *number != 0 && !port.starts_with('+'));
        let port = number.ok_or(Refusal::BadPort)?;
        Ok(Self { sandbox, port, asked_for: id.to_owned(), name: None })
    }
}

fn host_of<B>(request: &Request<B>) -> Option<String> {
    let named = request.uri().authority().map(|authority| authority.as_str());
    let host = named.or_else(|| request.headers().get(HOST).and_then(|value| value.to_str().ok()));
    host.map(str::to_owned)
}

fn plain_name(host: &str) -> String {
    without_port(host).trim_end_matches('.').to_ascii_lowercase()
}

fn is_shared(name: &str, domain: &str) -> bool {
    name.strip_prefix("sandbox.") == Some(domain)
}

fn is_unnamed(name: &str, domain: &str) -> bool {
    let below = name == domain || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    name == "localhost"
        || is_shared(name, domain)
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        || (!below && !name.is_empty())
}

/// `{port}-{id}` of a single label. What doesn't begin with a digit is some other name below the domain.
fn sandbox_label(label: &str) -> Option<(&str, &str)> {
    let (port, id) = label.split_once('-')?;
    (!label.contains('.') && port.starts_with(|c: char| c.is_ascii_digit())).then_some((port, id))
}

fn by_headers(headers: &HeaderMap, needed: bool) -> Result<Option<Target>, Refusal> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    match (text(ID_HEADER), text(PORT_HEADER)) {
        (Some(id), Some(port)) => Target::parse(id, port).map(Some),
        (None, None) if !needed => Ok(None),
        (None, _) => Err(Refusal::MissingHeader("E2b-Sandbox-Id")),
        (Some(_), None) => Err(Refusal::MissingHeader("E2b-Sandbox-Port")),
    }
}

/// A host's name without `:port`. An IPv6 address keeps its brackets.
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "abcdefghij0123456789";

    fn request(host: &str, headers: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/any/path?q").header(HOST, host).body(()).unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        request
    }

    fn of(host: &str, headers: &[(&'static str, &str)]) -> Result<Option<(SandboxId, u16)>, Refusal> {
        let target = Target::of(&request(host, headers), "sbx.test:8443")?;
        Ok(target.map(|target| (target.sandbox, target.port)))
    }

    #[test]
    fn a_host_name_names_port_and_sandbox_in_both_forms_of_the_id() {
        let id: SandboxId = format!("sb-{ID}").parse().unwrap();
        for host in [
            format!("8080-i{ID}.sbx.test"),
            format!("8080-i{ID}.sbx.test:8443"),
            format!("8080-sb-{ID}.SBX.test."),
            format!("8080-i{}.sbx.test:1", ID.to_uppercase()),
        ] {
            assert_eq!(of(&host, &[]).unwrap(), Some((id.clone(), 8080)), "{host}");
        }
    }

    #[test]
    fn other_names_are_the_apis() {
        let label = format!("8080-i{ID}");
        for host in ["sbx.test", "api.sbx.test", "a-b.sbx.test", "example.com", "127.0.0.1:7420", "[::1]:7420", ""] {
            assert_eq!(of(host, &[]).unwrap(), None, "{host}");
        }
        for host in [format!("{label}.evil.test"), format!("{label}.notsbx.test"), format!("{label}.a.sbx.test"), label]
        {
            assert_eq!(of(&host, &[]).unwrap(), None, "{host}");
        }
    }

    #[test]
    fn a_name_that_is_nearly_one_is_told_what_is_wrong_with_it() {
        assert_eq!(of("8080-inope.sbx.test", &[]), Err(Refusal::BadSandboxId));
        assert_eq!(of(&format!("0-i{ID}.sbx.test"), &[]), Err(Refusal::BadPort));
        assert_eq!(of(&format!("65536-i{ID}.sbx.test"), &[]), Err(Refusal::BadPort));
    }

    #[test]
    fn headers_count_only_where_the_name_says_nothing_and_only_both_together() {
        let id = format!("i{ID}");
        let both = [(ID_HEADER, id.as_str()), (PORT_HEADER, "49983")];
        for host in ["localhost:7420", "127.0.0.1", "[::1]:80", "sandbox.sbx.test", "atoll.lan:7420", "notsbx.test"] {
            assert_eq!(of(host, &both).unwrap().map(|it| it.1), Some(49983), "{host}");
            assert_eq!(of(host, &both[..1]), Err(Refusal::MissingHeader("E2b-Sandbox-Port")), "{host}");
            assert_eq!(of(host, &both[1..]), Err(Refusal::MissingHeader("E2b-Sandbox-Id")), "{host}");
        }
        for host in ["sbx.test", "api.sbx.test", "API.SBX.test.:8443"] {
            assert_eq!(of(host, &both).unwrap(), None, "{host}");
        }
        assert_eq!(of("atoll.lan", &[]).unwrap(), None);
        assert_eq!(of("sandbox.sbx.test", &[]), Err(Refusal::MissingHeader("E2b-Sandbox-Id")));
    }

    proptest! {
        #[test]
        fn no_host_makes_it_panic(host in "[ -~]{0,80}", id in "[ -~]{0,40}", port in "[ -~]{0,8}") {
            let Ok(request) = Request::builder().header(HOST, &host).header(ID_HEADER, &id).header(PORT_HEADER, &port)
                .body(()) else { return Ok(()) };
            let _ = Target::of(&request, "sbx.test");
        }
    }
}
