//! What a table holds after a long life, made by SQL: events that were finished long ago, and customers that wait.
//!
//! Of the same shape as what the service writes: ids in the order of time, delivery ids without order, several sources,
//! five events for each customer, a few of them given up. The customers of the load
//! ([`of_shopify`](super::webhooks::of_shopify), [`of_generic`](super::webhooks::of_generic)) stand among the others, so
//! that in an index each of them finds pages of its own. Only the payloads are small, since the disk is.

use std::time::Duration;

use anyhow::Context;
use flexportal_sync::domain::Clock;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::growth::Database;

/// Customers whose webhooks the load sends, of each source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loaded {
    pub(crate) shopify: usize,
    pub(crate) generic: usize,
}

/// Who waits, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// They are due, but of another target, whose worker is away.
    ForAnotherTarget,
    /// Of our target, and due tomorrow: retries, and live changes that rest.
    ForTomorrow,
    /// Of our target, and due: replays, which let live changes go first.
    BehindLiveChanges,
    /// Of our target, and due: live changes.
    ForLong,
}

/// Events of one customer.
const EVENTS_EACH: usize = 5;
/// Nothing is as old as to be removed during the run (`RETENTION`, 30 days).
const OLDEST: Duration = Duration::from_hours(28 * 24);

impl Database {
    /// Fills the tables with events that are finished.
    pub(crate) async fn remember(&self, finished: usize, loaded: Loaded) -> anyhow::Result<()> {
        let customers = (finished / EVENTS_EACH).max(1);
        let made = format!(
            "from generate_series(0, {finished} - 1) as n
             cross join lateral (select n % {customers} as customer) as of
             cross join lateral ({}) as whose",
            whose("customer", loaded)
        );
        let past = Past::of(finished)?;
        let (id, at) = (past.event_id("n"), past.arrived_at("n"));
        let deliveries = format!(
            "insert into deliveries (
                 id, source, delivery_id, topic, shop_customer_id, email, concerns, occurred_at, received_at, payload
             )
             select
                 {id}, source, md5('delivery' || n), 'customers/update', shop_customer_id, email, 'customer',
                 {at}, {at}, '{{\"id\": 1}}'
             {made}"
        );
        // Five in a thousand are given up or were closed by a person; one in six had nothing to send.
        let states = format!(
            "insert into event_states (
                 event_id, status, attempts, last_http_status, last_error_code, last_error, cause,
                 flexportal_customer_id, superseded_by, attempted_as, finished_at, first_failed_at,
                 source, shop_customer_id
             )
             select
                 {id}, status,
                 case when was_sent then 1 else 0 end,
                 case when status = 'failed' then 422 when was_sent then 200 end,
                 case when status = 'failed' then 'VALIDATION_ERROR' end,
                 case when status = 'failed' then 'phone: not a phone number' end,
                 case when status = 'failed' then '`phone` is refused' end,
                 case when status <> 'unmatched' then flexportal_customer_id end,
                 case when status = 'superseded' then {next} end,
                 case when was_sent then {id} end,
                 {at} + interval '1 second',
                 case when status = 'failed' then {at} + interval '1 second' end,
                 case when status in ('failed', 'unmatched') then source end,
                 case when status in ('failed', 'unmatched') then shop_customer_id end
             {made}
             cross join lateral (
                 select case
                     when place < 2 then 'failed'
                     when place < 4 then 'unmatched'
                     when place < 5 then 'discarded'
                     when place < 85 then 'superseded'
                     when place < 165 then 'unchanged'
                     else 'synced'
                 end as status
                 from (select abs(hashint8(n)::bigint) % 1000 as place) as placed
             ) as became
             cross join lateral (select status in ('synced', 'failed') as was_sent) as sent",
            next = past.event_id("n + 1"),
        );
        let attempts = "insert into sync_attempts (event_id, attempt, operation, started_at, duration_ms, request_body, http_status)
             select event_id, 1, 'update_customer', finished_at, 40, '{}', last_http_status
             from event_states
             where last_http_status is not null
             order by event_id";
        let links = format!(
            "insert into customer_links (
                 source, shop_customer_id, flexportal_customer_id, origin, last_synced_at, last_occurred_at, acknowledged
             )
             select
                 source, shop_customer_id, flexportal_customer_id, 'event', now() - interval '28 days',
                 now() - interval '28 days',
                 (
                     select jsonb_object_agg(field, jsonb_build_object(
                         'at', '2026-01-01T10:00:00Z', 'event', {first}, 'hash', '0123456789abcdef',
                         'acked', '2026-01-01T10:00:01Z'
                     ))
                     from unnest(array['firstName', 'lastName', 'phone']) as field
                 )
             from generate_series(0, {customers} - 1) as customer
             cross join lateral ({whose}) as whose
             order by md5(shop_customer_id)      -- as they came",
            first = past.event_id("customer"),
            whose = whose("customer", loaded),
        );
        self.without_secondary_indexes(async || {
            let mut one = self.filling().await?;
            let mut other = self.filling().await?;
            let beside = async {
                run(&mut other, &states).await?;
                run(&mut other, attempts).await?;
                run(&mut other, &links).await
            };
            tokio::try_join!(run(&mut one, &deliveries), beside)?;
            anyhow::Ok(())
        })
        .await?;
        self.settle_down().await
    }

    /// Fills the queue with customers that wait, each with an event.
    pub(crate) async fn let_wait(&self, customers: usize, waiting: Waiting, loaded: Loaded) -> anyhow::Result<()> {
        let (source, target, due, priority) = match waiting {
            Waiting::ForAnotherTarget => ("shopify-nordics", "nordics", "now() - random() * interval '1 day'", "0"),
            Waiting::ForTomorrow => {
                ("shopify", "default", "now() + interval '1 day' + random() * interval '1 hour'", "n % 2")
            }
            Waiting::BehindLiveChanges => ("shopify", "default", "now() - random() * interval '1 hour'", "2"),
            Waiting::ForLong => ("shopify", "default", "now() - random() * interval '8 hours'", "0"),
        };
        // Not those of the load itself.
        let made = format!(
            "from generate_series(0, {customers} - 1) as n
             cross join lateral (select concat('712000', lpad((n % {0})::text, 4, '0'), n / {0} + 1) as id) as of",
            loaded.shopify
        );
        let past = Past::of(customers)?;
        let (id, at) = (past.event_id("n"), past.arrived_at("n"));
        let statements = [
            format!(
                "insert into deliveries (
                     id, source, delivery_id, topic, shop_customer_id, email, concerns, occurred_at, received_at, payload
                 )
                 select
                     {id}, '{source}', md5('waiting' || n), 'customers/update', of.id, concat(of.id, '@example.com'),
                     'customer', {at}, {at}, jsonb_build_object('id', of.id::numeric, 'first_name', 'Adelheid')
                 {made}"
            ),
            format!(
                "insert into customer_links (source, shop_customer_id, flexportal_customer_id, origin)
                 select '{source}', of.id, 'cus_' || of.id, 'import' {made}"
            ),
            format!(
                "insert into waiting_customers (source, shop_customer_id, target, due_at, first_event_id, priority)
                 select '{source}', of.id, '{target}', {due}, {id}, {priority} {made}"
            ),
        ];
        let mut connection = self.filling().await?;
        for statement in &statements {
            run(&mut connection, statement).await?;
        }
        self.settle_down().await
    }

    /// Random order costs most where an index is kept while its table is filled.
    async fn without_secondary_indexes(&self, fill: impl AsyncFnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let indexes: Vec<(String, String)> = sqlx::query_as(
            "select
                 case
                     when c.oid is not null then format('alter table deliveries drop constraint %I', c.conname)
                     else format('drop index %s', i.indexrelid::regclass)
                 end,
                 case
                     when c.oid is not null
                         then format('alter table deliveries add constraint %I %s', c.conname, pg_get_constraintdef(c.oid))
                     else pg_get_indexdef(i.indexrelid)
                 end
             from pg_index i
             left join pg_constraint c on c.conindid = i.indexrelid
             where i.indrelid = 'deliveries'::regclass
               and not i.indisprimary",
        )
        .fetch_all(&self.pool)
        .await?;
        let mut connection = self.filling().await?;
        for (dropped, _) in &indexes {
            run(&mut connection, dropped).await?;
        }
        fill().await?;
        for (_, created) in &indexes {
            run(&mut connection, created).await?;
        }
        Ok(())
    }

    /// What autovacuum would have done by then; and deliveries are counted by the hour as they come.
    async fn settle_down(&self) -> anyhow::Result<()> {
        let counted = "insert into source_hours_progress (counted_to) values (now())
                       on conflict (one) do update set counted_to = excluded.counted_to";
        let mut connection = self.filling().await?;
        run(&mut connection, counted).await?;
        run(&mut connection, "vacuum (analyze)").await
    }

    async fn filling(&self) -> anyhow::Result<PgConnection> {
        let mut connection = self.connect().await?;
        run(&mut connection, "set synchronous_commit = off; set maintenance_work_mem = '512MB'; set jit = off").await?;
        Ok(connection)
    }
}

