//! What can go wrong with hosts and their credentials.

use atoll_model::api::hosts::HostTombstone;

use super::holdings::Holdings;
use crate::db::DbError;
use crate::pki::PkiError;
use crate::signing::SigningError;

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Credentials that are bad, expired or revoked; never said which.
    #[error("the host's credentials are not accepted")]
    Unauthorized,
    /// Valid credentials of another host.
    #[error("a host may act for itself alone")]
    Forbidden,
    #[error("there is no such host")]
    NotFound,
    /// The host was deleted; this proves it.
    #[error("the host was deleted")]
    Deleted(Box<HostTombstone>),
    /// A field of the request is wrong.
    #[error("{message}")]
    Invalid { field: &'static str, message: String },
    /// Not in this state.
    #[error("{0}")]
    InvalidState(&'static str),
    /// It can't be deleted without force.
    #[error("the host has what would be lost with it")]
    HasSandboxes(Box<Holdings>),
    #[error("too many heartbeats are waiting to be written")]
    Overloaded,
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Pki(PkiError),
    #[error(transparent)]
    Token(#[from] SigningError),
}

impl From<PkiError> for HostError {
    fn from(error: PkiError) -> Self {
        match error {
            PkiError::BadRequest(what) => Self::Invalid { field: "csr", message: format!("not acceptable: {what}") },
            other => Self::Pki(other),
        }
    }
}
