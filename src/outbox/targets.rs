//! The request budget that all replicas share, and pauses: one row per target.
//!
//! Requests have places on a line of time, evenly spaced; `budget_used_until` is the end of the last place
//! taken. A place may be used a burst early, and never late: so no 60 seconds see more than the limit, restarts and
//! replicas included (the generic cell rate algorithm). One that was taken and not used is free for others until its
//! time has come. FlexPortal counts arrivals, not places: what lies between is what [`SLACK`] is for.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{LEASE, Outbox, StoreError, seconds};
use crate::config::{Source, Target};
use crate::domain::{PgInstant, SourceName, TargetName, Tenant};

/// A target's limit, as spacing and burst.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Between two requests.
    pub(super) spacing: Duration,
    /// How early a place may be used.
    pub(super) early: Duration,
}

/// A configured target, as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownTarget {
    /// Its name.
    pub name: TargetName,
    /// Requests a minute; 0 for no limit.
    pub rate_limit_per_minute: u32,
    /// Whose links hold for it.
    pub tenant: Tenant,
}

impl From<&Target> for KnownTarget {
    fn from(target: &Target) -> Self {
        let (name, tenant) = (target.name.clone(), target.tenant());
        Self { name, rate_limit_per_minute: target.rate_limit_per_minute, tenant }
    }
}

/// What came of asking for leave to make requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// Leave for one request each.
    pub leaves: Vec<Leave>,
    /// Whether the target is held: a rate limit's answer, refused credentials, or failures in a row.
    pub is_held: bool,
    /// Where there is none: how long until there may be some.
    pub wait: Option<Duration>,
    /// What Postgres' clock showed, without the steps that were made up for.
    pub clock: PgInstant,
    /// How far it was set forward by then, in seconds; made up for.
    pub clock_steps: f64,
}

/// Leave to make one request, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave {
    /// Whether this is the one request that finds out if a pause is over.
    pub is_probe: bool,
    /// Its place on the line of time; none without a limit.
    pub(super) place: Option<DateTime<Utc>>,
}

impl Leave {
    /// After this, leave is void: its place has passed, and FlexPortal counts by its own clock.
    pub const GOOD_FOR: Duration = Duration::from_millis(250);

    /// Leave that nobody counts.
    pub const FREE: Self = Self { is_probe: false, place: None };
}

/// Why a target is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// 429: until the time FlexPortal asked for.
    RateLimited,
    /// 401 or 403: probed until somebody mends the credentials.
    Refused,
    /// It failed one customer after the other: probed until it works again.
    Failing,
    /// Postgres' clock was set forward: until it is sure that the limit is kept.
    ClockStep,
}

impl HoldReason {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::RateLimited, Self::Refused, Self::Failing, Self::ClockStep];

    /// The word as stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Refused => "refused",
            Self::Failing => "failing",
            Self::ClockStep => "clock_step",
        }
    }

    /// Whether it is over with its time; the others end by a probe.
    #[must_use]
    pub fn ends_by_itself(self) -> bool {
        matches!(self, Self::RateLimited | Self::ClockStep)
    }

    pub(super) fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// What it means, and what to do.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::RateLimited => "FlexPortal answered 429: it goes on by itself",
            Self::Refused => {
                "FlexPortal answered 401 or 403, and events wait: mend FLEXPORTAL_API_KEY, its permissions, or \
                 FLEXPORTAL_TENANT_ID; it goes on by itself within 30 s"
            }
            Self::Failing => {
                "FlexPortal failed one customer after the other, and events wait: it is probed every 30 s and goes on \
                 by itself"
            }
            Self::ClockStep => {
                "Postgres' clock was set forward, and the quota would be exceeded: it goes on by itself within a minute; \
                 let the clock of Postgres' machine be corrected little by little, not by steps"
            }
        }
    }
}

/// Between two probes of a target that refuses our credentials, or fails.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// Places given back that are kept for others; the latest are dropped beyond.
const MAX_FREE_PLACES: i64 = 256;

/// One request may take this much longer than another from its place in the budget to FlexPortal, and no 60 seconds
/// there see more than the limit. Leave not used within half of it is void ([`Leave::GOOD_FOR`]); the other half is
/// the network's.
const SLACK: Duration = Duration::from_millis(500);

