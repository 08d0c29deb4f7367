-- The circuit breaker's pause is a row like the others, so that every replica obeys it and none can miss it.
alter table targets
    drop constraint targets_hold_reason_check,
    add constraint targets_hold_reason_check check (hold_reason in ('rate_limited', 'refused', 'failing'));

comment on column targets.held_until is 'No request before; with reason refused or failing, then one probe.';
comment on column targets.hold_reason is 'rate_limited: FlexPortal answered 429; refused: it answered 401 or 403; failing: it failed one customer after the other.';
