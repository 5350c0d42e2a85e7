//! Secrets in headers that hosts add to sandboxes' requests: `Bearer ${secrets.openai}`; and tokens of sandboxes' own
//! identities (`identities`): `Bearer ${identity.aws}`.
//!
//! What is stored and shown are the names; secrets are filled in on the way to the host, tokens by the host.

use std::collections::{BTreeMap, BTreeSet};

use atoll_model::api::sandboxes::AddedHeader;
use atoll_model::{SandboxId, TeamId};
use atoll_rpc::atoll::host::v1 as wire;
use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

use super::{SecretError, Secrets};

const SECRET: &str = "${secrets.";
pub(super) const IDENTITY: &str = "${identity.";
const AFTER: char = '}';
const NO_VALUE: &str = "\n";

/// A header with its secrets in it. Shows no value.
#[derive(Debug, Clone)]
pub struct Filled {
    domain: String,
    name: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(SecretString),
    /// The name of an identity, of which the host asks for tokens.
    Identity(String),
}

impl Filled {
    /// For this sandbox.
    #[must_use]
    pub fn to_wire(&self, id: &SandboxId) -> wire::AddedHeader {
        let mut header = wire::AddedHeader {
            domain: self.domain.to_ascii_lowercase(),
            name: self.name.clone(),
            ..Default::default()
        };
        if self.parts.iter().all(|part| matches!(part, Part::Text(_))) {
            header.value = self.text_with("");
            return header;
        }
        header.sandbox_id = id.to_string();
        // No header's value: an agent that knows of no parts refuses it, and sends nothing in its place.
        NO_VALUE.clone_into(&mut header.value);
        let part = |part: &Part| match part {
            Part::Text(text) => wire::HeaderPart { text: text.expose_secret().to_owned(), ..Default::default() },
            Part::Identity(name) => wire::HeaderPart { identity: name.clone(), ..Default::default() },
        };
        header.parts = self.parts.iter().map(part).collect();
        header
    }

    /// The value with this text for each token.
    fn text_with(&self, token: &str) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => text.expose_secret().to_owned(),
            Part::Identity(_) => token.to_owned(),
        };
        self.parts.iter().map(text).collect()
    }
}

/// A text in pieces.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Plain(&'a str),
    /// The name of a secret.
    Secret(&'a str),
    /// The name of an identity.
    Identity(&'a str),
}

/// The pieces of a value; nothing when a placeholder in it has no end.
#[must_use]
pub fn pieces(value: &str) -> Option<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    let mut rest = value;
    let next = |text: &str| {
        let found = |before: &'static str| Some((text.find(before)?, before));
        [SECRET, IDENTITY].into_iter().filter_map(found).min()
    };
    while let Some((at, before)) = next(rest) {
        let (plain, behind) = rest.split_at(at);
        let (name, behind) = behind[before.len()..].split_once(AFTER)?;
        if !plain.is_empty() {
            pieces.push(Piece::Plain(plain));
        }
        pieces.push(if before == SECRET { Piece::Secret(name) } else { Piece::Identity(name) });
        rest = behind;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Plain(rest));
    }
    Some(pieces)
}

/// The names of the secrets in a value.
#[must_use]
pub fn secret_names(value: &str) -> Vec<&str> {
    let name = |piece| match piece {
        Piece::Secret(name) => Some(name),
        Piece::Plain(_) | Piece::Identity(_) => None,
    };
    pieces(value).unwrap_or_default().into_iter().filter_map(name).collect()
}

/// The names of the identities in a value.
#[must_use]
pub fn identity_names(value: &str) -> Vec<&str> {
    let name = |piece| match piece {
        Piece::Identity(name) => Some(name),
        Piece::Plain(_) | Piece::Secret(_) => None,
    };
    pieces(value).unwrap_or_default().into_iter().filter_map(name).collect()
}

