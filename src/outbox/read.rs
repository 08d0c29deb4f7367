//! Reading what is known of a claimed customer.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use tokio::time::Instant;

use super::gathering::Gathering;
use super::{ClaimedCustomer, Outbox, StoreError};
use crate::domain::{
    Acknowledged, EventId, FlexportalCustomerId, Moment, PgInstant, ShopCustomerId, SourceName, TargetName, Tenant,
};
use crate::flexportal::Status;

/// Waiting events of one customer that are read at once and go out as one change; what is beyond waits for the next
/// claim.
const MAX_EVENTS: i64 = 1000;

/// Events given up of one customer that a newer change is compared with.
const MAX_GIVEN_UP: i64 = 100;

/// Payloads of one customer that are read at once, in bytes; at least one event is.
const MAX_BYTES: i64 = 8 * 1024 * 1024;

/// All that is known of a claimed customer.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its waiting events, oldest arrival first.
    pub waiting: Vec<WaitingEvent>,
    /// Those given up as failed or unmatched: a newer change closes those it speaks for.
    pub given_up: Vec<WaitingEvent>,
    /// Who it is in FlexPortal, if that was found before.
    pub link: Option<Link>,
    /// When it was read, by the clock of the instants in it.
    pub moment: Moment,
}

/// A shop's customer, and the tenant whose link of it is asked for.
type Key = (SourceName, ShopCustomerId, Tenant);

/// Where readings gather; `None` for what did not come off together.
pub(super) type Reading = Gathering<Key, Option<(Known, bool)>>;

/// An event without a final verdict.
#[derive(Debug, Clone)]
pub struct WaitingEvent {
    /// Sorts by arrival.
    pub id: EventId,
    /// The shop's word for what happened.
    pub topic: String,
    /// The body, as stored.
    pub payload: String,
    /// When it counts as having happened.
    pub occurred_at: DateTime<Utc>,
    /// When the shop says that it was triggered.
    pub triggered_at: Option<DateTime<Utc>>,
    /// When it arrived.
    pub received_at: DateTime<Utc>,
    /// FlexPortal was asked for its customer, and does not know it.
    pub is_unmatched: bool,
    /// Attempts that counted so far.
    pub attempts: u32,
    /// Those of them before a person set it back.
    pub forgiven_attempts: u32,
    /// For how long attempts had failed at the last one that counted, and when that was, by Postgres' clock.
    pub failing: Option<(Duration, DateTime<Utc>)>,
    /// Its place in a trace, as W3C `traceparent`; none where nothing was traced.
    pub traceparent: Option<String>,
}

/// What is known of a customer in FlexPortal.
#[derive(Debug, Clone)]
pub struct Link {
    /// FlexPortal's id, if one is known; see [`Link::known_id`].
    pub flexportal_id: Option<FlexportalCustomerId>,
    /// What FlexPortal acknowledged.
    pub acknowledged: Acknowledged,
    /// The status that FlexPortal's last answer showed, and when.
    pub status_shown: Option<(DateTime<Utc>, Status)>,
    /// The customer that the shop merged this one into.
    pub merged_into: Option<ShopCustomerId>,
    /// FlexPortal does not know the customer (any more); when it was last asked for it by its id, by Postgres' clock.
    pub missing_tried_at: Option<DateTime<Utc>>,
}

impl Link {
    /// FlexPortal's customer, as far as FlexPortal knows it.
    #[must_use]
    pub fn known_id(&self) -> Option<&FlexportalCustomerId> {
        self.flexportal_id.as_ref().filter(|_| self.missing_tried_at.is_none())
    }

    /// Whether FlexPortal was asked for this very id, and did not know it.
    #[must_use]
    pub fn is_missing(&self, id: &FlexportalCustomerId) -> bool {
        self.missing_tried_at.is_some() && self.flexportal_id.as_ref() == Some(id)
    }
}

