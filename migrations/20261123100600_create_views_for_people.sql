create view failed_syncs as
select
    s.event_id,
    d.source,
    d.topic,
    d.shop_customer_id,
    d.email,
    s.flexportal_customer_id,
    d.occurred_at,
    d.received_at,
    s.finished_at as failed_at,
    s.attempts,
    s.last_http_status as http_status,
    s.last_error_code as error_code,
    s.last_error as error,
    s.warnings,
    (
        select a.request_body
        from sync_attempts a
        where a.event_id = coalesce(s.attempted_as, s.event_id)
          and a.request_body is not null
        order by a.id desc
        limit 1
    ) as request_body,
    (
        select a.response_body
        from sync_attempts a
        where a.event_id = coalesce(s.attempted_as, s.event_id)
        order by a.id desc
        limit 1
    ) as response_body,
    case
        when s.last_http_status in (400, 422) then
            'Correct the field named in the error in the shop: the next change is sent by itself. Or, once FlexPortal takes it: select retry_sync(''' || s.event_id || ''');'
        when s.last_http_status = 409 then
            'FlexPortal has conflicting data: look at this customer there, then: select retry_sync(''' || s.event_id || ''');'
        when s.last_http_status between 400 and 499 then
            'FlexPortal refuses the request: see the answer, then: select retry_sync(''' || s.event_id || ''');'
        when s.last_error_code = 'UNREADABLE' then
            'The stored payload cannot be read under today''s configuration: see the error. After mending it: select retry_sync(''' || s.event_id || ''');'
        when s.last_error_code = 'INTERNAL' then
            'A fault of flexportal-sync: please report it with this event''s id. Another try: select retry_sync(''' || s.event_id || ''');'
        else
            'FlexPortal could not be reached or did not do it: once it works again: select retry_sync(''' || s.event_id || ''');'
    end as what_to_do
from event_states s
join deliveries d on d.id = s.event_id
where s.status = 'failed';

comment on view failed_syncs is 'What failed, for whom, why, the request and FlexPortal''s answer, what to do.';
comment on column failed_syncs.event_id is 'For retry_sync(event_id) or discard_sync(event_id, reason).';
comment on column failed_syncs.source is 'The configured shop.';
comment on column failed_syncs.topic is 'What happened in the shop.';
comment on column failed_syncs.shop_customer_id is 'The shop''s customer.';
comment on column failed_syncs.email is 'E-mail as the delivery gave it.';
comment on column failed_syncs.flexportal_customer_id is 'FlexPortal''s customer, if it was found.';
comment on column failed_syncs.occurred_at is 'When the shop says it happened.';
comment on column failed_syncs.received_at is 'When it arrived.';
comment on column failed_syncs.failed_at is 'When it was given up.';
comment on column failed_syncs.attempts is 'Attempts made.';
comment on column failed_syncs.http_status is 'FlexPortal''s last answer; null if there was none.';
comment on column failed_syncs.error_code is 'FlexPortal''s error.code, or our own word.';
comment on column failed_syncs.error is 'The error, with the fields it names.';
comment on column failed_syncs.warnings is 'What could not be sent.';
comment on column failed_syncs.request_body is 'The last body sent.';
comment on column failed_syncs.response_body is 'The last answer, cut at 4 KiB.';
comment on column failed_syncs.what_to_do is 'The next step.';

create view failure_groups as
select
    d.source,
    s.last_http_status as http_status,
    s.last_error_code as error_code,
    s.last_error as error,
    count(*) as events,
    count(distinct d.shop_customer_id) as customers,
    min(s.finished_at) as first_failed_at,
    max(s.finished_at) as last_failed_at
from event_states s
join deliveries d on d.id = s.event_id
where s.status = 'failed'
group by d.source, s.last_http_status, s.last_error_code, s.last_error;

comment on view failure_groups is 'Failed events counted by cause.';
comment on column failure_groups.source is 'The configured shop.';
comment on column failure_groups.http_status is 'FlexPortal''s answer; null if there was none.';
comment on column failure_groups.error_code is 'FlexPortal''s error.code, or our own word.';
comment on column failure_groups.error is 'The error.';
comment on column failure_groups.events is 'How many events failed so.';
comment on column failure_groups.customers is 'How many customers that is.';
comment on column failure_groups.first_failed_at is 'Since when.';
comment on column failure_groups.last_failed_at is 'When last.';

create view customer_sync_state as
select
    c.source,
    c.shop_customer_id,
    l.flexportal_customer_id,
    l.origin as link_origin,
    case
        when c.failed > 0 then 'failed'
        when w.source is not null and c.unmatched > 0 then 'unmatched'
        when w.source is not null then 'waiting'
        when c.unmatched > 0 then 'unmatched'
        else 'in_sync'
    end as state,
    l.last_synced_at,
    l.last_occurred_at,
    c.last_received_at,
    w.due_at as next_attempt_at,
    c.events,
    c.failed as failed_events
from (
    select
        d.source,
        d.shop_customer_id,
        count(*) as events,
        count(*) filter (where s.status = 'failed') as failed,
        count(*) filter (where s.status = 'unmatched') as unmatched,
        max(d.received_at) as last_received_at
    from deliveries d
    left join event_states s on s.event_id = d.id
    where d.concerns = 'customer'
    group by d.source, d.shop_customer_id
) c
left join customer_links l using (source, shop_customer_id)
left join waiting_customers w using (source, shop_customer_id);

comment on view customer_sync_state is 'One row per customer: is it in sync?';
comment on column customer_sync_state.source is 'The configured shop.';
comment on column customer_sync_state.shop_customer_id is 'The shop''s customer.';
comment on column customer_sync_state.flexportal_customer_id is 'FlexPortal''s customer, if known.';
comment on column customer_sync_state.link_origin is 'How it was found.';
comment on column customer_sync_state.state is 'in_sync, waiting, unmatched or failed.';
comment on column customer_sync_state.last_synced_at is 'When FlexPortal last acknowledged a change.';
comment on column customer_sync_state.last_occurred_at is 'Shop''s time of the newest acknowledged change.';
comment on column customer_sync_state.last_received_at is 'When the last delivery arrived.';
comment on column customer_sync_state.next_attempt_at is 'When waiting work is due.';
comment on column customer_sync_state.events is 'Deliveries kept.';
comment on column customer_sync_state.failed_events is 'How many of them failed.';

create view sync_backlog as
select
    w.source,
    w.target,
    count(*) as customers_waiting,
    count(*) filter (where w.due_at <= now()) as customers_due,
    count(*) filter (where w.lease_id is not null) as customers_in_flight,
    min(w.due_at) as oldest_due_at,
    greatest(now() - min(w.due_at), interval '0') as oldest_wait,
    t.held_until,
    t.hold_reason
from waiting_customers w
left join targets t on t.name = w.target
group by w.source, w.target, t.held_until, t.hold_reason;

comment on view sync_backlog is 'How much waits, how old, per source and target.';
comment on column sync_backlog.source is 'The configured shop.';
comment on column sync_backlog.target is 'The FlexPortal tenant.';
comment on column sync_backlog.customers_waiting is 'Customers with work waiting, retries and unmatched ones included.';
comment on column sync_backlog.customers_due is 'Of these, due now.';
comment on column sync_backlog.customers_in_flight is 'Of these, claimed by a worker.';
comment on column sync_backlog.oldest_due_at is 'Due time of the one that is due longest.';
comment on column sync_backlog.oldest_wait is 'For how long that is.';
comment on column sync_backlog.held_until is 'The target is held until then.';
comment on column sync_backlog.hold_reason is 'Why it is held.';
