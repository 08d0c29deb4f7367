//! The requests of one customer's sync: each within the budget and the claim, and each on record.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::translate::Wishes;
use super::{Identified, decide, hold_for, recorded};
use crate::domain::{EventId, TargetName};
use crate::flexportal::{Client, Exchange, FlexportalError, Found, Operation, UpdateCustomer, Updated};
use crate::outbox::{Attempt, Budget, ClaimedCustomer, Grant, LEASE, Outbox, StoreError, WaitingEvent, timely};

/// Between the end of a request that ran into its time limit and the end of the lease.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// While it waits for the budget, a claim is renewed this often.
const LONGEST_NAP: Duration = Duration::from_secs(5);

/// Why a sync stops half-way.
#[derive(Debug)]
pub(super) enum Interrupted {
    /// The lease had ended: another worker has the customer now.
    ClaimLost,
    /// The database is away.
    Store(StoreError),
    /// The target is held or the service is leaving; a customer found meanwhile is kept as link.
    NotNow { who: Option<Identified> },
}

impl Interrupted {
    /// Whom the sync had found by then.
    pub(super) fn knowing(self, who: &Identified) -> Self {
        match self {
            Self::NotNow { .. } => Self::NotNow { who: Some(who.clone()) },
            Self::ClaimLost | Self::Store(_) => self,
        }
    }
}

/// A target, as far as requests to it go.
#[derive(Debug)]
pub(crate) struct TargetLine {
    pub(crate) name: TargetName,
    pub(crate) client: Client,
    pub(crate) budget: Option<Budget>,
    pub(crate) wishes: Wishes,
}

/// How far the worker is on its way out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leaving {
    /// Nothing new is claimed, and nobody waits for the budget any more.
    pub(crate) asked: CancellationToken,
    /// Requests in flight are finished, but none is begun.
    pub(crate) last_call: CancellationToken,
}

/// The requests of one claimed customer.
pub(crate) struct Requests<'a> {
    outbox: &'a Outbox,
    target: &'a TargetLine,
    claimed: ClaimedCustomer,
    /// Leave that came with the claim.
    granted: u32,
    is_probe: bool,
    /// Before the claim was made or renewed: the lease ends no earlier than this plus its length.
    renewed_at: Instant,
    leaving: Leaving,
    /// The events that were read for this sync.
    read: Vec<(EventId, u32)>,
    head: Option<(EventId, u32)>,
    log: Vec<Attempt>,
}

impl<'a> Requests<'a> {
    /// `grant` came with the claim and stands for one request; `claimed_at` is a moment before the claim.
    pub(crate) fn new(
        outbox: &'a Outbox,
        target: &'a TargetLine,
        claimed: ClaimedCustomer,
        grant: Grant,
        claimed_at: Instant,
        leaving: Leaving,
    ) -> Self {
        Self {
            outbox,
            target,
            claimed,
            granted: 1,
            is_probe: grant.is_probe,
            renewed_at: claimed_at,
            leaving,
            read: vec![],
            head: None,
            log: vec![],
        }
    }

    /// Which events this sync is about.
    pub(super) fn started_on(&mut self, events: &[WaitingEvent]) {
        self.read = events.iter().map(|event| (event.id, event.attempts)).collect();
    }

    /// The events this sync was about, with their attempts before it.
    pub(super) fn read(&self) -> &[(EventId, u32)] {
        &self.read
    }

    pub(super) fn wishes(&self) -> Wishes {
        self.target.wishes
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.outbox.clock().now()
    }

    /// Which event and which of its attempts the requests are recorded under.
    pub(super) fn are_for(&mut self, head: EventId, attempt: u32) {
        self.head = Some((head, attempt));
    }

    pub(super) fn take_log(&mut self) -> Vec<Attempt> {
        std::mem::take(&mut self.log)
    }

    pub(super) fn last_status(&self) -> Option<u16> {
        self.log.last().and_then(|attempt| attempt.http_status)
    }

