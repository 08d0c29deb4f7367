//! Writing what came of claims: all of each at once, and only while its lease holds.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection;
use sqlx::types::Json;
use tokio::time::Instant;

use super::gathering::Gathering;
use super::sharing::HashKey;
use super::{ClaimedCustomer, LinkChange, Outbox, StoreError, links, overtaken, seconds};
use crate::domain::{EventId, EventStatus, FlexportalCustomerId, PgClock, ShopCustomerId, SourceName};
use crate::flexportal::{Operation, Status};

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
    /// For how long attempts have failed, if one that counts has just failed.
    pub failing_for: Option<Duration>,
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
    pub started: Instant,
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
    /// As before: it is given back, and keeps its place in the line, whatever has arrived.
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

/// A claim, and what came of it.
type Call = Arc<(ClaimedCustomer, Settlement)>;

/// Where settlements gather; `None` for what did not come off together.
pub(super) type Settling = Gathering<Call, Option<Settled>>;

/// Which of the claims are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    /// All whose lease holds.
    Held,
    /// Of these, the ones of whom nothing waits any more.
    Finished,
}

impl Outbox {
    /// Writes what came of a claim and gives the customer back; in one statement with what came of others at the same time.
    ///
    /// Nobody waits for another: a customer whose row somebody holds, or whose company failed, is settled alone.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was written and the lease runs out by itself.
    pub async fn settle(&self, claimed: &ClaimedCustomer, settlement: &Settlement) -> Result<Settled, StoreError> {
        let call = Arc::new((claimed.clone(), settlement.clone()));
        if is_plain(&call) {
            let finish = async |calls: Vec<Call>| self.finish_all(&calls).await;
            // Something new may have arrived, or somebody holds the row.
            if self.finishing.join(call.clone(), finish).await == Some(Some(Settled::Done)) {
                return Ok(Settled::Done);
            }
        }
        let together = async |calls: Vec<Call>| self.settle_all(&calls).await;
        match self.settling.join(call.clone(), together).await.flatten() {
            Some(settled @ (Settled::Done | Settled::StillWaiting)) => Ok(settled),
            // Lost, or held by somebody at that moment.
            Some(Settled::LeaseLost) | None => Box::pin(self.settle_alone(&call)).await,
        }
    }

    async fn settle_alone(&self, call: &Call) -> Result<Settled, StoreError> {
        let (claimed, _) = &**call;
        let key = self.hash_key().await?;
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
        let calls = std::slice::from_ref(call);
        let settled = write_in(&mut transaction, calls, &self.clock, key).await?;
        transaction.commit().await?;
        Ok(settled.first().copied().unwrap_or(Settled::LeaseLost))
    }

    /// Writes what came of several claims of which all is said: one statement, without a transaction around it.
    async fn finish_all(&self, calls: &[Call]) -> Vec<Option<Settled>> {
        let written = async {
            let key = self.hash_key().await?;
            let mut connection = self.warm.connection().await?;
            let settled = write(&mut *connection, calls, &self.clock, Only::Finished, key).await?;
            connection.keep();
            Ok(settled)
        };
        each_of(calls.len(), written.await)
    }

    /// Writes what came of several claims; those whose row somebody holds are left out, as if their lease was lost.
    async fn settle_all(&self, calls: &[Call]) -> Vec<Option<Settled>> {
        let written = async {
            let key = self.hash_key().await?;
            let mut connection = self.warm.connection().await?;
            let mut transaction = connection.begin().await?;
            let settled = write_in(&mut transaction, calls, &self.clock, key).await?;
            transaction.commit().await?;
            connection.keep();
            Ok(settled)
        };
        each_of(calls.len(), written.await)
    }
}

/// What came of each, or of none: whose fault it was shows when each is settled alone.
fn each_of(calls: usize, written: Result<Vec<Settled>, StoreError>) -> Vec<Option<Settled>> {
    match written {
        Ok(settled) => settled.into_iter().map(Some).collect(),
        Err(error) => {
            tracing::debug!(error = %error, calls, "a group could not be settled together");
            vec![None; calls]
        }
    }
}

