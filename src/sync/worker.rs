//! The worker: claims customers as long as there is work, leave and room, and syncs each in a task of its own.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::requests::{Lane, Leaving, Requests, TargetLine};
use super::settlement::failed_for;
use super::translate::Wishes;
use super::{Interrupted, Record, Rules, sync_customer};
use crate::config::Config;
use crate::domain::{Clock, Dice, EventStatus, Moment, PgInstant};
use crate::flexportal::{Api, Client};
use crate::metrics::Metrics;
use crate::outbox::{
    Budget, ClaimedCustomer, LEASE, Leave, Next, Outbox, Queue, Settled, Settlement, StoreError, Wake, timely,
};
use crate::shops::{self, Shop};

/// How often to look for work that nobody announced; jittered by half.
const POLL: Duration = Duration::from_secs(5);
/// How long to wait after the database failed.
const DATABASE_DELAY: Duration = Duration::from_secs(1);
/// Work of a source that is not configured (any more) is looked at again after this.
const UNCONFIGURED_DELAY: Duration = Duration::from_mins(1);
/// Customers in hand for each request in flight, at most: while one is answered, others are claimed, read and written
/// down.
const IN_HAND: usize = 8;
/// Where they are claimed ahead, a claim waits until it has places for so many for each request in flight: it is to be
/// worth its trip.
const LEAST_CLAIMED: usize = 2;
/// Between two attempts to write a result down.
const SETTLE_DELAY: Duration = Duration::from_millis(500);
/// A sync that needs several requests may begin them for this long after SIGTERM.
const LAST_CALL_AFTER: Duration = Duration::from_secs(4);
/// Then those in flight get this long to end: longer than any request lasts.
const LEAVE_WITHIN: Duration = Duration::from_secs(22);

/// What [`Worker::step`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepOutcome {
    /// So many customers were claimed and settled.
    Worked(usize),
    /// Nothing was due, or nothing could go out now.
    Idle,
}

/// Syncs what is due.
#[derive(Debug)]
pub struct Worker<Q = Outbox, A = Client> {
    outbox: Q,
    rules: Arc<Rules>,
    targets: Vec<Arc<TargetLine<A>>>,
    /// Places for customers, from the claim until what came of it is written down.
    room: Arc<Semaphore>,
    /// Places for requests in flight.
    lanes: Arc<Semaphore>,
    max_concurrency: usize,
    wake: Wake,
    leaving: Leaving,
}

impl Worker {
    /// Prepares a worker for the configured targets.
    ///
    /// # Errors
    /// What of the configuration cannot be used.
    pub fn new(
        config: &Config,
        shops: &[Arc<Shop>],
        outbox: Outbox,
        wake: Wake,
        metrics: &Metrics,
        clock: &Clock,
        dice: Dice,
    ) -> Result<Self, String> {
        let lines = config.targets.iter().map(|target| {
            Ok(Arc::new(TargetLine {
                name: target.name.clone(),
                api: Client::new(target, clock.clone())?,
                budget: Budget::per_minute(target.rate_limit_per_minute),
                wishes: Wishes { country_format: target.country_format, send_email: target.send_email },
                metrics: metrics.clone(),
                clock: clock.clone(),
                mood: Mutex::default(),
            }))
        });
        let rules = Rules {
            shops: shops::by_name(shops)?,
            retry: config.retry,
            unmatched_retry_interval: config.unmatched_retry_interval,
            unmatched_max_age: config.unmatched_max_age,
            dice,
        };
        Ok(Self::from_parts(outbox, rules, lines.collect::<Result<_, String>>()?, config.max_concurrency, wake))
    }
}

// Not derived: that would ask for an API that can be cloned.
impl<Q: Queue, A> Clone for Worker<Q, A> {
    fn clone(&self) -> Self {
        Self {
            outbox: self.outbox.clone(),
            rules: self.rules.clone(),
            targets: self.targets.clone(),
            room: self.room.clone(),
            lanes: self.lanes.clone(),
            max_concurrency: self.max_concurrency,
            wake: self.wake.clone(),
            leaving: self.leaving.clone(),
        }
    }
}

