//! Writing what came of claims: all of it in one transaction, and of each only while its lease holds.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::gathering::Gathering;
use super::{ClaimedCustomer, LinkChange, Outbox, StoreError, links, seconds};
use crate::domain::{EventId, EventStatus, FlexportalCustomerId, ShopCustomerId, SourceName};
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

/// Where settlements gather; `None` for what did not come off together.
pub(super) type Settling = Gathering<(ClaimedCustomer, Settlement), Option<Settled>>;

impl Outbox {
    /// Writes what came of a claim and gives the customer back; in one transaction with what came of others at the same
    /// time.
    ///
    /// Nobody waits for another: a customer whose row somebody holds, or whose company failed, is settled alone.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was written and the lease runs out by itself.
    pub async fn settle(&self, claimed: &ClaimedCustomer, settlement: &Settlement) -> Result<Settled, StoreError> {
        let call = (claimed.clone(), settlement.clone());
        let together = async |calls: Vec<_>| match self.settle_all(&calls).await {
            Ok(settled) => settled.into_iter().map(Some).collect(),
            // Whose fault it was shows when each is settled alone.
            Err(_) => vec![None; calls.len()],
        };
        match self.settling.join(call.clone(), together).await.flatten() {
            Some(settled @ (Settled::Done | Settled::StillWaiting)) => Ok(settled),
            // Lost, or held by somebody at that moment.
            Some(Settled::LeaseLost) | None => self.settle_alone(&call).await,
        }
    }

    async fn settle_alone(&self, call: &(ClaimedCustomer, Settlement)) -> Result<Settled, StoreError> {
        let (claimed, _) = call;
        let mut transaction = self.pool.begin().await?;
        // Now its turn is waited for.
        sqlx::query!(
            r#"
            select
            from waiting_customers
            where source = $1
              and shop_customer_id = $2
              and lease_id = $3
            for update
            "#,
            claimed.source.as_str(),
            claimed.customer.as_str(),
            claimed.lease_id(),
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let settled = write(&mut transaction, std::slice::from_ref(call), self.clock.for_postgres()).await?;
        transaction.commit().await?;
        Ok(settled.first().copied().unwrap_or(Settled::LeaseLost))
    }

    /// Writes what came of several claims in one transaction, in their order; those whose row somebody holds are left out,
    /// as if their lease was lost.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of it was written.
    pub(super) async fn settle_all(&self, calls: &[(ClaimedCustomer, Settlement)]) -> Result<Vec<Settled>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let settled = write(&mut transaction, calls, self.clock.for_postgres()).await?;
        transaction.commit().await?;
        Ok(settled)
    }
}

async fn write(
    connection: &mut sqlx::PgConnection,
    calls: &[(ClaimedCustomer, Settlement)],
    now: Option<DateTime<Utc>>,
) -> Result<Vec<Settled>, StoreError> {
    let settled = release(connection, calls, now).await?;
    let counting: Vec<_> = calls.iter().zip(&settled).filter(|(_, settled)| **settled != Settled::LeaseLost).collect();
    let written: Vec<_> = counting.iter().map(|(call, _)| *call).collect();
    write_results(connection, &written, now).await?;
    close_overtaken(connection, &written, now).await?;
    write_attempts(connection, &written).await?;
    let links: Vec<_> = written.iter().map(|(claimed, settlement)| (claimed, &settlement.link)).collect();
    links::write(connection, &links).await?;
    let waiting = counting.iter().filter(|(_, settled)| **settled == Settled::StillWaiting);
    let waiting: Vec<_> = waiting.map(|((claimed, _), _)| (&claimed.source, &claimed.customer)).collect();
    move_up(connection, &waiting).await?;
    Ok(settled)
}