/// Whether all of it can be written by one statement, if nothing new has arrived.
fn is_plain(call: &Call) -> bool {
    let (_, settlement) = &**call;
    let is_plain_link = matches!(settlement.link, LinkChange::Keep | LinkChange::Acknowledged { .. });
    is_done(call) && is_plain_link && settlement.overtaken.is_empty()
}

/// Whether nothing waits of a customer, if nothing new has arrived.
fn is_done(call: &Call) -> bool {
    let (claimed, settlement) = &**call;
    settlement.next == Next::Done && settlement.rest.is_none() && !claimed.has_more
}

/// All that there may be to write, within a transaction.
async fn write_in(
    connection: &mut sqlx::PgConnection,
    calls: &[Call],
    clock: &PgClock,
    key: &HashKey,
) -> Result<Vec<Settled>, StoreError> {
    let settled = write(&mut *connection, calls, clock, Only::Held, key).await?;
    let counting: Vec<_> = calls.iter().zip(&settled).filter(|(_, settled)| **settled != Settled::LeaseLost).collect();
    let written: Vec<_> = counting.iter().map(|(call, _)| &***call).collect();
    let overtaken: Vec<_> = written
        .iter()
        .map(|(claimed, settlement)| (&claimed.source, &claimed.customer, settlement.overtaken.as_slice()))
        .collect();
    overtaken::close(connection, &overtaken, clock.for_postgres()).await?;
    let links: Vec<_> = written.iter().map(|(claimed, settlement)| (claimed, &settlement.link)).collect();
    links::write(connection, &links, key, clock.for_postgres()).await?;
    let waiting = counting.iter().filter(|(_, settled)| **settled == Settled::StillWaiting);
    let waiting: Vec<_> = waiting.map(|(call, _)| (&call.0.source, &call.0.customer)).collect();
    move_up(connection, &waiting).await?;
    Ok(settled)
}

