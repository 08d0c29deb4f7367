-- Several shop customers can lead to one FlexPortal customer: an e-mail that was passed on, somebody who was deleted and
-- registered anew, a merge. What is known of each of them decides whose word counts (src/sync/sharing.rs).
create table hash_key (
    key bytea not null check (octet_length(key) >= 16),
    is_only boolean primary key default true check (is_only)
);

comment on table hash_key is 'The key of hashes of personal values, made at random with the database: without it they tell nothing.';
comment on column hash_key.key is 'For HMAC-SHA256. Lost, hashes are made anew with the next changes.';
comment on column hash_key.is_only is 'There is one row.';

-- 244 bits of chance: gen_random_uuid() is made by the operating system's generator.
insert into hash_key (key)
values (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

alter table customer_links
    add column email_hash text,
    add column status_shown text check (status_shown in ('active', 'inactive')),
    add column status_shown_at timestamptz,
    add column merged_into text;

comment on column customer_links.email_hash is 'Keyed hash (hash_key) of the shop customer''s e-mail as its newest synced change gave it; outlives RETENTION.';
comment on column customer_links.status_shown is 'The status that FlexPortal''s last answer about this customer showed.';
comment on column customer_links.status_shown_at is 'When that was.';
comment on column customer_links.merged_into is 'The shop merged this customer into that one, which has its link now.';

-- Who else leads to a FlexPortal customer.
create index customer_links_by_flexportal_customer on customer_links (flexportal_customer_id);

create or replace view current_links as
select l.*
from customer_links l
left join sources s on s.name = l.source
left join targets t on t.name = coalesce(s.target, 'default')
where l.base_url = coalesce(t.base_url, '')
  and l.tenant_id = coalesce(t.tenant_id, '');

do $$
declare
    of_table record;
begin
    for of_table in
        select a.attname as name, col_description(a.attrelid, a.attnum) as text
        from pg_attribute a
        where a.attrelid = 'customer_links'::regclass
          and a.attnum > 0
          and not a.attisdropped
    loop
        execute format('comment on column current_links.%I is %L', of_table.name, of_table.text);
    end loop;
end
$$;
