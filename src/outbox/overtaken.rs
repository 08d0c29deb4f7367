//! Given-up events that something newer has spoken for.

use super::StoreError;
use crate::domain::{EventId, PgInstant, ShopCustomerId, SourceName};

/// Of one customer: each event that was given up, and the newer one that has spoken for it.
pub(super) type Overtaken<'a> = (&'a SourceName, &'a ShopCustomerId, &'a [(EventId, EventId)]);

/// Closes them; their last error stays, to be read.
///
/// Their rows are locked in the order in which people who close them lock them ([`super::Outbox::apply`]): nobody waits
/// for somebody who waits for them. A row that somebody changes while it is waited for stays as they leave it: whoever
/// changes one that is given up gives it another word.
pub(super) async fn close(
    connection: &mut sqlx::PgConnection,
    overtaken: &[Overtaken<'_>],
    now: Option<PgInstant>,
) -> Result<(), StoreError> {
    let rows = overtaken.iter().flat_map(|(source, customer, events)| {
        events.iter().map(|(event, successor)| (source.as_str(), customer.as_str(), event.0, successor.0))
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"
        with held as materialized (
            select given_up.at, newer.successor
            from (
                select *
                from unnest($1::text[], $2::text[], $3::uuid[], $4::uuid[]) as newer (
                    source, shop_customer_id, event_id, successor
                )
                order by source, shop_customer_id, event_id
            ) as newer
            cross join lateral (                 -- locked one by one, in that order, by the index (see LIVE)
                select ctid as at, status, finished_at
                from event_states
                where event_states.event_id = newer.event_id
                offset 0
                for update
            ) as given_up
            where given_up.status in ('failed', 'unmatched')
              and given_up.finished_at is not null           -- unless a person set it back or closed it meanwhile
        )
        update event_states state
        set status = 'superseded',
            superseded_by = held.successor,
            finished_at = coalesce($5::timestamptz, clock_timestamp())
        from held
        where state.ctid = held.at
        "#,
        &rows.iter().map(|row| row.0).collect::<Vec<_>>() as _,
        &rows.iter().map(|row| row.1).collect::<Vec<_>>() as _,
        &rows.iter().map(|row| row.2).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.3).collect::<Vec<_>>(),
        now as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::Clock;
    use crate::outbox::scratch::Scratch;

    #[tokio::test]
    async fn rows_are_locked_in_the_order_of_people() {
        let scratch = Scratch::new("overtaken").await;
        let outbox = scratch.outbox(Clock::System).await;
        let source = SourceName::parse("shop").expect("a name");
        let customers = ["c1", "c2"].map(|id| ShopCustomerId::parse(id).expect("an id"));
        // The later customer's event is the older one.
        let [second, first] = [1, 2].map(|n| EventId(uuid::Uuid::from_u128(n)));
        let given_up = "insert into event_states (event_id, status, source, shop_customer_id, finished_at)
                        select event, 'failed', 'shop', customer, now() from unnest($1, $2) as failed (event, customer)";
        let rows = sqlx::query(given_up).bind([first.0, second.0]).bind(["c1", "c2"]);
        rows.execute(&outbox.pool).await.expect("given up");

        let mut person = outbox.pool.begin().await.expect("begun");
        let lock = "select from event_states where event_id = $1 for update nowait";
        sqlx::query(lock).bind(first.0).execute(&mut *person).await.expect("locked");
        let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *person).await.expect("an answer");
        let by = [second, first].map(|event| [(event, EventId(uuid::Uuid::from_u128(3)))]);
        let overtaken = [(&source, &customers[1], &by[0][..]), (&source, &customers[0], &by[1][..])];
        let mut connection = outbox.pool.acquire().await.expect("a connection");
        let closing = close(&mut connection, &overtaken, None);
        let next = async {
            let is_met = "select count(*) from pg_stat_activity where $1 = any(pg_blocking_pids(pid))";
            while sqlx::query_scalar::<_, i64>(is_met).bind(pid).fetch_one(&outbox.pool).await.expect("a number") == 0 {
                tokio::task::yield_now().await;
            }
            // What a person locks next is free.
            sqlx::query(lock).bind(second.0).execute(&mut *person).await.expect("free");
            person.commit().await.expect("done");
        };
        let both = async { tokio::join!(closing, next) };
        let (closed, ()) = tokio::time::timeout(Duration::from_secs(10), both).await.expect("they meet");
        closed.expect("closed, when the person has done");
        let closed = "select count(*) from event_states where status = 'superseded'";
        assert_eq!(sqlx::query_scalar::<_, i64>(closed).fetch_one(&outbox.pool).await.expect("a number"), 2);
        drop(connection);
        outbox.close().await;
        scratch.remove().await;
    }
}
