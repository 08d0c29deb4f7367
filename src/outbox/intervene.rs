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
    /// Whether it changed anything.
    pub is_done: bool,
}

impl Intervention {
    fn of(event_id: EventId, outcome: String) -> Self {
        // As `retry_sync` and `discard_sync` word it.
        Self { event_id, is_done: !outcome.starts_with("nothing to do"), outcome }
    }
}

impl Outbox {
    /// Sets failed, unmatched or discarded events back, so that they are tried again; unknown ones are left out of the
    /// answer.
    ///
    /// # Errors
    /// [`StoreError`]; then none was set back.
    pub async fn retry(&self, events: &[EventId], by: DoneBy) -> Result<Vec<Intervention>, StoreError> {
        let ids: Vec<Uuid> = events.iter().map(|event| event.0).collect();
        let mut transaction = self.pool.begin().await?;
        done_by(&mut transaction, by).await?;
        let outcomes = sqlx::query!(
            r#"
            select id as "id: EventId", retry_sync(id) as "outcome!"
            from (
                select id
                from deliveries
                where id = any($1)
                order by source, shop_customer_id, id        -- the queue's rows are locked in one order
            ) as known
            "#,
            &ids,
        )
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(outcomes.into_iter().map(|row| Intervention::of(row.id, row.outcome)).collect())
    }

    /// Closes failed or unmatched events, or privacy requests that were answered, for good; unknown ones are left out of
    /// the answer.
    ///
    /// # Errors
    /// [`StoreError`]; then none was closed.
    pub async fn discard(&self, events: &[EventId], reason: &str, by: DoneBy) -> Result<Vec<Intervention>, StoreError> {
        let ids: Vec<Uuid> = events.iter().map(|event| event.0).collect();
        let mut transaction = self.pool.begin().await?;
        done_by(&mut transaction, by).await?;
        let outcomes = sqlx::query!(
            r#"
            select id as "id: EventId", discard_sync(id, $2) as "outcome!"
            from (
                select id
                from deliveries
                where id = any($1)
                order by id
            ) as known
            "#,
            &ids,
            reason,
        )
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(outcomes.into_iter().map(|row| Intervention::of(row.id, row.outcome)).collect())
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
            self.clock.for_postgres(),
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