/// How long a target is held after a step forward: for as long as the step, that the limit is kept; and for as long as a
/// lease lasts, since leases ended early, and what was sent under them may still be under way (`tests/claims_model.rs`).
/// After a minute without a request no step matters.
pub(super) fn hold_after(step: Duration) -> Duration {
    step.clamp(LEASE, Duration::from_mins(1))
}

impl Budget {
    /// A tenth of the limit at once, the rest evenly spaced; `None` for no limit.
    #[must_use]
    pub fn per_minute(limit: u32) -> Option<Self> {
        if limit == 0 {
            return None;
        }
        let burst = (limit / 10).max(1);
        // A burst and then `limit - burst` more: the next place lies just outside of a minute and its slack.
        let spacing = (Duration::from_mins(1) + SLACK).div_f64(f64::from(limit - burst + 1));
        Some(Self { spacing, early: spacing * (burst - 1) })
    }

    /// How far ahead of now places can be taken.
    pub(super) fn most_ahead(self) -> Duration {
        self.early + self.spacing
    }

    /// How many requests could go out at once, where all places up to `used_until` are taken.
    pub(super) fn available(self, now: DateTime<Utc>, used_until: DateTime<Utc>) -> u32 {
        let taken = (used_until - now).to_std().unwrap_or_default();
        let Some(left) = self.early.checked_sub(taken) else { return 0 };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most a tenth of a u32, and positive"
        )]
        let beyond_the_first = (left.as_secs_f64() / self.spacing.as_secs_f64() + 1e-6) as u32;
        beyond_the_first + 1
    }
}

