-- A request that timed out may still arrive: until it cannot, its customer rests, whatever else arrives for it.
alter table waiting_customers add column rests_until timestamptz;

comment on column waiting_customers.rests_until is 'Until then a request that timed out may still arrive at FlexPortal: no other for this customer before.';

create or replace view outbox_events as
select
    d.id,
    d.source,
    d.delivery_id,
    d.topic,
    d.shop_customer_id,
    d.email,
    d.occurred_at,
    d.received_at,
    d.payload,
    case
        when coalesce(s.status, 'pending') <> 'pending' then s.status
        when w.lease_id is not null and d.received_at <= w.claimed_at then 'in_flight'
        else 'pending'
    end as status,
    coalesce(s.attempts, 0) as attempts,
    case when s.finished_at is null then greatest(w.due_at, w.rests_until) end as next_attempt_at,
    s.last_http_status,
    s.last_error_code,
    s.last_error,
    d.intake_warnings || coalesce(s.warnings, '{}') as warnings,
    s.flexportal_customer_id,
    s.superseded_by,
    s.finished_at
from deliveries d
left join event_states s on s.event_id = d.id
left join waiting_customers w
    on w.source = d.source
    and w.shop_customer_id = d.shop_customer_id
    and d.concerns = 'customer';
