//! What people do to events: set them back, close them. Each leaves its trace in `interventions`.

use serde::{Deserialize, Serialize};
use sqlx::types::Uuid;
use utoipa::ToSchema;

use super::{Outbox, StoreError};
use crate::domain::EventId;

/// From where a person, or a shop, intervenes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoneBy {
    /// The command line.
    Terminal,
    /// The admin API.
    Api,
    /// The console.
    Console,
    /// A shop's privacy webhook.
    Shop,
}

impl DoneBy {
    /// The word as stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Terminal => "terminal",
            Self::Api => "api",
            Self::Console => "console",
            Self::Shop => "shop",
        }
    }
}

/// What came of an intervention on one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Intervention {
    /// The event.
    pub event_id: EventId,
    /// What came of it, in a few words.
    pub outcome: String,
    /// Whether it changed anything; in a dry run, whether it would.
    pub is_done: bool,
}

impl Intervention {
    fn of(event_id: EventId, outcome: String) -> Self {
        // As `retry_sync` and `discard_sync` word it.
        let is_done = outcome != NO_SUCH_EVENT && !outcome.starts_with("nothing to do");
        Self { event_id, outcome, is_done }
    }

    /// Whether there is no such event.
    #[must_use]
    pub fn is_of_unknown_event(&self) -> bool {
        self.outcome == NO_SUCH_EVENT
    }
}

/// What people do to events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy<'a> {
    /// Failed, unmatched and discarded events are set back, and tried again.
    Retry,
    /// Failed and unmatched events, and privacy requests that were answered, are closed for good.
    Discard {
        /// Why.
        reason: &'a str,
    },
}

impl Remedy<'_> {
    /// What it makes of an event, such as "closed".
    #[must_use]
    pub fn done(self) -> &'static str {
        match self {
            Self::Retry => "tried again",
            Self::Discard { .. } => "closed",
        }
    }
}

/// The outcome of an event that never was, or is gone.
const NO_SUCH_EVENT: &str = "there is no such event";

impl Outbox {
    /// Applies a remedy to events, and says what came of each, once.
    ///
    /// # Errors
    /// [`StoreError`]; then none was changed.
    pub async fn apply(
        &self,
        remedy: Remedy<'_>,
        events: &[EventId],
        by: DoneBy,
    ) -> Result<Vec<Intervention>, StoreError> {
        let ids: Vec<Uuid> = events.iter().map(|event| event.0).collect();
        let reason = match remedy {
            Remedy::Retry => None,
            Remedy::Discard { reason } => Some(reason),
        };
        let mut transaction = self.pool.begin().await?;
        done_by(&mut transaction, by).await?;
        let outcomes = sqlx::query!(
            r#"
            select
                asked as "id!: EventId",
                case
                    when id is null then $3::text
                    when $2::text is null then retry_sync(id)
                    else discard_sync(id, $2)
                end as "outcome!"
            from (
                select distinct asked, d.id, d.source, d.shop_customer_id
                from unnest($1::uuid[]) as asked
                left join deliveries d on d.id = asked
                order by d.source, d.shop_customer_id, d.id        -- rows are locked in one order, the queue's first
            ) as known
            "#,
            &ids,
            reason,
            NO_SUCH_EVENT,
        )
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(outcomes.into_iter().map(|row| Intervention::of(row.id, row.outcome)).collect())
    }

    /// What [`Outbox::apply`] would come to now; changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rehearse(&self, remedy: Remedy<'_>, events: &[EventId]) -> Result<Vec<Intervention>, StoreError> {
        let ids: Vec<Uuid> = events.iter().map(|event| event.0).collect();
        let outcomes = sqlx::query!(
            r#"
            select
                asked as "id!: EventId",
                case
                    when d.id is null then $3::text
                    when $2::boolean then why_not_retry(d.id)
                    else why_not_discard(d.id)
                end as why_not
            from (select distinct unnest($1::uuid[]) as asked) as named
            left join deliveries d on d.id = asked
            order by d.source, d.shop_customer_id, d.id
            "#,
            &ids,
            remedy == Remedy::Retry,
            NO_SUCH_EVENT,
        )
        .fetch_all(&self.pool)
        .await?;
        let would = || format!("would be {}", remedy.done());
        Ok(outcomes.into_iter().map(|row| Intervention::of(row.id, row.why_not.unwrap_or_else(would))).collect())
    }

    /// How long it takes to try these events again at the quota, behind all that is due, in seconds; `None` without a
    /// quota.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn takes_seconds(&self, events: &[EventId]) -> Result<Option<f64>, StoreError> {
        let ids: Vec<Uuid> = events.iter().map(|event| event.0).collect();
        let rows = sqlx::query!(
            r#"
            select
                again.customers + (
                    select count(*)
                    from waiting_customers w
                    where w.target = again.target
                      and w.due_at <= coalesce($2::timestamptz, clock_timestamp())
                ) as "customers!",
                t.rate_limit_per_minute as "limit!"
            from (
                select coalesce(s.target, 'default') as target, count(distinct (d.source, d.shop_customer_id)) as customers
                from deliveries d
                left join sources s on s.name = d.source
                where d.id = any($1)
                group by 1
            ) as again
            join targets t on t.name = again.target and t.rate_limit_per_minute > 0
            "#,
            &ids,
            self.clock.for_postgres() as _,
        )
        .fetch_all(&self.pool)
        .await?;
        let takes = rows.iter().filter_map(|row| {
            let limit = u32::try_from(row.limit).ok().filter(|limit| *limit > 0)?;
            Some(super::inspect::takes_seconds(row.customers, limit))
        });
        Ok(takes.reduce(f64::max))
    }
}

/// Notes for the rest of a transaction who does what follows.
pub(super) async fn done_by(connection: &mut sqlx::PgConnection, by: DoneBy) -> Result<(), StoreError> {
    sqlx::query!("select set_config('flexportal_sync.done_by', $1, true)", by.as_str()).fetch_one(connection).await?;
    Ok(())
}
