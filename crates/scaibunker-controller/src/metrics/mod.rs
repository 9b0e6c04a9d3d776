//! What the process counts, for Prometheus. Labels are of the program's own making, never a
//! tenant's, user's or bunker's name: their number has a bound.

mod process;

use std::{fmt, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// The media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// An answer, as it is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    operation: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

type Durations = Family<OperationLabel, Histogram, fn() -> Histogram>;

/// The process's metrics. What counts is public; what is only a picture of the moment is given to
/// [`Metrics::text`].
pub struct Metrics {
    registry: Registry,
    http_requests: Family<AnswerLabels, Counter>,
    http_durations: Durations,
    bunkers: Family<StatusLabel, Gauge>,
    workers: Family<StatusLabel, Gauge>,
    /// Commands and shells that were started.
    pub execs: Counter,
    /// From the decision that a bunker may be made to the worker that is to run it, in seconds.
    pub placement: Histogram,
    /// Quota counters that differed from the database, and were repaired. Anything but 0 is a bug,
    /// or a process that died in the middle of a step.
    pub quota_drift: Counter,
    /// Requests refused by a rate limit.
    pub rate_limited: Counter,
    /// Calls that the audit log lacks, because it could not be written.
    pub audit_failures: Counter,
    /// Calls to the ledger that failed.
    pub ledger_failures: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = registry.sub_registry_with_prefix("scaibunker");
        let http_requests = Family::default();
        let http_durations = Durations::new_with_constructor(request_histogram);
        let (bunkers, workers) = (Family::default(), Family::default());
        let execs = Counter::default();
        let placement = Histogram::new(exponential_buckets(0.000_05, 2.0, 14));
        let (quota_drift, rate_limited) = (Counter::default(), Counter::default());
        let (audit_failures, ledger_failures) = (Counter::default(), Counter::default());
        metrics.register("http_requests", "Answers to requests", http_requests.clone());
        metrics.register(
            "http_request_duration_seconds",
            "From a request's head to its answer's head",
            http_durations.clone(),
        );
        metrics.register(
            "bunkers_active",
            "Bunkers of the whole installation that have not ended",
            bunkers.clone(),
        );
        metrics.register("workers", "Workers of the whole installation", workers.clone());
        metrics.register("exec", "Commands and shells started", execs.clone());
        metrics.register("placement_duration_seconds", "Choosing a worker", placement.clone());
        metrics.register("quota_drift", "Quota counters repaired", quota_drift.clone());
        metrics.register("rate_limited", "Requests over a rate limit", rate_limited.clone());
        metrics.register(
            "audit_failures",
            "Calls that could not be written to the audit log",
            audit_failures.clone(),
        );
        metrics.register("ledger_failures", "Failed calls to the ledger", ledger_failures.clone());
        registry.register_collector(Box::new(process::Process));
        Self {
            registry,
            http_requests,
            http_durations,
            bunkers,
            workers,
            execs,
            placement,
            quota_drift,
            rate_limited,
            audit_failures,
            ledger_failures,
        }
    }

    /// Counts an answer.
    pub fn count_answer(&self, operation: &'static str, status: u16, took: Duration) {
        self.http_requests.get_or_create(&AnswerLabels { operation, status }).inc();
        let label = OperationLabel { operation };
        self.http_durations.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// Sets how many bunkers there are in each status.
    pub fn set_bunkers(&self, by_status: impl IntoIterator<Item = (&'static str, u64)>) {
        set(&self.bunkers, by_status);
    }

    /// Sets how many workers there are in each status.
    pub fn set_workers(&self, by_status: impl IntoIterator<Item = (&'static str, u64)>) {
        set(&self.workers, by_status);
    }

    /// All of it in the OpenMetrics text format.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

fn request_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 4.0, 9))
}

fn set(
    gauges: &Family<StatusLabel, Gauge>,
    by_status: impl IntoIterator<Item = (&'static str, u64)>,
) {
    for (status, count) in by_status {
        let gauge = gauges.get_or_create(&StatusLabel { status });
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_names_that_dashboards_use() {
        let metrics = Metrics::new();
        metrics.count_answer("create_bunker", 201, Duration::from_millis(3));
        metrics.set_bunkers([("running", 2), ("paused", 0)]);
        metrics.set_workers([("online", 1)]);
        metrics.execs.inc();
        let text = metrics.text().unwrap();
        for line in [
            "scaibunker_http_requests_total{operation=\"create_bunker\",status=\"201\"} 1",
            "scaibunker_http_request_duration_seconds_count{operation=\"create_bunker\"} 1",
            "scaibunker_bunkers_active{status=\"running\"} 2",
            "scaibunker_workers{status=\"online\"} 1",
            "scaibunker_exec_total 1",
            "scaibunker_placement_duration_seconds_count 0",
            "scaibunker_quota_drift_total 0",
            "scaibunker_rate_limited_total 0",
            "scaibunker_audit_failures_total 0",
            "scaibunker_ledger_failures_total 0",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
        }
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
