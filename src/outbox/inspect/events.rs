//! Events: what became of each, and what was asked of FlexPortal for it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::types::{Json, Uuid};
use utoipa::ToSchema;

use super::failures::in_words;
use super::history::InterventionNote;
use super::page::{Page, after};
use crate::domain::{EventId, EventStatus, ShopCustomerId, SourceName};
use crate::outbox::{InspectError, Outbox, StoreError};

/// Which events; what is `None` does not narrow them down.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Of this shop.
    pub source: Option<SourceName>,
    /// In this status.
    pub status: Option<EventStatus>,
    /// Of this customer.
    pub customer: Option<ShopCustomerId>,
    /// With this e-mail, letter case apart.
    pub email: Option<String>,
    /// With this error code.
    pub code: Option<String>,
    /// Arrived before.
    pub received_before: Option<DateTime<Utc>>,
    /// Arrived then or later.
    pub received_since: Option<DateTime<Utc>>,
}

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

/// A row of `outbox_events`, without the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventSummary {
    /// The event.
    pub event_id: EventId,
    /// The shop.
    pub source: SourceName,
    /// Unique with the source.
    pub delivery_id: String,
    /// The shop's word for what happened.
    pub topic: String,
    /// The shop's customer.
    pub shop_customer_id: Option<String>,
    /// As the delivery gave it.
    pub email: Option<String>,
    /// Where it stands.
    pub status: EventStatus,
    /// Attempts that counted.
    pub attempts: i32,
    /// When the shop says it happened.
    pub occurred_at: DateTime<Utc>,
    /// When it arrived.
    pub received_at: DateTime<Utc>,
    /// When it is due; null when nothing waits.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When it was settled for good.
    pub finished_at: Option<DateTime<Utc>>,
    /// FlexPortal's last answer.
    pub http_status: Option<i32>,
    /// FlexPortal's error code, or our own word.
    pub error_code: Option<String>,
    /// The last error.
    pub error: Option<String>,
    /// What could not be stored or sent as it was.
    pub warnings: Vec<String>,
    /// The FlexPortal customer that was found.
    pub flexportal_customer_id: Option<String>,
    /// The newer event that spoke for all of this one.
    pub superseded_by: Option<EventId>,
    /// The shop that spoke, by the name it gives itself.
    pub shop: Option<String>,
}

/// An event with all that is known of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventDetail {
    /// The row.
    #[serde(flatten)]
    pub summary: EventSummary,
    /// The body as received.
    #[schema(value_type = Object)]
    pub payload: Json<Box<RawValue>>,
    /// The event that its requests stand under: the newest that went out with it.
    pub requests_under: EventId,
    /// What was asked of FlexPortal, in order.
    pub requests: Vec<RequestMade>,
    /// What people did to it.
    pub interventions: Vec<InterventionNote>,
    /// The next step, if it failed.
    pub what_to_do: Option<String>,
}

/// One request to FlexPortal: a row of `sync_attempts`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestMade {
    /// The event it stands under.
    pub event_id: EventId,
    /// Number of the attempt, from 1.
    pub attempt: i32,
    /// `update_customer` or `find_by_email`.
    pub operation: String,
    /// When it was sent.
    pub started_at: DateTime<Utc>,
    /// Until the answer was read or given up, in milliseconds.
    pub duration_ms: i32,
    /// The body sent; null for a lookup.
    #[schema(value_type = Option<Object>)]
    pub request_body: Option<Json<Box<RawValue>>>,
    /// Status of the answer; null if there was none.
    pub http_status: Option<i32>,
    /// FlexPortal's error code, or our own word.
    pub error_code: Option<String>,
    /// The error.
    pub error: Option<String>,
    /// The answer's body, cut at 4 KiB.
    pub response_body: Option<String>,
}

