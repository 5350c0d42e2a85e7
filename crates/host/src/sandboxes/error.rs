//! Why an order about a sandbox was not carried out.

use super::record::State;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("{field}: {problem}")]
    Invalid { field: &'static str, problem: String },
    /// What the spec asks for is not to be had on this host.
    #[error("{what} is not available on this host: {problem}")]
    Unsupported { what: &'static str, problem: String },
    #[error("there is no sandbox {id} on this host")]
    NotFound { id: String },
    /// An order that was overtaken by a newer one.
    #[error("the order has generation {generation}, but generation {highest} has been seen: it is too old")]
    Stale { generation: u64, highest: u64 },
    /// A second order with the same number, but another content.
    #[error("generation {generation} has been seen with another content")]
    Conflict { generation: u64 },
    #[error("the sandbox is {state}: {wanted}", state = state.as_str())]
    WrongState { state: State, wanted: &'static str },
    /// A bound of this host is reached.
    #[error("this host is full: {reason}")]
    Full { reason: String },
    /// Too many orders at once, or no turn within the time.
    #[error("this host is busy: {reason}")]
    Busy { reason: String },
    #[error("this host takes no new work: {reason}")]
    NotAccepting { reason: String },
    /// The sandbox was destroyed while the order waited or was carried out.
    #[error("the sandbox was destroyed meanwhile")]
    Destroyed,
    #[error("{attempted}: {cause}")]
    Failed { attempted: &'static str, cause: String },
}

impl OrderError {
    pub(super) fn failed(attempted: &'static str, cause: &dyn std::fmt::Display) -> Self {
        Self::Failed { attempted, cause: cause.to_string() }
    }
}
