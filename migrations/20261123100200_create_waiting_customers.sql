-- The queue: one narrow row per customer that has work waiting, however many events that is.
-- fillfactor: claims and releases change no indexed column, so they find room on the row's own page (HOT).
create table waiting_customers (
    source text not null,
    shop_customer_id text not null,
    target text not null,
    due_at timestamptz not null,
    first_event_id uuid not null,
    revision bigint not null default 1,
    attempts integer not null default 0,
    lease_id uuid,
    lease_expires_at timestamptz,
    claimed_at timestamptz,
    primary key (source, shop_customer_id),
    constraint leased_or_not check ((lease_id is null) = (lease_expires_at is null))
) with (fillfactor = 70);

-- claim: the longest due of one target.
create index waiting_customers_due on waiting_customers (target, due_at);

comment on table waiting_customers is 'The queue: one row per customer with work waiting.';
comment on column waiting_customers.source is 'The configured shop.';
comment on column waiting_customers.shop_customer_id is 'The shop''s customer.';
comment on column waiting_customers.target is 'The FlexPortal tenant the work is for.';
comment on column waiting_customers.due_at is 'Not to be claimed before.';
comment on column waiting_customers.first_event_id is 'No waiting event of this customer is older.';
comment on column waiting_customers.revision is 'Counts arrivals: a worker that read revision n leaves the row due if it is no longer n.';
comment on column waiting_customers.attempts is 'Claims since a result was last written; above 1 a worker died holding it.';
comment on column waiting_customers.lease_id is 'Owner token of the worker that has it claimed.';
comment on column waiting_customers.lease_expires_at is 'From then on another worker may take over.';
comment on column waiting_customers.claimed_at is 'When it was claimed last: events that arrived before are in flight.';
