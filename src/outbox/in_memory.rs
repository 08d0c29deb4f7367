//! The outbox in memory, for the simulation: the same rules as the SQL beside it, in the fewest words.
//!
//! What it does is what `agreement` finds the real one to do, call by call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::arrival::Before;
use super::claim::{QUIET, WAITED};
use super::targets::hold_after;
use super::{
    Budget, ClaimedCustomer, EventResult, Grant, HoldReason, Known, LEASE, Leave, Link, LinkChange, Look, NewEvent,
    Next, PROBE_INTERVAL, Queue, Settled, Settlement, Sharer, StoreError, StoreOutcome, WaitingEvent, Wake,
};
use crate::domain::{
    Acknowledged, Clock, DeliveryId, EventId, EventStatus, FlexportalCustomerId, LeaseId, PgClock, PgInstant,
    ShopCustomerId, SourceName, TargetName, Tenant,
};
use crate::shops::DELETION_TOPICS;

mod agreement;
mod clamped;

/// What stands where a body was erased.
const ERASED: &str = r#"{"erased": true}"#;

/// The store; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct InMemory {
    state: Arc<Mutex<State>>,
    clock: Clock,
}

pub(crate) type Customer = (SourceName, ShopCustomerId);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) events: BTreeMap<EventId, Event>,
    /// The last number of an arrival.
    number: i64,
    deliveries: BTreeMap<(SourceName, DeliveryId), EventId>,
    pub(crate) waiting: BTreeMap<Customer, Waiting>,
    pub(crate) links: BTreeMap<Customer, Link>,
    /// The e-mail of each link, of which the real one keeps a hash.
    emails: BTreeMap<Customer, String>,
    pub(crate) targets: BTreeMap<TargetName, Target>,
    wakes: Vec<Wake>,
}

