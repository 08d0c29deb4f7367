//! Claiming customers: who is due, by turn and longest first, under a lease.

use std::time::Duration;

use uuid::Uuid;

use super::head::{Begin, FROM_THE_BEGINNING};
use super::{LEASE, Outbox, StoreError, seconds};
use crate::domain::{FlexportalCustomerId, LeaseId, ShopCustomerId, SourceName, TargetName, Tenant};

/// A customer whose work nobody else may touch while the lease lasts.
#[derive(Debug, Clone)]
pub struct ClaimedCustomer {
    /// The shop.
    pub source: SourceName,
    /// The shop's customer.
    pub customer: ShopCustomerId,
    /// Proof of the claim.
    pub lease: LeaseId,
    /// Whose links hold for it.
    pub(super) tenant: Tenant,
    /// Arrivals as of the claim.
    pub(super) revision: i64,
    /// More events wait than were read at once.
    pub(super) has_more: bool,
    /// Who it was in FlexPortal when it was read: a link that somebody changed since is not written over.
    pub(super) linked_to: Option<FlexportalCustomerId>,
    /// Claims since a result was last written, this one included; above 1 a worker died holding it.
    pub claims: i32,
    /// It has just changed, and may do so again: once it is found, others go first.
    pub is_restless: bool,
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

/// Who has not changed for this long is taken to be done: a person who fills in a form, or a shop that sends one change in
/// several parts.
pub(super) const QUIET: Duration = Duration::from_secs(5);
/// Who has waited for this long has its turn, quiet or not: nobody is put off for long.
pub(super) const WAITED: Duration = Duration::from_secs(10);

impl Outbox {
    /// Claims up to `limit` customers of a target that are due: live changes first, then retries, then what a person
    /// replays; of each the longest due first. Those whose newest change came within the last 5 s are the last of the
    /// live ones, until they have waited for 10 s: what they are about to say would make the request a wasted one. Not
    /// so those whom FlexPortal has to be asked for, since the answer will hold.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn claim(&self, target: &TargetName, limit: u32) -> Result<Vec<ClaimedCustomer>, StoreError> {
        self.claim_if(target, limit, false).await
    }