async fn run(connection: &mut PgConnection, statement: &str) -> anyhow::Result<()> {
    let done = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await;
    done.with_context(|| format!("the tables cannot be filled: {statement}"))?;
    Ok(())
}

/// When the events arrived: evenly over the time that they are kept for.
struct Past {
    oldest_ms: i64,
    gap_ms: i64,
}

impl Past {
    fn of(events: usize) -> anyhow::Result<Self> {
        let oldest_ms = (Clock::System.now() - OLDEST).timestamp_millis();
        Ok(Self { oldest_ms, gap_ms: i64::try_from(OLDEST.as_millis())? / i64::try_from(events.max(1))? })
    }

    /// SQL for the id of the `n`-th.
    fn event_id(&self, n: &str) -> String {
        let Self { oldest_ms, gap_ms } = self;
        format!(
            "(
                 lpad(to_hex({oldest_ms} + ({n})::bigint * {gap_ms}), 12, '0')
                 || '7' || substr(md5(({n})::text), 1, 3) || '8' || substr(md5(({n})::text), 4, 15)
             )::uuid"
        )
    }

    /// SQL for the time of the `n`-th.
    fn arrived_at(&self, n: &str) -> String {
        let Self { oldest_ms, gap_ms } = self;
        format!("to_timestamp(({oldest_ms} + ({n})::bigint * {gap_ms}) / 1000.0)")
    }
}

