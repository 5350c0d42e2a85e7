//! SQL of teams as their members see them.

use atoll_model::api::auth::Team;
use atoll_model::{TeamId, UserId};

use crate::accounts::store::RoleName;
use crate::db::{Db, DbError, During, Millis, Text, on};

#[derive(sqlx::FromRow)]
pub struct TeamRow {
    pub id: Text<TeamId>,
    pub name: String,
    pub slug: String,
    pub is_byoc: bool,
    pub created_at: Millis,
    pub role: Text<RoleName>,
}

impl TeamRow {
    /// The answer's shape.
    #[must_use]
    pub fn into_api(self) -> Team {
        Team {
            id: self.id.0,
            name: self.name,
            slug: self.slug,
            is_byoc: self.is_byoc,
            created_at: self.created_at.to_utc(),
            role: self.role.0.0,
        }
    }
}

/// A page of the teams that `user` is a member of, by id, after `after`.
pub async fn of_user(db: &Db, user: &UserId, after: &str, limit: i64) -> Result<Vec<TeamRow>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT t.id, t.name, t.slug, t.is_byoc, t.created_at, m.role
         FROM team_members m JOIN teams t ON t.id = m.team_id
         WHERE m.user_id = $1 AND t.id > $2 ORDER BY t.id LIMIT $3",
    )
    .bind(user.as_str())
    .bind(after)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("list a user's teams")
}
