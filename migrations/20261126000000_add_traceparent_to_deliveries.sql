-- The trace of a delivery goes on after it was stored, in whichever process syncs it.
alter table deliveries add column traceparent text;

comment on column deliveries.traceparent is 'Where it was received in its trace, as W3C traceparent; null where nothing was traced.';
