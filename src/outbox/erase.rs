//! Erasing what is personal of a customer: all of it in one transaction, and only while nobody has the customer claimed.
//!
//! The rows stay, with ids, times and status, and a receipt joins them. Changes that still wait are closed and never sent.
//! What was said, without the values, stays on the link: nothing older than what FlexPortal has is to follow.

use std::fmt;

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::types::Uuid;
use utoipa::ToSchema;

use super::place::Place;
use super::{DoneBy, Outbox, StoreError, intervene};
use crate::domain::{EventId, PgInstant, ShopCustomerId, SourceName, counted};

/// What was erased.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Erased {
    /// Deliveries whose body and e-mail are gone.
    pub events: u64,
    /// Changes among them that waited, and are not sent any more.
    pub closed: u64,
    /// Requests whose body, answer and error are gone.
    pub requests: u64,
    /// Links of which hashes of values are gone.
    pub links: u64,
}

impl Erased {
    /// Whether there was anything.
    #[must_use]
    pub fn is_anything(&self) -> bool {
        self.events > 0 || self.links > 0
    }
}

impl fmt::Display for Erased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, closed, requests, links } = *self;
        write!(f, "{} and {} erased; ", counted(events, "event"), counted(requests, "request"))?;
        write!(f, "{} that waited {} not sent", counted(closed, "change"), if closed == 1 { "is" } else { "are" })?;
        if events == 0 && links > 0 {
            write!(f, "; hashes of what was sent are gone from the link")?;
        }
        Ok(())
    }
}

impl Outbox {
    /// Erases the personal data of a shop's customer; for a privacy request, of all that arrived up to it. `None` while a
    /// worker has it claimed, or one of its requests may still arrive at FlexPortal: half a minute at the longest.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was erased.
    pub async fn erase(
        &self,
        source: &SourceName,
        customer: &ShopCustomerId,
        request: Option<EventId>,
        by: DoneBy,
    ) -> Result<Option<Erased>, StoreError> {
        let key = (source, customer);
        let (source, customer, request) = (source.as_str(), customer.as_str(), request.map(|event| event.0));
        let mut transaction = self.pool.begin().await?;
        let Some(place) = Place::take(&mut transaction, (source, customer), self.clock.for_postgres()).await? else {
            return Ok(None);
        };
        let events = erase_deliveries(&mut transaction, source, customer, request).await?;
        let closed = close_waiting(&mut transaction, (source, customer), &events, self.clock.for_postgres()).await?;
        let requests = erase_requests(&mut transaction, &events).await?;
        let links = forget_values(&mut transaction, source, customer).await?;
        place.give_back(&mut transaction, key).await?;
        let erased = Erased { events: u64::try_from(events.len()).unwrap_or(u64::MAX), closed, requests, links };
        if erased.is_anything() {
            let of = (source, Some(customer), request);
            leave_receipt(&mut transaction, of, by, &erased.to_string(), self.clock.for_postgres()).await?;
        }
        transaction.commit().await?;
        Ok(Some(erased))
    }

    /// What [`Outbox::erase`] would erase now; changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn would_erase(&self, source: &SourceName, customer: &ShopCustomerId) -> Result<Erased, StoreError> {
        let row = sqlx::query!(
            r#"
            select
                count(*) as "events!",
                count(*) filter (where d.concerns = 'customer' and s.finished_at is null) as "closed!",
                coalesce(sum((select count(*) from sync_attempts a where a.event_id = d.id)), 0)::bigint as "requests!",
                (
                    select count(*)
                    from customer_links
                    where source = $1
                      and shop_customer_id = $2
                      and (jsonb_path_exists(acknowledged, '$.*.hash') or email_hash is not null)
                ) as "links!"
            from deliveries d
            left join event_states s on s.event_id = d.id
            where d.source = $1
              and d.shop_customer_id = $2
              and (d.payload::text <> '{"erased": true}' or d.email is not null)
            "#,
            source.as_str(),
            customer.as_str(),
        )
        .fetch_one(&self.pool)
        .await?;
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(Erased {
            events: count(row.events),
            closed: count(row.closed),
            requests: count(row.requests),
            links: count(row.links),
        })
    }

    /// The shop's customers that gave an e-mail, letter case apart.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn customers_with_email(
        &self,
        source: &SourceName,
        email: &str,
    ) -> Result<Vec<ShopCustomerId>, StoreError> {
        let customers = sqlx::query_scalar!(
            r#"
            select distinct shop_customer_id as "customer!: ShopCustomerId"
            from deliveries
            where source = $1
              and lower(email) = lower($2)
              and shop_customer_id is not null
            order by 1
            "#,
            source.as_str(),
            email.trim(),
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(customers)
    }
}

