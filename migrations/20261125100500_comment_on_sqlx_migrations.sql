-- sqlx's own table, which people meet in psql as well; it is there while sqlx applies this.
do $$
begin
    if to_regclass('_sqlx_migrations') is not null then
        comment on table _sqlx_migrations is 'Which migrations were applied; kept by sqlx.';
        comment on column _sqlx_migrations.version is 'The number its file begins with.';
        comment on column _sqlx_migrations.description is 'The rest of the file''s name.';
        comment on column _sqlx_migrations.installed_on is 'When it was applied.';
        comment on column _sqlx_migrations.success is 'Whether it went through.';
        comment on column _sqlx_migrations.checksum is 'Of the file: an applied migration is never edited.';
        comment on column _sqlx_migrations.execution_time is 'How long it took, in nanoseconds.';
    end if;
end
$$;
