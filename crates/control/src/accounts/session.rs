//! Sessions: opened at a sign-in, proven by a token or a cookie, listed, ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::api::auth::SessionKind;
use atoll_model::{SessionId, TeamId, UserId};
use secrecy::SecretString;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::rights::{self, Person};
use super::session_store::{self, LiveSession, NewSession, SessionRow};
use super::store::LoginRow;
use super::token::Subject;
use super::{Accounts, ending, store};
use crate::audit::{self, Actor, Entry, Origin};
use crate::db::{DbError, Millis, Tx};
use crate::signing::SigningError;

/// How often the use of a session is noted.
const NOTE_USE: Duration = Duration::from_secs(60);
/// How long a program that a person has let in stays so.
const LONG: Duration = Duration::from_secs(30 * 24 * 3600);
/// A cookie's secret: 32 random bytes in hex.
const SECRET_LENGTH: usize = 64;

/// Who comes, and how they want to be known from then on.
#[derive(Clone, Copy)]
pub struct Visit<'a> {
    pub origin: &'a Origin,
    pub user_agent: Option<&'a str>,
    pub kind: SessionKind,
    /// A program that was let in for long.
    pub long: bool,
}

/// What proves a new session. Shown once.
pub enum Credential {
    Token(SecretString),
    Cookie(SecretString),
}

/// A person who has signed in.
pub struct SignedIn {
    pub credential: Credential,
    pub user_id: UserId,
    pub team_id: TeamId,
    pub email: String,
    pub name: String,
    pub expires_at: Millis,
    pub ttl: Duration,
}

/// What a request shows.
pub enum Presented<'a> {
    Token(&'a str),
    Cookie(&'a str),
}

/// Who shows a credential, and under which version of everybody's rights that was so.
pub struct Recognised {
    pub person: Arc<Person>,
    pub version: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Signing(#[from] SigningError),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// When the use of each session was last noted by this replica.
#[derive(Clone, Default)]
pub struct Uses(Arc<Mutex<HashMap<SessionId, Millis>>>);

impl Uses {
    /// Whether this use is to be written down.
    fn due(&self, session: &LiveSession, now: Millis) -> bool {
        let recent = |at: Millis| at > now - NOTE_USE;
        if session.last_seen_at.is_some_and(recent) {
            return false;
        }
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if uses.get(&session.id.0).copied().is_some_and(recent) {
            return false;
        }
        uses.retain(|_, at| recent(*at));
        uses.insert(session.id.0.clone(), now);
        true
    }
}

fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret))
}

impl Accounts {
    /// Opens a session for somebody who has proven who they are, with its audit entry, in `tx`.
    pub(super) async fn open_session(
        &self,
        tx: &mut Tx,
        user: LoginRow,
        visit: Visit<'_>,
        action: &'static str,
    ) -> Result<SignedIn, SessionError> {
        let now = self.clock.now();
        let user_id = user.id.0;
        let (team_id, role) = match (user.team_id, user.role) {
            (Some(team), Some(role)) => (team.0, role.0.as_str()),
            // Their last team was deleted, or they left it: nobody who can sign in is without one.
            _ => {
                let actor = Actor::User(user_id.clone());
                (self.own_team(tx, &user_id, &user.name, (&actor, visit.origin), now).await?, "owner")
            }
        };
        let session_id = SessionId::new();
        let (ttl, credential, secret_hash) = match visit.kind {
            SessionKind::Token => {
                let subject = Subject {
                    user: &user_id,
                    session: &session_id,
                    team: &team_id,
                    role,
                    email: &user.email,
                    name: &user.name,
                    is_admin: user.is_admin,
                };
                let ttl = if visit.long { LONG } else { self.settings.session_ttl };
                (ttl, Credential::Token(self.tokens.sign(&subject, now, ttl)?), None)
            }
            SessionKind::Browser => {
                let secret = hex::encode(rand::random::<[u8; SECRET_LENGTH / 2]>());
                let kept = hash(&secret);
                (self.settings.browser_session_ttl, Credential::Cookie(secret.into()), Some(kept))
            }
        };
        let session = NewSession {
            id: &session_id,
            kind: visit.kind,
            secret_hash: secret_hash.as_deref(),
            user: &user_id,
            team: &team_id,
            created_at: now,
            expires_at: now + ttl,
            address: visit.origin.address.as_deref(),
            user_agent: visit.user_agent,
        };
        session_store::insert(tx, &session).await?;
        let entry = Entry {
            team: Some(&team_id),
            actor: &Actor::User(user_id.clone()),
            origin: visit.origin,
            action,
            target_kind: "session",
            target_id: Some(session_id.as_str()),
            result: "ok",
            details: json!({ "kind": visit.kind }),
        };
        audit::record(tx, now, &entry).await?;
        Ok(SignedIn { credential, user_id, team_id, email: user.email, name: user.name, expires_at: now + ttl, ttl })
    }

