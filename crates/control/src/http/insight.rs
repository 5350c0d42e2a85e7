//! What can be seen of a sandbox from outside: its metrics and its guest agent's log.

use std::time::Duration;

use atoll_model::SandboxId;
use atoll_model::api::Page;
use atoll_model::api::sandboxes::{LogLine, Metrics, MetricsPoint};
use atoll_rpc::atoll::guest::v1::LogsRequest;
use atoll_rpc::atoll::host::v1::{SandboxMetrics, SandboxMetricsRequest};
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
use crate::sandboxes::{SandboxError, Sandboxes, store};

/// Between the two readings that the use of the cpu is made from.
const BETWEEN: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_secs(5);

/// The sandbox's use of cpu, memory, disk and network now. Looking does not restart its idle clock.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/metrics", tag = "sandboxes", params(("id" = SandboxId, Path)),
    responses((status = 200, body = Metrics), (status = 409), (status = 502)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn metrics(State(app): State<App>, Key(owner): Key, Id(id): Id<SandboxId>) -> ApiResult<axum::Json<Metrics>> {
    let record = store::get(&app.db, &owner.team, &id).await?.ok_or(SandboxError::NotFound)?;
    if record.status().is_final() {
        return Err(SandboxError::InvalidState { attempted: "measure", status: record.status() }.into());
    }
    let host = Sandboxes::host_of(&record)?;
    let client = app.sandboxes.fleet().host_client(host);
    let read = async || -> ApiResult<SandboxMetrics> {
        let request = SandboxMetricsRequest { ids: vec![id.to_string()], ..Default::default() };
        let answer = client.sandbox_metrics_with_options(request, CallOptions::default().with_timeout(DEADLINE)).await;
        let answer = answer.map_err(|error| FleetError::from_rpc(host, "measure a sandbox", error))?.into_owned();
        answer.metrics.into_iter().next().ok_or_else(|| ApiError::not_found("measurement of this sandbox"))
    };
    let before = read().await?;
    tokio::time::sleep(BETWEEN).await;
    let now = read().await?;
    Ok(axum::Json(Metrics { points: vec![point(&before, &now)] }))
}

fn point(before: &SandboxMetrics, now: &SandboxMetrics) -> MetricsPoint {
    let elapsed_ms = now.timestamp_ms.saturating_sub(before.timestamp_ms);
    let used_ms = now.cpu_usec.saturating_sub(before.cpu_usec) as f64 / 1000.0;
    MetricsPoint {
        timestamp_unix: now.timestamp_ms / 1000,
        cpu_pct: if elapsed_ms > 0 { used_ms * 100.0 / elapsed_ms as f64 } else { 0.0 },
        mem_bytes: now.memory_bytes,
        disk_bytes: now.disk_bytes,
        net_rx_bytes: now.net_rx_bytes,
        net_tx_bytes: now.net_tx_bytes,
        processes: now.processes,
    }
}

/// Log lines of the sandbox's guest agent, oldest first.
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
    });
    Ok(axum::Json(Page { items: items.collect(), next_cursor }))
}
