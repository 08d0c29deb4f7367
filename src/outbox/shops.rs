//! What people decide of the shops that speak on a source, and what comes of it.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::hearing::Standing;
use super::place::Place;
use super::store::QUEUE_LOCK_TIMEOUT;
use super::{DoneBy, Outbox, StoreError, intervene};
use crate::domain::{ShopCustomerId, ShopName, SourceName};

/// A shop that spoke on a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpokenShop {
    /// The source.
    pub source: SourceName,
    /// The name it gives itself: host and path.
    pub shop: String,
    /// What becomes of what it says.
    pub standing: Standing,
    /// Why: `remembered`, `named`, `accepted`, `ignored`, `other`.
    pub by: String,
    /// When it first spoke.
    pub first_spoke_at: DateTime<Utc>,
    /// When a person decided.
    pub decided_at: Option<DateTime<Utc>>,
    /// Deliveries of it that are held.
    pub held: i64,
    /// Of so many customers.
    pub held_customers: i64,
    /// Since when.
    pub held_since: Option<DateTime<Utc>>,
}

/// What a person decides of a shop that spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShopDecision {
    /// It is the source's shop under another name: its ids are the source's.
    Accept,
    /// It is another shop: what it said and says is not sent.
    Ignore,
}

/// Customers looked at in one go.
const BATCH: i64 = 200;
/// What was on its way in while a person decided is stored by then.
const IN_FLIGHT: chrono::Duration = chrono::Duration::minutes(1);

impl Outbox {
    /// The shops that spoke, and what is held of each.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn spoken_shops(&self) -> Result<Vec<SpokenShop>, StoreError> {
        let shops = sqlx::query_as!(
            SpokenShop,
            r#"
            -- spoken_shops
            with held as (
                select
                    d.source,
                    d.shop,
                    count(*) as deliveries,
                    count(distinct d.shop_customer_id) as customers,
                    min(d.received_at) as since
                from event_states s
                join deliveries d on d.id = s.event_id
                where s.status = 'held'
                group by d.source, d.shop
            )
            select
                s.source as "source!: SourceName",
                s.shop as "shop!",
                standing_of_shop(s.source, s.shop) as "standing!: Standing",
                s.standing as "by!",
                s.first_spoke_at as "first_spoke_at!",
                s.decided_at,
                coalesce(held.deliveries, 0) as "held!",
                coalesce(held.customers, 0) as "held_customers!",
                held.since as held_since
            from source_shops s
            left join held using (source, shop)
            order by s.source, s.first_spoke_at, s.shop
            "#,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(shops)
    }

    /// How many of the customers that are held of a shop are known to the source under the same id with another e-mail:
    /// many of them, and it is another shop.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ids_with_other_emails(&self, source: &SourceName, shop: &ShopName) -> Result<i64, StoreError> {
        let other = sqlx::query_scalar!(
            r#"
            -- ids_with_other_emails
            with theirs as (
                select distinct on (d.shop_customer_id)
                    substr(d.shop_customer_id, length($2::text) + 2) as id,
                    lower(d.email) as email
                from event_states s
                join deliveries d on d.id = s.event_id
                where s.status = 'held'
                  and d.source = $1
                  and d.shop = $2
                  and d.email is not null
                order by d.shop_customer_id, d.id desc
            )
            select count(*) as "count!"
            from theirs
            cross join lateral (
                select lower(d.email) as email
                from deliveries d
                where d.source = $1
                  and d.shop_customer_id = theirs.id
                  and d.email is not null
                order by d.id desc
                limit 1
            ) as ours
            where ours.email <> theirs.email
            "#,
            source.as_str(),
            shop.as_str(),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(other)
    }

