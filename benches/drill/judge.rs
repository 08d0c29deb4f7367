//! What came of the burst, judged from outside: from what was answered 200, from what reached FlexPortal, and from
//! the status of the events. The service's own rules are not used for it.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use flexportal_sync::domain::{EventId, EventStatus, Field};
use flexportal_sync::fake_flexportal::{FakeCustomer, RecordedRequest};
use serde_json::Value;

use super::burst::{Burst, FIELDS, change_in};

/// When something was said: the shop's time, then arrival (ids of events sort by it).
pub(crate) type Moment = (DateTime<Utc>, EventId);

/// A change that was answered 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// The event it became.
    pub(crate) event: EventId,
    /// When the answer was there.
    pub(crate) answered_at: DateTime<Utc>,
}

/// Everything that can be known from outside once all is over.
pub(crate) struct History<'a> {
    /// What was sent.
    pub(crate) burst: &'a Burst,
    /// By change: the answer, if it was accepted.
    pub(crate) accepted: &'a [Option<Accepted>],
    /// FlexPortal's log, in the order of arrival.
    pub(crate) requests: &'a [RecordedRequest],
    /// FlexPortal's customers by id.
    pub(crate) customers: BTreeMap<String, FakeCustomer>,
    /// `outbox_events`.
    pub(crate) statuses: BTreeMap<EventId, EventStatus>,
}

/// An update that FlexPortal carried out.
struct Applied<'a> {
    at: DateTime<Utc>,
    sequence: u64,
    body: &'a Value,
}

/// A field that is not as it should be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WrongField {
    /// Whose.
    pub(crate) customer: usize,
    /// Which.
    pub(crate) field: Field,
    /// The change whose value it should have.
    pub(crate) expected: usize,
    /// The change whose value it has; none if it was never written.
    pub(crate) found: Option<usize>,
}

/// A field that an update set back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StaleOverwrite {
    /// The update's number in FlexPortal's log.
    pub(crate) sequence: u64,
    /// Which field.
    pub(crate) field: Field,
    /// The change whose value it wrote.
    pub(crate) written: usize,
    /// The newer change whose value had been there.
    pub(crate) replaced: usize,
}

