//! What the fake machine serves as plain HTTP: files, ports, volumes and images; and what it lies about.

use std::collections::HashMap;

use atoll_model::api::hosts::PROXY_ERROR_HEADER;
use atoll_rpc::atoll::guest::v1 as guest;
use atoll_rpc::atoll::host::v1::HostServiceServer;
use atoll_rpc::connectrpc::{Chain, ConnectRpcService};
use atoll_rpc::process::ProcessServer;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{any, any_service, get};
use futures::StreamExt;

use super::FakeAgent;

/// What every guest agent of the host says, whatever it is asked.
#[derive(Debug, Clone)]
pub enum Lie {
    /// An error in these words.
    Error(String),
    /// An error that has no end.
    EndlessError,
    /// A success that has no end.
    EndlessAnswer,
    /// This, as a success.
    Answer(&'static [u8]),
}

impl Lie {
    fn told(self) -> axum::response::Response {
        let endless = || {
            Body::from_stream(futures::stream::repeat_with(|| {
                Ok::<_, std::io::Error>(Bytes::from_static(&[b'"'; 64 << 10]))
            }))
        };
        let proto = [("content-type", "application/proto")];
        match self {
            Self::Error(message) => {
                let error = serde_json::json!({ "code": "internal", "message": message }).to_string();
                (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "application/json")], error).into_response()
            }
            Self::EndlessError => {
                (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "application/json")], endless()).into_response()
            }
            Self::EndlessAnswer => (proto, endless()).into_response(),
            Self::Answer(bytes) => (proto, bytes).into_response(),
        }
    }
}

impl FakeAgent {
    pub fn router(&self) -> Router {
        let host = ConnectRpcService::new(HostServiceServer::new(self.clone()));
        let guest = ConnectRpcService::new(Chain(
            guest::GuestServiceServer::new(self.clone()),
            ProcessServer::new(self.clone()),
        ));
        let (writer, reader, packer, liar) = (self.clone(), self.clone(), self.clone(), self.clone());
        let image = move |axum::extract::Path(digest): axum::extract::Path<String>| {
            let image = packer.state().images.get(&digest).cloned();
            async move { image.ok_or(StatusCode::NOT_FOUND) }
        };
        let bare = any(|uri: axum::http::Uri, headers: HeaderMap| async move { Self::port(&uri, &headers) });
        Router::new()
            .route("/atoll.host.v1.HostService/{method}", any_service(host))
            .route("/images/{digest}", get(image))
            .route("/volumes/{id}/{kind}", any(Self::volume))
            .route(
                "/proxy/{id}/guest/files",
                get(move |headers, query| reader.read(headers, query))
                    .post(move |query, body| writer.write(query, body)),
            )
            .route("/proxy/{id}/{port}/{*rest}", bare.clone())
            .route("/proxy/{id}/{port}/", bare)
            .nest_service("/proxy/{id}/guest", guest)
            .layer(axum::middleware::from_fn(move |request: axum::extract::Request, next: axum::middleware::Next| {
                let lie = liar.state().lie.clone().filter(|_| request.uri().path().contains("/guest/"));
                let mut state = liar.state();
                let paused = request.uri().path().starts_with("/proxy/") && state.paused_for > 0;
                state.paused_for -= usize::from(paused);
                drop(state);
                async move {
                    if paused {
                        let _taken = axum::body::to_bytes(request.into_body(), 8 << 20).await;
                        return (StatusCode::CONFLICT, [(PROXY_ERROR_HEADER, "paused")]).into_response();
                    }
                    match lie {
                        Some(lie) => lie.told(),
                        None => next.run(request).await,
                    }
                }
            }))
    }

    /// What was asked about a volume, as it came; but that what has `none` in its path is not there.
    async fn volume(
        method: axum::http::Method,
        uri: axum::http::Uri,
        body: axum::body::Bytes,
    ) -> axum::response::Response {
        let marker = [(atoll_model::api::hosts::VOLUME_FILES_HEADER, "1")];
        let asked = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        if asked.contains("unmarked") {
            return StatusCode::NOT_FOUND.into_response();
        }
        if asked.contains("none") {
            let refusal = serde_json::json!({ "message": "path `/none` does not exist" }).to_string();
            return (StatusCode::NOT_FOUND, marker, refusal).into_response();
        }
        let body = String::from_utf8_lossy(&body);
        let seen = serde_json::json!({ "method": method.as_str(), "asked": asked, "body": body }).to_string();
        (marker, seen).into_response()
    }

    async fn write(self, Query(query): Query<HashMap<String, String>>, body: Body) -> axum::response::Response {
        let mut bytes = Vec::new();
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) if bytes.len() + chunk.len() <= 1 << 20 => bytes.extend_from_slice(&chunk),
                Ok(_) => {
                    let refusal = r#"{"code":507,"message":"no space left"}"#;
                    return (StatusCode::INSUFFICIENT_STORAGE, refusal).into_response();
                }
                Err(_) => return StatusCode::BAD_REQUEST.into_response(),
            }
        }
        let path = query["path"].clone();
        self.state().files.insert(path.clone(), bytes.into());
        format!(r#"[{{"path":"{path}","name":"x","type":"file"}}]"#).into_response()
    }

    /// A program that listens on any port but 1, and says what it was asked.
    fn port(uri: &axum::http::Uri, headers: &HeaderMap) -> axum::response::Response {
        let mut pieces = uri.path().splitn(5, '/').skip(3);
        let (port, path) = (pieces.next().unwrap_or_default(), pieces.next().unwrap_or_default());
        if port == "1" {
            return (StatusCode::BAD_GATEWAY, [(PROXY_ERROR_HEADER, "port_closed")]).into_response();
        }
        let seen: serde_json::Map<_, _> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
            .collect();
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let body = serde_json::json!({ "port": port, "path": format!("/{path}{query}"), "headers": seen }).to_string();
        let mut answer = body.into_response();
        for (name, value) in [
            ("set-cookie", "own=1"),
            ("set-cookie", "all=1; Domain=sbx.test"),
            ("clear-site-data", "*"),
            ("service-worker-allowed", "/"),
        ] {
            answer.headers_mut().append(name, HeaderValue::from_static(value));
        }
        answer
    }

    async fn read(self, headers: HeaderMap, Query(query): Query<HashMap<String, String>>) -> axum::response::Response {
        let trusted = headers.contains_key(crate::fleet::TRUSTED_HEADER);
        self.note(if trusted { "guest" } else { "guest untrusted" });
        match self.state().files.get(&query["path"]) {
            Some(bytes) => bytes.clone().into_response(),
            None => (StatusCode::NOT_FOUND, r#"{"code":404,"message":"no such file"}"#).into_response(),
        }
    }
}
