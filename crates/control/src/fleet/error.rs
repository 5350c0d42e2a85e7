//! What can go wrong between control and a host, told apart the way callers must tell it apart: the host could not
//! be reached, it took too long, it is too busy, or it answered and said no.

use std::error::Error as StdError;
use std::sync::Arc;

use atoll_model::{ErrorCode, HostId};
use atoll_rpc::connectrpc::{ConnectError, ErrorCode as RpcCode};

use super::answer::BROKE_OFF;

/// A failed attempt to use a host. Cheap to clone: one failed dial is told to all who waited for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FleetError {
    /// There is no such host, or it has not registered yet.
    #[error("host {host} is not known or has not registered")]
    Unknown { host: HostId },
    /// It could not be reached, or the connection broke. The request may have arrived.
    #[error("host {host} could not be reached to {attempted}: {cause}")]
    Unavailable { host: HostId, attempted: String, cause: Arc<str> },
    /// It accepted the request and did not answer in time.
    #[error("host {host} did not answer in time to {attempted}")]
    Timeout { host: HostId, attempted: String },
    /// More requests are under way to this host than control allows itself.
    #[error("too many requests are under way to host {host}")]
    Overloaded { host: HostId },
    /// The sandbox stands still, and the request has not reached it.
    #[error("the sandbox is paused")]
    Paused { host: HostId },
    /// It answered, and refused or failed.
    #[error("host {host} failed to {attempted}: {} ({})", .message, .code.as_str())]
    Agent { host: HostId, attempted: String, code: RpcCode, message: String },
    /// Control's own fault, such as an address in the database that does not parse.
    #[error("control could not {attempted} on host {host}: {cause}")]
    Internal { host: HostId, attempted: String, cause: Arc<str> },
}

impl FleetError {
    /// Sorts an RPC error that came from a client of this fleet. `attempted` completes "failed to ...".
    #[must_use]
    pub fn from_rpc(host: &HostId, attempted: impl Into<String>, error: ConnectError) -> Self {
        if let Some(ours) = find(&error) {
            return ours.clone();
        }
        let (host, attempted) = (host.clone(), attempted.into());
        match error.code {
            RpcCode::DeadlineExceeded => Self::Timeout { host, attempted },
            // Without a source, `unavailable` was said by the agent itself (it is starting up or shutting down).
            RpcCode::Unavailable => Self::Unavailable { host, attempted, cause: said(&error.to_string()).into() },
            // The connection is gone, and what the agent has done of it is not known.
            RpcCode::Internal if error.message.as_deref().is_some_and(|text| text.contains(BROKE_OFF)) => {
                Self::Unavailable { host, attempted, cause: said(&error.to_string()).into() }
            }
            code => {
                let message = error.message.as_deref().map_or_else(|| code.as_str().to_owned(), said);
                Self::Agent { host, attempted, code, message }
            }
        }
    }

    /// The API's error code for it.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Unknown { .. } | Self::Unavailable { .. } => ErrorCode::HostUnavailable,
            Self::Timeout { .. } => ErrorCode::Timeout,
            Self::Paused { .. } => ErrorCode::Conflict,
            Self::Overloaded { .. } => ErrorCode::Overloaded,
            Self::Agent { .. } => ErrorCode::AgentError,
            Self::Internal { .. } => ErrorCode::Internal,
        }
    }

    /// Whether the agent certainly never saw the request, so that it may be sent again, anywhere.
    #[must_use]
    pub const fn never_arrived(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Overloaded { .. } | Self::Internal { .. } | Self::Paused { .. })
    }
}

/// Of what an agent or a guest says in its own words.
const MAX_SAID: usize = 1024;

/// The words of an agent or a guest, as they may go into logs and answers: not too many, and on one line.
#[must_use]
pub fn said(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_SAID);
    let mut said = text[..end].replace(|letter: char| letter.is_control(), " ");
    if end < text.len() {
        said.push_str(" ...");
    }
    said
}

/// Looks for one of ours in an error's chain of causes.
fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a FleetError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(ours) = error.downcast_ref::<FleetError>() {
            return Some(ours);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_an_agent_says_is_cut_and_stays_on_its_line() {
        let host = HostId::new();
        let long = format!("a\nb\x1b[31m\u{85}{}", "\u{fc}".repeat(5000));
        let error = FleetError::from_rpc(&host, "try", ConnectError::internal(long.clone()));
        let FleetError::Agent { message, .. } = &error else { panic!("{error:?}") };
        assert!(message.starts_with("a b [31m ") && message.ends_with(" ...") && message.len() < 1100, "{message}");
        let error = FleetError::from_rpc(&host, "try", ConnectError::unavailable(long));
        assert!(error.to_string().len() < 1300, "{error}");
    }

    proptest! {
        #[test]
        fn any_words_are_made_short_and_plain(text in any::<String>()) {
            let said = said(&text);
            prop_assert!(said.len() <= MAX_SAID + 4 && !said.contains(|letter: char| letter.is_control()));
            prop_assert!(text.contains(|letter: char| letter.is_control()) || text.len() > MAX_SAID || said == text);
        }
    }
}
