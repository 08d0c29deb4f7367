//! The requests of one customer's sync: each within the budget and the claim.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::breaker::Breaker;
use super::translate::Wishes;
use super::{Interrupted, decide, hold_for};
use crate::domain::{
    Clock, ClockReading, ClockStep, ClockWatch, EventId, FlexportalCustomerId, Moment, PgInstant, ShopCustomerId,
    TargetName,
};
use crate::flexportal::{Api, Client, Exchange, Found, UpdateCustomer, Updated};
use crate::metrics::{Metrics, outcome_of};
use crate::outbox::{
    Budget, ClaimedCustomer, Grant, HoldReason, LEASE, Leave, PROBE_INTERVAL, Queue, Settlement, Sharer, StoreError,
    WaitingEvent, timely,
};
use crate::telemetry;

/// While it waits for the budget, a claim is renewed this often.
const LONGEST_NAP: Duration = Duration::from_secs(5);
/// An answer within this is one at once: a request to FlexPortal over the internet takes longer.
const AT_ONCE: Duration = Duration::from_millis(20);
/// Without a limit, leave is asked for again after this: another replica may have heard that the target is to be left alone.
const UNLIMITED_GOOD_FOR: Duration = Duration::from_secs(1);
/// Leave that comes too late to be used is asked for again, as often as this.
const PUNCTUAL_TRIES: u32 = 3;
/// Then the customer is given back: a database whose delays differ so much lets nobody keep to the quota.
const MOST_TRIES: u32 = 12;

/// A target, as far as requests to it go.
#[derive(Debug)]
pub(crate) struct TargetLine<A = Client> {
    pub(crate) name: TargetName,
    pub(crate) api: A,
    pub(crate) budget: Option<Budget>,
    pub(crate) wishes: Wishes,
    pub(crate) metrics: Metrics,
    /// By which time passes for this process.
    pub(crate) clock: Clock,
    pub(crate) mood: Mutex<Mood>,
}

/// What this process has seen of a target lately.
#[derive(Debug, Default)]
pub(crate) struct Mood {
    breaker: Breaker,
    /// When it was last held: leave from before is void.
    held_at: Option<Instant>,
    /// How long its answers take, the latest counting most.
    usual: Option<Duration>,
    /// Postgres' clock, as its budget is shared by it.
    watch: ClockWatch,
    /// By how much it was set forward, as far as the budget has made up for it.
    clock_steps: Duration,
}

impl<A> TargetLine<A> {
    /// Whether it answers so fast that the way to the database is what takes time.
    pub(super) fn answers_at_once(&self) -> bool {
        self.mood().usual.is_some_and(|usual| usual <= AT_ONCE)
    }

    /// Asks for leave to make up to `wanted` requests now; none where Postgres' clock was set forward since it was asked
    /// the last time, by which places in the budget come too early.
    pub(super) async fn take_budget<Q: Queue>(&self, outbox: &Q, wanted: u32) -> Result<Grant, StoreError> {
        let asked_at = self.clock.passed();
        let grant = timely(outbox.take_budget(&self.name, self.budget, wanted)).await?;
        let Some(budget) = self.budget else { return Ok(grant) };
        let step = {
            let mut mood = self.mood();
            let reading = ClockReading { asked_at, shown: grant.clock, answered_at: self.clock.passed() };
            if let Some(ClockStep::Forward(step)) = mood.watch.step_until(reading) {
                // Leave that was given since the step is void, whoever has it.
                mood.held_at = Some(Instant::now());
                step
            } else {
                mood.watch.remember(reading);
                mood.clock_steps = Duration::from_secs_f64(grant.clock_steps);
                return Ok(grant);
            }
        };
        tracing::warn!(
            target = %self.name,
            step_seconds = step.as_secs_f64(),
            "Postgres' clock was set forward: the target is held for as long, half a minute at least and one at most, so that the limit is kept"
        );
        // If that is cut off, the next one finds the same step.
        timely(outbox.make_up_for_step(&self.name, budget, &grant, step)).await?;
        Ok(Grant { leaves: vec![], is_held: true, wait: Some(step), ..grant })
    }

    /// Whether Postgres' clock was set forward since leave was asked for the last time: then whoever had the customer before
    /// may have lost it early, and have a request under way. Leave from before is void.
    fn has_stepped(&self, asked_at: Duration, shown: PgInstant) -> bool {
        let mut mood = self.mood();
        let reading = ClockReading { asked_at, shown: shown - mood.clock_steps, answered_at: self.clock.passed() };
        let has_stepped = matches!(mood.watch.step_until(reading), Some(ClockStep::Forward(_)));
        if has_stepped {
            mood.held_at = Some(Instant::now());
        }
        has_stepped
    }