    /// Takes note of what a person decided of a shop that spoke; [`Outbox::settle_shops`] carries it out, here or by any
    /// worker. `false`: that shop never spoke on the source.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn decide_on_shop(
        &self,
        source: &SourceName,
        shop: &ShopName,
        decision: ShopDecision,
        by: DoneBy,
    ) -> Result<bool, StoreError> {
        let (standing, action) = match decision {
            ShopDecision::Accept => ("accepted", "accept_shop"),
            ShopDecision::Ignore => ("ignored", "ignore_shop"),
        };
        let mut transaction = self.pool.begin().await?;
        let decided = sqlx::query!(
            r#"
            -- decide_on_shop
            update source_shops
            set standing = $3,
                decided_at = coalesce($4::timestamptz, clock_timestamp()),
                is_to_set_apart = $3 = 'ignored'
                    and (is_to_set_apart or standing_of_shop(source, shop) = 'ours')
            where source = $1
              and shop = $2
            "#,
            source.as_str(),
            shop.as_str(),
            standing,
            self.clock.for_postgres() as _,
        )
        .execute(&mut *transaction)
        .await?;
        if decided.rows_affected() == 0 {
            return Ok(false);
        }
        intervene::done_by(&mut transaction, by).await?;
        sqlx::query!(
            r#"
            -- note_decision
            insert into interventions (at, action, source, outcome)
            values (coalesce($1::timestamptz, clock_timestamp()), $2, $3, $4)
            "#,
            self.clock.for_postgres() as _,
            action,
            source.as_str(),
            format!("the shop {shop} is {standing}"),
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Carries out what was decided of shops: what is held of one that is heard takes its place in the order, that of one
    /// that is ignored is closed, and what an ignored one had said before is set apart. What somebody holds just now is
    /// left for the next time. Tells whether anything became due.
    ///
    /// # Errors
    /// [`StoreError`]; what was done before stays done.
    pub async fn settle_shops(&self) -> Result<bool, StoreError> {
        let held = sqlx::query!(
            r#"
            -- shops_with_held
            select
                held.source as "source!: SourceName",
                held.shop as "shop!: ShopName",
                hear_shop(held.source, held.shop, coalesce($1::timestamptz, clock_timestamp())) as "standing!: Standing",
                exists (
                    select
                    from source_shops decided
                    where decided.source = held.source
                      and decided.shop = held.shop
                      and decided.standing = 'ignored'
                ) as "is_decided!"
            from (
                select distinct d.source, d.shop
                from event_states s
                join deliveries d on d.id = s.event_id
                where s.status = 'held'
            ) as held
            "#,
            self.clock.for_postgres() as _,
        )
        .fetch_all(&self.pool)
        .await?;
        let mut is_any_due = false;
        for row in held {
            match row.standing {
                Standing::Ours => is_any_due |= self.release_held(&row.source, &row.shop).await?,
                Standing::Ignored if row.is_decided => self.close_held(&row.source, &row.shop).await?,
                Standing::First | Standing::Held | Standing::Ignored => {}
            }
        }
        let to_set_apart = sqlx::query!(
            r#"
            -- shops_to_set_apart
            select source as "source!: SourceName", shop as "shop!: ShopName"
            from source_shops
            where is_to_set_apart
            "#,
        )
        .fetch_all(&self.pool)
        .await?;
        for row in to_set_apart {
            self.set_shop_apart(&row.source, &row.shop).await?;
        }
        Ok(is_any_due)
    }

    async fn release_held(&self, source: &SourceName, shop: &ShopName) -> Result<bool, StoreError> {
        let (mut after, mut is_any_due) = (String::new(), false);
        loop {
            let customers = sqlx::query_scalar!(
                r#"
                -- customers_with_held
                select distinct d.shop_customer_id as "customer!"
                from event_states s
                join deliveries d on d.id = s.event_id
                where s.status = 'held'
                  and d.source = $1
                  and d.shop = $2
                  and d.shop_customer_id > $3
                order by 1
                limit $4
                "#,
                source.as_str(),
                shop.as_str(),
                after,
                BATCH,
            )
            .fetch_all(&self.pool)
            .await?;
            let Some(last) = customers.last() else { return Ok(is_any_due) };
            after.clone_from(last);
            for customer in &customers {
                match self.release_customer(source, shop, customer).await {
                    Ok(()) => is_any_due = true,
                    Err(error) if error.is_of_lock() => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Held changes of a customer become the source's own: what arrived before as a delivery of the source is superseded by
    /// that, the rest waits for its turn.
    async fn release_customer(&self, source: &SourceName, shop: &ShopName, held_as: &str) -> Result<(), StoreError> {
        let prefix = shop.prefix();
        let mut transaction = self.pool.begin().await?;
        sqlx::query!("select set_config('lock_timeout', $1, true)", QUEUE_LOCK_TIMEOUT)
            .fetch_one(&mut *transaction)
            .await?;
        // The queue's row first, as everybody does.
        sqlx::query!(
            r#"
            -- queue_released
            insert into waiting_customers as waiting (
                source, shop_customer_id, target, due_at, changed_at, first_event_id
            )
            select
                $1,
                substr($2::text, length($3::text) + 1),
                coalesce((select target from sources where name = $1), 'default'),
                moment.now,
                moment.now,
                (array_agg(d.id order by d.id))[1]
            from deliveries d
            join event_states s on s.event_id = d.id
            cross join (select coalesce($4::timestamptz, clock_timestamp()) as now) moment
            where d.source = $1
              and d.shop_customer_id = $2
              and s.status = 'held'
            group by moment.now
            on conflict (source, shop_customer_id) do update
            set due_at = least(waiting.due_at, excluded.due_at),
                changed_at = excluded.changed_at,
                first_event_id = least(waiting.first_event_id, excluded.first_event_id),
                revision = waiting.revision + 1
            "#,
            source.as_str(),
            held_as,
            prefix,
            self.clock.for_postgres() as _,
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!(
            r#"
            -- release_held
            with released as (
                select d.id, first.id as first_id
                from deliveries d
                left join deliveries first
                    on first.source = d.source
                    and first.delivery_id = substr(d.delivery_id, length($3::text) + 1)
                where d.source = $1
                  and d.shop_customer_id = $2
            ),
            renamed as (
                update deliveries d
                set shop_customer_id = substr(d.shop_customer_id, length($3::text) + 1),
                    delivery_id = case
                        when released.first_id is null then substr(d.delivery_id, length($3::text) + 1)
                        else d.delivery_id
                    end
                from released
                where d.id = released.id
            )
            update event_states s
            set status = case when released.first_id is null then 'pending' else 'superseded' end,
                superseded_by = released.first_id,
                finished_at = case
                    when released.first_id is not null then coalesce($4::timestamptz, clock_timestamp())
                end
            from released
            where s.event_id = released.id
              and s.status = 'held'
            "#,
            source.as_str(),
            held_as,
            prefix,
            self.clock.for_postgres() as _,
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn close_held(&self, source: &SourceName, shop: &ShopName) -> Result<(), StoreError> {
        loop {
            let closed = sqlx::query!(
                r#"
                -- close_held
                update event_states
                set status = 'discarded',
                    finished_at = coalesce($3::timestamptz, clock_timestamp()),
                    warnings = warnings || 'discarded: its shop is ignored'::text
                where event_id in (
                    select s.event_id
                    from event_states s
                    join deliveries d on d.id = s.event_id
                    where s.status = 'held'
                      and d.source = $1
                      and d.shop = $2
                    order by s.event_id
                    limit $4
                    for update of s skip locked
                )
                "#,
                source.as_str(),
                shop.as_str(),
                self.clock.for_postgres() as _,
                BATCH,
            )
            .execute(&self.pool)
            .await?;
            if closed.rows_affected() < BATCH.unsigned_abs() {
                return Ok(());
            }
        }
    }

    async fn set_shop_apart(&self, source: &SourceName, shop: &ShopName) -> Result<(), StoreError> {
        let (mut after, mut is_whole) = (String::new(), true);
        loop {
            let customers = sqlx::query_scalar!(
                r#"
                -- customers_to_set_apart
                select distinct shop_customer_id as "customer!: ShopCustomerId"
                from deliveries
                where source = $1
                  and shop = $2
                  and concerns = 'customer'
                  and not starts_with(shop_customer_id, $3)
                  and shop_customer_id > $4
                order by 1
                limit $5
                "#,
                source.as_str(),
                shop.as_str(),
                shop.prefix(),
                after,
                BATCH,
            )
            .fetch_all(&self.pool)
            .await?;
            let Some(last) = customers.last() else { break };
            last.as_str().clone_into(&mut after);
            for customer in &customers {
                is_whole &= match self.set_customer_apart(source, shop, customer).await {
                    Err(error) if error.is_of_lock() => false,
                    outcome => outcome?,
                };
            }
        }
        if is_whole {
            sqlx::query!(
                r#"
                -- all_is_set_apart
                update source_shops
                set is_to_set_apart = false
                where source = $1
                  and shop = $2
                  and decided_at < coalesce($3::timestamptz, clock_timestamp()) - $4::interval
                "#,
                source.as_str(),
                shop.as_str(),
                self.clock.for_postgres() as _,
                IN_FLIGHT as _,
            )
            .execute(&self.pool)
            .await?;
        }
        Ok(())
    }

    /// What another shop had said of a customer is kept under an id of its own, and what of it waits is closed. The link
    /// goes unless a person gave it, or another shop spoke of that customer, too; then what was acknowledged is forgotten,
    /// and the next change is sent whole. `false` while a worker has the customer.
    async fn set_customer_apart(
        &self,
        source: &SourceName,
        shop: &ShopName,
        customer: &ShopCustomerId,
    ) -> Result<bool, StoreError> {
        let now = self.clock.for_postgres();
        let mut transaction = self.pool.begin().await?;
        sqlx::query!("select set_config('lock_timeout', $1, true)", QUEUE_LOCK_TIMEOUT)
            .fetch_one(&mut *transaction)
            .await?;
        let key = (source.as_str(), customer.as_str());
        let Some(place) = Place::take(&mut transaction, key, now).await? else { return Ok(false) };
        let events = sqlx::query_scalar!(
            r#"
            -- set_deliveries_apart
            update deliveries d
            set shop_customer_id = $4 || d.shop_customer_id,
                delivery_id = $4 || d.delivery_id || case
                    -- it was held before, and accepted as a repetition
                    when exists (
                        select
                        from deliveries other
                        where other.source = d.source
                          and other.delivery_id = $4 || d.delivery_id
                    ) then '#' || d.id
                    else ''
                end
            where d.source = $1
              and d.shop_customer_id = $2
              and d.shop = $3
              and d.concerns = 'customer'
            returning d.id
            "#,
            source.as_str(),
            customer.as_str(),
            shop.as_str(),
            shop.prefix(),
        )
        .fetch_all(&mut *transaction)
        .await?;
        sqlx::query!(
            r#"
            -- close_set_apart
            insert into event_states as state (event_id, status, warnings, finished_at)
            select id, 'discarded', array['discarded: its shop is ignored'], coalesce($2::timestamptz, clock_timestamp())
            from unnest($1::uuid[]) as id
            order by id
            on conflict (event_id) do update
            set status = excluded.status,
                finished_at = excluded.finished_at,
                warnings = state.warnings || excluded.warnings
            where state.finished_at is null
               or state.status = 'failed'
            "#,
            &events,
            now as _,
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!("delete from unqueued_changes where event_id = any($1)", &events)
            .execute(&mut *transaction)
            .await?;
        sqlx::query!(
            r#"
            -- unlink_set_apart
            delete from customer_links l
            where l.source = $1
              and l.shop_customer_id = $2
              and l.origin <> 'import'
              and not exists (
                  select
                  from deliveries d
                  where d.source = $1
                    and d.shop_customer_id = $2
                    and d.concerns = 'customer'
              )
            "#,
            source.as_str(),
            customer.as_str(),
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!(
            r#"
            -- forget_acknowledged
            update customer_links
            set acknowledged = '{}', email_hash = null
            where source = $1
              and shop_customer_id = $2
            "#,
            source.as_str(),
            customer.as_str(),
        )
        .execute(&mut *transaction)
        .await?;
        place.give_back(&mut transaction, (source, customer)).await?;
        transaction.commit().await?;
        Ok(true)
    }
}