/// Gives customers back, gone if all is done and due at once if something arrived since the claim; and of those writes
/// what became of their events, the requests that were made, and what is known to be acknowledged.
#[expect(clippy::too_many_lines, reason = "one statement: a trip to the database and a commit, for however many")]
async fn write(
    executor: impl sqlx::PgExecutor<'_>,
    calls: &[Call],
    clock: &PgClock,
    only: Only,
    key: &HashKey,
) -> Result<Vec<Settled>, StoreError> {
    let delay = |call: &Call| match call.1.next {
        Next::Done | Next::AsBefore => None,
        Next::RetryIn(delay) => Some(seconds(delay)),
    };
    let is_given_back = |(_, settlement): &(ClaimedCustomer, Settlement)| {
        settlement.next == Next::AsBefore && settlement.rest.is_none()
    };
    let placed = || (1_i64..).zip(calls.iter().map(|call| &**call));
    let results: Vec<_> =
        placed().flat_map(|(place, (_, settlement))| settlement.results.iter().map(move |one| (place, one))).collect();
    let attempts: Vec<_> =
        placed().flat_map(|(place, (_, settlement))| settlement.attempts.iter().map(move |one| (place, one))).collect();
    let links: Vec<_> = placed()
        .filter_map(|(place, (claimed, settlement))| Some((place, claimed, settlement.link.known()?)))
        .collect();
    let rows = sqlx::query!(
        r#"
        with moment as materialized (
            select coalesce($1::timestamptz, clock_timestamp()) as now
        ),
        asked as (
            select *
            from unnest(
                $2::text[], $3::text[], $4::uuid[], $5::bigint[], $6::boolean[], $7::float8[], $8::float8[], $9::boolean[],
                $42::boolean[]
            ) with ordinality as asked (
                source, shop_customer_id, lease_id, claimed_revision, is_done, delay, rest, says_what_is_known,
                is_given_back, place
            )
        ),
        found as materialized (
            -- else another worker took over after our lease ended
            select asked.*, waiting.at, waiting.revision, waiting.revision <> asked.claimed_revision as has_news
            from asked
            cross join lateral (                 -- one by one, by the index: see LIVE
                select ctid as at, revision
                from waiting_customers
                where source = asked.source
                  and shop_customer_id = asked.shop_customer_id
                  and lease_id = asked.lease_id
                offset 0
            ) as waiting
            where not $10 or waiting.revision = asked.claimed_revision
        ),
        held as materialized (
            -- else somebody holds the row, or has changed it just now: older Postgres takes a row that changed while it was
            -- waited for to be at its place still, and then it is the revision that keeps news from being deleted
            select found.*
            from found
            join waiting_customers waiting
                on waiting.ctid = found.at
                and waiting.lease_id = found.lease_id
                and waiting.revision = found.revision
            for update of waiting skip locked
        ),
        gone as (
            delete from waiting_customers waiting
            using held
            where waiting.ctid = held.at
              and held.is_done
              and not held.has_news
            returning held.place
        ),
        kept as (
            update waiting_customers waiting
            set lease_id = null,
                lease_expires_at = null,
                -- a takeover is one until its doubt is noted
                attempts = case when held.says_what_is_known then 0 else waiting.attempts - 1 end,
                rests_until = moment.now + make_interval(secs => held.rest),
                is_asked_for = waiting.is_asked_for and held.delay is null,      -- it was, in vain
                due_at = case
                    when held.is_given_back then least(waiting.due_at, moment.now)
                    when held.has_news then moment.now           -- at once, or after its rest
                    when coalesce(held.delay, held.rest) is null then least(waiting.due_at, moment.now)
                    else moment.now + make_interval(secs => greatest(held.delay, held.rest, 0))
                end,
                priority = case
                    when not held.has_news and held.delay is not null then greatest(waiting.priority, 1::smallint)
                    else waiting.priority                -- what arrived since has set it
                end
            from held, moment
            where waiting.ctid = held.at
              and (held.has_news or not held.is_done)
            returning held.place
        ),
        results as (
            insert into event_states as state (
                event_id, status, attempts, last_http_status, last_error_code, last_error,
                warnings, flexportal_customer_id, superseded_by, attempted_as, forgiven_attempts, finished_at,
                source, shop_customer_id, cause, first_failed_at, failing_seconds, last_attempt_at
            )
            select
                event_id, status, attempts, http_status, error_code, error,
                array(select jsonb_array_elements_text(warnings)), flexportal_customer_id, superseded_by, attempted_as,
                -- faults while a customer was unknown say nothing of its change
                case when status = 'unmatched' then attempts else 0 end,
                case when is_final then moment.now end,
                case when is_final and status in ('failed', 'unmatched') then source end,
                case when is_final and status in ('failed', 'unmatched') then shop_customer_id end,
                cause,
                case when is_final and status = 'failed' then moment.now end,
                failing_seconds,
                case when failing_seconds is not null then moment.now end
            from unnest(
                $11::bigint[], $12::uuid[], $13::text[], $14::integer[], $15::integer[], $16::text[], $17::text[],
                $18::text[], $19::jsonb[], $20::text[], $21::uuid[], $22::uuid[], $23::boolean[], $47::float8[]
            ) as result (
                place, event_id, status, attempts, http_status, error_code, error,
                cause, warnings, flexportal_customer_id, superseded_by, attempted_as, is_final, failing_seconds
            )
            join held using (place)
            cross join moment
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
                failing_seconds = coalesce(excluded.failing_seconds, state.failing_seconds),
                last_attempt_at = coalesce(excluded.last_attempt_at, state.last_attempt_at),
                source = excluded.source,
                shop_customer_id = excluded.shop_customer_id,
                cause = excluded.cause,
                first_failed_at = case
                    when excluded.first_failed_at is null then state.first_failed_at
                    when state.cause is distinct from excluded.cause then excluded.first_failed_at
                    else coalesce(state.first_failed_at, excluded.first_failed_at)
                end
            where state.finished_at is null          -- closed by a person meanwhile: that stands
        ),
        requests as (
            insert into sync_attempts (
                event_id, attempt, operation, started_at, duration_ms, request_body,
                http_status, error_code, error, response_body
            )
            select
                event_id, attempt, operation, moment.now - make_interval(secs => age), duration_ms, request_body::jsonb,
                http_status, error_code, error, response_body
            from unnest(
                $24::bigint[], $25::uuid[], $26::integer[], $27::text[], $28::float8[], $29::integer[], $30::text[],
                $31::integer[], $32::text[], $33::text[], $34::text[]
            ) with ordinality as request (
                place, event_id, attempt, operation, age, duration_ms, request_body,
                http_status, error_code, error, response_body, position
            )
            join held using (place)
            cross join moment
            order by position
        ),
        known as materialized (
            select *
            from unnest(
                $35::bigint[], $36::text[], $37::text[], $38::text[], $39::timestamptz[], $40::timestamptz[], $41::jsonb[],
                $43::text[], $44::text[], $45::text[], $46::text[]
            ) as known (
                place, flexportal_customer_id, origin, linked_to, synced_at, occurred_at, acknowledged, base_url, tenant_id,
                email_hash, status_shown
            )
            join held using (place)
        ),
        linked as (
            -- links in one order, as an import takes them
            insert into customer_links as link (
                source, shop_customer_id, flexportal_customer_id, origin, last_synced_at, last_occurred_at, acknowledged,
                base_url, tenant_id, email_hash, status_shown, status_shown_at
            )
            select
                source, shop_customer_id, flexportal_customer_id, coalesce(origin, 'event'), synced_at, occurred_at,
                acknowledged, base_url, tenant_id, email_hash, status_shown,
                case when status_shown is not null then moment.now end
            from known
            cross join moment
            order by source, shop_customer_id
            on conflict (source, shop_customer_id, base_url, tenant_id) do update
            set flexportal_customer_id = excluded.flexportal_customer_id,
                origin = case
                    when (link.source, link.shop_customer_id) in (
                        select source, shop_customer_id from known where origin is not null
                    ) then excluded.origin
                    else link.origin
                end,
                last_synced_at = coalesce(excluded.last_synced_at, link.last_synced_at),
                last_occurred_at = greatest(excluded.last_occurred_at, link.last_occurred_at),
                acknowledged = excluded.acknowledged,
                email_hash = coalesce(excluded.email_hash, link.email_hash),
                status_shown = coalesce(excluded.status_shown, link.status_shown),
                status_shown_at = coalesce(excluded.status_shown_at, link.status_shown_at),
                -- found again once FlexPortal has acknowledged something, or as another: not by a request that failed
                missing_since = case
                    when excluded.last_synced_at is null
                        and link.flexportal_customer_id = excluded.flexportal_customer_id
                    then link.missing_since
                end,
                missing_tried_at = case
                    when excluded.last_synced_at is null
                        and link.flexportal_customer_id = excluded.flexportal_customer_id
                    then link.missing_tried_at
                end
            -- unless the link is not any more what it was when the customer was read: a person's word counts
            where (link.source, link.shop_customer_id, coalesce(link.flexportal_customer_id, '')) in (
                select source, shop_customer_id, coalesce(linked_to, '') from known
            )
        )
        select place as "place!", true as "is_done!" from gone
        union all
        select place, false from kept
        "#,
        clock.for_postgres() as _,
        &column(calls, |call| call.0.source.as_str()) as _,
        &column(calls, |call| call.0.customer.as_str()) as _,
        &column(calls, |call| call.0.lease_id()),
        &column(calls, |call| call.0.revision),
        &column(calls, is_done),
        &column(calls, delay) as _,
        &column(calls, |call| call.1.rest.map(seconds)) as _,
        &column(calls, |call| call.1.link.says_what_is_known()),
        only == Only::Finished,
        &column(&results, |(place, _)| *place),
        &column(&results, |(_, result)| result.event.0),
        &column(&results, |(_, result)| result.status.as_str()) as _,
        &column(&results, |(_, result)| i32::try_from(result.attempts).unwrap_or(i32::MAX)),
        &column(&results, |(_, result)| result.http_status.map(i32::from)) as _,
        &column(&results, |(_, result)| result.error_code.as_deref()) as _,
        &column(&results, |(_, result)| result.error.as_deref()) as _,
        &column(&results, |(_, result)| result.cause.as_deref()) as _,
        &column(&results, |(_, result)| Json(&result.warnings)) as _,
        &column(&results, |(_, result)| result.flexportal_id.as_ref().map(FlexportalCustomerId::as_str)) as _,
        &column(&results, |(_, result)| result.superseded_by.map(|id| id.0)) as _,
        &column(&results, |(_, result)| result.attempted_as.map(|id| id.0)) as _,
        &column(&results, |(_, result)| result.is_final),
        &column(&attempts, |(place, _)| *place),
        &column(&attempts, |(_, attempt)| attempt.event.0),
        &column(&attempts, |(_, attempt)| i32::try_from(attempt.attempt).unwrap_or(i32::MAX)),
        &column(&attempts, |(_, attempt)| attempt.operation.as_str()) as _,
        &column(&attempts, |(_, attempt)| seconds(clock.elapsed(attempt.started))),
        &column(&attempts, |(_, attempt)| i32::try_from(attempt.duration.as_millis()).unwrap_or(i32::MAX)),
        &column(&attempts, |(_, attempt)| attempt.request_body.as_deref()) as _,
        &column(&attempts, |(_, attempt)| attempt.http_status.map(i32::from)) as _,
        &column(&attempts, |(_, attempt)| attempt.error_code.as_deref()) as _,
        &column(&attempts, |(_, attempt)| attempt.error.as_deref()) as _,
        &column(&attempts, |(_, attempt)| attempt.response_body.as_deref()) as _,
        &column(&links, |(place, ..)| *place),
        &column(&links, |(_, _, known)| known.flexportal_id.as_str()) as _,
        &column(&links, |(_, _, known)| known.origin) as _,
        &column(&links, |(_, claimed, _)| claimed.linked_to()) as _,
        &column(&links, |(_, _, known)| known.synced_at) as _,
        &column(&links, |(_, _, known)| known.occurred_at) as _,
        &column(&links, |(_, _, known)| Json(known.acknowledged)) as _,
        &column(calls, |call| is_given_back(call)),
        &column(&links, |(_, claimed, _)| claimed.tenant.base_url.as_str()) as _,
        &column(&links, |(_, claimed, _)| claimed.tenant.tenant_id.as_str()) as _,
        &column(&links, |(_, _, known)| known.email.map(|email| key.of_email(email))) as _,
        &column(&links, |(_, _, known)| known.status_shown.map(Status::as_str)) as _,
        &column(&results, |(_, result)| result.failing_for.map(seconds)) as _,
    )
    .fetch_all(executor)
    .await?;
    let mut settled = vec![Settled::LeaseLost; calls.len()];
    for row in rows {
        let place = usize::try_from(row.place - 1).ok().and_then(|place| settled.get_mut(place));
        if let Some(place) = place {
            *place = if row.is_done { Settled::Done } else { Settled::StillWaiting };
        }
    }
    Ok(settled)
}

/// One value of each row.
fn column<'a, R, T>(rows: &'a [R], value: impl FnMut(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
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
        cross join lateral (                 -- one by one, by the index, and ours already: see LIVE
            select ctid as at, first_event_id
            from waiting_customers
            where waiting_customers.source = moved.source
              and waiting_customers.shop_customer_id = moved.shop_customer_id
            offset 0
        ) as theirs
        cross join lateral (
            select event_id as id
            from waiting_events_of(moved.source, moved.shop_customer_id)
            order by event_id
            limit 1
        ) as first
        where waiting.ctid = theirs.at
          and theirs.first_event_id <> first.id
        "#,
        &sources as _,
        &customers as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}
