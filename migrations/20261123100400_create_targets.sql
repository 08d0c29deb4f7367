create table targets (
    name text primary key,
    budget_used_until timestamptz not null default '-infinity',
    held_until timestamptz,
    hold_reason text check (hold_reason in ('rate_limited', 'refused')),
    constraint held_with_a_reason check ((held_until is null) = (hold_reason is null))
) with (fillfactor = 50);

comment on table targets is 'FlexPortal tenants: the request budget that all replicas share, and pauses.';
comment on column targets.name is 'As in the configuration.';
comment on column targets.budget_used_until is 'Requests are spaced evenly along time; up to this moment all places are taken.';
comment on column targets.held_until is 'No request before; with reason refused, then one probe.';
comment on column targets.hold_reason is 'rate_limited: FlexPortal answered 429; refused: it answered 401 or 403.';
