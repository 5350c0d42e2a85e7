//! Hosts, for people: making, looking, renaming, draining, tagging, deleting.

use atoll_model::HostId;
use atoll_model::api::Page;
use atoll_model::api::hosts::{
    CreateHostRequest, CreateHostResponse, Host, HostDeletePreview, HostDrain, HostDrainSandbox, HostTags,
    RegistrationTokenResponse, UpdateHostRequest,
};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::User;
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json, Query};
use super::host_rights::{manageable, may_create, visible};
use super::page::{Cursor, PageQuery, page};
use super::{idempotent, validate};
use crate::app::App;
use crate::audit::{self, Actor, Entry};
use crate::db::Millis;
use crate::hosts::holdings::{self, Holdings};
use crate::hosts::{HostRow, NewHost, made_up_name, store};
use crate::reconcile::Requester;
use crate::sandboxes::{self, moves};

const MAX_TAGS: usize = 64;
const MAX_PREVIEW: usize = 1000;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(get, update, delete))
        .routes(routes!(delete_preview))
        .routes(routes!(renew_token))
        .routes(routes!(drain, drain_status))
        .routes(routes!(undrain))
        .routes(routes!(tags, add_tags, remove_tag))
}

/// Makes a host, `pending`, with a registration token that is in this answer and never again (not even in the answer
/// to a repeated request with the same `Idempotency-Key`).
#[utoipa::path(post, path = "/v1/hosts", tag = "hosts", request_body = CreateHostRequest,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = CreateHostResponse), (status = 403), (status = 404), (status = 409)),
    security(("bearer" = [])))]
pub async fn create(
    State(app): State<App>,
    user: User,
    headers: HeaderMap,
    Json(request): Json<CreateHostRequest>,
) -> ApiResult<Response> {
    for (field, text) in
        [("name", &request.name), ("provider", &request.provider), ("availability_zone", &request.availability_zone)]
    {
        text.as_deref().map_or(Ok(()), |text| validate::line(field, text, 100))?;
    }
    let team = may_create(&app, &user, request.kind, request.team_id.as_ref()).await?;
    let key = idempotent::key(&headers, &user.keys_owner(), "hosts", &request)?;
    let worker = app.clone();
    let work = async move {
        let host = NewHost {
            id: HostId::new(),
            name: request.name.unwrap_or_else(made_up_name),
            kind: request.kind,
            team,
            provider: request.provider,
            availability_zone: request.availability_zone,
            created_by: Some(user.id.clone()),
        };
        let (row, token) = worker.hosts.create(&host, &user.actor(), &user.origin).await?;
        Ok(CreateHostResponse {
            host: row.to_api(),
            registration_token: token.token,
            expires_at: token.expires_at.to_utc(),
        })
    };
    let remembered =
        |made: &CreateHostResponse| CreateHostResponse { registration_token: String::new(), ..made.clone() };
    idempotent::once(&app, key, StatusCode::CREATED, work, remembered).await
}

/// Lists hosts: admins see all, others their team's own.
#[utoipa::path(get, path = "/v1/hosts", tag = "hosts", params(PageQuery),
    responses((status = 200, body = Page<Host>)), security(("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    user: User,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<Host>>> {
    let limit = query.limit()?;
    let after = query.cursor()?.map(|cursor| cursor.id).unwrap_or_default();
    let team = if user.is_admin { None } else { Some(&user.team) };
    let rows = store::list(&app.db, team, &after, limit as i64 + 1).await?;
    let cursor = |row: &(HostRow, Option<String>)| Cursor { at: Millis(0), id: row.0.id.to_string() };
    let shown = |(row, team_name): (HostRow, Option<String>)| Host {
        team_name: if user.is_admin { team_name } else { None },
        ..row.to_api()
    };
    let mut page = page(rows, limit, cursor, shown);
    holdings::mark_drained(&app.db, &mut page.items).await?;
    Ok(axum::Json(page))
}

/// One host.
#[utoipa::path(get, path = "/v1/hosts/{id}", tag = "hosts", params(("id" = HostId, Path)),
    responses((status = 200, body = Host)), security(("bearer" = [])))]
