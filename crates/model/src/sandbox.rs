//! The sandbox state machine, as control sees it.
//!
//! ```text
//! pending -> starting -> running <-> pausing/paused/resuming
//!    any live state -> missing (its host can't be seen) -> what the host says when it is back
//!    any state but stopped -> error (reversible: the host's word wins) ; any -> stopped (final)
//! ```
//!
//! `stopped` is final. `missing` is reversible: the host can't be seen, the sandbox may well live.
//! Every legal transition is named in [`SandboxStatus::can_become`]; the database enforces it too, by
//! compare-and-set on `(status, generation)`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum SandboxStatus {
    /// The row exists; no host has been asked yet.
    Pending,
    /// A host has been asked to make it.
    Starting,
    Running,
    Pausing,
    Paused,
    Resuming,
    /// Final: nothing of it is left.
    Stopped,
    /// Its host can't be seen.
    Missing,
    /// Something went wrong; `reason` says what.
    Error,
}

impl SandboxStatus {
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Starting,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Resuming,
        Self::Stopped,
        Self::Missing,
        Self::Error,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Stopped => "stopped",
            Self::Missing => "missing",
            Self::Error => "error",
        }
    }

    /// Whether this status may be followed by `next`. The one place that names every legal transition.
    #[must_use]
    pub const fn can_become(self, next: Self) -> bool {
        use SandboxStatus::{Error, Missing, Paused, Pausing, Pending, Resuming, Running, Starting, Stopped};
        match (self, next) {
            (Stopped, _) => false,
            (_, Stopped | Error) => true,
            (Pending, Starting | Running | Paused | Missing) => true,
            (Starting, Running | Paused | Missing) => true,
            (Running, Pausing | Paused | Missing) => true,
            (Pausing, Paused | Running | Missing) => true,
            (Paused, Resuming | Running) => true,
            (Resuming, Running | Paused | Missing) => true,
            (Missing, Running | Paused | Pausing | Resuming) => true,
            (Error, Running | Paused) => true,
            _ => false,
        }
    }

    /// On its way somewhere: brought to the host's truth when it takes too long.
    #[must_use]
    pub const fn is_transitional(self) -> bool {
        matches!(self, Self::Pending | Self::Starting | Self::Pausing | Self::Resuming)
    }

    /// Becomes `missing` when its host can't be seen. `paused` ones stay `paused`.
    #[must_use]
    pub const fn goes_missing(self) -> bool {
        matches!(self, Self::Pending | Self::Starting | Self::Running | Self::Pausing | Self::Resuming)
    }

    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Stopped)
    }
}

impl fmt::Display for SandboxStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} `{text}`")]
pub struct UnknownName {
    pub kind: &'static str,
    pub text: String,
}

impl FromStr for SandboxStatus {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| UnknownName { kind: "sandbox status", text: text.to_owned() })
    }
}

/// What happens to a sandbox that has been idle for its timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum OnTimeout {
    #[default]
    Pause,
    Kill,
}

impl OnTimeout {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Kill => "kill",
        }
    }
}

impl FromStr for OnTimeout {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            "pause" => Ok(Self::Pause),
            "kill" => Ok(Self::Kill),
            _ => Err(UnknownName { kind: "on_timeout", text: text.to_owned() }),
        }
    }
}

/// What becomes of a container sandbox when its host has rebooted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum OnReboot {
    /// Started again from its disk: same id, files and address, new processes and boot id.
    #[default]
    Restart,
    /// It ends as `stopped`.
    Stop,
}

impl OnReboot {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Stop => "stop",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopped_is_final() {
        assert!(SandboxStatus::ALL.into_iter().all(|next| !SandboxStatus::Stopped.can_become(next)));
    }

    #[test]
    fn everything_else_can_be_stopped_and_only_what_lives_goes_missing() {
        for status in SandboxStatus::ALL {
            if status != SandboxStatus::Stopped {
                assert!(status.can_become(SandboxStatus::Stopped), "{status}");
            }
            assert_eq!(status.goes_missing(), status.can_become(SandboxStatus::Missing), "{status}");
        }
    }

    #[test]
    fn names_parse_to_what_they_print() {
        for status in SandboxStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert!("gone".parse::<SandboxStatus>().is_err());
    }
}