    /// Who shows this, by the database of now. See `rights`.
    pub async fn authenticate(&self, presented: &Presented<'_>) -> Result<Option<Recognised>, SessionError> {
        let (kind, text) = match *presented {
            Presented::Token(text) => ("token", text),
            Presented::Cookie(text) => ("cookie", text),
        };
        let version = self.rights.version().await?;
        let (now, shown) = (self.clock.now(), rights::shown(kind, text));
        if let Some(person) = self.rights.person(version, &shown, now) {
            return Ok(Some(Recognised { person, version }));
        }
        let (session, until) = match *presented {
            Presented::Token(token) => {
                self.tokens.refresh_for(version, now).await?;
                let Some(verified) = self.tokens.verify(token, now).await? else { return Ok(None) };
                let session = session_store::by_id(&self.db, &verified.claims.sid, now).await?;
                (session.filter(|session| session.user_id.0 == verified.claims.sub), verified.expires_at)
            }
            Presented::Cookie(secret) if secret.len() == SECRET_LENGTH => {
                (session_store::by_secret(&self.db, &hash(secret), now).await?, Millis(i64::MAX))
            }
            Presented::Cookie(_) => return Ok(None),
        };
        let Some(session) = session else { return Ok(None) };
        let person = Arc::new(Person { until: until.min(session.expires_at), session });
        self.rights.remember(version, shown, &person);
        Ok(Some(Recognised { person, version }))
    }

    /// Notes that a session is in use, once a minute at most. The caller lets it run beside the request.
    pub fn note_use(&self, session: &LiveSession) -> Option<impl Future<Output = ()> + Send + use<>> {
        let now = self.clock.now();
        if !self.uses.due(session, now) {
            return None;
        }
        let (db, id) = (self.db.clone(), session.id.0.clone());
        Some(async move {
            if let Err(error) = session_store::mark_seen(&db, &id, now).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "could not note the use of a session");
            }
        })
    }

    /// Makes the person act in another of their teams: a browser's session goes over to it, a token's stays as it is and
    /// a new one is opened. Nothing when they are not a member.
    pub async fn switch_team(
        &self,
        user: &UserId,
        session: &SessionId,
        team: &TeamId,
        visit: Visit<'_>,
    ) -> Result<Option<Switched>, SessionError> {
        let Some(row) = store::user_in_team(&self.db, user, team).await? else { return Ok(None) };
        let mut tx = self.db.begin().await?;
        let switched = match visit.kind {
            SessionKind::Token => Switched::New(self.open_session(&mut tx, row, visit, "user.switch_team").await?),
            SessionKind::Browser => {
                session_store::switch_team(&mut tx, session, team).await?;
                let entry = Entry {
                    team: Some(team),
                    actor: &Actor::User(user.clone()),
                    origin: visit.origin,
                    action: "user.switch_team",
                    target_kind: "session",
                    target_id: Some(session.as_str()),
                    result: "ok",
                    details: json!({ "kind": visit.kind }),
                };
                audit::record(&mut tx, self.clock.now(), &entry).await?;
                Switched::Same
            }
        };
        tx.commit().await?;
        Ok(Some(switched))
    }

    /// Ends a session of `user`: what proves it is worth nothing from now on. Answers whether there was one.
    pub async fn end_session(
        &self,
        user: &UserId,
        session: &SessionId,
        origin: &Origin,
        action: &'static str,
    ) -> Result<bool, DbError> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        let Some(before) = session_store::revoke(&mut tx, user, session, now).await? else { return Ok(false) };
        let entry = Entry {
            team: None,
            actor: &Actor::User(user.clone()),
            origin,
            action,
            target_kind: "session",
            target_id: Some(session.as_str()),
            result: "ok",
            details: json!({ "before": {
                "kind": before.kind.0,
                "address": before.address,
                "user_agent": before.user_agent,
                "created_at": before.created_at.to_utc(),
            } }),
        };
        audit::record(&mut tx, now, &entry).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Ends all sessions of `user` but `kept`, with what else was opened. Answers how many.
    pub async fn end_other_sessions(&self, user: &UserId, kept: &SessionId, origin: &Origin) -> Result<u64, DbError> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        let ended = ending::end_access(&mut tx, user, Some(kept), now).await?;
        let entry = Entry {
            team: None,
            actor: &Actor::User(user.clone()),
            origin,
            action: "session.revoke_others",
            target_kind: "user",
            target_id: Some(user.as_str()),
            result: "ok",
            details: json!({ "sessions_ended": ended }),
        };
        audit::record(&mut tx, now, &entry).await?;
        tx.commit().await?;
        Ok(ended)
    }

    /// A page of a person's live sessions, newest first.
    pub async fn sessions(&self, user: &UserId, after: (Millis, &str), limit: i64) -> Result<Vec<SessionRow>, DbError> {
        session_store::list(&self.db, user, after, limit, self.clock.now()).await
    }
}

pub enum Switched {
    /// The session that asked has gone over.
    Same,
    New(SignedIn),
}
