//! Ids: a prefix that says what the thing is, and 20 unguessable lower-case alphanumerics (103 bits).
//!
//! One type per kind, so that a host's id can't be passed where a sandbox's is meant. A sandbox's id has a
//! second form, `i` + the same 20 characters, for DNS labels and the E2B SDKs; both parse to the same value.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Characters after the prefix.
pub const ID_LENGTH: usize = 20;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind} id: expected `{prefix}` followed by {ID_LENGTH} lower-case letters or digits")]
pub struct IdError {
    pub kind: &'static str,
    pub prefix: &'static str,
}

fn random_tail() -> String {
    let mut rng = rand::rng();
    (0..ID_LENGTH).map(|_| ALPHABET[rng.random_range(0..ALPHABET.len())] as char).collect()
}

fn is_tail(text: &str) -> bool {
    text.len() == ID_LENGTH && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal $(, also $other:literal)?) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            /// A new random id.
            #[must_use]
            #[allow(clippy::new_without_default)]
            pub fn new() -> Self {
                Self(format!("{}{}", $prefix, random_tail()))
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The 20 characters after the prefix.
            #[must_use]
            pub fn tail(&self) -> &str {
                &self.0[$prefix.len()..]
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let tail = text.strip_prefix($prefix).filter(|tail| is_tail(tail));
                $(let tail = tail.or_else(|| text.strip_prefix($other).filter(|tail| is_tail(tail)));)?
                tail.map(|tail| Self(format!("{}{tail}", $prefix))).ok_or(IdError { kind: $kind, prefix: $prefix })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        #[cfg(feature = "openapi")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some(concat!("^", $prefix, "[a-z0-9]{20}$" $(, "|^", $other, "[a-z0-9]{20}$")?)))
                    .build()
                    .into()
            }
        }

        #[cfg(feature = "openapi")]
        impl utoipa::ToSchema for $name {}
    };
}

id_type!(/// A sandbox: `sb-…`, or `i…` in host names and for the E2B SDKs.
    SandboxId, "sb-", "sandbox", also "i");
id_type!(/// A machine that runs sandboxes.
    HostId, "host-", "host");
id_type!(/// A team: the tenant that owns sandboxes, keys and byoc hosts.
    TeamId, "team-", "team");
id_type!(/// A person.
    UserId, "user-", "user");
id_type!(/// An API key (not its secret).
    ApiKeyId, "key-", "API key");
id_type!(/// A template.
    TemplateId, "tpl-", "template");
id_type!(/// A snapshot.
    SnapshotId, "snap-", "snapshot");
id_type!(/// What a sandbox has written over its template, kept read-only.
    LayerId, "lay-", "layer");
id_type!(/// One build of a template.
    BuildId, "bld-", "build");
id_type!(/// A volume: files that outlive sandboxes.
    VolumeId, "vol-", "volume");
id_type!(/// A team's secret.
    SecretId, "sec-", "secret");
id_type!(/// An audit-log entry.
    AuditId, "log-", "audit log");
id_type!(/// An invitation into a team (not its token).
    InvitationId, "inv-", "invitation");
id_type!(/// A signed-in session of a person.
    SessionId, "ses-", "session");

id_type!(/// A webhook.
    WebhookId, "hook-", "webhook");
id_type!(/// One event on its way to one webhook.
    DeliveryId, "dlv-", "delivery");

impl SandboxId {
    /// The form for DNS labels and the E2B SDKs: `i` and the 20 characters.
    #[must_use]
    pub fn dns_label(&self) -> String {
        format!("i{}", self.tail())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_of_a_sandbox_id_are_the_same_id() {
        let id = SandboxId::new();
        assert_eq!(id.dns_label().parse::<SandboxId>().unwrap(), id);
        assert_eq!(id.to_string().parse::<SandboxId>().unwrap(), id);
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        assert!(HostId::new().as_str().parse::<SandboxId>().is_err());
        assert!("host-".parse::<HostId>().is_err());
        assert!("sb-ABCDEFGHIJKLMNOPQRST".parse::<SandboxId>().is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_accepts_only_what_it_prints(text in ".{0,40}") {
            if let Ok(id) = text.parse::<SandboxId>() {
                prop_assert!(text == id.as_str() || text == id.dns_label());
            }
        }
    }
}
