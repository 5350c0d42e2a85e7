//! What a team used and what it may have.

use atoll_model::TeamId;
use atoll_model::api::teams::{Activity, ActivityPoint, Quotas, SetQuotasRequest, Usage};
use axum::extract::State;
use chrono::NaiveDate;
use serde::Deserialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::{Admin, Key};
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json, Query};
use super::insight::range;
use super::validate;
use crate::app::App;
use crate::audit::{self, Entry};
use crate::quotas::{self, Limits};
use crate::usage::{self, activity};

const MAX_QUOTA: u64 = 1_000_000_000_000;
/// Days that are shown when nothing is asked for.
const USUAL_DAYS: i64 = 30;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(own))
        .routes(routes!(busy))
        .routes(routes!(of_team))
        .routes(routes!(quotas, set_quotas))
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UsageQuery {
    /// The first day (UTC, `2026-11-25`); 29 days before the last when absent.
    pub from: Option<NaiveDate>,
    /// The last day; today when absent. At most 366 days in all.
    pub to: Option<NaiveDate>,
}

/// What the caller's team used per day, and what it has and may have now.
#[utoipa::path(get, path = "/v1/usage", tag = "teams", params(UsageQuery), responses((status = 200, body = Usage)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn own(
    State(app): State<App>,
    Key(owner): Key,
    Query(query): Query<UsageQuery>,
) -> ApiResult<axum::Json<Usage>> {
    answer(&app, &owner.team, &query).await
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ActivityQuery {
    /// How far back: a number and `m`, `h` or `d`, from `5m` to `30d`; `24h` when absent. An answer has some hundred points:
    /// of 5 s for an hour, of an hour for 30 days.
    #[param(example = "24h")]
    range: Option<String>,
}

/// How many of the caller's team's sandboxes ran at once, and how many started, over time.
#[utoipa::path(get, path = "/v1/usage/activity", tag = "teams", params(ActivityQuery),
    responses((status = 200, body = Activity)), security(("api_key" = []), ("bearer" = [])))]
pub async fn busy(
    State(app): State<App>,
    Key(owner): Key,
    Query(query): Query<ActivityQuery>,
) -> ApiResult<axum::Json<Activity>> {
    let now = app.clock.now();
    let span = activity::Span::new(now - range(query.range.as_deref().unwrap_or("24h"))?, now);
    let points = activity::of_team(&app.db, &owner.team, span, now).await?;
    let shown = |point: activity::Activity| ActivityPoint {
        timestamp: point.at.to_utc(),
        concurrent: point.concurrent,
        starts: point.starts,
    };
    let step_sec = u64::try_from(span.length / 1000).unwrap_or_default();
    Ok(axum::Json(Activity { points: points.into_iter().map(shown).collect(), step_sec }))
}

/// What any team used per day, and what it has and may have now.
#[utoipa::path(get, path = "/v1/admin/teams/{id}/usage", tag = "admin", params(("id" = TeamId, Path), UsageQuery),
    responses((status = 200, body = Usage)), security(("bearer" = [])))]
pub async fn of_team(
    State(app): State<App>,
    _: Admin,
    Id(id): Id<TeamId>,
    Query(query): Query<UsageQuery>,
) -> ApiResult<axum::Json<Usage>> {
    answer(&app, &id, &query).await
}

async fn answer(app: &App, team: &TeamId, query: &UsageQuery) -> ApiResult<axum::Json<Usage>> {
    let now = app.clock.now();
    let number = |date: NaiveDate| (date - NaiveDate::default()).num_days();
    let to = query.to.map_or_else(|| usage::day_of(now), number);
    let from = query.from.map_or(to - (USUAL_DAYS - 1), number);
    if to < from {
        return Err(ApiError::invalid("to", "must not be before `from`"));
    }
    if to - from >= usage::MAX_DAYS {
        return Err(ApiError::invalid("from", format!("at most {} days can be asked for", usage::MAX_DAYS)));
    }
    let quotas = current(app, team).await?;
    let days = usage::of_team(&app.db, team, from, to, now).await?;
    Ok(axum::Json(Usage { days, quotas }))
}

async fn current(app: &App, team: &TeamId) -> ApiResult<Quotas> {
    let quotas = quotas::of_team(&app.db, team, &app.config.quotas.into()).await?;
    quotas.ok_or_else(|| ApiError::not_found("team"))
}

/// What a team has and may have.
#[utoipa::path(get, path = "/v1/admin/teams/{id}/quotas", tag = "admin", params(("id" = TeamId, Path)),
    responses((status = 200, body = Quotas)), security(("bearer" = [])))]
pub async fn quotas(State(app): State<App>, _: Admin, Id(id): Id<TeamId>) -> ApiResult<axum::Json<Quotas>> {
    Ok(axum::Json(current(&app, &id).await?))
}

/// Sets all of a team's limits; what is absent or null is the installation's default. What the team has already stays.
#[utoipa::path(put, path = "/v1/admin/teams/{id}/quotas", tag = "admin", params(("id" = TeamId, Path)),
    request_body = SetQuotasRequest, responses((status = 200, body = Quotas)), security(("bearer" = [])))]
pub async fn set_quotas(
    State(app): State<App>,
    Admin(user): Admin,
    Id(id): Id<TeamId>,
    Json(request): Json<SetQuotasRequest>,
) -> ApiResult<axum::Json<Quotas>> {
    let fields = [
        ("sandboxes", request.sandboxes),
        ("vcpus", request.vcpus),
        ("memory_mb", request.memory_mb),
        ("disk_mb", request.disk_mb),
    ];
    for (field, value) in fields {
        value.map_or(Ok(0), |value| validate::within(field, value, (0, MAX_QUOTA)))?;
    }
    let signed = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok());
    let limits = Limits {
        sandboxes: signed(request.sandboxes),
        vcpus: signed(request.vcpus),
        memory_mb: signed(request.memory_mb),
        disk_mb: signed(request.disk_mb),
    };
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    let before = quotas::set(&mut tx, &id, &limits, now).await?.ok_or_else(|| ApiError::not_found("team"))?;
    let (actor, shown) = (user.actor(), |limits: &Limits| {
        json!({
            "sandboxes": limits.sandboxes,
            "vcpus": limits.vcpus,
            "memory_mb": limits.memory_mb,
            "disk_mb": limits.disk_mb,
        })
    });
    let entry = Entry {
        team: Some(&id),
        actor: &actor,
        origin: &user.origin,
        action: "team.quotas",
        target_kind: "team",
        target_id: Some(id.as_str()),
        result: "ok",
        details: json!({ "before": shown(&before), "after": shown(&limits) }),
    };
    audit::record(&mut tx, now, &entry).await?;
    tx.commit().await?;
    Ok(axum::Json(current(&app, &id).await?))
}
