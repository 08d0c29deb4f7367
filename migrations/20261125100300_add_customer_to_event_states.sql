-- From a customer to its failed events: a newer change that speaks for all of one closes it.
alter table event_states
    add column source text,
    add column shop_customer_id text;

update event_states s
set source = d.source, shop_customer_id = d.shop_customer_id
from deliveries d
where d.id = s.event_id
  and s.status = 'failed';

-- Read at every sync, and all but empty.
create index event_states_failed_by_customer on event_states (source, shop_customer_id) where status = 'failed';

comment on column event_states.source is 'Set when the event fails: whose it is.';
comment on column event_states.shop_customer_id is 'Set when the event fails: whose it is.';
