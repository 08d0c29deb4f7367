-- Whoever calls the functions under a role of their own can say what they like of themselves; the role is told beside it.
alter table interventions alter column done_by set default case
    when session_user = current_user then coalesce(nullif(current_setting('flexportal_sync.done_by', true), ''), session_user)
    else coalesce(nullif(current_setting('flexportal_sync.done_by', true), '') || ' (' || session_user || ')', session_user)
end;

comment on column interventions.done_by is 'terminal, api, console or shop, else the database role that called the function; of another role than the owner''s both are told.';
