-- What waits of a customer: said once, for all who read it.
create view waiting_events as
select
    w.source,
    w.shop_customer_id,
    d.id as event_id,
    coalesce(s.attempts, 0) as attempts,
    coalesce(s.forgiven_attempts, 0) as forgiven_attempts
from waiting_customers w
join deliveries d
    on d.source = w.source
    and d.shop_customer_id = w.shop_customer_id
    and d.id >= w.first_event_id
left join event_states s on s.event_id = d.id
where d.concerns = 'customer'
  and (s.event_id is null or (s.status in ('pending', 'unmatched') and s.finished_at is null));

comment on view waiting_events is 'Events without a final word, of the customers in the queue.';
comment on column waiting_events.source is 'The configured shop.';
comment on column waiting_events.shop_customer_id is 'The shop''s customer.';
comment on column waiting_events.event_id is 'The event.';
comment on column waiting_events.attempts is 'Attempts that counted so far.';
comment on column waiting_events.forgiven_attempts is 'Those of them before a person set it back.';
