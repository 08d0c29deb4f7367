//! Writing what came of a claim: all of it in one transaction, and only while the lease holds.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{ClaimedCustomer, LinkChange, Outbox, StoreError, links, seconds};
use crate::domain::{EventId, EventStatus, FlexportalCustomerId};
use crate::flexportal::Operation;

/// Everything that came of one claim.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// What became of each event that got a word.
    pub results: Vec<EventResult>,
    /// Events given up that something newer has spoken for, and which event that was.
    pub overtaken: Vec<(EventId, EventId)>,
    /// The requests that were made.
    pub attempts: Vec<Attempt>,
    /// What is now known of the link.
    pub link: LinkChange,
    /// When the customer is looked at again.
    pub next: Next,
    /// For how long a request that timed out may still arrive: nobody claims the customer before.
    pub rest: Option<Duration>,
}

impl Settlement {
    /// Nothing came of it.
    #[must_use]
    pub fn nothing(next: Next) -> Self {
        Self { results: vec![], overtaken: vec![], attempts: vec![], link: LinkChange::Keep, next, rest: None }
    }
}

/// What became of one event.
#[derive(Debug, Clone)]
pub struct EventResult {
    /// The event.
    pub event: EventId,
    /// `Pending` for one that is tried again.
    pub status: EventStatus,
    /// Attempts that counted.
    pub attempts: u32,
    /// FlexPortal's last answer.
    pub http_status: Option<u16>,
    /// FlexPortal's error code, or our own word.
    pub error_code: Option<String>,
    /// The error, for people.
    pub error: Option<String>,
    /// The same in few words, for counting.
    pub cause: Option<String>,
    /// What could not be sent.
    pub warnings: Vec<String>,
    /// Who it was in FlexPortal.
    pub flexportal_id: Option<FlexportalCustomerId>,
    /// The newer event that spoke for all of it.
    pub superseded_by: Option<EventId>,
    /// The event under which its last request is recorded.
    pub attempted_as: Option<EventId>,
    /// Whether this is the last word.
    pub is_final: bool,
}

/// One request, as recorded.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The newest event that it was made for.
    pub event: EventId,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Which request.
    pub operation: Operation,
    /// When it was sent.
    pub started_at: DateTime<Utc>,
    /// Until the answer was read.
    pub duration: Duration,
    /// The body sent.
    pub request_body: Option<String>,
    /// Status of the answer.
    pub http_status: Option<u16>,
    /// FlexPortal's error code, or our own word.
    pub error_code: Option<String>,
    /// The error, for people.
    pub error: Option<String>,
    /// The answer, cut.
    pub response_body: Option<String>,
}

/// When the customer is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Not before something new arrives.
    Done,
    /// As before: it is given back, and keeps its place in the line.
    AsBefore,
    /// After this time, behind live changes; or when something new arrives, as one.
    RetryIn(Duration),
}

/// Whether the results counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Written; nothing waits for this customer any more.
    Done,
    /// Written; the customer is due again, for a retry or for what arrived meanwhile.
    StillWaiting,
    /// The lease had ended and another worker took over: its word counts, nothing was written.
    LeaseLost,
}

