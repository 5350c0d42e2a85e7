//! A team's webhooks. Members see them; making, changing, testing and deleting them takes the role admin.

use atoll_model::api::Page;
use atoll_model::api::auth::Role;
use atoll_model::api::events::{Event, Resource};
use atoll_model::api::webhooks::{CreateWebhookRequest, Delivery, UpdateWebhookRequest, Webhook};
use atoll_model::{ErrorCode, WebhookId};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::User;
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json, Query};
use super::page::{Cursor, PageQuery, page};
use super::{idempotent, validate};
use crate::accounts::{LoginError, rate};
use crate::app::App;
use crate::audit::{self, Actor, Entry};
use crate::db::{Millis, Text, Tx};
use crate::webhooks::{self, DeliveryRow, Target, WebhookRow, store};

const MAX_URL: usize = 2000;
const MAX_EVENTS: usize = 32;
const KINDS: [&str; 8] = ["sandbox", "host", "template", "snapshot", "api_key", "team", "member", "webhook"];

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, update, delete))
        .routes(routes!(secret))
        .routes(routes!(test))
        .routes(routes!(deliveries))
}

fn check_url(app: &App, url: &str) -> ApiResult<()> {
    validate::line("url", url, MAX_URL)?;
    app.webhooks.sender.check(url).map_err(|error| ApiError::invalid("url", error.to_string()))
}

fn check_events(events: &[String]) -> ApiResult<()> {
    if events.len() > MAX_EVENTS {
        return Err(ApiError::invalid("events", format!("must be at most {MAX_EVENTS}")));
    }
    for event in events {
        let (kind, what) = event.split_once('.').unwrap_or((event, "created"));
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if !KINDS.contains(&kind) || !plain(what) || event.len() > 64 {
            let message = format!("`{event}` is neither a kind ({}) nor a type like sandbox.deleted", KINDS.join(", "));
            return Err(ApiError::invalid("events", message));
        }
    }
    Ok(())
}

async fn found(app: &App, user: &User, id: &WebhookId) -> ApiResult<WebhookRow> {
    store::get(&app.db, &user.team, id).await?.ok_or_else(|| ApiError::not_found("webhook"))
}

/// What the audit trail says of an address: not its path, which often holds a token.
fn trailed(url: &str) -> Option<String> {
    Target::parse(url).ok().map(|target| target.without_path())
}

/// A secret as it is kept.
fn sealed(app: &App, user: &User, id: &WebhookId, secret: &str) -> ApiResult<String> {
    let sealed = webhooks::sealed::seal(app.secrets.cipher(), &user.team, id, secret);
    sealed.ok_or_else(|| ApiError::internal("a webhook's secret could not be encrypted"))
}

async fn record(
    tx: &mut Tx,
    user: &User,
    action: &'static str,
    id: &WebhookId,
    details: Value,
    now: Millis,
) -> ApiResult<()> {
    let actor: Actor = user.actor();
    let entry = Entry {
        team: Some(&user.team),
        actor: &actor,
        origin: &user.origin,
        action,
        target_kind: "webhook",
        target_id: Some(id.as_str()),
        result: "ok",
        details,
    };
    Ok(audit::record(tx, now, &entry).await?)
}

