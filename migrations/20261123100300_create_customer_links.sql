create table customer_links (
    source text not null,
    shop_customer_id text not null,
    flexportal_customer_id text not null,
    origin text not null check (origin in ('event', 'lookup', 'import')),
    last_synced_at timestamptz,
    last_occurred_at timestamptz,
    acknowledged jsonb not null default '{}',
    primary key (source, shop_customer_id)
) with (fillfactor = 80);

comment on table customer_links is 'Which FlexPortal customer a shop''s customer is, and what FlexPortal acknowledged of it.';
comment on column customer_links.source is 'The configured shop.';
comment on column customer_links.shop_customer_id is 'The shop''s customer.';
comment on column customer_links.flexportal_customer_id is 'FlexPortal''s customer.';
comment on column customer_links.origin is 'event: the event carried the id; lookup: found by e-mail; import: given by a person.';
comment on column customer_links.last_synced_at is 'When FlexPortal last acknowledged a change.';
comment on column customer_links.last_occurred_at is 'Shop''s time of the newest change that was acknowledged.';
comment on column customer_links.acknowledged is 'Per field: at and event, the newest change that spoke for it; hash and acked, the value FlexPortal last acknowledged and when. No values.';
