//! What can be seen of a sandbox from outside: its metrics and its guest agent's log.

use std::time::Duration;

use atoll_model::api::Page;
use atoll_model::api::sandboxes::{LogLine, Metrics, MetricsPoint};
use atoll_model::{HostId, SandboxId, SandboxStatus};
use atoll_rpc::atoll::guest::v1::LogsRequest;
use atoll_rpc::atoll::host::v1::{HistoryPoint, SandboxHistoryRequest, SandboxMetrics, SandboxMetricsRequest};
use atoll_rpc::connectrpc::client::CallOptions;
use axum::extract::State;

use super::caller::Key;
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Query};
use super::guest::{Guest, call};
use super::page::{Cursor, PageQuery};
use crate::app::App;
use crate::db::Millis;
use crate::fleet::FleetError;
use crate::sandboxes::{SandboxError, SandboxRecord, Sandboxes, store};

const DEADLINE: Duration = Duration::from_secs(5);
/// How far back a history can be asked for.
const RANGE: (Duration, Duration) = (Duration::from_secs(5 * 60), Duration::from_secs(30 * 24 * 3600));

#[derive(serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MetricsQuery {
    /// How far back: a number and `m`, `h` or `d`, from `5m` to `30d`. Up to ten minutes are answered by 5 s, up to two
    /// hours by the minute, more by the quarter of an hour. When absent, what is used at this moment.
    #[param(example = "1h")]
    range: Option<String>,
}

/// Some minutes, hours or days.
pub(super) fn range(text: &str) -> ApiResult<Duration> {
    let unit = match text.as_bytes().last() {
        Some(b'm') => 60,
        Some(b'h') => 3600,
        Some(b'd') => 24 * 3600,
        _ => 0,
    };
    let digits = text.get(..text.len().saturating_sub(1)).unwrap_or_default();
    let number = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let seconds = number.and_then(|digits| digits.parse::<u64>().ok()).and_then(|number| number.checked_mul(unit));
    let range = seconds.map(Duration::from_secs).filter(|range| (RANGE.0..=RANGE.1).contains(range));
    range.ok_or_else(|| ApiError::invalid("range", "must be from `5m` to `30d`: a number and `m`, `h` or `d`"))
}