    /// Leave that was not used, to be given back.
    pub(crate) fn unused(&self) -> u32 {
        self.granted
    }

    pub(super) async fn update_customer(
        &mut self,
        head: EventId,
        update: &UpdateCustomer,
    ) -> Result<Result<Updated, FlexportalError>, Interrupted> {
        self.permission().await?;
        // Strings and structs of strings always serialise.
        let body = serde_json::to_string(update).unwrap_or_default();
        let key = idempotency_key(head, &body);
        let exchange = self.target.client.update_customer(update, body, &key).await;
        Ok(self.after(exchange).await)
    }

    pub(super) async fn find_by_email(
        &mut self,
        email: &str,
        inactive: bool,
    ) -> Result<Result<Vec<Found>, FlexportalError>, Interrupted> {
        self.permission().await?;
        let exchange = self.target.client.find_by_email(email, inactive).await;
        Ok(self.after(exchange).await)
    }

    /// Waits for the budget, then makes sure that the claim outlasts the longest request.
    async fn permission(&mut self) -> Result<(), Interrupted> {
        let not_now = || Interrupted::NotNow { who: None };
        if self.leaving.last_call.is_cancelled() && !self.log.is_empty() {
            // A sync of several slow requests does not keep the service from leaving in time.
            return Err(not_now());
        }
        while self.granted == 0 {
            let taking = timely(self.outbox.take_budget(&self.target.name, self.target.budget, 1));
            let grant = taking.await.map_err(Interrupted::Store)?;
            self.is_probe |= grant.is_probe;
            if grant.is_held {
                return Err(not_now());
            }
            self.granted += grant.requests;
            if grant.requests == 0 {
                let nap = grant.wait.unwrap_or_default().min(LONGEST_NAP);
                tokio::select! {
                    () = tokio::time::sleep(nap) => {}
                    () = self.leaving.asked.cancelled() => return Err(not_now()),
                }
                self.keep_claim().await?;
            }
        }
        self.keep_claim().await?;
        self.granted -= 1;
        Ok(())
    }

    async fn keep_claim(&mut self) -> Result<(), Interrupted> {
        let needed = self.target.client.timeout() + LEASE_MARGIN;
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

    async fn after<T>(&mut self, exchange: Exchange<T>) -> Result<T, FlexportalError> {
        if let Some((head, attempt)) = self.head {
            self.log.push(recorded(&exchange, head, attempt));
        }
        tracing::debug!(
            source = %self.claimed.source,
            target = %self.target.name,
            operation = exchange.operation.as_str(),
            http.status = exchange.http_status,
            duration_ms = u64::try_from(exchange.duration.as_millis()).unwrap_or(u64::MAX),
            is_update = exchange.operation == Operation::UpdateCustomer,
            "asked FlexPortal"
        );
        if self.is_probe && decide::shows_valid_credentials(&exchange.outcome) {
            tracing::info!(target = %self.target.name, "FlexPortal takes the credentials again: the target is resumed");
            self.is_probe = false;
            noted(timely(self.outbox.resume(&self.target.name)).await);
        }
        if let Some((reason, wait)) = exchange.outcome.as_ref().err().and_then(hold_for) {
            tracing::warn!(
                target = %self.target.name,
                reason = ?reason,
                wait_seconds = wait.as_secs(),
                http.status = exchange.http_status,
                "the target is held"
            );
            noted(timely(self.outbox.hold(&self.target.name, reason, wait)).await);
        }
        exchange.outcome
    }
}

/// A hold or its end that could not be written: the next request finds out again, and this one's outcome counts.
fn noted(written: Result<(), StoreError>) {
    if let Err(error) = written {
        tracing::warn!(error = %error, "a hold could not be written");
    }
}

/// The same for every attempt of the same change, another one as soon as the body differs.
fn idempotency_key(head: EventId, body: &str) -> String {
    let digest = Sha256::new().chain_update(head.0.as_bytes()).chain_update(body.as_bytes()).finalize();
    hex::encode(&digest[..16])
}
