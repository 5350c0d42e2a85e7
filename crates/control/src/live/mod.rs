//! What subscribers are shown of an event: the thing itself as it is now, in the API's own shape. Live views and
//! webhooks use the same. Above the subjects (it reads all of them), below `http`.

mod object;

use atoll_model::api::events::{Event, Resource};

use crate::db::{Db, DbError};
use crate::events::store::Row;

/// The event as it is told.
pub async fn event(db: &Db, row: &Row) -> Result<Event, DbError> {
    let kind = row.kind.split('.').next().unwrap_or_default().to_owned();
    let team = row.team_id.as_ref().map(|team| &team.0);
    let object = object::now(db, &kind, &row.subject_id, team).await?;
    Ok(Event {
        id: row.id,
        kind: row.kind.clone(),
        team_id: team.cloned(),
        created_at: row.at.to_utc(),
        resource: Resource { kind, id: row.subject_id.clone() },
        object,
    })
}