    /// Whether a step of Postgres' clock would be noticed: it was asked before.
    #[cfg(test)]
    pub(super) fn watches_the_clock(&self) -> bool {
        self.mood().watch.has_reading()
    }

    fn mood(&self) -> std::sync::MutexGuard<'_, Mood> {
        self.mood.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far the worker is on its way out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leaving {
    /// Nothing new is claimed, and nobody waits for a lane or the budget any more.
    pub(crate) asked: CancellationToken,
    /// Requests in flight are finished, but none is begun.
    pub(crate) last_call: CancellationToken,
}

/// A place among the requests in flight, kept from the first request of a sync to its end.
#[derive(Debug)]
pub(crate) struct Lane {
    all: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Lane {
    /// One of `all`; `taken` if it came with the claim.
    pub(crate) fn new(all: Arc<Semaphore>, taken: Option<OwnedSemaphorePermit>) -> Self {
        Self { all, taken }
    }
}

/// The requests of one claimed customer.
pub(crate) struct Requests<'a, Q, A> {
    outbox: &'a Q,
    target: &'a TargetLine<A>,
    claimed: ClaimedCustomer,
    /// Leave for the next request, and a moment before it was given.
    leave: Option<(Leave, Instant)>,
    is_probe: bool,
    /// Before the claim was made or renewed: the lease ends no earlier than this plus its length.
    renewed_at: Instant,
    lane: Lane,
    leaving: Leaving,
    /// When what is known of the customer was read.
    pub(super) moment: Option<Moment>,
    /// Of the whole sync, once it is known what it is about.
    span: Span,
    head: Option<EventId>,
}

impl<'a, Q: Queue, A: Api> Requests<'a, Q, A> {
    /// `leave` came with the claim; the instants are moments before either.
    pub(crate) fn new(
        outbox: &'a Q,
        target: &'a TargetLine<A>,
        claimed: ClaimedCustomer,
        leave: (Leave, Instant),
        claimed_at: Instant,
        lane: Lane,
        leaving: Leaving,
    ) -> Self {
        let is_probe = leave.0.is_probe;
        let leave = Some(leave);
        Self {
            outbox,
            target,
            claimed,
            leave,
            is_probe,
            renewed_at: claimed_at,
            lane,
            leaving,
            moment: None,
            span: Span::none(),
            head: None,
        }
    }

    /// What follows belongs to the trace of the newest change, and is linked to those that go out with it.
    pub(super) fn trace(&mut self, head: EventId, waiting: &[WaitingEvent]) {
        if self.head.replace(head) == Some(head) {
            return;
        }
        self.span = tracing::info_span!(
            parent: None,
            "sync.customer",
            source = %self.claimed.source,
            target = %self.target.name,
            event.id = %head,
            events = waiting.len(),
            status = Empty,
        );
        if self.span.is_disabled() {
            return;
        }
        for (event, traceparent) in waiting.iter().filter_map(|event| Some((event.id, event.traceparent.as_ref()?))) {
            if event == head {
                telemetry::continue_trace(&self.span, traceparent);
            } else {
                telemetry::link_trace(&self.span, traceparent);
            }
        }
    }

    /// Notes in the trace what became of the newest change.
    pub(super) fn trace_end(&self, settlement: &Settlement) {
        if let Some(result) = settlement.results.iter().find(|result| self.head == Some(result.event)) {
            self.span.record("status", result.status.as_str());
        }
    }

    /// The last request was made.
    pub(super) fn leave_lane(&mut self) {
        self.lane.taken = None;
    }

    /// By the process's own measure, now: see [`Clock::passed`].
    pub(super) fn passed(&self) -> Duration {
        self.target.clock.passed()
    }

    /// Whether Postgres' clock, which was asked for after `asked_at`, was set forward just before the claim.
    pub(super) fn has_stepped(&self, asked_at: Duration, shown: PgInstant) -> bool {
        self.target.has_stepped(asked_at, shown)
    }

    /// Leave that was not used, to be given back.
    pub(crate) fn unused(&mut self) -> Option<Leave> {
        self.leave.take().map(|(leave, _)| leave)
    }

    /// A moment before the claim was last made to last.
    pub(super) fn claim_renewed_at(&self) -> Instant {
        self.renewed_at
    }

    pub(super) fn wishes(&self) -> Wishes {
        self.target.wishes
    }

    /// Whether the last request was the one to find out if a pause is over, and did not.
    pub(super) fn is_probe(&self) -> bool {
        self.is_probe
    }

    pub(super) fn longest_under_way(&self) -> Duration {
        self.target.api.longest_under_way()
    }

