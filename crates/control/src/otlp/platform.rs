//! What `/metrics` says, as OpenTelemetry has it.

use super::nanos;
use super::wire::{
    CUMULATIVE, Data, Gauge, Histogram, HistogramDataPoint, KeyValue, Metric, Number, NumberDataPoint, Sum,
};
use crate::db::Millis;
use crate::http::metrics::{Labelled, Read, Reading};

/// Counters count since `since`.
pub fn metrics(readings: Vec<Reading>, since: Millis, now: Millis) -> Vec<Metric> {
    let points = |read: Vec<Labelled>| read.into_iter().map(|read| point(read, since, now)).collect();
    let metric = |reading: Reading| {
        let data = match reading.read {
            Read::Gauge(read) => Data::Gauge(Gauge { data_points: points(read) }),
            Read::Counter(read) => {
                Data::Sum(Sum { data_points: points(read), aggregation_temporality: CUMULATIVE, is_monotonic: true })
            }
            Read::Histogram { bounds, counts, sum } => {
                let point = HistogramDataPoint {
                    start_time_unix_nano: nanos(since),
                    time_unix_nano: nanos(now),
                    count: counts.iter().sum(),
                    sum: Some(sum),
                    bucket_counts: counts,
                    explicit_bounds: bounds,
                    attributes: Vec::new(),
                };
                Data::Histogram(Histogram { data_points: vec![point], aggregation_temporality: CUMULATIVE })
            }
        };
        Metric { name: reading.name.to_owned(), unit: reading.unit.to_owned(), data: Some(data) }
    };
    // A metric without a point says nothing.
    readings.into_iter().filter(|reading| !reading.read.is_empty()).map(metric).collect()
}

fn point(read: Labelled, since: Millis, now: Millis) -> NumberDataPoint {
    NumberDataPoint {
        start_time_unix_nano: nanos(since),
        time_unix_nano: nanos(now),
        value: Some(Number::Int(i64::try_from(read.value).unwrap_or(i64::MAX))),
        attributes: read.labels.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect(),
    }
}
