-- Attempts are made for a day, not a number of times: what counts is for how long they have failed, holds and stopped workers
-- apart.
alter table event_states
    add column failing_seconds float8 check (failing_seconds >= 0),
    add column last_attempt_at timestamptz;

comment on column event_states.failing_seconds is 'For how long its attempts have failed up to the last one; of the time between two attempts RETRY_MAX_DELAY counts at most. Begins anew when it was unmatched, or a person set it back.';
comment on column event_states.last_attempt_at is 'When the last attempt that counted had failed.';

-- As before, with what orders a change, and for how long its attempts have failed.
drop function waiting_events_of(text, text);

create function waiting_events_of(of_source text, of_customer text)
returns table (
    event_id uuid,
    status text,
    attempts integer,
    forgiven_attempts integer,
    failing_seconds float8,
    last_attempt_at timestamptz,
    topic text,
    payload json,
    occurred_at timestamptz,
    triggered_at timestamptz,
    received_at timestamptz,
    traceparent text
)
language sql
stable
as $$
    select
        d.id,
        coalesce(s.status, 'pending'),
        coalesce(s.attempts, 0),
        coalesce(s.forgiven_attempts, 0),
        s.failing_seconds,
        s.last_attempt_at,
        d.topic,
        d.payload,
        d.occurred_at,
        d.triggered_at,
        d.received_at,
        d.traceparent
    from deliveries d
    left join lateral (
        select
            state.event_id, state.status, state.attempts, state.forgiven_attempts, state.failing_seconds,
            state.last_attempt_at, state.finished_at
        from event_states state
        where state.event_id = d.id
        offset 0                                 -- one by one
    ) s on true
    where d.source = of_source
      and d.shop_customer_id = of_customer
      and d.concerns = 'customer'
      and d.id >= (
          select w.first_event_id
          from waiting_customers w
          where w.source = of_source and w.shop_customer_id = of_customer
      )
      and (s.event_id is null or (s.status in ('pending', 'unmatched') and s.finished_at is null))
    order by d.id
$$;

comment on function waiting_events_of is 'Events without a final word of one customer in the queue, oldest first, as in waiting_events.';

-- A link that led nowhere is not forgotten: FlexPortal may know the customer again, or something else had answered.
alter table customer_links
    add column missing_since timestamptz,
    add column missing_tried_at timestamptz;

comment on column customer_links.flexportal_customer_id is 'FlexPortal''s customer; see missing_since. Null: none is known.';
comment on column customer_links.missing_since is 'Since when FlexPortal does not know the customer: it is looked up, and this id tried again with the next change, or once a day.';
comment on column customer_links.missing_tried_at is 'When FlexPortal was last asked for a missing customer by its id.';

create or replace view current_links as
select l.*
from customer_links l
left join sources s on s.name = l.source
left join targets t on t.name = coalesce(s.target, 'default')
where l.base_url = coalesce(t.base_url, '')
  and l.tenant_id = coalesce(t.tenant_id, '');

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
