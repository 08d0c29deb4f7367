-- The same columns as before. Joins would have the whole of it computed before the first customer is shown; asked for by
-- each customer's own, the first page of a million events is read and no more.
create or replace view customer_sync_state as
select
    c.source,
    c.shop_customer_id,
    (
        select l.flexportal_customer_id
        from customer_links l
        where l.source = c.source and l.shop_customer_id = c.shop_customer_id
    ) as flexportal_customer_id,
    (
        select l.origin
        from customer_links l
        where l.source = c.source and l.shop_customer_id = c.shop_customer_id
    ) as link_origin,
    case
        when c.failed > 0 then 'failed'
        when c.unmatched > 0 then 'unmatched'
        when exists (
            select
            from waiting_customers w
            where w.source = c.source and w.shop_customer_id = c.shop_customer_id
        ) then 'waiting'
        else 'in_sync'
    end as state,
    (
        select l.last_synced_at
        from customer_links l
        where l.source = c.source and l.shop_customer_id = c.shop_customer_id
    ) as last_synced_at,
    (
        select l.last_occurred_at
        from customer_links l
        where l.source = c.source and l.shop_customer_id = c.shop_customer_id
    ) as last_occurred_at,
    c.last_received_at,
    (
        select greatest(w.due_at, w.rests_until)
        from waiting_customers w
        where w.source = c.source and w.shop_customer_id = c.shop_customer_id
    ) as next_attempt_at,
    c.events,
    c.failed as failed_events
from (
    select
        d.source,
        d.shop_customer_id,
        count(*) as events,
        count(*) filter (where s.status = 'failed') as failed,
        count(*) filter (where s.status = 'unmatched') as unmatched,
        max(d.received_at) as last_received_at
    from deliveries d
    left join event_states s on s.event_id = d.id
    where d.concerns = 'customer'
    group by d.source, d.shop_customer_id
) c;
