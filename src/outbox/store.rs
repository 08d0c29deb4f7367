//! Storing deliveries: many rows, one statement, one commit.
//!
//! Nobody's delivery waits for somebody else's lock: where a row of the queue is held, by a transaction that a person
//! forgot for instance, the group is stored without its places in the queue, which it takes once the row is free.

use std::collections::{BTreeSet, HashMap, HashSet};

use sqlx::PgConnection;

use super::arrival::Arrived;
use super::hearing::Standing;
use super::{Outbox, StoreError};
use crate::domain::{EventId, ShopCustomerId, ShopName, SourceName, TargetName};
use crate::notices::NoticeKind;
use crate::shops::Delivery;

/// A delivery on its way into the outbox.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The shop it came from.
    pub source: SourceName,
    /// The tenant it goes to.
    pub target: TargetName,
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
    /// Not stored: another shop than the source's spoke, and is not to be heard.
    Ignored,
}

/// How long a delivery waits for a row of the queue that somebody else has locked, once: workers hold one for a statement.
pub(super) const QUEUE_LOCK_TIMEOUT: &str = "100ms";
/// Customers that take their place in the queue in one go.
const MAX_UNQUEUED: i64 = 100;

impl Outbox {
    /// Stores deliveries and makes their customers due, in one commit.
    ///
    /// The outcomes stand in the order of the events.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Refused`] nothing of it was stored, after others it may have been.
    pub async fn store(&self, events: &[NewEvent]) -> Result<Vec<StoreOutcome>, StoreError> {
        let heard = match self.hear(events).await {
            Err(error) if error.is_cut() => self.hear(events).await?,
            heard => heard?,
        };
        let taken: Vec<_> = heard.iter().flatten().map(|(event, _)| event.as_ref()).collect();
        let mut arrived = match self.arrive(&taken).await {
            Err(error) if error.is_cut() => self.arrive(&taken).await?,
            arrived => arrived?,
        };
        for (arrived, (_, standing)) in arrived.iter_mut().zip(heard.iter().flatten()) {
            arrived.is_held = *standing == Standing::Held;
        }
        let outcomes = match self.store_arrived(&arrived).await {
            // The shop may not send it again, and storing it twice does no harm.
            Err(error) if error.is_cut() => {
                tracing::debug!(error = %error, deliveries = events.len(), "a connection was cut: storing once more");
                self.store_arrived(&arrived).await?
            }
            outcomes => outcomes?,
        };
        let mut outcomes = outcomes.into_iter();
        Ok(heard
            .iter()
            .map(|heard| heard.as_ref().and_then(|_| outcomes.next()).unwrap_or(StoreOutcome::Ignored))
            .collect())
    }

    async fn store_arrived(&self, arrived: &[Arrived<'_>]) -> Result<Vec<StoreOutcome>, StoreError> {
        // Two processes that store the same rows take the locks in the same order.
        let mut sorted: Vec<_> = arrived.iter().collect();
        sorted.sort_by_key(|arrived| (&arrived.event.source, &arrived.event.delivery.delivery_id, arrived.number));
        let stored = match self.insert_with_places(&sorted).await {
            Err(error) if error.is_of_lock() => {
                self.note_locked_row(&sorted);
                self.insert_without_places(&sorted).await?
            }
            stored => stored?,
        };
        let duplicates: Vec<_> = sorted.iter().copied().filter(|arrived| !stored.contains(&arrived.id)).collect();
        let first = match self.first_of(&duplicates, true).await {
            // To count the repetition is not worth waiting for somebody's lock.
            Err(error) if error.is_of_lock() => self.first_of(&duplicates, false).await?,
            first => first?,
        };
        let outcome = |arrived: &Arrived<'_>| {
            if stored.contains(&arrived.id) {
                return Ok(StoreOutcome::Stored(arrived.id));
            }
            let key = (arrived.event.source.as_str(), arrived.event.delivery.delivery_id.as_str());
            match first.get(&key).copied() {
                // By a commit whose answer was lost.
                Some(first) if first == arrived.id => Ok(StoreOutcome::Stored(first)),
                Some(first) => Ok(StoreOutcome::Duplicate(first)),
                // The first was removed in between: never 200 for what is not there.
                None => Err(StoreError::Inconsistent("a duplicate of a delivery that is gone".to_owned())),
            }
        };
        arrived.iter().map(outcome).collect()
    }