impl Outbox {
    /// Reads what is known of a claimed customer, together with others that are read at the same time.
    ///
    /// Statements of their own, after the claim: they see every event that the claimed revision counts.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read(&self, claimed: &mut ClaimedCustomer) -> Result<Known, StoreError> {
        let (known, has_more) =
            self.known_of((claimed.source.clone(), claimed.customer.clone(), claimed.tenant.clone())).await?;
        claimed.has_more = has_more;
        claimed.linked_to = known.link.as_ref().and_then(|link| link.flexportal_id.clone());
        Ok(known)
    }

    /// What is known of a customer that may not be claimed, as the sync to a target sees it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn known(
        &self,
        source: &SourceName,
        customer: &ShopCustomerId,
        target: &TargetName,
    ) -> Result<Known, StoreError> {
        let tenant = match self.tenants.get(target) {
            Some(tenant) => tenant.clone(),
            // Who asks has no credentials for it: what the service has counts.
            None => self.registered_tenant(target).await?,
        };
        Ok(self.known_of((source.clone(), customer.clone(), tenant)).await?.0)
    }

    /// What is known of a customer, and whether more of its events wait than are read at once.
    async fn known_of(&self, asked: Key) -> Result<(Known, bool), StoreError> {
        let together = async |asked: Vec<Key>| match self.known_of_all(&asked).await {
            Ok(known) => known.into_iter().map(Some).collect(),
            // Whose fault it was shows when each is read alone.
            Err(_) => asked.iter().map(|_| None).collect(),
        };
        if let Some(known) = self.reading.join(asked.clone(), together).await.flatten() {
            return Ok(known);
        }
        Box::pin(self.known_of_all(std::slice::from_ref(&asked))).await?.pop().ok_or_else(nothing_read)
    }

    /// The same of several customers, in their order.
    #[expect(clippy::too_many_lines, reason = "one statement, and its rows")]
    async fn known_of_all(&self, asked: &[Key]) -> Result<Vec<(Known, bool)>, StoreError> {
        let sources: Vec<_> = asked.iter().map(|(source, ..)| source.as_str()).collect();
        let customers: Vec<_> = asked.iter().map(|(_, customer, _)| customer.as_str()).collect();
        let base_urls: Vec<_> = asked.iter().map(|(.., tenant)| tenant.base_url.as_str()).collect();
        let tenant_ids: Vec<_> = asked.iter().map(|(.., tenant)| tenant.tenant_id.as_str()).collect();
        let mut connection = self.warm.connection().await?;
        let asked_at = Instant::now();
        let rows = sqlx::query!(
            r#"
            with asked as (
                select *
                from unnest($1::text[], $2::text[], $5::text[], $6::text[]) with ordinality
                    as asked (source, shop_customer_id, base_url, tenant_id, position)
            ),
            found as (
                select
                    asked.position,
                    event.*,
                    count(*) over (partition by asked.position) as waiting,
                    row_number() over in_order as place,
                    sum(event.bytes) over in_order as bytes_through
                from asked
                cross join lateral (
                    select *, octet_length(payload::text) as bytes
                    from waiting_events_of(asked.source, asked.shop_customer_id)
                    order by event_id
                    limit $3::bigint + 1             -- one more, to know that there are more
                ) as event
                window in_order as (partition by asked.position order by event.event_id)
            )
            select
                asked.position as "position!",
                coalesce($7::timestamptz, clock_timestamp()) as "read_at!: PgInstant",
                link.flexportal_customer_id as "flexportal_id?: FlexportalCustomerId",
                link.status_shown as "status_shown?",
                link.status_shown_at as "status_shown_at?",
                link.merged_into as "merged_into?: ShopCustomerId",
                link.missing_tried_at as "missing_tried_at?",
                -- once, on the first of a customer's rows
                case when coalesce(event.place, 1) = 1 then link.acknowledged end as "acknowledged?: Json<Acknowledged>",
                coalesce(event.place, 1) = 1 and exists (
                    select
                    from event_states state
                    where state.source = asked.source
                      and state.shop_customer_id = asked.shop_customer_id
                      and state.status in ('failed', 'unmatched')
                      and state.finished_at is not null
                    offset 0
                ) as "has_given_up!",
                event.event_id as "id?: EventId",
                event.topic as "topic?",
                event.payload::text as "payload?",
                event.occurred_at as "occurred_at?",
                event.triggered_at,
                event.received_at as "received_at?",
                coalesce(event.status = 'unmatched', false) as "is_unmatched!",
                coalesce(event.attempts, 0) as "attempts!",
                coalesce(event.forgiven_attempts, 0) as "forgiven_attempts!",
                event.failing_seconds,
                event.last_attempt_at,
                event.traceparent as "traceparent?",
                coalesce(event.waiting, 0) as "waiting!"
            from asked
            left join lateral (
                select flexportal_customer_id, acknowledged, status_shown, status_shown_at, merged_into, missing_tried_at
                from customer_links
                where customer_links.source = asked.source
                  and customer_links.shop_customer_id = asked.shop_customer_id
                  and customer_links.base_url = asked.base_url
                  and customer_links.tenant_id = asked.tenant_id
                offset 0                         -- one by one, by the index: see LIVE
            ) as link on true
            left join found event
                on event.position = asked.position
                and event.place <= $3::bigint
                and event.bytes_through - event.bytes < $4
            order by asked.position, event.event_id
            "#,
            &sources as _,
            &customers as _,
            MAX_EVENTS,
            MAX_BYTES,
            &base_urls as _,
            &tenant_ids as _,
            self.clock.for_postgres() as _,
        )
        .fetch_all(&mut *connection)
        .await?;
        connection.keep();
        let mut known: Vec<Option<(Known, bool)>> = asked.iter().map(|_| None).collect();
        let mut given_up = Vec::new();
        for row in rows {
            let Some(place) = place(row.position).filter(|place| *place < known.len()) else { continue };
            let (known, has_more) = known[place].get_or_insert_with(|| {
                let moment = self.clock.moment(row.read_at, asked_at);
                (Known { waiting: vec![], given_up: vec![], link: None, moment }, false)
            });
            if let Some(acknowledged) = row.acknowledged {
                let status_shown = row.status_shown.as_deref().and_then(Status::of_word);
                known.link = Some(Link {
                    flexportal_id: row.flexportal_id,
                    acknowledged: acknowledged.0,
                    status_shown: row.status_shown_at.zip(status_shown),
                    merged_into: row.merged_into,
                    missing_tried_at: row.missing_tried_at,
                });
            }
            if row.has_given_up {
                given_up.push(place);
            }
            // Without an event: nothing of this customer waits.
            let (Some(id), Some(topic), Some(payload)) = (row.id, row.topic, row.payload) else { continue };
            let (Some(occurred_at), Some(received_at)) = (row.occurred_at, row.received_at) else { continue };
            known.waiting.push(WaitingEvent {
                id,
                topic,
                payload,
                occurred_at,
                triggered_at: row.triggered_at,
                received_at,
                is_unmatched: row.is_unmatched,
                attempts: count(row.attempts),
                forgiven_attempts: count(row.forgiven_attempts),
                failing: failing(row.failing_seconds, row.last_attempt_at),
                traceparent: row.traceparent,
            });
            *has_more = row.waiting > i64::try_from(known.waiting.len()).unwrap_or(0);
        }
        for place in given_up {
            let (source, customer, _) = &asked[place];
            if let Some((known, _)) = &mut known[place] {
                known.given_up = self.given_up_events(source, customer).await?;
            }
        }
        // Each has a row, whatever is known.
        known.into_iter().map(|known| known.ok_or_else(nothing_read)).collect()
    }

    /// The waiting events of a claimed customer by their ids alone, for one that cannot be read in full.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn waiting_ids(&self, claimed: &mut ClaimedCustomer) -> Result<Vec<(EventId, u32)>, StoreError> {
        let rows = sqlx::query!(
            r#"
            select event_id as "id!: EventId", attempts as "attempts!"
            from waiting_events_of($1, $2)
            order by event_id
            limit $3::bigint + 1             -- one more, to know that there are more
            "#,
            claimed.source.as_str(),
            claimed.customer.as_str(),
            MAX_EVENTS,
        )
        .fetch_all(&self.pool)
        .await?;
        let most = usize::try_from(MAX_EVENTS).unwrap_or(usize::MAX);
        claimed.has_more = rows.len() > most;
        Ok(rows.into_iter().take(most).map(|row| (row.id, count(row.attempts))).collect())
    }

    /// The newest events of a customer that were given up.
    async fn given_up_events(
        &self,
        source: &SourceName,
        customer: &ShopCustomerId,
    ) -> Result<Vec<WaitingEvent>, StoreError> {
        let rows = sqlx::query!(
            r#"
            select
                d.id as "id: EventId",
                d.topic,
                d.payload::text as "payload!",
                d.occurred_at,
                d.triggered_at,
                d.received_at,
                s.status = 'unmatched' as "is_unmatched!",
                s.attempts,
                s.forgiven_attempts,
                s.failing_seconds,
                s.last_attempt_at,
                d.traceparent
            from (
                select given_up.*
                from (
                    select event_id, status, attempts, forgiven_attempts, failing_seconds, last_attempt_at
                    from event_states
                    where source = $1
                      and shop_customer_id = $2
                      and status in ('failed', 'unmatched')
                      and finished_at is not null
                    offset 0                     -- by the index of those given up: see LIVE
                ) as given_up
                order by event_id desc
                limit $3
            ) as s
            cross join lateral (                 -- the next one in the order of the index, which has to be it
                select id, topic, payload, occurred_at, triggered_at, received_at, traceparent
                from deliveries
                where deliveries.id >= s.event_id
                order by deliveries.id
                limit 1
            ) as d
            where d.id = s.event_id
            order by d.id desc
            "#,
            source.as_str(),
            customer.as_str(),
            MAX_GIVEN_UP,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| WaitingEvent {
                id: row.id,
                topic: row.topic,
                payload: row.payload,
                occurred_at: row.occurred_at,
                triggered_at: row.triggered_at,
                received_at: row.received_at,
                is_unmatched: row.is_unmatched,
                attempts: count(row.attempts),
                forgiven_attempts: count(row.forgiven_attempts),
                failing: failing(row.failing_seconds, row.last_attempt_at),
                traceparent: row.traceparent,
            })
            .collect())
    }

    /// One stored change and whose it is; `None` for privacy requests and where there is no such event.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn stored_change(
        &self,
        event: EventId,
    ) -> Result<Option<(SourceName, ShopCustomerId, WaitingEvent)>, StoreError> {
        let row = sqlx::query!(
            r#"
            select
                d.source as "source: SourceName",
                d.shop_customer_id as "customer!: ShopCustomerId",
                d.topic,
                d.payload::text as "payload!",
                d.occurred_at,
                d.triggered_at,
                d.received_at,
                coalesce(s.status = 'unmatched', false) as "is_unmatched!",
                coalesce(s.attempts, 0) as "attempts!",
                coalesce(s.forgiven_attempts, 0) as "forgiven_attempts!",
                s.failing_seconds as "failing_seconds?",
                s.last_attempt_at as "last_attempt_at?"
            from deliveries d
            left join event_states s on s.event_id = d.id
            where d.id = $1
              and d.concerns = 'customer'
            "#,
            event.0,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| {
            let stored = WaitingEvent {
                id: event,
                topic: row.topic,
                payload: row.payload,
                occurred_at: row.occurred_at,
                triggered_at: row.triggered_at,
                received_at: row.received_at,
                is_unmatched: row.is_unmatched,
                attempts: count(row.attempts),
                forgiven_attempts: count(row.forgiven_attempts),
                failing: failing(row.failing_seconds, row.last_attempt_at),
                traceparent: None, // what is looked at is not traced
            };
            (row.source, row.customer, stored)
        }))
    }

    /// The last body that FlexPortal acknowledged for a customer, and when it was sent.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn last_sent(
        &self,
        source: &SourceName,
        customer: &ShopCustomerId,
    ) -> Result<Option<(DateTime<Utc>, serde_json::Value)>, StoreError> {
        let row = sqlx::query!(
            r#"
            select a.started_at, a.request_body as "body!"
            from deliveries d
            join sync_attempts a on a.event_id = d.id
            where d.source = $1
              and d.shop_customer_id = $2
              and a.operation = 'update_customer'
              and a.request_body is not null
              and a.http_status between 200 and 299
              and a.error is null
            order by a.id desc
            limit 1
            "#,
            source.as_str(),
            customer.as_str(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| (row.started_at, row.body)))
    }

    /// The e-mail of the newest change that gave one, of all deliveries of a shop's customer gave.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn last_known_email(
        &self,
        source: &SourceName,
        customer: &ShopCustomerId,
    ) -> Result<Option<String>, StoreError> {
        let email = sqlx::query_scalar!(
            r#"
            select email as "email!"
            from deliveries
            where source = $1
              and shop_customer_id = $2
              and concerns = 'customer'
              and email is not null
            order by occurred_at desc, id desc
            limit 1
            "#,
            source.as_str(),
            customer.as_str(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(email)
    }
}

fn nothing_read() -> StoreError {
    StoreError::Inconsistent("nothing was read of a customer that was asked for".to_owned())
}

/// Postgres counts positions from one.
fn place(position: i64) -> Option<usize> {
    usize::try_from(position).ok()?.checked_sub(1)
}

fn failing(seconds: Option<f64>, last_attempt_at: Option<DateTime<Utc>>) -> Option<(Duration, DateTime<Utc>)> {
    Some((Duration::try_from_secs_f64(seconds?).unwrap_or_default(), last_attempt_at?))
}

fn count(attempts: i32) -> u32 {
    u32::try_from(attempts).unwrap_or(0)
}
