//! What a worker needs of the outbox.
//!
//! A trait for one reason: the whole worker also runs in the simulation (`sync::simulation`), millions of steps against
//! a store in memory that is held against the real one by a test of its own. SQL stays in this folder.

use std::time::Duration;

use super::{
    Budget, ClaimedCustomer, Grant, HoldReason, Known, Leave, Look, Outbox, Settled, Settlement, Sharer, StoreError,
    Wake,
};
use crate::domain::{EventId, FlexportalCustomerId, ShopCustomerId, SourceName, TargetName};

/// The queue of customers, their targets' budgets and pauses.
///
/// # Errors
/// Every call: [`StoreError`]; then nothing was done, but for [`StoreError::Unavailable`], after which it may have been.
#[expect(missing_docs, reason = "each does what the method of the same name of Outbox says")]
pub trait Queue: Clone + Send + Sync + 'static {
    fn look(&self, target: &TargetName) -> impl Future<Output = Result<Look, StoreError>> + Send;
    fn next_due_in(&self, target: &TargetName) -> impl Future<Output = Result<Option<Duration>, StoreError>> + Send;
    fn claim(
        &self,
        target: &TargetName,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<ClaimedCustomer>, StoreError>> + Send;
    fn claim_unless_held(
        &self,
        target: &TargetName,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<ClaimedCustomer>, StoreError>> + Send;
    fn read(&self, claimed: &mut ClaimedCustomer) -> impl Future<Output = Result<Known, StoreError>> + Send;
    fn waiting_ids(
        &self,
        claimed: &mut ClaimedCustomer,
    ) -> impl Future<Output = Result<Vec<(EventId, u32)>, StoreError>> + Send;
    fn last_known_email(
        &self,
        source: &SourceName,
        customer: &ShopCustomerId,
    ) -> impl Future<Output = Result<Option<String>, StoreError>> + Send;
    fn sharers(
        &self,
        claimed: &ClaimedCustomer,
        id: &FlexportalCustomerId,
        email: Option<&str>,
    ) -> impl Future<Output = Result<Vec<Sharer>, StoreError>> + Send;
    fn merge(
        &self,
        claimed: &ClaimedCustomer,
        kept: &ShopCustomerId,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn renew(&self, claimed: &ClaimedCustomer) -> impl Future<Output = Result<bool, StoreError>> + Send;
    fn settle(
        &self,
        claimed: &ClaimedCustomer,
        settlement: &Settlement,
    ) -> impl Future<Output = Result<Settled, StoreError>> + Send;
    fn take_budget(
        &self,
        target: &TargetName,
        budget: Option<Budget>,
        wanted: u32,
    ) -> impl Future<Output = Result<Grant, StoreError>> + Send;
    fn make_up_for_step(
        &self,
        target: &TargetName,
        budget: Budget,
        grant: &Grant,
        step: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn give_back(&self, target: &TargetName, leaves: &[Leave]) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn hold(
        &self,
        target: &TargetName,
        reason: HoldReason,
        wait: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn resume(&self, target: &TargetName) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn listen(&self, wake: Wake) -> impl Future<Output = ()> + Send;
}

impl Queue for Outbox {
    async fn look(&self, target: &TargetName) -> Result<Look, StoreError> {
        Self::look(self, target).await
    }

    async fn next_due_in(&self, target: &TargetName) -> Result<Option<Duration>, StoreError> {
        Self::next_due_in(self, target).await
    }

    async fn claim(&self, target: &TargetName, limit: u32) -> Result<Vec<ClaimedCustomer>, StoreError> {
        Self::claim(self, target, limit).await
    }

    async fn claim_unless_held(&self, target: &TargetName, limit: u32) -> Result<Vec<ClaimedCustomer>, StoreError> {
        Self::claim_unless_held(self, target, limit).await
    }

    async fn read(&self, claimed: &mut ClaimedCustomer) -> Result<Known, StoreError> {
        Self::read(self, claimed).await
    }

    async fn waiting_ids(&self, claimed: &mut ClaimedCustomer) -> Result<Vec<(EventId, u32)>, StoreError> {
        Self::waiting_ids(self, claimed).await
    }

    async fn last_known_email(
        &self,
        source: &SourceName,
        customer: &ShopCustomerId,
    ) -> Result<Option<String>, StoreError> {
        Self::last_known_email(self, source, customer).await
    }

    async fn sharers(
        &self,
        claimed: &ClaimedCustomer,
        id: &FlexportalCustomerId,
        email: Option<&str>,
    ) -> Result<Vec<Sharer>, StoreError> {
        Self::sharers(self, claimed, id, email).await
    }

    async fn merge(&self, claimed: &ClaimedCustomer, kept: &ShopCustomerId) -> Result<(), StoreError> {
        Self::merge(self, claimed, kept).await
    }

    async fn renew(&self, claimed: &ClaimedCustomer) -> Result<bool, StoreError> {
        Self::renew(self, claimed).await
    }

    async fn settle(&self, claimed: &ClaimedCustomer, settlement: &Settlement) -> Result<Settled, StoreError> {
        Self::settle(self, claimed, settlement).await
    }

    async fn take_budget(&self, target: &TargetName, budget: Option<Budget>, wanted: u32) -> Result<Grant, StoreError> {
        Self::take_budget(self, target, budget, wanted).await
    }

    async fn make_up_for_step(
        &self,
        target: &TargetName,
        budget: Budget,
        grant: &Grant,
        step: Duration,
    ) -> Result<(), StoreError> {
        Self::make_up_for_step(self, target, budget, grant, step).await
    }

    async fn give_back(&self, target: &TargetName, leaves: &[Leave]) -> Result<(), StoreError> {
        Self::give_back(self, target, leaves).await
    }

    async fn hold(&self, target: &TargetName, reason: HoldReason, wait: Duration) -> Result<(), StoreError> {
        Self::hold(self, target, reason, wait).await
    }

    async fn resume(&self, target: &TargetName) -> Result<(), StoreError> {
        Self::resume(self, target).await
    }

    async fn listen(&self, wake: Wake) {
        Self::listen(self, wake).await;
    }
}
