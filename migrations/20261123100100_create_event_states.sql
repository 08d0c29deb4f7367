-- What became of an event; no row yet means that it still waits for its first attempt.
create table event_states (
    event_id uuid primary key,
    status text not null
        check (status in ('pending', 'synced', 'superseded', 'unchanged', 'unmatched', 'failed', 'discarded')),
    attempts integer not null default 0 check (attempts >= 0),
    forgiven_attempts integer not null default 0 check (forgiven_attempts between 0 and attempts),
    last_http_status integer,
    last_error_code text,
    last_error text,
    warnings text[] not null default '{}',
    flexportal_customer_id text,
    superseded_by uuid,
    attempted_as uuid,
    finished_at timestamptz,
    constraint finished_exactly_when_final check (
        case status
            when 'pending' then finished_at is null
            when 'unmatched' then true              -- finished once UNMATCHED_MAX_AGE is over
            else finished_at is not null
        end
    ),
    constraint superseded_names_its_successor check (status <> 'superseded' or superseded_by is not null)
);
-- No foreign key to deliveries: the check would cost every settled event a look-up and a row lock, and both
-- sides are written by one hand (outbox/settle.rs).

-- failed_syncs and failure_groups read just the failed ones, newest first.
create index event_states_failed on event_states (finished_at desc) where status = 'failed';

comment on table event_states is 'What became of each event. Read it through outbox_events.';
comment on column event_states.event_id is 'The event (deliveries.id).';
comment on column event_states.status is 'pending: tried and waiting for the next attempt; otherwise the word of the contract.';
comment on column event_states.attempts is 'Attempts that counted; waiting for a rate limit or for credentials does not.';
comment on column event_states.forgiven_attempts is 'Attempts before a person set it back: the backoff counts from there.';
comment on column event_states.last_http_status is 'FlexPortal''s last answer.';
comment on column event_states.last_error_code is 'FlexPortal''s error.code, or our own word where there was no answer.';
comment on column event_states.last_error is 'The last error for people.';
comment on column event_states.warnings is 'What could not be sent, and why. Holds no values.';
comment on column event_states.flexportal_customer_id is 'The FlexPortal customer that was found.';
comment on column event_states.superseded_by is 'The newer event that spoke for all of this one.';
comment on column event_states.attempted_as is 'The event under which the last request for this one stands in sync_attempts: the newest that went out with it.';
comment on column event_states.finished_at is 'When it was settled for good.';

create table sync_attempts (
    id bigint generated always as identity primary key,
    event_id uuid not null,
    attempt integer not null,
    operation text not null check (operation in ('update_customer', 'find_by_email')),
    started_at timestamptz not null,
    duration_ms integer not null,
    request_body jsonb,
    http_status integer,
    error_code text,
    error text,
    response_body text
);

-- One event's attempts, in order.
create index sync_attempts_by_event on sync_attempts (event_id, id);

comment on table sync_attempts is 'One row per request to FlexPortal.';
comment on column sync_attempts.id is 'Order of recording.';
comment on column sync_attempts.event_id is 'The newest event that the request was made for.';
comment on column sync_attempts.attempt is 'Number of the attempt, from 1. A request that did not count (429, 401, 403) is followed by one with the same number; lookups bear the number of the attempt they belong to.';
comment on column sync_attempts.operation is 'update_customer: PUT /v1/customers/{id}; find_by_email: GET /v1/customers?email=.';
comment on column sync_attempts.started_at is 'When the request was sent.';
comment on column sync_attempts.duration_ms is 'Until the answer was read or given up, in milliseconds.';
comment on column sync_attempts.request_body is 'The body sent; null for a lookup.';
comment on column sync_attempts.http_status is 'Status of the answer; null if there was none.';
comment on column sync_attempts.error_code is 'FlexPortal''s error.code, or our own word where there was no answer.';
comment on column sync_attempts.error is 'The error for people.';
comment on column sync_attempts.response_body is 'The answer''s body, cut at 4 KiB.';
