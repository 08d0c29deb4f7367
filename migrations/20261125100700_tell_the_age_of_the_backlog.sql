-- How old the backlog is: by when its oldest event arrived, whatever is tried again when.
create function event_arrived_at(event_id uuid) returns timestamptz
language sql immutable strict parallel safe
as $$
    -- a UUID of version 7 begins with 48 bits of milliseconds (RFC 9562)
    select to_timestamp(('x' || translate(left(event_id::text, 13), '-', ''))::bit(48)::bigint / 1000.0)
$$;

comment on function event_arrived_at(uuid) is 'When an event arrived, to the millisecond, as its id has it.';

create or replace view sync_backlog as
select
    w.source,
    w.target,
    count(*) as customers_waiting,
    count(*) filter (where w.due_at <= now()) as customers_due,
    count(*) filter (where w.lease_id is not null) as customers_in_flight,
    min(w.due_at) as oldest_due_at,
    greatest(now() - min(event_arrived_at(w.first_event_id)), interval '0') as oldest_wait,
    t.held_until,
    t.hold_reason,
    min(event_arrived_at(w.first_event_id)) as oldest_received_at
from waiting_customers w
left join targets t on t.name = w.target
group by w.source, w.target, t.held_until, t.hold_reason;

comment on column sync_backlog.oldest_wait is 'For how long the oldest waiting event has waited, since it arrived.';
comment on column sync_backlog.oldest_received_at is 'When the oldest waiting event arrived.';
