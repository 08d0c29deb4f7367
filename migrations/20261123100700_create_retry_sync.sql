create function retry_sync(event_id uuid) returns text
language plpgsql
as $$
declare
    event record;
begin
    select d.source, d.shop_customer_id, d.concerns, coalesce(c.target, 'default') as target
    into event
    from deliveries d
    left join sources c on c.name = d.source
    where d.id = retry_sync.event_id;

    if not found then
        raise exception 'there is no event %', retry_sync.event_id;
    end if;
    if event.concerns <> 'customer' then
        return 'nothing to do: this is a privacy request, not a change to sync';
    end if;
    if not exists (
        select
        from event_states s
        where s.event_id = retry_sync.event_id
          and s.status in ('failed', 'unmatched', 'discarded')
    ) then
        return 'nothing to do: only failed, unmatched and discarded events can be set back';
    end if;

    -- The queue's row is locked first, as the worker does it: what it is writing now counts.
    insert into waiting_customers (source, shop_customer_id, target, due_at, first_event_id)
    values (event.source, event.shop_customer_id, event.target, now(), retry_sync.event_id)
    on conflict (source, shop_customer_id) do update
    set due_at = least(waiting_customers.due_at, excluded.due_at),
        first_event_id = least(waiting_customers.first_event_id, excluded.first_event_id),
        revision = waiting_customers.revision + 1;

    update event_states s
    set status = 'pending', finished_at = null, forgiven_attempts = s.attempts   -- a full set of attempts again
    where s.event_id = retry_sync.event_id
      and s.status in ('failed', 'unmatched', 'discarded');
    if not found then
        return 'nothing to do: the event was settled just now';
    end if;

    perform pg_notify('flexportal_sync', event.target);
    return 'will be tried again at once';
end
$$;

comment on function retry_sync(uuid) is 'Sets a failed, unmatched or discarded event back: it is tried again at once. Says what it did.';

create function discard_sync(event_id uuid, reason text) returns text
language plpgsql
as $$
declare
    status_before text;
begin
    if coalesce(trim(reason), '') = '' then
        raise exception 'give a reason: select discard_sync(event_id, ''why'')';
    end if;

    update event_states s
    set status = 'discarded', finished_at = now(), warnings = s.warnings || ('discarded: ' || reason)
    from (select old.status from event_states old where old.event_id = discard_sync.event_id for update) before
    where s.event_id = discard_sync.event_id
      and s.status in ('failed', 'unmatched')
    returning before.status into status_before;

    if status_before is not null then
        return 'closed; it was ' || status_before;
    end if;
    if not exists (select from deliveries d where d.id = discard_sync.event_id) then
        raise exception 'there is no event %', discard_sync.event_id;
    end if;
    return 'nothing to do: only failed and unmatched events can be closed';
end
$$;

comment on function discard_sync(uuid, text) is 'Closes a failed or unmatched event for good, with the reason in its warnings. Says what it did.';
