-- Which shop speaks: customer ids are unique in one shop only, and a staging copy signs with the same secret.
alter table deliveries add column shop text;

comment on column deliveries.shop is 'The shop that spoke, by the name it gives itself: host and path. Null: it gave none.';
comment on column deliveries.delivery_id is 'Unique with source. Of another shop than the source''s: its name, #, and the id.';
comment on column deliveries.shop_customer_id is 'The shop''s customer id. Of another shop than the source''s: its name, #, and the id.';

alter table sources add column shops text[] not null default '{}';

comment on column sources.shops is 'The one shop that is heard, by each of its names, as configured; none: the first that speaks.';

create table source_shops (
    source text not null,
    shop text not null,
    standing text not null check (standing in ('remembered', 'named', 'accepted', 'ignored', 'other')),
    first_spoke_at timestamptz not null,
    decided_at timestamptz,
    is_to_set_apart boolean not null default false,
    primary key (source, shop)
);

comment on table source_shops is 'Shops that spoke on a source. People decide by flexportal-sync sources.';
comment on column source_shops.source is 'The source.';
comment on column source_shops.shop is 'The shop, by the name it gives itself: host and path.';
comment on column source_shops.standing is 'remembered: the first to speak. named: by the configuration. accepted, ignored: by a person. other: held until a person decides, or ignored once a named shop has spoken.';
comment on column source_shops.first_spoke_at is 'When it first spoke.';
comment on column source_shops.decided_at is 'When a person accepted or ignored it.';
comment on column source_shops.is_to_set_apart is 'It was heard before a person ignored it, and what it said is still to be taken from the source''s customers.';

-- However many processes hear two shops at once, one of them is the first.
create unique index source_shops_one_is_remembered on source_shops (source) where standing = 'remembered';

alter table interventions drop constraint interventions_action_check;
alter table interventions add constraint interventions_action_check check (
    action in ('retry', 'discard', 'link', 'erase', 'export', 'accept_shop', 'ignore_shop')
);

alter table event_states drop constraint event_states_status_check;
alter table event_states add constraint event_states_status_check check (
    status in ('pending', 'synced', 'superseded', 'unchanged', 'unmatched', 'failed', 'discarded', 'held')
);
alter table event_states drop constraint finished_exactly_when_final;
alter table event_states add constraint finished_exactly_when_final check (
    case status
        when 'pending' then finished_at is null
        when 'held' then finished_at is null
        when 'unmatched' then true
        else finished_at is not null
    end
);
drop index event_states_of_rare_kinds;
create index event_states_of_rare_kinds on event_states (status, event_id)
    where status in ('failed', 'unmatched', 'discarded', 'held');

-- Whether what a shop says on a source is ours, held, or ignored; first: no shop has spoken yet.
create function standing_of_shop(of_source text, of_shop text) returns text
language sql
stable
as $$
    select case
        when of_shop is null or of_shop = any(configured.shops) then 'ours'
        when known.standing = 'accepted' then 'ours'
        when known.standing = 'ignored' then 'ignored'
        when cardinality(configured.shops) > 0 then
            case
                when exists (
                    select
                    from source_shops named
                    where named.source = of_source
                      and named.shop = any(configured.shops)
                ) then 'ignored'
                else 'held'                      -- the name may be mistyped
            end
        when known.standing in ('remembered', 'named') then 'ours'
        when known.standing = 'other' or exists (
            select
            from source_shops heard
            where heard.source = of_source
              and heard.standing in ('remembered', 'named', 'accepted')
        ) then 'held'
        else 'first'
    end
    from (select coalesce((select shops from sources where name = of_source), '{}') as shops) configured
    left join source_shops known on known.source = of_source and known.shop = of_shop
$$;

comment on function standing_of_shop is 'Whether what a shop says on a source is ours, held, or ignored; first: no shop has spoken yet.';

-- The same, once a shop speaks: the first one is remembered. No more than a hundred of a source are noted, since the name is
-- not signed.
create function hear_shop(of_source text, of_shop text, at timestamptz) returns text
language plpgsql
as $$
declare
    standing text := standing_of_shop(of_source, of_shop);
begin
    if of_shop is null or exists (select from source_shops s where s.source = of_source and s.shop = of_shop) then
        return standing;
    end if;
    if (select count(*) from source_shops s where s.source = of_source) < 100 then
        insert into source_shops (source, shop, standing, first_spoke_at)
        values (
            of_source,
            of_shop,
            case standing when 'first' then 'remembered' when 'ours' then 'named' else 'other' end,
            at
        )
        on conflict do nothing;
        -- Another one was the first at the same moment.
        insert into source_shops (source, shop, standing, first_spoke_at)
        values (of_source, of_shop, 'other', at)
        on conflict do nothing;
    end if;
    standing := standing_of_shop(of_source, of_shop);
    return case standing when 'first' then 'held' else standing end;
end
$$;

comment on function hear_shop is 'Whether what a shop says now on a source is ours, held, or ignored; notes that it spoke.';