impl Secrets {
    /// The headers with the team's secrets in them, as they are now.
    ///
    /// # Errors
    /// [`SecretError`].
    pub async fn fill(&self, team: &TeamId, headers: &[AddedHeader]) -> Result<Vec<Filled>, SecretError> {
        let split: Vec<_> = headers.iter().map(|header| pieces(&header.value).unwrap_or_default()).collect();
        let names: BTreeSet<&str> = headers.iter().flat_map(|header| secret_names(&header.value)).collect();
        let wanted: BTreeMap<String, String> =
            names.into_iter().map(|name| (name.to_owned(), name.to_owned())).collect();
        let secrets = self.environment(team, &wanted).await.map_err(|error| match error {
            SecretError::NotFound(name) => SecretError::NotForHeader(name),
            error => error,
        })?;
        let filled = headers.iter().zip(split).map(|(header, pieces)| {
            let part = |piece| match piece {
                Piece::Plain(text) => Part::Text(text.into()),
                // Files end with a line.
                Piece::Secret(name) => Part::Text(
                    secrets.get(name).map_or("", |secret| secret.expose_secret().trim_end_matches(['\r', '\n'])).into(),
                ),
                Piece::Identity(name) => Part::Identity(name.to_owned()),
            };
            let parts = pieces.into_iter().map(part).collect();
            let filled = Filled { domain: header.domain.clone(), name: header.name.clone(), parts };
            if HeaderValue::from_str(&filled.text_with("token")).is_err() {
                return Err(SecretError::Unfit { header: header.name.clone() });
            }
            Ok(filled)
        });
        filled.collect()
    }

    /// The same without those that can't be filled any more, as when their secret has been deleted: what a sandbox may
    /// reach must not stay as it was for that.
    ///
    /// # Errors
    /// [`SecretError`], but for what a header lacks.
    pub async fn fill_what_can_be(&self, team: &TeamId, headers: &[AddedHeader]) -> Result<Vec<Filled>, SecretError> {
        let mut left = headers.to_vec();
        loop {
            let before = left.len();
            match self.fill(team, &left).await {
                Err(SecretError::NotForHeader(gone)) => {
                    left.retain(|header| !secret_names(&header.value).contains(&gone.as_str()));
                }
                Err(SecretError::Unfit { header: unfit }) => left.retain(|header| header.name != unfit),
                other => return other,
            }
            if left.len() == before {
                return Ok(Vec::new());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_is_split_at_the_names_of_secrets() {
        assert_eq!(pieces("Bearer ${secrets.a}").unwrap(), [Piece::Plain("Bearer "), Piece::Secret("a")]);
        assert_eq!(
            pieces("${secrets.a}:${secrets.b}!").unwrap(),
            [Piece::Secret("a"), Piece::Plain(":"), Piece::Secret("b"), Piece::Plain("!")]
        );
        assert_eq!(
            pieces("${identity.a b}, ${secrets.c}").unwrap(),
            [Piece::Identity("a b"), Piece::Plain(", "), Piece::Secret("c")]
        );
        assert_eq!(pieces("$HOME ${x}").unwrap(), [Piece::Plain("$HOME ${x}")]);
        assert_eq!(pieces("").unwrap(), []);
        assert_eq!(pieces("x ${secrets.a"), None);
    }

    proptest! {
        #[test]
        fn pieces_are_all_of_the_text(value in "([a-z${}.]|\\$\\{secrets\\.|\\$\\{identity\\.){0,30}") {
            if let Some(pieces) = pieces(&value) {
                let joined: String = pieces
                    .iter()
                    .map(|piece| match piece {
                        Piece::Plain(text) => (*text).to_owned(),
                        Piece::Secret(name) => format!("{SECRET}{name}{AFTER}"),
                        Piece::Identity(name) => format!("{IDENTITY}{name}{AFTER}"),
                    })
                    .collect();
                prop_assert_eq!(joined, value);
            }
        }
    }
}
