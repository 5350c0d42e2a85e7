//! Live changes as server-sent events.
//!
//! The stream begins with `ready`, whose `id` is where it is: what is read after that is not older than the stream.
//! Then each event as it happens. `Last-Event-ID` goes on after that event. A stream that can't be complete any more
//! (its reader is too slow, what it missed is too old or too much, the database had an accident) says `reset` and
//! ends: read everything again, and connect anew. A comment every 15 s keeps the connection. Whenever somebody has lost
//! a right, the caller's are asked for again before the next event is told: who has none left is told nothing more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::{ErrorCode, TeamId};
use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use futures::Stream;
use serde::Deserialize;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

use super::caller::{Admin, Key};
use super::error::{ApiError, ApiResult};
use super::extract::Query;
use crate::app::App;
use crate::db::DbError;
use crate::events::store::{self, Row};
use crate::events::{Notice, Subscription, Told};
use crate::live;

const HEARTBEAT: Duration = Duration::from_secs(15);
/// Streams of one person or key.
const PER_CALLER: usize = 16;
/// Of one team, by whomever: no team has all there are.
const PER_TEAM: usize = 256;
const IN_ALL: usize = 1024;
/// Events that are told again at most. More is read faster as lists.
const REPLAY: i64 = 10_000;
const REPLAY_PAGE: i64 = 200;
/// Messages that wait for a reader.
const QUEUE: usize = 256;

/// Who listens now. A stream's place is given back when it ends.
#[derive(Debug, Default, Clone)]
pub struct Listeners(Arc<Mutex<Places>>);

#[derive(Debug, Default)]
struct Places {
    all: usize,
    /// By caller and by team; their ids differ.
    by: HashMap<String, usize>,
}

struct Place {
    listeners: Listeners,
    of: Vec<String>,
}

