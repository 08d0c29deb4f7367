//! Arrival: each delivery of a group gets its place in the order, by Postgres' clock and a number that all replicas share.
//!
//! A webhook that was sent after another one was answered 200 sees that one here, so it arrives no earlier and has a greater
//! number, whatever process takes it in and whatever the clocks do. Nothing uses ids or numbers as a cursor: they become
//! visible out of order.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;

use super::{NewEvent, Outbox, StoreError};
use crate::domain::order::{CLOCK_AHEAD, time_of_arrival, time_of_change};
use crate::domain::{Acknowledged, EventId, PgInstant, ShopCustomerId, SourceName};

/// A delivery with its place in the order.
#[derive(Debug, Clone)]
pub(super) struct Arrived<'a> {
    pub(super) event: &'a NewEvent,
    /// Another shop than the source's spoke: it waits for a person.
    pub(super) is_held: bool,
    pub(super) id: EventId,
    pub(super) number: i64,
    pub(super) received_at: DateTime<Utc>,
    pub(super) occurred_at: DateTime<Utc>,
    /// Why that is not what the shop says.
    pub(super) warning: Option<&'static str>,
}

/// A shop's customer.
type Key<'a> = (&'a SourceName, &'a ShopCustomerId);

/// What is known of a customer when a delivery of it arrives.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Before {
    /// When its last delivery arrived.
    pub(super) received_at: Option<DateTime<Utc>>,
    /// The newest time of a change of it.
    pub(super) occurred_at: Option<DateTime<Utc>>,
}

/// A sequence that was behind what is stored goes on this far beyond it: others may be taking numbers meanwhile.
const LEAP: i64 = 1_000_000;

impl Before {
    /// Gives a delivery its place, and takes note of it for the next.
    pub(super) fn arrive<'a>(&mut self, event: &'a NewEvent, now: PgInstant, number: i64) -> Arrived<'a> {
        let received_at = time_of_arrival(now.utc(), self.received_at);
        let (occurred_at, warning) = time_of_change(event.delivery.occurred_at, received_at, self.occurred_at);
        self.received_at = Some(received_at);
        self.occurred_at = self.occurred_at.max(Some(occurred_at));
        let is_held = false;
        Arrived {
            event,
            is_held,
            id: EventId::of_arrival(received_at, number),
            number,
            received_at,
            occurred_at,
            warning,
        }
    }
}

/// Whether a delivery's time of change depends on the changes before it.
fn needs_newest(event: &NewEvent, now: PgInstant) -> bool {
    let told = event.delivery.occurred_at;
    told.is_none() || time_of_change(told, now.utc(), None).1.is_some()
}