/// Lists the team's webhooks, oldest first.
#[utoipa::path(get, path = "/v1/webhooks", tag = "webhooks", params(PageQuery),
    responses((status = 200, body = Page<Webhook>)), security(("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    user: User,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<Webhook>>> {
    let limit = query.limit()?;
    let after = query.cursor()?.unwrap_or(Cursor { at: Millis(i64::MIN), id: String::new() });
    let rows = store::list(&app.db, &user.team, (after.at, &after.id), limit as i64 + 1).await?;
    let cursor = |row: &WebhookRow| Cursor { at: row.created_at, id: row.id.to_string() };
    Ok(axum::Json(page(rows, limit, cursor, WebhookRow::into_api)))
}

/// Makes a webhook: events from now on are sent to it. Its secret is in this answer and never again.
#[utoipa::path(post, path = "/v1/webhooks", tag = "webhooks", request_body = CreateWebhookRequest,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Webhook), (status = 409), (status = 429)), security(("bearer" = [])))]
pub async fn create(
    State(app): State<App>,
    user: User,
    headers: HeaderMap,
    Json(request): Json<CreateWebhookRequest>,
) -> ApiResult<Response> {
    user.at_least(Role::Admin)?;
    check_url(&app, &request.url)?;
    check_events(&request.events)?;
    let key = idempotent::key(&headers, &user.keys_owner(), "webhooks", &request)?;
    let worker = app.clone();
    let work = async move {
        let (now, id, secret) = (worker.clock.now(), WebhookId::new(), webhooks::new_secret());
        let row = WebhookRow {
            team_id: Text(user.team.clone()),
            url: request.url,
            events: webhooks::wanted(&request.events),
            secret: sealed(&worker, &user, &id, &secret)?,
            id: Text(id),
            former_secret: None,
            former_secret_until: None,
            enabled: true,
            disabled_reason: None,
            failing_since: None,
            after_event: crate::events::store::last(&worker.db).await?,
            created_by: Some(Text(user.id.clone())),
            created_at: now,
            updated_at: now,
        };
        let mut tx = worker.db.begin().await?;
        if store::count(&mut tx, &user.team).await? >= webhooks::MAX_WEBHOOKS {
            let message = format!("a team can have at most {} webhooks", webhooks::MAX_WEBHOOKS);
            return Err(ApiError::new(ErrorCode::QuotaExceeded, message)
                .with_detail("quota", "webhooks")
                .with_detail("used", webhooks::MAX_WEBHOOKS)
                .with_detail("limit", webhooks::MAX_WEBHOOKS)
                .with_retry_after(std::time::Duration::from_secs(60)));
        }
        store::insert(&mut tx, &row).await?;
        let details = json!({ "after": { "url": trailed(&row.url), "events": row.events } });
        record(&mut tx, &user, "webhook.create", &row.id, details, now).await?;
        tx.commit().await?;
        Ok(Webhook { secret: Some(secret), ..row.into_api() })
    };
    idempotent::once(&app, key, StatusCode::CREATED, work, |made| Webhook { secret: None, ..made.clone() }).await
}

/// One webhook.
#[utoipa::path(get, path = "/v1/webhooks/{id}", tag = "webhooks", params(("id" = WebhookId, Path)),
    responses((status = 200, body = Webhook)), security(("bearer" = [])))]
pub async fn get(State(app): State<App>, user: User, Id(id): Id<WebhookId>) -> ApiResult<axum::Json<Webhook>> {
    Ok(axum::Json(found(&app, &user, &id).await?.into_api()))
}

/// Changes a webhook. Enabling it again forgets that it failed; what happened in between is not sent.
#[utoipa::path(patch, path = "/v1/webhooks/{id}", tag = "webhooks", params(("id" = WebhookId, Path)),
    request_body = UpdateWebhookRequest, responses((status = 200, body = Webhook)), security(("bearer" = [])))]
pub async fn update(
    State(app): State<App>,
    user: User,
    Id(id): Id<WebhookId>,
    Json(request): Json<UpdateWebhookRequest>,
) -> ApiResult<axum::Json<Webhook>> {
    let before = found(&app, &user, &id).await?;
    user.at_least(Role::Admin)?;
    let mut after = before.clone();
    if let Some(url) = request.url {
        check_url(&app, &url)?;
        after.url = url;
    }
    if let Some(events) = request.events {
        check_events(&events)?;
        after.events = webhooks::wanted(&events);
    }
    if let Some(enabled) = request.enabled {
        if enabled && !before.enabled {
            after.after_event = crate::events::store::last(&app.db).await?;
            (after.failing_since, after.disabled_reason) = (None, None);
        }
        after.enabled = enabled;
    }
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    if !store::update(&mut tx, &after, now).await? {
        return Err(ApiError::not_found("webhook"));
    }
    let shown = |row: &WebhookRow| json!({ "url": trailed(&row.url), "events": row.events, "enabled": row.enabled });
    let details = json!({
        "before": shown(&before),
        "after": shown(&after),
        "url_changed": before.url != after.url,
    });
    record(&mut tx, &user, "webhook.update", &id, details, now).await?;
    tx.commit().await?;
    Ok(axum::Json(found(&app, &user, &id).await?.into_api()))
}

/// Gives a webhook a new secret, which is in this answer and never again. For 24 hours deliveries are signed with both, so
/// that whoever checks them can change over.
#[utoipa::path(post, path = "/v1/webhooks/{id}/secret", tag = "webhooks", params(("id" = WebhookId, Path)),
    responses((status = 200, body = Webhook)), security(("bearer" = [])))]
