//! What running sandboxes use: asked of their hosts, and made metrics by the names of the semantic conventions for
//! containers (<https://opentelemetry.io/docs/specs/semconv/system/container-metrics/>).
//!
//! What a sandbox is stands at each of its points, not in a resource of its own: many receivers (Prometheus among them) leave
//! a resource's attributes away, and all sandboxes would be one series to them.

use std::collections::HashMap;
use std::time::Duration;

use atoll_model::{HostId, SandboxId};
use atoll_rpc::atoll::host::v1::{SandboxMetrics, SandboxMetricsRequest};
use atoll_rpc::connectrpc::client::CallOptions;
use futures::stream::{self, Stream, StreamExt};

use super::nanos;
use super::store::{self, Running};
use super::wire::{CUMULATIVE, Data, Gauge, KeyValue, Metric, Number, NumberDataPoint, Sum};
use crate::app::App;
use crate::db::{DbError, Millis};
use crate::fleet::FleetError;

const HOSTS_AT_ONCE: usize = 8;
const DEADLINE: Duration = Duration::from_secs(5);
/// Of a host's answer about a page of sandboxes.
const MAX_ANSWER: usize = 1 << 20;

/// What a running sandbox uses at a moment.
#[derive(Debug, Clone)]
pub struct Sample {
    pub what: Running,
    pub host: HostId,
    /// By control's clock: a host's is its own.
    pub at: Millis,
    pub used: SandboxMetrics,
}

/// Samples of all sandboxes that run on `hosts`, each asked for `batch` at a time. A host that doesn't answer is left out;
/// an error is the database's.
pub fn samples(app: &App, hosts: Vec<HostId>, batch: usize) -> impl Stream<Item = Result<Sample, DbError>> {
    let of_host = move |host: HostId| {
        let app = app.clone();
        let pages = stream::unfold(Some(String::new()), move |after| {
            let (app, host) = (app.clone(), host.clone());
            async move {
                Some(match page(&app, &host, &after?, batch).await {
                    Ok((samples, next)) => (Ok(stream::iter(samples).map(Ok)), next),
                    Err(error) => (Err(error), None),
                })
            }
        });
        Box::pin(pages)
    };
    let pages = stream::iter(hosts).map(of_host).flatten_unordered(HOSTS_AT_ONCE);
    futures::TryStreamExt::try_flatten(pages)
}

/// A page of a host's samples, and where the next one begins.
async fn page(app: &App, host: &HostId, after: &str, batch: usize) -> Result<(Vec<Sample>, Option<String>), DbError> {
    let rows = store::running(&app.db, host, after, batch).await?;
    if rows.is_empty() {
        return Ok((Vec::new(), None));
    }
    let next = rows.last().filter(|_| rows.len() == batch).map(|last| last.id.to_string());
    let request =
        SandboxMetricsRequest { ids: rows.iter().map(|row| row.id.to_string()).collect(), ..Default::default() };
    let client = app.sandboxes.fleet().host_client(host);
    let options = CallOptions::default().with_timeout(DEADLINE).with_max_message_size(MAX_ANSWER);
    let answer = match client.sandbox_metrics_with_options(request, options).await {
        Ok(answer) => answer.into_owned(),
        // The monitor says of a host that is away.
        Err(error) => {
            let error = FleetError::from_rpc(host, "measure sandboxes", error);
            tracing::debug!(%host, error = &error as &dyn std::error::Error, "its sandboxes are left out of the export");
            return Ok((Vec::new(), None));
        }
    };
    let at = app.clock.now();
    // A host tells of the sandboxes that it was asked about, of each once.
    let mut asked: HashMap<SandboxId, Running> = rows.into_iter().map(|row| (row.id.0.clone(), row)).collect();
    let sample = |used: SandboxMetrics| {
        let what = asked.remove(&used.id.parse::<SandboxId>().ok()?)?;
        Some(Sample { what, host: host.clone(), at, used })
    };
    Ok((answer.metrics.into_iter().filter_map(sample).collect(), next))
}

/// The metrics of some sandboxes.
pub fn metrics(samples: &[Sample]) -> Vec<Metric> {
    let attributes: Vec<_> = samples.iter().map(attributes).collect();
    let points = |value: &dyn Fn(&SandboxMetrics) -> Number, more: Option<(&str, &str)>| {
        let point = |(sample, attributes): (&Sample, &Vec<KeyValue>)| NumberDataPoint {
            start_time_unix_nano: sample.what.started_at.map_or(0, nanos),
            time_unix_nano: nanos(sample.at),
            value: Some(value(&sample.used)),
            attributes: attributes.iter().cloned().chain(more.map(|(key, value)| KeyValue::new(key, value))).collect(),
        };
        samples.iter().zip(&attributes).map(point).collect::<Vec<_>>()
    };
    let of = |name: &str, unit: &str, data| Metric { name: name.to_owned(), unit: unit.to_owned(), data: Some(data) };
    let gauge = |data_points| Data::Gauge(Gauge { data_points });
    let sum =
        |data_points, is_monotonic| Data::Sum(Sum { data_points, aggregation_temporality: CUMULATIVE, is_monotonic });
    let direction = |name| Some(("network.io.direction", name));
    let network = points(&|used| int(used.net_rx_bytes), direction("receive"));
    let network = network.into_iter().chain(points(&|used| int(used.net_tx_bytes), direction("transmit")));
    vec![
        of("container.cpu.time", "s", sum(points(&|used| Number::Double(used.cpu_usec as f64 / 1e6), None), true)),
        of("container.cpu.usage", "{cpu}", gauge(points(&|used| Number::Double(cpus(used.cpu_pct)), None))),
        of("container.memory.usage", "By", sum(points(&|used| int(used.memory_bytes), None), false)),
        of("container.filesystem.usage", "By", sum(points(&|used| int(used.disk_bytes), None), false)),
        of("container.network.io", "By", sum(network.collect(), true)),
        of("atoll.sandbox.processes", "{process}", sum(points(&|used| int(used.processes.into()), None), false)),
    ]
}

fn attributes(sample: &Sample) -> Vec<KeyValue> {
    vec![
        KeyValue::new("container.id", sample.what.id.as_str()),
        KeyValue::new("atoll.team.id", sample.what.team_id.as_str()),
        KeyValue::new("atoll.template", &*sample.what.template),
        KeyValue::new("atoll.host.id", sample.host.as_str()),
        KeyValue::new("atoll.driver", &*sample.what.driver),
    ]
}

fn int(value: u64) -> Number {
    Number::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

/// A host may say anything; what is no number would spoil the series.
fn cpus(percent: f64) -> f64 {
    if percent.is_finite() { percent.max(0.0) / 100.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_becomes_none() {
        for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            assert_eq!(cpus(wrong), 0.0, "{wrong}");
        }
        assert_eq!((cpus(150.0), int(u64::MAX)), (1.5, Number::Int(i64::MAX)));
    }
}
