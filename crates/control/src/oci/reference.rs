//! `[registry/]repository[:tag][@sha256:digest]`, with the defaults that everybody expects.

use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Host and maybe port.
    pub registry: String,
    pub repository: String,
    /// A tag, or `sha256:` and 64 hex digits.
    pub version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an image: expected [registry/]repository[:tag], such as debian:12 or ghcr.io/owner/name:tag")]
pub struct NotAReference(String);

impl FromStr for Reference {
    type Err = NotAReference;

    fn from_str(text: &str) -> Result<Self, NotAReference> {
        let wrong = || NotAReference(text.chars().take(120).collect());
        if text.len() > 512 {
            return Err(wrong());
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let (registry, rest) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host.to_owned(), rest),
            _ => ("registry-1.docker.io".to_owned(), name),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (rest, None),
        };
        let official = registry == "registry-1.docker.io" && !path.contains('/');
        let repository = if official { format!("library/{path}") } else { path.to_owned() };
        let registry = if registry == "docker.io" { "registry-1.docker.io".to_owned() } else { registry };
        let version = digest.or(tag).unwrap_or("latest").to_owned();
        let host = registry.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':'));
        let part = |part: &str| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
            !part.is_empty() && part.bytes().all(plain) && part.bytes().next().is_some_and(|byte| byte != b'.')
        };
        let tag = |tag: &str| {
            (1..=128).contains(&tag.len())
                && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        };
        let valid =
            host && repository.split('/').all(part) && (is_digest(&version) || (digest.is_none() && tag(&version)));
        if valid { Ok(Self { registry, repository, version }) } else { Err(wrong()) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if is_digest(&self.version) { '@' } else { ':' };
        write!(f, "{}/{}{separator}{}", self.registry, self.repository, self.version)
    }
}

/// `sha256:` and 64 lower-case hex digits.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix("sha256:").is_some_and(|digest| digest.len() == 64 && digest.bytes().all(hex))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_names_get_their_usual_meaning() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, registry, repository, version) in [
            ("debian", "registry-1.docker.io", "library/debian", "latest"),
            ("owner/app:1.2", "registry-1.docker.io", "owner/app", "1.2"),
            ("docker.io/library/debian:12", "registry-1.docker.io", "library/debian", "12"),
            ("127.0.0.1:5000/test/app", "127.0.0.1:5000", "test/app", "latest"),
            ("localhost/app:x", "localhost", "app", "x"),
            (&format!("ghcr.io/a/b:tag@{digest}"), "ghcr.io", "a/b", &digest),
        ] {
            let reference: Reference = text.parse().unwrap();
            let parts = (reference.registry.as_str(), reference.repository.as_str(), reference.version.as_str());
            assert_eq!(parts, (registry, repository, version));
        }
    }

    #[test]
    fn what_could_be_something_else_is_refused() {
        for text in
            ["", "UPPER", "a/../b", "a//b", "reg.io/a?x=1", "a:b c", "a@sha256:1", "a@md5:1", "reg.io/", "a b/c"]
        {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_reference_is_what_it_prints(text in "[a-zA-Z0-9./:@_-]{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }
    }
}
