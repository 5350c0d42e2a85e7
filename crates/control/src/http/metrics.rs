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
use crate::db::DbError;
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

    fn readings(&self) -> Vec<Reading> {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let requests = METHODS.iter().zip(&self.requests).flat_map(|(method, classes)| {
            classes.iter().enumerate().filter(|(_, counter)| get(counter) > 0).map(move |(class, counter)| Labelled {
                labels: vec![("method", (*method).to_owned()), ("status", format!("{}xx", class + 1))],
                value: get(counter),
            })
        });
        let duration = Read::Histogram {
            bounds: BUCKETS_MS.iter().map(|ms| *ms as f64 / 1000.0).collect(),
            counts: self.buckets.iter().map(get).collect(),
            sum: get(&self.micros) as f64 / 1e6,
        };
        vec![
            Reading { name: "atoll.http.requests", unit: "{request}", read: Read::Counter(requests.collect()) },
            Reading { name: "atoll.http.request.duration", unit: "s", read: duration },
            gauge("atoll.http.connections", "{connection}", get(&self.connections)),
            Reading {
                name: "atoll.tls.handshake_failures",
                unit: "{failure}",
                read: Read::Counter(vec![Labelled::bare(get(&self.handshake_failures))]),
            },
        ]
    }
}

/// Something that is measured: shown here to whoever asks, and sent to whom the operator names (`otlp`).
pub struct Reading {
    /// As OpenTelemetry has it; Prometheus' name follows from it.
    pub name: &'static str,
    /// By UCUM.
    pub unit: &'static str,
    pub read: Read,
}

pub enum Read {
    Gauge(Vec<Labelled>),
    /// Only grows, while the process lives.
    Counter(Vec<Labelled>),
    /// One count more than bounds: what is beyond the last.
    Histogram {
        bounds: Vec<f64>,
        counts: Vec<u64>,
        sum: f64,
    },
}

impl Read {
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Gauge(read) | Self::Counter(read) => read.is_empty(),
            Self::Histogram { .. } => false,
        }
    }
}

pub struct Labelled {
    pub labels: Vec<(&'static str, String)>,
    pub value: u64,
}

impl Labelled {
    fn bare(value: u64) -> Self {
        Self { labels: Vec::new(), value }
    }
}

fn gauge(name: &'static str, unit: &'static str, value: u64) -> Reading {
    Reading { name, unit, read: Read::Gauge(vec![Labelled::bare(value)]) }
}

/// What this process counts.
pub fn of_process(app: &App) -> Vec<Reading> {
    let mut readings = app.metrics.readings();
    let in_flight = app.config.http.max_requests.saturating_sub(app.requests.available_permits());
    readings.extend([
        gauge("atoll.http.requests_in_flight", "{request}", in_flight as u64),
        gauge("atoll.http.sockets_open", "{socket}", app.places.sockets_open() as u64),
        gauge("atoll.sandbox.streams_open", "{stream}", app.sandboxes.activity().open_streams() as u64),
        gauge("atoll.fleet.hosts_pooled", "{host}", app.sandboxes.fleet().pooled() as u64),
        gauge("atoll.host.tunnels", "{tunnel}", app.tunnels.count() as u64),
    ]);
    if app.config.otlp.is_some() {
        let result = |result: &str, counter: &AtomicU64| Labelled {
            labels: vec![("result", result.to_owned())],
            value: counter.load(Ordering::Relaxed),
        };
        let counts = &app.otlp;
        let results = [("taken", &counts.taken), ("refused", &counts.refused), ("failed", &counts.failed)];
        let read = Read::Counter(results.into_iter().map(|(name, counter)| result(name, counter)).collect());
        readings.push(Reading { name: "atoll.otlp.requests", unit: "{request}", read });
    }
    readings
}

/// What is true of all of this Atoll, whichever replica says it.
pub async fn of_all(app: &App) -> Result<Vec<Reading>, DbError> {
    let counts = store::counts(&app.db).await?.into_iter().map(|(status, count)| Labelled {
        labels: vec![("status", status.0.to_string())],
        value: u64::try_from(count).unwrap_or(0),
    });
    Ok(vec![Reading { name: "atoll.sandboxes", unit: "{sandbox}", read: Read::Gauge(counts.collect()) }])
}

/// As Prometheus reads it.
fn write(out: &mut String, reading: &Reading) {
    let seconds = if reading.unit == "s" { "_seconds" } else { "" };
    let name = format!("{}{seconds}", reading.name.replace('.', "_"));
    let (name, kind, read) = match &reading.read {
        Read::Gauge(read) => (name, "gauge", read),
        Read::Counter(read) => (format!("{name}_total"), "counter", read),
        Read::Histogram { bounds, counts, sum } => {
            let _ = writeln!(out, "# TYPE {name} histogram");
            let mut total = 0;
            let bounds = bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
            for (bound, count) in bounds.zip(counts) {
                total += count;
                let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {total}");
            }
            let _ = writeln!(out, "{name}_sum {sum}\n{name}_count {total}");
            return;
        }
    };
    let _ = writeln!(out, "# TYPE {name} {kind}");
    for Labelled { labels, value } in read {
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let braces = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(out, "{name}{braces} {value}");
    }
}

/// Prometheus metrics. From elsewhere than loopback it takes the metrics token.
#[utoipa::path(get, path = "/metrics", tag = "operations",
    responses((status = 200, content_type = "text/plain", body = String), (status = 401)))]
pub async fn metrics(State(app): State<App>, parts: Parts) -> ApiResult<Response> {
    if !may_look(&app, &parts) {
        return Err(ApiError::unauthorized());
    }
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text(&app).await?).into_response())
}

/// All of it, as Prometheus reads it.
pub async fn text(app: &App) -> Result<String, DbError> {
    let mut out = String::with_capacity(4096);
    let version = app.config.version;
    let _ = writeln!(out, "# TYPE atoll_info gauge\natoll_info{{version=\"{version}\"}} 1");
    for reading in of_process(app).iter().chain(&of_all(app).await?) {
        write(&mut out, reading);
    }
    Ok(out)
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
