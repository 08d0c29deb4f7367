-- What FlexPortal acknowledged, and who a customer is there, holds for one base URL and tenant. With another tenant in the
-- configuration its links are looked at, and the old ones are there again when the old tenant is.
alter table targets
    add column base_url text not null default '',
    add column tenant_id text not null default '';

comment on column targets.base_url is 'Where FlexPortal''s API answers, as the process that started last has it; empty: none has said so.';
comment on column targets.tenant_id is 'The Business Unit, as the process that started last has it.';

alter table customer_links
    add column base_url text not null default '',
    add column tenant_id text not null default '',
    drop constraint customer_links_pkey,
    add primary key (source, shop_customer_id, base_url, tenant_id);

comment on column customer_links.base_url is 'Where the FlexPortal customer is. Empty: its source''s target was not known yet; the first process to start with it says where.';
comment on column customer_links.tenant_id is 'The Business Unit that the FlexPortal customer is of.';

-- The tenant of each source is what its target has now. Before any process has registered the source: the empty one.
create view current_links as
select l.*
from customer_links l
left join sources s on s.name = l.source
left join targets t on t.name = coalesce(s.target, 'default')
where l.base_url = coalesce(t.base_url, '')
  and l.tenant_id = coalesce(t.tenant_id, '');

comment on view current_links is 'The links of customer_links that hold now: those of the tenant that their source leads to.';

do $$
declare
    of_table record;
begin
    for of_table in
        select a.attname as name, col_description(a.attrelid, a.attnum) as text
        from pg_attribute a
        where a.attrelid = 'customer_links'::regclass
          and a.attnum > 0
          and not a.attisdropped
    loop
        execute format('comment on column current_links.%I is %L', of_table.name, of_table.text);
    end loop;
end
$$;

-- As before, but for the links of the current tenant, the order of changes, and changes that have no place in the queue yet.
create or replace view customer_sync_state as
select
    c.source,
    c.shop_customer_id,
    (
        select l.flexportal_customer_id
        from current_links l
        where l.source = c.source and l.shop_customer_id = c.shop_customer_id
    ) as flexportal_customer_id,
    (
        select l.origin
        from current_links l
        where l.source = c.source and l.shop_customer_id = c.shop_customer_id
    ) as link_origin,
    case
        when c.failed > 0 then 'failed'
        when c.unmatched > 0 then 'unmatched'
        when exists (
            select
            from waiting_customers w
            where w.source = c.source and w.shop_customer_id = c.shop_customer_id
        ) or exists (
            select
            from unqueued_changes u
            where u.source = c.source and u.shop_customer_id = c.shop_customer_id
        ) then 'waiting'
        -- the newest change was closed by a person, and FlexPortal may not have it
        when (
            select s.status
            from deliveries d
            left join event_states s on s.event_id = d.id
            where d.source = c.source and d.shop_customer_id = c.shop_customer_id and d.concerns = 'customer'
            order by d.occurred_at desc, d.id desc
            limit 1
        ) = 'discarded' then 'discarded'
        else 'in_sync'
    end as state,
    (
        select l.last_synced_at
        from current_links l
        where l.source = c.source and l.shop_customer_id = c.shop_customer_id
    ) as last_synced_at,
    (
        select l.last_occurred_at
        from current_links l
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
    union all
    select l.source, l.shop_customer_id, 0, 0, 0, null
    from current_links l
    where not exists (
        select
        from deliveries d
        where d.source = l.source and d.shop_customer_id = l.shop_customer_id and d.concerns = 'customer'
    )
) c;
