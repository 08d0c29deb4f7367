-- Failures are counted by their cause, which names the field and not what stood in it: "`phone` is refused".
alter table event_states add column cause text;

comment on column event_states.cause is 'The last error in few words, the same for everybody whom it meets; failures are counted by it.';

drop view failure_groups;

create view failure_groups as
select
    s.source,
    coalesce(s.cause, s.last_error_code, 'HTTP ' || s.last_http_status, 'unknown') as cause,
    s.last_http_status as http_status,
    s.last_error_code as error_code,
    count(*) as events,
    count(distinct s.shop_customer_id) as customers,
    min(s.finished_at) as first_failed_at,
    max(s.finished_at) as last_failed_at,
    (array_agg(s.event_id order by s.finished_at desc))[1] as example_event_id,
    (array_agg(s.last_error order by s.finished_at desc))[1] as example_error
from event_states s
where s.status = 'failed'
group by 1, 2, 3, 4;

comment on view failure_groups is 'Failed events counted by cause.';
comment on column failure_groups.source is 'The configured shop.';
comment on column failure_groups.cause is 'What they have in common, in few words.';
comment on column failure_groups.http_status is 'FlexPortal''s answer; null if there was none.';
comment on column failure_groups.error_code is 'FlexPortal''s error.code, or our own word.';
comment on column failure_groups.events is 'How many events failed so.';
comment on column failure_groups.customers is 'How many customers that is.';
comment on column failure_groups.first_failed_at is 'Since when.';
comment on column failure_groups.last_failed_at is 'When last.';
comment on column failure_groups.example_event_id is 'The newest of them: its request and answer stand in failed_syncs.';
comment on column failure_groups.example_error is 'Its error.';

create or replace view failed_syncs as
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
        when d.payload = '{"erased": true}' then
            'Its data was erased, and it is not sent any more. Close it: select discard_sync(''' || s.event_id || ''', ''erased'');'
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
    end as what_to_do,
    coalesce(s.cause, s.last_error_code, 'HTTP ' || s.last_http_status, 'unknown') as cause
from event_states s
join deliveries d on d.id = s.event_id
where s.status = 'failed';

comment on column failed_syncs.cause is 'The error in few words, as in failure_groups.';
