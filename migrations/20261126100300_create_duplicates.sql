-- Deliveries that had been stored before: one row for each event that was delivered again, however often.
create table duplicates (
    event_id uuid primary key,
    deliveries bigint not null default 1,
    first_at timestamptz not null,
    last_at timestamptz not null
) with (fillfactor = 80);

comment on table duplicates is 'Events that the shop delivered again; the repetitions were answered duplicate and are not stored.';
comment on column duplicates.event_id is 'The event as it was stored first.';
comment on column duplicates.deliveries is 'How often it was delivered again.';
comment on column duplicates.first_at is 'When first.';
comment on column duplicates.last_at is 'When last.';