impl Outbox {
    /// Other customers, of this shop or another, that gave an e-mail which one of these customers gave, letter case apart;
    /// twenty at most. Who asks to be erased or told may mean them, too.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn namesakes(
        &self,
        source: &SourceName,
        customers: &[ShopCustomerId],
    ) -> Result<Vec<(SourceName, ShopCustomerId)>, StoreError> {
        let customers: Vec<_> = customers.iter().map(|customer| customer.as_str().to_owned()).collect();
        let rows = sqlx::query!(
            r#"
            with holders as materialized (       -- by the e-mail: in the order that is asked for, all would be read
                select source, shop_customer_id
                from deliveries
                where email is not null
                  and lower(email) = any(array(
                      select distinct lower(email)
                      from deliveries
                      where source = $1
                        and shop_customer_id = any($2)
                        and email is not null
                  ))
            )
            select distinct source as "source!: SourceName", shop_customer_id as "customer!: ShopCustomerId"
            from holders
            where shop_customer_id is not null
              and not (source = $1 and shop_customer_id = any($2))
            order by 1, 2
            limit 20
            "#,
            source.as_str(),
            &customers,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.source, row.customer)).collect())
    }
}

/// What stays of an erasure: of which source and customer, for which request, by whom, and what came of it.
pub(super) async fn leave_receipt(
    connection: &mut PgConnection,
    (source, customer, request): (&str, Option<&str>, Option<Uuid>),
    by: DoneBy,
    outcome: &str,
    now: Option<PgInstant>,
) -> Result<(), StoreError> {
    intervene::done_by(connection, by).await?;
    sqlx::query!(
        r#"
        insert into interventions (at, action, source, shop_customer_id, event_id, outcome)
        values (coalesce($1::timestamptz, clock_timestamp()), 'erase', $2, $3, $4, $5)
        "#,
        now as _,
        source,
        customer,
        request,
        outcome,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Bodies and e-mails.
async fn erase_deliveries(
    connection: &mut PgConnection,
    source: &str,
    customer: &str,
    up_to: Option<Uuid>,
) -> Result<Vec<Uuid>, StoreError> {
    let events = sqlx::query_scalar!(
        r#"
        update deliveries
        set payload = '{"erased": true}', email = null
        where source = $1
          and shop_customer_id = $2
          and ($3::uuid is null or id <= $3)
          and (payload::text <> '{"erased": true}' or email is not null)        -- what was erased before has its receipt
        returning id
        "#,
        source,
        customer,
        up_to,
    )
    .fetch_all(&mut *connection)
    .await?;
    Ok(events)
}

/// Changes that wait are never sent; what is said of any of them holds no word of its body.
async fn close_waiting(
    connection: &mut PgConnection,
    (source, customer): (&str, &str),
    events: &[Uuid],
    now: Option<PgInstant>,
) -> Result<u64, StoreError> {
    let closed = sqlx::query!(
        r#"
        insert into event_states as state (event_id, status, last_error_code, finished_at)
        select d.id, 'discarded', 'ERASED', coalesce($2::timestamptz, clock_timestamp())
        from deliveries d
        where d.id = any($1)
          and d.concerns = 'customer'
        on conflict (event_id) do update
        set status = excluded.status, last_error_code = excluded.last_error_code, finished_at = excluded.finished_at
        where state.finished_at is null
        "#,
        events,
        now as _,
    )
    .execute(&mut *connection)
    .await?;
    // Also of what was erased before, and closed by a person with words of their own since. A code is a word of
    // FlexPortal's, and stays if it looks like one.
    sqlx::query!(
        r#"
        update event_states
        set last_error = null,
            cause = null,
            warnings = '{}',
            last_error_code = case when last_error_code ~ '^[A-Z][A-Z_]{0,63}$' then last_error_code end
        where event_id in (                      -- `or` would have all states read
            select unnest($1::uuid[])
            union all
            select d.id
            from deliveries d
            where d.source = $2
              and d.shop_customer_id = $3
              and d.payload::text = '{"erased": true}'
        )
        "#,
        events,
        source,
        customer,
    )
    .execute(&mut *connection)
    .await?;
    Ok(closed.rows_affected())
}

/// Also those that carried what the events said under a newer one's name.
async fn erase_requests(connection: &mut PgConnection, events: &[Uuid]) -> Result<u64, StoreError> {
    let requests = sqlx::query!(
        r#"
        update sync_attempts
        set request_body = null,
            response_body = null,
            error = null,
            error_code = case when error_code ~ '^[A-Z][A-Z_]{0,63}$' then error_code end
        where event_id in (
            select unnest($1::uuid[])
            union
            select unnest(array[superseded_by, attempted_as])
            from event_states
            where event_id = any($1)
        )
        "#,
        events,
    )
    .execute(&mut *connection)
    .await?;
    Ok(requests.rows_affected())
}

/// Hashes are of values; reasons that people gave may speak of the customer.
async fn forget_values(connection: &mut PgConnection, source: &str, customer: &str) -> Result<u64, StoreError> {
    let links = sqlx::query!(
        r#"
        update customer_links
        set email_hash = null,
            acknowledged = (
            select coalesce(jsonb_object_agg(field, known - 'hash' - 'acked'), '{}')
            from jsonb_each(acknowledged) as before (field, known)
        )
        where source = $1
          and shop_customer_id = $2
          and (jsonb_path_exists(acknowledged, '$.*.hash') or email_hash is not null)
        "#,
        source,
        customer,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update interventions set reason = null where source = $1 and shop_customer_id = $2",
        source,
        customer,
    )
    .execute(&mut *connection)
    .await?;
    Ok(links.rows_affected())
}