pub async fn get(State(app): State<App>, user: User, Id(id): Id<HostId>) -> ApiResult<axum::Json<Host>> {
    let row = visible(&app, &user, &id).await?;
    Ok(axum::Json(shown(&app, &user, &row).await?))
}

/// The answer's shape; admins see the team's name.
async fn shown(app: &App, user: &User, row: &HostRow) -> ApiResult<Host> {
    let team_name = match &row.team_id {
        Some(team) if user.is_admin => store::team_name(&app.db, team).await?,
        _ => None,
    };
    let mut host = [Host { team_name, ..row.to_api() }];
    holdings::mark_drained(&app.db, &mut host).await?;
    let [host] = host;
    Ok(host)
}

/// Renames a host.
#[utoipa::path(patch, path = "/v1/hosts/{id}", tag = "hosts", params(("id" = HostId, Path)),
    request_body = UpdateHostRequest, responses((status = 200, body = Host), (status = 403)),
    security(("bearer" = [])))]
pub async fn update(
    State(app): State<App>,
    user: User,
    Id(id): Id<HostId>,
    Json(request): Json<UpdateHostRequest>,
) -> ApiResult<axum::Json<Host>> {
    let before = manageable(&app, &user, &id).await?;
    if let Some(name) = &request.name {
        validate::line("name", name, 100)?;
        let now = app.clock.now();
        let mut tx = app.db.begin().await?;
        if !store::rename(&mut tx, &id, name, now).await? {
            return Err(ApiError::not_found("host"));
        }
        let details = json!({ "before": before.name, "after": name });
        audit::record(&mut tx, now, &entry(&user, &user.actor(), &before, "host.rename", details)).await?;
        tx.commit().await?;
    }
    let row = visible(&app, &user, &id).await?;
    Ok(axum::Json(shown(&app, &user, &row).await?))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeleteQuery {
    /// Destroys the sandboxes on it too.
    #[serde(default)]
    pub force: bool,
}

/// Deletes a host. With sandboxes on it that are not stopped (paused ones live on its disk) this is refused with their
/// ids, unless forced: then they are destroyed with it. A host that can't be reached learns of it when it is back.
#[utoipa::path(delete, path = "/v1/hosts/{id}", tag = "hosts", params(("id" = HostId, Path), DeleteQuery),
    responses((status = 204), (status = 403), (status = 409)), security(("bearer" = [])))]
pub async fn delete(
    State(app): State<App>,
    user: User,
    Id(id): Id<HostId>,
    Query(query): Query<DeleteQuery>,
) -> ApiResult<StatusCode> {
    manageable(&app, &user, &id).await?;
    let requester = Requester { actor: user.actor(), origin: user.origin.clone() };
    let deletion = app.reconcile.deletion.clone();
    // In a task of its own: it is finished although the client has gone.
    let work = app.tasks.spawn(async move {
        if query.force { deletion.forced(&id, &requester).await } else { deletion.graceful(&id, &requester).await }
    });
    work.await.map_err(ApiError::internal)??;
    Ok(StatusCode::NO_CONTENT)
}

/// What a forced deletion would destroy.
#[utoipa::path(get, path = "/v1/hosts/{id}/delete-preview", tag = "hosts", params(("id" = HostId, Path)),
    responses((status = 200, body = HostDeletePreview), (status = 403)), security(("bearer" = [])))]
