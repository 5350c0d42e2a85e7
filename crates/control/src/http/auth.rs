//! Signing up, in and out.

use std::sync::Arc;

use atoll_model::api::auth::{
    AuthConfig, AuthResponse, LoginRequest, SessionKind, SetupRequest, SignInProvider, Signup, SignupRequest,
    SwitchTeamRequest,
};
use axum::extract::State;
use axum::http::header::{SET_COOKIE, USER_AGENT};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::{self, User};
use super::error::{ApiError, ApiResult};
use super::extract::Json;
use super::site::Site;
use super::{browser, idempotent, validate};
use crate::accounts::{Credential, Newcomer, SignedIn, Switched, Visit, link};
use crate::app::App;
use crate::audit::Origin;
use crate::config::{DEFAULT_DOMAIN, SignupMode};
use crate::sign_in::Provider;

/// What is kept of a client's name in its session.
const MAX_USER_AGENT: usize = 200;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(config))
        .routes(routes!(login))
        .routes(routes!(signup))
        .routes(routes!(setup))
        .routes(routes!(switch_team))
        .routes(routes!(logout))
}

/// Who comes, and how they want to be known.
pub struct Arrival {
    pub origin: Origin,
    user_agent: Option<String>,
    kind: SessionKind,
    pub site: Site,
}

impl Arrival {
    pub fn of(parts: &Parts, app: &App) -> ApiResult<Self> {
        Ok(Self { kind: browser::wanted(parts, &app.config)?, ..Self::of_program(parts, app) })
    }

    /// A program: it gets a token, whatever it asks for.
    pub fn of_program(parts: &Parts, app: &App) -> Self {
        let agent = parts.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
        Self {
            origin: caller::origin(parts),
            user_agent: agent.map(|agent| agent[..agent.len().min(MAX_USER_AGENT)].to_owned()),
            kind: SessionKind::Token,
            site: Site::of(parts, &app.config),
        }
    }

    pub fn visit(&self) -> Visit<'_> {
        Visit { origin: &self.origin, user_agent: self.user_agent.as_deref(), kind: self.kind, long: false }
    }

    /// The answer to somebody who has signed in: with a token, or with a cookie and what goes with it.
    pub fn answer(&self, status: StatusCode, signed_in: SignedIn) -> ApiResult<Response> {
        let mut body = AuthResponse {
            token: None,
            csrf_token: None,
            user_id: signed_in.user_id,
            team_id: signed_in.team_id,
            email: signed_in.email,
            name: signed_in.name,
            expires_at: signed_in.expires_at.to_utc(),
        };
        let mut cookie = None;
        match signed_in.credential {
            Credential::Token(token) => body.token = Some(token.expose_secret().to_owned()),
            Credential::Cookie(secret) => {
                body.csrf_token = Some(browser::csrf_token(secret.expose_secret()));
                cookie = Some(browser::set(&self.site, secret.expose_secret(), signed_in.ttl));
            }
        }
        let mut response = (status, axum::Json(body)).into_response();
        if let Some(cookie) = cookie {
            response.headers_mut().append(SET_COOKIE, HeaderValue::from_str(&cookie).map_err(ApiError::internal)?);
        }
        Ok(response)
    }
}

fn provider(provider: &Provider<'_>) -> SignInProvider {
    SignInProvider { id: provider.id().to_owned(), name: provider.name().to_owned() }
}

/// What a page for signing in needs to know.
#[utoipa::path(get, path = "/v1/auth/config", tag = "accounts", responses((status = 200, body = AuthConfig)))]
pub async fn config(State(app): State<App>) -> ApiResult<axum::Json<AuthConfig>> {
    Ok(axum::Json(AuthConfig {
        signup: match app.config.signup {
            SignupMode::Open => Signup::Open,
            SignupMode::Invite => Signup::Invite,
            SignupMode::Closed => Signup::Closed,
        },
        setup_needed: !app.accounts.anybody().await?,
        providers: Provider::all(&app.config).iter().map(provider).collect(),
        smtp: app.accounts.mailer().is_on(),
        // No secret: it is in public DNS, in the certificate that this server shows, and in every link.
        domain: Some(app.config.domain.clone()).filter(|domain| domain != DEFAULT_DOMAIN),
    }))
}

/// Signs in. With `X-Session: cookie` the answer sets an http-only cookie, and has a `csrf_token` in place of the token.
#[utoipa::path(post, path = "/v1/auth/login", tag = "accounts", request_body = LoginRequest,
    params(("X-Session" = Option<String>, Header, description = "`cookie` or `token` (the default)")),
    responses((status = 200, body = AuthResponse), (status = 401), (status = 403), (status = 429)))]
pub async fn login(State(app): State<App>, parts: Parts, Json(request): Json<LoginRequest>) -> ApiResult<Response> {
    let arrival = Arrival::of(&parts, &app)?;
    let signed_in = app.accounts.login(&request.email, request.password.into(), arrival.visit()).await?;
    arrival.answer(StatusCode::OK, signed_in)
}

