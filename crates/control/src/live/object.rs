//! The API's object of a thing, by kind and id. Without what only its creator or a platform admin may see.

use atoll_model::{ApiKeyId, HostId, SandboxId, TeamId, UserId};
use serde::Serialize;
use serde_json::Value;

use crate::db::{Db, DbError};
use crate::{api_keys, hosts, sandboxes, teams, templates, webhooks};

fn shown(object: Option<impl Serialize>) -> Option<Value> {
    object.and_then(|object| serde_json::to_value(object).ok())
}

/// The thing as it is now; none when it is gone.
pub async fn now(db: &Db, kind: &str, id: &str, team: Option<&TeamId>) -> Result<Option<Value>, DbError> {
    Ok(match kind {
        "sandbox" => {
            let Ok(id) = id.parse::<SandboxId>() else { return Ok(None) };
            shown(sandboxes::store::get_any(db, &id).await?.map(|row| row.to_api()))
        }
        "host" => {
            let Ok(id) = id.parse::<HostId>() else { return Ok(None) };
            shown(hosts::store::get(db, &id).await?.map(|row| row.to_api()))
        }
        "template" | "snapshot" => shown(templates::store::by_id(db, id).await?.map(|row| row.to_api())),
        "api_key" => {
            let Ok(id) = id.parse::<ApiKeyId>() else { return Ok(None) };
            shown(api_keys::get(db, &id).await?.map(api_keys::KeyRow::into_api))
        }
        "team" => {
            let Ok(id) = id.parse::<TeamId>() else { return Ok(None) };
            let mut team = shown(teams::store::get(db, &id, None).await?.map(teams::TeamRow::into_api));
            // Each reader has their own.
            if let Some(Value::Object(team)) = &mut team {
                team.remove("role");
            }
            team
        }
        "member" => {
            let (Ok(id), Some(team)) = (id.parse::<UserId>(), team) else { return Ok(None) };
            shown(teams::store::member_now(db, team, &id).await?.map(teams::MemberRow::into_api))
        }
        "webhook" => shown(webhooks::store::get_any(db, id).await?.map(webhooks::WebhookRow::into_api)),
        _ => None,
    })
}