impl Outbox {
    /// Notes the configured sources, and targets with their requests a minute and their tenants; moves work that waits for
    /// a source to its target, and ties links that were given before its tenant was known to it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn register(&self, sources: &[&Source], targets: &[KnownTarget]) -> Result<(), StoreError> {
        let names: Vec<_> = sources.iter().map(|source| source.name.as_str().to_owned()).collect();
        let kinds: Vec<_> = sources.iter().map(|source| source.kind.as_str().to_owned()).collect();
        let of: Vec<_> = sources.iter().map(|source| source.target.as_str().to_owned()).collect();
        let shops: Vec<_> = sources.iter().map(|source| serde_json::json!(source.shop)).collect();
        let limit = |target: &KnownTarget| i32::try_from(target.rate_limit_per_minute).unwrap_or(i32::MAX);
        let limits: Vec<_> = targets.iter().map(limit).collect();
        let base_urls: Vec<_> = targets.iter().map(|target| target.tenant.base_url.clone()).collect();
        let tenant_ids: Vec<_> = targets.iter().map(|target| target.tenant.tenant_id.clone()).collect();
        let targets: Vec<_> = targets.iter().map(|target| target.name.as_str().to_owned()).collect();
        sqlx::query!(
            r#"
            -- register_targets
            insert into targets as known (name, rate_limit_per_minute, base_url, tenant_id)
            select * from unnest($1::text[], $2::integer[], $3::text[], $4::text[])
            on conflict (name) do update
            set rate_limit_per_minute = excluded.rate_limit_per_minute,
                base_url = excluded.base_url,
                tenant_id = excluded.tenant_id
            where (known.rate_limit_per_minute, known.base_url, known.tenant_id)
                is distinct from (excluded.rate_limit_per_minute, excluded.base_url, excluded.tenant_id)
            "#,
            &targets,
            &limits,
            &base_urls,
            &tenant_ids,
        )
        .execute(&self.pool)
        .await?;
        sqlx::query!(
            r#"
            with recursive queues as (           -- one entry of the index for each
                (select target from waiting_customers order by target limit 1)
                union all
                select (
                    select next.target
                    from waiting_customers next
                    where next.target > queues.target
                    order by next.target
                    limit 1
                )
                from queues
                where queues.target is not null
            ),
            configured as (
                insert into sources (name, kind, target, shops)
                select name, kind, target, array(select jsonb_array_elements_text(shops))
                from unnest($1::text[], $2::text[], $3::text[], $4::jsonb[]) as source (name, kind, target, shops)
                on conflict (name) do update
                set kind = excluded.kind, target = excluded.target, shops = excluded.shops
                returning name, target
            )
            update waiting_customers waiting
            set target = configured.target
            from configured
            where waiting.source = configured.name
              and waiting.target <> configured.target
              -- else all of a long queue would be read to find nobody
              and exists (select from queues where queues.target <> configured.target offset 0)
            "#,
            &names,
            &kinds,
            &of,
            &shops,
        )
        .execute(&self.pool)
        .await?;
        self.adopt_links().await?;
        self.catch_up_numbers().await
    }

    /// Links that were given before a source's tenant was known are that tenant's; over those that it has, since a person
    /// gave them, or none was there.
    async fn adopt_links(&self) -> Result<(), StoreError> {
        sqlx::query!(
            r#"
            -- adopt_links
            with adopted as (
                delete from customer_links link
                using sources, targets
                where link.base_url = ''
                  and sources.name = link.source
                  and targets.name = sources.target
                  and targets.base_url <> ''
                returning
                    link.source, link.shop_customer_id, link.flexportal_customer_id, link.origin, link.last_synced_at,
                    link.last_occurred_at, link.acknowledged, targets.base_url, targets.tenant_id
            )
            insert into customer_links as known (
                source, shop_customer_id, flexportal_customer_id, origin, last_synced_at, last_occurred_at, acknowledged,
                base_url, tenant_id
            )
            select *
            from adopted
            order by source, shop_customer_id        -- links in one order, as an import takes them
            on conflict (source, shop_customer_id, base_url, tenant_id) do update
            set flexportal_customer_id = excluded.flexportal_customer_id,
                origin = excluded.origin,
                acknowledged = (             -- what was said is said; the values are another customer's
                    select coalesce(jsonb_object_agg(field, before.known - 'hash' - 'acked'), '{}')
                    from jsonb_each(known.acknowledged) as before (field, known)
                ),
                last_synced_at = null,
                last_occurred_at = null
            where known.flexportal_customer_id is distinct from excluded.flexportal_customer_id
            "#,
        )
        .persistent(false)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The tenant of a target, as the process that started last has it.
    pub(super) async fn registered_tenant(&self, target: &TargetName) -> Result<Tenant, StoreError> {
        let tenant = sqlx::query_as!(
            Tenant,
            "-- registered_tenant\n select base_url, tenant_id from targets where name = $1",
            target.as_str(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(tenant.unwrap_or_default())
    }

    /// The sources that were ever configured.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn source_names(&self) -> Result<Vec<SourceName>, StoreError> {
        let names = sqlx::query_scalar!(r#"select name as "name: SourceName" from sources order by name"#)
            .fetch_all(&self.pool)
            .await?;
        Ok(names)
    }

    /// Asks for leave to make up to `wanted` requests to a target now.
    ///
    /// Leave that is not used is given back by [`Outbox::give_back`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn take_budget(
        &self,
        target: &TargetName,
        budget: Option<Budget>,
        wanted: u32,
    ) -> Result<Grant, StoreError> {
        let mut connection = self.warm.connection().await?;
        let row = sqlx::query!(
            r#"
            with held as (
                select
                    name,
                    moment.now,
                    held_until,
                    clock_steps_seconds,
                    coalesce(held_until > moment.now, false) as is_held,
                    coalesce(held_until <= moment.now and hold_reason in ('refused', 'failing'), false) as is_probe,
                    greatest(budget_used_until, moment.now) as used_until,
                    array(select place from unnest(free_places) as place where place >= moment.now order by place) as free
                from targets, (select coalesce($2::timestamptz, clock_timestamp()) as now) moment
                where name = $1
                for update of targets
            ),
            wanted as (
                select *, case when is_held then 0 when is_probe then 1 else $3::integer end as requests
                from held
            ),
            found as (
                select
                    *,
                    free[:requests] as from_free,
                    case
                        when $4::float8 = 0 then 0           -- no limit, no places
                        else least(
                            greatest(0, requests - cardinality(free)),
                            greatest(0, floor((extract(epoch from now - used_until)::float8 + $5::float8) / $4::float8 + 1 + 1e-6)::integer)
                        )
                    end as from_line
                from wanted
            ),
            granted as (
                select
                    *,
                    from_free || array(
                        select used_until + make_interval(secs => n * $4::float8)
                        from generate_series(0, from_line - 1) as n
                    ) as places
                from found
            ),
            taken as (
                update targets
                set budget_used_until = granted.used_until + make_interval(secs => granted.from_line * $4::float8),
                    free_places = granted.free[cardinality(granted.from_free) + 1:],
                    held_until = case
                        -- one probe at a time: the next, if this one does not end the pause, comes in turn
                        when granted.is_probe then granted.now + make_interval(secs => $6)
                        else null                            -- a rate limit's hold that is over
                    end,
                    hold_reason = case when granted.is_probe then targets.hold_reason end
                from granted
                where targets.name = granted.name
                  and (cardinality(granted.places) > 0 or ($4::float8 = 0 and granted.requests > 0 and granted.held_until is not null))
            )
            select
                case when $4::float8 = 0 then requests else cardinality(places) end as "requests!",
                places as "places!",
                is_probe as "is_probe!",
                is_held as "is_held!",
                now - make_interval(secs => clock_steps_seconds) as "clock!: PgInstant",
                clock_steps_seconds as "clock_steps!",
                case
                    when is_held then extract(epoch from held_until - now)::float8
                    when $4::float8 > 0 and cardinality(places) = 0 then extract(epoch from used_until - now)::float8 - $5::float8
                end as wait
            from granted
            "#,
            target.as_str(),
            self.clock.for_postgres() as _,
            i32::try_from(wanted).unwrap_or(i32::MAX),
            budget.map_or(0.0, |budget| seconds(budget.spacing)),
            budget.map_or(0.0, |budget| seconds(budget.early)),
            seconds(PROBE_INTERVAL),
        )
        .fetch_one(&mut *connection)
        .await?;
        connection.keep();
        let is_probe = row.is_probe;
        let requests = usize::try_from(row.requests).unwrap_or(0);
        let places = row.places.into_iter().map(Some).chain(std::iter::repeat(None));
        Ok(Grant {
            leaves: places.take(requests).map(|place| Leave { is_probe, place }).collect(),
            is_held: row.is_held,
            wait: row.wait.map(|wait| Duration::try_from_secs_f64(wait).unwrap_or_default()),
            clock: row.clock,
            clock_steps: row.clock_steps,
        })
    }

    /// Makes up for a step forward of Postgres' clock, which `grant` was found to have seen: as many places as came too
    /// early are taken, and the target is held for as long as the step was, a minute at most. Once, whoever notices it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn make_up_for_step(
        &self,
        target: &TargetName,
        budget: Budget,
        grant: &Grant,
        step: Duration,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            r#"
            -- make_up_for_step
            update targets
            set budget_used_until = greatest(
                    budget_used_until,
                    -- no more than all that may be taken at once
                    least(budget_used_until + make_interval(secs => $3), moment.now + make_interval(secs => $4))
                ),
                held_until = greatest(held_until, moment.now + make_interval(secs => $5)),
                step_held_until = greatest(step_held_until, moment.now + make_interval(secs => $5)),
                -- what ends by a probe still does
                hold_reason = case when hold_reason in ('refused', 'failing') then hold_reason else 'clock_step' end,
                clock_steps_seconds = clock_steps_seconds + $3
            from (select coalesce($6::timestamptz, clock_timestamp()) as now) moment
            where name = $1
              and clock_steps_seconds = $2       -- else another process has noticed it, too
            "#,
            target.as_str(),
            grant.clock_steps,
            seconds(step),
            seconds(budget.most_ahead()),
            seconds(hold_after(step)),
            self.clock.for_postgres() as _,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Gives back leave that was not used.
    ///
    /// Only places that lie ahead are worth anything: one whose time has passed must not be used any more.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn give_back(&self, target: &TargetName, leaves: &[Leave]) -> Result<(), StoreError> {
        let places: Vec<_> = leaves.iter().filter_map(|leave| leave.place).collect();
        let is_probe = leaves.iter().any(|leave| leave.is_probe);
        if places.is_empty() && !is_probe {
            return Ok(());
        }
        let mut connection = self.warm.connection().await?;
        sqlx::query!(
            r#"
            update targets
            set free_places = array(
                    select place
                    from unnest(free_places || $2::timestamptz[]) as place
                    where place >= moment.now
                    order by place
                    limit $5
                ),
                -- a probe that asked nothing leaves the question open: the next may come at once
                held_until = case
                    when $3 and hold_reason in ('refused', 'failing') then greatest(moment.now, step_held_until)
                    else held_until
                end
            from (select coalesce($4::timestamptz, clock_timestamp()) as now) moment
            where name = $1
            "#,
            target.as_str(),
            &places,
            is_probe,
            self.clock.for_postgres() as _,
            MAX_FREE_PLACES,
        )
        .execute(&mut *connection)
        .await?;
        connection.keep();
        Ok(())
    }

    /// Why a target is held, if it is; a pause whose probe is still to come counts.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn hold_of(&self, target: &TargetName) -> Result<Option<HoldReason>, StoreError> {
        let word = sqlx::query_scalar!(
            r#"
            select hold_reason
            from targets
            where name = $1
              and (held_until > coalesce($2::timestamptz, clock_timestamp()) or hold_reason in ('refused', 'failing'))
            "#,
            target.as_str(),
            self.clock.for_postgres() as _,
        )
        .fetch_optional(&self.pool)
        .await?
        .flatten();
        Ok(word.as_deref().and_then(HoldReason::of_word))
    }

    /// Holds a target: no request before the time is over.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn hold(&self, target: &TargetName, reason: HoldReason, wait: Duration) -> Result<(), StoreError> {
        sqlx::query!(
            r#"
            update targets
            set held_until = greatest(held_until, coalesce($4::timestamptz, clock_timestamp()) + make_interval(secs => $3)),
                -- refused credentials outweigh the rest: that pause ends by a probe that is let in
                hold_reason = case when hold_reason = 'refused' then hold_reason else $2 end
            where name = $1
            "#,
            target.as_str(),
            reason.as_str(),
            seconds(wait),
            self.clock.for_postgres() as _,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Ends a pause that a probe was to end: it got through.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn resume(&self, target: &TargetName) -> Result<(), StoreError> {
        sqlx::query!(
            r#"
            -- resume
            update targets
            set held_until = case when step_held_until > moment.now then step_held_until end,
                hold_reason = case when step_held_until > moment.now then 'clock_step' end
            from (select coalesce($2::timestamptz, clock_timestamp()) as now) moment
            where name = $1
              and hold_reason in ('refused', 'failing')
            "#,
            target.as_str(),
            self.clock.for_postgres() as _,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_comes_at_once_and_the_rest_evenly() {
        let budget = Budget::per_minute(100).expect("limited");
        assert_eq!(budget.early, budget.spacing * 9);
        let now = DateTime::UNIX_EPOCH;
        let available = [-5_i32, 0, 1, 9, 10].map(|places| {
            let used = budget.spacing * places.unsigned_abs();
            budget.available(now, if places < 0 { now - used } else { now + used })
        });
        assert_eq!(available, [10, 10, 9, 1, 0]);
        assert_eq!(Budget::per_minute(0), None);
    }

    #[test]
    fn no_minute_and_its_slack_hold_more_than_the_limit_and_nine_tenths_of_it_are_usable() {
        for limit in [1, 2, 5, 9, 10, 11, 99, 100, 101, 600, 6_000, 100_000] {
            let budget = Budget::per_minute(limit).expect("limited");
            let burst = (limit / 10).max(1);
            // From the burst on; what is sent later has fewer places before it.
            let place = |n: u32| (budget.spacing * n).saturating_sub(budget.early);
            let beyond = place(limit);
            assert!(beyond + Duration::from_millis(1) > Duration::from_mins(1) + SLACK, "{limit}: {beyond:?}");
            assert_eq!(place(burst - 1), Duration::ZERO, "{limit}");
            let ten_minutes = f64::from(burst) + 600.0 / budget.spacing.as_secs_f64();
            assert!(ten_minutes >= 0.9 * 10.0 * f64::from(limit), "{limit}: {ten_minutes}");
        }
    }
}
