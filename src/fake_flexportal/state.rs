//! What the fake remembers, behind one lock that is never held while waiting.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

use super::behaviour::{Behaviour, Failure, Gateway};
use super::customers::Customers;
use super::requests::{RecordedRequest, RequestLog};
use crate::domain::{Clock, Dice};

/// Shared by every connection and the handle that the fake's owner has.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) api_key: String,
    pub(super) tenant_id: String,
    pub(super) clock: Clock,
    pub(super) dice: Dice,
    memory: Mutex<Memory>,
    /// How many requests the log holds.
    pub(super) arrivals: watch::Sender<usize>,
}

/// Everything that changes.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) customers: Customers,
    pub(super) log: RequestLog,
    pub(super) behaviour: Behaviour,
    failures: VecDeque<Failure>,
    failures_by_customer: BTreeMap<String, VecDeque<Failure>>,
    /// When the requests of the last 60 s came that the rate limit let through.
    let_through: VecDeque<DateTime<Utc>>,
}

/// How a request is going to end.
#[derive(Debug)]
pub(super) enum Course {
    /// As FlexPortal would answer it.
    Proper,
    /// With 429 and this `Retry-After`.
    RateLimited(Option<String>),
    /// Something in between answers.
    Gateway(Gateway),
    /// With a failure; the change comes first if the flag is set.
    Failing { failure: Failure, applies_first: bool },
}

/// A request that has been logged.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) sequence: u64,
    pub(super) course: Course,
    pub(super) latency: std::time::Duration,
}

impl Shared {
    pub(super) fn new(
        api_key: String,
        tenant_id: String,
        clock: Clock,
        dice: Dice,
        customers: Customers,
        behaviour: Behaviour,
    ) -> Self {
        let memory = Memory {
            customers,
            log: RequestLog::default(),
            behaviour,
            failures: VecDeque::new(),
            failures_by_customer: BTreeMap::new(),
            let_through: VecDeque::new(),
        };
        Self { api_key, tenant_id, clock, dice, memory: Mutex::new(memory), arrivals: watch::Sender::new(0) }
    }

    /// What is remembered is whole between any two statements, so a panic elsewhere does not spoil it.
    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs a request and settles how it will end, under one lock: two requests that arrive together cannot both
    /// take the last place under the rate limit, nor both spend the same ordered failure.
    pub(super) fn arrive(&self, request: RecordedRequest, customer_id: Option<&str>) -> Arrival {
        let mut memory = self.memory();
        let now = self.clock.now();
        let is_update = request.method == "PUT";
        let is_list = customer_id.is_none() && !request.query.as_deref().unwrap_or_default().contains("email=");
        let sequence = memory.log.add(RecordedRequest { received_at: now, ..request });
        self.arrivals.send_replace(memory.log.len());
        let course = match &memory.behaviour.gateway {
            // FlexPortal never sees what it answers.
            Some(gateway) if gateway.requests.include(is_update, is_list) => Course::Gateway(gateway.clone()),
            Some(_) | None => memory.course(now, customer_id, is_update, &self.dice),
        };
        Arrival { sequence, course, latency: std::time::Duration::from_millis(memory.behaviour.latency_ms) }
    }

    /// Empties the log.
    pub(super) fn forget_requests(&self) {
        let mut memory = self.memory();
        memory.log.clear();
        // Under the lock, so that the count never lags behind the log.
        self.arrivals.send_replace(0);
        drop(memory);
    }
}

impl Memory {
    fn course(&mut self, now: DateTime<Utc>, customer_id: Option<&str>, is_update: bool, dice: &Dice) -> Course {
        if let Some(wait_seconds) = self.over_the_limit(now) {
            return Course::RateLimited(self.behaviour.retry_after_on(429, Some(wait_seconds.to_string())));
        }
        let ordered = customer_id
            .and_then(|id| self.failures_by_customer.get_mut(id))
            .and_then(|queue| take_fitting(queue, is_update))
            .or_else(|| take_fitting(&mut self.failures, is_update));
        match ordered.or_else(|| self.behaviour.chance(dice.roll(), is_update)) {
            Some(failure) => Course::Failing { failure, applies_first: self.behaviour.apply_before_failing },
            None => Course::Proper,
        }
    }

    /// Seconds until there is room again, if there is none; counts the request otherwise.
    fn over_the_limit(&mut self, now: DateTime<Utc>) -> Option<i64> {
        let window = TimeDelta::seconds(60);
        while self.let_through.front().is_some_and(|at| now - at >= window) {
            self.let_through.pop_front();
        }
        let limit = self.behaviour.rate_limit_per_minute as usize;
        if limit == 0 || self.let_through.len() < limit {
            self.let_through.push_back(now);
            return None;
        }
        // The limit may have been lowered: as many have to leave as are over it, and one more.
        let leaver = self.let_through.get(self.let_through.len() - limit)?;
        let wait = *leaver + window - now;
        // Rounded up, so that whoever waits that long does get through.
        Some((wait.num_milliseconds() + 999).div_euclid(1_000).max(1))
    }

    /// Makes the next `count` requests fail, after the failures ordered before.
    pub(super) fn fail_next(&mut self, customer_id: Option<&str>, count: usize, failure: Failure) {
        let queue = match customer_id {
            Some(id) => self.failures_by_customer.entry(id.to_owned()).or_default(),
            None => &mut self.failures,
        };
        queue.extend(std::iter::repeat_n(failure, count));
    }
}

fn take_fitting(queue: &mut VecDeque<Failure>, is_update: bool) -> Option<Failure> {
    // A read answers without `success`, so that failure waits for an update.
    if queue.front() == Some(&Failure::SuccessFalse) && !is_update {
        return None;
    }
    queue.pop_front()
}
