//! Storing deliveries: many rows, one statement, one commit.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};

use super::{Outbox, StoreError};
use crate::domain::{EventId, SourceName, TargetName};
use crate::shops::Delivery;

/// A delivery on its way into the outbox.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The id it will have.
    pub id: EventId,
    /// The shop it came from.
    pub source: SourceName,
    /// The tenant it goes to.
    pub target: TargetName,
    /// When it arrived.
    pub received_at: DateTime<Utc>,
    /// What the shop sent.
    pub delivery: Delivery,
    /// Its place in a trace, as W3C `traceparent`; none where nothing is traced.
    pub traceparent: Option<String>,
}

/// What became of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreOutcome {
    /// Stored and committed.
    Stored(EventId),
    /// Stored before, as this event.
    Duplicate(EventId),
}

impl Outbox {
    /// Stores deliveries and makes their customers due, in one commit.
    ///
    /// The outcomes stand in the order of the events.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Refused`] nothing of it was stored, after others it may have been.
    pub async fn store(&self, events: &[NewEvent]) -> Result<Vec<StoreOutcome>, StoreError> {
        match self.store_once(events).await {
            // The shop may not send it again, and storing it twice does no harm.
            Err(error) if error.is_cut() => {
                tracing::debug!(error = %error, deliveries = events.len(), "a connection was cut: storing once more");
                self.store_once(events).await
            }
            outcome => outcome,
        }
    }

    #[expect(clippy::too_many_lines, reason = "one statement")]
    async fn store_once(&self, events: &[NewEvent]) -> Result<Vec<StoreOutcome>, StoreError> {
        // Two processes that store the same rows take the locks in the same order.
        let mut sorted: Vec<_> = events.iter().collect();
        sorted.sort_by(|a, b| {
            (&a.source, &a.delivery.delivery_id, a.id).cmp(&(&b.source, &b.delivery.delivery_id, b.id))
        });
        let column = |text: fn(&NewEvent) -> &str| sorted.iter().map(|event| text(event)).collect::<Vec<_>>();
        let optional = |text: fn(&NewEvent) -> Option<&str>| sorted.iter().map(|event| text(event)).collect::<Vec<_>>();
        let ids: Vec<_> = sorted.iter().map(|event| event.id.0).collect();
        let occurred: Vec<_> = sorted.iter().map(|e| e.delivery.occurred_at.unwrap_or(e.received_at)).collect();
        let received: Vec<_> = sorted.iter().map(|event| event.received_at).collect();
        // An array of arrays has to be rectangular in Postgres: the warnings travel as JSON.
        let warnings: Vec<_> = sorted.iter().map(|event| serde_json::json!(event.delivery.warnings)).collect();

        let mut connection = self.warm.connection().await?;
        let stored = sqlx::query_scalar!(
            r#"
            with incoming as (
                select *
                from unnest(
                    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                    $9::timestamptz[], $10::timestamptz[], $11::jsonb[], $12::text[], $14::text[], $15::boolean[]
                ) as event (
                    id, source, target, delivery_id, topic, shop_customer_id, email, concerns,
                    occurred_at, received_at, warnings, payload, traceparent, is_asked_for
                )
            ),
            stored as (
                insert into deliveries (
                    id, source, delivery_id, topic, shop_customer_id, email, concerns,
                    occurred_at, received_at, intake_warnings, payload, traceparent
                )
                select
                    id, source, delivery_id, topic, shop_customer_id, email, concerns,
                    occurred_at, received_at, array(select jsonb_array_elements_text(warnings)), payload::json,
                    traceparent
                from incoming
                on conflict (source, delivery_id) do nothing
                returning id, source, shop_customer_id, concerns
            ),
            due as (
                insert into waiting_customers as waiting (
                    source, shop_customer_id, target, due_at, changed_at, first_event_id, is_asked_for
                )
                select
                    stored.source,
                    stored.shop_customer_id,
                    max(incoming.target),
                    max(moment.now),
                    max(moment.now),
                    (array_agg(stored.id order by stored.id))[1],        -- there is no min(uuid) before Postgres 18
                    bool_and(incoming.is_asked_for)
                from stored
                join incoming using (id)
                cross join (select coalesce($13::timestamptz, clock_timestamp()) as now) moment
                where stored.concerns = 'customer'
                group by stored.source, stored.shop_customer_id
                order by stored.source, stored.shop_customer_id          -- locks in one order, as above
                on conflict (source, shop_customer_id) do update
                set target = excluded.target,
                    priority = 0,
                    due_at = least(waiting.due_at, excluded.due_at),     -- what waits for a retry goes out with it
                    changed_at = excluded.changed_at,
                    is_asked_for = waiting.is_asked_for and excluded.is_asked_for,
                    first_event_id = least(waiting.first_event_id, excluded.first_event_id),
                    revision = waiting.revision + 1
            )
            select id as "id!"
            from stored
            "#,
            &ids,
            &column(|event| event.source.as_str()) as _,
            &column(|event| event.target.as_str()) as _,
            &column(|event| event.delivery.delivery_id.as_str()) as _,
            &column(|event| &event.delivery.topic) as _,
            &optional(|event| event.delivery.customer.as_ref().map(crate::domain::ShopCustomerId::as_str)) as _,
            &optional(|event| event.delivery.email.as_deref()) as _,
            &column(|event| event.delivery.concerns.as_str()) as _,
            &occurred,
            &received,
            &warnings,
            &column(|event| &event.delivery.payload) as _,
            self.clock.for_postgres(),
            &optional(|event| event.traceparent.as_deref()) as _,
            &sorted.iter().map(|event| event.delivery.is_asked_for).collect::<Vec<_>>(),
        )
        .fetch_all(&mut *connection)
        .await?;
        connection.keep();
        let stored: HashSet<_> = stored.into_iter().collect();

        let duplicates: Vec<_> = sorted.iter().filter(|event| !stored.contains(&event.id.0)).collect();
        let first = self.first_of(&duplicates).await?;
        let outcome = |event: &NewEvent| {
            if stored.contains(&event.id.0) {
                return Ok(StoreOutcome::Stored(event.id));
            }
            let key = (event.source.as_str(), event.delivery.delivery_id.as_str());
            match first.get(&key).copied() {
                // By a commit whose answer was lost.
                Some(first) if first == event.id => Ok(StoreOutcome::Stored(first)),
                Some(first) => Ok(StoreOutcome::Duplicate(first)),
                // The first was removed in between: never 200 for what is not there.
                None => Err(StoreError::Inconsistent("a duplicate of a delivery that is gone".to_owned())),
            }
        };
        events.iter().map(outcome).collect()
    }

