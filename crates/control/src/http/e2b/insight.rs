//! Metrics and logs in E2B's words, from the same readings as ours.

use std::collections::BTreeMap;

use atoll_model::api::sandboxes::{LogLine, MetricsPoint};
use axum::extract::State;
use chrono::DateTime;
use futures::StreamExt;
use serde_json::{Value, json};

use super::reference::{self, Sandbox as Named};
use super::wire;
use crate::app::App;
use crate::http::caller::Key;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Id, Pairs, Query};
use crate::http::insight;
use crate::http::page::PageQuery;
use crate::sandboxes::{Owner, SandboxRecord};

/// Sandboxes in one question.
const MAX_MANY: usize = 100;
const AT_ONCE: usize = 16;
const MAX_LINES: usize = 1000;
const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];

fn metric(record: &SandboxRecord, point: &MetricsPoint) -> wire::SandboxMetric {
    let bytes = |megabytes: i64| u64::try_from(megabytes).unwrap_or(0) << 20;
    wire::SandboxMetric {
        timestamp: DateTime::from_timestamp(point.timestamp_unix, 0).unwrap_or_default(),
        timestamp_unix: point.timestamp_unix,
        cpu_count: record.vcpus,
        cpu_used_pct: point.cpu_pct,
        mem_used: point.mem_bytes,
        mem_total: bytes(record.memory_mb),
        mem_cache: 0,
        disk_used: point.disk_bytes,
        disk_total: bytes(record.disk_mb),
    }
}

fn number(pairs: &[(String, String)], name: &'static str) -> ApiResult<Option<i64>> {
    let text = pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    text.map(|text| text.parse().map_err(|_| ApiError::invalid(name, "must be a whole number"))).transpose()
}

/// A sandbox's readings between `start` and `end` (seconds since 1970).
pub async fn metrics(
    State(app): State<App>,
    named: Named,
    Pairs(pairs): Pairs,
) -> ApiResult<axum::Json<Vec<wire::SandboxMetric>>> {
    let (start, end) = (number(&pairs, "start")?.unwrap_or(0), number(&pairs, "end")?.unwrap_or(i64::MAX));
    let record = named.find(&app).await?.record;
    let points = readings(&app, &named.owner, &record).await?;
    let points = points.iter().filter(|point| (start..=end).contains(&point.timestamp_unix));
    Ok(axum::Json(points.map(|point| metric(&record, point)).collect()))
}

async fn readings(app: &App, owner: &Owner, record: &SandboxRecord) -> ApiResult<Vec<MetricsPoint>> {
    let read = insight::metrics(State(app.clone()), Key(owner.clone()), Id(record.id.0.clone())).await?;
    Ok(read.0.points)
}

/// The latest reading of each of several sandboxes; those that have none are left out.
pub async fn metrics_of_many(
    State(app): State<App>,
    Key(owner): Key,
    Pairs(pairs): Pairs,
) -> ApiResult<axum::Json<Value>> {
    let ids = pairs.iter().filter(|(name, _)| name == "sandbox_ids").map(|(_, value)| value.replace("%2C", ","));
    let ids = ids.flat_map(|value| value.split(',').map(str::to_owned).collect::<Vec<_>>());
    let ids = ids.filter(|id| !id.is_empty()).map(|id| reference::parse(&id)).collect::<ApiResult<Vec<_>>>()?;
    if ids.is_empty() || ids.len() > MAX_MANY {
        return Err(ApiError::invalid("sandbox_ids", format!("must name 1 to {MAX_MANY} sandboxes")));
    }
    let (app, owner) = (&app, &owner);
    let readings = futures::stream::iter(ids).map(|id| async move {
        let record = app.sandboxes.listed(&owner.team, &id).await.ok()??.record;
        let point = readings(app, owner, &record).await.ok()?.pop()?;
        Some((id.dns_label(), metric(&record, &point)))
    });
    let readings: Vec<_> = readings.buffer_unordered(AT_ONCE).collect().await;
    let sandboxes: BTreeMap<_, _> = readings.into_iter().flatten().collect();
    Ok(axum::Json(json!({ "sandboxes": sandboxes })))
}

fn entry(line: &LogLine) -> wire::LogEntry {
    let level = LEVELS.into_iter().find(|level| line.level.eq_ignore_ascii_case(level)).unwrap_or("info");
    wire::LogEntry { timestamp: line.timestamp, message: line.message.clone(), level, fields: BTreeMap::new() }
}

/// Log lines, oldest first. A sandbox that stands still has none to give.
async fn lines(app: &App, named: &Named) -> ApiResult<Vec<LogLine>> {
    let record = named.find(app).await?.record;
    if record.status() != atoll_model::SandboxStatus::Running {
        return Ok(Vec::new());
    }
    let limit = u32::try_from(MAX_LINES).ok();
    let page = PageQuery { limit, cursor: None };
    let read = insight::logs(State(app.clone()), Key(named.owner.clone()), Id(named.id.clone()), Query(page)).await?;
    Ok(read.0.items)
}

fn limit(pairs: &[(String, String)]) -> ApiResult<usize> {
    let limit = number(pairs, "limit")?.unwrap_or(MAX_LINES as i64);
    let limit = usize::try_from(limit).ok().filter(|limit| *limit <= MAX_LINES);
    limit.ok_or_else(|| ApiError::invalid("limit", format!("must be at most {MAX_LINES}")))
}

/// Log lines from `start` (milliseconds since 1970) on, in both of the shapes that there have been.
pub async fn logs(State(app): State<App>, named: Named, Pairs(pairs): Pairs) -> ApiResult<axum::Json<Value>> {
    let (start, limit) = (number(&pairs, "start")?.unwrap_or(0), limit(&pairs)?);
    let lines = lines(&app, &named).await?;
    let entries: Vec<_> =
        lines.iter().filter(|line| line.timestamp.timestamp_millis() >= start).take(limit).map(entry).collect();
    let plain: Vec<_> =
        entries.iter().map(|entry| json!({ "timestamp": entry.timestamp, "line": entry.message })).collect();
    Ok(axum::Json(json!({ "logs": plain, "logEntries": entries })))
}

/// Log lines before or after `cursor` (milliseconds since 1970), filtered.
pub async fn log_entries(State(app): State<App>, named: Named, Pairs(pairs): Pairs) -> ApiResult<axum::Json<Value>> {
    let text = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let backward = text("direction") == Some("backward");
    let (cursor, limit) = (number(&pairs, "cursor")?, limit(&pairs)?);
    let least = text("level").and_then(|level| LEVELS.into_iter().position(|known| known == level)).unwrap_or(0);
    let mut entries: Vec<_> = lines(&app, &named).await?.iter().map(entry).collect();
    entries.retain(|entry| {
        let at = entry.timestamp.timestamp_millis();
        LEVELS.into_iter().position(|level| level == entry.level).unwrap_or(1) >= least
            && text("search").is_none_or(|wanted| entry.message.contains(wanted))
            && cursor.is_none_or(|cursor| if backward { at <= cursor } else { at >= cursor })
    });
    if backward {
        entries.reverse();
    }
    entries.truncate(limit);
    Ok(axum::Json(json!({ "logs": entries })))
}
