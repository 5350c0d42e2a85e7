//! The processes that were started through the guest agent: list them, signal them.

use atoll_model::SandboxId;
use atoll_model::api::Page;
use atoll_model::api::sandboxes::Process;
use atoll_rpc::atoll::guest::v1::__buffa::oneof::signal_request::Selector;
use atoll_rpc::atoll::guest::v1::SignalRequest;
use atoll_rpc::process::ListRequest;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Deserialize;

use super::caller::Key;
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Query, path_parameter};
use super::guest::{Guest, call};
use super::{signals, validate};
use crate::app::App;

/// Lists the running processes that were started through Atoll.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/processes", tag = "programs", params(("id" = SandboxId, Path)),
    responses((status = 200, body = Page<Process>), (status = 409), (status = 502)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
) -> ApiResult<axum::Json<Page<Process>>> {
    let guest = Guest::of(&app, &owner, id, "list the processes of").await?;
    let listed = guest.processes().list_with_options(ListRequest::default(), call(None)).await;
    let listed = listed.map_err(|error| guest.error("list its processes", None, error))?.into_owned();
    let items = listed.processes.into_iter().map(|process| {
        let config = process.config.into_option().unwrap_or_default();
        Process { pid: process.pid, tag: process.tag, cmd: config.cmd, args: config.args, cwd: config.cwd }
    });
    Ok(axum::Json(Page { items: items.collect(), next_cursor: None }))
}

/// A process in the path: its pid or its tag.
pub struct ProcessName(Selector);

impl<S: Send + Sync> FromRequestParts<S> for ProcessName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let text = path_parameter(parts, state, "process").await?;
        if let Ok(pid) = text.parse() {
            return Ok(Self(Selector::Pid(pid)));
        }
        validate::tag(Some(&text)).map_err(|error| error.with_field("process"))?;
        Ok(Self(Selector::Tag(text)))
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct KillQuery {
    /// By name (`SIGTERM`, `TERM`) or number; SIGKILL when absent.
    signal: Option<String>,
}

/// Sends a signal to a process and its group.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/processes/{process}", tag = "programs",
    params(("id" = SandboxId, Path), ("process" = String, Path, description = "A pid or a tag"), KillQuery),
    responses((status = 204), (status = 409), (status = 502)), security(("api_key" = []), ("bearer" = [])))]
pub async fn kill(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    ProcessName(selector): ProcessName,
    Query(query): Query<KillQuery>,
) -> ApiResult<StatusCode> {
    let signal = query.signal.as_deref().map_or(Ok(signals::SIGKILL), signals::parse)?;
    let guest = Guest::of(&app, &owner, id, "signal a process of").await?;
    let request = SignalRequest { selector: Some(selector), signal, group: true, ..Default::default() };
    let sent = guest.service().signal_with_options(request, call(None)).await;
    sent.map_err(|error| guest.error("signal the process", Some("process"), error))?;
    Ok(StatusCode::NO_CONTENT)
}
