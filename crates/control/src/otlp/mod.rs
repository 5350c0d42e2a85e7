//! The export of metrics by OTLP over HTTP, to a collector that the operator names (`--otlp-endpoint`).
//!
//! Each replica sends what it counts itself, as `/metrics` has it (`platform`). What sandboxes use is nobody's own: hosts are
//! asked for it, so one replica at a time asks and sends (`sandboxes`), by a lease. `wire` has the messages, `send` makes one
//! request, `health` decides when the next one is worth it.
//!
//! A round holds one batch at a time and has a bound in time. What could not be sent is not kept: counters go on counting,
//! and the next round says what is true then. So a collector that is slow or away costs gaps in curves, and nothing here.

mod health;
mod platform;
mod sandboxes;
mod send;
mod settings;
mod store;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::MissedTickBehavior;

pub use settings::OtlpSettings;

use crate::app::App;
use crate::db::{DbError, Millis, leases};
use crate::http::metrics as readings;
use health::{Health, Verdict};
use send::{Answer, Failure};
use wire::{
    ExportMetricsServiceRequest, InstrumentationScope, KeyValue, Metric, Resource, ResourceMetrics, ScopeMetrics,
};

/// Sandboxes in a request: some 400 kB of it, a third of that compressed.
const BATCH: usize = 250;
const LEASE: &str = "otlp";
/// A round has at least this long, however often rounds are.
const SHORTEST_BOUND: Duration = Duration::from_secs(15);
/// From the end of a round's time to that of its lease.
const MARGIN: Duration = Duration::from_secs(5);
const NAME: &str = "atoll";

/// What became of requests, for `/metrics`: in memory, as other counters.
#[derive(Debug, Default)]
pub struct Counters {
    pub taken: AtomicU64,
    pub refused: AtomicU64,
    pub failed: AtomicU64,
}

/// Exports until the shutdown, if the operator wants that.
pub async fn run(app: App) {
    let Some(settings) = app.config.otlp.clone() else { return };
    tracing::info!(collector = settings.collector(), interval = ?settings.interval, "metrics are exported");
    let mut timer = tokio::time::interval(settings.interval);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer.tick().await;
    let mut exporter = Exporter::new(&app, settings, &app.replica);
    let rounds = async {
        loop {
            timer.tick().await;
            exporter.round().await;
        }
    };
    tokio::select! {
        () = app.shutdown.cancelled() => {}
        () = rounds => {}
    }
    // Another replica needn't wait for it to expire.
    let _ = leases::release(&app.db, LEASE, &app.replica).await;
}

/// One replica's exports.
struct Exporter {
    app: App,
    settings: OtlpSettings,
    replica: String,
    /// Since when this process counts.
    since: Millis,
    /// Sandboxes in a request.
    batch: usize,
    health: Health,
}

/// What has come of a round so far.
#[derive(Default)]
struct Sent {
    /// Something was taken.
    some: bool,
    /// What was not.
    refused: Option<String>,
}

enum Stop {
    Db(DbError),
    Failed(Failure),
}

impl From<DbError> for Stop {
    fn from(error: DbError) -> Self {
        Self::Db(error)
    }
}

impl Exporter {
    fn new(app: &App, settings: OtlpSettings, replica: &str) -> Self {
        let since = app.clock.now();
        Self { app: app.clone(), settings, replica: replica.to_owned(), since, batch: BATCH, health: Health::default() }
    }

    fn bound(&self) -> Duration {
        self.settings.interval.max(SHORTEST_BOUND)
    }

