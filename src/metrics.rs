//! What this process counts, as Prometheus likes it: base units in the names, `_total`, few labels of few values.
//!
//! Owned by the service, so that several in one process count apart. Labels are the names of configured sources and
//! targets, and words of closed lists: nothing that a shop or FlexPortal sent becomes one.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, prometheus_text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use serde::Serialize;

use crate::config::{Source, Target};
use crate::domain::{EventStatus, SourceName, TargetName};
use crate::flexportal::{FlexportalError, Operation};
use crate::notices::Notices;

/// What every name begins with.
pub const PREFIX: &str = "flexportal_sync";
/// The media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Seconds; Shopify gives up after 5, a body may take 30 to arrive.
const INTAKE_SECONDS: [f64; 11] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// Deliveries; a commit takes 256 at most.
const GROUP_SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
/// Seconds; a request is given up after 20 at most.
const REQUEST_SECONDS: [f64; 10] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0];
/// Seconds, from at once to a day: what the quota holds back waits for minutes, what fails for a day.
const DELAY_SECONDS: [f64; 12] = [0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 21_600.0, 86_400.0];

/// What a delivery was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryResult {
    /// Stored.
    Accepted,
    /// Stored before.
    Duplicate,
    /// Nothing to sync.
    Ignored,
    /// 401.
    RejectedSignature,
    /// Any other 4xx.
    Refused,
    /// 5xx: it will be sent again.
    Unavailable,
}

impl DeliveryResult {
    const ALL: [Self; 6] =
        [Self::Accepted, Self::Duplicate, Self::Ignored, Self::RejectedSignature, Self::Refused, Self::Unavailable];

    /// The word as it is shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Ignored => "ignored",
            Self::RejectedSignature => "rejected_signature",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Why an event needed no request of its own.
#[derive(Debug, Clone, Copy)]
enum Saved {
    /// Another event of its customer spoke for it.
    Folded,
    /// FlexPortal had all of it.
    Unchanged,
}

impl Saved {
    const ALL: [Self; 2] = [Self::Folded, Self::Unchanged];

    fn as_str(self) -> &'static str {
        match self {
            Self::Folded => "folded",
            Self::Unchanged => "unchanged",
        }
    }
}

/// The words of [`outcome_of`].
const OUTCOMES: [&str; 9] = [
    "ok",
    "refused",
    "not_found",
    "unauthorized",
    "rate_limited",
    "unavailable",
    "timed_out",
    "unreached",
    "disconnected",
];
const OPERATIONS: [Operation; 3] = [Operation::UpdateCustomer, Operation::FindByEmail, Operation::List];
/// What a worker can settle an event as.
const SETTLED: [EventStatus; 5] =
    [EventStatus::Synced, EventStatus::Superseded, EventStatus::Unchanged, EventStatus::Unmatched, EventStatus::Failed];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeliveryLabels {
    source: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    target: String,
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    target: String,
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SettledLabels {
    source: String,
    target: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SavedLabels {
    target: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TargetLabels {
    target: String,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The counters of one service; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    deliveries: Family<DeliveryLabels, Counter>,
    intake_duration: Histogram,
    commit_group_size: Histogram,
    requests: Family<RequestLabels, Counter>,
    request_duration: Histograms<OperationLabels>,
    events_settled: Family<SettledLabels, Counter>,
    sync_delay: Histograms<TargetLabels>,
    requests_saved: Family<SavedLabels, Counter>,
    retries: Family<TargetLabels, Counter>,
    notices: Notices,
    registry: Arc<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            deliveries: Family::default(),
            intake_duration: Histogram::new(INTAKE_SECONDS),
            commit_group_size: Histogram::new(GROUP_SIZES),
            requests: Family::default(),
            request_duration: Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS)),
            events_settled: Family::default(),
            sync_delay: Family::new_with_constructor(|| Histogram::new(DELAY_SECONDS)),
            requests_saved: Family::default(),
            retries: Family::default(),
            notices: Notices::new(),
            registry: Arc::default(),
        };
        metrics.registry = Arc::new(metrics.registered());
        metrics
    }
}

