//! How much may be under way at once, in all and of one team: requests, WebSockets, answers that programs wrote.

use std::sync::{Arc, Mutex, PoisonError};

use atoll_model::{ErrorCode, TeamId};
use axum::http::request::Parts;
use axum::response::Response;
use http_body_util::BodyExt;

use super::error::{ApiError, ApiResult};
use crate::app::App;
use crate::config::HttpLimits;
use crate::fleet::Meter;
use crate::shares::{Full, Share, Shares};

/// A team's part of what is bounded.
pub type TeamShare = Share<TeamId>;

/// The bounds. See [`HttpLimits`].
#[derive(Debug)]
pub struct Places {
    requests: Shares<TeamId>,
    sockets: Shares<TeamId>,
    /// Bytes.
    answers: Shares<TeamId>,
}

impl Places {
    #[must_use]
    pub fn new(limits: &HttpLimits) -> Self {
        Self {
            requests: Shares::halved(limits.max_requests),
            sockets: Shares::halved(limits.max_sockets),
            answers: Shares::halved(limits.max_answer_bytes),
        }
    }

    /// A place for one of the team's requests.
    ///
    /// # Errors
    /// When the team has too many under way.
    pub fn request(&self, team: &TeamId) -> Result<TeamShare, Full> {
        self.requests.take(team, 1)
    }

    /// A place for a connection that stays.
    ///
    /// # Errors
    /// When there are too many.
    pub fn socket(&self, team: &TeamId) -> Result<TeamShare, Full> {
        self.sockets.take(team, 1)
    }

    /// WebSockets and other connections that stay, open now.
    #[must_use]
    pub fn sockets_open(&self) -> usize {
        self.sockets.in_use()
    }

    /// Room for so many bytes of an answer.
    ///
    /// # Errors
    /// When there is none.
    pub fn answer(&self, team: &TeamId, bytes: usize) -> Result<TeamShare, Full> {
        self.answers.take(team, bytes)
    }
}

/// What is told to whom there is no place for; `what` is what there are too many of.
pub fn refused(full: Full, what: &str) -> ApiError {
    match full {
        Full::All => ApiError::overloaded(format!("too many {what} are under way; try again in a moment")),
        Full::Share => ApiError::new(
            ErrorCode::RateLimited,
            format!("your team has too many {what} under way; try again when some have ended"),
        )
        .with_retry_after(std::time::Duration::from_secs(1)),
    }
}

/// What is held of small answers: nothing.
const SMALL_ANSWER: usize = 64 << 10;
/// Room is taken in pieces.
const STEP: usize = 1 << 20;
/// An answer is in memory as it came, as what it means, and as what is sent on.
const COPIES: usize = 4;

/// Counts one answer of a guest agent while it comes in, and has room taken for it until it was sent on.
pub struct AnswerMeter {
    app: App,
    team: TeamId,
    limit: usize,
    state: Mutex<Metered>,
}

#[derive(Default)]
struct Metered {
    seen: usize,
    taken: usize,
    shares: Vec<TeamShare>,
    refused: Option<Full>,
}

impl AnswerMeter {
    #[must_use]
    pub fn new(app: &App, team: &TeamId, limit: usize) -> Arc<Self> {
        Arc::new(Self { app: app.clone(), team: team.clone(), limit, state: Mutex::default() })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Metered> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the answer was cut off, if it was.
    pub fn refusal(&self) -> Option<ApiError> {
        let full = self.state().refused?;
        Some(refused(full, "large answers of programs").with_retry_after(std::time::Duration::from_secs(5)))
    }

    /// Keeps the room until the response has been sent.
    #[must_use]
    pub fn keep(self: Arc<Self>, mut response: Response) -> Response {
        if self.state().taken > 0 {
            response.extensions_mut().insert(Kept(self));
        }
        response
    }
}

impl Meter for AnswerMeter {
    fn limit(&self) -> usize {
        self.limit
    }

    fn admit(&self, bytes: usize) -> bool {
        let mut state = self.state();
        state.seen = state.seen.saturating_add(bytes);
        if state.seen <= SMALL_ANSWER || state.seen.saturating_mul(COPIES) <= state.taken {
            return true;
        }
        let more = state.seen.saturating_mul(COPIES).saturating_sub(state.taken).max(STEP);
        match self.app.places.answer(&self.team, more) {
            Ok(share) => {
                state.taken += more;
                state.shares.push(share);
                true
            }
            Err(full) => {
                state.refused = Some(full);
                false
            }
        }
    }
}

/// Room that an answer takes, on its way to the edge.
#[derive(Clone)]
pub struct Kept(#[allow(dead_code, reason = "it is kept, not read")] Arc<AnswerMeter>);

impl Kept {
    #[must_use]
    pub fn until_read(self, response: Response) -> Response {
        response.map(|body| {
            axum::body::Body::new(body.map_frame(move |frame| {
                let _kept = &self;
                frame
            }))
        })
    }
}

/// Where a request keeps its team's place: made at the edge before anybody knows the team, filled by whoever finds it
/// out, emptied when the answer is made.
#[derive(Debug, Clone, Default)]
pub struct Place(Arc<Mutex<Option<TeamShare>>>);

impl Place {
    /// Takes the place of a request, once it is known whose it is. A request that has one keeps it.
    ///
    /// # Errors
    /// When the team has too many under way.
    pub fn fill(parts: &Parts, places: &Places, team: &TeamId) -> ApiResult<()> {
        let Some(Self(place)) = parts.extensions.get::<Self>() else { return Ok(()) };
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is_none() {
            *place = Some(places.request(team).map_err(|full| refused(full, "requests"))?);
        }
        Ok(())
    }
}
