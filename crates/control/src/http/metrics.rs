//! Prometheus metrics: `/metrics`, for loopback and for holders of the metrics token.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use super::caller::Peer;
use super::error::{ApiError, ApiResult};
use crate::app::App;
use crate::sandboxes::store;

/// Upper bounds of the buckets, in milliseconds; the last bucket has none.
const BUCKETS_MS: [u64; 11] = [1, 2, 5, 10, 20, 50, 100, 250, 1000, 5000, 30_000];
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OTHER"];
/// Answers by class: 1xx to 5xx.
const CLASSES: usize = 5;

/// Counters of requests. Kept in memory: Prometheus expects counters to begin anew with the process.
#[derive(Default)]
pub struct HttpMetrics {
    requests: [[AtomicU64; CLASSES]; METHODS.len()],
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    micros: AtomicU64,
    pub connections: AtomicU64,
    pub handshake_failures: AtomicU64,
}

impl HttpMetrics {
    pub fn request(&self, method: &Method, status: StatusCode, elapsed: Duration) {
        let method = METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1);
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1;
        self.requests[method][class].fetch_add(1, Ordering::Relaxed);
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_MS.iter().position(|bound| millis < *bound).unwrap_or(BUCKETS_MS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(elapsed.as_micros()).unwrap_or(0), Ordering::Relaxed);
    }

    fn write(&self, out: &mut String) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        out.push_str("# TYPE atoll_http_requests_total counter\n");
        for (method, classes) in METHODS.iter().zip(&self.requests) {
            for (class, counter) in classes.iter().enumerate().filter(|(_, counter)| get(counter) > 0) {
                let (class, count) = (class + 1, get(counter));
                let _ = writeln!(out, "atoll_http_requests_total{{method=\"{method}\",status=\"{class}xx\"}} {count}");
            }
        }
        out.push_str("# TYPE atoll_http_request_duration_seconds histogram\n");
        let mut total = 0;
        for (index, counter) in self.buckets.iter().enumerate() {
            total += get(counter);
            let bound = BUCKETS_MS.get(index).map_or("+Inf".to_owned(), |ms| (*ms as f64 / 1000.0).to_string());
            let _ = writeln!(out, "atoll_http_request_duration_seconds_bucket{{le=\"{bound}\"}} {total}");
        }
        let sum = get(&self.micros) as f64 / 1e6;
        let _ = writeln!(out, "atoll_http_request_duration_seconds_sum {sum}");
        let _ = writeln!(out, "atoll_http_request_duration_seconds_count {total}");
        gauge(out, "atoll_http_connections", get(&self.connections));
        out.push_str("# TYPE atoll_tls_handshake_failures_total counter\n");
        let _ = writeln!(out, "atoll_tls_handshake_failures_total {}", get(&self.handshake_failures));
    }
}

fn gauge(out: &mut String, name: &str, value: u64) {
    let _ = writeln!(out, "# TYPE {name} gauge\n{name} {value}");
}

/// Prometheus metrics. From elsewhere than loopback it takes the metrics token.
#[utoipa::path(get, path = "/metrics", tag = "operations",
    responses((status = 200, content_type = "text/plain", body = String), (status = 401)))]
pub async fn metrics(State(app): State<App>, parts: Parts) -> ApiResult<Response> {
    if !may_look(&app, &parts) {
        return Err(ApiError::unauthorized());
    }
    let mut out = String::with_capacity(4096);
    let version = app.config.version;
    let _ = writeln!(out, "# TYPE atoll_info gauge\natoll_info{{version=\"{version}\"}} 1");
    app.metrics.write(&mut out);
    let free = app.requests.available_permits();
    gauge(&mut out, "atoll_http_requests_in_flight", app.config.http.max_requests.saturating_sub(free) as u64);
    gauge(&mut out, "atoll_http_sockets_open", app.places.sockets_open() as u64);
    gauge(&mut out, "atoll_sandbox_streams_open", app.sandboxes.activity().open_streams() as u64);
    gauge(&mut out, "atoll_fleet_hosts_pooled", app.sandboxes.fleet().pooled() as u64);
    gauge(&mut out, "atoll_host_tunnels", app.tunnels.count() as u64);
    out.push_str("# TYPE atoll_sandboxes gauge\n");
    for (status, count) in store::counts(&app.db).await? {
        let _ = writeln!(out, "atoll_sandboxes{{status=\"{}\"}} {count}", status.0);
    }
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], out).into_response())
}

fn may_look(app: &App, parts: &Parts) -> bool {
    let token = app.config.metrics_token.as_ref().map(ExposeSecret::expose_secret);
    let given = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer "));
    if let (Some(token), Some(given)) = (token, given) {
        return bool::from(token.as_bytes().ct_eq(given.as_bytes()));
    }
    // A proxy in front of us connects from loopback for everybody.
    let forwarded = parts.headers.contains_key("x-forwarded-for") || parts.headers.contains_key("forwarded");
    !forwarded && parts.extensions.get::<Peer>().is_some_and(|peer| peer.0.ip().to_canonical().is_loopback())
}
