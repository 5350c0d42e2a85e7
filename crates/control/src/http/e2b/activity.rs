//! How busy a team was, in E2B's words.

use atoll_model::TeamId;
use axum::extract::State;
use serde_json::{Value, json};

use super::insight::number;
use crate::app::App;
use crate::db::Millis;
use crate::http::caller::Key;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Id, Pairs};
use crate::usage::activity::{self, Activity, MAX_RANGE_MS, Span};

/// How far back an answer goes when nobody says, in seconds.
const USUAL: i64 = 7 * 24 * 3600;
/// Of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;
/// The names of what `/metrics/max` looks for the most of.
const CONCURRENT: &str = "concurrent_sandboxes";
const RATE: &str = "sandbox_start_rate";

/// The caller's own team between `start` and `end` (seconds since 1970).
async fn read(
    app: &App,
    team: &TeamId,
    asked: &TeamId,
    pairs: &[(String, String)],
) -> ApiResult<(Span, Vec<Activity>)> {
    if team != asked {
        return Err(ApiError::not_found("team"));
    }
    let now = app.clock.now();
    let end = number(pairs, "end")?.unwrap_or_else(|| now.0.div_euclid(1000));
    let start = number(pairs, "start")?.unwrap_or_else(|| end.saturating_sub(USUAL));
    let millis = |name, seconds: i64| {
        let known = (0..=LAST_SECOND).contains(&seconds).then(|| seconds * 1000);
        known.ok_or_else(|| ApiError::invalid(name, "is no time"))
    };
    let (from, to) = (millis("start", start)?, millis("end", end)?);
    if from > to {
        return Err(ApiError::invalid("start", "must not be after `end`"));
    }
    if to.saturating_sub(from) > MAX_RANGE_MS {
        return Err(ApiError::invalid("start", "at most 31 days can be asked for"));
    }
    let span = Span::new(Millis(from), Millis(to));
    Ok((span, activity::of_team(&app.db, team, span, now).await?))
}

#[allow(clippy::cast_precision_loss, reason = "a rate, for people")]
fn rate(point: &Activity, span: Span) -> f64 {
    point.starts as f64 / (span.length as f64 / 1000.0)
}

fn at(time: Millis) -> [(&'static str, Value); 2] {
    [("timestamp", json!(time.to_utc())), ("timestampUnix", json!(time.0.div_euclid(1000)))]
}

/// How many sandboxes ran at once, and how many started a second, oldest first.
pub async fn over_time(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<TeamId>,
    Pairs(pairs): Pairs,
) -> ApiResult<axum::Json<Vec<Value>>> {
    let (span, points) = read(&app, &owner.team, &id, &pairs).await?;
    let shown = |point: &Activity| {
        let values = [("concurrentSandboxes", json!(point.concurrent)), ("sandboxStartRate", json!(rate(point, span)))];
        at(point.at).into_iter().chain(values).map(|(name, value)| (name.to_owned(), value)).collect()
    };
    Ok(axum::Json(points.iter().map(shown).map(Value::Object).collect()))
}

/// The most of one `metric`, and when that was.
pub async fn most(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<TeamId>,
    Pairs(pairs): Pairs,
) -> ApiResult<axum::Json<Value>> {
    let metric = pairs.iter().find(|(name, _)| name == "metric").map(|(_, value)| value.as_str());
    let concurrent = match metric {
        Some(CONCURRENT) => true,
        Some(RATE) => false,
        _ => return Err(ApiError::invalid("metric", format!("must be {CONCURRENT} or {RATE}"))),
    };
    let (span, points) = read(&app, &owner.team, &id, &pairs).await?;
    #[allow(clippy::cast_precision_loss, reason = "a number of sandboxes")]
    let value = |point: &Activity| if concurrent { point.concurrent as f64 } else { rate(point, span) };
    // Of equals the first.
    let most = points.iter().rev().max_by(|one, other| value(one).total_cmp(&value(other)));
    let (time, value) = most.map_or((app.clock.now(), 0.0), |point| (point.at, value(point)));
    let answer = at(time).into_iter().chain([("value", json!(value))]).map(|(name, value)| (name.to_owned(), value));
    Ok(axum::Json(Value::Object(answer.collect())))
}