impl Outbox {
    /// Writes what came of a claim and gives the customer back.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was written and the lease runs out by itself.
    pub async fn settle(&self, claimed: &ClaimedCustomer, settlement: &Settlement) -> Result<Settled, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let released = self.release(&mut transaction, claimed, settlement).await?;
        if released == Settled::LeaseLost {
            return Ok(released);
        }
        // Rows are locked in the order of their ids, as those are that people close.
        let mut results: Vec<_> = settlement.results.iter().collect();
        results.sort_by_key(|result| result.event);
        write_results(&mut transaction, claimed, &results, self.clock.for_postgres()).await?;
        close_overtaken(&mut transaction, &settlement.overtaken, self.clock.for_postgres()).await?;
        write_attempts(&mut transaction, &settlement.attempts).await?;
        links::write(&mut transaction, claimed, &settlement.link).await?;
        if released == Settled::StillWaiting {
            move_up(&mut transaction, claimed.source.as_str(), claimed.customer.as_str()).await?;
        }
        transaction.commit().await?;
        Ok(released)
    }

    /// Gives a customer back: gone if all is done, due at once if something arrived since the claim.
    async fn release(
        &self,
        connection: &mut sqlx::PgConnection,
        claimed: &ClaimedCustomer,
        settlement: &Settlement,
    ) -> Result<Settled, StoreError> {
        if settlement.next == Next::Done && settlement.rest.is_none() && !claimed.has_more {
            let deleted = sqlx::query!(
                r#"
                delete from waiting_customers
                where source = $1
                  and shop_customer_id = $2
                  and lease_id = $3
                  and revision = $4              -- nothing arrived since
                "#,
                claimed.source.as_str(),
                claimed.customer.as_str(),
                claimed.lease_id(),
                claimed.revision,
            )
            .execute(&mut *connection)
            .await?;
            if deleted.rows_affected() == 1 {
                return Ok(Settled::Done);
            }
        }
        let delay = match settlement.next {
            Next::Done | Next::AsBefore => None,
            Next::RetryIn(delay) => Some(seconds(delay)),
        };
        let released = sqlx::query!(
            r#"
            update waiting_customers
            set lease_id = null,
                lease_expires_at = null,
                attempts = case when $8 then 0 else attempts - 1 end,       -- a takeover is one until its doubt is noted
                rests_until = moment.now + make_interval(secs => $7),
                due_at = case
                    when revision <> $4 then moment.now          -- something arrived since: at once, or after its rest
                    when coalesce($6, $7::float8) is null then least(due_at, moment.now)
                    else moment.now + make_interval(secs => greatest($6, $7, 0))
                end,
                priority = case
                    when revision = $4 and $6::float8 is not null then greatest(priority, 1::smallint)
                    else priority                -- what arrived since has set it
                end
            from (select coalesce($5::timestamptz, clock_timestamp()) as now) moment
            where source = $1
              and shop_customer_id = $2
              and lease_id = $3                  -- else another worker took over after our lease ended
            "#,
            claimed.source.as_str(),
            claimed.customer.as_str(),
            claimed.lease_id(),
            claimed.revision,
            self.clock.for_postgres(),
            delay,
            settlement.rest.map(seconds),
            settlement.link.says_what_is_known(),
        )
        .execute(connection)
        .await?;
        Ok(if released.rows_affected() == 1 { Settled::StillWaiting } else { Settled::LeaseLost })
    }
}

