//! Erasing what is personal of a customer: all of it in one transaction, and only while nobody has the customer claimed.
//!
//! The rows stay, with ids, times and status. Changes that still wait are closed and never sent. What was said, without
//! the values, stays on the link: nothing older than what FlexPortal has is to follow.

use super::{Outbox, StoreError};
use crate::domain::{ShopCustomerId, SourceName};

/// What was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erased {
    /// Deliveries whose body and e-mail are gone.
    pub events: u64,
    /// Changes among them that waited, and are not sent any more.
    pub closed: u64,
    /// Requests whose body, answer and error are gone.
    pub attempts: u64,
}

impl Outbox {
    /// Erases the personal data of a shop's customer; `None` while a worker has it claimed, or one of its requests may
    /// still arrive at FlexPortal: half a minute at the longest.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was erased.
    pub async fn erase(&self, source: &SourceName, customer: &ShopCustomerId) -> Result<Option<Erased>, StoreError> {
        let (source, customer) = (source.as_str(), customer.as_str());
        let mut transaction = self.pool.begin().await?;
        // Its place in the queue is ours to the end, also if it had none: nobody claims it meanwhile, and what arrives
        // waits for us.
        sqlx::query!(
            r#"
            insert into waiting_customers (source, shop_customer_id, target, due_at, first_event_id)
            values ($1, $2, '', 'infinity', gen_random_uuid())
            on conflict do nothing
            "#,
            source,
            customer,
        )
        .execute(&mut *transaction)
        .await?;
        let is_busy = sqlx::query_scalar!(
            r#"
            select coalesce(lease_expires_at > moment.now or rests_until > moment.now, false) as "is_busy!"
            from waiting_customers, (select coalesce($3::timestamptz, clock_timestamp()) as now) moment
            where source = $1
              and shop_customer_id = $2
            for update of waiting_customers
            "#,
            source,
            customer,
            self.clock.for_postgres(),
        )
        .fetch_optional(&mut *transaction)
        .await?;
        if is_busy == Some(true) {
            return Ok(None);
        }
        let events = sqlx::query_scalar!(
            r#"
            update deliveries
            set payload = '{"erased": true}', email = null
            where source = $1
              and shop_customer_id = $2
            returning id
            "#,
            source,
            customer,
        )
        .fetch_all(&mut *transaction)
        .await?;
        let closed = sqlx::query!(
            r#"
            insert into event_states as state (event_id, status, last_error_code, finished_at)
            select d.id, 'discarded', 'ERASED', coalesce($2::timestamptz, clock_timestamp())
            from deliveries d
            where d.id = any($1)
              and d.concerns = 'customer'
            on conflict (event_id) do update
            set status = excluded.status, last_error_code = excluded.last_error_code, finished_at = excluded.finished_at
            where state.finished_at is null
            "#,
            &events,
            self.clock.for_postgres(),
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!("update event_states set last_error = null, warnings = '{}' where event_id = any($1)", &events)
            .execute(&mut *transaction)
            .await?;
        let attempts = sqlx::query!(
            r#"
            update sync_attempts
            set request_body = null, response_body = null, error = null
            where event_id = any($1)
            "#,
            &events,
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!(
            r#"
            update customer_links
            set acknowledged = (
                select coalesce(jsonb_object_agg(field, known - 'hash' - 'acked'), '{}')
                from jsonb_each(acknowledged) as before (field, known)
            )
            where source = $1
              and shop_customer_id = $2
            "#,
            source,
            customer,
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!("delete from waiting_customers where source = $1 and shop_customer_id = $2", source, customer)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Some(Erased {
            events: u64::try_from(events.len()).unwrap_or(u64::MAX),
            closed: closed.rows_affected(),
            attempts: attempts.rows_affected(),
        }))
    }

    /// The shop's customers that gave an e-mail, letter case apart.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn customers_with_email(
        &self,
        source: &SourceName,
        email: &str,
    ) -> Result<Vec<ShopCustomerId>, StoreError> {
        let customers = sqlx::query_scalar!(
            r#"
            select distinct shop_customer_id as "customer!: ShopCustomerId"
            from deliveries
            where source = $1
              and lower(email) = lower($2)
              and shop_customer_id is not null
            order by 1
            "#,
            source.as_str(),
            email.trim(),
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(customers)
    }
}
