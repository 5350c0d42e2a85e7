//! Making, renaming and deleting teams.

use atoll_model::api::auth::Role;
use atoll_model::{TeamId, UserId};
use rand::Rng;
use rand::distr::Alphanumeric;
use serde_json::json;

use super::store::{self, TeamRow};
use super::{Asker, MAX_TEAMS, TeamError, at_least, entry};
use crate::accounts::store::insert_team;
use crate::audit;
use crate::db::{Db, DbError, Millis, Tx};
use crate::sandboxes::Network;

const MAX_SLUG: usize = 40;
/// Of the random end of a slug that would be taken, or of one made of a name without a usable character.
const SLUG_TAIL: usize = 6;

/// A slug for a name, without a promise that it is free.
fn slug_of(name: &str) -> String {
    let mut slug = String::new();
    for c in name.to_lowercase().chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(MAX_SLUG - SLUG_TAIL - 1);
    slug.trim_end_matches('-').to_owned()
}

fn random_tail() -> String {
    let text = rand::rng().sample_iter(&Alphanumeric).map(char::from);
    text.filter(|c| !c.is_ascii_uppercase()).take(SLUG_TAIL).collect()
}

/// A slug that no team has.
async fn free_slug(tx: &mut Tx, name: &str) -> Result<String, DbError> {
    let plain = slug_of(name);
    let mut slug = plain.clone();
    while slug.is_empty() || store::slug_taken(tx, &slug).await? {
        slug = format!("{}-{}", if plain.is_empty() { "team" } else { &plain }, random_tail());
    }
    Ok(slug)
}

/// A new team of `owner`, in `tx`. The asker may be somebody else (who removes a person from their last team).
pub(super) async fn found(
    tx: &mut Tx,
    asker: &Asker,
    owner: &UserId,
    name: &str,
    now: Millis,
) -> Result<TeamId, TeamError> {
    let id = TeamId::new();
    let slug = free_slug(tx, name).await?;
    insert_team(tx, &id, name, &slug, owner, now).await?;
    let details = json!({ "after": { "name": name, "slug": slug, "owner": owner } });
    audit::record(tx, now, &entry(&id, asker, &asker.actor(), "team.create", ("team", id.as_str()), details)).await?;
    Ok(id)
}

/// Makes a team; the asker is its owner.
pub async fn create(db: &Db, asker: &Asker, name: &str, now: Millis) -> Result<TeamRow, TeamError> {
    let mut tx = db.begin().await?;
    if store::count_of_user(&mut tx, &asker.id).await? >= MAX_TEAMS {
        return Err(TeamError::TooManyTeams(MAX_TEAMS));
    }
    let id = found(&mut tx, asker, &asker.id, name, now).await?;
    tx.commit().await?;
    store::get(db, &id, Some(&asker.id)).await?.ok_or(TeamError::NotFound)
}

/// Renames a team. An admin of it may.
pub async fn update(
    db: &Db,
    asker: &Asker,
    team: &TeamId,
    name: Option<&str>,
    slug: Option<&str>,
    now: Millis,
) -> Result<(), TeamError> {
    let mut tx = db.begin().await?;
    let before = store::lock(&mut tx, team).await?.ok_or(TeamError::NotFound)?;
    let role = store::role_in(&mut tx, team, asker).await?.ok_or(TeamError::NotFound)?;
    at_least(role, Role::Admin)?;
    let (name, slug) = (name.unwrap_or(&before.name), slug.unwrap_or(&before.slug));
    if name == before.name && slug == before.slug {
        return Ok(());
    }
    match store::rename(&mut tx, team, name, slug, now).await {
        Err(error) if error.is_unique_violation() => return Err(TeamError::SlugTaken),
        other => other?,
    }
    let details = json!({
        "before": { "name": before.name, "slug": before.slug },
        "after": { "name": name, "slug": slug },
    });
    audit::record(&mut tx, now, &entry(team, asker, &asker.actor(), "team.update", ("team", team.as_str()), details))
        .await?;
    tx.commit().await?;
    Ok(())
}

/// Sets what new sandboxes may reach when nobody says. An admin may.
pub async fn set_network(
    db: &Db,
    asker: &Asker,
    team: &TeamId,
    network: Option<&Network>,
    now: Millis,
) -> Result<(), TeamError> {
    let mut tx = db.begin().await?;
    store::lock(&mut tx, team).await?.ok_or(TeamError::NotFound)?;
    let role = store::role_in(&mut tx, team, asker).await?.ok_or(TeamError::NotFound)?;
    at_least(role, Role::Admin)?;
    let before = store::set_network(&mut tx, team, network, now).await?;
    let audited = |network: Option<&Network>| network.map(Network::audited);
    let details = json!({
        "before": { "network": audited(before.as_ref()) }, "after": { "network": audited(network) }
    });
    let actor = asker.actor();
    audit::record(&mut tx, now, &entry(team, asker, &actor, "team.network", ("team", team.as_str()), details)).await?;
    tx.commit().await?;
    Ok(())
}

/// Deletes a team: its keys, invitations and memberships with it, and what is left of its stopped sandboxes. An owner
/// may, and only while it has no living sandbox, host, template, snapshot or volume.
pub async fn delete(db: &Db, asker: &Asker, team: &TeamId, now: Millis) -> Result<(), TeamError> {
    let mut tx = db.begin().await?;
    let before = store::lock(&mut tx, team).await?.ok_or(TeamError::NotFound)?;
    let role = store::role_in(&mut tx, team, asker).await?.ok_or(TeamError::NotFound)?;
    at_least(role, Role::Owner)?;
    let has = store::possessions(&mut tx, team).await?;
    if has.sandboxes + has.hosts + has.templates + has.volumes > 0 {
        return Err(TeamError::Occupied(has));
    }
    for member in store::member_ids(&mut tx, team).await? {
        rehome(&mut tx, asker, team, &member, now).await?;
    }
    store::delete(&mut tx, team).await?;
    let details = json!({ "before": { "name": before.name, "slug": before.slug, "is_byoc": before.is_byoc } });
    audit::record(&mut tx, now, &entry(team, asker, &asker.actor(), "team.delete", ("team", team.as_str()), details))
        .await?;
    tx.commit().await?;
    Ok(())
}

/// Prepares a person for losing `team`: what they have signed in to there moves to another team of theirs, which is
/// made if there is none.
pub(super) async fn rehome(
    tx: &mut Tx,
    asker: &Asker,
    team: &TeamId,
    user: &UserId,
    now: Millis,
) -> Result<(), TeamError> {
    let other = match store::another_team(tx, user, team).await? {
        Some(other) => other,
        None => {
            let name = store::user_name(tx, user).await?.unwrap_or_else(|| "My".to_owned());
            let name: String = format!("{name}'s team").chars().take(80).collect();
            found(tx, asker, user, &name, now).await?
        }
    };
    store::move_sessions(tx, user, team, &other).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_slug_is_always_fit_for_an_address(name in ".{0,200}") {
            let slug = slug_of(&name);
            prop_assert!(slug.len() <= MAX_SLUG);
            prop_assert!(slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert!(!slug.starts_with('-') && !slug.ends_with('-') && !slug.contains("--"));
        }
    }

    #[test]
    fn a_slug_reads_like_the_name() {
        assert_eq!(slug_of("  Research & Tools  (2) "), "research-tools-2");
        assert_eq!(slug_of("日本"), "");
    }
}
