//! The last hour, minute by minute.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::EventId;
use crate::outbox::{Outbox, StoreError};

/// What happened, minute by minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Timeline {
    /// One entry per minute, oldest first, the last one still running.
    pub minutes: Vec<Minute>,
}

/// One minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Minute {
    /// Its beginning.
    pub at: DateTime<Utc>,
    /// Deliveries stored.
    pub received: i64,
    /// Events settled for good.
    pub settled: i64,
    /// Of these, failed.
    pub failed: i64,
    /// Requests to FlexPortal.
    pub requests: i64,
}

impl Outbox {
    /// The last minutes; at most a day of them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn timeline(&self, minutes: u32) -> Result<Timeline, StoreError> {
        let now = self.now().await?;
        let span = Duration::from_mins(u64::from(minutes.clamp(1, 24 * 60) - 1));
        let minutes = sqlx::query_as!(
            Minute,
            r#"
            with frame as (
                select generate_series(date_trunc('minute', $1::timestamptz), date_trunc('minute', $2::timestamptz), '1 minute') as at
            ),
            received as (
                select date_trunc('minute', received_at) as at, count(*) as number
                from deliveries
                where id >= $3
                group by 1
            ),
            settled as (
                select
                    date_trunc('minute', finished_at) as at,
                    count(*) as number,
                    count(*) filter (where status = 'failed') as failed
                from event_states
                where finished_at >= date_trunc('minute', $1::timestamptz)
                group by 1
            ),
            requests as (
                select date_trunc('minute', started_at) as at, count(*) as number
                from sync_attempts
                where started_at >= date_trunc('minute', $1::timestamptz)
                group by 1
            )
            select
                frame.at as "at!",
                coalesce(received.number, 0) as "received!",
                coalesce(settled.number, 0) as "settled!",
                coalesce(settled.failed, 0) as "failed!",
                coalesce(requests.number, 0) as "requests!"
            from frame
            left join received using (at)
            left join settled using (at)
            left join requests using (at)
            order by frame.at
            "#,
            (now - span) as _,
            now as _,
            EventId::first_at((now - span - Duration::from_mins(1)).utc()).0,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(Timeline { minutes })
    }
}
