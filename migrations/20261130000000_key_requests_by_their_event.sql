-- One index of requests instead of two: each was written for every request, and nobody looks for one by its number alone
-- (benches/README.md).
--
-- The index is built anew, half a second for a million requests; results are written down afterwards. Where somebody holds
-- the table, this gives up, to be started again: all results would wait behind it.
set local lock_timeout = '2s';
lock table sync_attempts in access exclusive mode;      -- at once: what is read now, and written next, would wait for this

create unique index sync_attempts_in_order on sync_attempts (event_id, id);
alter table sync_attempts
    drop constraint sync_attempts_pkey,
    add constraint sync_attempts_pkey primary key using index sync_attempts_in_order;
drop index sync_attempts_by_event;
