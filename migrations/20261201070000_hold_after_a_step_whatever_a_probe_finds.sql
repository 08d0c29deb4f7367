-- A pause that a probe ends may stand over the one after a step of Postgres' clock, and must not end that too.
alter table targets add column step_held_until timestamptz;

comment on column targets.step_held_until is 'Until when it is held since Postgres'' clock was set forward, whatever else it is held for meanwhile.';