impl Listeners {
    fn enter(&self, caller: &str, view: &View) -> ApiResult<Place> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let team = match view {
            View::Team(team) => Some((team.as_str(), PER_TEAM)),
            View::Platform => None,
        };
        let bounds: Vec<_> = team.into_iter().chain([(caller, PER_CALLER)]).collect();
        let is_full = |(who, most): &(&str, usize)| places.by.get(*who).copied().unwrap_or(0) >= *most;
        if places.all >= IN_ALL || bounds.iter().any(is_full) {
            let error = ApiError::new(ErrorCode::RateLimited, "too many event streams are open; close some");
            return Err(error.with_retry_after(HEARTBEAT));
        }
        places.all += 1;
        let of: Vec<_> = bounds.into_iter().map(|(who, _)| who.to_owned()).collect();
        for who in &of {
            *places.by.entry(who.clone()).or_default() += 1;
        }
        Ok(Place { listeners: self.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.listeners.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.all -= 1;
        for who in &self.of {
            if let Some(count) = places.by.get_mut(who) {
                *count -= 1;
                if *count == 0 {
                    places.by.remove(who);
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// What the caller's team has, and the platform's templates.
    #[default]
    Team,
    /// Everything. For platform admins.
    Platform,
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    #[param(inline)]
    pub scope: Option<Scope>,
}

/// What a stream shows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum View {
    Team(TeamId),
    Platform,
}

impl View {
    fn shows(&self, row: &Row) -> bool {
        match (self, &row.team_id) {
            (Self::Platform, _) => true,
            (Self::Team(team), Some(of)) => *team == of.0,
            // The platform's templates are everybody's, its hosts are not.
            (Self::Team(_), None) => row.kind.starts_with("template."),
        }
    }
}

/// Asks who calls, and what they may see. Done again while the stream is open.
async fn view(parts: &mut Parts, app: &App, scope: Scope) -> ApiResult<(View, String)> {
    match scope {
        Scope::Platform => {
            let Admin(user) = Admin::from_request_parts(parts, app).await?;
            Ok((View::Platform, user.id.to_string()))
        }
        Scope::Team => {
            let Key(owner) = Key::from_request_parts(parts, app).await?;
            let caller = owner.actor.id().unwrap_or_default().to_owned();
            Ok((View::Team(owner.team), caller))
        }
    }
}

/// Live changes as server-sent events (`text/event-stream`): `ready`, then `sandbox.created`, `sandbox.updated`,
/// `sandbox.deleted` and the same for `host`, `template`, `snapshot`, `api_key`, `team`, `member` and `webhook`, with
/// an `Event` as data; `reset` when something may have been missed. `Last-Event-ID` goes on after that event.
#[utoipa::path(get, path = "/v1/events", tag = "events",
    params(EventsQuery, ("Last-Event-ID" = Option<i64>, Header, description = "The last event that was seen")),
    responses((status = 200, body = atoll_model::api::events::Event, content_type = "text/event-stream"),
        (status = 429)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn events(State(app): State<App>, mut parts: Parts) -> ApiResult<Response> {
    let Query(query) = Query::<EventsQuery>::from_request_parts(&mut parts, &app).await?;
    let scope = query.scope.unwrap_or_default();
    let (view, caller) = view(&mut parts, &app, scope).await?;
    let last = last_seen(&parts.headers)?;
    let place = app.listeners.enter(&caller, &view)?;
    let subscription = tokio::time::timeout(HEARTBEAT, app.feed.subscribe()).await.ok().flatten();
    let subscription =
        subscription.ok_or_else(|| ApiError::overloaded("events can't be read at the moment; try again soon"))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let stream = Teller { app: app.clone(), parts, scope, view, last, sender };
    app.tasks.spawn(async move {
        let _place = place;
        stream.run(subscription).await;
    });
    let mut response = Response::new(Body::from_stream(messages(receiver)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A reverse proxy should not hold events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn messages(receiver: mpsc::Receiver<Bytes>) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
    futures::stream::unfold(receiver, |mut receiver| async move { Some((Ok(receiver.recv().await?), receiver)) })
}

fn last_seen(headers: &HeaderMap) -> ApiResult<Option<i64>> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    number.map(Some).ok_or_else(|| ApiError::invalid("Last-Event-ID", "not the id of an event of this stream"))
}

/// Why a stream ends.
enum End {
    /// The client has gone, or may not see this any more.
    Quiet,
    /// It must be told to read everything again.
    Reset,
}

impl From<DbError> for End {
    fn from(error: DbError) -> Self {
        tracing::warn!(error = &error as &dyn std::error::Error, "an event could not be read");
        Self::Reset
    }
}

async fn message(app: &App, row: &Row) -> Result<Bytes, DbError> {
    let event = live::event(&app.db, row).await?;
    let data = serde_json::to_string(&event).unwrap_or_default();
    Ok(format!("event: {}\nid: {}\ndata: {data}\n\n", event.kind, event.id).into())
}

struct Teller {
    app: App,
    parts: Parts,
    scope: Scope,
    view: View,
    last: Option<i64>,
    sender: mpsc::Sender<Bytes>,
}

impl Teller {
    async fn run(mut self, subscription: Subscription) {
        let shutdown = self.app.shutdown.clone();
        let ended = tokio::select! {
            ended = self.follow(subscription) => ended,
            () = shutdown.cancelled() => return,
        };
        if matches!(ended, End::Reset) {
            // It has a moment to take what waits for it; one that takes nothing is closed anyway.
            let reset = Bytes::from_static(b"event: reset\ndata: {\"reason\":\"read everything again\"}\n\n");
            let _ = self.sender.send_timeout(reset, HEARTBEAT).await;
        }
    }

    async fn follow(&mut self, mut subscription: Subscription) -> End {
        // Rights may have gone between the first look and the subscription.
        if let Err(end) = self.look_again().await {
            return end;
        }
        if let Err(end) = self.catch_up(subscription.after).await {
            return end;
        }
        let mut heartbeat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let sender = self.sender.clone();
            let told = tokio::select! {
                told = subscription.receiver.recv() => told,
                _ = heartbeat.tick() => match self.beat().await {
                    Ok(()) => continue,
                    Err(end) => return end,
                },
                () = sender.closed() => return End::Quiet,
            };
            let notice = match told {
                Ok(Told::Event(notice)) => notice,
                Ok(Told::Rights) => match self.look_again().await {
                    Ok(()) => continue,
                    Err(end) => return end,
                },
                Ok(Told::Reset) | Err(broadcast::error::RecvError::Lagged(_)) => return End::Reset,
                Err(broadcast::error::RecvError::Closed) => return End::Quiet,
            };
            if notice.row.id > subscription.after
                && self.view.shows(&notice.row)
                && let Err(end) = self.tell_notice(&notice).await
            {
                return end;
            }
        }
    }

    /// Tells what was missed since the last event that was seen, up to `until`; then that the stream is live.
    async fn catch_up(&self, until: i64) -> Result<(), End> {
        if let Some(mut seen) = self.last {
            let kept_since = store::first(&self.app.db).await?.unwrap_or(until + 1);
            if seen > until || seen + 1 < kept_since || until - seen > REPLAY {
                return Err(End::Reset);
            }
            while seen < until {
                let (rows, _) = store::after(&self.app.db, seen, REPLAY_PAGE).await?;
                let Some(last) = rows.last() else { break };
                seen = last.id;
                for row in rows.iter().filter(|row| row.id <= until && self.view.shows(row)) {
                    self.tell(row).await?;
                }
            }
        }
        let ready = format!("event: ready\nid: {until}\ndata: {{\"id\":{until}}}\n\n");
        self.sender.send(ready.into()).await.map_err(|_| End::Quiet)
    }

    async fn tell_notice(&self, notice: &Notice) -> Result<(), End> {
        let message = notice.message.get_or_try_init(|| message(&self.app, &notice.row)).await?;
        self.send(message.clone()).await
    }

    async fn tell(&self, row: &Row) -> Result<(), End> {
        self.send(message(&self.app, row).await?).await
    }

    async fn send(&self, message: Bytes) -> Result<(), End> {
        match self.sender.send_timeout(message, HEARTBEAT).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(End::Reset),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(End::Quiet),
        }
    }

    /// Asks whether the caller may still see this.
    async fn look_again(&mut self) -> Result<(), End> {
        match view(&mut self.parts, &self.app, self.scope).await {
            Ok((view, _)) if view == self.view => Ok(()),
            Err(error) if error.status().is_client_error() => Err(End::Quiet),
            // Another team by now, or nobody can tell: whoever has a right connects again.
            Ok(_) | Err(_) => Err(End::Reset),
        }
    }

    /// Keeps the connection. The caller's token or key may be over meanwhile.
    async fn beat(&mut self) -> Result<(), End> {
        self.look_again().await?;
        let waits = self.sender.try_send(Bytes::from_static(b": alive\n\n"));
        if matches!(waits, Err(mpsc::error::TrySendError::Closed(_))) { Err(End::Quiet) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_a_caller_nor_a_team_has_all_the_places_and_all_come_back() {
        let listeners = Listeners::default();
        let (team, other) = (View::Team(TeamId::new()), View::Team(TeamId::new()));
        let mut places = Vec::new();
        for caller in 0.. {
            let mut entered: Vec<_> =
                (0..=PER_CALLER).map_while(|_| listeners.enter(&format!("user-{caller}"), &team).ok()).collect();
            assert!(entered.len() <= PER_CALLER);
            if entered.is_empty() {
                break;
            }
            places.append(&mut entered);
        }
        assert_eq!(places.len(), PER_TEAM);
        assert!(listeners.enter("user-new", &team).is_err());
        places.push(listeners.enter("user-new", &other).unwrap());
        places.push(listeners.enter("user-admin", &View::Platform).unwrap());
        drop(places);
        let left = listeners.0.lock().unwrap();
        assert!(left.all == 0 && left.by.is_empty(), "{left:?}");
    }
}