/// Requests shown of one event, or one customer.
const MAX_REQUESTS: i64 = 500;

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

    /// Events, newest first.
    ///
    /// # Errors
    /// [`InspectError`].
    pub async fn events(
        &self,
        filter: &EventFilter,
        cursor: Option<&str>,
        limit: i64,
    ) -> Result<Page<EventSummary>, InspectError> {
        let after: Option<EventId> = after(cursor)?;
        // Ids sort by arrival: times and the cursor narrow the same range.
        let ends: Vec<_> = after.into_iter().chain(filter.received_before.map(EventId::first_at)).collect();
        let before = ends.into_iter().min().map(|id| id.0);
        let since = filter.received_since.map(|at| EventId::first_at(at).0);
        let ids = self.event_ids(filter, since, before, limit + 1).await?;
        let mut events = self.summaries(&ids).await?;
        events.sort_by_key(|event| std::cmp::Reverse(event.event_id));
        Ok(Page::of(events, limit, |event| event.event_id))
    }

    /// The newest ids that a filter matches, by way of the index that leads to the fewest rows.
    #[expect(clippy::too_many_lines, reason = "four statements that differ in where they begin")]
    async fn event_ids(
        &self,
        filter: &EventFilter,
        since: Option<Uuid>,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Uuid>, StoreError> {
        let source = filter.source.as_ref().map(SourceName::as_str);
        let customer = filter.customer.as_ref().map(ShopCustomerId::as_str);
        let email = filter.email.as_deref().map(str::trim);
        let status = filter.status.map(EventStatus::as_str);
        let code = filter.code.as_deref();
        if customer.is_some() || email.is_some() {
            return Ok(sqlx::query_scalar!(
                r#"
                select e.id as "id!"
                from outbox_events e
                where ($1::text is null or e.source = $1)
                  and ($2::text is null or (e.shop_customer_id = $2 and e.source in (select name from sources)))
                  and ($3::text is null or lower(e.email) = lower($3))
                  and ($4::text is null or e.status = $4)
                  and ($5::text is null or e.last_error_code = $5)
                  and ($6::uuid is null or e.id >= $6)
                  and ($7::uuid is null or e.id < $7)
                order by e.id desc
                limit $8
                "#,
                source,
                customer,
                email,
                status,
                code,
                since,
                before,
                limit,
            )
            .fetch_all(&self.pool)
            .await?);
        }
        match filter.status {
            Some(EventStatus::Failed | EventStatus::Unmatched | EventStatus::Discarded | EventStatus::Held) => {
                Ok(sqlx::query_scalar!(
                    r#"
                select s.event_id
                from event_states s
                join deliveries d on d.id = s.event_id
                where s.status in ('failed', 'unmatched', 'discarded', 'held')   -- as the index has it
                  and s.status = $1
                  and ($2::text is null or d.source = $2)
                  and ($3::text is null or s.last_error_code = $3)
                  and ($4::uuid is null or s.event_id >= $4)
                  and ($5::uuid is null or s.event_id < $5)
                order by s.event_id desc
                limit $6
                "#,
                    status,
                    source,
                    code,
                    since,
                    before,
                    limit,
                )
                .fetch_all(&self.pool)
                .await?)
            }
            Some(EventStatus::Pending | EventStatus::InFlight) => Ok(sqlx::query_scalar!(
                r#"
                select e.id as "id!"
                from (
                    select event_id from waiting_events
                    union all
                    select id from deliveries where concerns = 'privacy'
                ) as open
                join outbox_events e on e.id = open.event_id
                where e.status = $1
                  and ($2::text is null or e.source = $2)
                  and ($3::text is null or e.last_error_code = $3)
                  and ($4::uuid is null or e.id >= $4)
                  and ($5::uuid is null or e.id < $5)
                order by e.id desc
                limit $6
                "#,
                status,
                source,
                code,
                since,
                before,
                limit,
            )
            .fetch_all(&self.pool)
            .await?),
            None | Some(EventStatus::Synced | EventStatus::Superseded | EventStatus::Unchanged) => {
                Ok(sqlx::query_scalar!(
                    r#"
                    select d.id
                    from deliveries d
                    left join event_states s on s.event_id = d.id
                    where ($1::text is null or s.status = $1)
                      and ($2::text is null or d.source = $2)
                      and ($3::text is null or s.last_error_code = $3)
                      and ($4::uuid is null or d.id >= $4)
                      and ($5::uuid is null or d.id < $5)
                    order by d.id desc
                    limit $6
                    "#,
                    status,
                    source,
                    code,
                    since,
                    before,
                    limit,
                )
                .fetch_all(&self.pool)
                .await?)
            }
        }
    }

    async fn summaries(&self, ids: &[Uuid]) -> Result<Vec<EventSummary>, StoreError> {
        let events = sqlx::query_as!(
            EventSummary,
            r#"
            select
                id as "event_id!: EventId",
                source as "source!: SourceName",
                delivery_id as "delivery_id!",
                topic as "topic!",
                shop_customer_id,
                email,
                status as "status!: EventStatus",
                attempts as "attempts!",
                occurred_at as "occurred_at!",
                received_at as "received_at!",
                next_attempt_at,
                finished_at,
                last_http_status as http_status,
                last_error_code as error_code,
                last_error as error,
                warnings as "warnings!",
                flexportal_customer_id,
                superseded_by as "superseded_by: EventId",
                shop
            from outbox_events
            where id = any($1)
            "#,
            ids,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(events)
    }

    /// One event with all that is known of it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn event(&self, id: EventId) -> Result<Option<EventDetail>, StoreError> {
        let Some(summary) = self.summaries(&[id.0]).await?.pop() else { return Ok(None) };
        let row = sqlx::query!(
            r#"
            select
                d.payload as "payload: Json<Box<RawValue>>",
                -- what has no requests of its own went out with a newer event, if at all
                coalesce(s.attempted_as, s.superseded_by, d.id) as "goes_with!: EventId",
                (select f.what_to_do from failed_syncs f where f.event_id = d.id) as what_to_do
            from deliveries d
            left join event_states s on s.event_id = d.id
            where d.id = $1
            "#,
            id.0,
        )
        .fetch_optional(&self.pool)
        .await?;
        // Removed between the two statements.
        let Some(row) = row else { return Ok(None) };
        let (mut under, mut requests) = (id, self.requests(&[id.0]).await?);
        if requests.is_empty() && row.goes_with != id {
            (under, requests) = (row.goes_with, self.requests(&[row.goes_with.0]).await?);
        }
        let interventions = self.interventions_on(id).await?;
        Ok(Some(EventDetail {
            summary,
            payload: row.payload,
            requests_under: under,
            requests,
            interventions,
            what_to_do: row.what_to_do.as_deref().map(in_words),
        }))
    }

    /// What was asked of FlexPortal under these events, in order.
    pub(super) async fn requests(&self, events: &[Uuid]) -> Result<Vec<RequestMade>, StoreError> {
        let mut requests = sqlx::query_as!(
            RequestMade,
            r#"
            select
                event_id as "event_id: EventId",
                attempt,
                operation,
                started_at,
                duration_ms,
                request_body as "request_body: Json<Box<RawValue>>",
                http_status,
                error_code,
                error,
                response_body
            from sync_attempts
            where event_id = any($1)
            order by id desc                     -- if there are more, the newest
            limit $2
            "#,
            events,
            MAX_REQUESTS,
        )
        .fetch_all(&self.pool)
        .await?;
        requests.reverse();
        Ok(requests)
    }
}
