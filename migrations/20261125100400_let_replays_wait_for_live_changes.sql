create or replace function retry_sync(event_id uuid) returns text
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
    if not found then
        return 'nothing to do: the event was settled just now';
    end if;

    perform pg_notify('flexportal_sync', event.target);
    return 'will be tried again at once';
end
$$;
