//! Whether control is alive, and whether it could do its work.

use atoll_model::{ErrorCode, HostStatus, TeamId};
use axum::extract::State;
use serde::Serialize;
use serde_json::json;

use super::error::{ApiError, ApiResult};
use crate::app::App;
use crate::fleet::{ANY_DRIVER, CandidateSource, Demand, HostList, Limits};
use crate::templates::store as templates;

#[derive(Serialize, utoipa::ToSchema)]
pub struct Health {
    status: &'static str,
    version: &'static str,
}

/// Alive: the process answers.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, body = Health)))]
pub async fn healthz(State(app): State<App>) -> axum::Json<Health> {
    axum::Json(Health { status: "ok", version: app.config.version })
}

/// Ready: creating a sandbox from `base` would succeed. Otherwise 503, and `error.failing` names each part that isn't.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses((status = 200, body = Health)))]
pub async fn readyz(State(app): State<App>) -> ApiResult<axum::Json<Health>> {
    let mut failing = Vec::new();
    if let Err(error) = app.db.check().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "not ready");
        failing.push(("database", "the database does not answer, or has another schema version".to_owned()));
    } else {
        if let Some(why) = no_base(&app).await? {
            failing.push(("base_template", why));
        }
        let local = app.config.local_problem.as_ref().and_then(|problem| problem.borrow().clone());
        if let Some(why) = local {
            failing.push(("local_host", why));
        } else if let Some(why) = no_host(&app).await? {
            failing.push(("hosts", why));
        }
    }
    if failing.is_empty() {
        return Ok(axum::Json(Health { status: "ready", version: app.config.version }));
    }
    let summary: Vec<_> = failing.iter().map(|(part, why)| format!("{part}: {why}")).collect();
    let parts: Vec<_> = failing.iter().map(|(part, why)| json!({ "part": part, "message": why })).collect();
    Err(ApiError::new(ErrorCode::NotReady, format!("not ready: {}", summary.join("; "))).with_detail("failing", parts))
}

async fn no_base(app: &App) -> ApiResult<Option<String>> {
    // A team that doesn't exist sees the platform's templates and no others.
    let base = templates::find(&app.db, "base", &TeamId::new()).await?;
    Ok(base.is_none().then(|| "the template `base` is not there yet".to_owned()))
}

async fn no_host(app: &App) -> ApiResult<Option<String>> {
    let source = app.hosts.candidates();
    let hosts = source.candidates().await.map_err(ApiError::internal)?;
    let stale_after = app.config.hosts.stale_after;
    let list = HostList::new(hosts, source.now(), Limits { stale_after, overcommit: app.config.overcommit });
    let demand = Demand {
        team: TeamId::new(),
        team_is_byoc: false,
        driver: ANY_DRIVER.to_owned(),
        vm_version: None,
        vcpus: 1,
        memory_mb: 512,
        disk_mb: 5120,
        image: None,
        only: None,
        volumes_on: None,
        tried: Vec::new(),
    };
    if list.hosts.iter().any(|host| list.objection(&demand, host).is_none()) {
        // The very next create must succeed.
        app.sandboxes.can_be_placed(&demand);
        return Ok(None);
    }
    let online = list.hosts.iter().filter(|host| host.status == HostStatus::Online).count();
    Ok(Some(format!("{} ({online} online)", list.explain(&demand))))
}
