//! One customer: all that its story is told from, and its place in the queue.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::types::Uuid;
use utoipa::ToSchema;

use super::customers::CustomerState;
use super::events::{EventSummary, RequestMade};
use crate::domain::{EventId, ShopCustomerId, SourceName, TargetName};
use crate::outbox::claim::{QUIET, WAITED};
use crate::outbox::{CustomerFilter, EventFilter, HoldReason, InspectError, Outbox, StoreError, seconds};

/// All that a customer's story is told from.
#[derive(Debug, Clone)]
pub struct CustomerHistory {
    /// Where it stands.
    pub state: CustomerState,
    /// Its newest events, newest first.
    pub events: Vec<EventSummary>,
    /// Whether there are older ones.
    pub has_older: bool,
    /// What was asked of FlexPortal for them.
    pub requests: Vec<RequestMade>,
    /// Which of them were delivered again.
    pub duplicates: Vec<DuplicateNote>,
    /// What people did.
    pub interventions: Vec<InterventionNote>,
    /// Its place in the queue.
    pub place: Option<QueuePlace>,
}

/// An event that the shop delivered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuplicateNote {
    /// The event.
    pub event: EventId,
    /// How often.
    pub deliveries: i64,
    /// When first.
    pub first_at: DateTime<Utc>,
    /// When last.
    pub last_at: DateTime<Utc>,
}

/// What a person, or a shop in its name, did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InterventionNote {
    /// When.
    pub at: DateTime<Utc>,
    /// `retry`, `discard`, `erase` or `export`.
    pub action: String,
    /// The event it was done to, or that asked for it.
    pub event_id: Option<EventId>,
    /// Why.
    pub reason: Option<String>,
    /// What came of it.
    pub outcome: String,
    /// `terminal`, `api`, `console`, `shop`, or a database role.
    pub done_by: String,
}

/// A customer's place in the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuePlace {
    /// The target it waits for.
    pub target: TargetName,
    /// Not before.
    pub due_at: DateTime<Utc>,
    /// Until then a request that timed out may still arrive.
    pub rests_until: Option<DateTime<Utc>>,
    /// It has just changed, and until then others go first.
    pub is_restless_until: Option<DateTime<Utc>>,
    /// Whether a worker has it claimed.
    pub is_claimed: bool,
    /// Customers that are due and go first, up to [`MAX_AHEAD`].
    pub ahead: i64,
    /// The target's requests a minute; 0: no limit.
    pub rate_limit_per_minute: Option<i32>,
    /// Until when, and why, the target is held.
    pub hold: Option<(HoldReason, DateTime<Utc>)>,
    /// What time it is.
    pub now: DateTime<Utc>,
}

/// Events of a customer that its story tells.
const MAX_EVENTS: i64 = 200;
/// Customers in the queue that are counted.
pub const MAX_AHEAD: i64 = 100_000;

impl Outbox {
    /// All that a customer's story is told from; `None` if nothing is stored of it.
    ///
    /// # Errors
    /// [`InspectError`].
    pub async fn customer_history(
        &self,
        source: &SourceName,
        customer: &ShopCustomerId,
    ) -> Result<Option<CustomerHistory>, InspectError> {
        let filter = CustomerFilter {
            source: Some(source.clone()),
            customer: Some(customer.clone()),
            ..CustomerFilter::default()
        };
        let Some(state) = self.customers(&filter, None, 1).await?.items.pop() else { return Ok(None) };
        let filter =
            EventFilter { source: Some(source.clone()), customer: Some(customer.clone()), ..EventFilter::default() };
        let page = self.events(&filter, None, MAX_EVENTS).await?;
        let ids: Vec<Uuid> = page.items.iter().map(|event| event.event_id.0).collect();
        Ok(Some(CustomerHistory {
            state,
            has_older: page.next.is_some(),
            requests: self.requests(&ids).await?,
            duplicates: self.duplicates(&ids).await?,
            interventions: self.interventions_of(source, customer, MAX_EVENTS).await?,
            place: self.place_of(source, customer).await?,
            events: page.items,
        }))
    }

