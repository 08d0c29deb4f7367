//! Upkeep, beside the sync: privacy requests are acted on, deliveries counted by the hour, and what has long been finished
//! is removed; and what was stored ahead of a clock that was set back is moved. Any number of processes may do it at once; each round takes what nobody else is at.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use crate::domain::{Clock, ClockReading, ClockStep, ClockWatch, ShopCustomerId};
use crate::notices::NoticeKind;
use crate::outbox::{DoneBy, OfShop, Outbox, PrivacyRequest, StoreError};
use crate::shops::Erasure;

/// Between two rounds. A shop gives a month for an erasure; silence is told by the quarter of an hour.
const EVERY: Duration = Duration::from_secs(10);
/// Between two looks for changes that were stored without a place in the queue, and at Postgres' clock.
const QUEUES_EVERY: Duration = Duration::from_secs(1);
/// While the process's clock and Postgres' differ by more, nothing is removed.
const CLOCKS_AGREE_WITHIN: TimeDelta = TimeDelta::hours(1);
/// Between two batches of removals, so that the live work always has the database in between.
const BREATH: Duration = Duration::from_millis(200);

/// Keeps the database in order.
#[derive(Debug, Clone)]
pub struct Upkeep {
    outbox: Outbox,
    retention: Duration,
    longest_delay: Duration,
    clock: Clock,
    watch: Arc<Mutex<ClockWatch>>,
    /// What was stored before the start was looked at.
    is_clamped: Arc<AtomicBool>,
}

impl Upkeep {
    /// `retention`: finished events older than this are removed, while the process's clock agrees with Postgres'.
    /// `longest_delay`: that of a retry.
    #[must_use]
    pub fn new(outbox: Outbox, retention: Duration, longest_delay: Duration, clock: Clock) -> Self {
        Self { outbox, retention, longest_delay, clock, watch: Arc::default(), is_clamped: Arc::default() }
    }

