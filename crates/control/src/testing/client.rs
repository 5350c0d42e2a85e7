//! A client that calls the router without a network: of several replicas, each in turn, as behind a load balancer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tower::ServiceExt;

use crate::app::App;
use crate::http::caller::Peer;

#[derive(Clone)]
pub struct Client {
    replicas: Arc<[Router]>,
    /// Whose turn it is; clones share it.
    turn: Arc<AtomicUsize>,
    headers: HeaderMap,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// Itself, if the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    #[track_caller]
    pub fn parsed<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn field(&self) -> String {
        self.json()["error"]["field"].as_str().unwrap_or_default().to_owned()
    }
}

impl Client {
    pub fn new<'a>(apps: impl IntoIterator<Item = &'a App>) -> Self {
        let replicas = apps.into_iter().map(|app| crate::http::router(app.clone())).collect();
        Self { replicas, turn: Arc::default(), headers: HeaderMap::new() }
    }

    fn router(&self) -> Router {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.replicas[turn % self.replicas.len()].clone()
    }

    pub fn with_key(&self, key: &SecretString) -> Self {
        self.with("x-api-key", key.expose_secret())
    }

    pub fn with_token(&self, token: &str) -> Self {
        let mut this = self.with("authorization", &format!("Bearer {token}"));
        this.headers.remove("x-api-key");
        this
    }

    pub fn with(&self, name: &'static str, value: &str) -> Self {
        let mut this = self.clone();
        this.headers.insert(name, value.parse().unwrap());
        this
    }

    /// What it sends as `name`.
    pub fn header(&self, name: &str) -> String {
        self.headers[name].to_str().unwrap().to_owned()
    }

    pub fn anonymous(&self) -> Self {
        Self { headers: HeaderMap::new(), ..self.clone() }
    }

    pub async fn send(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
        *request.headers_mut() = self.headers.clone();
        request.extensions_mut().insert(Peer(SocketAddr::from(([192, 0, 2, 1], 9))));
        let response = self.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// The status of the answer, whose body is left alone.
    pub async fn head_of(&self, method: Method, path: &str, body: impl Into<Body>) -> StatusCode {
        let mut request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
        *request.headers_mut() = self.headers.clone();
        request.extensions_mut().insert(Peer(SocketAddr::from(([192, 0, 2, 1], 9))));
        self.router().oneshot(request).await.unwrap().status()
    }

    /// Sends a request whose answer's body is read as it comes.
    pub async fn open(&self, path: &str) -> axum::response::Response {
        let mut request = Request::builder().uri(path).body(Body::empty()).unwrap();
        *request.headers_mut() = self.headers.clone();
        request.extensions_mut().insert(Peer(SocketAddr::from(([192, 0, 2, 1], 9))));
        self.router().oneshot(request).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, Body::empty()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.with("content-type", "application/json").send(Method::POST, path, body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.with("content-type", "application/json").send(Method::PUT, path, body.to_string()).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.with("content-type", "application/json").send(Method::PATCH, path, body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, Body::empty()).await
    }

    /// Logs in and answers with the token.
    pub async fn login(&self, email: &str, password: &SecretString) -> String {
        let body = serde_json::json!({ "email": email, "password": password.expose_secret() });
        let answer = self.anonymous().post("/v1/auth/login", body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
        answer.json()["token"].as_str().unwrap().to_owned()
    }
}
