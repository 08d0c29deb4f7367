//! Postgres' clock may be set back: what was stored by it then lies further ahead than it can, and would be waited for.

use std::time::Duration;

use super::{LEASE, Outbox, PROBE_INTERVAL, StoreError, seconds};
use crate::flexportal::LONGEST_RETRY_AFTER;

/// The quota is never used further ahead than this, whatever the limit is: that of one request a minute is.
pub(super) const QUOTA_AHEAD: Duration = Duration::from_millis(60_500);
/// Nothing that cannot be is so by less: processes may have other limits for a moment.
const TOLERANCE: Duration = Duration::from_secs(1);
/// Not only failed attempts delay a customer: one whose source is not configured is looked at again after a minute.
const SHORTEST_DELAY: Duration = Duration::from_mins(1);

/// How much was found that cannot be, and moved to where it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clamped {
    /// Targets whose quota was used too far ahead, or that were held for too long.
    pub targets: u64,
    /// Customers whose claim, rest or delay was too long.
    pub customers: u64,
}

impl Outbox {
    /// Moves instants that lie further ahead than they can to the latest that can be: the quota used, holds, claims, rests,
    /// and when customers are due. `longest_delay` is that of a retry.
    ///
    /// Nothing of it ends early: each begins again at most. Rows that somebody holds are being written anew.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn clamp(&self, longest_delay: Duration) -> Result<Clamped, StoreError> {
        let targets = sqlx::query!(
            r#"
            -- clamp_targets
            with moment as (
                select coalesce($1::timestamptz, clock_timestamp()) as now
            ),
            latest as (
                select
                    name,
                    moment.now + make_interval(secs => $2) as quota,
                    moment.now + make_interval(secs => case hold_reason
                        when 'rate_limited' then $3
                        when 'clock_step' then $2
                        else $4
                    end) as hold
                from targets, moment
            )
            update targets
            set budget_used_until = least(budget_used_until, latest.quota),
                free_places = case when budget_used_until > latest.quota then '{}' else free_places end,
                held_until = case when held_until > latest.hold then latest.hold else held_until end,
                step_held_until = least(step_held_until, latest.quota)
            from latest
            where targets.name = latest.name
              and (
                  budget_used_until > latest.quota + make_interval(secs => $5)
                  or held_until > latest.hold + make_interval(secs => $5)
              )
            "#,
            self.clock.for_postgres() as _,
            seconds(QUOTA_AHEAD),
            seconds(LONGEST_RETRY_AFTER),
            seconds(PROBE_INTERVAL),
            seconds(TOLERANCE),
        )
        .execute(&self.pool)
        .await?;
        let customers = sqlx::query!(
            r#"
            -- clamp_customers
            with moment as materialized (
                select
                    given.now,
                    given.now + make_interval(secs => $2) as lease,
                    given.now + make_interval(secs => $3) as delay
                from (select coalesce($1::timestamptz, clock_timestamp()) as now) given
            ),
            ahead as materialized (
                select waiting.ctid as at, due.latest
                from moment
                cross join waiting_customers waiting
                cross join lateral (
                    select case
                        when waiting.priority = 0 then moment.lease
                        when exists (              -- who is unknown to FlexPortal is looked up at growing intervals
                            select
                            from event_states state
                            where state.event_id = waiting.first_event_id
                              and state.status = 'unmatched'
                            offset 0
                        ) then 'infinity'
                        else moment.delay
                    end as latest
                ) as due
                where waiting.lease_expires_at > moment.lease
                   or waiting.rests_until > moment.lease
                   or waiting.due_at > due.latest
                for update of waiting skip locked
            )
            update waiting_customers waiting
            set lease_expires_at =
                    case when lease_expires_at > moment.lease then moment.lease else lease_expires_at end,
                rests_until = case when rests_until > moment.lease then moment.lease else rests_until end,
                due_at = case
                    when due_at <= ahead.latest then due_at
                    when priority = 0 then moment.now        -- since it arrived, or was given back, it is due
                    else ahead.latest
                end
            from ahead, moment
            where waiting.ctid = ahead.at
            "#,
            self.clock.for_postgres() as _,
            seconds(LEASE),
            seconds(longest_delay.max(SHORTEST_DELAY)),
        )
        .persistent(false)
        .execute(&self.pool)
        .await?;
        Ok(Clamped { targets: targets.rows_affected(), customers: customers.rows_affected() })
    }
}