/// The sandbox's use of cpu, memory, disk and network: its history, or what it is now. Of a paused one, what was measured
/// while it ran. Looking does not restart its idle clock.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/metrics", tag = "sandboxes",
    params(("id" = SandboxId, Path), MetricsQuery),
    responses((status = 200, body = Metrics), (status = 409), (status = 502)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn metrics(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Query(query): Query<MetricsQuery>,
) -> ApiResult<axum::Json<Metrics>> {
    let range = query.range.as_deref().map(range).transpose()?;
    let record = store::get(&app.db, &owner.team, &id).await?.ok_or(SandboxError::NotFound)?;
    if record.status().is_final() {
        return Err(SandboxError::InvalidState { attempted: "measure", status: record.status() }.into());
    }
    match range {
        Some(range) => {
            let now = seconds(app.clock.now());
            let from = now.saturating_sub(i64::try_from(range.as_secs()).unwrap_or(i64::MAX));
            history(&app, &record, from, now).await.map(axum::Json)
        }
        None => {
            let host = Sandboxes::host_of(&record)?;
            let points = now(&app, host, std::slice::from_ref(&id)).await?.into_iter().map(|(_, point)| point);
            let points: Vec<_> = points.collect();
            if points.is_empty() {
                return Err(ApiError::not_found("measurement of this sandbox"));
            }
            Ok(axum::Json(Metrics { points, step_sec: None }))
        }
    }
}

fn seconds(at: Millis) -> i64 {
    at.0.div_euclid(1000)
}

/// What a sandbox used between two times, in seconds since 1970. A running one's ends with what it uses now, if that is
/// part of it.
pub async fn history(app: &App, record: &SandboxRecord, from: i64, until: i64) -> ApiResult<Metrics> {
    let host = Sandboxes::host_of(record)?;
    let client = app.sandboxes.fleet().host_client(host);
    let second = |at: i64| u32::try_from(at.max(0)).unwrap_or(u32::MAX);
    let request = SandboxHistoryRequest {
        id: record.id.to_string(),
        from: second(from),
        until: second(until),
        ..Default::default()
    };
    let read = async {
        let answer = client.sandbox_history_with_options(request, CallOptions::default().with_timeout(DEADLINE)).await;
        answer.map_err(|error| FleetError::from_rpc(host, "read the history of a sandbox", error))
    };
    let ids = [record.id.0.clone()];
    let live = async {
        let wanted = record.status() == SandboxStatus::Running && until >= seconds(app.clock.now());
        if wanted { now(app, host, &ids).await.unwrap_or_default().pop() } else { None }
    };
    let (answer, live) = tokio::join!(read, live);
    let answer = answer?.into_owned();
    let mut points: Vec<_> = answer.points.iter().map(past).collect();
    points.extend(live.map(|(_, point)| point));
    Ok(Metrics { points, step_sec: Some(answer.step_sec) })
}

fn past(point: &HistoryPoint) -> MetricsPoint {
    MetricsPoint {
        timestamp_unix: i64::from(point.at),
        cpu_pct: point.cpu_pct,
        mem_bytes: point.memory_bytes,
        disk_bytes: point.disk_bytes,
        net_rx_bytes: point.net_rx_bytes,
        net_tx_bytes: point.net_tx_bytes,
        processes: point.processes,
    }
}

/// What sandboxes of a host use at this moment; those that it doesn't have are left out.
pub async fn now(app: &App, host: &HostId, ids: &[SandboxId]) -> ApiResult<Vec<(SandboxId, MetricsPoint)>> {
    let request = SandboxMetricsRequest { ids: ids.iter().map(ToString::to_string).collect(), ..Default::default() };
    let client = app.sandboxes.fleet().host_client(host);
    let answer = client.sandbox_metrics_with_options(request, CallOptions::default().with_timeout(DEADLINE)).await;
    let answer = answer.map_err(|error| FleetError::from_rpc(host, "measure sandboxes", error))?.into_owned();
    let point = |read: &SandboxMetrics| MetricsPoint {
        timestamp_unix: read.timestamp_ms / 1000,
        cpu_pct: read.cpu_pct,
        mem_bytes: read.memory_bytes,
        disk_bytes: read.disk_bytes,
        net_rx_bytes: read.net_rx_bytes,
        net_tx_bytes: read.net_tx_bytes,
        processes: read.processes,
    };
    Ok(answer.metrics.iter().filter_map(|read| Some((read.id.parse().ok()?, point(read)))).collect())
}

/// The sandbox's last log lines, oldest first: what its guest agent did, and what programs that it started wrote.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/logs", tag = "sandboxes", params(("id" = SandboxId, Path), PageQuery),
    responses((status = 200, body = Page<LogLine>), (status = 409), (status = 502)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn logs(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<LogLine>>> {
    let (limit, after) = (query.limit()?, query.cursor()?.map_or(0, |cursor| cursor.at.0));
    let guest = Guest::of(&app, &owner, id, "read the log of").await?;
    let request = LogsRequest {
        after: u64::try_from(after).unwrap_or(0),
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
        ..Default::default()
    };
    let answer = guest.service().logs_with_options(request, call(None)).await;
    let answer = answer.map_err(|error| guest.error("read its log", None, error))?.into_owned();
    let full = answer.lines.len() >= limit;
    let last = answer.lines.last().map(|line| i64::try_from(line.sequence).unwrap_or(i64::MAX));
    let next_cursor = last.filter(|_| full).map(|at| Cursor { at: Millis(at), id: String::new() }.encode());
    let items = answer.lines.into_iter().map(|line| LogLine {
        timestamp: Millis(line.timestamp_ms).to_utc(),
        level: line.level,
        message: line.message,
        pid: Some(line.pid).filter(|pid| *pid != 0),
        stream: Some(line.stream).filter(|stream| !stream.is_empty()),
    });
    Ok(axum::Json(Page { items: items.collect(), next_cursor }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_from_five_minutes_to_thirty_days_are_understood() {
        for (text, seconds) in [("5m", 300), ("60m", 3600), ("24h", 86_400), ("30d", 2_592_000), ("720h", 2_592_000)] {
            assert_eq!(range(text).unwrap(), Duration::from_secs(seconds), "{text}");
        }
        for text in ["", "m", "4m", "31d", "0d", "-5m", "+5m", "5", "5 m", "5s", "1w", "1h30m", "99999999999999999999d"]
        {
            assert_eq!(range(text).unwrap_err().field.as_deref(), Some("range"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_leave_its_bounds(text in ".{0,12}|[0-9]{0,22}[mhd]") {
            if let Ok(range) = range(&text) {
                prop_assert!((RANGE.0..=RANGE.1).contains(&range));
            }
        }
    }
}