#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) stored: NewEvent,
    pub(crate) customer: Customer,
    pub(crate) occurred_at: DateTime<Utc>,
    pub(crate) received_at: DateTime<Utc>,
    pub(crate) state: Option<EventState>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EventState {
    pub(crate) status: EventStatus,
    pub(crate) attempts: u32,
    pub(crate) forgiven_attempts: u32,
    pub(crate) failing: Option<(Duration, DateTime<Utc>)>,
    pub(crate) superseded_by: Option<EventId>,
    pub(crate) finished_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Waiting {
    pub(crate) target: TargetName,
    pub(crate) priority: i16,
    pub(crate) due_at: DateTime<Utc>,
    pub(crate) first_event_id: EventId,
    pub(crate) revision: i64,
    pub(crate) attempts: i32,
    pub(crate) lease: Option<(LeaseId, DateTime<Utc>)>,
    pub(crate) rests_until: Option<DateTime<Utc>>,
    pub(crate) changed_at: Option<DateTime<Utc>>,
    pub(crate) is_asked_for: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Target {
    used_until: DateTime<Utc>,
    free_places: Vec<DateTime<Utc>>,
    pub(crate) hold: Option<(DateTime<Utc>, HoldReason)>,
    clock_steps: f64,
    step_held_until: Option<DateTime<Utc>>,
}

impl EventState {
    fn is_given_up(&self) -> bool {
        matches!(self.status, EventStatus::Failed | EventStatus::Unmatched) && self.finished_at.is_some()
    }
}

impl Waiting {
    fn is_claimable(&self, now: DateTime<Utc>) -> bool {
        self.due_at <= now
            && self.lease.is_none_or(|(_, expires_at)| expires_at <= now)
            && self.rests_until.is_none_or(|until| until <= now)
    }
}

impl Event {
    pub(crate) fn status(&self) -> EventStatus {
        self.state.as_ref().map_or(EventStatus::Pending, |state| state.status)
    }

    fn waits(&self) -> bool {
        self.state.as_ref().is_none_or(|state| {
            matches!(state.status, EventStatus::Pending | EventStatus::Unmatched) && state.finished_at.is_none()
        })
    }

    fn is_given_up(&self) -> bool {
        self.state.as_ref().is_some_and(EventState::is_given_up)
    }

    fn read(&self, id: EventId) -> WaitingEvent {
        WaitingEvent {
            id,
            topic: self.stored.delivery.topic.clone(),
            payload: self.stored.delivery.payload.clone(),
            occurred_at: self.occurred_at,
            triggered_at: self.stored.delivery.triggered_at,
            received_at: self.received_at,
            is_unmatched: self.status() == EventStatus::Unmatched,
            attempts: self.state.as_ref().map_or(0, |state| state.attempts),
            forgiven_attempts: self.state.as_ref().map_or(0, |state| state.forgiven_attempts),
            failing: self.state.as_ref().and_then(|state| state.failing),
            traceparent: self.stored.traceparent.clone(),
        }
    }
}

impl InMemory {
    pub(crate) fn new(clock: Clock, targets: &[TargetName]) -> Self {
        let targets = targets.iter().map(|name| (name.clone(), Target::default())).collect();
        Self { state: Arc::new(Mutex::new(State { targets, ..State::default() })), clock }
    }

    /// Its clock is Postgres'.
    fn postgres_now(&self) -> PgInstant {
        self.clock.for_postgres().expect("a clock of its own")
    }

    /// All there is, to be looked at.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics holding it")
    }

    pub(crate) fn store(&self, event: &NewEvent) -> StoreOutcome {
        let now = self.clock.now();
        let mut state = self.state();
        let delivery = &event.delivery;
        let key = (event.source.clone(), delivery.delivery_id.clone());
        state.number += 1;
        if let Some(first) = state.deliveries.get(&key) {
            return StoreOutcome::Duplicate(*first);
        }
        let customer = (event.source.clone(), delivery.customer.clone().expect("only changes are stored here"));
        let number = state.number;
        let arrived = state.before(&customer).arrive(event, self.postgres_now(), number);
        let (id, occurred_at, received_at) = (arrived.id, arrived.occurred_at, arrived.received_at);
        state.deliveries.insert(key, id);
        let stored = event.clone();
        state.events.insert(id, Event { stored, customer: customer.clone(), occurred_at, received_at, state: None });
        let was_asked_for = state.waiting.get(&customer).is_none_or(|waiting| waiting.is_asked_for);
        let waiting = state.queue(customer, &event.target, id, 0, now);
        waiting.changed_at = Some(now);
        waiting.is_asked_for = was_asked_for && event.delivery.is_asked_for;
        state.wakes.iter().for_each(Wake::wake);
        StoreOutcome::Stored(id)
    }

    /// `retry_sync()`: whether there was anything to do.
    pub(crate) fn retry(&self, id: EventId) -> bool {
        let now = self.clock.now();
        let mut state = self.state();
        let Some(event) = state.events.get_mut(&id) else { return false };
        if event.stored.delivery.payload == ERASED {
            return false;
        }
        let Some(known) = &mut event.state else { return false };
        if !matches!(known.status, EventStatus::Failed | EventStatus::Unmatched | EventStatus::Discarded) {
            return false;
        }
        (known.status, known.finished_at, known.forgiven_attempts) = (EventStatus::Pending, None, known.attempts);
        let (customer, target) = (event.customer.clone(), event.stored.target.clone());
        state.queue(customer, &target, id, 2, now);
        state.wakes.iter().for_each(Wake::wake);
        true
    }

    /// `discard_sync()`: whether there was anything to do.
    pub(crate) fn discard(&self, id: EventId) -> bool {
        let now = self.clock.now();
        let mut state = self.state();
        let Some(known) = state.events.get_mut(&id).and_then(|event| event.state.as_mut()) else { return false };
        if !matches!(known.status, EventStatus::Failed | EventStatus::Unmatched) {
            return false;
        }
        (known.status, known.finished_at) = (EventStatus::Discarded, Some(now));
        true
    }

    /// [`Outbox::erase`](super::Outbox::erase): whether the customer could be had.
    pub(crate) fn erase(&self, customer: &Customer) -> bool {
        let (now, mut state) = (self.clock.now(), self.state());
        let is_busy = |waiting: &Waiting| {
            waiting.lease.is_some_and(|(_, expires_at)| expires_at > now)
                || waiting.rests_until.is_some_and(|until| until > now)
        };
        if state.waiting.get(customer).is_some_and(is_busy) {
            return false;
        }
        for event in state.events.values_mut().filter(|event| event.customer == *customer) {
            event.stored.delivery.payload = ERASED.to_owned();
            event.stored.delivery.email = None;
            if event.state.as_ref().is_none_or(|state| state.finished_at.is_none()) {
                let fresh = EventState {
                    status: EventStatus::Discarded,
                    attempts: 0,
                    forgiven_attempts: 0,
                    failing: None,
                    superseded_by: None,
                    finished_at: None,
                };
                let known = event.state.get_or_insert(fresh);
                (known.status, known.finished_at) = (EventStatus::Discarded, Some(now));
            }
        }
        state.emails.remove(customer);
        if let Some(link) = state.links.get_mut(customer) {
            link.acknowledged = link.acknowledged.without_values();
        }
        state.waiting.remove(customer);
        true
    }

    fn claim_if(&self, target: &TargetName, limit: u32, is_free: bool) -> Vec<ClaimedCustomer> {
        let (now, mut state) = (self.clock.now(), self.state());
        let lease = LeaseId::fresh();
        let State { waiting, links, .. } = &mut *state;
        let mut due: Vec<_> =
            waiting.iter_mut().filter(|(_, waiting)| waiting.target == *target && waiting.is_claimable(now)).collect();
        let is_restless = |waiting: &Waiting| {
            !is_free && waiting.priority == 0 && waiting.changed_at > Some(now - QUIET) && waiting.due_at > now - WAITED
        };
        due.sort_by_key(|(customer, waiting)| {
            let is_linked = links.get(*customer).is_some_and(|link| link.known_id().is_some());
            let gives_way = is_restless(waiting) && (is_linked || !waiting.is_asked_for);
            (waiting.priority, gives_way, waiting.due_at)
        });
        due.truncate(limit as usize);
        let claim = |(customer, waiting): (&Customer, &mut Waiting)| {
            waiting.lease = Some((lease, now + LEASE));
            waiting.attempts += 1;
            ClaimedCustomer {
                source: customer.0.clone(),
                customer: customer.1.clone(),
                lease,
                tenant: Tenant::default(),
                revision: waiting.revision,
                has_more: false,
                linked_to: None,
                claims: waiting.attempts,
                is_restless: is_restless(waiting),
            }
        };
        due.into_iter().map(claim).collect()
    }
}

impl State {
    /// What a delivery of a customer meets when it arrives.
    fn before(&self, customer: &Customer) -> Before {
        let of_customer = || self.events.values().filter(|event| event.customer == *customer);
        let acknowledged = self.links.get(customer).and_then(|link| Some(link.acknowledged.newest()?.changed_at));
        Before {
            received_at: of_customer().map(|event| event.received_at).max(),
            occurred_at: of_customer().map(|event| event.occurred_at).max().max(acknowledged),
        }
    }

    fn queue(
        &mut self,
        customer: Customer,
        target: &TargetName,
        first: EventId,
        priority: i16,
        now: DateTime<Utc>,
    ) -> &mut Waiting {
        let waiting = self.waiting.entry(customer).or_insert_with(|| Waiting {
            target: target.clone(),
            priority,
            due_at: now,
            first_event_id: first,
            revision: 0,
            attempts: 0,
            lease: None,
            rests_until: None,
            changed_at: None,
            is_asked_for: false,
        });
        waiting.priority = if priority == 0 { 0 } else { waiting.priority };
        waiting.due_at = waiting.due_at.min(now);
        waiting.first_event_id = waiting.first_event_id.min(first);
        waiting.revision += 1;
        waiting
    }

    fn events_of(&self, claimed: &ClaimedCustomer) -> Vec<WaitingEvent> {
        let customer = claimed.key();
        let Some(waiting) = self.waiting.get(&customer) else { return vec![] };
        let since = self.events.range(waiting.first_event_id..);
        since
            .filter(|(_, event)| event.customer == customer && event.waits())
            .map(|(id, event)| event.read(*id))
            .collect()
    }

    fn write(&mut self, result: &EventResult, now: DateTime<Utc>) {
        let Some(event) = self.events.get_mut(&result.event) else { return };
        let before = event.state.as_ref();
        if before.is_some_and(|state| state.finished_at.is_some()) {
            return; // closed by a person meanwhile: that stands
        }
        let forgiven = if result.status == EventStatus::Unmatched { result.attempts } else { 0 };
        event.state = Some(EventState {
            status: result.status,
            attempts: result.attempts,
            forgiven_attempts: forgiven.max(before.map_or(0, |state| state.forgiven_attempts)),
            failing: result.failing_for.map(|lasting| (lasting, now)).or(before.and_then(|state| state.failing)),
            superseded_by: result.superseded_by,
            finished_at: result.is_final.then_some(now),
        });
    }

    fn write_link(
        &mut self,
        customer: Customer,
        linked_to: Option<&FlexportalCustomerId>,
        change: &LinkChange,
        now: DateTime<Utc>,
    ) {
        let is_as_read = self.links.get(&customer).and_then(|link| link.flexportal_id.as_ref()) == linked_to;
        let fresh = |id: &FlexportalCustomerId| Link {
            flexportal_id: Some(id.clone()),
            acknowledged: Acknowledged::default(),
            status_shown: None,
            merged_into: None,
            missing_tried_at: None,
        };
        match change {
            LinkChange::Keep => {}
            LinkChange::Doubt => {
                if let Some(link) = self.links.get_mut(&customer) {
                    link.acknowledged = link.acknowledged.without_values();
                }
            }
            LinkChange::Found { .. } | LinkChange::Acknowledged { .. } if !is_as_read => {}
            LinkChange::Missing { flexportal_id } => {
                let link = self.links.get_mut(&customer);
                if let Some(link) = link.filter(|link| link.flexportal_id.as_ref() == Some(flexportal_id)) {
                    link.missing_tried_at = Some(now);
                    link.acknowledged = link.acknowledged.without_values();
                }
            }
            LinkChange::Found { flexportal_id, email, .. } => {
                let known = self.links.get(&customer).and_then(Link::known_id);
                if known != Some(flexportal_id) {
                    self.emails.extend(email.clone().map(|email| (customer.clone(), email)));
                    let link = self.links.entry(customer).or_insert_with(|| fresh(flexportal_id));
                    link.flexportal_id = Some(flexportal_id.clone());
                    link.acknowledged = link.acknowledged.without_values();
                    link.status_shown = None;
                    link.missing_tried_at = None;
                }
            }
            LinkChange::Acknowledged { flexportal_id, acknowledged, email, status_shown, synced_at, .. } => {
                self.emails.extend(email.clone().map(|email| (customer.clone(), email)));
                let link = self.links.entry(customer).or_insert_with(|| fresh(flexportal_id));
                // Found again once FlexPortal has acknowledged something, or as another: not by a request that failed.
                link.missing_tried_at =
                    link.missing_tried_at.filter(|_| synced_at.is_none() && link.is_missing(flexportal_id));
                link.flexportal_id = Some(flexportal_id.clone());
                link.acknowledged = acknowledged.clone();
                link.status_shown = status_shown.map(|status| (now, status)).or(link.status_shown);
            }
        }
    }
}

impl ClaimedCustomer {
    fn key(&self) -> Customer {
        (self.source.clone(), self.customer.clone())
    }
}

impl Queue for InMemory {
    async fn look(&self, target: &TargetName) -> Result<Look, StoreError> {
        let (now, state) = (self.clock.now(), self.state());
        let hold = state.targets.get(target).and_then(|target| target.hold);
        Ok(Look {
            is_due: state.waiting.values().any(|waiting| waiting.target == *target && waiting.is_claimable(now)),
            has_hold: hold.is_some(),
            held_for: hold.and_then(|(until, _)| (until - now).to_std().ok()).filter(|wait| !wait.is_zero()),
        })
    }

    async fn next_due_in(&self, target: &TargetName) -> Result<Option<Duration>, StoreError> {
        let (now, state) = (self.clock.now(), self.state());
        let of_target = state.waiting.values().filter(|waiting| waiting.target == *target);
        let next = of_target.map(|waiting| {
            let lease_ends = waiting.lease.map(|(_, expires_at)| expires_at);
            if waiting.due_at > now {
                waiting.due_at
            } else {
                lease_ends.max(waiting.rests_until).unwrap_or(now + Duration::from_millis(100))
            }
        });
        Ok(next.min().map(|at| (at - now).to_std().unwrap_or_default()))
    }

    async fn claim(&self, target: &TargetName, limit: u32) -> Result<Vec<ClaimedCustomer>, StoreError> {
        Ok(self.claim_if(target, limit, false))
    }

    async fn claim_unless_held(&self, target: &TargetName, limit: u32) -> Result<Vec<ClaimedCustomer>, StoreError> {
        if self.look(target).await?.has_hold {
            return Ok(vec![]);
        }
        Ok(self.claim_if(target, limit, true))
    }

    async fn read(&self, claimed: &mut ClaimedCustomer) -> Result<Known, StoreError> {
        let state = self.state();
        let customer = claimed.key();
        claimed.linked_to = state.links.get(&customer).and_then(|link| link.flexportal_id.clone());
        let given_up = state.events.iter().rev().filter(|(_, event)| event.customer == customer && event.is_given_up());
        Ok(Known {
            waiting: state.events_of(claimed),
            given_up: given_up.map(|(id, event)| event.read(*id)).collect(),
            link: state.links.get(&customer).cloned(),
            moment: PgClock::from(self.clock.clone()).moment(self.postgres_now(), Instant::now()),
        })
    }

    async fn waiting_ids(&self, claimed: &mut ClaimedCustomer) -> Result<Vec<(EventId, u32)>, StoreError> {
        Ok(self.state().events_of(claimed).into_iter().map(|event| (event.id, event.attempts)).collect())
    }

    async fn last_known_email(
        &self,
        source: &SourceName,
        customer: &ShopCustomerId,
    ) -> Result<Option<String>, StoreError> {
        let (state, customer) = (self.state(), (source.clone(), customer.clone()));
        let of_customer = state.events.iter().filter(|(_, event)| event.customer == customer);
        let with_email = of_customer.filter(|(_, event)| event.stored.delivery.email.is_some());
        let newest = with_email.max_by_key(|(id, event)| (event.occurred_at, **id));
        Ok(newest.and_then(|(_, event)| event.stored.delivery.email.clone()))
    }

    async fn sharers(
        &self,
        claimed: &ClaimedCustomer,
        id: &FlexportalCustomerId,
        email: Option<&str>,
    ) -> Result<Vec<Sharer>, StoreError> {
        let state = self.state();
        let leads_there =
            |(customer, link): &(&Customer, &Link)| link.known_id() == Some(id) && **customer != claimed.key();
        let sharer = |(customer, link): (&Customer, &Link)| {
            let mut events: Vec<_> = state.events.iter().filter(|(_, event)| event.customer == *customer).collect();
            events.sort_by_key(|(id, event)| (event.occurred_at, **id));
            let given = events.iter().rev().find_map(|(_, event)| event.stored.delivery.email.as_ref());
            let own = given.or_else(|| state.emails.get(customer));
            let newest = events.last().map(|(_, event)| event.stored.delivery.topic.as_str());
            let was_deactivated = link.acknowledged.is_deactivated_by_deletion();
            Sharer {
                source: customer.0.clone(),
                customer: customer.1.clone(),
                has_email: own.zip(email).map(|(own, email)| own.to_lowercase() == email.to_lowercase()),
                is_deleted: was_deactivated || newest.is_some_and(|topic| DELETION_TOPICS.contains(&topic)),
                was_deactivated,
                status_shown: link.status_shown,
            }
        };
        Ok(state.links.iter().filter(leads_there).map(sharer).collect())
    }

    async fn merge(&self, _: &ClaimedCustomer, _: &ShopCustomerId) -> Result<(), StoreError> {
        // No shop of the simulation merges customers.
        Ok(())
    }

    async fn renew(&self, claimed: &ClaimedCustomer) -> Result<bool, StoreError> {
        let (now, mut state) = (self.clock.now(), self.state());
        let waiting = state.waiting.get_mut(&claimed.key());
        let held = waiting.and_then(|waiting| waiting.lease.as_mut()).filter(|(lease, _)| *lease == claimed.lease);
        Ok(held.map(|(_, expires_at)| *expires_at = now + LEASE).is_some())
    }

    async fn settle(&self, claimed: &ClaimedCustomer, settlement: &Settlement) -> Result<Settled, StoreError> {
        let (now, mut state) = (self.clock.now(), self.state());
        let customer = claimed.key();
        let is_ours = |waiting: &&mut Waiting| waiting.lease.is_some_and(|(lease, _)| lease == claimed.lease);
        let Some(waiting) = state.waiting.get_mut(&customer).filter(is_ours) else { return Ok(Settled::LeaseLost) };
        let is_still = waiting.revision == claimed.revision;
        let is_done = settlement.next == Next::Done && settlement.rest.is_none() && !claimed.has_more && is_still;
        if is_done {
            state.waiting.remove(&customer);
        } else {
            let delay = match settlement.next {
                Next::Done | Next::AsBefore => None,
                Next::RetryIn(delay) => Some(delay),
            };
            let wait = if is_still { delay.max(settlement.rest).unwrap_or_default() } else { Duration::ZERO };
            let is_given_back = settlement.next == Next::AsBefore;
            let keeps_its_place = (is_still || is_given_back) && delay.is_none() && settlement.rest.is_none();
            waiting.due_at = if keeps_its_place { waiting.due_at.min(now) } else { now + wait };
            waiting.rests_until = settlement.rest.map(|rest| now + rest);
            waiting.is_asked_for &= delay.is_none();
            waiting.priority = if is_still && delay.is_some() { waiting.priority.max(1) } else { waiting.priority };
            waiting.lease = None;
            waiting.attempts = if settlement.link.says_what_is_known() { 0 } else { waiting.attempts - 1 };
        }
        for result in &settlement.results {
            state.write(result, now);
        }
        for (event, successor) in &settlement.overtaken {
            let known = state.events.get_mut(event).and_then(|event| event.state.as_mut());
            if let Some(known) = known.filter(|known| known.is_given_up()) {
                (known.status, known.superseded_by) = (EventStatus::Superseded, Some(*successor));
                known.finished_at = Some(now);
            }
        }
        state.write_link(customer.clone(), claimed.linked_to.as_ref(), &settlement.link, now);
        let first = state.events_of(claimed).first().map(|event| event.id);
        if let (Some(first), Some(waiting)) = (first, state.waiting.get_mut(&customer)) {
            waiting.first_event_id = first;
        }
        Ok(if is_done { Settled::Done } else { Settled::StillWaiting })
    }

    async fn take_budget(&self, target: &TargetName, budget: Option<Budget>, wanted: u32) -> Result<Grant, StoreError> {
        let (now, mut state) = (self.clock.now(), self.state());
        let target = state.targets.get_mut(target).expect("it is registered");
        let clock_steps = target.clock_steps;
        let clock = self.postgres_now() - Duration::from_secs_f64(clock_steps);
        if let Some((until, _)) = target.hold.filter(|(until, _)| *until > now) {
            return Ok(Grant { leaves: vec![], is_held: true, wait: (until - now).to_std().ok(), clock, clock_steps });
        }
        let is_probe = target.hold.is_some_and(|(_, reason)| !reason.ends_by_itself());
        let wanted = if is_probe { 1 } else { wanted };
        target.free_places.retain(|place| *place >= now);
        let free = target.free_places.len().min(wanted as usize);
        let mut places: Vec<_> = match budget {
            None => vec![None; wanted as usize],
            Some(Budget { .. }) => target.free_places.drain(..free).map(Some).collect(),
        };
        let mut wait = None;
        if let Some(Budget { spacing, early }) = budget {
            let used_until = target.used_until.max(now);
            let ahead = (used_until - now).as_seconds_f64();
            let (spacing, early) = (spacing.as_secs_f64(), early.as_secs_f64());
            let mut from_line = 0;
            while places.len() < wanted as usize && ahead + spacing * (f64::from(from_line) - 1e-6) <= early {
                places.push(Some(used_until + micros(spacing * f64::from(from_line))));
                from_line += 1;
            }
            if places.is_empty() {
                wait = Some(Duration::try_from_secs_f64(ahead - early).unwrap_or_default());
            } else {
                target.used_until = used_until + micros(spacing * f64::from(from_line));
            }
        }
        if !places.is_empty() {
            target.hold = target.hold.filter(|_| is_probe).map(|(_, reason)| (now + PROBE_INTERVAL, reason));
        }
        let leaves = places.into_iter().map(|place| Leave { is_probe, place }).collect();
        Ok(Grant { leaves, is_held: false, wait, clock, clock_steps })
    }

    async fn make_up_for_step(
        &self,
        target: &TargetName,
        budget: Budget,
        grant: &Grant,
        step: Duration,
    ) -> Result<(), StoreError> {
        let (now, mut state) = (self.clock.now(), self.state());
        let target = state.targets.get_mut(target).expect("it is registered");
        #[expect(clippy::float_cmp, reason = "the very number that was read")]
        if target.clock_steps != grant.clock_steps {
            return Ok(());
        }
        target.clock_steps += step.as_secs_f64();
        target.used_until = target.used_until.max((target.used_until + step).min(now + budget.most_ahead()));
        let until = now + hold_after(step);
        target.step_held_until = target.step_held_until.max(Some(until));
        target.hold = Some(match target.hold {
            Some((before, reason)) if !reason.ends_by_itself() => (before.max(until), reason),
            Some((before, _)) => (before.max(until), HoldReason::ClockStep),
            None => (until, HoldReason::ClockStep),
        });
        Ok(())
    }

    async fn give_back(&self, target: &TargetName, leaves: &[Leave]) -> Result<(), StoreError> {
        let (now, mut state) = (self.clock.now(), self.state());
        let target = state.targets.get_mut(target).expect("it is registered");
        target.free_places.extend(leaves.iter().filter_map(|leave| leave.place));
        target.free_places.retain(|place| *place >= now);
        target.free_places.sort_unstable();
        if leaves.iter().any(|leave| leave.is_probe) {
            target.hold = target.hold.map(|(until, reason)| match reason {
                HoldReason::RateLimited | HoldReason::ClockStep => (until, reason),
                HoldReason::Refused | HoldReason::Failing => {
                    (target.step_held_until.map_or(now, |until| until.max(now)), reason)
                }
            });
        }
        Ok(())
    }

    async fn hold(&self, target: &TargetName, reason: HoldReason, wait: Duration) -> Result<(), StoreError> {
        let (until, mut state) = (self.clock.now() + wait, self.state());
        let target = state.targets.get_mut(target).expect("it is registered");
        target.hold = Some(match target.hold {
            Some((before, HoldReason::Refused)) => (before.max(until), HoldReason::Refused),
            Some((before, _)) => (before.max(until), reason),
            None => (until, reason),
        });
        Ok(())
    }

    async fn resume(&self, target: &TargetName) -> Result<(), StoreError> {
        let (now, mut state) = (self.clock.now(), self.state());
        let target = state.targets.get_mut(target).expect("it is registered");
        let step = target.step_held_until.filter(|until| *until > now).map(|until| (until, HoldReason::ClockStep));
        target.hold = target.hold.filter(|(_, reason)| reason.ends_by_itself()).or(step);
        Ok(())
    }

    async fn listen(&self, wake: Wake) {
        self.state().wakes.push(wake);
        std::future::pending::<()>().await;
    }
}

/// As Postgres rounds an interval of so many seconds.
#[expect(clippy::cast_possible_truncation, reason = "minutes, in microseconds")]
fn micros(seconds: f64) -> TimeDelta {
    TimeDelta::microseconds((seconds * 1e6).round() as i64)
}
