//! The time before all sandboxes are found again: control hears the host and may ask what it has found so far, but no
//! order can be judged, since a sandbox that isn't found yet would count as gone.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};

use crate::sandboxes::Keeper;

/// Methods that only ask, and whose answers say that they are incomplete.
const ASKING: [&str; 2] = ["/ListSandboxes", "/GetStatus"];

/// Refuses every other method of the service with Connect's `unavailable` until the keeper admits orders.
pub fn refusing(router: Router, keeper: Keeper) -> Router {
    router.layer(from_fn_with_state(keeper, refuse))
}

async fn refuse(State(keeper): State<Keeper>, request: Request, next: Next) -> Response {
    let asks_only = ASKING.iter().any(|method| request.uri().path().ends_with(method));
    if keeper.inventory_complete() || asks_only {
        return next.run(request).await;
    }
    let error = serde_json::json!({"code": "unavailable", "message": "the agent is still finding its sandboxes"});
    (StatusCode::SERVICE_UNAVAILABLE, axum::Json(error)).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body;
    use axum::routing::post;
    use tower::ServiceExt;

    use super::*;
    use crate::agent::proxy::{Directory, Refusal};
    use crate::config::Limits;
    use crate::sandboxes::Records;
    use crate::sandboxes::fake::FakeDriver;

    #[tokio::test]
    async fn until_all_is_found_orders_are_unavailable_and_nothing_counts_as_gone() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let keeper =
            Keeper::new(dir.path(), records, Arc::new(FakeDriver::default()), Limits::default(), 8 << 30).unwrap();
        let router = Router::new().route("/service/{method}", post(|| async { StatusCode::NO_CONTENT }));
        let router = refusing(router, keeper.clone());
        let ask = async |method: &str| {
            let request = Request::post(format!("/service/{method}")).body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap().status()
        };
        let unknown = atoll_model::SandboxId::new();
        for method in ["DestroySandbox", "CreateSandbox", "DeleteImage", "Terminate", "GetSandbox"] {
            assert_eq!(ask(method).await, StatusCode::SERVICE_UNAVAILABLE, "{method}");
        }
        assert_eq!(ask("ListSandboxes").await, StatusCode::NO_CONTENT);
        assert!(matches!(keeper.route(&unknown), Err(Refusal::Starting)));

        keeper.admit_orders();
        keeper.all_found().await;
        assert_eq!(ask("DestroySandbox").await, StatusCode::NO_CONTENT);
        assert!(matches!(keeper.route(&unknown), Err(Refusal::NotFound)));
    }
}
