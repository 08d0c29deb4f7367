//! Claiming customers: who is due, longest first, under a lease.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use super::{LEASE, Outbox, StoreError, seconds};
use crate::domain::{Acknowledged, EventId, FlexportalCustomerId, LeaseId, ShopCustomerId, SourceName, TargetName};

/// Waiting events of one customer that are read at once; what is beyond waits for the next claim.
const MAX_EVENTS: i64 = 200;

/// Payloads of one customer that are read at once, in bytes; at least one event is.
const MAX_BYTES: i64 = 8 * 1024 * 1024;

/// A customer whose work nobody else may touch while the lease lasts.
#[derive(Debug, Clone)]
pub struct ClaimedCustomer {
    /// The shop.
    pub source: SourceName,
    /// The shop's customer.
    pub customer: ShopCustomerId,
    /// Proof of the claim.
    pub lease: LeaseId,
    /// Arrivals as of the claim.
    pub(super) revision: i64,
    /// More events wait than were read at once.
    pub(super) has_more: bool,
    /// Claims since a result was last written, this one included; above 1 a worker died holding it.
    pub claims: i32,
}

/// An event without a final verdict.
#[derive(Debug, Clone)]
pub struct WaitingEvent {
    /// Sorts by arrival.
    pub id: EventId,
    /// The shop's word for what happened.
    pub topic: String,
    /// The body, as stored.
    pub payload: String,
    /// Shop's time of the change.
    pub occurred_at: DateTime<Utc>,
    /// When it arrived.
    pub received_at: DateTime<Utc>,
    /// Attempts that counted so far.
    pub attempts: u32,
    /// Those of them before a person set it back.
    pub forgiven_attempts: u32,
}

/// What is known of a customer in FlexPortal.
#[derive(Debug, Clone)]
pub struct Link {
    /// FlexPortal's id.
    pub flexportal_id: FlexportalCustomerId,
    /// What FlexPortal acknowledged.
    pub acknowledged: Acknowledged,
}

impl Outbox {
    /// Claims up to `limit` customers of a target that are due, longest due first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn claim(&self, target: &TargetName, limit: u32) -> Result<Vec<ClaimedCustomer>, StoreError> {
        let lease = LeaseId::fresh();
        let claimed = sqlx::query!(
            r#"
            with moment as (
                select coalesce($4::timestamptz, clock_timestamp()) as now
            ),
            due as (
                select waiting.source, waiting.shop_customer_id
                from waiting_customers waiting, moment
                where waiting.target = $1
                  and waiting.due_at <= moment.now
                  and (waiting.lease_id is null or waiting.lease_expires_at <= moment.now)
                order by waiting.due_at
                limit $2
                for update of waiting skip locked
            )
            update waiting_customers waiting
            set lease_id = $3,
                lease_expires_at = moment.now + make_interval(secs => $5),
                claimed_at = moment.now,
                attempts = waiting.attempts + 1
            from due, moment
            where waiting.source = due.source
              and waiting.shop_customer_id = due.shop_customer_id
            returning
                waiting.source as "source: SourceName",
                waiting.shop_customer_id as "customer: ShopCustomerId",
                waiting.revision,
                waiting.attempts as claims
            "#,
            target.as_str(),
            i64::from(limit),
            lease.0,
            self.clock.for_postgres(),
            seconds(LEASE),
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(claimed
            .into_iter()
            .map(|row| ClaimedCustomer {
                source: row.source,
                customer: row.customer,
                lease,
                revision: row.revision,
                has_more: false,
                claims: row.claims,
            })
            .collect())
    }

