//! Teams: the tenants. A team owns sandboxes, API keys and byoc hosts; people belong to it with a role.
//!
//! `lifecycle` makes, renames and deletes teams, `membership` has the rules of who may make whom what, `store` the SQL.
//! Every change locks the team's row first and reads the caller's role under that lock, so that two changes at once
//! can't leave a team without an owner, and writes its audit entry in the same transaction.
//!
//! Nobody is ever without a team: who loses the last one gets one of their own in the same transaction.

mod error;
mod lifecycle;
mod membership;
pub mod store;
#[cfg(test)]
mod tests;

use atoll_model::TeamId;
use atoll_model::api::auth::Role;

pub use error::TeamError;
pub use lifecycle::{create, delete, set_network, update};
pub use membership::{add, join, may_add, must_be_admin, remove, set_role};
pub use store::{MemberRow, TeamRow, of_user};

use crate::audit::{Actor, Entry, Origin};

/// Teams that one person may be in.
pub const MAX_TEAMS: i64 = 100;
/// People in one team.
pub const MAX_MEMBERS: i64 = 10_000;

/// The person who asks for a change.
#[derive(Debug, Clone)]
pub struct Asker {
    pub id: atoll_model::UserId,
    /// A platform admin counts as an owner of every team.
    pub is_admin: bool,
    pub origin: Origin,
}

impl Asker {
    #[must_use]
    pub fn actor(&self) -> Actor {
        Actor::User(self.id.clone())
    }
}

fn at_least(has: Role, needed: Role) -> Result<(), TeamError> {
    if has >= needed { Ok(()) } else { Err(TeamError::Role(needed)) }
}

fn entry<'a>(
    team: &'a TeamId,
    asker: &'a Asker,
    actor: &'a Actor,
    action: &'static str,
    target: (&'static str, &'a str),
    details: serde_json::Value,
) -> Entry<'a> {
    Entry {
        team: Some(team),
        actor,
        origin: &asker.origin,
        action,
        target_kind: target.0,
        target_id: Some(target.1),
        result: "ok",
        details,
    }
}