create or replace view outbox_events as
select
    d.id,
    d.source,
    d.delivery_id,
    d.topic,
    d.shop_customer_id,
    d.email,
    d.occurred_at,
    d.received_at,
    d.payload::jsonb as payload,
    case
        when coalesce(s.status, 'pending') <> 'pending' then s.status
        when w.lease_id is not null and d.received_at <= w.claimed_at then 'in_flight'
        else 'pending'
    end as status,
    coalesce(s.attempts, 0) as attempts,
    case when s.finished_at is null then greatest(w.due_at, w.rests_until) end as next_attempt_at,
    s.last_http_status,
    s.last_error_code,
    s.last_error,
    d.intake_warnings || coalesce(s.warnings, '{}') as warnings,
    s.flexportal_customer_id,
    s.superseded_by,
    s.finished_at,
    d.shop
from deliveries d
left join event_states s on s.event_id = d.id
left join waiting_customers w
    on w.source = d.source
    and w.shop_customer_id = d.shop_customer_id
    and d.concerns = 'customer';

comment on column outbox_events.shop is 'The shop that spoke, by the name it gives itself; null: it gave none.';
comment on column outbox_events.delivery_id is 'Unique with source. Of another shop than the source''s: its name, #, and the id.';
comment on column outbox_events.status is 'pending, held, in_flight, synced, superseded, unchanged, unmatched, failed or discarded.';

