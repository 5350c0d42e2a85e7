//! Where control is, from the server's address as the user wrote it.

use http::Uri;
use http::uri::Scheme;

/// A parsed server address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    /// Whether a public certificate may stand in front.
    https: bool,
    /// Path before `/v1`, without a slash at its end.
    base: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a server address: expected http://HOST:PORT or https://HOST")]
pub struct BadEndpoint(String);

impl Endpoint {
    /// # Errors
    /// When the text is not an http or https address.
    pub fn parse(text: &str) -> Result<Self, BadEndpoint> {
        let bad = || BadEndpoint(text.to_owned());
        let uri: Uri = text.trim().parse().map_err(|_| bad())?;
        let https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(bad()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        Ok(Self { host, port, https, base: uri.path().trim_end_matches('/').to_owned() })
    }

    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The name for which a public certificate is accepted.
    #[must_use]
    pub fn public_name(&self) -> Option<&str> {
        self.https.then_some(self.host.as_str())
    }

    /// `host:port`, as a `Host` header has it.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// A path below the server's.
    #[must_use]
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The address of a path below the server's.
    #[must_use]
    pub fn uri(&self, path: &str) -> String {
        format!("https://{}{}{path}", self.authority(), self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let plain = Endpoint::parse("http://127.0.0.1:7700/").unwrap();
        assert_eq!((plain.host(), plain.port(), plain.public_name()), ("127.0.0.1", 7700, None));
        let public = Endpoint::parse("https://atoll.example/ring").unwrap();
        assert_eq!(public.uri("/v1/x"), "https://atoll.example:443/ring/v1/x");
        assert_eq!(public.public_name(), Some("atoll.example"));
        assert_eq!(Endpoint::parse("http://[::1]:80").unwrap().authority(), "[::1]:80");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "atoll", "ftp://x", "unix:///run/x", "http://"] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }
}