pub async fn secret(State(app): State<App>, user: User, Id(id): Id<WebhookId>) -> ApiResult<axum::Json<Webhook>> {
    found(&app, &user, &id).await?;
    user.at_least(Role::Admin)?;
    let (now, secret) = (app.clock.now(), webhooks::new_secret());
    let mut tx = app.db.begin().await?;
    let kept = sealed(&app, &user, &id, &secret)?;
    if !store::set_secret(&mut tx, &user.team, &id, &kept, now + webhooks::SECRETS_OVERLAP, now).await? {
        return Err(ApiError::not_found("webhook"));
    }
    record(&mut tx, &user, "webhook.secret", &id, json!({}), now).await?;
    tx.commit().await?;
    Ok(axum::Json(Webhook { secret: Some(secret), ..found(&app, &user, &id).await?.into_api() }))
}

/// Deletes a webhook with its deliveries.
#[utoipa::path(delete, path = "/v1/webhooks/{id}", tag = "webhooks", params(("id" = WebhookId, Path)),
    responses((status = 204)), security(("bearer" = [])))]
pub async fn delete(State(app): State<App>, user: User, Id(id): Id<WebhookId>) -> ApiResult<StatusCode> {
    found(&app, &user, &id).await?;
    user.at_least(Role::Admin)?;
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    let url = store::delete(&mut tx, &user.team, &id).await?.ok_or_else(|| ApiError::not_found("webhook"))?;
    record(&mut tx, &user, "webhook.delete", &id, json!({ "before": { "url": trailed(&url) } }), now).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends a test event now, once, and answers what came of it.
#[utoipa::path(post, path = "/v1/webhooks/{id}/test", tag = "webhooks", params(("id" = WebhookId, Path)),
    responses((status = 200, body = Delivery), (status = 429)), security(("bearer" = [])))]
pub async fn test(State(app): State<App>, user: User, Id(id): Id<WebhookId>) -> ApiResult<axum::Json<Delivery>> {
    let hook = found(&app, &user, &id).await?;
    user.at_least(Role::Admin)?;
    let now = app.clock.now();
    if let Some(wait) = app.accounts.rates().take(&rate::WEBHOOK_TEST.of(id.as_str()), now).await? {
        return Err(LoginError::TooMany(wait).into());
    }
    let event = Event {
        id: 0,
        kind: "webhook.test".to_owned(),
        team_id: Some(user.team.clone()),
        created_at: now.to_utc(),
        resource: Resource { kind: "webhook".to_owned(), id: id.to_string() },
        object: serde_json::to_value(hook.clone().into_api()).ok(),
    };
    let body = serde_json::to_string(&event).map_err(ApiError::internal)?;
    let mut delivery = webhooks::delivery(&hook, None, &event.kind, body, now);
    // Nobody else finds it due.
    delivery.next_at = Millis(i64::MAX);
    let mut tx = app.db.begin().await?;
    store::insert_delivery(&mut tx, &delivery).await?;
    record(&mut tx, &user, "webhook.test", &id, json!({}), now).await?;
    tx.commit().await?;
    let sent = delivery.id.0.clone();
    app.webhooks.deliver(delivery).await?;
    let row = store::delivery(&app.db, &sent).await?.ok_or_else(|| ApiError::not_found("delivery"))?;
    Ok(axum::Json(row.into_api()))
}

/// What was sent to a webhook, newest first, for a week.
#[utoipa::path(get, path = "/v1/webhooks/{id}/deliveries", tag = "webhooks",
    params(("id" = WebhookId, Path), PageQuery), responses((status = 200, body = Page<Delivery>)),
    security(("bearer" = [])))]
pub async fn deliveries(
    State(app): State<App>,
    user: User,
    Id(id): Id<WebhookId>,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<Delivery>>> {
    let limit = query.limit()?;
    let before = query.cursor()?.unwrap_or(Cursor { at: Millis(i64::MAX), id: String::new() });
    found(&app, &user, &id).await?;
    let rows = store::deliveries(&app.db, &id, (before.at, &before.id), limit as i64 + 1).await?;
    let cursor = |row: &DeliveryRow| Cursor { at: row.created_at, id: row.id.to_string() };
    Ok(axum::Json(page(rows, limit, cursor, DeliveryRow::into_api)))
}
