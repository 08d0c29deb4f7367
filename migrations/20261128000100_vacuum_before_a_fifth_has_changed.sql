-- By default a table is vacuumed, and its statistics taken, once a fifth, or a tenth, of it has changed: of ten million
-- events that is two million, of a million waiting customers two hundred thousand. Each table's own share, with what it
-- is for; a table of a few rows is looked after as before.

-- The queue. Each event leaves dead rows behind, and dead entries at the very place of its index where claims begin to
-- look; and it goes from nothing to a million rows in minutes, while statements that were planned for nothing read it from
-- end to end until its statistics are taken. It is small: vacuum may hurry (no cost delay).
alter table waiting_customers set (
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05
);

-- Rewritten with each sync of their customer, all over the table: what room dead rows leave on a page is used again, if
-- they are removed before the page is full.
alter table customer_links set (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

-- These grow at their end, and are removed at their beginning. Inserted rows are vacuumed, too: that is what sums up the
-- newest pages for the indexes by time (brin), without which each look at the last hour reads all pages since, and what
-- lets an index answer alone. Removed ones leave dead entries where the next removal begins to look. Statistics: the
-- newest ids and times lie beyond all that were known when they were taken last.
alter table deliveries set (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);
alter table event_states set (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);
alter table sync_attempts set (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);
