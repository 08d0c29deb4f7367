-- Bodies are kept as text: `jsonb` took each webhook's apart when it was stored and put it together again, twice, when it was
-- read (benches/README.md). Postgres still refuses what is not JSON, and people see `jsonb`, as before.
--
-- The table is written anew, a quarter of a minute for a million events of 1.5 KB on two cores; nothing is stored or sent meanwhile.
-- Where somebody holds the table, this gives up, to be started again: all webhooks would wait behind it.
--
-- An older program goes on storing and sending, since `jsonb` is cast where it is assigned; where it showed single events to
-- people before, it fails to until it is started again.
set local lock_timeout = '2s';

-- A view holds on to its column's type: for a moment they say nothing of it.
do $$
declare
    of_people record;
begin
    for of_people in
        select c.oid::regclass as name, pg_get_viewdef(c.oid) as query
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = current_schema()
          and c.relname in ('outbox_events', 'failed_syncs')
    loop
        execute format(
            'create or replace view %s as %s',
            of_people.name,
            replace(replace(of_people.query, 'd.payload,', 'null::jsonb as payload,'), 'd.payload', 'null::jsonb')
        );
    end loop;
end
$$;

alter table deliveries alter column payload type json using payload::json;

comment on column deliveries.payload is 'The body as received. Cast to jsonb to look into it.';

-- Older programs ask in these words whether something was erased; they may still run, or run again.
create function is_same_text(json, json) returns boolean
language sql
immutable
parallel safe
as $$
    select $1::text = $2::text
$$;

create function is_other_text(json, json) returns boolean
language sql
immutable
parallel safe
as $$
    select $1::text <> $2::text
$$;

create operator = (leftarg = json, rightarg = json, function = is_same_text, commutator = =, negator = <>);
create operator <> (leftarg = json, rightarg = json, function = is_other_text, commutator = <>, negator = =);

comment on function is_same_text(json, json) is 'Whether two are the same to the letter; white space counts.';
comment on function is_other_text(json, json) is 'Whether two differ in any letter; white space counts.';
comment on operator = (json, json) is 'The same to the letter.';
comment on operator <> (json, json) is 'Not the same to the letter.';

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
    d.payload::jsonb as payload,
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
        when d.payload::text = '{"erased": true}' then
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


create or replace function why_not_retry(event_id uuid) returns text
language sql
stable
as $$
    select case
        when d.concerns <> 'customer' then 'nothing to do: this is a privacy request, not a change to sync'
        when d.payload::text = '{"erased": true}' then 'nothing to do: its data was erased'
        when s.status is null or s.status not in ('failed', 'unmatched', 'discarded') then
            'nothing to do: only failed, unmatched and discarded events can be set back'
    end
    from deliveries d
    left join event_states s on s.event_id = d.id
    where d.id = why_not_retry.event_id
$$;