    pub(super) async fn last_known_email(&mut self) -> Result<Option<String>, Interrupted> {
        let known = timely(self.outbox.last_known_email(&self.claimed.source, &self.claimed.customer)).await;
        known.map_err(Interrupted::Store)
    }

    /// Who else leads to a FlexPortal customer; `email` is what their own is compared with.
    pub(super) async fn sharers(
        &mut self,
        id: &FlexportalCustomerId,
        email: Option<&str>,
    ) -> Result<Vec<Sharer>, Interrupted> {
        timely(self.outbox.sharers(&self.claimed, id, email)).await.map_err(Interrupted::Store)
    }

    /// The shop merged the customer into another one.
    pub(super) async fn merge(&mut self, kept: &ShopCustomerId) -> Result<(), Interrupted> {
        timely(self.outbox.merge(&self.claimed, kept)).await.map_err(Interrupted::Store)
    }

    pub(super) async fn find_by_email(
        &mut self,
        email: &str,
        inactive: bool,
    ) -> Result<Exchange<Vec<Found>>, Interrupted> {
        self.permission().await?;
        let span = tracing::info_span!(
            parent: &self.span,
            "flexportal.find_by_email",
            otel.kind = "client",
            http.response.status_code = Empty,
            outcome = Empty,
            otel.status_code = Empty,
        );
        let exchange = self.target.api.find_by_email(email, inactive).instrument(span.clone()).await;
        Ok(self.after(exchange, &span).await)
    }

    /// Asks whether FlexPortal itself answers now, by its cheapest list. A refusal of its own shows it as well, and says
    /// nothing of updates: it does not hold the target.
    pub(super) async fn show_yourself(&mut self) -> Result<Exchange<()>, Interrupted> {
        self.permission().await?;
        let span = tracing::info_span!(
            parent: &self.span,
            "flexportal.list",
            otel.kind = "client",
            http.response.status_code = Empty,
            outcome = Empty,
            otel.status_code = Empty,
        );
        let exchange = self.target.api.list_one().instrument(span.clone()).await;
        let status = exchange.http_status;
        let exchange = exchange.map(|outcome| decide::shows_itself(status, outcome));
        Ok(self.after(exchange, &span).await)
    }

    /// Tells FlexPortal the change; `head` is the newest event in it.
    pub(super) async fn update_customer(
        &mut self,
        head: EventId,
        update: &UpdateCustomer<'_>,
    ) -> Result<Exchange<Updated>, Interrupted> {
        self.permission().await?;
        // Strings and structs of strings always serialise.
        let body = serde_json::to_string(update).unwrap_or_default();
        let key = idempotency_key(head, &body);
        let span = tracing::info_span!(
            parent: &self.span,
            "flexportal.update_customer",
            otel.kind = "client",
            http.response.status_code = Empty,
            outcome = Empty,
            otel.status_code = Empty,
        );
        let exchange = self.target.api.update_customer(update, body, &key).instrument(span.clone()).await;
        Ok(self.after(exchange, &span).await)
    }

    /// Waits for a lane and the budget, and makes sure that the claim outlasts the longest request: when the request is
    /// begun, all of them hold.
    async fn permission(&mut self) -> Result<(), Interrupted> {
        self.take_lane().await?;
        if self.leaving.last_call.is_cancelled() {
            // A sync of several slow requests does not keep the service from leaving in time.
            return Err(Interrupted::NotNow);
        }
        let (mut taken, mut shortest_delay) = (0, None);
        loop {
            self.keep_claim().await?;
            if self.has_leave(taken > PUNCTUAL_TRIES, &mut shortest_delay).await {
                break;
            }
            if taken > MOST_TRIES {
                return Err(Interrupted::NotNow);
            }
            let asked_at = Instant::now();
            let grant = self.target.take_budget(self.outbox, 1).await.map_err(Interrupted::Store)?;
            if grant.is_held {
                return Err(Interrupted::NotNow);
            }
            if let Some(leave) = grant.leaves.first() {
                self.is_probe = leave.is_probe;
                self.leave = Some((*leave, asked_at));
                taken += 1;
                continue;
            }
            let nap = grant.wait.unwrap_or_default().min(LONGEST_NAP);
            tokio::select! {
                biased;
                () = self.leaving.asked.cancelled() => return Err(Interrupted::NotNow),
                () = tokio::time::sleep(nap) => {}
            }
        }
        self.leave = None;
        Ok(())
    }

