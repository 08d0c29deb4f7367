//! How fresh FlexPortal could be at best, for the same burst under the same quota.
//!
//! The floor knows the future: for each customer it makes one PUT, after the customer's last change, and where the
//! customer has to be looked up one GET before it; nothing fails, and nothing is sent twice. The n-th request goes
//! out no earlier than the quota lets it: a tenth of the limit at once, the rest evenly spaced over the minute.
//!
//! ```text
//! place of request n = max(wish of request n, end of place n - 1 - (limit / 10 - 1) * spacing)
//! spacing            = 60 s / (limit - limit / 10)
//! freshness of event = place of its customer's PUT + latency - its 200
//! ```
//!
//! Each place goes to the customer that has waited longest, of those whose last change is over. Who let customers
//! with few events wait for those with many could lower the 95th percentile by some seconds more; nobody should.
//!
//! A service does not know which change is the last. What it sends during the burst is soon outdated, and those
//! requests are missing afterwards: the faultless queue is the same without knowledge of the future, by the order of
//! waiting alone. One that lets the quiet go first does better, without knowing more.

use chrono::{DateTime, TimeDelta, Utc};

/// A customer, as far as the quota is concerned.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    /// When each of its events was answered 200, in order; not empty.
    pub(crate) answered: Vec<DateTime<Utc>>,
    /// One, or two with a lookup.
    pub(crate) requests: u32,
    /// Its requests are made, but its events never get there: FlexPortal refuses them.
    pub(crate) is_refused: bool,
}

impl Waiting {
    fn first(&self) -> DateTime<Utc> {
        self.answered.first().copied().unwrap_or_default()
    }

    fn last(&self) -> DateTime<Utc> {
        self.answered.last().copied().unwrap_or_default()
    }

    fn ages(&self, events: &[DateTime<Utc>], at: DateTime<Utc>) -> impl Iterator<Item = TimeDelta> {
        let counted = if self.is_refused { &[] } else { events };
        counted.iter().map(move |answered| at - *answered)
    }
}

/// The quota, with its places taken so far.
struct Places {
    spacing: TimeDelta,
    early: TimeDelta,
    used_until: DateTime<Utc>,
}

impl Places {
    fn new(limit_per_minute: u32) -> Self {
        let at_once = (limit_per_minute / 10).max(1);
        let spread = i32::try_from(limit_per_minute - at_once).unwrap_or(i32::MAX).max(1);
        let spacing = TimeDelta::minutes(1) / spread;
        Self { spacing, early: spacing * i32::try_from(at_once - 1).unwrap_or(0), used_until: DateTime::UNIX_EPOCH }
    }

    fn earliest(&self, wish: DateTime<Utc>) -> DateTime<Utc> {
        wish.max(self.used_until - self.early)
    }

    fn take(&mut self, wish: DateTime<Utc>) -> DateTime<Utc> {
        let place = self.earliest(wish);
        self.used_until = self.used_until.max(place) + self.spacing;
        place
    }
}

/// The freshness of every event if each customer is served once, after its last change.
pub(crate) fn knowing_the_future(customers: &[Waiting], limit_per_minute: u32, latency: TimeDelta) -> Vec<TimeDelta> {
    let mut longest_first = customers.to_vec();
    longest_first.sort_by_key(Waiting::first);
    let mut places = Places::new(limit_per_minute);
    let mut now = DateTime::UNIX_EPOCH;
    let mut ages = Vec::new();
    while let Some(soonest) = longest_first.iter().map(Waiting::last).min() {
        now = places.earliest(soonest.max(now));
        let Some(next) = longest_first.iter().position(|customer| customer.last() <= now) else { break };
        let customer = longest_first.remove(next);
        for _ in 0..customer.requests {
            now = places.take(now);
        }
        ages.extend(customer.ages(&customer.answered, now + latency));
    }
    ages
}

/// The freshness of every event in a queue without faults: whoever has waited longest is served, with all that was
/// said until then, and waits anew with the next change.
pub(crate) fn faultless_queue(customers: &[Waiting], limit_per_minute: u32, latency: TimeDelta) -> Vec<TimeDelta> {
    let mut places = Places::new(limit_per_minute);
    let mut now = DateTime::UNIX_EPOCH;
    let mut ages = Vec::new();
    let mut served = vec![0; customers.len()];
    let oldest = |served: &[usize]| {
        let waiting = customers.iter().zip(served).enumerate();
        waiting.filter_map(|(place, (customer, served))| Some((*customer.answered.get(*served)?, place))).min()
    };
    while let Some((since, place)) = oldest(&served) {
        let customer = &customers[place];
        now = now.max(since);
        // Once found, a customer is known.
        for _ in 0..if served[place] == 0 { customer.requests } else { 1 } {
            now = places.take(now);
        }
        let said = customer.answered.partition_point(|answered| *answered <= now);
        ages.extend(customer.ages(&customer.answered[served[place]..said], now + latency));
        served[place] = said;
    }
    ages
}