async fn write_results(
    connection: &mut sqlx::PgConnection,
    claimed: &ClaimedCustomer,
    results: &[&EventResult],
    now: Option<DateTime<Utc>>,
) -> Result<(), StoreError> {
    if results.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = results.iter().map(|result| result.event.0).collect();
    let statuses: Vec<_> = results.iter().map(|result| result.status.as_str().to_owned()).collect();
    let attempts: Vec<_> = results.iter().map(|result| i32::try_from(result.attempts).unwrap_or(i32::MAX)).collect();
    let http: Vec<_> = results.iter().map(|result| result.http_status.map(i32::from)).collect();
    let codes: Vec<_> = results.iter().map(|result| result.error_code.clone()).collect();
    let errors: Vec<_> = results.iter().map(|result| result.error.clone()).collect();
    let causes: Vec<_> = results.iter().map(|result| result.cause.clone()).collect();
    let warnings: Vec<_> = results.iter().map(|result| serde_json::json!(result.warnings)).collect();
    let found: Vec<_> =
        results.iter().map(|result| result.flexportal_id.as_ref().map(|id| id.as_str().to_owned())).collect();
    let superseded: Vec<_> = results.iter().map(|result| result.superseded_by.map(|id| id.0)).collect();
    let attempted: Vec<_> = results.iter().map(|result| result.attempted_as.map(|id| id.0)).collect();
    let finals: Vec<_> = results.iter().map(|result| result.is_final).collect();
    sqlx::query!(
        r#"
        insert into event_states as state (
            event_id, status, attempts, last_http_status, last_error_code, last_error,
            warnings, flexportal_customer_id, superseded_by, attempted_as, forgiven_attempts, finished_at,
            source, shop_customer_id, cause, first_failed_at
        )
        select
            event_id, status, attempts, http_status, error_code, error,
            array(select jsonb_array_elements_text(warnings)), flexportal_customer_id, superseded_by, attempted_as,
            -- faults while a customer was unknown say nothing of its change
            case when status = 'unmatched' then attempts else 0 end,
            case when is_final then coalesce($12::timestamptz, clock_timestamp()) end,
            case when is_final and status in ('failed', 'unmatched') then $13 end,
            case when is_final and status in ('failed', 'unmatched') then $14 end,
            cause,
            case when is_final and status = 'failed' then coalesce($12::timestamptz, clock_timestamp()) end
        from unnest(
            $1::uuid[], $2::text[], $3::integer[], $4::integer[], $5::text[], $6::text[],
            $7::jsonb[], $8::text[], $9::uuid[], $10::uuid[], $11::boolean[], $15::text[]
        ) as result (
            event_id, status, attempts, http_status, error_code, error,
            warnings, flexportal_customer_id, superseded_by, attempted_as, is_final, cause
        )
        on conflict (event_id) do update
        set status = excluded.status,
            attempts = excluded.attempts,
            last_http_status = excluded.last_http_status,
            last_error_code = excluded.last_error_code,
            last_error = excluded.last_error,
            warnings = excluded.warnings,
            flexportal_customer_id = excluded.flexportal_customer_id,
            superseded_by = excluded.superseded_by,
            attempted_as = coalesce(excluded.attempted_as, state.attempted_as),
            forgiven_attempts = greatest(excluded.forgiven_attempts, state.forgiven_attempts),
            finished_at = excluded.finished_at,
            source = excluded.source,
            shop_customer_id = excluded.shop_customer_id,
            cause = excluded.cause,
            first_failed_at = coalesce(state.first_failed_at, excluded.first_failed_at)
        where state.finished_at is null          -- closed by a person meanwhile: that stands
        "#,
        &ids,
        &statuses,
        &attempts,
        &http as _,
        &codes as _,
        &errors as _,
        &warnings,
        &found as _,
        &superseded as _,
        &attempted as _,
        &finals,
        now,
        claimed.source.as_str(),
        claimed.customer.as_str(),
        &causes as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes which of a customer's events is now the first that waits: what is older is not read any more, and the age of
/// the backlog is that of the rest.
pub(super) async fn move_up(
    connection: &mut sqlx::PgConnection,
    source: &str,
    customer: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        update waiting_customers waiting
        set first_event_id = first.id
        from (
            select event_id as id
            from waiting_events
            where source = $1
              and shop_customer_id = $2
            order by event_id
            limit 1
        ) as first
        where waiting.source = $1
          and waiting.shop_customer_id = $2
          and waiting.first_event_id <> first.id
        "#,
        source,
        customer,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Closes given-up events that something newer has spoken for; their last error stays, to be read.
async fn close_overtaken(
    connection: &mut sqlx::PgConnection,
    overtaken: &[(EventId, EventId)],
    now: Option<DateTime<Utc>>,
) -> Result<(), StoreError> {
    if overtaken.is_empty() {
        return Ok(());
    }
    let events: Vec<_> = overtaken.iter().map(|(event, _)| event.0).collect();
    let successors: Vec<_> = overtaken.iter().map(|(_, successor)| successor.0).collect();
    sqlx::query!(
        r#"
        update event_states state
        set status = 'superseded',
            superseded_by = newer.successor,
            finished_at = coalesce($3::timestamptz, clock_timestamp())
        from unnest($1::uuid[], $2::uuid[]) as newer (event_id, successor)
        where state.event_id = newer.event_id
          and state.status in ('failed', 'unmatched')
          and state.finished_at is not null      -- unless a person set it back or closed it meanwhile
        "#,
        &events,
        &successors,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_attempts(connection: &mut sqlx::PgConnection, attempts: &[Attempt]) -> Result<(), StoreError> {
    if attempts.is_empty() {
        return Ok(());
    }
    let milliseconds = |attempt: &Attempt| i32::try_from(attempt.duration.as_millis()).unwrap_or(i32::MAX);
    let events: Vec<_> = attempts.iter().map(|attempt| attempt.event.0).collect();
    let numbers: Vec<_> = attempts.iter().map(|attempt| i32::try_from(attempt.attempt).unwrap_or(i32::MAX)).collect();
    let operations: Vec<_> = attempts.iter().map(|attempt| attempt.operation.as_str().to_owned()).collect();
    let started: Vec<_> = attempts.iter().map(|attempt| attempt.started_at).collect();
    let durations: Vec<_> = attempts.iter().map(milliseconds).collect();
    let requests: Vec<_> = attempts.iter().map(|attempt| attempt.request_body.clone()).collect();
    let http: Vec<_> = attempts.iter().map(|attempt| attempt.http_status.map(i32::from)).collect();
    let codes: Vec<_> = attempts.iter().map(|attempt| attempt.error_code.clone()).collect();
    let errors: Vec<_> = attempts.iter().map(|attempt| attempt.error.clone()).collect();
    let responses: Vec<_> = attempts.iter().map(|attempt| attempt.response_body.clone()).collect();
    sqlx::query!(
        r#"
        insert into sync_attempts (
            event_id, attempt, operation, started_at, duration_ms, request_body,
            http_status, error_code, error, response_body
        )
        select
            event_id, attempt, operation, started_at, duration_ms, request_body::jsonb,
            http_status, error_code, error, response_body
        from unnest(
            $1::uuid[], $2::integer[], $3::text[], $4::timestamptz[], $5::integer[], $6::text[],
            $7::integer[], $8::text[], $9::text[], $10::text[]
        ) with ordinality as request (
            event_id, attempt, operation, started_at, duration_ms, request_body,
            http_status, error_code, error, response_body, position
        )
        order by position
        "#,
        &events,
        &numbers,
        &operations,
        &started,
        &durations,
        &requests as _,
        &http as _,
        &codes as _,
        &errors as _,
        &responses as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}
