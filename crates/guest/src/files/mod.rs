//! Contents of files over plain HTTP.
use crate::guest::Guest;
use crate::server::answers::{self, Body};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use std::sync::Arc;
pub mod read {
    use super::*;
    pub async fn answer(_: &Arc<Guest>, _: bool, _: Request<Incoming>) -> Response<Body> {
        answers::error(StatusCode::NOT_IMPLEMENTED, "soon")
    }
}
pub mod write {
    pub use super::read::answer;
}
pub mod compose {
    use super::*;
    pub async fn answer(_: &Arc<Guest>, _: Request<Incoming>) -> Response<Body> {
        answers::error(StatusCode::NOT_IMPLEMENTED, "soon")
    }
}