/// Gives customers back: gone if all is done, due at once if something arrived since the claim.
async fn release(
    connection: &mut sqlx::PgConnection,
    calls: &[(ClaimedCustomer, Settlement)],
    now: Option<DateTime<Utc>>,
) -> Result<Vec<Settled>, StoreError> {
    let is_done = |(claimed, settlement): &(ClaimedCustomer, Settlement)| {
        settlement.next == Next::Done && settlement.rest.is_none() && !claimed.has_more
    };
    let delay = |(_, settlement): &(ClaimedCustomer, Settlement)| match settlement.next {
        Next::Done | Next::AsBefore => None,
        Next::RetryIn(delay) => Some(seconds(delay)),
    };
    let sources: Vec<_> = calls.iter().map(|(claimed, _)| claimed.source.as_str()).collect();
    let customers: Vec<_> = calls.iter().map(|(claimed, _)| claimed.customer.as_str()).collect();
    let leases: Vec<_> = calls.iter().map(|(claimed, _)| claimed.lease_id()).collect();
    let revisions: Vec<_> = calls.iter().map(|(claimed, _)| claimed.revision).collect();
    let done: Vec<_> = calls.iter().map(is_done).collect();
    let delays: Vec<_> = calls.iter().map(delay).collect();
    let rests: Vec<_> = calls.iter().map(|(_, settlement)| settlement.rest.map(seconds)).collect();
    let known: Vec<_> = calls.iter().map(|(_, settlement)| settlement.link.says_what_is_known()).collect();
    let rows = sqlx::query!(
        r#"
        with moment as materialized (
            select coalesce($9::timestamptz, clock_timestamp()) as now
        ),
        held as materialized (
            -- else another worker took over after our lease ended, or somebody holds the row
            select asked.*, waiting.revision <> asked.claimed_revision as has_news
            from unnest(
                $1::text[], $2::text[], $3::uuid[], $4::bigint[], $5::boolean[], $6::float8[], $7::float8[], $8::boolean[]
            ) with ordinality as asked (
                source, shop_customer_id, lease_id, claimed_revision, is_done, delay, rest, says_what_is_known, position
            )
            join waiting_customers waiting using (source, shop_customer_id, lease_id)
            for update of waiting skip locked
        ),
        gone as (
            delete from waiting_customers waiting
            using held
            where waiting.source = held.source
              and waiting.shop_customer_id = held.shop_customer_id
              and held.is_done
              and not held.has_news
            returning held.position
        ),
        kept as (
            update waiting_customers waiting
            set lease_id = null,
                lease_expires_at = null,
                -- a takeover is one until its doubt is noted
                attempts = case when held.says_what_is_known then 0 else waiting.attempts - 1 end,
                rests_until = moment.now + make_interval(secs => held.rest),
                due_at = case
                    when held.has_news then moment.now           -- at once, or after its rest
                    when coalesce(held.delay, held.rest) is null then least(waiting.due_at, moment.now)
                    else moment.now + make_interval(secs => greatest(held.delay, held.rest, 0))
                end,
                priority = case
                    when not held.has_news and held.delay is not null then greatest(waiting.priority, 1::smallint)
                    else waiting.priority                -- what arrived since has set it
                end
            from held, moment
            where waiting.source = held.source
              and waiting.shop_customer_id = held.shop_customer_id
              and (held.has_news or not held.is_done)
            returning held.position
        )
        select position as "position!", true as "is_done!" from gone
        union all
        select position, false from kept
        "#,
        &sources as _,
        &customers as _,
        &leases,
        &revisions,
        &done,
        &delays as _,
        &rests as _,
        &known,
        now,
    )
    .fetch_all(connection)
    .await?;
    let mut settled = vec![Settled::LeaseLost; calls.len()];
    for row in rows {
        // Positions count from one.
        let place = usize::try_from(row.position - 1).ok().and_then(|place| settled.get_mut(place));
        if let Some(place) = place {
            *place = if row.is_done { Settled::Done } else { Settled::StillWaiting };
        }
    }
    Ok(settled)
}

