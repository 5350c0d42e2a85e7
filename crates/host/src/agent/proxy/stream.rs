//! What a stream through the proxy holds on to: its place in the bounds, and the end of the sandbox.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A stream's place: in the bound of its sandbox and in that of the host. Given back when the last holder drops it.
#[derive(Debug, Clone)]
pub struct Place {
    _held: Arc<[OwnedSemaphorePermit; 2]>,
}

impl Place {
    #[must_use]
    pub fn new(sandbox: OwnedSemaphorePermit, host: OwnedSemaphorePermit) -> Self {
        Self { _held: Arc::new([sandbox, host]) }
    }
}

/// An answer's body that ends with an error at the moment when its sandbox is destroyed, and keeps its place until
/// then. The error makes the server reset the stream, so that nobody takes what came so far for all of it.
pub struct CutBody<B> {
    body: B,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Place,
}

impl<B> CutBody<B> {
    pub fn new(body: B, cut: CancellationToken, place: Place) -> Self {
        Self { body, cut: Box::pin(cut.cancelled_owned()), _place: place }
    }
}

impl<B> Body for CutBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = self.get_mut();
        if this.cut.as_mut().poll(cx).is_ready() {
            let error = io::Error::new(io::ErrorKind::ConnectionReset, "the sandbox was destroyed");
            return Poll::Ready(Some(Err(error.into())));
        }
        Pin::new(&mut this.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};
    use tokio::sync::Semaphore;

    async fn place() -> (Place, Arc<Semaphore>) {
        let room = Arc::new(Semaphore::new(2));
        let place =
            Place::new(room.clone().acquire_owned().await.unwrap(), room.clone().acquire_owned().await.unwrap());
        (place, room)
    }

    #[tokio::test]
    async fn a_body_ends_with_an_error_when_the_sandbox_is_destroyed_and_gives_its_place_back() {
        let (place, room) = place().await;
        let cut = CancellationToken::new();
        let body = CutBody::new(http_body_util::Empty::new(), cut.clone(), place);
        cut.cancel();
        assert!(body.collect().await.is_err());
        assert_eq!(room.available_permits(), 2);
    }

    #[tokio::test]
    async fn a_body_comes_through_whole_otherwise() {
        let (place, _room) = place().await;
        let body = CutBody::new(Full::new(Bytes::from_static(b"all")), CancellationToken::new(), place);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "all");
    }
}
