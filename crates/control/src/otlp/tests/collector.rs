//! A collector that is not one: it takes OTLP over HTTP on loopback, reads what comes, and answers as it is told.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use prost::Message;
use tokio::sync::watch;

use super::INTERVAL;
use crate::otlp::OtlpSettings;
use crate::otlp::wire::{Data, ExportMetricsServiceRequest, KeyValue, NumberDataPoint, Value};

/// What came with a request, and the request.
pub type Came = (HeaderMap, ExportMetricsServiceRequest);
type Told = (StatusCode, Vec<(&'static str, &'static str)>);

#[derive(Clone)]
pub struct FakeCollector {
    pub address: SocketAddr,
    came: Arc<Mutex<Vec<Came>>>,
    answer: Arc<Mutex<Told>>,
    /// It doesn't answer while this is so.
    pub hangs: watch::Sender<bool>,
}

impl FakeCollector {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            address: listener.local_addr().unwrap(),
            came: Arc::default(),
            answer: Arc::new(Mutex::new((StatusCode::OK, Vec::new()))),
            hangs: watch::channel(false).0,
        };
        let own = this.clone();
        let route = axum::routing::post(async move |headers: HeaderMap, body: Bytes| {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&*body).read_to_end(&mut plain).expect("gzip");
            let message = ExportMetricsServiceRequest::decode(&*plain).expect("an ExportMetricsServiceRequest");
            own.came.lock().unwrap().push((headers, message));
            own.hangs.subscribe().wait_for(|hangs| !hangs).await.expect("it lives");
            let (status, headers) = own.answer.lock().unwrap().clone();
            let headers = headers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            (status, HeaderMap::from_iter(headers))
        });
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/in/v1/metrics", route)).await });
        this
    }

    pub fn settings(&self) -> OtlpSettings {
        let endpoint = format!("http://{}/in/", self.address);
        OtlpSettings::parse(&endpoint, "api-key=collectors%20own", Some(INTERVAL)).unwrap()
    }

    pub fn answer(&self, status: u16, headers: &[(&'static str, &'static str)]) {
        *self.answer.lock().unwrap() = (StatusCode::from_u16(status).unwrap(), headers.to_vec());
    }

    pub fn count(&self) -> usize {
        self.came.lock().unwrap().len()
    }

    /// What has come since the last call.
    pub fn taken(&self) -> Vec<Came> {
        std::mem::take(&mut *self.came.lock().unwrap())
    }

    pub async fn wait_for(&self, count: usize) {
        let enough = async {
            while self.count() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), enough).await.expect("requests");
    }
}

pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    let Value::String(text) = found.value.clone()?.value?;
    Some(text)
}

/// Of each request: whose it is, and the names of its metrics.
pub fn outline(came: &[Came]) -> Vec<(Option<String>, Vec<String>)> {
    let resources = came.iter().flat_map(|(_, message)| &message.resource_metrics);
    resources
        .map(|of| {
            let instance = attribute(&of.resource.as_ref().unwrap().attributes, "service.instance.id");
            let metrics = of.scope_metrics.iter().flat_map(|scope| &scope.metrics);
            (instance, metrics.map(|metric| metric.name.clone()).collect())
        })
        .collect()
}

/// All points of the metrics of that name.
pub fn points(came: &[Came], name: &str) -> Vec<NumberDataPoint> {
    let resources = came.iter().flat_map(|(_, message)| &message.resource_metrics);
    let metrics = resources.flat_map(|of| &of.scope_metrics).flat_map(|scope| &scope.metrics);
    metrics
        .filter(|metric| metric.name == name)
        .flat_map(|metric| match metric.data.clone().unwrap() {
            Data::Gauge(gauge) => gauge.data_points,
            Data::Sum(sum) => sum.data_points,
            Data::Histogram(_) => Vec::new(),
        })
        .collect()
}

pub fn sandboxes(came: &[Came]) -> Vec<String> {
    let mut ids: Vec<_> = points(came, "container.memory.usage")
        .iter()
        .map(|point| attribute(&point.attributes, "container.id").unwrap())
        .collect();
    ids.sort();
    ids
}