create or replace view failed_syncs as
select
    s.event_id,
    d.source,
    d.topic,
    d.shop_customer_id,
    d.email,
    s.flexportal_customer_id,
    d.occurred_at,
    d.received_at,
    s.finished_at as failed_at,
    s.attempts,
    s.last_http_status as http_status,
    s.last_error_code as error_code,
    s.last_error as error,
    s.warnings,
    (
        select a.request_body
        from sync_attempts a
        where a.event_id = coalesce(s.attempted_as, s.event_id)
          and a.request_body is not null
        order by a.id desc
        limit 1
    ) as request_body,
    (
        select a.response_body
        from sync_attempts a
        where a.event_id = coalesce(s.attempted_as, s.event_id)
        order by a.id desc
        limit 1
    ) as response_body,
    case
        when s.last_error_code = 'SHOP_UNCERTAIN' then
            'See the error for what retrying would erase: select retry_sync(''' || s.event_id || '''); or keep it: select discard_sync(''' || s.event_id || ''', ''why'');'
        when d.payload::text = '{"erased": true}' then
            'Its data was erased, and it is not sent any more. Close it: select discard_sync(''' || s.event_id || ''', ''erased'');'
        when s.last_http_status in (400, 422) then
            'Correct the field named in the error in the shop: the next change is sent by itself. Or, once FlexPortal takes it: select retry_sync(''' || s.event_id || ''');'
        when s.last_http_status = 409 then
            'FlexPortal has conflicting data: look at this customer there, then: select retry_sync(''' || s.event_id || ''');'
        when s.last_http_status between 400 and 499 then
            'FlexPortal refuses the request: see the answer, then: select retry_sync(''' || s.event_id || ''');'
        when s.last_error_code = 'UNREADABLE' then
            'The stored payload cannot be read under today''s configuration: see the error. After mending it: select retry_sync(''' || s.event_id || ''');'
        when s.last_error_code = 'INTERNAL' then
            'A fault of flexportal-sync: please report it with this event''s id. Another try: select retry_sync(''' || s.event_id || ''');'
        else
            'FlexPortal could not be reached or did not do it: once it works again: select retry_sync(''' || s.event_id || ''');'
    end as what_to_do,
    coalesce(s.cause, s.last_error_code, 'HTTP ' || s.last_http_status, 'unknown') as cause
from event_states s
join deliveries d on d.id = s.event_id
where s.status = 'failed';

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
        when c.held > 0 then 'held'
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
        count(*) filter (where s.status = 'held') as held,
        max(d.received_at) as last_received_at
    from deliveries d
    left join event_states s on s.event_id = d.id
    where d.concerns = 'customer'
    group by d.source, d.shop_customer_id
    union all
    select l.source, l.shop_customer_id, 0, 0, 0, 0, null
    from current_links l
    where not exists (
        select
        from deliveries d
        where d.source = l.source and d.shop_customer_id = l.shop_customer_id and d.concerns = 'customer'
    )
) c;

-- A privacy request that could not tell what is its shop's waits as failed: retrying confirms it, discarding declines it.
create or replace function why_not_retry(event_id uuid) returns text
language sql
stable
as $$
    select case
        when d.concerns = 'privacy' and s.status = 'failed' then null          -- a person confirms it
        when d.concerns <> 'customer' then 'nothing to do: this is a privacy request, not a change to sync'
        when d.payload::text = '{"erased": true}' then 'nothing to do: its data was erased'
        when s.status is null or s.status not in ('failed', 'unmatched', 'discarded') then
            'nothing to do: only failed, unmatched and discarded events can be set back'
    end
    from deliveries d
    left join event_states s on s.event_id = d.id
    where d.id = why_not_retry.event_id
$$;

create or replace function why_not_discard(event_id uuid) returns text
language sql
stable
as $$
    select case
        when d.concerns = 'privacy' and s.status = 'failed' then null          -- a person declines it
        when d.concerns = 'privacy' and d.topic in ('customers/redact', 'shop/redact') then
            'nothing to do: what a shop wants erased is erased and closed by the service itself'
        when d.concerns = 'privacy' and s.finished_at is null then null
        when d.concerns = 'customer' and s.status in ('failed', 'unmatched') then null
        else 'nothing to do: only failed and unmatched events, and open privacy requests, can be closed'
    end
    from deliveries d
    left join event_states s on s.event_id = d.id
    where d.id = why_not_discard.event_id
$$;

create or replace function retry_sync(event_id uuid) returns text
language plpgsql
security definer
as $$
declare
    event record;
    status_before text;
    outcome text;
begin
    select d.source, d.shop_customer_id, d.concerns, coalesce(c.target, 'default') as target
    into event
    from deliveries d
    left join sources c on c.name = d.source
    where d.id = retry_sync.event_id;

    if not found then
        raise exception 'there is no event %', retry_sync.event_id;
    end if;
    outcome := why_not_retry(retry_sync.event_id);
    if outcome is null and event.concerns = 'privacy' then
        update event_states s
        set status = 'pending', finished_at = null
        where s.event_id = retry_sync.event_id
          and s.status = 'failed';
        outcome := case
            when found then 'confirmed: it is carried out within seconds'
            else 'nothing to do: the request was settled just now'
        end;
    elsif outcome is null then
        -- The queue's row is locked first, as the worker does it: what it is writing now counts.
        insert into waiting_customers (source, shop_customer_id, target, due_at, first_event_id, priority)
        values (event.source, event.shop_customer_id, event.target, now(), retry_sync.event_id, 2)
        on conflict (source, shop_customer_id) do update
        set due_at = least(waiting_customers.due_at, excluded.due_at),
            first_event_id = least(waiting_customers.first_event_id, excluded.first_event_id),
            revision = waiting_customers.revision + 1;      -- one that waits already keeps its better place

        update event_states s
        set status = 'pending', finished_at = null, forgiven_attempts = s.attempts   -- a full set of attempts again
        from (select old.status from event_states old where old.event_id = retry_sync.event_id for update) before
        where s.event_id = retry_sync.event_id
          and s.status in ('failed', 'unmatched', 'discarded')
        returning before.status into status_before;
        if found then
            perform pg_notify('flexportal_sync', event.target);
            outcome := 'will be tried again at once'
                || case when status_before = 'discarded' then '; it had been closed' else '' end;
        else
            outcome := 'nothing to do: the event was settled just now';
        end if;
    end if;

    insert into interventions (action, source, shop_customer_id, event_id, outcome)
    values ('retry', event.source, event.shop_customer_id, retry_sync.event_id, outcome);
    return outcome;
end
$$;

create or replace function discard_sync(event_id uuid, reason text) returns text
language plpgsql
security definer
as $$
declare
    event record;
    status_before text;
    outcome text;
begin
    if coalesce(trim(reason), '') = '' then
        raise exception 'give a reason: select discard_sync(event_id, ''why'')';
    end if;
    if length(reason) > 500 then
        raise exception 'the reason is longer than 500 characters';
    end if;
    select d.source, d.shop_customer_id, d.concerns
    into event
    from deliveries d
    where d.id = discard_sync.event_id;
    if not found then
        raise exception 'there is no event %', discard_sync.event_id;
    end if;

    outcome := why_not_discard(discard_sync.event_id);
    if outcome is null and event.concerns = 'privacy' then
        insert into event_states as s (event_id, status, finished_at)
        values (discard_sync.event_id, 'discarded', now())
        on conflict on constraint event_states_pkey do update
        set status = 'discarded', finished_at = now()
        where s.finished_at is null or s.status = 'failed'
        returning case when s.last_error_code is null then 'pending' else 'failed' end into status_before;
    elsif outcome is null then
        update event_states s
        set status = 'discarded', finished_at = now(), warnings = s.warnings || ('discarded: ' || reason)
        from (select old.status from event_states old where old.event_id = discard_sync.event_id for update) before
        where s.event_id = discard_sync.event_id
          and s.status in ('failed', 'unmatched')
        returning before.status into status_before;
    end if;
    outcome := coalesce(outcome, 'closed; it was ' || status_before, 'nothing to do: the event was settled just now');

    insert into interventions (action, source, shop_customer_id, event_id, reason, outcome)
    values ('discard', event.source, event.shop_customer_id, discard_sync.event_id, reason, outcome);
    return outcome;
end
$$;

-- Replacing a function takes its settings away: run by others under our rights, it must not look at tables of theirs.
do $$
begin
    execute format('alter function retry_sync(uuid) set search_path = %I, pg_temp', current_schema());
    execute format('alter function discard_sync(uuid, text) set search_path = %I, pg_temp', current_schema());
end
$$;
