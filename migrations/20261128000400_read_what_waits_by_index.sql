-- The view `waiting_events` for one customer. The view leaves it to the planner how to go through the tables, which is right
-- for whoever asks for all customers. The function looks things up one after the other: the customer's place in the queue, its
-- deliveries from there on, and what became of each; so a limit from outside ends it early, and a plan that was made while
-- the tables were empty reads no more than another. That both say the same is tested (`src/outbox/in_memory/agreement.rs`).
create function waiting_events_of(of_source text, of_customer text)
returns table (
    event_id uuid,
    attempts integer,
    forgiven_attempts integer,
    topic text,
    payload json,
    occurred_at timestamptz,
    received_at timestamptz,
    traceparent text
)
language sql
stable
as $$
    select
        d.id,
        coalesce(s.attempts, 0),
        coalesce(s.forgiven_attempts, 0),
        d.topic,
        d.payload,
        d.occurred_at,
        d.received_at,
        d.traceparent
    from deliveries d
    left join lateral (
        select state.event_id, state.status, state.attempts, state.forgiven_attempts, state.finished_at
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
