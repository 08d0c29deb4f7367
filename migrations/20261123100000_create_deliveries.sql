-- What shops sent, written once and never rewritten: no later change of state copies the payload.
create table deliveries (
    id uuid primary key,
    source text not null,
    delivery_id text not null,
    topic text not null,
    shop_customer_id text,
    email text,
    concerns text not null check (concerns in ('customer', 'privacy')),
    occurred_at timestamptz not null,
    received_at timestamptz not null,
    intake_warnings text[] not null default '{}',
    payload jsonb not null,
    constraint deliveries_are_unique unique (source, delivery_id),
    constraint customer_changes_name_their_customer check (concerns <> 'customer' or shop_customer_id is not null)
);

-- The waiting events of one customer, from the first that waits; later also a customer's whole story.
create index deliveries_by_customer on deliveries (source, shop_customer_id, id);

comment on table deliveries is 'What shops sent, one row per stored delivery; written once. Read it through outbox_events.';
comment on column deliveries.id is 'Event id (UUID version 7: sorts by arrival).';
comment on column deliveries.source is 'The configured shop, as in POST /webhooks/{source}.';
comment on column deliveries.delivery_id is 'What tells deliveries of a source apart; WooCommerce''s is joined by the SHA-256 of the body.';
comment on column deliveries.topic is 'What happened, in the shop''s own word, such as customers/update.';
comment on column deliveries.shop_customer_id is 'The shop''s customer id, digit for digit; null only for privacy requests without one.';
comment on column deliveries.email is 'E-mail of the customer as this delivery gives it.';
comment on column deliveries.concerns is 'customer: a change to sync; privacy: a request for data or erasure, kept for a person.';
comment on column deliveries.occurred_at is 'When the shop says it happened; where it does not say, when it arrived.';
comment on column deliveries.received_at is 'When it arrived.';
comment on column deliveries.intake_warnings is 'What had to be changed to store the payload, such as NUL characters replaced.';
comment on column deliveries.payload is 'The body as received.';