    /// One export, if the collector is to be asked at all now. What goes wrong is said once.
    async fn round(&mut self) {
        if self.health.rests(self.app.clock.now()) {
            return;
        }
        let mut sent = Sent::default();
        let verdict = match tokio::time::timeout(self.bound(), self.export(&mut sent)).await {
            Ok(Ok(())) => match sent.refused {
                None => Verdict::Delivered,
                Some(reason) if sent.some => Verdict::Partly(reason),
                Some(reason) => Verdict::Failed(reason.into()),
            },
            Ok(Err(Stop::Failed(failure))) => Verdict::Failed(failure),
            // That is no matter of the collector's, and the database's own part says so.
            Ok(Err(Stop::Db(error))) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a round of the export was left out");
                return;
            }
            Err(_) => Verdict::Failed(format!("it did not take everything within {:?}", self.bound()).into()),
        };
        if !self.health.take(&verdict, self.app.clock.now(), self.settings.interval) {
            return;
        }
        let collector = self.settings.collector();
        match verdict {
            Verdict::Delivered => tracing::info!(collector, "the collector takes all metrics again"),
            Verdict::Partly(reason) => {
                tracing::warn!(collector, reason, "the collector takes only a part of the metrics")
            }
            Verdict::Failed(failure) => {
                let reason = failure.reason;
                tracing::warn!(collector, reason, "metrics don't reach the collector; what they would say now is lost");
            }
        }
    }

    async fn export(&self, sent: &mut Sent) -> Result<(), Stop> {
        let now = self.app.clock.now();
        let own = platform::metrics(readings::of_process(&self.app), self.since, now);
        self.send(own, Some(&self.replica), sent).await?;
        let lease = self.bound() + self.settings.interval + MARGIN;
        if leases::take(&self.app.db, LEASE, &self.replica, now, lease).await?.is_none() {
            return Ok(());
        }
        let all = platform::metrics(readings::of_all(&self.app).await?, self.since, now);
        self.send(all, None, sent).await?;
        let hosts = store::hosts(&self.app.db).await?.into_iter().map(|host| host.0).collect();
        let mut batches = std::pin::pin!(sandboxes::samples(&self.app, hosts, self.batch).chunks(self.batch));
        while let Some(batch) = batches.next().await {
            let batch = batch.into_iter().collect::<Result<Vec<_>, _>>()?;
            self.send(sandboxes::metrics(&batch), None, sent).await?;
        }
        Ok(())
    }

    /// Sends metrics of `instance`, or of all of this Atoll.
    async fn send(&self, metrics: Vec<Metric>, instance: Option<&str>, sent: &mut Sent) -> Result<(), Stop> {
        if metrics.is_empty() {
            return Ok(());
        }
        let message = self.message(metrics, instance);
        let answer = send::send(&self.settings, self.app.config.version, &message, self.app.clock.now().to_utc()).await;
        let counters = &self.app.otlp;
        let counter = match &answer {
            Answer::Taken => &counters.taken,
            Answer::Partly(_) | Answer::Refused(_) => &counters.refused,
            Answer::Failed(_) => &counters.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        match answer {
            Answer::Taken => sent.some = true,
            Answer::Partly(reason) => (sent.some, sent.refused) = (true, Some(reason)),
            Answer::Refused(reason) => sent.refused = Some(reason),
            Answer::Failed(failure) => return Err(Stop::Failed(failure)),
        }
        Ok(())
    }

    fn message(&self, metrics: Vec<Metric>, instance: Option<&str>) -> ExportMetricsServiceRequest {
        let version = self.app.config.version;
        // Several Atolls may send to one collector: the address that people know tells them apart.
        let uri = self.app.config.public_url.as_ref().and_then(|url| url.parse::<http::Uri>().ok());
        let namespace = uri.as_ref().and_then(http::Uri::host);
        let attributes = [
            ("service.name", Some(NAME)),
            ("service.namespace", namespace),
            ("service.version", Some(version)),
            ("service.instance.id", instance),
        ];
        let attributes = attributes.into_iter().filter_map(|(key, value)| Some(KeyValue::new(key, value?))).collect();
        let scope = InstrumentationScope { name: NAME.to_owned(), version: version.to_owned() };
        let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics }];
        let resource = Some(Resource { attributes });
        ExportMetricsServiceRequest { resource_metrics: vec![ResourceMetrics { resource, scope_metrics }] }
    }
}

/// Nanoseconds since 1970, as OTLP has them.
fn nanos(at: Millis) -> u64 {
    u64::try_from(at.0).unwrap_or(0).saturating_mul(1_000_000)
}
