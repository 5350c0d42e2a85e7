//! Metrics and logs in E2B's words, from the same readings as ours.

use std::collections::{BTreeMap, HashMap};

use atoll_model::HostId;
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
use crate::sandboxes::SandboxRecord;

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

/// The whole number under a name.
pub(super) fn number(pairs: &[(String, String)], name: &'static str) -> ApiResult<Option<i64>> {
    let text = pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    text.map(|text| text.parse().map_err(|_| ApiError::invalid(name, "must be a whole number"))).transpose()
}

/// How far back the readings go when nobody says.
const USUAL: i64 = 600;

/// A sandbox's readings between `start` and `end` (seconds since 1970).
pub async fn metrics(
    State(app): State<App>,
    named: Named,
    Pairs(pairs): Pairs,
) -> ApiResult<axum::Json<Vec<wire::SandboxMetric>>> {
    let now = app.clock.now().0.div_euclid(1000);
    let end = number(&pairs, "end")?.unwrap_or(now);
    let start = number(&pairs, "start")?.unwrap_or_else(|| end.min(now).saturating_sub(USUAL));
    let record = named.find(&app).await?.record;
    if start > end {
        return Ok(axum::Json(Vec::new()));
    }
    let read = insight::history(&app, &record, start, end).await?;
    Ok(axum::Json(read.points.iter().map(|point| metric(&record, point)).collect()))
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
    let mut hosts: HashMap<HostId, Vec<SandboxRecord>> = HashMap::new();
    for id in ids.into_iter().flatten() {
        let found = app.sandboxes.listed(&owner.team, &id).await?.map(|listed| listed.record);
        let Some(record) = found.filter(|record| !record.status().is_final()) else { continue };
        if let Some(host) = record.host().cloned() {
            hosts.entry(host).or_default().push(record);
        }
    }
    let app = &app;
    let readings = futures::stream::iter(hosts).map(|(host, records)| async move {
        let ids: Vec<_> = records.iter().map(|record| record.id.0.clone()).collect();
        let read: HashMap<_, _> = insight::now(app, &host, &ids).await.unwrap_or_default().into_iter().collect();
        let known = records.iter().filter_map(|record| Some((record, read.get(&record.id.0)?)));
        known.map(|(record, point)| (record.id.dns_label(), metric(record, point))).collect::<Vec<_>>()
    });
    let readings: Vec<_> = readings.buffer_unordered(AT_ONCE).collect().await;
    let sandboxes: BTreeMap<_, _> = readings.into_iter().flatten().collect();
    Ok(axum::Json(json!({ "sandboxes": sandboxes })))
}

fn entry(line: &LogLine) -> wire::LogEntry {
    let level = LEVELS.into_iter().find(|level| line.level.eq_ignore_ascii_case(level)).unwrap_or("info");
    let logger = if line.stream.is_some() { "process" } else { "guest" };
    let mut fields = BTreeMap::from([("logger".to_owned(), logger.to_owned())]);
    fields.extend(line.pid.map(|pid| ("pid".to_owned(), pid.to_string())));
    fields.extend(line.stream.clone().map(|stream| ("event_type".to_owned(), stream)));
    wire::LogEntry { timestamp: line.timestamp, message: line.message.clone(), level, fields }
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
    // E2B's command line reads each line as an object.
    let line = |entry: &wire::LogEntry| {
        let mut object = json!(entry.fields);
        object["level"] = json!(entry.level);
        object["message"] = json!(entry.message);
        json!({ "timestamp": entry.timestamp, "line": object.to_string() })
    };
    let plain: Vec<_> = entries.iter().map(line).collect();
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
