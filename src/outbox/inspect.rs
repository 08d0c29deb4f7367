//! Looking things up for people; changes nothing.

use sqlx::types::Uuid;

use super::{Outbox, StoreError};
use crate::domain::{EventId, EventStatus, SourceName};

/// Where an event stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventOutcome {
    /// The event.
    pub event: EventId,
    /// Its status.
    pub status: EventStatus,
    /// Attempts that counted.
    pub attempts: i32,
}

/// A row of `failed_syncs`, as far as a terminal is wide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedSync {
    /// The event.
    pub event: EventId,
    /// The shop.
    pub source: SourceName,
    /// The shop's customer.
    pub shop_customer_id: Option<String>,
    /// FlexPortal's answer.
    pub http_status: Option<i32>,
    /// FlexPortal's error code.
    pub error_code: Option<String>,
    /// The error.
    pub error: Option<String>,
    /// The next step.
    pub what_to_do: String,
}

impl Outbox {
    /// Where these events stand, in no order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn outcomes(&self, events: &[EventId]) -> Result<Vec<EventOutcome>, StoreError> {
        let ids: Vec<Uuid> = events.iter().map(|event| event.0).collect();
        let outcomes = sqlx::query_as!(
            EventOutcome,
            r#"
            select id as "event!: EventId", status as "status!: EventStatus", attempts as "attempts!"
            from outbox_events
            where id = any($1)
            "#,
            &ids,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(outcomes)
    }

    /// The newest failed syncs.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn failed_syncs(&self, limit: i64) -> Result<Vec<FailedSync>, StoreError> {
        let failed = sqlx::query_as!(
            FailedSync,
            r#"
            select
                event_id as "event!: EventId",
                source as "source!: SourceName",
                shop_customer_id,
                http_status,
                error_code,
                error,
                what_to_do as "what_to_do!"
            from failed_syncs
            order by failed_at desc
            limit $1
            "#,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(failed)
    }
}
