-- Since when an event fails: a retry that fails again does not begin anew.
alter table event_states add column first_failed_at timestamptz;

comment on column event_states.first_failed_at is 'When it was first given up as failed for this cause; stays when it is tried again.';

update event_states
set first_failed_at = finished_at
where status = 'failed';

create or replace view failure_groups as
select
    s.source,
    coalesce(s.cause, s.last_error_code, 'HTTP ' || s.last_http_status, 'unknown') as cause,
    s.last_http_status as http_status,
    s.last_error_code as error_code,
    count(*) as events,
    count(distinct s.shop_customer_id) as customers,
    min(coalesce(s.first_failed_at, s.finished_at)) as first_failed_at,
    max(s.finished_at) as last_failed_at,
    (array_agg(s.event_id order by s.finished_at desc))[1] as example_event_id,
    (array_agg(s.last_error order by s.finished_at desc))[1] as example_error
from event_states s
where s.status = 'failed'
group by 1, 2, 3, 4;

comment on column failure_groups.first_failed_at is 'Since when: the first failure of the one that has failed for longest, retries apart.';

-- Why an event cannot be set back, or null: asked before it is done, and when it is done.
create function why_not_retry(event_id uuid) returns text
language sql
stable
as $$
    select case
        when d.concerns <> 'customer' then 'nothing to do: this is a privacy request, not a change to sync'
        when d.payload = '{"erased": true}' then 'nothing to do: its data was erased'
        when s.status is null or s.status not in ('failed', 'unmatched', 'discarded') then
            'nothing to do: only failed, unmatched and discarded events can be set back'
    end
    from deliveries d
    left join event_states s on s.event_id = d.id
    where d.id = why_not_retry.event_id
$$;

comment on function why_not_retry(uuid) is 'Why retry_sync would do nothing; null if it would set the event back.';

create function why_not_discard(event_id uuid) returns text
language sql
stable
as $$
    select case
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

comment on function why_not_discard(uuid) is 'Why discard_sync would do nothing; null if it would close the event.';

create or replace function retry_sync(event_id uuid) returns text
language plpgsql
security definer
as $$
declare
    event record;
    status_before text;
    outcome text;
begin
    select d.source, d.shop_customer_id, coalesce(c.target, 'default') as target
    into event
    from deliveries d
    left join sources c on c.name = d.source
    where d.id = retry_sync.event_id;

    if not found then
        raise exception 'there is no event %', retry_sync.event_id;
    end if;
    outcome := why_not_retry(retry_sync.event_id);
    if outcome is null then
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
        where s.finished_at is null
        returning 'pending' into status_before;
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

-- What was appended since the last vacuum would be read in full by whoever asks for the last hour.
alter index sync_attempts_by_time set (autosummarize = on);
alter index event_states_by_time set (autosummarize = on);

-- A customer whose newest change was closed by a person is not in sync; one whose deliveries are past their time is still
-- known: it has its link.
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
        -- the last word was closed by a person, and FlexPortal may not have it
        when (
            select s.status
            from deliveries d
            left join event_states s on s.event_id = d.id
            where d.source = c.source and d.shop_customer_id = c.shop_customer_id and d.concerns = 'customer'
            order by d.id desc
            limit 1
        ) = 'discarded' then 'discarded'
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
    union all
    select l.source, l.shop_customer_id, 0, 0, 0, null
    from customer_links l
    where not exists (
        select
        from deliveries d
        where d.source = l.source and d.shop_customer_id = l.shop_customer_id and d.concerns = 'customer'
    )
) c;

comment on column customer_sync_state.state is 'in_sync, waiting, unmatched, failed, or discarded: a person closed the newest change.';
comment on column customer_sync_state.events is 'Deliveries kept; 0 for a customer that is known by its link alone.';
