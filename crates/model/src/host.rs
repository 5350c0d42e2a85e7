//! Hosts: their type and status. See docs/hosts.md for what each status means to sandboxes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::sandbox::UnknownName;

/// Whose machine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum HostType {
    /// The platform's own: runs sandboxes of every team that is not a byoc team.
    #[default]
    Regular,
    /// Brought by one team, used by that team alone.
    Byoc,
}

impl HostType {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Byoc => "byoc",
        }
    }
}

impl FromStr for HostType {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            "regular" => Ok(Self::Regular),
            "byoc" => Ok(Self::Byoc),
            _ => Err(UnknownName { kind: "host type", text: text.to_owned() }),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum HostStatus {
    /// The row is made; the agent has not registered yet.
    Pending,
    Online,
    /// Its heartbeat is stale.
    Unreachable,
    /// Shut down in order; it said so itself.
    Offline,
}

impl HostStatus {
    pub const ALL: [Self; 4] = [Self::Pending, Self::Online, Self::Unreachable, Self::Offline];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Online => "online",
            Self::Unreachable => "unreachable",
            Self::Offline => "offline",
        }
    }

    /// What a host is after a heartbeat; none when it can't have sent one, since it has not registered.
    #[must_use]
    pub const fn after_beat(self, going_offline: bool) -> Option<Self> {
        let next = if going_offline { Self::Offline } else { Self::Online };
        match self {
            Self::Pending => None,
            _ if self as u8 == next as u8 || self.can_become(next) => Some(next),
            _ => None,
        }
    }

    /// Whether this status may be followed by `next`. The one place that names every legal transition.
    #[must_use]
    pub const fn can_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Pending | Self::Unreachable | Self::Offline, Self::Online)
                | (Self::Online, Self::Unreachable | Self::Offline)
                | (Self::Unreachable, Self::Offline)
        )
    }
}

impl fmt::Display for HostStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for HostStatus {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| UnknownName { kind: "host status", text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_registration_ends_pending_and_nothing_leads_back_to_it() {
        for status in HostStatus::ALL {
            assert!(!status.can_become(HostStatus::Pending), "{status}");
            assert_eq!(HostStatus::Pending.can_become(status), status == HostStatus::Online);
            assert!(!status.can_become(status), "{status} again is no change");
        }
        assert_eq!((HostStatus::Pending.after_beat(false), HostStatus::Pending.after_beat(true)), (None, None));
    }

    proptest! {
        /// Heartbeats, farewells and silence in any order after a registration: every change is a legal one, and who is
        /// heard of is what it says.
        #[test]
        fn every_walk_of_a_host_is_legal(steps in prop::collection::vec(0_u8..3, 0..100)) {
            let mut status = HostStatus::Online;
            for step in steps {
                let next = match step {
                    0 => status.after_beat(false),
                    1 => status.after_beat(true),
                    _ => Some(HostStatus::Unreachable).filter(|next| status.can_become(*next)),
                };
                if let Some(next) = next {
                    prop_assert!(next == status || status.can_become(next), "{} to {}", status, next);
                    status = next;
                } else {
                    // Silence is news of those alone that are believed to be there.
                    prop_assert_eq!((step, status == HostStatus::Online), (2, false));
                }
            }
        }
    }
}
