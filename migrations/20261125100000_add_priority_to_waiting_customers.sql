-- Whose turn it is when the budget does not do for all: live changes, then retries, then what a person replays.
alter table waiting_customers
    add column priority smallint not null default 0
        constraint waiting_customers_priority_check check (priority between 0 and 2);

-- claim: of each priority, the longest due of one target. A range of due_at for every priority, so that customers
-- who wait for a later time are never read.
create index waiting_customers_by_priority on waiting_customers (target, priority, due_at);
drop index waiting_customers_due;

comment on column waiting_customers.priority is '0: a live change; 1: a retry; 2: replayed by a person. Lower goes first.';
