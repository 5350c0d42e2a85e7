//! Who may make whom what. An admin of a team manages members and admins; owners are made, changed and removed by
//! owners alone, and there is always one left.

use atoll_model::api::auth::Role;
use atoll_model::{TeamId, UserId};
use serde_json::json;

use super::lifecycle::rehome;
use super::store::{self, MemberRow};
use super::{Asker, MAX_MEMBERS, MAX_TEAMS, TeamError, at_least, entry};
use crate::audit;
use crate::db::{Db, Millis, Tx};

/// What `asker` may do to somebody who is `from` (if in the team) and will be `to` (if still in it).
fn may(asker: Role, from: Option<Role>, to: Option<Role>) -> Result<(), TeamError> {
    at_least(asker, Role::Admin)?;
    if asker < Role::Owner && (from == Some(Role::Owner) || to == Some(Role::Owner)) {
        return Err(TeamError::OwnersOnly);
    }
    Ok(())
}

/// Locks the team, and answers the asker's role in it.
async fn enter(tx: &mut Tx, asker: &Asker, team: &TeamId) -> Result<Role, TeamError> {
    store::lock(tx, team).await?.ok_or(TeamError::NotFound)?;
    store::role_in(tx, team, asker).await?.ok_or(TeamError::NotFound)
}

/// Makes the person with this address a member.
pub async fn add(
    db: &Db,
    asker: &Asker,
    team: &TeamId,
    email: &str,
    role: Role,
    now: Millis,
) -> Result<MemberRow, TeamError> {
    let mut tx = db.begin().await?;
    may(enter(&mut tx, asker, team).await?, None, Some(role))?;
    let user = store::user_by_email(&mut tx, email).await?.ok_or(TeamError::NoAccount)?;
    if store::member(&mut tx, team, &user).await?.is_some() {
        return Err(TeamError::AlreadyMember);
    }
    if store::count_members(&mut tx, team).await? >= MAX_MEMBERS {
        return Err(TeamError::TooManyMembers(MAX_MEMBERS));
    }
    if store::count_of_user(&mut tx, &user).await? >= MAX_TEAMS {
        return Err(TeamError::TooManyTeams(MAX_TEAMS));
    }
    store::insert_member(&mut tx, team, &user, role, now).await?;
    let made = store::member(&mut tx, team, &user).await?.ok_or(TeamError::NoMember)?;
    let details = json!({ "after": { "role": role, "email": made.email } });
    audit::record(&mut tx, now, &entry(team, asker, &asker.actor(), "member.add", ("member", user.as_str()), details))
        .await?;
    tx.commit().await?;
    Ok(made)
}

/// Whether `asker` may make the person with this address a member with that role, who is none yet.
pub async fn may_add(tx: &mut Tx, asker: &Asker, team: &TeamId, email: &str, role: Role) -> Result<(), TeamError> {
    may(enter(tx, asker, team).await?, None, Some(role))?;
    if let Some(user) = store::user_by_email(tx, email).await?
        && store::member(tx, team, &user).await?.is_some()
    {
        return Err(TeamError::AlreadyMember);
    }
    Ok(())
}

/// Whether `asker` manages the team's people.
pub async fn must_be_admin(tx: &mut Tx, asker: &Asker, team: &TeamId) -> Result<(), TeamError> {
    at_least(enter(tx, asker, team).await?, Role::Admin)
}

/// Makes somebody who was invited a member. Who is one already stays what they are.
pub async fn join(tx: &mut Tx, team: &TeamId, user: &UserId, role: Role, now: Millis) -> Result<(), TeamError> {
    store::lock(tx, team).await?.ok_or(TeamError::NotFound)?;
    if store::member(tx, team, user).await?.is_some() {
        return Ok(());
    }
    if store::count_members(tx, team).await? >= MAX_MEMBERS {
        return Err(TeamError::TooManyMembers(MAX_MEMBERS));
    }
    if store::count_of_user(tx, user).await? >= MAX_TEAMS {
        return Err(TeamError::TooManyTeams(MAX_TEAMS));
    }
    Ok(store::insert_member(tx, team, user, role, now).await?)
}

/// Gives a member another role.
pub async fn set_role(
    db: &Db,
    asker: &Asker,
    team: &TeamId,
    user: &UserId,
    role: Role,
    now: Millis,
) -> Result<MemberRow, TeamError> {
    let mut tx = db.begin().await?;
    let own = enter(&mut tx, asker, team).await?;
    at_least(own, Role::Admin)?;
    let before = store::member(&mut tx, team, user).await?.ok_or(TeamError::NoMember)?;
    let from = before.role.0.0;
    may(own, Some(from), Some(role))?;
    if from == role {
        return Ok(before);
    }
    if from == Role::Owner && store::count_owners(&mut tx, team).await? <= 1 {
        return Err(TeamError::LastOwner);
    }
    store::set_role(&mut tx, team, user, role).await?;
    let after = store::member(&mut tx, team, user).await?.ok_or(TeamError::NoMember)?;
    let details = json!({ "before": { "role": from }, "after": { "role": role } });
    audit::record(
        &mut tx,
        now,
        &entry(team, asker, &asker.actor(), "member.update", ("member", user.as_str()), details),
    )
    .await?;
    tx.commit().await?;
    Ok(after)
}

/// Removes a member; oneself (that is leaving) with any role.
pub async fn remove(db: &Db, asker: &Asker, team: &TeamId, user: &UserId, now: Millis) -> Result<(), TeamError> {
    let mut tx = db.begin().await?;
    let own = enter(&mut tx, asker, team).await?;
    let leaves = *user == asker.id;
    if !leaves {
        at_least(own, Role::Admin)?;
    }
    let before = store::member(&mut tx, team, user).await?.ok_or(TeamError::NoMember)?;
    let from = before.role.0.0;
    if !leaves {
        may(own, Some(from), None)?;
    }
    if from == Role::Owner && store::count_owners(&mut tx, team).await? <= 1 {
        return Err(TeamError::LastOwner);
    }
    rehome(&mut tx, asker, team, user, now).await?;
    store::remove_member(&mut tx, team, user).await?;
    let action = if leaves { "member.leave" } else { "member.remove" };
    let details = json!({ "before": { "role": from, "email": before.email } });
    audit::record(&mut tx, now, &entry(team, asker, &asker.actor(), action, ("member", user.as_str()), details))
        .await?;
    tx.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Role::{Admin, Member, Owner};

    #[test]
    fn owners_are_made_changed_and_removed_by_owners_alone() {
        for other in [Member, Admin, Owner] {
            assert!(may(Owner, None, Some(other)).is_ok());
            assert!(may(Owner, Some(other), None).is_ok());
            assert!(may(Member, None, Some(other)).is_err());
            assert_eq!(may(Admin, None, Some(other)).is_ok(), other != Owner);
            assert_eq!(may(Admin, Some(other), None).is_ok(), other != Owner);
            assert_eq!(may(Admin, Some(other), Some(Member)).is_ok(), other != Owner);
        }
    }
}
