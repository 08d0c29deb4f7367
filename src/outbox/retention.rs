//! Removing what has long been finished, in small batches that take nothing the live work needs.

use super::{Outbox, StoreError};
use crate::domain::{EventId, PgInstant};

/// Events removed in one transaction.
const BATCH: i64 = 500;

/// One batch of removals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// How many events were removed.
    pub events: usize,
    /// Where the next batch begins; `None` if nothing is left to remove.
    pub next: Option<EventId>,
}

impl Outbox {
    /// Removes events that were finished before, with their requests, from `begin` on; failed ones stay, and so do those
    /// under which a failed one's requests stand.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was removed.
    pub async fn remove_finished(&self, before: PgInstant, begin: Option<EventId>) -> Result<Removed, StoreError> {
        let removed = sqlx::query_scalar!(
            r#"
            with old as materialized (
                select s.event_id
                from deliveries d
                join event_states s on s.event_id = d.id
                where d.id < $1                      -- what was finished before arrived before
                  and d.id >= $2
                  and s.finished_at < $3
                  and s.status <> 'failed'
                  and not exists (
                      select
                      from event_states failed
                      where failed.status = 'failed'
                        and failed.attempted_as = d.id
                  )
                order by d.id
                limit $4
                for update of s skip locked          -- another process may be at it
            ),
            requests as (
                delete from sync_attempts using old where sync_attempts.event_id = old.event_id
            ),
            repetitions as (
                delete from duplicates using old where duplicates.event_id = old.event_id
            ),
            bodies as (
                delete from deliveries using old where deliveries.id = old.event_id
            )
            delete from event_states using old where event_states.event_id = old.event_id
            returning event_states.event_id as "event_id: EventId"
            "#,
            EventId::first_at(before.utc()).0,
            begin.unwrap_or(EventId(uuid::Uuid::nil())).0,
            before as _,
            BATCH,
        )
        .fetch_all(&self.pool)
        .await?;
        let is_full = i64::try_from(removed.len()).unwrap_or(0) == BATCH;
        Ok(Removed { events: removed.len(), next: removed.into_iter().max().filter(|_| is_full) })
    }
}