    /// The events that duplicates are duplicates of, which takes note of the repetition; asked apart, since a statement
    /// does not see what another one committed while it ran.
    async fn first_of<'a>(
        &self,
        duplicates: &[&&'a NewEvent],
    ) -> Result<HashMap<(&'a str, &'a str), EventId>, StoreError> {
        if duplicates.is_empty() {
            return Ok(HashMap::new());
        }
        let sources: Vec<_> = duplicates.iter().map(|event| event.source.as_str()).collect();
        let deliveries: Vec<_> = duplicates.iter().map(|event| event.delivery.delivery_id.as_str()).collect();
        let ids: Vec<_> = duplicates.iter().map(|event| event.id.0).collect();
        let mut connection = self.warm.connection().await?;
        let rows = sqlx::query!(
            r#"
            with first as (
                select d.id, d.source, d.delivery_id, duplicate.id <> d.id as is_another
                from unnest($1::text[], $2::text[], $4::uuid[]) as duplicate (source, delivery_id, id)
                cross join lateral (             -- the next one in the order of the index, which has to be it: see LIVE
                    select id, source, delivery_id
                    from deliveries
                    where (deliveries.source, deliveries.delivery_id) >= (duplicate.source, duplicate.delivery_id)
                    order by deliveries.source, deliveries.delivery_id
                    limit 1
                ) as d
                where d.source = duplicate.source
                  and d.delivery_id = duplicate.delivery_id
            ),
            noted as (
                insert into duplicates as known (event_id, deliveries, first_at, last_at)
                select id, count(*), max(moment.now), max(moment.now)
                from first, (select coalesce($3::timestamptz, clock_timestamp()) as now) moment
                where is_another                 -- else it is itself, stored by a commit whose answer was lost
                group by id
                order by id                      -- locks in one order
                on conflict (event_id) do update
                set deliveries = known.deliveries + excluded.deliveries, last_at = excluded.last_at
            )
            select id as "id: EventId", source, delivery_id
            from first
            "#,
            &sources as _,
            &deliveries as _,
            self.clock.for_postgres(),
            &ids,
        )
        .fetch_all(&mut *connection)
        .await?;
        connection.keep();
        Ok(duplicates
            .iter()
            .filter_map(|event| {
                let key = (event.source.as_str(), event.delivery.delivery_id.as_str());
                let row = rows.iter().find(|row| (row.source.as_str(), row.delivery_id.as_str()) == key)?;
                Some((key, row.id))
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Clock, DeliveryId, EventIds, ShopCustomerId};
    use crate::outbox::scratch::Scratch;
    use crate::shops::Concerns;

    #[tokio::test]
    async fn changes_of_one_customer_and_duplicates_of_one_delivery_may_come_together() {
        let scratch = Scratch::new("store").await;
        // The database's own clock goes on within a statement.
        let outbox = scratch.outbox(Clock::System).await;
        let ids = EventIds::default();
        let event = |delivery: usize| NewEvent {
            id: ids.next(Clock::System.now()),
            source: SourceName::parse("shop").expect("a name"),
            target: TargetName::parse("default").expect("a name"),
            received_at: Clock::System.now(),
            delivery: Delivery {
                delivery_id: DeliveryId::parse(format!("d{delivery}")).expect("an id"),
                topic: "customer.updated".to_owned(),
                customer: Some(ShopCustomerId::parse("c1").expect("an id")),
                email: None,
                occurred_at: None,
                concerns: Concerns::Customer,
                is_asked_for: true,
                payload: "{}".to_owned(),
                warnings: vec![],
            },
            traceparent: None,
        };
        for _ in 0..20 {
            let first: Vec<_> = (0..16).map(event).collect();
            outbox.store(&first).await.expect("stored, or duplicates of the first round");
            let again: Vec<_> = (0..16).map(|_| event(1)).collect();
            let outcomes = outbox.store(&again).await.expect("known");
            assert!(outcomes.iter().all(|outcome| matches!(outcome, StoreOutcome::Duplicate(_))), "{outcomes:?}");
        }
        let queue = "select count(*), bool_and(is_asked_for), bool_and(changed_at = due_at) from waiting_customers";
        let queue: (i64, bool, bool) = sqlx::query_as(queue).fetch_one(&outbox.pool).await.expect("a row");
        assert_eq!(queue, (1, true, true));
        outbox.close().await;
        scratch.remove().await;
    }
}
