//! A request's body that must go on coming: one that stands still ends with an error.
//!
//! Only the time is counted in which its reader waits for it: a reader that is slow itself costs the client nothing.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

#[derive(Debug, thiserror::Error)]
#[error("nothing of the request's body came for {} s", .0.as_secs())]
struct Stalled(Duration);

struct Patient {
    inner: Body,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

/// The request with such a body.
pub fn patient(request: Request, limit: Duration) -> Request {
    if http_body::Body::is_end_stream(request.body()) {
        return request;
    }
    request.map(|inner| Body::new(Patient { inner, limit, waiting: None }))
}

impl http_body::Body for Patient {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            self.waiting = None;
            return Poll::Ready(frame);
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        waiting.as_mut().poll(context).map(|()| Some(Err(axum::Error::new(Stalled(limit)))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn body(limit: Duration) -> (tokio::sync::mpsc::Sender<Result<Bytes, std::io::Error>>, axum::body::BodyDataStream) {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
        (sender, patient(Request::new(body), limit).into_body().into_data_stream())
    }

    #[tokio::test]
    async fn a_body_that_stands_still_ends_with_an_error() {
        let (sender, mut body) = body(Duration::from_millis(1));
        sender.send(Ok(Bytes::from_static(b"x"))).await.unwrap();
        assert_eq!(body.next().await.unwrap().unwrap(), "x");
        let error = body.next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("nothing of the request's body came"), "{error}");
    }

    #[tokio::test]
    async fn what_has_come_is_read_however_late_the_reader_is_and_each_piece_begins_the_wait_anew() {
        let (sender, mut body) = body(Duration::from_millis(1));
        for _ in 0..2 {
            assert!(futures::poll!(body.next()).is_pending(), "the wait has begun");
            tokio::time::sleep(Duration::from_millis(20)).await;
            sender.send(Ok(Bytes::from_static(b"x"))).await.unwrap();
            assert_eq!(body.next().await.unwrap().unwrap(), "x");
        }
        drop(sender);
        assert!(body.next().await.is_none());
    }
}
