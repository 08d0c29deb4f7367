//! Notices, kept in the database so that every process shows those of all.

use super::{Outbox, StoreError};
use crate::notices::Notices;

impl Outbox {
    /// Tells what it notices there.
    #[must_use]
    pub fn noting(mut self, notices: Notices) -> Self {
        self.notices = notices;
        self
    }

    /// Where to tell what somebody should know.
    #[must_use]
    pub fn notices(&self) -> &Notices {
        &self.notices
    }

    /// Writes what was told since the last time.
    ///
    /// What was quiet for a day begins anew.
    ///
    /// # Errors
    /// [`StoreError`]; then it is written the next time.
    pub async fn keep_notices(&self) -> Result<(), StoreError> {
        let notices = self.notices.take();
        if notices.is_empty() {
            return Ok(());
        }
        let kept = sqlx::query!(
            r#"
            -- keep_notices
            insert into notices as known (kind, subject, count, detail, first_at, last_at)
            select kind, subject, count, detail, moment.now, moment.now
            from unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) as told (kind, subject, count, detail)
            cross join (select coalesce($5::timestamptz, clock_timestamp()) as now) moment
            order by kind, subject                           -- locks in one order
            on conflict (kind, subject) do update
            set count = excluded.count
                    + case when known.last_at > excluded.last_at - interval '1 day' then known.count else 0 end,
                first_at =
                    case when known.last_at > excluded.last_at - interval '1 day' then known.first_at else excluded.first_at end,
                last_at = excluded.last_at,
                detail = excluded.detail
            "#,
            &notices.iter().map(|notice| notice.kind.as_str()).collect::<Vec<_>>() as _,
            &notices.iter().map(|notice| notice.subject.as_str()).collect::<Vec<_>>() as _,
            &notices.iter().map(|notice| notice.count).collect::<Vec<_>>(),
            &notices.iter().map(|notice| notice.detail.as_str()).collect::<Vec<_>>() as _,
            self.clock.for_postgres() as _,
        )
        .execute(&self.pool)
        .await;
        if let Err(error) = kept {
            self.notices.put_back(notices);
            return Err(error.into());
        }
        Ok(())
    }
}
