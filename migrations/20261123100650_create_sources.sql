-- The target of a source, as the service last saw it configured: retry_sync() has to queue work for it.
create table sources (
    name text primary key,
    kind text not null,
    target text not null
);

comment on table sources is 'The configured shops, as the service last saw them.';
comment on column sources.name is 'As in POST /webhooks/{source}.';
comment on column sources.kind is 'The shop system.';
comment on column sources.target is 'The FlexPortal tenant.';
