create view outbox_events as
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
    case when s.finished_at is null then w.due_at end as next_attempt_at,
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

comment on view outbox_events is 'One row per stored delivery, with what became of it.';
comment on column outbox_events.id is 'Event id (UUID version 7: sorts by arrival).';
comment on column outbox_events.source is 'The configured shop.';
comment on column outbox_events.delivery_id is 'Unique with source.';
comment on column outbox_events.topic is 'What happened, in the shop''s own word.';
comment on column outbox_events.shop_customer_id is 'The shop''s customer id.';
comment on column outbox_events.email is 'E-mail of the customer as this delivery gives it.';
comment on column outbox_events.occurred_at is 'When the shop says it happened.';
comment on column outbox_events.received_at is 'When it arrived.';
comment on column outbox_events.payload is 'The body as received.';
comment on column outbox_events.status is 'pending, in_flight, synced, superseded, unchanged, unmatched, failed or discarded.';
comment on column outbox_events.attempts is 'Attempts that counted.';
comment on column outbox_events.next_attempt_at is 'When it is due; null when nothing waits.';
comment on column outbox_events.last_http_status is 'FlexPortal''s last answer.';
comment on column outbox_events.last_error_code is 'FlexPortal''s error.code, or our own word.';
comment on column outbox_events.last_error is 'The last error for people.';
comment on column outbox_events.warnings is 'What could not be stored or sent as it was, and why.';
comment on column outbox_events.flexportal_customer_id is 'The FlexPortal customer that was found.';
comment on column outbox_events.superseded_by is 'The newer event that spoke for all of this one.';
comment on column outbox_events.finished_at is 'When it was settled for good.';
