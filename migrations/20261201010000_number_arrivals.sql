-- The order of changes no longer goes by the clock of the process that took them in. A webhook's arrival is told by Postgres'
-- clock and a number that all replicas share; ids are made of both.
create sequence arrival_numbers as bigint cache 1;

comment on sequence arrival_numbers is 'Numbers webhooks in the order in which they arrive, whatever replica takes them in. Numbers become visible out of order, and some never do.';

alter table deliveries
    add column arrival bigint,
    add column triggered_at timestamptz;

comment on column deliveries.id is 'Event id: a UUID of version 7 made of received_at and arrival, so that it sorts by arrival.';
comment on column deliveries.arrival is 'Number of its arrival, from arrival_numbers; null for what came before there were numbers.';
comment on column deliveries.triggered_at is 'When the shop says that the webhook was triggered (X-Shopify-Triggered-At); orders changes of one second.';
comment on column deliveries.occurred_at is 'When the shop says it happened; where it does not say, or says what cannot be, the arrival, or the newest change of the customer if that is later.';
comment on column deliveries.received_at is 'When it arrived, by Postgres'' clock, and never before an earlier webhook of the same customer.';

-- A start looks for numbers beyond the sequence, as after a restore of the tables alone: nearly always there are none.
create index deliveries_by_arrival on deliveries using brin (arrival) with (autosummarize = on);

-- Changes that came where the queue's row of their customer was locked by somebody else.
create table unqueued_changes (
    event_id uuid primary key,
    source text not null,
    shop_customer_id text not null,
    target text not null,
    is_asked_for boolean not null
);

comment on table unqueued_changes is 'Changes that were stored while somebody else held their customer''s row of the queue: they take their place in it within a second of its release.';
comment on column unqueued_changes.event_id is 'The change (deliveries.id).';
comment on column unqueued_changes.source is 'The configured shop.';
comment on column unqueued_changes.shop_customer_id is 'The shop''s customer.';
comment on column unqueued_changes.target is 'The FlexPortal tenant the work is for.';
comment on column unqueued_changes.is_asked_for is 'As in waiting_customers.';

-- What came before: a shop's time over five minutes ahead counted, and held up every right change after it.
update deliveries
set occurred_at = received_at
where occurred_at > received_at + interval '5 minutes';

update customer_links
set acknowledged = (
    select jsonb_object_agg(
        field,
        case
            when (known ->> 'at')::timestamptz > event_arrived_at((known ->> 'event')::uuid) + interval '5 minutes'
            then known || jsonb_build_object('at', event_arrived_at((known ->> 'event')::uuid))
            else known
        end
    )
    from jsonb_each(acknowledged) as before (field, known)
)
where jsonb_typeof(acknowledged) = 'object'
  and exists (
    select
    from jsonb_each(acknowledged) as before (field, known)
    where (known ->> 'at')::timestamptz > event_arrived_at((known ->> 'event')::uuid) + interval '5 minutes'
);