pub async fn delete_preview(
    State(app): State<App>,
    user: User,
    Id(id): Id<HostId>,
) -> ApiResult<axum::Json<HostDeletePreview>> {
    let row = manageable(&app, &user, &id).await?;
    let living = sandboxes::store::on_host(&app.db, &id).await?;
    let host = shown(&app, &user, &row).await?;
    let mut tx = app.db.begin().await?;
    let Holdings { volumes, images, .. } = Holdings::of(&mut tx, &id).await?;
    drop(tx);
    let sandbox_count = living.len() as u64;
    let sandboxes = living.iter().take(MAX_PREVIEW).map(|record| record.to_api()).collect();
    Ok(axum::Json(HostDeletePreview { host, sandboxes, sandbox_count, volumes, images }))
}

/// Makes a new registration token, for a host that never registered or has lost its credentials. Older ones are worth
/// nothing from now on; the credentials that the host still has are revoked when the new token is used.
#[utoipa::path(post, path = "/v1/hosts/{id}/token", tag = "hosts", params(("id" = HostId, Path)),
    responses((status = 201, body = RegistrationTokenResponse), (status = 403), (status = 409)),
    security(("bearer" = [])))]
pub async fn renew_token(
    State(app): State<App>,
    user: User,
    Id(id): Id<HostId>,
) -> ApiResult<(StatusCode, axum::Json<RegistrationTokenResponse>)> {
    manageable(&app, &user, &id).await?;
    let token = app.hosts.renew_registration(&id, &user.actor(), &user.origin).await?;
    let answer = RegistrationTokenResponse { registration_token: token.token, expires_at: token.expires_at.to_utc() };
    Ok((StatusCode::CREATED, axum::Json(answer)))
}

/// How far a host that is drained has come, and what each sandbox that is still on it waits for.
#[utoipa::path(get, path = "/v1/hosts/{id}/drain", tag = "hosts", params(("id" = HostId, Path)),
    responses((status = 200, body = HostDrain), (status = 403)), security(("bearer" = [])))]
pub async fn drain_status(State(app): State<App>, user: User, Id(id): Id<HostId>) -> ApiResult<axum::Json<HostDrain>> {
    let row = manageable(&app, &user, &id).await?;
    let holdings = Holdings::of(&mut app.db.begin().await?, &id).await?;
    let staying = moves::store::staying(&app.db, &id, MAX_PREVIEW as i64).await?;
    let one = |it: &moves::store::Staying| HostDrainSandbox {
        id: it.id.0.clone(),
        status: it.status.0,
        to_host_id: it.to_host.as_ref().map(|host| host.0.clone()),
        waits_for: moves::waits_for(it),
    };
    Ok(axum::Json(HostDrain {
        draining: row.draining,
        drained: row.draining && holdings.is_empty(),
        sandbox_count: holdings.sandboxes.len() as u64,
        sandboxes: staying.iter().map(one).collect(),
        volume_ids: holdings.volumes,
        image_ids: holdings.images,
    }))
}

/// No new sandboxes on this host from now on; what is paused on it moves to other hosts, with its files and without its
/// processes. What runs stays until it is paused or ends.
#[utoipa::path(post, path = "/v1/hosts/{id}/drain", tag = "hosts", params(("id" = HostId, Path)),
    responses((status = 200, body = Host), (status = 403), (status = 409)), security(("bearer" = [])))]
pub async fn drain(State(app): State<App>, user: User, Id(id): Id<HostId>) -> ApiResult<axum::Json<Host>> {
    set_draining(&app, &user, &id, true).await
}

/// New sandboxes on this host again. Not while it is being deleted.
#[utoipa::path(post, path = "/v1/hosts/{id}/undrain", tag = "hosts", params(("id" = HostId, Path)),
    responses((status = 200, body = Host), (status = 403), (status = 409)), security(("bearer" = [])))]
pub async fn undrain(State(app): State<App>, user: User, Id(id): Id<HostId>) -> ApiResult<axum::Json<Host>> {
    set_draining(&app, &user, &id, false).await
}

