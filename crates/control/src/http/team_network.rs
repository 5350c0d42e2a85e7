//! What new sandboxes of a team may reach when their request doesn't say.

use atoll_model::TeamId;
use atoll_model::api::sandboxes::SetNetworkRequest;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::User;
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json};
use super::{teams::visible, validate};
use crate::app::App;
use crate::sandboxes::Network;
use crate::secrets::egress_proxy::KeptProxy;
use crate::secrets::headers::identity_names;
use crate::teams;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get, put))
}

fn shown(network: Option<Network>) -> SetNetworkRequest {
    let network = network.unwrap_or_default();
    SetNetworkRequest {
        internet: Some(!network.deny_egress),
        allow_out: network.allow_out,
        deny_out: network.deny_out,
        headers: network.headers,
        egress_proxy: network.egress_proxy.as_ref().map(KeptProxy::shown),
        bandwidth_bytes_per_second: network.bandwidth_bytes_per_second,
    }
}

/// What new sandboxes of the team may reach when their request names neither `internet` nor `network`.
#[utoipa::path(get, path = "/v1/teams/{id}/network", tag = "teams", params(("id" = TeamId, Path)),
    responses((status = 200, body = SetNetworkRequest)), security(("bearer" = [])))]
pub async fn get(State(app): State<App>, user: User, Id(id): Id<TeamId>) -> ApiResult<axum::Json<SetNetworkRequest>> {
    visible(&app, &user, &id).await?;
    Ok(axum::Json(shown(teams::store::network(&app.db, &id).await?)))
}

/// Replaces it; what is left out is cleared, and sandboxes that live keep what they have. Takes the role admin.
#[utoipa::path(put, path = "/v1/teams/{id}/network", tag = "teams", params(("id" = TeamId, Path)),
    request_body = SetNetworkRequest, responses((status = 200, body = SetNetworkRequest)), security(("bearer" = [])))]
pub async fn put(
    State(app): State<App>,
    user: User,
    Id(id): Id<TeamId>,
    Json(request): Json<SetNetworkRequest>,
) -> ApiResult<axum::Json<SetNetworkRequest>> {
    let (internet, policy) = request.into_policy();
    visible(&app, &user, &id).await?;
    let former = teams::store::network(&app.db, &id).await?;
    let network = validate::network(&app.secrets.sealer(&id), internet, policy, former.as_ref())?;
    if network.headers.iter().any(|header| !identity_names(&header.value).is_empty()) {
        return Err(ApiError::invalid("network.headers", "identities belong to one sandbox, not to a team's default"));
    }
    let network = Some(network).filter(|network| *network != Network::default());
    teams::set_network(&app.db, &user.asker(), &id, network.as_ref(), app.clock.now()).await?;
    Ok(axum::Json(shown(network)))
}