    async fn take_lane(&mut self) -> Result<(), Interrupted> {
        if self.lane.taken.is_some() {
            return Ok(());
        }
        let mut free = std::pin::pin!(self.lane.all.clone().acquire_owned());
        loop {
            tokio::select! {
                biased;
                lane = &mut free => {
                    // Never closed.
                    self.lane.taken = lane.ok();
                    return Ok(());
                }
                () = self.leaving.asked.cancelled() => return Err(Interrupted::NotNow),
                () = tokio::time::sleep(LONGEST_NAP) => self.keep_claim().await?,
            }
        }
    }

    /// Whether there is leave that still counts; what does not is given back.
    ///
    /// A database that is always slow delays all alike, and what counts is the difference: where leave never comes in
    /// time, it counts if it is no later than what came before it.
    async fn has_leave(&mut self, is_always_late: bool, shortest_delay: &mut Option<Duration>) -> bool {
        let Some((leave, given_at)) = self.leave else { return false };
        let delay = given_at.elapsed();
        let usual = shortest_delay.filter(|_| is_always_late).unwrap_or_default();
        let is_late = match self.target.budget {
            Some(_) => delay > Leave::GOOD_FOR + usual,
            None => delay > UNLIMITED_GOOD_FOR + usual && !leave.is_probe,
        };
        *shortest_delay = Some(shortest_delay.map_or(delay, |shortest| shortest.min(delay)));
        if is_late || self.target.mood().held_at.is_some_and(|held_at| held_at > given_at) {
            self.leave = None;
            noted(timely(self.outbox.give_back(&self.target.name, &[leave])).await);
        }
        self.leave.is_some()
    }

    async fn keep_claim(&mut self) -> Result<(), Interrupted> {
        let needed = self.target.api.longest_under_way();
        if self.renewed_at.elapsed() + needed <= LEASE {
            return Ok(());
        }
        let renewed_at = Instant::now();
        if !timely(self.outbox.renew(&self.claimed)).await.map_err(Interrupted::Store)? {
            return Err(Interrupted::ClaimLost);
        }
        self.renewed_at = renewed_at;
        Ok(())
    }

    async fn after<T>(&mut self, exchange: Exchange<T>, span: &Span) -> Exchange<T> {
        span.record("http.response.status_code", exchange.http_status);
        span.record("outcome", outcome_of(&exchange.outcome));
        span.record("otel.status_code", exchange.outcome.is_err().then_some("ERROR"));
        tracing::debug!(
            source = %self.claimed.source,
            target = %self.target.name,
            operation = exchange.operation.as_str(),
            http.status = exchange.http_status,
            duration_ms = u64::try_from(exchange.duration.as_millis()).unwrap_or(u64::MAX),
            "asked FlexPortal"
        );
        self.target.metrics.request_made(&self.target.name, exchange.operation, &exchange.outcome, exchange.duration);
        if self.is_probe && decide::ends_pause(&exchange.outcome) {
            tracing::info!(target = %self.target.name, "FlexPortal answers again: the target is resumed");
            self.is_probe = false;
            noted(timely(self.outbox.resume(&self.target.name)).await);
        }
        let hold = {
            let mut mood = self.target.mood();
            // A quarter of what is new: a pause for breath does not make it slow, and a slow one is known after some answers.
            let usual = mood.usual.map_or(exchange.duration, |usual| (usual * 3 + exchange.duration) / 4);
            mood.usual = Some(usual);
            let opens = {
                let Self { claimed: ClaimedCustomer { source, customer, .. }, .. } = self;
                mood.breaker.hears(source, customer, &exchange.outcome, Instant::now())
            };
            let hold = exchange.outcome.as_ref().err().and_then(hold_for);
            let hold = hold.or_else(|| opens.then_some((HoldReason::Failing, PROBE_INTERVAL)));
            if hold.is_some() {
                mood.held_at = Some(Instant::now());
            }
            hold
        };
        if let Some((reason, wait)) = hold {
            tracing::warn!(
                target = %self.target.name,
                reason = ?reason,
                wait_seconds = wait.as_secs(),
                http.status = exchange.http_status,
                "the target is held"
            );
            noted(timely(self.outbox.hold(&self.target.name, reason, wait)).await);
            // Who was claimed while that was written saw no hold.
            self.target.mood().held_at = Some(Instant::now());
        }
        exchange
    }
}

/// A hold or its end, or leave given back, that could not be written: the next request finds out again, and this one's
/// outcome counts.
fn noted(written: Result<(), StoreError>) {
    if let Err(error) = written {
        tracing::warn!(error = %error, "a hold, its end, or unused leave could not be written");
    }
}

/// The same for every attempt of the same change, another one as soon as the body differs.
fn idempotency_key(head: EventId, body: &str) -> String {
    let digest = Sha256::new().chain_update(head.0.as_bytes()).chain_update(body.as_bytes()).finalize();
    hex::encode(&digest[..16])
}
