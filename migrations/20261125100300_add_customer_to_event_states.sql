-- From a customer to its events that were given up, as failed or unmatched: a newer change that speaks for all of one
-- closes it.
alter table event_states
    add column source text,
    add column shop_customer_id text;

update event_states s
set source = d.source, shop_customer_id = d.shop_customer_id
from deliveries d
where d.id = s.event_id
  and s.status in ('failed', 'unmatched')
  and s.finished_at is not null;

-- Read at every sync, and all but empty.
create index event_states_given_up_by_customer on event_states (source, shop_customer_id)
    where status in ('failed', 'unmatched') and finished_at is not null;

comment on column event_states.source is 'Set when the event is given up as failed or unmatched: whose it is.';
comment on column event_states.shop_customer_id is 'Set when the event is given up as failed or unmatched: whose it is.';