impl<Q: Queue, A: Api> Worker<Q, A> {
    /// A worker on any queue and for any API.
    pub(crate) fn from_parts(
        outbox: Q,
        rules: Rules,
        targets: Vec<Arc<TargetLine<A>>>,
        max_concurrency: usize,
        wake: Wake,
    ) -> Self {
        Self {
            outbox,
            rules: Arc::new(rules),
            targets,
            room: Arc::new(Semaphore::new(max_concurrency * IN_HAND)),
            lanes: Arc::new(Semaphore::new(max_concurrency)),
            max_concurrency,
            wake,
            leaving: Leaving::default(),
        }
    }

    /// Claims what is due, for every target, and syncs it; returns when all of it is settled.
    ///
    /// # Errors
    /// [`StoreError`] if nothing could be claimed.
    pub async fn step(&self) -> Result<StepOutcome, StoreError> {
        let mut worked = 0;
        for target in &self.targets {
            let room = u32::try_from(self.max_concurrency).unwrap_or(u32::MAX);
            let claims = self.claim(target, room).await?;
            worked += claims.customers.len();
            let syncs = claims
                .customers
                .into_iter()
                .map(|(customer, leave)| self.sync(target, customer, leave, claims.at, Places::default()));
            futures_util::future::join_all(syncs).await;
        }
        Ok(if worked > 0 { StepOutcome::Worked(worked) } else { StepOutcome::Idle })
    }

    /// Works until `shutdown`, then finishes what is in flight and gives the rest back.
    pub async fn run(self, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        let loops = self.targets.iter().map(|target| self.run_target(target, &tasks, &shutdown));
        let listening = self.outbox.listen(self.wake.clone());
        tokio::select! {
            biased;
            _ = futures_util::future::join_all(loops) => {}
            () = listening => {}
        }
        self.leaving.asked.cancel();
        tasks.close();
        if tokio::time::timeout(LAST_CALL_AFTER, tasks.wait()).await.is_ok() {
            return;
        }
        self.leaving.last_call.cancel();
        if tokio::time::timeout(LEAVE_WITHIN, tasks.wait()).await.is_err() {
            tracing::warn!(
                requests = tasks.len(),
                "requests were still under way: their customers are taken over later"
            );
        }
    }

