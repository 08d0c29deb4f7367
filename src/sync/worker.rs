//! The worker: claims customers as long as there is work, leave and room, and syncs each in a task of its own.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::requests::{Requests, TargetLine};
use super::translate::Wishes;
use super::{Rules, sync_customer};
use crate::config::Config;
use crate::domain::{Clock, Dice, EventStatus, TargetName};
use crate::flexportal::Client;
use crate::outbox::{
    Budget, ClaimedCustomer, EventResult, LinkChange, Next, Outbox, Settled, Settlement, StoreError, Wake,
};
use crate::shops::Shop;

/// How often to look for work that nobody announced; jittered by half.
const POLL: Duration = Duration::from_secs(5);
/// How long to wait after the database failed.
const DATABASE_DELAY: Duration = Duration::from_secs(1);
/// Requests in flight at SIGTERM get this long to end.
const LEAVE_WITHIN: Duration = Duration::from_secs(25);

/// What [`Worker::step`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepOutcome {
    /// So many customers were claimed and settled.
    Worked(usize),
    /// Nothing was due, or nothing could go out now.
    Idle,
}

/// Syncs what is due.
#[derive(Debug, Clone)]
pub struct Worker {
    outbox: Outbox,
    rules: Arc<Rules>,
    targets: Vec<Arc<TargetLine>>,
    room: Arc<Semaphore>,
    max_concurrency: usize,
    wake: Wake,
    leaving: CancellationToken,
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
        clock: &Clock,
        dice: Dice,
    ) -> Result<Self, String> {
        let lines = config.targets.iter().map(|target| {
            Ok(Arc::new(TargetLine {
                name: target.name.clone(),
                client: Client::new(target, clock.clone())?,
                budget: Budget::per_minute(target.rate_limit_per_minute),
                wishes: Wishes { country_format: target.country_format, send_email: target.send_email },
            }))
        });
        Ok(Self {
            outbox,
            rules: Arc::new(Rules {
                shops: shops.iter().map(|shop| (shop.source().name.clone(), shop.clone())).collect::<BTreeMap<_, _>>(),
                retry: config.retry,
                unmatched_retry_interval: config.unmatched_retry_interval,
                unmatched_max_age: config.unmatched_max_age,
                dice,
            }),
            targets: lines.collect::<Result<_, String>>()?,
            room: Arc::new(Semaphore::new(config.max_concurrency)),
            max_concurrency: config.max_concurrency,
            wake,
            leaving: CancellationToken::new(),
        })
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
                .map(|customer| self.sync(target, customer, claims.is_probe, claims.claimed_at));
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
            _ = futures_util::future::join_all(loops) => {}
            () = listening => {}
        }
        self.leaving.cancel();
        tasks.close();
        if tokio::time::timeout(LEAVE_WITHIN, tasks.wait()).await.is_err() {
            tracing::warn!(
                requests = tasks.len(),
                "requests were still under way: their customers are taken over later"
            );
        }
    }

    async fn run_target(&self, target: &Arc<TargetLine>, tasks: &TaskTracker, shutdown: &CancellationToken) {
        loop {
            let room = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                room = self.room.clone().acquire_owned() => room,
            };
            // The semaphore is never closed.
            let Ok(mut room) = room else { return };
            while let Ok(more) = self.room.clone().try_acquire_owned() {
                room.merge(more);
            }
            // Registered before looking, so that no signal is missed.
            let mut woken = std::pin::pin!(self.wake.woken());
            woken.as_mut().enable();
            let wait = match self.claim(target, u32::try_from(room.num_permits()).unwrap_or(u32::MAX)).await {
                Ok(claims) if !claims.customers.is_empty() => {
                    self.spawn_all(target, claims, room, tasks);
                    continue;
                }
                Ok(claims) => claims.wait,
                Err(error) => {
                    tracing::warn!(error = %error, target = %target.name, "no work can be claimed; trying again");
                    Some(DATABASE_DELAY)
                }
            };
            drop(room);
            let poll = POLL.mul_f64(0.75 + self.rules.dice.roll() / 2.0);
            tokio::select! {
                () = shutdown.cancelled() => return,
                // A held target is not worth looking at before its time, whatever arrives.
                () = woken, if wait.is_none() => {}
                () = tokio::time::sleep(wait.unwrap_or(poll).min(poll)) => {}
                () = self.due(target), if wait.is_none() => {}
            }
        }
    }

    /// Resolves when the next customer of a target is due.
    async fn due(&self, target: &TargetLine) {
        match self.outbox.next_due_in(&target.name).await {
            Ok(Some(wait)) => tokio::time::sleep(wait).await,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    fn spawn_all(&self, target: &Arc<TargetLine>, claims: Claims, mut room: OwnedSemaphorePermit, tasks: &TaskTracker) {
        for customer in claims.customers {
            let place = room.split(1);
            let (worker, target) = (self.clone(), target.clone());
            let (is_probe, claimed_at) = (claims.is_probe, claims.claimed_at);
            tasks.spawn(async move {
                worker.sync(&target, customer, is_probe, claimed_at).await;
                drop(place);
            });
        }
    }

    /// Claims up to `room` customers, but no more than there is leave to make requests for.
    async fn claim(&self, target: &TargetLine, room: u32) -> Result<Claims, StoreError> {
        let grant = self.outbox.take_budget(&target.name, target.budget, room).await?;
        let claimed_at = Instant::now();
        let customers = match grant.requests {
            0 => vec![],
            requests => self.outbox.claim(&target.name, requests).await?,
        };
        let unused = grant.requests - u32::try_from(customers.len()).unwrap_or(grant.requests).min(grant.requests);
        self.outbox.give_back(&target.name, target.budget, unused).await?;
        Ok(Claims { customers, is_probe: grant.is_probe, claimed_at, wait: grant.wait })
    }

    /// Syncs one customer; whatever goes wrong stays with this customer.
    async fn sync(&self, target: &TargetLine, mut claimed: ClaimedCustomer, is_probe: bool, claimed_at: Instant) {
        let mut requests =
            Requests::new(&self.outbox, target, claimed.clone(), is_probe, claimed_at, self.leaving.clone());
        let syncing = sync_customer(&self.rules, &self.outbox, &mut requests, &mut claimed);
        let settlement = match AssertUnwindSafe(syncing).catch_unwind().await {
            Ok(Ok(Some(settlement))) => settlement,
            Ok(Ok(None)) => return lease_lost(&claimed),
            Ok(Err(error)) => {
                tracing::warn!(error = %error, source = %claimed.source, "a customer waits for the database");
                return;
            }
            Err(_panic) => match self.poisoned(&mut claimed).await {
                Ok(settlement) => settlement,
                Err(error) => {
                    tracing::error!(error = %error, source = %claimed.source, "a poisoned customer could not be settled");
                    return;
                }
            },
        };
        let unused = requests.unused();
        if let Err(error) = self.outbox.give_back(&target.name, target.budget, unused).await {
            tracing::debug!(error = %error, "unused leave is lost");
        }
        match self.outbox.settle(&claimed, &settlement).await {
            Ok(Settled::Done) => report(&claimed, &target.name, &settlement),
            Ok(Settled::StillWaiting) => {
                report(&claimed, &target.name, &settlement);
                // The loop looked for work while this customer was claimed, and may sleep now.
                self.wake.wake();
            }
            Ok(Settled::LeaseLost) => lease_lost(&claimed),
            // The lease runs out and the customer is synced again: the same values once more.
            Err(error) => tracing::warn!(error = %error, source = %claimed.source, "a result could not be written"),
        }
    }

    /// A panic fails the events that caused it, with the reason, and nothing else.
    async fn poisoned(&self, claimed: &mut ClaimedCustomer) -> Result<Settlement, StoreError> {
        tracing::error!(source = %claimed.source, "syncing a customer panicked: its events fail");
        let results = self.outbox.waiting_events(claimed).await?.into_iter().map(|event| EventResult {
            event: event.id,
            status: EventStatus::Failed,
            attempts: event.attempts + 1,
            http_status: None,
            error_code: Some("INTERNAL".to_owned()),
            error: Some("flexportal-sync failed on this event: please report it".to_owned()),
            warnings: vec![],
            flexportal_id: None,
            superseded_by: None,
            is_final: true,
        });
        Ok(Settlement { results: results.collect(), attempts: vec![], link: LinkChange::Keep, next: Next::Done })
    }
}

/// Customers claimed together.
struct Claims {
    customers: Vec<ClaimedCustomer>,
    is_probe: bool,
    claimed_at: Instant,
    /// Where there is no leave: how long until there may be some.
    wait: Option<Duration>,
}

fn lease_lost(claimed: &ClaimedCustomer) {
    tracing::warn!(source = %claimed.source, "another worker took a customer over: its word counts");
}

fn report(claimed: &ClaimedCustomer, target: &TargetName, settlement: &Settlement) {
    for result in &settlement.results {
        if result.status == EventStatus::Failed {
            tracing::error!(
                event.id = %result.event,
                source = %claimed.source,
                target = %target,
                attempts = result.attempts,
                http.status = result.http_status,
                error.code = result.error_code,
                "an event failed: see failed_syncs in the database"
            );
        } else {
            tracing::info!(
                event.id = %result.event,
                source = %claimed.source,
                target = %target,
                status = %result.status,
                attempts = result.attempts,
                http.status = result.http_status,
                "event settled"
            );
        }
    }
}
