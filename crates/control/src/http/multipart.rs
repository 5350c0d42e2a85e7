//! How much of a multipart body is read into memory before it gets on.
//!
//! Multer keeps what stands before the first part, and the headers of each part, without a bound, and looks through all of
//! it again with each piece that comes. It also takes all that has arrived before it looks. So the body is given to it in
//! lots: when a lot is through and nothing has come of it, the body ends with an error.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use futures::{Stream, StreamExt};

/// Of a body, before a part has begun or a piece of its content has been read.
const LOT: usize = 64 << 10;

/// Told by the body's reader.
#[derive(Clone)]
pub struct Progress(Arc<AtomicUsize>);

impl Progress {
    /// A part has begun, or a piece of its content is there: the next lot may come.
    pub fn made(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{LOT} bytes without the beginning of a part")]
struct NoPart;

struct InLots<S> {
    inner: S,
    /// Of this lot.
    passed: Progress,
    /// Whether the reader was left alone with a whole lot before.
    paused: bool,
}

impl<S: Stream<Item = Result<Bytes, axum::Error>> + Unpin> Stream for InLots<S> {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.passed.0.load(Ordering::Relaxed) >= LOT {
            if self.paused {
                return Poll::Ready(Some(Err(axum::Error::new(NoPart))));
            }
            // It asks until there is nothing, and only then looks at what it has.
            self.paused = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.paused = false;
        let next = futures::ready!(self.inner.poll_next_unpin(context));
        if let Some(Ok(bytes)) = &next {
            self.passed.0.fetch_add(bytes.len(), Ordering::Relaxed);
        }
        Poll::Ready(next)
    }
}

/// The request with its body in lots.
pub fn bounded(request: Request) -> (Request, Progress) {
    let progress = Progress(Arc::default());
    let passed = progress.clone();
    let request =
        request.map(|body| Body::from_stream(InLots { inner: body.into_data_stream(), passed, paused: false }));
    (request, progress)
}
