//! What failed: one by one, and counted by cause.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::types::Json;
use utoipa::ToSchema;

use super::page::{Page, after};
use crate::domain::{EventId, ShopCustomerId, SourceName};
use crate::outbox::{InspectError, Outbox, StoreError};

/// Which failures; what is `None` does not narrow them down.
#[derive(Debug, Clone, Default)]
pub struct FailureFilter {
    /// Of this shop.
    pub source: Option<SourceName>,
    /// With this error code.
    pub code: Option<String>,
    /// With this cause, as counted in the groups.
    pub cause: Option<String>,
    /// Of this customer.
    pub customer: Option<ShopCustomerId>,
    /// Failed before.
    pub failed_before: Option<DateTime<Utc>>,
    /// Failed then or later.
    pub failed_since: Option<DateTime<Utc>>,
}

impl FailureFilter {
    /// Whether it narrows nothing down.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { source, code, cause, customer, failed_before, failed_since } = self;
        source.is_none()
            && code.is_none()
            && cause.is_none()
            && customer.is_none()
            && failed_before.is_none()
            && failed_since.is_none()
    }
}

/// One failed event: a row of `failed_syncs`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The event.
    pub event_id: EventId,
    /// The shop.
    pub source: SourceName,
    /// The shop's word for what happened.
    pub topic: String,
    /// The shop's customer.
    pub shop_customer_id: Option<String>,
    /// As the delivery gave it.
    pub email: Option<String>,
    /// FlexPortal's customer, if it was found.
    pub flexportal_customer_id: Option<String>,
    /// When the shop says it happened.
    pub occurred_at: DateTime<Utc>,
    /// When it arrived.
    pub received_at: DateTime<Utc>,
    /// When it was given up.
    pub failed_at: DateTime<Utc>,
    /// Attempts that counted.
    pub attempts: i32,
    /// FlexPortal's last answer; null if there was none.
    pub http_status: Option<i32>,
    /// FlexPortal's error code, or our own word.
    pub error_code: Option<String>,
    /// The error, with the fields it names.
    pub error: Option<String>,
    /// The same in few words.
    pub cause: String,
    /// What could not be sent.
    pub warnings: Vec<String>,
    /// The last body sent.
    #[schema(value_type = Option<Object>)]
    pub request_body: Option<Json<Box<RawValue>>>,
    /// The last answer, cut at 4 KiB.
    pub response_body: Option<String>,
    /// The next step.
    pub what_to_do: String,
}

/// Failures with the same cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureGroup {
    /// What they have in common.
    pub cause: String,
    /// The shop.
    pub source: SourceName,
    /// FlexPortal's answer; null if there was none.
    pub http_status: Option<i32>,
    /// FlexPortal's error code, or our own word.
    pub error_code: Option<String>,
    /// How many events.
    pub events: i64,
    /// How many customers that is.
    pub customers: i64,
    /// Since when.
    pub first_failed_at: DateTime<Utc>,
    /// When last.
    pub last_failed_at: DateTime<Utc>,
    /// The newest of them.
    pub example_event_id: EventId,
}

/// The next step for whoever has no `psql` at hand: what the view has them call there, terminal and console do.
pub(super) fn in_words(what_to_do: &str) -> String {
    let step = |sql, words| what_to_do.split_once(sql).map(|(before, _)| format!("{before}{words}"));
    step("select retry_sync(", "try it again")
        .or_else(|| step("select discard_sync(", "discard it"))
        .unwrap_or_else(|| what_to_do.to_owned())
}

impl Outbox {
    /// Failed events, newest first.
    ///
    /// # Errors
    /// [`InspectError`].
    pub async fn failures(
        &self,
        filter: &FailureFilter,
        cursor: Option<&str>,
        limit: i64,
    ) -> Result<Page<Failure>, InspectError> {
        let failures = self.find_failures(filter, None, after(cursor)?, limit + 1).await?;
        Ok(Page::of(failures, limit, |failure| (failure.failed_at, failure.event_id)))
    }

