//! Why a change of a team was refused.

use atoll_model::api::auth::Role;

use super::store::Possessions;
use crate::db::DbError;

#[derive(Debug, thiserror::Error)]
pub enum TeamError {
    /// There is no such team, or the caller is not in it.
    #[error("there is no such team")]
    NotFound,
    #[error("this takes the role {} in the team", .0.as_str())]
    Role(Role),
    /// Only an owner makes, changes or removes an owner.
    #[error("only an owner of the team may do this to an owner")]
    OwnersOnly,
    #[error("a team needs an owner: make somebody else an owner first")]
    LastOwner,
    #[error("the team still has things; remove them first")]
    Occupied(Possessions),
    #[error("another team has this slug")]
    SlugTaken,
    #[error("one can be in at most {0} teams")]
    TooManyTeams(i64),
    #[error("a team can have at most {0} members")]
    TooManyMembers(i64),
    #[error("there is no account with this address: invite them")]
    NoAccount,
    #[error("this person is not in the team")]
    NoMember,
    #[error("this person is in the team already")]
    AlreadyMember,
    #[error("turn this off when the team has no byoc hosts left")]
    HasHosts { hosts: i64 },
    #[error(transparent)]
    Db(#[from] DbError),
}