    /// Does what there is to do, every few seconds, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        tokio::join!(self.run_rounds(&shutdown), self.run_queueing(&shutdown));
    }

    async fn run_queueing(&self, shutdown: &CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                done = async { self.queue_left_out().await.and(self.follow_the_clock().await) } => {
                    if let Err(error) = done {
                        tracing::debug!(error = %error, "what has no place in the queue, or too late a one, waits for the database");
                    }
                }
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(QUEUES_EVERY) => {}
            }
        }
    }

    /// Gives changes that were stored while somebody held their customer's row their place in the queue.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn queue_left_out(&self) -> Result<(), StoreError> {
        if self.outbox.queue_left_out().await? {
            self.outbox.wake_all().await?;
        }
        Ok(())
    }

    /// Where Postgres' clock was set back since the last time, or perhaps before the first, moves what was stored by it and
    /// lies further ahead than it can: nobody waits for that.
    ///
    /// # Errors
    /// [`StoreError`]; then it is done the next time.
    pub async fn follow_the_clock(&self) -> Result<(), StoreError> {
        let asked_at = self.clock.passed();
        let shown = self.outbox.now().await?;
        let reading = ClockReading { asked_at, shown, answered_at: self.clock.passed() };
        let step = {
            let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
            let step = watch.step_until(reading);
            watch.remember(reading);
            step
        };
        if matches!(step, Some(ClockStep::Back(_))) {
            self.is_clamped.store(false, Ordering::Relaxed);
        }
        if self.is_clamped.load(Ordering::Relaxed) {
            return Ok(());
        }
        let clamped = self.outbox.clamp(self.longest_delay).await?;
        self.is_clamped.store(true, Ordering::Relaxed);
        if clamped.targets + clamped.customers > 0 {
            tracing::warn!(
                targets = clamped.targets,
                customers = clamped.customers,
                "quota, holds, claims or delays lay further ahead than they can, as after Postgres' clock was set back: they \
                 were moved to where they can be at most"
            );
            self.outbox.wake_all().await?;
        }
        Ok(())
    }

    async fn run_rounds(&self, shutdown: &CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                round = self.round() => {
                    if let Err(error) = round {
                        tracing::warn!(error = %error, "upkeep waits for the database");
                    }
                }
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Does once what there is to do.
    ///
    /// # Errors
    /// [`StoreError`], the first that was met; the rest is done.
    pub async fn round(&self) -> Result<(), StoreError> {
        // Each for itself: what keeps one from being done does not keep the others.
        let (heard, acted) = (self.settle_shops().await, self.act_on_requests().await);
        let (counted, removed) = (self.count().await, self.remove_finished().await);
        heard.and(acted).and(counted).and(removed)
    }

    async fn settle_shops(&self) -> Result<(), StoreError> {
        if self.outbox.settle_shops().await? {
            self.outbox.wake_all().await?;
        }
        Ok(())
    }

    async fn act_on_requests(&self) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        for request in self.outbox.open_requests(&Erasure::TOPICS).await? {
            outcome = outcome.and(self.act_on(&request).await);
        }
        outcome
    }

    async fn count(&self) -> Result<(), StoreError> {
        while self.outbox.count_deliveries().await? {}
        Ok(())
    }

    /// Erases what a request asks for. While one of the customers cannot be had, the request stays open, and is tried
    /// again in the next round; the others are erased now.
    async fn act_on(&self, request: &PrivacyRequest) -> Result<(), StoreError> {
        let erasure = Erasure::of_topic(&request.topic);
        let is_whole = match (erasure, &request.customer, &request.email) {
            (None, _, _) => return Ok(()),
            (Some(Erasure::Shop), _, _) => self.erase_shop(request).await?,
            (Some(Erasure::Customer), Some(customer), _) => {
                self.erase_all(request, std::slice::from_ref(customer)).await?
            }
            (Some(Erasure::Customer), None, Some(email)) => {
                let customers = self.outbox.customers_of_request(request, email).await?;
                self.erase_all(request, &customers).await?
            }
            (Some(Erasure::Customer), None, None) => true,
        };
        if is_whole {
            let outcome = self.outbox.close_request(request, erasure == Some(Erasure::Shop)).await?;
            tracing::info!(
                event.id = %request.event,
                source = %request.source,
                outcome,
                "a privacy request was acted on"
            );
        }
        Ok(())
    }

    /// Whether all were erased: a customer that is under way cannot be had.
    async fn erase_all(&self, request: &PrivacyRequest, customers: &[ShopCustomerId]) -> Result<bool, StoreError> {
        let mut is_whole = true;
        for customer in customers {
            let erased = self.outbox.erase(&request.source, customer, Some(request.event), DoneBy::Shop).await?;
            is_whole &= erased.is_some();
        }
        Ok(is_whole)
    }

    /// Erases all of a shop. Where nobody knows which shop some customers are of, a person decides about those.
    async fn erase_shop(&self, request: &PrivacyRequest) -> Result<bool, StoreError> {
        let unknown = self.outbox.customers_of_unknown_shop(&request.source).await?;
        let is_certain = unknown == 0 || request.is_confirmed;
        let own = if is_certain { OfShop::Own } else { OfShop::Named };
        let theirs = request.shop.as_ref().filter(|_| request.is_apart).map_or(own, OfShop::Apart);
        let mut is_whole = self.erase_customers(request, theirs).await?;
        if request.is_apart && unknown > 0 && request.is_confirmed {
            is_whole &= self.erase_customers(request, OfShop::Unknown).await?;
        }
        if is_whole && !is_certain {
            self.outbox.leave_to_a_person(request, unknown).await?;
            return Ok(false);
        }
        Ok(is_whole)
    }

    async fn erase_customers(&self, request: &PrivacyRequest, whose: OfShop<'_>) -> Result<bool, StoreError> {
        let (mut is_whole, mut last) = (true, None);
        loop {
            let customers =
                self.outbox.customers_to_erase(&request.source, whose, request.event, last.as_ref()).await?;
            if customers.is_empty() {
                return Ok(is_whole);
            }
            is_whole &= self.erase_all(request, &customers).await?;
            last = customers.last().cloned();
        }
    }

    async fn remove_finished(&self) -> Result<(), StoreError> {
        let now = self.outbox.now().await?;
        let differ_by = (self.clock.now() - now.utc()).abs();
        if differ_by > CLOCKS_AGREE_WITHIN {
            // Which one is wrong nobody knows, and what is removed is gone.
            let minutes = differ_by.num_minutes();
            let detail = format!(
                "this process's clock and Postgres' differ by {minutes} minutes: no finished event is removed until the \
                 wrong one is set"
            );
            self.outbox.notices().note(NoticeKind::ClocksDiffer, "retention", detail);
            return Ok(());
        }
        let before = now - self.retention;
        let mut begin = None;
        loop {
            let removed = self.outbox.remove_finished(before, begin).await?;
            if removed.events > 0 {
                tracing::debug!(events = removed.events, "finished events were removed");
            }
            begin = removed.next;
            if begin.is_none() {
                return Ok(());
            }
            tokio::time::sleep(BREATH).await;
        }
    }
}
