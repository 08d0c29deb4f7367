-- Places in the budget that were taken and not used, and can be used still.
alter table targets add column free_places timestamptz[] not null default '{}';

comment on column targets.free_places is 'Places before budget_used_until that were taken and given back; of use until their time has come.';