/// SQL for whose the events of a customer are: six of ten of Shopify, three of `generic`, one of another shop.
fn whose(customer: &str, loaded: Loaded) -> String {
    let Loaded { shopify, generic } = loaded;
    format!(
        "select
             case when kind < 6 then 'shopify' when kind < 9 then 'generic' else 'woocommerce' end as source,
             case
                 when kind < 6 then concat('712000', lpad((place % {shopify})::text, 4, '0'), nullif(place / {shopify}, 0))
                 when kind < 9 then concat('shop-', place % {generic}, '-' || nullif(place / {generic}, 0))
                 else place::text
             end as shop_customer_id,
             case
                 when kind < 6 then concat('customer', place % {shopify}, '-' || nullif(place / {shopify}, 0), '@example.com')
                 when kind = 9 then concat('woo', place, '@example.com')
             end as email,
             case
                 when kind < 6 then concat('cus_s', place)
                 when kind < 9 then concat('cus_', place % {generic}, '-' || nullif(place / {generic}, 0))
                 else concat('cus_w', place)
             end as flexportal_customer_id
         from (
             select
                 {customer} % 10 as kind,
                 case
                     when {customer} % 10 < 6 then {customer} / 10 * 6 + {customer} % 10
                     when {customer} % 10 < 9 then {customer} / 10 * 3 + {customer} % 10 - 6
                     else {customer} / 10
                 end as place
         ) as placed"
    )
}