impl History<'_> {
    fn moment(&self, change: usize) -> Option<Moment> {
        Some((self.burst.changes.get(change)?.occurred_at, self.accepted.get(change).copied().flatten()?.event))
    }

    /// The accepted changes of a customer.
    fn accepted_of(&self, customer: usize) -> impl Iterator<Item = (usize, Accepted)> {
        let of_customer = move |change: &usize| self.burst.changes[*change].customer == customer;
        (0..self.burst.changes.len())
            .filter(of_customer)
            .filter_map(|change| Some((change, self.accepted.get(change).copied().flatten()?)))
    }

    /// What FlexPortal should have of a customer: for each field the newest accepted change that speaks for it.
    pub(crate) fn reference(&self, customer: usize) -> BTreeMap<Field, usize> {
        let mut newest_first: Vec<_> = self.accepted_of(customer).map(|(change, _)| change).collect();
        newest_first.sort_by_key(|change| std::cmp::Reverse(self.moment(*change)));
        let mut reference = BTreeMap::new();
        for change in newest_first {
            for field in &self.burst.changes[change].fields {
                reference.entry(*field).or_insert(change);
            }
        }
        reference
    }

    /// Accepted events that are neither done with nor in `failed_syncs`.
    pub(crate) fn lost(&self) -> Vec<EventId> {
        let is_kept = |event: &EventId| match self.statuses.get(event) {
            Some(
                EventStatus::Synced
                | EventStatus::Superseded
                | EventStatus::Unchanged
                | EventStatus::Failed
                | EventStatus::Discarded,
            ) => true,
            Some(EventStatus::Pending | EventStatus::InFlight | EventStatus::Unmatched | EventStatus::Held) | None => {
                false
            }
        };
        self.accepted.iter().flatten().map(|accepted| accepted.event).filter(|event| !is_kept(event)).collect()
    }

    /// Fields at FlexPortal that differ from the reference, unless the change that is missing stands as failed.
    pub(crate) fn wrong(&self) -> Vec<WrongField> {
        let mut wrong = Vec::new();
        for (customer, known) in self.burst.customers.iter().enumerate() {
            let state = self.customers.get(&known.flexportal_id()).map(|found| serde_json::json!(found));
            let state = state.unwrap_or_default();
            for (field, expected) in self.reference(customer) {
                let found = change_in(&state[name_in_state(field)]);
                if found != Some(expected) && !self.has_failed(expected) {
                    wrong.push(WrongField { customer, field, expected, found });
                }
            }
        }
        wrong
    }

    fn has_failed(&self, change: usize) -> bool {
        let event = self.accepted.get(change).copied().flatten().map(|accepted| accepted.event);
        event.is_some_and(|event| self.statuses.get(&event) == Some(&EventStatus::Failed))
    }

    /// The updates of a customer that FlexPortal carried out, in the order in which it did so: each takes effect with
    /// its answer.
    fn applied_to(&self, customer: usize) -> Vec<Applied<'_>> {
        let path = format!("/v1/customers/{}", self.burst.customers[customer].flexportal_id());
        let is_applied =
            |request: &&RecordedRequest| request.method == "PUT" && request.status == Some(200) && request.path == path;
        let applied = self.requests.iter().filter(is_applied).filter_map(|request| {
            Some(Applied { at: request.ended_at?, sequence: request.sequence, body: request.body.as_ref()? })
        });
        let mut applied: Vec<_> = applied.collect();
        applied.sort_by_key(|update| (update.at, update.sequence));
        applied
    }

    /// Fields that an update set back to an older value than an earlier update had given them.
    pub(crate) fn stale_overwrites(&self) -> Vec<StaleOverwrite> {
        let mut stale = Vec::new();
        for customer in 0..self.burst.customers.len() {
            let mut newest: BTreeMap<Field, (Moment, usize)> = BTreeMap::new();
            for update in self.applied_to(customer) {
                for (field, written, moment) in self.written_by(&update) {
                    let before = newest.entry(field).or_insert((moment, written));
                    if moment < before.0 {
                        let sequence = update.sequence;
                        stale.push(StaleOverwrite { sequence, field, written, replaced: before.1 });
                    } else {
                        *before = (moment, written);
                    }
                }
            }
        }
        stale
    }

    fn written_by(&self, update: &Applied<'_>) -> impl Iterator<Item = (Field, usize, Moment)> {
        FIELDS.into_iter().filter_map(|field| {
            let change = change_in(&update.body[field.name()])?;
            Some((field, change, self.moment(change)?))
        })
    }

    /// For every accepted event whose state, or a newer one, reached FlexPortal: from its 200 to that moment; zero
    /// where something newer had been there before.
    pub(crate) fn freshness(&self) -> Vec<TimeDelta> {
        let mut ages = Vec::new();
        for customer in 0..self.burst.customers.len() {
            let mut waiting: Vec<_> = self.accepted_of(customer).collect();
            let mut state: BTreeMap<Field, Moment> = BTreeMap::new();
            for update in self.applied_to(customer) {
                for (field, _, moment) in self.written_by(&update) {
                    let before = state.entry(field).or_insert(moment);
                    *before = moment.max(*before);
                }
                waiting.retain(|(change, accepted)| {
                    let mut fields = self.burst.changes[*change].fields.iter();
                    let is_there = fields.all(|field| state.get(field).copied() >= self.moment(*change));
                    if is_there {
                        ages.push((update.at - accepted.answered_at).max(TimeDelta::zero()));
                    }
                    !is_there
                });
            }
        }
        ages
    }
}

fn name_in_state(field: Field) -> &'static str {
    match field {
        Field::BillingAddress => "lastBillingAddress",
        Field::ShippingAddress => "lastShippingAddress",
        _ => field.name(),
    }
}

/// The most of these moments, given in order, that lie in any 60 s.
pub(crate) fn most_in_a_minute(moments: &[DateTime<Utc>]) -> usize {
    let mut most = 0;
    let mut first = 0;
    for (last, moment) in moments.iter().enumerate() {
        while *moment - moments[first] >= TimeDelta::minutes(1) {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// The value that `percent` of all values do not exceed (nearest rank); zero of none.
pub(crate) fn percentile(mut values: Vec<TimeDelta>, percent: usize) -> TimeDelta {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}
