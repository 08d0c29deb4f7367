-- What somebody should know though no event failed for it: in the log it would be read too late.
create table notices (
    kind text not null,
    subject text not null,
    count bigint not null check (count > 0),
    first_at timestamptz not null,
    last_at timestamptz not null,
    detail text not null,
    primary key (kind, subject)
);

comment on table notices is 'What somebody should know though no event failed for it, such as a webhook whose owner lost its rights. Shown by status for a day.';
comment on column notices.kind is 'What kind of thing.';
comment on column notices.subject is 'The source or target it is about.';
comment on column notices.count is 'How often, since first_at.';
comment on column notices.first_at is 'The first time; it begins anew after a day without any.';
comment on column notices.last_at is 'The last time.';
comment on column notices.detail is 'What happened the last time, and what to do. Nothing personal.';