async fn set_draining(app: &App, user: &User, id: &HostId, draining: bool) -> ApiResult<axum::Json<Host>> {
    let before = manageable(app, user, id).await?;
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    if !store::set_draining(&mut tx, id, draining, now).await? {
        return Err(ApiError::conflict("the host is being deleted"));
    }
    let action = if draining { "host.drain" } else { "host.undrain" };
    audit::record(&mut tx, now, &entry(user, &user.actor(), &before, action, json!({}))).await?;
    tx.commit().await?;
    app.sandboxes.nudge_moves();
    let row = visible(app, user, id).await?;
    Ok(axum::Json(shown(app, user, &row).await?))
}

/// A host's tags.
#[utoipa::path(get, path = "/v1/hosts/{id}/tags", tag = "hosts", params(("id" = HostId, Path)),
    responses((status = 200, body = HostTags)), security(("bearer" = [])))]
pub async fn tags(State(app): State<App>, user: User, Id(id): Id<HostId>) -> ApiResult<axum::Json<HostTags>> {
    let row = visible(&app, &user, &id).await?;
    Ok(axum::Json(HostTags { tags: row.tags.0 }))
}

/// Adds tags. Those that it has already stay.
#[utoipa::path(post, path = "/v1/hosts/{id}/tags", tag = "hosts", params(("id" = HostId, Path)),
    request_body = HostTags, responses((status = 200, body = HostTags), (status = 403)), security(("bearer" = [])))]
pub async fn add_tags(
    State(app): State<App>,
    user: User,
    Id(id): Id<HostId>,
    Json(request): Json<HostTags>,
) -> ApiResult<axum::Json<HostTags>> {
    let row = manageable(&app, &user, &id).await?;
    if request.tags.len() > MAX_TAGS {
        return Err(ApiError::invalid("tags", format!("must be at most {MAX_TAGS} tags")));
    }
    for tag in &request.tags {
        validate::line("tags", tag, 64)?;
    }
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    let locked = store::lock(&mut tx, &id).await?.ok_or_else(|| ApiError::not_found("host"))?;
    let mut all = locked.tags.0;
    all.extend(request.tags.iter().cloned());
    all.sort();
    all.dedup();
    if all.len() > MAX_TAGS {
        return Err(ApiError::invalid("tags", format!("a host can have at most {MAX_TAGS} tags")));
    }
    store::set_tags(&mut tx, &id, &all, now).await?;
    audit::record(&mut tx, now, &entry(&user, &user.actor(), &row, "host.tag", json!({ "tags": request.tags })))
        .await?;
    tx.commit().await?;
    Ok(axum::Json(HostTags { tags: all }))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TagQuery {
    pub tag: String,
}

/// Removes a tag; also when the host hasn't got it.
#[utoipa::path(delete, path = "/v1/hosts/{id}/tags", tag = "hosts", params(("id" = HostId, Path), TagQuery),
    responses((status = 204), (status = 403)), security(("bearer" = [])))]
pub async fn remove_tag(
    State(app): State<App>,
    user: User,
    Id(id): Id<HostId>,
    Query(query): Query<TagQuery>,
) -> ApiResult<StatusCode> {
    let row = manageable(&app, &user, &id).await?;
    validate::line("tag", &query.tag, 64)?;
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    let locked = store::lock(&mut tx, &id).await?.ok_or_else(|| ApiError::not_found("host"))?;
    let mut left = locked.tags.0;
    left.retain(|tag| *tag != query.tag);
    store::set_tags(&mut tx, &id, &left, now).await?;
    audit::record(&mut tx, now, &entry(&user, &user.actor(), &row, "host.untag", json!({ "tag": query.tag }))).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn entry<'a>(
    user: &'a User,
    actor: &'a Actor,
    host: &'a HostRow,
    action: &'static str,
    details: serde_json::Value,
) -> Entry<'a> {
    Entry {
        team: host.team_id.as_ref().map(|team| &team.0),
        actor,
        origin: &user.origin,
        action,
        target_kind: "host",
        target_id: Some(host.id.as_str()),
        result: "ok",
        details,
    }
}
