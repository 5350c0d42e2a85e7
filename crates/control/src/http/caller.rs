//! Who asks. Handlers name the kind of caller they serve in their arguments, and get it or the request ends:
//!
//! - [`Key`] (K in the contract): an API key in `X-API-Key`, or a user token. Acts for one team.
//! - [`User`] (J): a person's token in `Authorization: Bearer`, or the cookie of their browser (`browser` says what a
//!   request with it must bring along).
//! - [`Admin`] (A): a person who is a platform admin now, by the database.
//!
//! Rights are read from the database at each call: a deleted key, an ended session, a removed member and a demoted
//! admin are out at once.

use std::net::SocketAddr;

use atoll_model::api::auth::{KeyScope, Role, SessionKind};
use atoll_model::{SessionId, TeamId, UserId};
use axum::extract::FromRequestParts;
use axum::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, USER_AGENT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::browser;
use super::error::{ApiError, ApiResult};
use super::places::Place;
use super::site::ClientAddress;
use crate::accounts::Presented;
use crate::api_keys;
use crate::app::App;
use crate::audit::{Actor, Origin};
use crate::db::Millis;
use crate::sandboxes::{Network, Owner};

/// The id of a request: in the answer's header `X-Request-Id`, in error bodies, in the log and the audit trail.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// The other end of the connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Where a request came from, for the audit trail and for rate limits.
#[must_use]
pub fn origin(parts: &Parts) -> Origin {
    Origin {
        address: parts.extensions.get::<ClientAddress>().map(|client| client.0.to_string()),
        request_id: parts.extensions.get::<RequestId>().map(|id| id.0.clone()),
        user_agent: user_agent(&parts.headers),
    }
}

/// What is kept of a client's name for itself.
const MAX_USER_AGENT: usize = 200;

fn user_agent(headers: &HeaderMap) -> Option<String> {
    let agent = headers.get(USER_AGENT)?.to_str().ok()?;
    Some(agent[..agent.len().min(MAX_USER_AGENT)].to_owned())
}

/// A team's caller: an API key, or a person in their current team.
#[derive(Debug, Clone)]
pub struct Key(pub Owner);

/// A signed-in person.
#[derive(Debug, Clone)]
pub struct User {
    pub id: UserId,
    pub session: SessionId,
    pub team: TeamId,
    pub team_is_byoc: bool,
    pub team_network: Option<Network>,
    /// In that team.
    pub role: Role,
    pub is_admin: bool,
    pub email: String,
    pub name: String,
    pub has_password: bool,
    /// How the session proves itself, and when it ends.
    pub kind: SessionKind,
    pub session_until: Millis,
    /// What `accounts::Rights` remembers under this number is true for this request.
    pub rights_version: i64,
    pub origin: Origin,
}

/// A platform admin.
#[derive(Debug, Clone)]
pub struct Admin(pub User);

impl User {
    #[must_use]
    pub fn actor(&self) -> Actor {
        Actor::User(self.id.clone())
    }

    /// Whose idempotency keys these are: the same person's in another team are others.
    #[must_use]
    pub fn keys_owner(&self) -> String {
        format!("{} {}", self.id, self.team)
    }

    /// Refuses those with a lesser role.
    pub fn at_least(&self, role: Role) -> ApiResult<()> {
        if self.role >= role {
            return Ok(());
        }
        Err(ApiError::forbidden(format!("this takes the role {} in the team", role.as_str())))
    }

    fn owner(self) -> Owner {
        let actor = self.actor();
        Owner {
            team: self.team,
            team_is_byoc: self.team_is_byoc,
            team_network: self.team_network,
            actor,
            origin: self.origin,
        }
    }
}

/// The protocol that a WebSocket of a browser speaks; see [`bearer`].
pub const WEBSOCKET_PROTOCOL: &str = "atoll.v1";
const WEBSOCKET_BEARER: &str = "atoll.bearer.";

/// The user token of a request. A page can't set the headers of a WebSocket, but for the protocols that it offers: it
/// offers `atoll.v1` and `atoll.bearer.TOKEN`, and the token stays out of addresses and so out of logs.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        return offered.flat_map(|value| value.split(',')).find_map(|one| one.trim().strip_prefix(WEBSOCKET_BEARER));
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The password of a request in HTTP's Basic scheme.
fn basic_password(headers: &HeaderMap) -> Option<String> {
    let (scheme, pair) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let pair = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(pair.trim()).ok()).flatten()?;
    let (_, password) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
    Some(password.to_owned())
}

/// What proves a person: their token, or else the cookie of their browser.
fn presented<'a>(parts: &'a Parts, app: &App) -> Option<Presented<'a>> {
    match bearer(&parts.headers) {
        Some(token) => Some(Presented::Token(token)),
        None if parts.headers.contains_key(AUTHORIZATION) => None,
        None => browser::secret(parts, &app.config).map(Presented::Cookie),
    }
}