impl Outbox {
    /// Gives the deliveries of a group their places, in the order of the group.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn arrive<'a>(&self, events: &[&'a NewEvent]) -> Result<Vec<Arrived<'a>>, StoreError> {
        let keys: Vec<Key<'_>> = events.iter().copied().filter_map(key).collect();
        let (now, numbers, last_arrivals) = self.last_arrivals(&keys, events.len()).await?;
        let mut before: HashMap<Key<'_>, Before> = HashMap::new();
        for (key, received_at) in last_arrivals {
            before.entry(key).or_default().received_at = Some(received_at);
        }
        let untimed: Vec<_> = events.iter().copied().filter(|event| needs_newest(event, now)).filter_map(key).collect();
        if !untimed.is_empty() {
            for (key, occurred_at) in self.newest_changes(&untimed, now).await? {
                before.entry(key).or_default().occurred_at = Some(occurred_at);
            }
        }
        let mut nobody = Before::default();
        let arrived = events.iter().copied().zip(numbers).map(|(event, number)| match key(event) {
            Some(key) => before.entry(key).or_default().arrive(event, now, number),
            None => std::mem::take(&mut nobody).arrive(event, now, number),
        });
        Ok(arrived.collect())
    }

    /// What time it is, numbers for so many deliveries, and when the last delivery of each of these customers arrived.
    async fn last_arrivals<'a>(
        &self,
        keys: &[Key<'a>],
        deliveries: usize,
    ) -> Result<(PgInstant, Vec<i64>, Vec<(Key<'a>, DateTime<Utc>)>), StoreError> {
        let (sources, customers): (Vec<_>, Vec<_>) =
            keys.iter().map(|(source, customer)| (source.as_str(), customer.as_str())).unzip();
        let mut connection = self.warm.connection().await?;
        let row = sqlx::query!(
            r#"
            -- last_arrivals
            select
                coalesce($4::timestamptz, clock_timestamp()) as "now!: PgInstant",
                array(select nextval('arrival_numbers') from generate_series(1, $3)) as "numbers!",
                array(
                    select (
                        select received_at
                        from deliveries
                        where deliveries.source = asked.source
                          and deliveries.shop_customer_id = asked.shop_customer_id
                        order by id desc         -- the last entry of the index
                        limit 1
                    )
                    from unnest($1::text[], $2::text[]) with ordinality as asked (source, shop_customer_id, position)
                    order by position
                ) as "received_at!: Vec<Option<DateTime<Utc>>>"
            "#,
            &sources as _,
            &customers as _,
            i32::try_from(deliveries).unwrap_or(i32::MAX),
            self.clock.for_postgres() as _,
        )
        .fetch_one(&mut *connection)
        .await?;
        connection.keep();
        let mut numbers = row.numbers;
        numbers.sort_unstable();
        let arrivals = keys.iter().zip(row.received_at).filter_map(|(key, received_at)| Some((*key, received_at?)));
        Ok((row.now, numbers, arrivals.collect()))
    }

    /// The newest time of a change of each of these customers, stored or acknowledged, as far as it may lie ahead: what
    /// arrived more than five minutes ago happened before now.
    async fn newest_changes<'a>(
        &self,
        keys: &[Key<'a>],
        now: PgInstant,
    ) -> Result<Vec<(Key<'a>, DateTime<Utc>)>, StoreError> {
        let (sources, customers): (Vec<_>, Vec<_>) =
            keys.iter().map(|(source, customer)| (source.as_str(), customer.as_str())).unzip();
        let mut connection = self.warm.connection().await?;
        let rows = sqlx::query!(
            r#"
            -- newest_changes
            select
                asked.position as "position!",
                (
                    select max(occurred_at)
                    from deliveries
                    where deliveries.source = asked.source
                      and deliveries.shop_customer_id = asked.shop_customer_id
                      and deliveries.id >= $3
                ) as stored,
                (
                    select jsonb_agg(acknowledged)
                    from customer_links
                    where customer_links.source = asked.source
                      and customer_links.shop_customer_id = asked.shop_customer_id
                ) as "acknowledged: Json<Vec<serde_json::Value>>"
            from unnest($1::text[], $2::text[]) with ordinality as asked (source, shop_customer_id, position)
            "#,
            &sources as _,
            &customers as _,
            EventId::first_at(now.utc() - CLOCK_AHEAD).0,
        )
        .fetch_all(&mut *connection)
        .await?;
        connection.keep();
        let newest = rows.into_iter().filter_map(|row| {
            let place = usize::try_from(row.position).ok()?.checked_sub(1)?;
            // What cannot be read is found out by whoever syncs the customer; no delivery is refused for it.
            let read = |known| serde_json::from_value::<Acknowledged>(known).ok();
            let acknowledged = row.acknowledged.into_iter().flat_map(|links| links.0).filter_map(read);
            let acknowledged = acknowledged.filter_map(|known| Some(known.newest()?.changed_at)).max();
            Some((*keys.get(place)?, row.stored.max(acknowledged)?))
        });
        Ok(newest.collect())
    }

    /// Makes sure that the next number is past all that are stored, as it may not be after a restore.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn catch_up_numbers(&self) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        // The one question here that is answered by a summary of the table, for which there is no other plan.
        sqlx::query!("set local enable_bitmapscan = on").execute(&mut *transaction).await?;
        let next = sqlx::query_scalar!(
            r#"
            -- catch_up_numbers
            select setval('arrival_numbers', greatest(beyond.number, current.last_value) + $1) as next
            from arrival_numbers current
            cross join lateral (
                select max(arrival) as number
                from deliveries
                where arrival > current.last_value
            ) as beyond
            where beyond.number is not null
            "#,
            LEAP,
        )
        .fetch_optional(&mut *transaction)
        .await?
        .flatten();
        transaction.commit().await?;
        if let Some(next) = next {
            tracing::warn!(
                next,
                "the numbers of arrivals were behind what is stored, as after a restore: they go on past it"
            );
        }
        Ok(())
    }
}

fn key(event: &NewEvent) -> Option<Key<'_>> {
    Some((&event.source, event.delivery.customer.as_ref()?))
}
