-- The limit as the service last saw it configured, so that people and dashboards can be told how long things take.
alter table targets add column rate_limit_per_minute integer check (rate_limit_per_minute >= 0);

comment on column targets.rate_limit_per_minute is 'Requests a minute, as last configured; 0: no limit; null: not known yet.';

create or replace view sync_backlog as
select
    w.source,
    w.target,
    count(*) as customers_waiting,
    count(*) filter (where w.due_at <= now()) as customers_due,
    count(*) filter (where w.lease_id is not null) as customers_in_flight,
    min(w.due_at) as oldest_due_at,
    greatest(now() - min(event_arrived_at(w.first_event_id)), interval '0') as oldest_wait,
    t.held_until,
    t.hold_reason,
    min(event_arrived_at(w.first_event_id)) as oldest_received_at,
    t.rate_limit_per_minute,
    -- All that is due for the target shares its limit; a customer takes one request, or a few where it is looked up.
    sum(count(*) filter (where w.due_at <= now())) over (partition by w.target)
        * interval '1 minute' / nullif(t.rate_limit_per_minute, 0)
        + greatest(t.held_until - now(), interval '0') as clears_in
from waiting_customers w
left join targets t on t.name = w.target
group by w.source, w.target, t.held_until, t.hold_reason, t.rate_limit_per_minute;

comment on column sync_backlog.rate_limit_per_minute is 'The target''s requests a minute; 0: no limit.';
comment on column sync_backlog.clears_in is 'How long what is due for this target takes at its limit, its pause included; null without a limit.';
