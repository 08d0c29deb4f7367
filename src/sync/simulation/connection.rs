//! A process's way to the database: it takes time, it breaks, and it ends with the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Chance, Steps};
use crate::domain::{EventId, FlexportalCustomerId, ShopCustomerId, SourceName, TargetName};
use crate::outbox::in_memory::InMemory;
use crate::outbox::{
    Budget, ClaimedCustomer, Grant, HoldReason, Known, Leave, Look, Queue, Settled, Settlement, Sharer, StoreError,
    Wake,
};

/// Most statements take as long as this at most, there and back each.
const USUAL_STATEMENT: Duration = Duration::from_millis(20);
/// And a few as long as this.
const LONGEST_STATEMENT: Duration = Duration::from_secs(2);
/// A connection that the database has left may notice it only by a time limit.
const LONGEST_SILENCE: Duration = Duration::from_secs(8);

/// A statement that got stuck may be carried out this much later.
const LONGEST_DETOUR: Duration = Duration::from_mins(1);

#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) store: InMemory,
    /// The database, for everybody.
    pub(super) is_away: Arc<AtomicBool>,
    /// This way to it.
    pub(super) is_cut: Arc<AtomicBool>,
    /// Whether the process has died: then nothing that was begun ever goes on.
    pub(super) is_dead: Arc<AtomicBool>,
    pub(super) chance: Chance,
    pub(super) steps: Steps,
}

impl Connection {
    pub(super) async fn while_alive(&self) {
        if self.is_dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    async fn on_the_way(&self) {
        let longest = if self.chance.of(0.02) { LONGEST_STATEMENT } else { USUAL_STATEMENT };
        tokio::time::sleep(self.chance.up_to(longest)).await;
        self.while_alive().await;
    }

    fn is_open(&self) -> bool {
        !self.is_away.load(Ordering::Relaxed) && !self.is_cut.load(Ordering::Relaxed)
    }

    /// One statement on its way to the database and back; if the database is away, it may have been carried out.
    async fn statement<T>(&self, carried_out: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.while_alive().await;
        self.steps.count();
        self.on_the_way().await;
        if self.is_open() {
            let result = carried_out.await;
            self.on_the_way().await;
            if self.is_open() {
                return result;
            }
        }
        tokio::time::sleep(self.chance.up_to(LONGEST_SILENCE)).await;
        self.while_alive().await;
        Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut))
    }
}

impl Queue for Connection {
    async fn look(&self, target: &TargetName) -> Result<Look, StoreError> {
        self.statement(self.store.look(target)).await
    }

    async fn next_due_in(&self, target: &TargetName) -> Result<Option<Duration>, StoreError> {
        self.statement(self.store.next_due_in(target)).await
    }

    async fn claim(&self, target: &TargetName, limit: u32) -> Result<Vec<ClaimedCustomer>, StoreError> {
        self.statement(self.store.claim(target, limit)).await
    }

    async fn claim_unless_held(&self, target: &TargetName, limit: u32) -> Result<Vec<ClaimedCustomer>, StoreError> {
        self.statement(self.store.claim_unless_held(target, limit)).await
    }

    async fn read(&self, claimed: &mut ClaimedCustomer) -> Result<Known, StoreError> {
        self.statement(self.store.read(claimed)).await
    }

    async fn waiting_ids(&self, claimed: &mut ClaimedCustomer) -> Result<Vec<(EventId, u32)>, StoreError> {
        self.statement(self.store.waiting_ids(claimed)).await
    }

    async fn last_known_email(
        &self,
        source: &SourceName,
        customer: &ShopCustomerId,
    ) -> Result<Option<String>, StoreError> {
        self.statement(self.store.last_known_email(source, customer)).await
    }

    async fn sharers(
        &self,
        claimed: &ClaimedCustomer,
        id: &FlexportalCustomerId,
        email: Option<&str>,
    ) -> Result<Vec<Sharer>, StoreError> {
        self.statement(self.store.sharers(claimed, id, email)).await
    }

    async fn merge(&self, claimed: &ClaimedCustomer, kept: &ShopCustomerId) -> Result<(), StoreError> {
        self.statement(self.store.merge(claimed, kept)).await
    }

    async fn renew(&self, claimed: &ClaimedCustomer) -> Result<bool, StoreError> {
        self.statement(self.store.renew(claimed)).await
    }

    async fn settle(&self, claimed: &ClaimedCustomer, settlement: &Settlement) -> Result<Settled, StoreError> {
        if self.chance.of(0.01) {
            // It gets stuck on its way, and through when nobody waits for it any more.
            let (connection, claimed, settlement) = (self.clone(), claimed.clone(), settlement.clone());
            tokio::spawn(async move {
                tokio::time::sleep(connection.chance.up_to(LONGEST_DETOUR)).await;
                connection.store.settle(&claimed, &settlement).await
            });
            tokio::time::sleep(LONGEST_SILENCE).await;
            self.while_alive().await;
            return Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut));
        }
        self.statement(self.store.settle(claimed, settlement)).await
    }

    async fn take_budget(&self, target: &TargetName, budget: Option<Budget>, wanted: u32) -> Result<Grant, StoreError> {
        self.statement(self.store.take_budget(target, budget, wanted)).await
    }

    async fn give_back(&self, target: &TargetName, leaves: &[Leave]) -> Result<(), StoreError> {
        self.statement(self.store.give_back(target, leaves)).await
    }

    async fn make_up_for_step(
        &self,
        target: &TargetName,
        budget: Budget,
        grant: &Grant,
        step: Duration,
    ) -> Result<(), StoreError> {
        self.statement(self.store.make_up_for_step(target, budget, grant, step)).await
    }

    async fn hold(&self, target: &TargetName, reason: HoldReason, wait: Duration) -> Result<(), StoreError> {
        self.statement(self.store.hold(target, reason, wait)).await
    }

    async fn resume(&self, target: &TargetName) -> Result<(), StoreError> {
        self.statement(self.store.resume(target)).await
    }

    async fn listen(&self, wake: Wake) {
        self.store.listen(wake).await;
    }
}
