//! Signing in elsewhere (OpenID Connect, GitHub), in a browser. The way back must come from the browser that went: it
//! brings a cookie with the state. It ends on a page of the dashboard, whatever happens: where the person wanted to go,
//! or `/login?error=CODE`.

use atoll_model::ErrorCode;
use axum::extract::{FromRequestParts, State};
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use serde::Deserialize;
use subtle::ConstantTimeEq;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Arrival;
use super::browser;
use super::error::{ApiError, ApiResult};
use super::extract::{Query, path_parameter};
use crate::accounts::{Credential, ElsewhereError, SIGN_IN_TTL, SignedIn, SignupError, Visit};
use crate::app::App;
use crate::sign_in::Provider;
use atoll_model::api::auth::SessionKind;

/// Longest page to come back to.
const MAX_RETURN: usize = 512;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(there)).routes(routes!(back))
}

/// `{provider}` in the path.
pub struct Name(String);

impl FromRequestParts<App> for Name {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> ApiResult<Self> {
        path_parameter(parts, app, "provider").await.map(Self)
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ThereQuery {
    /// A page of the dashboard, such as `/device?code=…`.
    return_to: Option<String>,
}

/// A path on this site and nothing else.
fn is_page(path: &str) -> bool {
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    path.len() <= MAX_RETURN && plain && path.starts_with('/') && !path.starts_with("//")
}

fn provider<'a>(app: &'a App, name: &str) -> ApiResult<Provider<'a>> {
    Provider::find(&app.config, name).ok_or_else(|| ApiError::not_found("sign-in provider"))
}

fn redirect_url(arrival: &Arrival, app: &App, provider: &Provider<'_>) -> String {
    format!("{}/v1/auth/oidc/{}/callback", arrival.site.base_url(&app.config), provider.id())
}

fn go(to: &str, cookies: &[String]) -> ApiResult<Response> {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_str(to).map_err(ApiError::internal)?);
    for cookie in cookies {
        headers.append(SET_COOKIE, HeaderValue::from_str(cookie).map_err(ApiError::internal)?);
    }
    Ok(response)
}

/// Sends the browser to the provider (`oidc` or `github`, as GET /v1/auth/config has them).
#[utoipa::path(get, path = "/v1/auth/oidc/{provider}", tag = "accounts", params(("provider" = String, Path), ThereQuery),
    responses((status = 303, description = "To the provider"), (status = 429), (status = 502)))]
pub async fn there(
    State(app): State<App>,
    parts: Parts,
    Name(name): Name,
    Query(query): Query<ThereQuery>,
) -> ApiResult<Response> {
    let provider = provider(&app, &name)?;
    let arrival = Arrival::of_program(&parts, &app);
    let return_to = query.return_to.as_deref().unwrap_or("/");
    if !is_page(return_to) {
        return Err(ApiError::invalid("return_to", "must be the path of a page of the dashboard"));
    }
    let redirect = redirect_url(&arrival, &app, &provider);
    let way = app.accounts.sign_in_there(&provider, &redirect, return_to, &arrival.origin).await.map_err(refused)?;
    go(&way.url, &[browser::set_state(&arrival.site, way.state.expose_secret(), SIGN_IN_TTL)])
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct BackQuery {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
}

/// Where the provider sends the browser back to.
#[utoipa::path(get, path = "/v1/auth/oidc/{provider}/callback", tag = "accounts",
    params(("provider" = String, Path), BackQuery),
    responses((status = 303, description = "To the page that the person wanted, or to /login?error=CODE")))]
pub async fn back(
    State(app): State<App>,
    parts: Parts,
    Name(name): Name,
    Query(query): Query<BackQuery>,
) -> ApiResult<Response> {
    let provider = provider(&app, &name)?;
    let arrival = Arrival::of_program(&parts, &app);
    let forget = browser::clear_state(&arrival.site);
    let signed_in = match (&query.code, &query.state) {
        (Some(code), Some(state)) if query.error.is_none() && is_this_browsers(&parts, &arrival, state) => {
            let redirect = redirect_url(&arrival, &app, &provider);
            let visit = Visit { kind: SessionKind::Browser, ..arrival.visit() };
            app.accounts.sign_in_back(&provider, code, state, &redirect, visit).await
        }
        _ => Err(ElsewhereError::NotBegun),
    };
    match signed_in {
        Ok((SignedIn { credential: Credential::Cookie(secret), ttl, .. }, return_to)) => {
            let cookie = browser::set(&arrival.site, secret.expose_secret(), ttl);
            go(&return_to, &[cookie, forget])
        }
        Ok(_) => Err(ApiError::internal("a browser's session without a cookie")),
        Err(error) => {
            let code = code_of(&error);
            tracing::info!(
                error = &error as &dyn std::error::Error,
                provider = provider.id(),
                code,
                "a sign-in failed"
            );
            go(&format!("/login?error={code}"), &[forget])
        }
    }
}

fn is_this_browsers(parts: &Parts, arrival: &Arrival, state: &str) -> bool {
    let kept = browser::state(parts, &arrival.site).unwrap_or_default();
    !kept.is_empty() && bool::from(kept.as_bytes().ct_eq(state.as_bytes()))
}

/// What the page for signing in is told.
fn code_of(error: &ElsewhereError) -> &'static str {
    match error {
        ElsewhereError::NotBegun => "not_begun",
        ElsewhereError::NoAddress => "email_not_verified",
        ElsewhereError::SwitchedOff => "account_disabled",
        ElsewhereError::Signup(SignupError::Closed | SignupError::InvitationNeeded) => "signup_closed",
        ElsewhereError::Login(_) => "rate_limited",
        _ => "sign_in_failed",
    }
}

fn refused(error: ElsewhereError) -> ApiError {
    match error {
        ElsewhereError::Login(error) => error.into(),
        ElsewhereError::Db(error) => error.into(),
        ElsewhereError::Provider(error) => {
            ApiError::new(ErrorCode::ProviderError, "the sign-in provider can't be reached at the moment")
                .with_source(error)
        }
        error => ApiError::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use super::is_page;

    #[test]
    fn only_pages_of_this_site_are_come_back_to() {
        for page in ["/", "/dashboard", "/device?code=BCDF-GHJK"] {
            assert!(is_page(page), "{page}");
        }
        for elsewhere in ["", "//evil.example", "https://evil.example", "/\\evil.example", "evil", "/a b", "/a\r\nX: y"]
        {
            assert!(!is_page(elsewhere), "{elsewhere}");
        }
    }
}