    fn note_locked_row(&self, sorted: &[&Arrived<'_>]) {
        let sources: BTreeSet<_> = sorted.iter().map(|arrived| arrived.event.source.as_str()).collect();
        for source in sources {
            self.notices.note(
                NoticeKind::QueueRowLocked,
                source,
                "another transaction holds a customer's row of waiting_customers: changes are stored, and those of that \
                 customer wait until it ends (pg_stat_activity shows who is `idle in transaction`)",
            );
        }
    }

    async fn insert_with_places(&self, sorted: &[&Arrived<'_>]) -> Result<HashSet<EventId>, StoreError> {
        if sorted.iter().any(|arrived| arrived.is_held) {
            let mut transaction = self.pool.begin().await?;
            let stored = self.insert(&mut transaction, sorted, true).await?;
            hold(&mut transaction, sorted, &stored).await?;
            transaction.commit().await?;
            return Ok(stored);
        }
        let mut connection = self.warm.connection().await?;
        let stored = self.insert(&mut connection, sorted, true).await?;
        connection.keep();
        Ok(stored)
    }

    async fn insert_without_places(&self, sorted: &[&Arrived<'_>]) -> Result<HashSet<EventId>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        // What is locked now is worth waiting for: without it nothing can be stored.
        sqlx::query!("set local lock_timeout = '2s'").execute(&mut *transaction).await?;
        let stored = self.insert(&mut transaction, sorted, false).await?;
        hold(&mut transaction, sorted, &stored).await?;
        transaction.commit().await?;
        Ok(stored)
    }

    /// Writes deliveries, and makes their customers due: in the queue, or, where a row of it is held, beside it.
    async fn insert(
        &self,
        connection: &mut PgConnection,
        sorted: &[&Arrived<'_>],
        in_queue: bool,
    ) -> Result<HashSet<EventId>, StoreError> {
        let stored = sqlx::query_scalar!(
            r#"
            -- store
            with incoming as (
                select *
                from unnest(
                    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                    $9::timestamptz[], $10::timestamptz[], $11::jsonb[], $12::text[], $14::text[], $15::boolean[],
                    $16::bigint[], $17::timestamptz[], $19::text[], $20::boolean[]
                ) as event (
                    id, source, target, delivery_id, topic, shop_customer_id, email, concerns,
                    occurred_at, received_at, warnings, payload, traceparent, is_asked_for, arrival, triggered_at,
                    shop, is_held
                )
            ),
            stored as (
                insert into deliveries (
                    id, source, delivery_id, topic, shop_customer_id, email, concerns,
                    occurred_at, received_at, intake_warnings, payload, traceparent, arrival, triggered_at, shop
                )
                select
                    id, source, delivery_id, topic, shop_customer_id, email, concerns,
                    occurred_at, received_at, array(select jsonb_array_elements_text(warnings)), payload::json,
                    traceparent, arrival, triggered_at, shop
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
                where stored.concerns = 'customer' and not incoming.is_held and $18
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
            ),
            left_out as (
                insert into unqueued_changes (event_id, source, shop_customer_id, target, is_asked_for)
                select stored.id, stored.source, stored.shop_customer_id, incoming.target, incoming.is_asked_for
                from stored
                join incoming using (id)
                where stored.concerns = 'customer' and not incoming.is_held and not $18
            )
            select id as "id!: EventId"
            from stored
            "#,
            &column(sorted, |arrived| arrived.id.0),
            &column(sorted, |arrived| arrived.event.source.as_str()) as _,
            &column(sorted, |arrived| arrived.event.target.as_str()) as _,
            &column(sorted, |arrived| arrived.event.delivery.delivery_id.as_str()) as _,
            &column(sorted, |arrived| arrived.event.delivery.topic.as_str()) as _,
            &column(sorted, |arrived| arrived.event.delivery.customer.as_ref().map(ShopCustomerId::as_str)) as _,
            &column(sorted, |arrived| arrived.event.delivery.email.as_deref()) as _,
            &column(sorted, |arrived| arrived.event.delivery.concerns.as_str()) as _,
            &column(sorted, |arrived| arrived.occurred_at),
            &column(sorted, |arrived| arrived.received_at),
            &column(sorted, |arrived| Arrived::warnings(arrived)),
            &column(sorted, |arrived| arrived.event.delivery.payload.as_str()) as _,
            self.clock.for_postgres() as _,
            &column(sorted, |arrived| arrived.event.traceparent.as_deref()) as _,
            &column(sorted, |arrived| arrived.event.delivery.is_asked_for),
            &column(sorted, |arrived| arrived.number),
            &column(sorted, |arrived| arrived.event.delivery.triggered_at) as _,
            in_queue,
            &column(sorted, |arrived| arrived.event.delivery.shop.as_ref().map(ShopName::as_str)) as _,
            &column(sorted, |arrived| arrived.is_held),
        )
        .fetch_all(connection)
        .await?;
        Ok(stored.into_iter().collect())
    }

    /// The events that duplicates are duplicates of, which takes note of the repetition; asked apart, since a statement
    /// does not see what another one committed while it ran.
    ///
    /// It has a commit of its own, also where nothing is written: one that waits for a synchronous standby. The first
    /// delivery's may have been cut off while it waited.
    async fn first_of<'a>(
        &self,
        duplicates: &[&Arrived<'a>],
        is_counted: bool,
    ) -> Result<HashMap<(&'a str, &'a str), EventId>, StoreError> {
        if duplicates.is_empty() {
            return Ok(HashMap::new());
        }
        let mut connection = self.warm.connection().await?;
        let rows = sqlx::query!(
            r#"
            -- first_of
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
            counted as (
                insert into duplicates as known (event_id, deliveries, first_at, last_at)
                select id, count(*), max(moment.now), max(moment.now)
                from first, (select coalesce($3::timestamptz, clock_timestamp()) as now) moment
                where $5
                  and is_another                 -- else it is itself, stored by a commit whose answer was lost
                group by id
                order by id                      -- locks in one order
                on conflict (event_id) do update
                set deliveries = known.deliveries + excluded.deliveries, last_at = excluded.last_at
            )
            -- a transaction with an id is committed as one that wrote
            select id as "id: EventId", source, delivery_id, txid_current() as "transaction!"
            from first
            "#,
            &column(duplicates, |arrived| arrived.event.source.as_str()) as _,
            &column(duplicates, |arrived| arrived.event.delivery.delivery_id.as_str()) as _,
            self.clock.for_postgres() as _,
            &column(duplicates, |arrived| arrived.id.0),
            is_counted,
        )
        .fetch_all(&mut *connection)
        .await?;
        connection.keep();
        Ok(duplicates
            .iter()
            .filter_map(|arrived| {
                let key = (arrived.event.source.as_str(), arrived.event.delivery.delivery_id.as_str());
                let row = rows.iter().find(|row| (row.source.as_str(), row.delivery_id.as_str()) == key)?;
                Some((key, row.id))
            })
            .collect())
    }

    /// Gives changes that were stored while somebody held their customer's row their place in the queue; those whose row is
    /// held still are left for the next time. Tells whether any took its place.
    ///
    /// # Errors
    /// [`StoreError`]; those before it took theirs.
    pub async fn queue_left_out(&self) -> Result<bool, StoreError> {
        let customers = sqlx::query!(
            r#"
            -- left_out_customers
            select distinct source, shop_customer_id
            from unqueued_changes
            order by source, shop_customer_id
            limit $1
            "#,
            MAX_UNQUEUED,
        )
        .fetch_all(&self.pool)
        .await?;
        let mut is_any_queued = false;
        for customer in customers {
            match self.queue_changes_of(&customer.source, &customer.shop_customer_id).await {
                Ok(is_queued) => is_any_queued |= is_queued,
                Err(error) if error.is_of_lock() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(is_any_queued)
    }

    async fn queue_changes_of(&self, source: &str, customer: &str) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query!("select set_config('lock_timeout', $1, true)", QUEUE_LOCK_TIMEOUT)
            .fetch_one(&mut *transaction)
            .await?;
        let queued = sqlx::query!(
            r#"
            -- queue_left_out
            with left_out as (
                delete from unqueued_changes
                where source = $1
                  and shop_customer_id = $2
                returning event_id, target, is_asked_for
            )
            insert into waiting_customers as waiting (
                source, shop_customer_id, target, due_at, changed_at, first_event_id, is_asked_for
            )
            select
                $1, $2, max(target), max(moment.now), max(moment.now), (array_agg(event_id order by event_id))[1],
                bool_and(is_asked_for)
            from left_out
            cross join (select coalesce($3::timestamptz, clock_timestamp()) as now) moment
            having count(*) > 0
            on conflict (source, shop_customer_id) do update
            set target = excluded.target,
                priority = 0,
                due_at = least(waiting.due_at, excluded.due_at),
                changed_at = excluded.changed_at,
                is_asked_for = waiting.is_asked_for and excluded.is_asked_for,
                first_event_id = least(waiting.first_event_id, excluded.first_event_id),
                revision = waiting.revision + 1
            "#,
            source,
            customer,
            self.clock.for_postgres() as _,
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(queued > 0)
    }
}

/// Takes note of those that wait for a person; apart, since for all others the table is not needed.
async fn hold(
    connection: &mut PgConnection,
    sorted: &[&Arrived<'_>],
    stored: &HashSet<EventId>,
) -> Result<(), StoreError> {
    let held = sorted.iter().filter(|arrived| arrived.is_held && stored.contains(&arrived.id));
    let held: Vec<_> = held.map(|arrived| arrived.id.0).collect();
    if held.is_empty() {
        return Ok(());
    }
    sqlx::query!("insert into event_states (event_id, status) select unnest($1::uuid[]), 'held'", &held)
        .execute(connection)
        .await?;
    Ok(())
}

impl Arrived<'_> {
    /// An array of arrays has to be rectangular in Postgres: the warnings travel as JSON.
    fn warnings(&self) -> serde_json::Value {
        let all = self.event.delivery.warnings.iter().map(String::as_str).chain(self.warning);
        serde_json::Value::from(all.collect::<Vec<_>>())
    }
}

/// One value of each row.
fn column<'a, R, T>(rows: &'a [R], value: impl FnMut(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Clock, DeliveryId};
    use crate::outbox::scratch::Scratch;
    use crate::shops::Concerns;

    fn event(delivery: usize) -> NewEvent {
        NewEvent {
            source: SourceName::parse("shop").expect("a name"),
            target: TargetName::parse("default").expect("a name"),
            delivery: Delivery {
                shop: None,
                delivery_id: DeliveryId::parse(format!("d{delivery}")).expect("an id"),
                topic: "customer.updated".to_owned(),
                customer: Some(ShopCustomerId::parse("c1").expect("an id")),
                email: None,
                occurred_at: None,
                triggered_at: None,
                concerns: Concerns::Customer,
                is_asked_for: true,
                payload: "{}".to_owned(),
                warnings: vec![],
            },
            traceparent: None,
        }
    }

    #[tokio::test]
    async fn a_delivery_whose_answer_was_lost_is_no_duplicate_of_itself() {
        let scratch = Scratch::new("lost_answer").await;
        let outbox = scratch.outbox(Clock::System).await;
        let both = [event(1), event(1)];
        let lost = outbox.arrive(&[&both[0]]).await.expect("a place");
        let stored = StoreOutcome::Stored(lost[0].id);
        assert_eq!(outbox.store_arrived(&lost).await.expect("stored"), [stored]);
        let mut together = outbox.arrive(&[&both[1]]).await.expect("a place");
        together.extend(lost.iter().cloned());
        let outcomes = outbox.store_arrived(&together).await.expect("known");
        assert_eq!(outcomes, [StoreOutcome::Duplicate(lost[0].id), stored]);
        let count = async |sql| sqlx::query_scalar::<_, i64>(sql).fetch_one(&outbox.pool).await.expect("a number");
        assert_eq!(count("select deliveries from duplicates").await, 1, "one other came");
        assert_eq!(count("select count(*) from deliveries").await, 1);
        outbox.close().await;
        scratch.remove().await;
    }

    #[tokio::test]
    async fn changes_of_one_customer_and_duplicates_of_one_delivery_may_come_together() {
        let scratch = Scratch::new("store").await;
        // The database's own clock goes on within a statement.
        let outbox = scratch.outbox(Clock::System).await;
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
