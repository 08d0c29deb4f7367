-- What people, and shops in their name, did to events and customers: every intervention leaves a trace.
create table interventions (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    action text not null check (action in ('retry', 'discard', 'link', 'erase', 'export')),
    source text not null,
    shop_customer_id text,
    event_id uuid,
    reason text,
    outcome text not null,
    done_by text not null default coalesce(nullif(current_setting('flexportal_sync.done_by', true), ''), session_user)
);

-- One event's, and one customer's story.
create index interventions_by_event on interventions (event_id, id) where event_id is not null;
create index interventions_by_customer on interventions (source, shop_customer_id, id);

comment on table interventions is 'What people, and shops in their name, did: retries, discards, links, erasures, exports. Holds no personal data but the ids; never removed.';
comment on column interventions.id is 'Order of recording.';
comment on column interventions.at is 'When.';
comment on column interventions.action is 'retry, discard, link, erase or export.';
comment on column interventions.source is 'The configured shop.';
comment on column interventions.shop_customer_id is 'The shop''s customer; null where it was known by its e-mail alone.';
comment on column interventions.event_id is 'The event that was set back or closed; or the privacy request that asked for it.';
comment on column interventions.reason is 'Why, as the person said.';
comment on column interventions.outcome is 'What came of it.';
comment on column interventions.done_by is 'terminal, api, console or shop; else the database role that called the function.';

-- security definer: who may carry these out needs no right to the tables.
create or replace function retry_sync(event_id uuid) returns text
language plpgsql
security definer
as $$
declare
    event record;
    outcome text;
begin
    select
        d.source,
        d.shop_customer_id,
        d.concerns,
        d.payload = '{"erased": true}' as is_erased,
        coalesce(c.target, 'default') as target
    into event
    from deliveries d
    left join sources c on c.name = d.source
    where d.id = retry_sync.event_id;

    if not found then
        raise exception 'there is no event %', retry_sync.event_id;
    end if;
    if event.concerns <> 'customer' then
        outcome := 'nothing to do: this is a privacy request, not a change to sync';
    elsif event.is_erased then
        outcome := 'nothing to do: its data was erased';
    elsif not exists (
        select
        from event_states s
        where s.event_id = retry_sync.event_id
          and s.status in ('failed', 'unmatched', 'discarded')
    ) then
        outcome := 'nothing to do: only failed, unmatched and discarded events can be set back';
    else
        -- The queue's row is locked first, as the worker does it: what it is writing now counts.
        insert into waiting_customers (source, shop_customer_id, target, due_at, first_event_id, priority)
        values (event.source, event.shop_customer_id, event.target, now(), retry_sync.event_id, 2)
        on conflict (source, shop_customer_id) do update
        set due_at = least(waiting_customers.due_at, excluded.due_at),
            first_event_id = least(waiting_customers.first_event_id, excluded.first_event_id),
            revision = waiting_customers.revision + 1;      -- one that waits already keeps its better place

        update event_states s
        set status = 'pending', finished_at = null, forgiven_attempts = s.attempts   -- a full set of attempts again
        where s.event_id = retry_sync.event_id
          and s.status in ('failed', 'unmatched', 'discarded');
        if found then
            perform pg_notify('flexportal_sync', event.target);
            outcome := 'will be tried again at once';
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

    if event.concerns = 'privacy' then
        insert into event_states as s (event_id, status, finished_at)
        values (discard_sync.event_id, 'discarded', now())
        on conflict on constraint event_states_pkey do update
        set status = 'discarded', finished_at = now()
        where s.finished_at is null
        returning 'pending' into status_before;
    else
        update event_states s
        set status = 'discarded', finished_at = now(), warnings = s.warnings || ('discarded: ' || reason)
        from (select old.status from event_states old where old.event_id = discard_sync.event_id for update) before
        where s.event_id = discard_sync.event_id
          and s.status in ('failed', 'unmatched')
        returning before.status into status_before;
    end if;

    outcome := coalesce(
        'closed; it was ' || status_before,
        'nothing to do: only failed and unmatched events, and open privacy requests, can be closed'
    );
    insert into interventions (action, source, shop_customer_id, event_id, reason, outcome)
    values ('discard', event.source, event.shop_customer_id, discard_sync.event_id, reason, outcome);
    return outcome;
end
$$;

-- Run by others under our rights, they must not look at tables of theirs.
do $$
begin
    execute format('alter function retry_sync(uuid) set search_path = %I, pg_temp', current_schema());
    execute format('alter function discard_sync(uuid, text) set search_path = %I, pg_temp', current_schema());
end
$$;

-- Whoever may connect is not thereby an operator; `grant execute` makes one.
revoke execute on function retry_sync(uuid), discard_sync(uuid, text) from public;

comment on function discard_sync(uuid, text) is 'Closes a failed or unmatched event, or a privacy request that was answered, for good, with the reason. Says what it did.';