    async fn duplicates(&self, events: &[Uuid]) -> Result<Vec<DuplicateNote>, StoreError> {
        let duplicates = sqlx::query_as!(
            DuplicateNote,
            r#"
            select event_id as "event: EventId", deliveries, first_at, last_at
            from duplicates
            where event_id = any($1)
            "#,
            events,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(duplicates)
    }

    /// What people did to an event, in order.
    pub(super) async fn interventions_on(&self, event: EventId) -> Result<Vec<InterventionNote>, StoreError> {
        let mut interventions = sqlx::query_as!(
            InterventionNote,
            r#"
            select at, action, event_id as "event_id: EventId", reason, outcome, done_by
            from interventions
            where event_id = $1
            order by id desc                     -- if there are more, the newest
            limit $2
            "#,
            event.0,
            MAX_EVENTS,
        )
        .fetch_all(&self.pool)
        .await?;
        interventions.reverse();
        Ok(interventions)
    }

    /// What people did to a customer and its events, in order; if there is more than the limit, the newest.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn interventions_of(
        &self,
        source: &SourceName,
        customer: &ShopCustomerId,
        limit: i64,
    ) -> Result<Vec<InterventionNote>, StoreError> {
        let mut interventions = sqlx::query_as!(
            InterventionNote,
            r#"
            select at, action, event_id as "event_id: EventId", reason, outcome, done_by
            from interventions
            where source = $1
              and shop_customer_id = $2
            order by id desc
            limit $3
            "#,
            source.as_str(),
            customer.as_str(),
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        interventions.reverse();
        Ok(interventions)
    }

    /// A customer's place in the queue; `None` if it does not wait.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn place_of(
        &self,
        source: &SourceName,
        customer: &ShopCustomerId,
    ) -> Result<Option<QueuePlace>, StoreError> {
        let row = sqlx::query!(
            r#"
            select
                w.target as "target: TargetName",
                w.due_at,
                w.rests_until,
                case
                    when w.priority = 0
                        and w.changed_at is not null
                        and t.rate_limit_per_minute > 0
                        and not (w.is_asked_for and not exists (
                            select
                            from current_links link
                            where link.source = w.source
                              and link.shop_customer_id = w.shop_customer_id
                              and link.flexportal_customer_id is not null
                              and link.missing_since is null
                        ))
                    then least(w.changed_at + make_interval(secs => $5), w.due_at + make_interval(secs => $6))
                end as is_restless_until,
                coalesce(w.lease_expires_at > moment.now, false) as "is_claimed!",
                (
                    select count(*)
                    from (
                        select
                        from waiting_customers other
                        where other.target = w.target
                          and other.due_at <= moment.now
                          and (other.priority, other.due_at) < (w.priority, w.due_at)
                        limit $4
                    ) as before
                ) as "ahead!",
                t.rate_limit_per_minute as "rate_limit_per_minute?",
                t.hold_reason as "hold_reason?",
                t.held_until as "held_until?",
                moment.now as "now!"
            from waiting_customers w
            cross join (select coalesce($3::timestamptz, clock_timestamp()) as now) moment
            left join targets t on t.name = w.target
            where w.source = $1
              and w.shop_customer_id = $2
            "#,
            source.as_str(),
            customer.as_str(),
            self.clock.for_postgres() as _,
            MAX_AHEAD,
            seconds(QUIET),
            seconds(WAITED),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| QueuePlace {
            target: row.target,
            due_at: row.due_at,
            rests_until: row.rests_until.filter(|until| *until > row.now),
            is_restless_until: row.is_restless_until.filter(|until| *until > row.now),
            is_claimed: row.is_claimed,
            ahead: row.ahead,
            rate_limit_per_minute: row.rate_limit_per_minute,
            hold: row.hold_reason.as_deref().and_then(HoldReason::of_word).zip(row.held_until),
            now: row.now,
        }))
    }
}
