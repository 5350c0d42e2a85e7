//! A server's address: scheme, host, port and base path.

use std::fmt;

use crate::Error;

/// `http://127.0.0.1:7420`, `https://atoll.example/base`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    tls: bool,
    host: String,
    port: u16,
    /// Empty, or begins with a slash and does not end with one.
    base: String,
}

impl Endpoint {
    /// Reads an address as a person types it; without a scheme it is taken for plain HTTP.
    pub fn parse(url: &str) -> Result<Self, Error> {
        let bad = |reason| Error::BadUrl { url: redact(url), reason };
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: http::Uri = full.parse().map_err(|_| bad("it does not read as a URL"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("only http and https are spoken")),
        };
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("credentials do not belong into it; use ATOLL_API_KEY"));
        }
        if uri.query().is_some() {
            return Err(bad("it must not have a query"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(bad("it names no host"));
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let base = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { tls, host, port, base })
    }

    #[must_use]
    pub fn tls(&self) -> bool {
        self.tls
    }

    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port` as the `Host` header has it.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (false, 80) | (true, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// The full address of `path`, which begins with a slash.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self)
    }

    /// The same with the scheme of WebSockets.
    pub(crate) fn websocket_url(&self, path: &str) -> String {
        format!("{}://{}{}{path}", if self.tls { "wss" } else { "ws" }, self.authority(), self.base)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.base)
    }
}

/// An address that may hold a password, made fit for a message.
fn redact(url: &str) -> String {
    match url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest)) {
        ("", rest) => rest.rsplit('@').next().unwrap_or_default().to_owned(),
        (scheme, rest) => format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_type_them() {
        for (typed, meant) in [
            ("127.0.0.1:7420", "http://127.0.0.1:7420"),
            ("https://atoll.example/", "https://atoll.example"),
            ("http://[::1]:7420/base/", "http://[::1]:7420/base"),
            ("https://atoll.example:8443", "https://atoll.example:8443"),
        ] {
            assert_eq!(Endpoint::parse(typed).unwrap().to_string(), meant);
        }
    }

    #[test]
    fn unusable_addresses_are_refused_without_repeating_a_password() {
        for typed in ["ftp://x", "http://", "http://u:secret@x", "http://x/?q=1", ""] {
            let error = Endpoint::parse(typed).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
