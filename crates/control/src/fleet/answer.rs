//! What a guest agent answers with, as it comes in: bounded where it is an error, and counted by whoever must have room
//! for it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// Of the body of an answer that says no.
const MAX_ERROR: usize = 64 * 1024;

/// Of an answer to a small call.
const MAX_SMALL: usize = 1 << 20;

/// Counts an answer's bytes.
pub trait Meter: Send + Sync {
    /// More than this is no answer to what was asked.
    fn limit(&self) -> usize;
    /// Whether there is room for so many more.
    fn admit(&self, bytes: usize) -> bool;
}

/// The body of a guest agent's answer.
pub struct GuestAnswer {
    inner: Incoming,
    /// How much more may come; streams have no end.
    left: Option<usize>,
    meter: Option<Arc<dyn Meter>>,
}

/// How every error begins by which an answer ends that had begun.
pub const BROKE_OFF: &str = "the answer broke off";

#[derive(Debug, thiserror::Error)]
#[error("{BROKE_OFF}: {0}")]
pub struct BrokenOff(pub hyper::Error);

#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error(transparent)]
    Broken(#[from] BrokenOff),
    #[error("the guest's answer is too long")]
    TooLong,
    #[error("there is no room for the answer at the moment")]
    NoRoom,
}

impl GuestAnswer {
    pub(super) fn of(answer: Response<Incoming>, unary: bool, meter: Option<Arc<dyn Meter>>) -> Response<Self> {
        let left = match (&meter, answer.status().is_success()) {
            (_, false) => Some(MAX_ERROR),
            (Some(meter), true) => Some(meter.limit()),
            (None, true) => unary.then_some(MAX_SMALL),
        };
        answer.map(|inner| Self { inner, left, meter })
    }

    fn judge(&mut self, bytes: usize) -> Result<(), AnswerError> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(bytes).ok_or(AnswerError::TooLong)?;
        }
        match &self.meter {
            Some(meter) if !meter.admit(bytes) => Err(AnswerError::NoRoom),
            _ => Ok(()),
        }
    }
}

impl Body for GuestAnswer {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let next = futures::ready!(Pin::new(&mut self.inner).poll_frame(context));
        Poll::Ready(next.map(|frame| {
            let frame = frame.map_err(BrokenOff)?;
            self.judge(frame.data_ref().map_or(0, Bytes::len))?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