async fn write_results(
    connection: &mut sqlx::PgConnection,
    settled: &[&(ClaimedCustomer, Settlement)],
    now: Option<DateTime<Utc>>,
) -> Result<(), StoreError> {
    let results: Vec<_> = settled
        .iter()
        .flat_map(|(claimed, settlement)| settlement.results.iter().map(move |result| (claimed, result)))
        .collect();
    if results.is_empty() {
        return Ok(());
    }
    let sources: Vec<_> = results.iter().map(|(claimed, _)| claimed.source.as_str()).collect();
    let customers: Vec<_> = results.iter().map(|(claimed, _)| claimed.customer.as_str()).collect();
    let results: Vec<_> = results.into_iter().map(|(_, result)| result).collect();
    let ids: Vec<_> = results.iter().map(|result| result.event.0).collect();
    let statuses: Vec<_> = results.iter().map(|result| result.status.as_str()).collect();
    let attempts: Vec<_> = results.iter().map(|result| i32::try_from(result.attempts).unwrap_or(i32::MAX)).collect();
    let http: Vec<_> = results.iter().map(|result| result.http_status.map(i32::from)).collect();
    let codes: Vec<_> = results.iter().map(|result| result.error_code.as_deref()).collect();
    let errors: Vec<_> = results.iter().map(|result| result.error.as_deref()).collect();
    let causes: Vec<_> = results.iter().map(|result| result.cause.as_deref()).collect();
    let warnings: Vec<_> = results.iter().map(|result| serde_json::json!(result.warnings)).collect();
    let found: Vec<_> =
        results.iter().map(|result| result.flexportal_id.as_ref().map(FlexportalCustomerId::as_str)).collect();
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
            case when is_final and status in ('failed', 'unmatched') then source end,
            case when is_final and status in ('failed', 'unmatched') then shop_customer_id end,
            cause,
            case when is_final and status = 'failed' then coalesce($12::timestamptz, clock_timestamp()) end
        from unnest(
            $1::uuid[], $2::text[], $3::integer[], $4::integer[], $5::text[], $6::text[],
            $7::jsonb[], $8::text[], $9::uuid[], $10::uuid[], $11::boolean[], $15::text[], $13::text[], $14::text[]
        ) as result (
            event_id, status, attempts, http_status, error_code, error,
            warnings, flexportal_customer_id, superseded_by, attempted_as, is_final, cause, source, shop_customer_id
        )
        order by source, shop_customer_id, event_id      -- rows are locked as by people who close them
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
            first_failed_at = case
                when excluded.first_failed_at is null then state.first_failed_at
                when state.cause is distinct from excluded.cause then excluded.first_failed_at
                else coalesce(state.first_failed_at, excluded.first_failed_at)
            end
        where state.finished_at is null          -- closed by a person meanwhile: that stands
        "#,
        &ids,
        &statuses as _,
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
        &sources as _,
        &customers as _,
        &causes as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes which of each customer's events is now the first that waits: what is older is not read any more, and the age of
/// the backlog is that of the rest.
pub(super) async fn move_up(
    connection: &mut sqlx::PgConnection,
    customers: &[(&SourceName, &ShopCustomerId)],
) -> Result<(), StoreError> {
    if customers.is_empty() {
        return Ok(());
    }
    let sources: Vec<_> = customers.iter().map(|(source, _)| source.as_str()).collect();
    let customers: Vec<_> = customers.iter().map(|(_, customer)| customer.as_str()).collect();
    sqlx::query!(
        r#"
        update waiting_customers waiting
        set first_event_id = first.id
        from unnest($1::text[], $2::text[]) as moved (source, shop_customer_id)
        cross join lateral (
            select event_id as id
            from waiting_events event
            where event.source = moved.source
              and event.shop_customer_id = moved.shop_customer_id
            order by event_id
            limit 1
        ) as first
        where waiting.source = moved.source
          and waiting.shop_customer_id = moved.shop_customer_id
          and waiting.first_event_id <> first.id
        "#,
        &sources as _,
        &customers as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Closes given-up events that something newer has spoken for; their last error stays, to be read.
async fn close_overtaken(
    connection: &mut sqlx::PgConnection,
    settled: &[&(ClaimedCustomer, Settlement)],
    now: Option<DateTime<Utc>>,
) -> Result<(), StoreError> {
    let overtaken: Vec<_> = settled.iter().flat_map(|(_, settlement)| &settlement.overtaken).collect();
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

async fn write_attempts(
    connection: &mut sqlx::PgConnection,
    settled: &[&(ClaimedCustomer, Settlement)],
) -> Result<(), StoreError> {
    let attempts: Vec<_> = settled.iter().flat_map(|(_, settlement)| &settlement.attempts).collect();
    if attempts.is_empty() {
        return Ok(());
    }
    let milliseconds = |attempt: &Attempt| i32::try_from(attempt.duration.as_millis()).unwrap_or(i32::MAX);
    let events: Vec<_> = attempts.iter().map(|attempt| attempt.event.0).collect();
    let numbers: Vec<_> = attempts.iter().map(|attempt| i32::try_from(attempt.attempt).unwrap_or(i32::MAX)).collect();
    let operations: Vec<_> = attempts.iter().map(|attempt| attempt.operation.as_str()).collect();
    let started: Vec<_> = attempts.iter().map(|attempt| attempt.started_at).collect();
    let durations: Vec<_> = attempts.iter().map(|attempt| milliseconds(attempt)).collect();
    let requests: Vec<_> = attempts.iter().map(|attempt| attempt.request_body.as_deref()).collect();
    let http: Vec<_> = attempts.iter().map(|attempt| attempt.http_status.map(i32::from)).collect();
    let codes: Vec<_> = attempts.iter().map(|attempt| attempt.error_code.as_deref()).collect();
    let errors: Vec<_> = attempts.iter().map(|attempt| attempt.error.as_deref()).collect();
    let responses: Vec<_> = attempts.iter().map(|attempt| attempt.response_body.as_deref()).collect();
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
        &operations as _,
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
