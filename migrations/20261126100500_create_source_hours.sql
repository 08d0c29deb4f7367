-- How talkative each source is, hour by hour: a shop that switched its webhooks off says nothing, and is told by that.
create table source_hours (
    source text not null,
    hour timestamptz not null,
    deliveries bigint not null,
    last_at timestamptz not null,
    primary key (source, hour)
);

comment on table source_hours is 'Deliveries of each source by the hour, for a few weeks.';
comment on column source_hours.source is 'The configured shop.';
comment on column source_hours.hour is 'Its beginning.';
comment on column source_hours.deliveries is 'How many arrived in it; duplicates are not counted.';
comment on column source_hours.last_at is 'When the last of them arrived.';

create table source_hours_progress (
    one boolean primary key default true check (one),
    counted_to timestamptz not null
);

comment on table source_hours_progress is 'How far deliveries have been counted into source_hours; one row.';
comment on column source_hours_progress.one is 'Always true: there is one row.';
comment on column source_hours_progress.counted_to is 'Deliveries that arrived before are counted.';