    /// One failed event; `None` if it is not failed (any more).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn failure(&self, event: EventId) -> Result<Option<Failure>, StoreError> {
        Ok(self.find_failures(&FailureFilter::default(), Some(event), None, 1).await?.pop())
    }

    async fn find_failures(
        &self,
        filter: &FailureFilter,
        only: Option<EventId>,
        after: Option<(DateTime<Utc>, EventId)>,
        limit: i64,
    ) -> Result<Vec<Failure>, StoreError> {
        let (failed_at, last) = after.unzip();
        let mut failures = sqlx::query_as!(
            Failure,
            r#"
            select
                event_id as "event_id!: EventId",
                source as "source!: SourceName",
                topic as "topic!",
                shop_customer_id,
                email,
                flexportal_customer_id,
                occurred_at as "occurred_at!",
                received_at as "received_at!",
                failed_at as "failed_at!",
                attempts as "attempts!",
                http_status,
                error_code,
                error,
                cause as "cause!",
                warnings as "warnings!",
                request_body as "request_body: Json<Box<RawValue>>",
                response_body,
                what_to_do as "what_to_do!"
            from failed_syncs
            where ($1::text is null or source = $1)
              and ($2::text is null or error_code = $2)
              and ($3::text is null or cause = $3)
              and ($4::text is null or shop_customer_id = $4)
              and ($5::timestamptz is null or failed_at < $5)
              and ($6::timestamptz is null or failed_at >= $6)
              and ($7::timestamptz is null or failed_at <= $7)           -- the index finds the page
              and ($7::timestamptz is null or (failed_at, event_id) < ($7, $8::uuid))
              and ($10::uuid is null or event_id = $10)
            order by failed_at desc, event_id desc
            limit $9
            "#,
            filter.source.as_ref().map(SourceName::as_str),
            filter.code,
            filter.cause,
            filter.customer.as_ref().map(ShopCustomerId::as_str),
            filter.failed_before,
            filter.failed_since,
            failed_at,
            last.map(|event| event.0),
            limit,
            only.map(|event| event.0),
        )
        .fetch_all(&self.pool)
        .await?;
        for failure in &mut failures {
            failure.what_to_do = in_words(&failure.what_to_do);
        }
        Ok(failures)
    }

    /// Failures counted by cause, the most frequent first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn failure_groups(
        &self,
        source: Option<&SourceName>,
        limit: i64,
    ) -> Result<Vec<FailureGroup>, StoreError> {
        let groups = sqlx::query_as!(
            FailureGroup,
            r#"
            select
                cause as "cause!",
                source as "source!: SourceName",
                http_status,
                error_code,
                events as "events!",
                customers as "customers!",
                first_failed_at as "first_failed_at!",
                last_failed_at as "last_failed_at!",
                example_event_id as "example_event_id!: EventId"
            from failure_groups
            where ($1::text is null or source = $1)
            order by customers desc, events desc, cause
            limit $2
            "#,
            source.map(SourceName::as_str),
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(groups)
    }

    /// The failed events that a filter matches, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn failed_events(&self, filter: &FailureFilter, limit: i64) -> Result<Vec<EventId>, StoreError> {
        let events = sqlx::query_scalar!(
            r#"
            select event_id as "event_id: EventId"
            from event_states
            where status = 'failed'
              and ($1::text is null or source = $1)
              and ($2::text is null or last_error_code = $2)
              and ($3::text is null
                or coalesce(cause, last_error_code, 'HTTP ' || last_http_status, 'unknown') = $3)
              and ($4::text is null or shop_customer_id = $4)
              and ($5::timestamptz is null or finished_at < $5)
              and ($6::timestamptz is null or finished_at >= $6)
            order by event_id
            limit $7
            "#,
            filter.source.as_ref().map(SourceName::as_str),
            filter.code,
            filter.cause,
            filter.customer.as_ref().map(ShopCustomerId::as_str),
            filter.failed_before,
            filter.failed_since,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(events)
    }
}
