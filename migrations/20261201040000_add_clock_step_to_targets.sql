-- When Postgres' clock is set forward, places in the budget come too early: whoever notices holds the target, for all.
alter table targets
    drop constraint targets_hold_reason_check,
    add constraint targets_hold_reason_check check (hold_reason in ('rate_limited', 'refused', 'failing', 'clock_step')),
    add column clock_steps_seconds float8 not null default 0;

comment on column targets.hold_reason is 'rate_limited: FlexPortal answered 429; refused: it answered 401 or 403; failing: it failed one customer after the other; clock_step: Postgres'' clock was set forward, so that the limit would not be kept.';
comment on column targets.clock_steps_seconds is 'How far Postgres'' clock was set forward in all, as far as that was noticed and made up for in the budget.';