    /// Claims where no request is missed: there is no quota, and nobody is claimed while the target is held, or has a pause
    /// behind it that wants its probe. By turn and longest due, restless or not.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn claim_unless_held(&self, target: &TargetName, limit: u32) -> Result<Vec<ClaimedCustomer>, StoreError> {
        self.claim_if(target, limit, true).await
    }

    async fn claim_if(
        &self,
        target: &TargetName,
        limit: u32,
        is_free: bool,
    ) -> Result<Vec<ClaimedCustomer>, StoreError> {
        if let Some(begin) = self.heads.begin(target) {
            let claimed = self.claim_from(begin, target, limit, is_free).await?;
            if !claimed.is_empty() {
                return Ok(claimed);
            }
        }
        self.claim_from(FROM_THE_BEGINNING, target, limit, is_free).await
    }

    #[expect(clippy::too_many_lines, reason = "one statement")]
    async fn claim_from(
        &self,
        begin: Begin,
        target: &TargetName,
        limit: u32,
        is_free: bool,
    ) -> Result<Vec<ClaimedCustomer>, StoreError> {
        let (lease, tenant) = (LeaseId::fresh(), self.tenant_of(target));
        let [live, retries, replays] = begin;
        let mut connection = self.warm.connection().await?;
        let claimed = sqlx::query!(
            r#"
            with moment as materialized (
                select
                    given.now,
                    given.now - make_interval(secs => $10) as quiet_since,
                    given.now - make_interval(secs => $11) as waits_since
                from (select coalesce($4::timestamptz, clock_timestamp()) as now) given
                where not ($6 and exists (select from targets where name = $1 and hold_reason is not null))
            ),
            live as materialized (               -- a range of the index for each priority, locked only as far as it is their turn
                select longest.at
                from moment
                cross join lateral (
                    select waiting.ctid as at
                    from waiting_customers waiting
                    where waiting.target = $1
                      and waiting.priority = 0
                      and waiting.due_at between coalesce($7::timestamptz, '-infinity') and moment.now
                      and (waiting.lease_id is null or waiting.lease_expires_at <= moment.now)
                      and (waiting.rests_until is null or waiting.rests_until <= moment.now)
                      and (
                          $6
                          or waiting.changed_at is null
                          or waiting.changed_at <= moment.quiet_since
                          or waiting.due_at <= moment.waits_since
                          or waiting.is_asked_for and not exists (
                              select
                              from customer_links link
                              where link.source = waiting.source
                                and link.shop_customer_id = waiting.shop_customer_id
                                and link.base_url = $12
                                and link.tenant_id = $13
                                and link.flexportal_customer_id is not null
                                and link.missing_since is null
                              offset 0           -- one by one, by the index: see LIVE
                          )
                      )
                    order by waiting.due_at
                    limit $2
                    for update of waiting skip locked
                ) as longest
            ),
            restless as materialized (
                select longest.at
                from moment
                cross join lateral (
                    select waiting.ctid as at
                    from waiting_customers waiting
                    where not $6
                      and waiting.target = $1
                      and waiting.priority = 0
                      and waiting.due_at between coalesce($7::timestamptz, '-infinity') and moment.now
                      and (waiting.lease_id is null or waiting.lease_expires_at <= moment.now)
                      and (waiting.rests_until is null or waiting.rests_until <= moment.now)
                      and waiting.changed_at > moment.quiet_since
                      and waiting.ctid not in (select live.at from live)
                    order by waiting.due_at
                    limit $2 - (select count(*) from live)
                    for update of waiting skip locked
                ) as longest
            ),
            retries as materialized (
                select longest.at
                from moment
                cross join lateral (
                    select waiting.ctid as at
                    from waiting_customers waiting
                    where waiting.target = $1
                      and waiting.priority = 1
                      and waiting.due_at between coalesce($8::timestamptz, '-infinity') and moment.now
                      and (waiting.lease_id is null or waiting.lease_expires_at <= moment.now)
                      and (waiting.rests_until is null or waiting.rests_until <= moment.now)
                    order by waiting.due_at
                    limit $2 - (select count(*) from live) - (select count(*) from restless)
                    for update of waiting skip locked
                ) as longest
            ),
            replays as materialized (
                select longest.at
                from moment
                cross join lateral (
                    select waiting.ctid as at
                    from waiting_customers waiting
                    where waiting.target = $1
                      and waiting.priority = 2
                      and waiting.due_at between coalesce($9::timestamptz, '-infinity') and moment.now
                      and (waiting.lease_id is null or waiting.lease_expires_at <= moment.now)
                      and (waiting.rests_until is null or waiting.rests_until <= moment.now)
                    order by waiting.due_at
                    limit $2 - (select count(*) from live) - (select count(*) from restless)
                        - (select count(*) from retries)
                    for update of waiting skip locked
                ) as longest
            ),
            due as (
                select * from live
                union all
                select * from restless
                union all
                select * from retries
                union all
                select * from replays
            )
            update waiting_customers waiting
            set lease_id = $3,
                lease_expires_at = moment.now + make_interval(secs => $5),
                claimed_at = moment.now,
                attempts = waiting.attempts + 1
            from due, moment
            -- One that changed between the statement's beginning and its lock stands elsewhere now. It is claimed as it is
            -- then, or the next time.
            where waiting.ctid = due.at
            returning
                waiting.source as "source: SourceName",
                waiting.shop_customer_id as "customer: ShopCustomerId",
                waiting.priority,
                case when isfinite(waiting.due_at) then waiting.due_at end as due_at,      -- a person may write '-infinity'
                extract(epoch from clock_timestamp() - statement_timestamp())::float8 as "took!",
                waiting.revision,
                waiting.attempts as claims,
                coalesce(
                    not $6
                    and waiting.priority = 0
                    and waiting.changed_at > moment.quiet_since
                    and waiting.due_at > moment.waits_since,
                    false
                ) as "is_restless!"
            "#,
            target.as_str(),
            i64::from(limit),
            lease.0,
            self.clock.for_postgres() as _,
            seconds(LEASE),
            is_free,
            live,
            retries,
            replays,
            seconds(QUIET),
            seconds(WAITED),
            tenant.base_url,
            tenant.tenant_id,
        )
        .fetch_all(&mut *connection)
        .await?;
        connection.keep();
        if begin == FROM_THE_BEGINNING {
            // By the database's own word: not how long the way there took, or a free connection.
            let took = claimed.iter().map(|row| row.took).fold(0.0, f64::max);
            self.heads.began(target, Duration::try_from_secs_f64(took).unwrap_or_default());
        }
        self.heads.claimed(target, claimed.iter().filter_map(|row| Some((row.priority, row.due_at?))));
        Ok(claimed
            .into_iter()
            .map(|row| ClaimedCustomer {
                source: row.source,
                customer: row.customer,
                lease,
                tenant: tenant.clone(),
                revision: row.revision,
                has_more: false,
                linked_to: None,
                claims: row.claims,
                is_restless: row.is_restless,
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
            self.clock.for_postgres() as _,
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
        if let Some(begin) = self.heads.begin(target) {
            let look = self.look_from(begin, target).await?;
            if look.is_due {
                return Ok(look);
            }
        }
        self.look_from(FROM_THE_BEGINNING, target).await
    }

    async fn look_from(&self, begin: Begin, target: &TargetName) -> Result<Look, StoreError> {
        let mut connection = self.warm.connection().await?;
        let row = sqlx::query!(
            r#"
            select
                exists (
                    select
                    from unnest(array[0, 1, 2]::smallint[], $3::timestamptz[]) as turn (priority, begin)
                    cross join lateral (         -- in order, so that the index is taken, however few are due
                        select
                        from waiting_customers
                        where target = $1
                          and priority = turn.priority
                          and due_at between coalesce(turn.begin, '-infinity') and moment.now
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
            self.clock.for_postgres() as _,
            &begin as _,
        )
        .fetch_one(&mut *connection)
        .await?;
        connection.keep();
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
        // Not over a warm connection: who asks this is often called away before the answer, which would close it.
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
                -- one that is neither, and was not claimed, is another's just now: a moment later it may be ours
                select min(coalesce(greatest(lease_expires_at, rests_until), moment.now + interval '100 ms'))
                from waiting_customers
                where target = $1
                  and priority = turn.priority
                  and due_at <= moment.now
            ) as next
            group by moment.now
            "#,
            target.as_str(),
            self.clock.for_postgres() as _,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(wait.flatten().map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
    }
}

impl ClaimedCustomer {
    /// FlexPortal's id that its link led to when it was read.
    pub(super) fn linked_to(&self) -> Option<&str> {
        self.linked_to.as_ref().map(FlexportalCustomerId::as_str)
    }

    /// Whether a worker died holding it: whatever waits may have been sent already.
    #[must_use]
    pub fn is_takeover(&self) -> bool {
        self.claims > 1
    }

    pub(super) fn lease_id(&self) -> Uuid {
        self.lease.0
    }
}
