//! How talkative each source is, hour by hour: what tells a shop that went silent from one that is asleep.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};

use super::{Outbox, StoreError};
use crate::domain::{EventId, PgInstant, SourceName};

/// Deliveries that arrived before are committed, or never will be: intake answers within seconds.
const SETTLED_AFTER: Duration = Duration::from_secs(15);
/// Counted in one statement at most.
const LONGEST_SPAN: Duration = Duration::from_hours(1);
/// So far back the first count begins, and so long before its last delivery the hours of a source are kept.
const KEPT_DAYS: i32 = 35;
/// A quiet time is compared with so many days before it.
const COMPARED_DAYS: i32 = 14;

/// How quiet a source is.
#[derive(Debug, Clone, PartialEq)]
pub struct Activity {
    /// The source.
    pub source: SourceName,
    /// When its last delivery arrived.
    pub last_received_at: DateTime<Utc>,
    /// How many would have come since, had it gone on as on the days before.
    pub expected_since: f64,
}

impl Outbox {
    /// Counts deliveries that have not been counted yet, an hour's worth at most; `false` if none are left, or if another
    /// process is counting.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was counted.
    pub async fn count_deliveries(&self) -> Result<bool, StoreError> {
        let now = self.now().await?;
        let mut transaction = self.pool.begin().await?;
        sqlx::query!(
            "insert into source_hours_progress (counted_to) values ($1) on conflict do nothing",
            // Ids have whole milliseconds; counted is what lies before one.
            (now - Duration::from_hours(24 * u64::from(KEPT_DAYS.unsigned_abs()))).utc().trunc_subsecs(3),
        )
        .execute(&mut *transaction)
        .await?;
        let counted_to = sqlx::query_scalar!("select counted_to from source_hours_progress for update skip locked")
            .fetch_optional(&mut *transaction)
            .await?;
        let settled = (now - SETTLED_AFTER).utc().trunc_subsecs(3);
        let Some(from) = counted_to.filter(|counted_to| *counted_to < settled) else { return Ok(false) };
        let to = self.next_span(&mut transaction, from, settled).await?;
        sqlx::query!(
            r#"
            insert into source_hours as counted (source, hour, deliveries, last_at)
            select source, date_trunc('hour', received_at), count(*), max(received_at)
            from deliveries
            where id >= $1
              and id < $2
            group by 1, 2
            on conflict (source, hour) do update
            set deliveries = counted.deliveries + excluded.deliveries,
                last_at = greatest(counted.last_at, excluded.last_at)
            "#,
            EventId::first_at(from).0,
            EventId::first_at(to).0,
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!("update source_hours_progress set counted_to = $1", to).execute(&mut *transaction).await?;
        // Reckoned from its last delivery: however long a source is silent, it is told by what it was before.
        sqlx::query!(
            r#"
            delete from source_hours past
            using (select source, max(hour) as last_hour from source_hours group by source) as heard
            where past.source = heard.source
              and past.hour < heard.last_hour - make_interval(days => $1)
            "#,
            KEPT_DAYS,
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(to < settled)
    }

    /// To where to count in one go: past times without any delivery in one leap.
    async fn next_span(
        &self,
        connection: &mut sqlx::PgConnection,
        from: DateTime<Utc>,
        settled: DateTime<Utc>,
    ) -> Result<DateTime<Utc>, StoreError> {
        let first = sqlx::query_scalar!(
            "select received_at from deliveries where id >= $1 order by id limit 1",
            EventId::first_at(from).0,
        )
        .fetch_optional(connection)
        .await?;
        Ok(first.map_or(settled, |first| first.trunc_subsecs(3).max(from) + LONGEST_SPAN).min(settled))
    }

    /// How quiet each source is.
    ///
    /// A quiet hour is compared with the same hour of the days before the silence, seven of them at most, and with that of
    /// the same weekday: the smaller counts, so that neither nights nor Sundays look like silence. A source is not judged
    /// in its first day.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn activity(&self, now: PgInstant) -> Result<Vec<Activity>, StoreError> {
        let activity = sqlx::query_as!(
            Activity,
            r#"
            with moment as (
                select $1::timestamptz as now
            ),
            uncounted as (
                select source, max(received_at) as last_at
                from deliveries
                where id >= $2
                group by source
            ),
            heard as (
                select source, min(hour) as first_hour, max(last_at) as last_at
                from source_hours
                group by source
            ),
            known as (
                select
                    source,
                    heard.first_hour,
                    date_trunc('hour', heard.last_at) as last_hour,
                    greatest(heard.last_at, uncounted.last_at) as last_at
                from heard
                full join uncounted using (source)
            )
            select
                known.source as "source!: SourceName",
                known.last_at as "last_received_at!",
                coalesce((
                    select sum(least(usual.on_these_days, usual.on_this_weekday) * quiet.share)
                    from moment
                    cross join lateral (
                        select
                            hour,
                            extract(epoch from
                                least(hour + interval '1 hour', moment.now) - greatest(hour, known.last_at)
                            ) / 3600 as share
                        from generate_series(
                            date_trunc('hour', known.last_at),
                            least(moment.now, known.last_at + make_interval(days => $3)),
                            interval '1 hour'
                        ) as hour
                    ) as quiet
                    cross join lateral (
                        select
                            (avg(deliveries) filter (where position <= 7))::float8 as on_these_days,
                            coalesce(min(deliveries) filter (where days_before % 7 = 0), avg(deliveries))::float8 as on_this_weekday
                        from (
                            select
                                days_before,
                                coalesce(past.deliveries, 0) as deliveries,
                                row_number() over (order by days_before) as position
                            from generate_series(1, 2 * $3) as days_before
                            left join source_hours past
                                on past.source = known.source
                                and past.hour = quiet.hour - make_interval(days => days_before)
                            where quiet.hour - make_interval(days => days_before) between known.first_hour and known.last_hour
                            order by days_before
                            limit $3
                        ) as compared
                    ) as usual
                    where quiet.share > 0
                ), 0)::float8 as "expected_since!"
            from known
            order by known.source
            "#,
            now as _,
            EventId::first_at((now - LONGEST_SPAN).utc()).0,
            COMPARED_DAYS,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(activity)
    }
}
