//! How the service stands, as gauges. Every process shows the same.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use chrono::{DateTime, Utc};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::metrics::{PREFIX, text_of};
use crate::outbox::{FailureGroup, HoldReason, Status, TargetStatus};

/// For what does not come apart by cause.
const OTHER: &str = "other";
/// Longer ones are not causes but stories.
const MAX_CAUSE_BYTES: usize = 120;

/// Labels and their value.
type Sample<const N: usize> = ([(&'static str, String); N], f64);

/// In Prometheus' text format; without what was found, that there was nothing to be found.
pub(super) fn text(found: Option<&(Status, Vec<FailureGroup>)>, is_database_up: bool) -> String {
    let mut gauges = Gauges(Registry::with_prefix(PREFIX));
    gauges.add("database_up", "Whether this process was answered by the database", [([], flag(is_database_up))]);
    gauges.add("standing_known", "Whether the database said in time how all stands", [([], flag(found.is_some()))]);
    if let Some((status, groups)) = found {
        gauges.add_targets(&status.targets);
        gauges.add_sources(status);
        gauges.add(
            "failed_events",
            "Events that need a person, by what they failed for",
            failed_events(status.failures.events, groups),
        );
        gauges.add(
            "held_deliveries",
            "Webhooks of another shop than their source's, which wait for a person",
            status.sources.iter().map(|source| {
                let held = status.held.iter().filter(|held| held.source == source.name);
                ([("source", source.name.to_string())], number(held.map(|held| held.webhooks).sum()))
            }),
        );
        gauges.add(
            "open_data_requests",
            "Requests for personal data that wait for a person",
            [([], number(status.data_requests))],
        );
    }
    text_of(&gauges.0)
}

struct Gauges(Registry);

impl Gauges {
    fn add<const N: usize>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample<N>>) {
        let family = Family::<_, Gauge<f64, AtomicU64>>::default();
        for (labels, value) in samples {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn add_targets(&mut self, targets: &[TargetStatus]) {
        let mut add = |name, help, value: fn(&TargetStatus) -> Option<f64>| {
            let samples =
                targets.iter().filter_map(|target| Some(([("target", target.name.to_string())], value(target)?)));
            self.add(name, help, samples);
        };
        add("waiting_customers", "Customers with work waiting, retries and unmatched ones included", |target| {
            Some(number(target.backlog.customers))
        });
        add("due_customers", "Customers whose turn it is", |target| Some(number(target.backlog.due)));
        add("oldest_waiting_age_seconds", "Since the oldest event arrived of a customer that is due", |target| {
            Some(target.backlog.oldest_wait_seconds.unwrap_or(0.0))
        });
        add("overdue_seconds", "For how long the customer that is first in line could have gone out", |target| {
            Some(target.backlog.overdue_seconds.unwrap_or(0.0))
        });
        add("backlog_clear_seconds", "How long what is due takes at the quota, pauses included", |target| {
            target.backlog.clears_in_seconds
        });
        add("quota_limit_requests", "Requests allowed in a minute", |target| {
            target.rate_limit_per_minute.map(f64::from)
        });
        add("quota_available_requests", "Requests that could go out at once", |target| {
            target.available_now.map(f64::from)
        });
        add("quota_used_requests", "Requests made in the last minute, by all processes", |target| {
            Some(number(target.used_last_minute))
        });
        let held = targets.iter().flat_map(|target| {
            HoldReason::ALL.map(|reason| {
                let is_held = target.hold.as_ref().is_some_and(|hold| hold.reason == reason);
                ([("target", target.name.to_string()), ("reason", reason.as_str().to_owned())], flag(is_held))
            })
        });
        self.add("target_held", "Whether nothing goes out to a target now, and why", held);
    }

    fn add_sources(&mut self, status: &Status) {
        let silent =
            status.sources.iter().map(|source| ([("source", source.name.to_string())], flag(source.silence.is_some())));
        self.add("source_silent", "Whether a source that was talkative has gone quiet", silent);
        let last = status
            .sources
            .iter()
            .filter_map(|source| Some(([("source", source.name.to_string())], seconds(source.last_received_at?))));
        self.add("source_last_delivery_timestamp_seconds", "When the last delivery of a source arrived", last);
    }
}

/// Failed events by source and cause; what is not among the groups is not lost from the sum.
fn failed_events(all: i64, groups: &[FailureGroup]) -> Vec<Sample<2>> {
    let mut by_cause = BTreeMap::<_, i64>::new();
    for group in groups {
        *by_cause.entry((group.source.as_str(), label(&group.cause))).or_default() += group.events;
    }
    *by_cause.entry((OTHER, OTHER)).or_default() += (all - groups.iter().map(|group| group.events).sum::<i64>()).max(0);
    let sample = |((source, cause), events): ((&str, &str), i64)| {
        ([("source", source.to_owned()), ("cause", cause.to_owned())], number(events))
    };
    by_cause.into_iter().map(sample).collect()
}

/// A cause is our own words around names of fields and codes that FlexPortal gave: what does not look like such does not
/// become a label.
fn label(cause: &str) -> &str {
    let is_word = |c: char| c.is_ascii_alphanumeric() || " `,:._-[]()".contains(c);
    let digits = cause.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    if cause.len() <= MAX_CAUSE_BYTES && cause.chars().all(is_word) && digits < 4 { cause } else { OTHER }
}

fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn number(count: i64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds are exact until the year 287396")]
fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_like_a_cause_becomes_a_label() {
        for cause in
            ["`phone` refused", "`addresses[0].postalCode`, `phone` refused", "refused: VALIDATION_ERROR", "HTTP 422"]
        {
            assert_eq!(label(cause), cause);
        }
        for personal in ["`ada@example.com` refused", "`+49301234567` refused", "refused: Müller", &"x".repeat(121)] {
            assert_eq!(label(personal), OTHER, "{personal}");
        }
    }
}
