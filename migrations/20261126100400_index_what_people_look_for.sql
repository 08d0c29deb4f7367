-- A person is looked for, and erased, by e-mail, however it is written.
create index deliveries_by_email on deliveries (lower(email)) where email is not null;

-- Privacy requests, of which there are few.
create index deliveries_for_privacy on deliveries (id) where concerns = 'privacy';

-- Events of the rare kinds, newest first: among a million others they would be searched for one by one.
create index event_states_of_rare_kinds on event_states (status, event_id)
    where status in ('failed', 'unmatched', 'discarded');

-- The last hour, minute by minute. Both columns grow with their tables, so a page range says enough.
create index sync_attempts_by_time on sync_attempts using brin (started_at) with (pages_per_range = 32);
create index event_states_by_time on event_states using brin (finished_at) with (pages_per_range = 32);
