-- Who has just changed is likely to change again, and what is sent then is soon outdated: a request that is missing
-- afterwards. Where the quota makes customers wait, those who are quiet go first, and one request says it all. But who a
-- customer is does not change with it: those that FlexPortal has to be asked for do not wait for that.
alter table waiting_customers
    add column changed_at timestamptz,
    add column is_asked_for boolean not null default false;

comment on column waiting_customers.changed_at is 'When its newest change arrived: where there is a quota, others go first until it was quiet for 5 s, or has waited for 10 s. None: it is as good as quiet.';
comment on column waiting_customers.is_asked_for is 'FlexPortal has to be asked who it is, unless a link says it: none of its changes does. Not so once it was asked for in vain.';