/// Makes an account with a team of its own, and signs it in. Who may do so is a setting of the server (`--signup`).
#[utoipa::path(post, path = "/v1/auth/signup", tag = "accounts", request_body = SignupRequest,
    params(("X-Session" = Option<String>, Header, description = "`cookie` or `token` (the default)"),
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again, it signs in to the account that was made")),
    responses((status = 201, body = AuthResponse), (status = 401), (status = 403), (status = 404), (status = 409),
        (status = 429)))]
pub async fn signup(State(app): State<App>, parts: Parts, Json(request): Json<SignupRequest>) -> ApiResult<Response> {
    validate::email("email", &request.email)?;
    validate::line("name", &request.name, 100)?;
    let (arrival, email) = (Arc::new(Arrival::of(&parts, &app)?), request.email.trim().to_lowercase());
    // Not the password: what is noted must not let anybody guess it. Who sends this again has to know it.
    let shown = json!({ "name": request.name, "invitation": request.invitation });
    let key = idempotent::key(&parts.headers, &format!("signup {email}"), "signup", &shown)?;
    let password = SecretString::from(request.password);
    let (worker, visitor, secret) = (app.clone(), Arc::clone(&arrival), password.clone());
    let make = async move {
        let Some(token) = &request.invitation else {
            let newcomer = Newcomer { email: &request.email, name: &request.name, password: secret };
            return Ok(worker.accounts.signup(newcomer, visitor.visit()).await?);
        };
        let (invitation, _) = super::invitations::look(&worker, &parts, token).await?;
        if invitation.email != request.email.trim().to_lowercase() {
            return Err(ApiError::invalid("email", "the invitation is for another address"));
        }
        Ok(worker.accounts.accept_anew(token, &request.name, secret, visitor.visit()).await?)
    };
    let again = async |email: String| Ok(app.accounts.login(&email, password, arrival.visit()).await?);
    let signed_in = idempotent::by_nature(&app, key, make, |made| made.email.clone(), again).await?;
    arrival.answer(StatusCode::CREATED, signed_in)
}

/// Makes the first admin of a fresh installation, for whoever holds the setup token that the server printed.
#[utoipa::path(post, path = "/v1/auth/setup", tag = "accounts", request_body = SetupRequest,
    params(("X-Session" = Option<String>, Header, description = "`cookie` or `token` (the default)"),
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again, it signs in to the account that was made")),
    responses((status = 201, body = AuthResponse), (status = 401), (status = 403), (status = 409), (status = 429)))]
pub async fn setup(State(app): State<App>, parts: Parts, Json(request): Json<SetupRequest>) -> ApiResult<Response> {
    validate::email("email", &request.email)?;
    let arrival = Arc::new(Arrival::of(&parts, &app)?);
    let owner = format!("setup {}", link::hash(&request.token));
    let key = idempotent::key(&parts.headers, &owner, "setup", &json!({ "email": request.email }))?;
    let (token, password) = (SecretString::from(request.token), SecretString::from(request.password));
    let (worker, visitor, secret) = (app.clone(), Arc::clone(&arrival), password.clone());
    let make = async move { Ok(worker.accounts.setup(&token, &request.email, secret, visitor.visit()).await?) };
    let again = async |email: String| Ok(app.accounts.login(&email, password, arrival.visit()).await?);
    let signed_in = idempotent::by_nature(&app, key, make, |made| made.email.clone(), again).await?;
    arrival.answer(StatusCode::CREATED, signed_in)
}

/// Acts in another of one's teams from now on. A cookie's session goes over to it; for a token a new one is answered,
/// and the old one stays what it is.
#[utoipa::path(post, path = "/v1/auth/switch-team", tag = "accounts", request_body = SwitchTeamRequest,
    responses((status = 200, body = AuthResponse), (status = 404)), security(("bearer" = [])))]
pub async fn switch_team(
    State(app): State<App>,
    parts: Parts,
    user: User,
    Json(request): Json<SwitchTeamRequest>,
) -> ApiResult<Response> {
    let mut arrival = Arrival::of(&parts, &app)?;
    arrival.kind = user.kind;
    let switched = app.accounts.switch_team(&user.id, &user.session, &request.team_id, arrival.visit()).await?;
    match switched.ok_or_else(|| ApiError::not_found("team"))? {
        Switched::New(signed_in) => arrival.answer(StatusCode::OK, signed_in),
        Switched::Same => Ok(axum::Json(AuthResponse {
            token: None,
            csrf_token: browser::secret(&parts, &app.config).map(browser::csrf_token),
            user_id: user.id,
            team_id: request.team_id,
            email: user.email,
            name: user.name,
            expires_at: user.session_until.to_utc(),
        })
        .into_response()),
    }
}

/// Ends the session that asks, and takes its cookie back.
#[utoipa::path(post, path = "/v1/auth/logout", tag = "accounts", responses((status = 204)),
    security(("bearer" = [])))]
pub async fn logout(State(app): State<App>, parts: Parts, user: User) -> ApiResult<Response> {
    app.accounts.end_session(&user.id, &user.session, &user.origin, "user.logout").await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    if user.kind == SessionKind::Browser {
        let cookie = browser::clear(&Site::of(&parts, &app.config));
        response.headers_mut().append(SET_COOKIE, HeaderValue::from_str(&cookie).map_err(ApiError::internal)?);
    }
    Ok(response)
}