    async fn run_target(&self, target: &Arc<TargetLine<A>>, tasks: &TaskTracker, shutdown: &CancellationToken) {
        loop {
            let places = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                places = self.places(target) => places,
            };
            // The semaphores are never closed.
            let Ok(places) = places else { return };
            // Registered before looking, so that no signal is missed.
            let mut woken = pin!(self.wake.woken());
            woken.as_mut().enable();
            let wait = match self.claim(target, places.count()).await {
                Ok(claims) if !claims.customers.is_empty() => {
                    self.spawn_all(target, claims, places, tasks);
                    continue;
                }
                Ok(claims) => claims.wait,
                Err(error) => {
                    tracing::warn!(error = %error, target = %target.name, "no work can be claimed; trying again");
                    Some(DATABASE_DELAY)
                }
            };
            drop(places);
            let poll = POLL.mul_f64(0.75 + self.rules.dice.roll() / 2.0);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                // A held target is not worth looking at before its time, whatever arrives.
                () = woken, if wait.is_none() => {}
                () = tokio::time::sleep(wait.unwrap_or(poll).min(poll)) => {}
                () = self.due(target), if wait.is_none() => {}
            }
        }
    }

    /// Resolves when the next customer of a target is due.
    async fn due(&self, target: &TargetLine<A>) {
        match self.outbox.next_due_in(&target.name).await {
            Ok(Some(wait)) => tokio::time::sleep(wait).await,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Waits for places for the next claim.
    ///
    /// As a rule nobody is claimed without a lane: leave for a request is good for a moment only, others may have time for
    /// whom we do not, and a live change that comes next goes before a replay. Where FlexPortal answers within
    /// milliseconds and has no limit, those claimed ahead wait for milliseconds, too; then a claim is made for many at once, so
    /// that it is worth its trip to the database. Not so beside another target, whose requests would wait behind all of them.
    async fn places(&self, target: &TargetLine<A>) -> Result<Places, AcquireError> {
        if self.targets.len() == 1 && target.budget.is_none() && target.answers_at_once() {
            let least = u32::try_from(self.max_concurrency * LEAST_CLAIMED).unwrap_or(u32::MAX);
            let mut room = self.room.clone().acquire_many_owned(least).await?;
            while let Ok(more) = self.room.clone().try_acquire_owned() {
                room.merge(more);
            }
            return Ok(Places { room: Some(room), lanes: None });
        }
        let mut room = self.room.clone().acquire_owned().await?;
        let mut lanes = self.lanes.clone().acquire_owned().await?;
        while let (Ok(place), Ok(lane)) =
            (self.room.clone().try_acquire_owned(), self.lanes.clone().try_acquire_owned())
        {
            room.merge(place);
            lanes.merge(lane);
        }
        Ok(Places { room: Some(room), lanes: Some(lanes) })
    }

    fn spawn_all(&self, target: &Arc<TargetLine<A>>, claims: Claims, mut places: Places, tasks: &TaskTracker) {
        for (customer, leave) in claims.customers {
            let place = places.split();
            let (worker, target, claimed_at) = (self.clone(), target.clone(), claims.at);
            // Boxed, since it is large, and is moved several times on its way.
            tasks.spawn(Box::pin(async move {
                worker.sync(&target, customer, leave, claimed_at, place).await;
            }));
        }
    }

    /// Claims up to `room` customers, but no more than there is leave to make requests for.
    async fn claim(&self, target: &TargetLine<A>, room: u32) -> Result<Claims, StoreError> {
        let granted_at = Instant::now();
        if target.budget.is_none() {
            let claimed = timely(self.outbox.claim_unless_held(&target.name, room)).await?;
            if !claimed.is_empty() {
                let customers = claimed.into_iter().map(|customer| (customer, (Leave::FREE, granted_at))).collect();
                return Ok(Claims { customers, at: granted_at, wait: None });
            }
        }
        let nothing = |wait| Claims { customers: vec![], at: granted_at, wait };
        let look = timely(self.outbox.look(&target.name)).await?;
        // Without a limit and a pause, who is due now was locked, or was not due a moment ago.
        let is_free = target.budget.is_none() && !look.has_hold;
        if !look.is_due || look.held_for.is_some() || is_free {
            return Ok(nothing(look.held_for));
        }
        let grant = target.take_budget(&self.outbox, room).await?;
        if grant.leaves.is_empty() {
            return Ok(nothing(grant.wait));
        }
        let leaves = grant.leaves;
        let claimed_at = Instant::now();
        let limit = u32::try_from(leaves.len()).unwrap_or(u32::MAX);
        let claimed = timely(self.outbox.claim(&target.name, limit)).await;
        let (used, unused) = leaves.split_at(claimed.as_ref().map_or(0, Vec::len).min(leaves.len()));
        self.give_back(target, unused).await;
        let leaves = used.iter().map(|leave| (*leave, granted_at));
        Ok(Claims { customers: claimed?.into_iter().zip(leaves).collect(), at: claimed_at, wait: None })
    }

    /// Leave that cannot be given back is lost for a while, and no more than that.
    async fn give_back(&self, target: &TargetLine<A>, unused: &[Leave]) {
        if let Err(error) = timely(self.outbox.give_back(&target.name, unused)).await {
            tracing::debug!(error = %error, "unused leave is lost");
        }
    }

    /// Syncs one customer; whatever goes wrong stays with this customer. Its lane is free once it has been answered: what
    /// came of it is written beside the next requests.
    async fn sync(
        &self,
        target: &TargetLine<A>,
        mut claimed: ClaimedCustomer,
        leave: (Leave, Instant),
        claimed_at: Instant,
        places: Places,
    ) {
        let Places { room: _room, lanes } = places;
        let lane = Lane::new(self.lanes.clone(), lanes);
        let mut requests =
            Requests::new(&self.outbox, target, claimed.clone(), leave, claimed_at, lane, self.leaving.clone());
        let settlement = self.settlement(&mut claimed, &mut requests).await;
        requests.leave_lane();
        if let Some(unused) = requests.unused() {
            self.give_back(target, &[unused]).await;
        }
        let settlement = match settlement {
            Ok(settlement) => settlement,
            Err(Interrupted::ClaimLost) => return lease_lost(&claimed),
            Err(Interrupted::Store(error)) => {
                tracing::warn!(error = %error, source = %claimed.source, "a customer waits for the database");
                return;
            }
            Err(Interrupted::NotNow) => Settlement::nothing(Next::AsBefore),
        };
        requests.trace_end(&settlement);
        let settled = self.settle(&claimed, &settlement, requests.claim_renewed_at()).await;
        let now = requests.moment.map(Moment::now);
        match settled {
            Ok(Settled::Done) => report(&claimed, target, &settlement, now),
            Ok(Settled::StillWaiting) => {
                report(&claimed, target, &settlement, now);
                // The loop looked for work while this customer was claimed, and may sleep now.
                self.wake.wake();
            }
            Ok(Settled::LeaseLost) => lease_lost(&claimed),
            // The lease runs out, and the customer is synced again by whoever sees the database again.
            Err(error) => tracing::warn!(error = %error, source = %claimed.source, "a result could not be written"),
        }
    }

    /// Syncs a customer to what is to be written down; what cannot be carried through fails with the reason.
    async fn settlement(
        &self,
        claimed: &mut ClaimedCustomer,
        requests: &mut Requests<'_, Q, A>,
    ) -> Result<Settlement, Interrupted> {
        let Some(shop) = self.rules.shops.get(&claimed.source) else {
            tracing::warn!(source = %claimed.source, "events wait for a source that is not configured here");
            return Ok(Settlement::nothing(Next::RetryIn(UNCONFIGURED_DELAY)));
        };
        let asked_at = requests.passed();
        let known = match timely(self.outbox.read(claimed)).await {
            Ok(known) => known,
            Err(StoreError::Inconsistent(what)) => {
                let waiting = timely(self.outbox.waiting_ids(claimed)).await.map_err(Interrupted::Store)?;
                let reason = format!(
                    "what the database holds of this customer (customer_links.acknowledged) cannot be read: {what}"
                );
                tracing::error!(source = %claimed.source, error = %what, "a customer cannot be read: its events fail");
                return Ok(failed_for(waiting.into_iter(), &reason, Record::default()));
            }
            Err(error) => return Err(Interrupted::Store(error)),
        };
        requests.moment = Some(known.moment);
        if requests.has_stepped(asked_at, known.moment.read_at()) {
            return Err(Interrupted::NotNow);
        }
        let mut record = Record::default();
        let outcome = {
            // Pinned where it is, else there would be room for it twice.
            let syncing = pin!(sync_customer(&self.rules, shop, claimed, &known, requests, &mut record));
            AssertUnwindSafe(syncing).catch_unwind().await
        };
        match outcome {
            Ok(outcome) => outcome,
            Err(_panic) => {
                tracing::error!(source = %claimed.source, "syncing a customer panicked: its events fail");
                let tried = known.waiting.iter().map(|event| (event.id, event.attempts + 1));
                Ok(failed_for(tried, "flexportal-sync failed on this event: please report it", record))
            }
        }
    }

    /// Writes a result down, trying for as long as the lease may hold: what FlexPortal answered is not to be lost
    /// to a hiccup.
    async fn settle(
        &self,
        claimed: &ClaimedCustomer,
        settlement: &Settlement,
        renewed_at: Instant,
    ) -> Result<Settled, StoreError> {
        loop {
            match timely(self.outbox.settle(claimed, settlement)).await {
                Err(StoreError::Unavailable(_))
                    if renewed_at.elapsed() < LEASE && !self.leaving.last_call.is_cancelled() =>
                {
                    tokio::time::sleep(SETTLE_DELAY).await;
                }
                Err(StoreError::Refused(error)) => {
                    // Something in it cannot be stored, and never will: the events fail without it.
                    tracing::error!(error = %error, source = %claimed.source, "a result was refused by the database");
                    let events = settlement.results.iter().map(|result| (result.event, result.attempts));
                    let record = Record { attempts: vec![], rest: settlement.rest };
                    let unsettled = failed_for(events, "the database refuses the result: please report it", record);
                    return timely(self.outbox.settle(claimed, &unsettled)).await;
                }
                result => return result,
            }
        }
    }
}

/// Customers claimed together.
struct Claims {
    /// With leave for one request each, and a moment before it was given.
    customers: Vec<(ClaimedCustomer, (Leave, Instant))>,
    /// A moment before they were claimed.
    at: Instant,
    /// Where there is no leave: how long until there may be some.
    wait: Option<Duration>,
}

/// What a claim has places for.
#[derive(Debug, Default)]
struct Places {
    room: Option<OwnedSemaphorePermit>,
    /// Where the requests are to be made at once; as many.
    lanes: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// Customers there is a place for.
    fn count(&self) -> u32 {
        let count = |permits: &Option<OwnedSemaphorePermit>| permits.as_ref().map(OwnedSemaphorePermit::num_permits);
        let free = count(&self.room).into_iter().chain(count(&self.lanes)).min().unwrap_or_default();
        u32::try_from(free).unwrap_or(u32::MAX)
    }

    /// The place of one customer.
    fn split(&mut self) -> Self {
        let one = |permits: &mut Option<OwnedSemaphorePermit>| permits.as_mut().and_then(|permits| permits.split(1));
        Self { room: one(&mut self.room), lanes: one(&mut self.lanes) }
    }
}

/// Logs and counts what was written down.
fn report<A>(claimed: &ClaimedCustomer, target: &TargetLine<A>, settlement: &Settlement, now: Option<PgInstant>) {
    if settlement.attempts.iter().any(|attempt| attempt.attempt > 1) {
        target.metrics.retried(&target.name);
    }
    for result in &settlement.results {
        if result.is_final {
            let age = now.map(|now| now.since(result.event.arrived_at())).unwrap_or_default();
            target.metrics.event_settled(&claimed.source, &target.name, result.status, age);
        }
        if result.status == EventStatus::Failed {
            tracing::error!(
                event.id = %result.event,
                source = %claimed.source,
                target = %target.name,
                attempts = result.attempts,
                http.status = result.http_status,
                error.code = result.error_code,
                "an event failed: see failed_syncs in the database"
            );
        } else {
            tracing::info!(
                event.id = %result.event,
                source = %claimed.source,
                target = %target.name,
                status = %result.status,
                attempts = result.attempts,
                http.status = result.http_status,
                error.code = result.error_code,
                "event settled"
            );
        }
    }
}

fn lease_lost(claimed: &ClaimedCustomer) {
    tracing::warn!(source = %claimed.source, "a claim is not ours any more: another worker took it over, or the answer to our own word was lost");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::config::{CountryFormat, ShopKind, Source};
    use crate::domain::{DeliveryId, RetryPolicy, TargetName};
    use crate::flexportal::{Exchange, Found, Operation, UpdateCustomer, Updated};
    use crate::outbox::NewEvent;
    use crate::outbox::in_memory::InMemory;
    use crate::shops::{Concerns, Delivery};

    /// A FlexPortal that takes its time.
    #[derive(Debug, Default, Clone)]
    struct Timed {
        takes: Arc<Mutex<Duration>>,
        under_way: Arc<AtomicUsize>,
        most_under_way: Arc<AtomicUsize>,
        answered: Arc<AtomicUsize>,
    }

    impl Timed {
        async fn exchange<T>(&self, operation: Operation, outcome: T) -> Exchange<T> {
            let duration = *self.takes.lock().expect("no panic");
            let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_under_way.fetch_max(under_way, Ordering::SeqCst);
            tokio::time::sleep(duration).await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            self.answered.fetch_add(1, Ordering::SeqCst);
            let (started, outcome) = (Instant::now(), Ok(outcome));
            let (request_body, response_body) = (None, None);
            Exchange { operation, started, duration, request_body, http_status: Some(200), response_body, outcome }
        }
    }

    impl Api for Timed {
        fn longest_under_way(&self) -> Duration {
            Duration::from_secs(25)
        }

        async fn update_customer(&self, _: &UpdateCustomer<'_>, _: String, _: &str) -> Exchange<Updated> {
            self.exchange(Operation::UpdateCustomer, Updated { email: None, status: None }).await
        }

        async fn find_by_email(&self, _: &str, _: bool) -> Exchange<Vec<Found>> {
            self.exchange(Operation::FindByEmail, vec![]).await
        }

        async fn list_one(&self) -> Exchange<Vec<Found>> {
            self.exchange(Operation::List, vec![]).await
        }
    }

    /// One shop, one target without a limit, and workers of one request in flight each.
    struct Scene {
        store: InMemory,
        shop: Arc<Shop>,
        target: TargetName,
        clock: Clock,
    }

    impl Scene {
        fn new() -> Self {
            let clock = Clock::Simulated {
                start: "2026-11-23T10:00:00Z".parse().expect("a time"),
                since: Instant::now(),
                set: Arc::default(),
            };
            let target = TargetName::parse("default").expect("a name");
            let store = InMemory::new(clock.clone(), std::slice::from_ref(&target));
            let shop = Arc::new(Shop::new(Source::of_kind(ShopKind::Generic)).expect("a shop"));
            Self { store, shop, target, clock }
        }

        fn deliver(&self, customers: std::ops::Range<u32>) {
            for n in customers {
                let now = self.clock.now();
                let data =
                    json!({"customerId": n.to_string(), "flexportalCustomerId": format!("cus_{n}"), "phone": "1"});
                let payload = json!({"type": "customer.updated", "timestamp": now, "data": data}).to_string();
                let topic = "customer.updated".to_owned();
                let customer = self.shop.read(&topic, &payload).expect("it can be read").customer;
                let delivery = Delivery {
                    shop: None,
                    delivery_id: DeliveryId::parse(format!("d{n}")).expect("an id"),
                    topic,
                    email: None,
                    customer: Some(customer),
                    occurred_at: Some(now),
                    triggered_at: None,
                    concerns: Concerns::Customer,
                    is_asked_for: false,
                    payload,
                    warnings: vec![],
                };
                let source = self.shop.source().name.clone();
                let target = self.target.clone();
                self.store.store(&NewEvent { source, target, traceparent: None, delivery });
            }
        }

        /// A worker's line to its target, and what wakes it.
        fn start(&self, api: &Timed) -> (Arc<TargetLine<Timed>>, Wake) {
            let line = Arc::new(TargetLine {
                name: self.target.clone(),
                api: api.clone(),
                budget: None,
                wishes: Wishes { country_format: CountryFormat::Name, send_email: false },
                metrics: Metrics::default(),
                clock: self.clock.clone(),
                mood: Mutex::default(),
            });
            let wake = Wake::default();
            tokio::spawn(self.worker(vec![line.clone()], wake.clone()).run(CancellationToken::new()));
            (line, wake)
        }

        fn worker(&self, lines: Vec<Arc<TargetLine<Timed>>>, wake: Wake) -> Worker<InMemory, Timed> {
            let rules = Rules {
                shops: BTreeMap::from([(self.shop.source().name.clone(), self.shop.clone())]),
                retry: RetryPolicy::default(),
                unmatched_retry_interval: Duration::from_mins(10),
                unmatched_max_age: Duration::from_hours(24),
                dice: Dice::seeded(1),
            };
            Worker::from_parts(self.store.clone(), rules, lines, 1, wake)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_claimed_ahead_wait_for_a_lane_and_stay_claimed_meanwhile() {
        let scene = Scene::new();
        let (busy, idle) = (Timed::default(), Timed::default());
        let (line, wake) = scene.start(&busy);
        assert!(!line.answers_at_once(), "nothing is known of it yet");
        scene.deliver(0..10);
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(busy.answered.load(Ordering::SeqCst), 10);
        assert!(line.answers_at_once());

        // The last of four waits for longer than a lease lasts.
        *busy.takes.lock().expect("no panic") = Duration::from_secs(12);
        scene.deliver(10..14);
        wake.wake();
        tokio::time::sleep(Duration::from_secs(1)).await;
        scene.start(&idle);
        tokio::time::sleep(Duration::from_mins(2)).await;
        assert_eq!(busy.answered.load(Ordering::SeqCst), 14);
        assert_eq!(busy.most_under_way.load(Ordering::SeqCst), 1);
        assert_eq!(idle.answered.load(Ordering::SeqCst), 0, "they were claimed all the while");

        assert!(!line.answers_at_once());
        scene.deliver(14..16);
        wake.wake();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(idle.answered.load(Ordering::SeqCst), 1, "of a slow one nobody is claimed ahead");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_claimed_ahead_beside_another_target() {
        let scene = Scene::new();
        let (line, wake) = scene.start(&Timed::default());
        scene.deliver(0..1);
        wake.wake();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(line.answers_at_once());
        let claims_ahead = async |lines| {
            let worker = scene.worker(lines, Wake::default());
            worker.places(&line).await.expect("places").lanes.is_none()
        };
        assert!(claims_ahead(vec![line.clone()]).await);
        assert!(
            !claims_ahead(vec![line.clone(), line.clone()]).await,
            "the other's requests would wait behind all of them"
        );
    }
}