    /// Reads the waiting events of a claimed customer, oldest arrival first.
    ///
    /// A statement of its own: it sees every event that the claimed revision counts.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn waiting_events(&self, claimed: &mut ClaimedCustomer) -> Result<Vec<WaitingEvent>, StoreError> {
        let rows = sqlx::query!(
            r#"
            with found as (
                select
                    d.id,
                    coalesce(s.attempts, 0) as attempts,
                    coalesce(s.forgiven_attempts, 0) as forgiven_attempts
                from waiting_customers waiting
                join deliveries d
                    on d.source = waiting.source
                    and d.shop_customer_id = waiting.shop_customer_id
                    and d.id >= waiting.first_event_id
                left join event_states s on s.event_id = d.id
                where waiting.source = $1
                  and waiting.shop_customer_id = $2
                  and d.concerns = 'customer'
                  and (s.event_id is null or (s.status in ('pending', 'unmatched') and s.finished_at is null))
                order by d.id
                limit $3::bigint + 1             -- one more, to know that there are more
            ),
            measured as (                        -- payloads are read for those only
                select
                    found.*,
                    d.topic,
                    d.payload::text as payload,
                    d.occurred_at,
                    d.received_at,
                    count(*) over () as waiting,
                    row_number() over in_order as position,
                    sum(octet_length(d.payload::text)) over in_order as bytes_through
                from found
                join deliveries d using (id)
                window in_order as (order by id)
            )
            select
                id as "id: EventId",
                topic,
                payload as "payload!",
                occurred_at,
                received_at,
                attempts as "attempts!",
                forgiven_attempts as "forgiven_attempts!",
                waiting as "waiting!"
            from measured
            where position <= $3::bigint
              and bytes_through - octet_length(payload) < $4
            order by id
            "#,
            claimed.source.as_str(),
            claimed.customer.as_str(),
            MAX_EVENTS,
            MAX_BYTES,
        )
        .fetch_all(&self.pool)
        .await?;
        claimed.has_more = rows.first().is_some_and(|row| row.waiting > i64::try_from(rows.len()).unwrap_or(0));
        let count = |attempts: i32| u32::try_from(attempts).unwrap_or(0);
        Ok(rows
            .into_iter()
            .map(|row| WaitingEvent {
                id: row.id,
                topic: row.topic,
                payload: row.payload,
                occurred_at: row.occurred_at,
                received_at: row.received_at,
                attempts: count(row.attempts),
                forgiven_attempts: count(row.forgiven_attempts),
            })
            .collect())
    }

    /// Prolongs a claim to a full lease from now; `false` if it is lost.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn renew(&self, claimed: &ClaimedCustomer) -> Result<bool, StoreError> {
        let renewed = sqlx::query!(
            r#"
            update waiting_customers
            set lease_expires_at = coalesce($4::timestamptz, clock_timestamp()) + make_interval(secs => $5)
            where source = $1
              and shop_customer_id = $2
              and lease_id = $3
            "#,
            claimed.source.as_str(),
            claimed.customer.as_str(),
            claimed.lease.0,
            self.clock.for_postgres(),
            seconds(LEASE),
        )
        .execute(&self.pool)
        .await?;
        Ok(renewed.rows_affected() == 1)
    }

    /// Whether any customer of a target is due: a look that costs nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn is_any_due(&self, target: &TargetName) -> Result<bool, StoreError> {
        let is_due = sqlx::query_scalar!(
            r#"
            select exists (
                select
                from waiting_customers, (select coalesce($2::timestamptz, clock_timestamp()) as now) moment
                where target = $1
                  and due_at <= moment.now
                  and (lease_id is null or lease_expires_at <= moment.now)
            ) as "is_due!"
            "#,
            target.as_str(),
            self.clock.for_postgres(),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(is_due)
    }

    /// How long until the next customer of a target is due, leased ones aside; `None` if none waits.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn next_due_in(&self, target: &TargetName) -> Result<Option<std::time::Duration>, StoreError> {
        let wait = sqlx::query_scalar!(
            r#"
            select extract(epoch from due_at - moment.now)::float8 as "wait!"
            from waiting_customers, (select coalesce($2::timestamptz, clock_timestamp()) as now) moment
            where target = $1
              and due_at > moment.now
            order by due_at
            limit 1
            "#,
            target.as_str(),
            self.clock.for_postgres(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(wait.map(|seconds| std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default()))
    }

    /// The link of a shop's customer.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn link(&self, source: &SourceName, customer: &ShopCustomerId) -> Result<Option<Link>, StoreError> {
        let link = sqlx::query!(
            r#"
            select
                flexportal_customer_id as "flexportal_id: FlexportalCustomerId",
                acknowledged as "acknowledged: Json<Acknowledged>"
            from customer_links
            where source = $1
              and shop_customer_id = $2
            "#,
            source.as_str(),
            customer.as_str(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(link.map(|row| Link { flexportal_id: row.flexportal_id, acknowledged: row.acknowledged.0 }))
    }

    /// The newest e-mail that any delivery of a shop's customer gave.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn last_known_email(
        &self,
        source: &SourceName,
        customer: &ShopCustomerId,
    ) -> Result<Option<String>, StoreError> {
        let email = sqlx::query_scalar!(
            r#"
            select email as "email!"
            from deliveries
            where source = $1
              and shop_customer_id = $2
              and concerns = 'customer'
              and email is not null
            order by id desc
            limit 1
            "#,
            source.as_str(),
            customer.as_str(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(email)
    }
}

impl ClaimedCustomer {
    pub(super) fn lease_id(&self) -> Uuid {
        self.lease.0
    }
}
