//! Claiming customers: who is due, longest first, under a lease.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use super::{LEASE, Outbox, StoreError, seconds};
use crate::domain::{Acknowledged, EventId, FlexportalCustomerId, LeaseId, ShopCustomerId, SourceName, TargetName};

/// Waiting events of one customer that are read at once and go out as one change; what is beyond waits for the next
/// claim.
const MAX_EVENTS: i64 = 1000;

/// Events given up of one customer that a newer change is compared with.
const MAX_GIVEN_UP: i64 = 100;

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

/// All that is known of a claimed customer.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Its waiting events, oldest arrival first.
    pub waiting: Vec<WaitingEvent>,
    /// Those given up as failed or unmatched: a newer change closes those it speaks for.
    pub given_up: Vec<WaitingEvent>,
    /// Who it is in FlexPortal, if that was found before.
    pub link: Option<Link>,
}

/// Whether there is anything to do for a target now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Look {
    /// Some customer can be claimed.
    pub is_due: bool,
    /// Why the target is held, or was: a pause that is over may still want its probe.
    pub has_hold: bool,
    /// For how long it is held still.
    pub held_for: Option<Duration>,
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
    /// Claims up to `limit` customers of a target that are due: live changes first, then retries, then what a person
    /// replays; of each the longest due first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn claim(&self, target: &TargetName, limit: u32) -> Result<Vec<ClaimedCustomer>, StoreError> {
        let lease = LeaseId::fresh();
        let claimed = sqlx::query!(
            r#"
            with moment as materialized (
                select coalesce($4::timestamptz, clock_timestamp()) as now
            ),
            due as materialized (
                select longest.source, longest.shop_customer_id
                from unnest(array[0, 1, 2]::smallint[]) as turn (priority)
                cross join moment
                cross join lateral (             -- a range of the index for each priority
                    select waiting.source, waiting.shop_customer_id, waiting.priority, waiting.due_at
                    from waiting_customers waiting
                    where waiting.target = $1
                      and waiting.priority = turn.priority
                      and waiting.due_at <= moment.now
                      and (waiting.lease_id is null or waiting.lease_expires_at <= moment.now)
                      and (waiting.rests_until is null or waiting.rests_until <= moment.now)
                    order by waiting.due_at
                    limit $2
                    for update of waiting skip locked
                ) as longest
                order by longest.priority, longest.due_at
                limit $2
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

    /// Reads what is known of a claimed customer.
    ///
    /// Statements of their own, after the claim: they see every event that the claimed revision counts.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read(&self, claimed: &mut ClaimedCustomer) -> Result<Known, StoreError> {
        let waiting = self.waiting_events(claimed).await?;
        let (link, has_given_up) = self.link(claimed).await?;
        let given_up = if has_given_up { self.given_up_events(claimed).await? } else { vec![] };
        Ok(Known { waiting, given_up, link })
    }

    async fn waiting_events(&self, claimed: &mut ClaimedCustomer) -> Result<Vec<WaitingEvent>, StoreError> {
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

    /// Looks whether there is anything to do for a target; locks nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn look(&self, target: &TargetName) -> Result<Look, StoreError> {
        let row = sqlx::query!(
            r#"
            select
                exists (
                    select
                    from unnest(array[0, 1, 2]::smallint[]) as turn (priority)
                    cross join lateral (         -- in order, so that the index is taken, however few are due
                        select
                        from waiting_customers
                        where target = $1
                          and priority = turn.priority
                          and due_at <= moment.now
                          and (lease_id is null or lease_expires_at <= moment.now)
                          and (rests_until is null or rests_until <= moment.now)
                        order by due_at
                        limit 1
                    ) as first
                ) as "is_due!",
                held.hold_reason is not null as "has_hold!",
                extract(epoch from held.held_until - moment.now)::float8 as held_for
            from (select coalesce($2::timestamptz, clock_timestamp()) as now) moment
            left join targets held on held.name = $1
            "#,
            target.as_str(),
            self.clock.for_postgres(),
        )
        .fetch_one(&self.pool)
        .await?;
        let held_for = row.held_for.filter(|seconds| *seconds > 0.0);
        Ok(Look {
            is_due: row.is_due,
            has_hold: row.has_hold,
            held_for: held_for.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
        })
    }

    /// How long until the next customer of a target can be claimed; `None` if none waits.
    ///
    /// Meant for a moment at which none can: then all that is due is leased or rests, and few.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn next_due_in(&self, target: &TargetName) -> Result<Option<Duration>, StoreError> {
        let wait = sqlx::query_scalar!(
            r#"
            select extract(epoch from min(next.at) - moment.now)::float8 as wait
            from (select coalesce($2::timestamptz, clock_timestamp()) as now) moment
            cross join unnest(array[0, 1, 2]::smallint[]) as turn (priority)
            cross join lateral (
                (
                    select due_at as at
                    from waiting_customers
                    where target = $1
                      and priority = turn.priority
                      and due_at > moment.now
                    order by due_at
                    limit 1
                )
                union all
                select min(greatest(lease_expires_at, rests_until))
                from waiting_customers
                where target = $1
                  and priority = turn.priority
                  and due_at <= moment.now
            ) as next
            group by moment.now
            "#,
            target.as_str(),
            self.clock.for_postgres(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(wait.flatten().map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
    }

    /// The link of a claimed customer, and whether events of it were given up.
    async fn link(&self, claimed: &ClaimedCustomer) -> Result<(Option<Link>, bool), StoreError> {
        let row = sqlx::query!(
            r#"
            select
                link.flexportal_customer_id as "flexportal_id?: FlexportalCustomerId",
                link.acknowledged as "acknowledged?: Json<Acknowledged>",
                exists (
                    select
                    from event_states
                    where source = $1
                      and shop_customer_id = $2
                      and status in ('failed', 'unmatched')
                      and finished_at is not null
                ) as "has_given_up!"
            from (select) as always
            left join customer_links link
                on link.source = $1
                and link.shop_customer_id = $2
            "#,
            claimed.source.as_str(),
            claimed.customer.as_str(),
        )
        .fetch_one(&self.pool)
        .await?;
        let link = row.flexportal_id.zip(row.acknowledged);
        let link = link.map(|(flexportal_id, known)| Link { flexportal_id, acknowledged: known.0 });
        Ok((link, row.has_given_up))
    }

    /// The newest events of a customer that were given up.
    async fn given_up_events(&self, claimed: &ClaimedCustomer) -> Result<Vec<WaitingEvent>, StoreError> {
        let rows = sqlx::query!(
            r#"
            select
                d.id as "id: EventId",
                d.topic,
                d.payload::text as "payload!",
                d.occurred_at,
                d.received_at,
                s.attempts,
                s.forgiven_attempts
            from event_states s
            join deliveries d on d.id = s.event_id
            where s.source = $1
              and s.shop_customer_id = $2
              and s.status in ('failed', 'unmatched')
              and s.finished_at is not null
            order by d.id desc
            limit $3
            "#,
            claimed.source.as_str(),
            claimed.customer.as_str(),
            MAX_GIVEN_UP,
        )
        .fetch_all(&self.pool)
        .await?;
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

    /// The waiting events of a claimed customer by their ids alone, for one that cannot be read in full.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn waiting_ids(&self, claimed: &ClaimedCustomer) -> Result<Vec<(EventId, u32)>, StoreError> {
        let rows = sqlx::query!(
            r#"
            select d.id as "id: EventId", coalesce(s.attempts, 0) as "attempts!"
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
            limit $3
            "#,
            claimed.source.as_str(),
            claimed.customer.as_str(),
            MAX_EVENTS,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.id, count(row.attempts))).collect())
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

fn count(attempts: i32) -> u32 {
    u32::try_from(attempts).unwrap_or(0)
}

impl ClaimedCustomer {
    pub(super) fn lease_id(&self) -> Uuid {
        self.lease.0
    }
}