impl Metrics {
    /// Counters for what is configured, all there from the start: a first failure shows as a rise from zero.
    #[must_use]
    pub fn new<'a>(sources: impl IntoIterator<Item = &'a Source>, targets: &[Target]) -> Self {
        let metrics = Self::default();
        for source in sources {
            let (source, target) = (source.name.to_string(), source.target.to_string());
            for result in DeliveryResult::ALL {
                let _ = metrics
                    .deliveries
                    .get_or_create(&DeliveryLabels { source: source.clone(), result: result.as_str() });
            }
            for status in SETTLED {
                let (source, target) = (source.clone(), target.clone());
                let _ =
                    metrics.events_settled.get_or_create(&SettledLabels { source, target, status: status.as_str() });
            }
        }
        for target in targets {
            let target = target.name.to_string();
            for operation in OPERATIONS.map(Operation::as_str) {
                for outcome in OUTCOMES {
                    let target = target.clone();
                    let _ = metrics.requests.get_or_create(&RequestLabels { target, operation, outcome });
                }
                let target = target.clone();
                let _ = metrics.request_duration.get_or_create(&OperationLabels { target, operation });
            }
            for reason in Saved::ALL.map(Saved::as_str) {
                let _ = metrics.requests_saved.get_or_create(&SavedLabels { target: target.clone(), reason });
            }
            let _ = metrics.sync_delay.get_or_create(&TargetLabels { target: target.clone() });
            let _ = metrics.retries.get_or_create(&TargetLabels { target });
        }
        metrics
    }

    /// A delivery was answered, so long after its head had been read.
    pub fn delivery_answered(&self, source: &SourceName, result: DeliveryResult, after: Duration) {
        let labels = DeliveryLabels { source: source.to_string(), result: result.as_str() };
        self.deliveries.get_or_create(&labels).inc();
        self.intake_duration.observe(after.as_secs_f64());
    }

    /// So many deliveries went into one commit.
    pub fn group_committed(&self, deliveries: usize) {
        self.commit_group_size.observe(f64::from(u32::try_from(deliveries).unwrap_or(u32::MAX)));
    }

    /// A request to FlexPortal is over.
    pub fn request_made<T>(
        &self,
        target: &TargetName,
        operation: Operation,
        outcome: &Result<T, FlexportalError>,
        took: Duration,
    ) {
        let (target, operation, outcome) = (target.to_string(), operation.as_str(), outcome_of(outcome));
        self.requests.get_or_create(&RequestLabels { target: target.clone(), operation, outcome }).inc();
        self.request_duration.get_or_create(&OperationLabels { target, operation }).observe(took.as_secs_f64());
    }

    /// A customer was synced again after an attempt that counted.
    pub fn retried(&self, target: &TargetName) {
        self.retries.get_or_create(&TargetLabels { target: target.to_string() }).inc();
    }

    /// An event came to its end, so long after it had arrived.
    pub fn event_settled(&self, source: &SourceName, target: &TargetName, status: EventStatus, after: Duration) {
        let labels = SettledLabels { source: source.to_string(), target: target.to_string(), status: status.as_str() };
        self.events_settled.get_or_create(&labels).inc();
        let target = target.to_string();
        let reason = match status {
            EventStatus::Superseded => Some(Saved::Folded),
            EventStatus::Unchanged => Some(Saved::Unchanged),
            EventStatus::Synced => None,
            EventStatus::Pending
            | EventStatus::InFlight
            | EventStatus::Unmatched
            | EventStatus::Failed
            | EventStatus::Discarded
            | EventStatus::Held => return,
        };
        self.sync_delay.get_or_create(&TargetLabels { target: target.clone() }).observe(after.as_secs_f64());
        if let Some(reason) = reason {
            self.requests_saved.get_or_create(&SavedLabels { target, reason: reason.as_str() }).inc();
        }
    }

    /// What somebody should know, told there, is counted here.
    #[must_use]
    pub fn notices(&self) -> &Notices {
        &self.notices
    }

    /// All of it in Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> String {
        text_of(&self.registry)
    }

    fn registered(&self) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register("build", "The version that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("deliveries", "Webhooks answered, by source and answer", self.deliveries.clone());
        registry.register(
            "intake_duration_seconds",
            "From a webhook's head to its answer; reading, verifying and committing are in it",
            self.intake_duration.clone(),
        );
        registry.register("commit_group_size", "Deliveries in one commit", self.commit_group_size.clone());
        registry.register("requests", "Requests to FlexPortal, by what came of them", self.requests.clone());
        registry.register(
            "request_duration_seconds",
            "From a request's begin until FlexPortal's answer was read or given up",
            self.request_duration.clone(),
        );
        registry.register("events_settled", "Events that came to their end, by status", self.events_settled.clone());
        registry.register("delay_seconds", "From a change's arrival until FlexPortal had it", self.sync_delay.clone());
        registry.register(
            "requests_saved",
            "Changes that needed no request of their own: folded into another one of their customer, or unchanged",
            self.requests_saved.clone(),
        );
        registry.register("retries", "Customers synced again after an attempt that counted", self.retries.clone());
        registry.register(
            "notices",
            "What somebody should know though no event failed for it, by kind; status has the words",
            self.notices.counter(),
        );
        registry
    }
}

/// What a registry holds, in Prometheus' text format.
#[must_use]
pub fn text_of(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = prometheus_text::encode(&mut text, registry);
    text
}

/// What came of a request, in a word of [`OUTCOMES`].
pub(crate) fn outcome_of<T>(outcome: &Result<T, FlexportalError>) -> &'static str {
    use FlexportalError as E;
    match outcome {
        Ok(_) => "ok",
        Err(E::Refused { .. }) => "refused",
        Err(E::CustomerNotFound) => "not_found",
        Err(E::Unauthorized { .. }) => "unauthorized",
        Err(E::RateLimited { .. }) => "rate_limited",
        Err(E::Unavailable { .. }) => "unavailable",
        Err(E::TimedOut) => "timed_out",
        Err(E::Unreached(_)) => "unreached",
        Err(E::Disconnected(_)) => "disconnected",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_series_from_the_start() {
        use FlexportalError as E;
        let errors = [
            E::Refused { code: None, message: String::new(), fields: vec![] },
            E::CustomerNotFound,
            E::Unauthorized { code: None },
            E::RateLimited { retry_after: Duration::ZERO },
            E::Unavailable { code: None, what: String::new() },
            E::TimedOut,
            E::Unreached(String::new()),
            E::Disconnected(String::new()),
        ];
        let words: Vec<_> =
            std::iter::once(Ok(())).chain(errors.into_iter().map(Err)).map(|o| outcome_of(&o)).collect();
        assert_eq!(words, OUTCOMES);
    }
}