impl FromRequestParts<App> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> ApiResult<Self> {
        let presented = presented(parts, app).ok_or_else(ApiError::unauthorized)?;
        let recognised = app.accounts.authenticate(&presented).await?.ok_or_else(ApiError::unauthorized)?;
        if let Presented::Cookie(secret) = presented {
            browser::guard(parts, &app.config, secret)?;
        }
        let session = &recognised.person.session;
        Place::fill(parts, &app.places, &session.team_id)?;
        if let Some(noting) = app.accounts.note_use(session) {
            app.tasks.spawn(noting);
        }
        Ok(Self {
            id: session.user_id.0.clone(),
            session: session.id.0.clone(),
            team: session.team_id.0.clone(),
            team_is_byoc: session.team_is_byoc,
            team_network: session.team_network.clone().map(|network| network.0),
            role: session.role.0.0,
            is_admin: session.is_admin,
            email: session.email.clone(),
            name: session.name.clone(),
            has_password: session.has_password,
            kind: session.kind.0,
            session_until: session.expires_at,
            rights_version: recognised.version,
            origin: origin(parts),
        })
    }
}

impl FromRequestParts<App> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> ApiResult<Self> {
        Self::judged(parts, app, |scope, parts| api_keys::allows(scope, &parts.method, parts.uri.path())).await
    }
}

impl Key {
    /// Who sends a request into a port of a sandbox. Its path is the program's there and says nothing: whoever does that
    /// uses a sandbox, and no program's GET can be known to do nothing but read.
    pub async fn at_a_port(parts: &mut Parts, app: &App) -> ApiResult<Self> {
        Self::judged(parts, app, |scope, _| matches!(scope, KeyScope::All | KeyScope::Sandboxes)).await
    }

    /// Who pushes or pulls images. Clients of registries know HTTP's Basic scheme: the password is an API key or a user
    /// token, whatever the name. All that comes so can change something, so it takes a key for all.
    pub async fn of_images(parts: &mut Parts, app: &App) -> ApiResult<Self> {
        if let Some(password) = basic_password(&parts.headers) {
            let is_key = api_keys::digest(&password).is_some();
            let (name, value) = match is_key {
                true => (HeaderName::from_static("x-api-key"), password),
                false => (AUTHORIZATION, format!("Bearer {password}")),
            };
            let value = HeaderValue::from_str(&value).map_err(|_| ApiError::unauthorized())?;
            parts.headers.remove(AUTHORIZATION);
            parts.headers.insert(name, value);
        }
        Self::judged(parts, app, |scope, _| scope == KeyScope::All).await
    }

    async fn judged(parts: &mut Parts, app: &App, covers: impl Fn(KeyScope, &Parts) -> bool) -> ApiResult<Self> {
        let Some(key) = parts.headers.get("x-api-key") else {
            return User::from_request_parts(parts, app).await.map(|user| Self(user.owner()));
        };
        let key = key.to_str().map_err(|_| ApiError::unauthorized())?;
        let key = app.accounts.authenticate_key(key).await?.ok_or_else(ApiError::unauthorized)?;
        if !covers(key.scope.0, parts) {
            let message = format!("this API key's scope is `{}`, which does not cover this", key.scope.as_str());
            return Err(ApiError::forbidden(message));
        }
        Place::fill(parts, &app.places, &key.team_id)?;
        app.note_key_use(&key);
        Ok(Self(Owner {
            team: key.team_id.0.clone(),
            team_is_byoc: key.team_is_byoc,
            team_network: key.team_network.clone().map(|network| network.0),
            actor: Actor::ApiKey(key.id.0.clone()),
            origin: origin(parts),
        }))
    }
}

impl FromRequestParts<App> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> ApiResult<Self> {
        let user = User::from_request_parts(parts, app).await?;
        if user.is_admin {
            return Ok(Self(user));
        }
        Err(ApiError::forbidden("this is for platform admins"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browsers_websocket_brings_its_token_as_a_protocol_and_a_header_wins_over_it() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), None);
        headers.insert(SEC_WEBSOCKET_PROTOCOL, "atoll.v1, atoll.bearer.a.b-c_d".parse().unwrap());
        assert_eq!(bearer(&headers), Some("a.b-c_d"));
        headers.insert(AUTHORIZATION, "bearer header".parse().unwrap());
        assert_eq!(bearer(&headers), Some("header"));
        headers.insert(AUTHORIZATION, "Basic x".parse().unwrap());
        assert_eq!(bearer(&headers), None);
    }

    #[test]
    fn a_password_may_have_colons_and_the_name_is_anything() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            basic_password(&headers)
        };
        // _e2b_access_token:atl_x:y, and :z
        assert_eq!(of("Basic X2UyYl9hY2Nlc3NfdG9rZW46YXRsX3g6eQ==").as_deref(), Some("atl_x:y"));
        assert_eq!(of("basic Ono=").as_deref(), Some("z"));
        for nonsense in ["Basic", "Basic !", "Basic eA==", "Basic /w==", "Bearer Ono="] {
            assert_eq!(of(nonsense), None, "{nonsense}");
        }
    }
}
