//! A customer's place in the queue, taken by somebody who changes what is stored of the customer.

use sqlx::PgConnection;

use super::{StoreError, settle};
use crate::domain::{PgInstant, ShopCustomerId, SourceName};

/// A place that is ours to the end of the transaction, also if the customer had none: nobody claims it meanwhile, and what
/// arrives waits for us.
#[must_use]
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    had_none: bool,
}

impl Place {
    /// Takes it; `None` while a worker has the customer claimed, or one of its requests may still arrive at FlexPortal.
    pub(super) async fn take(
        connection: &mut PgConnection,
        (source, customer): (&str, &str),
        now: Option<PgInstant>,
    ) -> Result<Option<Self>, StoreError> {
        let had_none = sqlx::query!(
            r#"
            -- take_place
            insert into waiting_customers (source, shop_customer_id, target, due_at, first_event_id)
            values ($1, $2, '', 'infinity', gen_random_uuid())
            on conflict do nothing
            "#,
            source,
            customer,
        )
        .execute(&mut *connection)
        .await?
        .rows_affected()
            == 1;
        let is_busy = sqlx::query_scalar!(
            r#"
            -- is_busy
            select coalesce(lease_expires_at > moment.now or rests_until > moment.now, false) as "is_busy!"
            from waiting_customers, (select coalesce($3::timestamptz, clock_timestamp()) as now) moment
            where source = $1
              and shop_customer_id = $2
            for update of waiting_customers
            "#,
            source,
            customer,
            now as _,
        )
        .fetch_optional(&mut *connection)
        .await?;
        // Without a row a worker has just given the customer back: it is not ours either.
        Ok((is_busy == Some(false)).then_some(Self { had_none }))
    }

    /// Gives it back to what still waits of the customer, if anything does.
    pub(super) async fn give_back(
        self,
        connection: &mut PgConnection,
        (source, customer): (&SourceName, &ShopCustomerId),
    ) -> Result<(), StoreError> {
        sqlx::query!(
            r#"
            -- give_place_back
            delete from waiting_customers w
            where source = $1
              and shop_customer_id = $2
              and ($3 or not exists (
                  select
                  from waiting_events_of(w.source, w.shop_customer_id)
              ))
            "#,
            source.as_str(),
            customer.as_str(),
            self.had_none,
        )
        .execute(&mut *connection)
        .await?;
        // A worker that stood still for longer than its lease is not to go on with what it has read.
        sqlx::query!(
            r#"
            -- end_lease
            update waiting_customers
            set lease_id = null, lease_expires_at = null
            where source = $1
              and shop_customer_id = $2
            "#,
            source.as_str(),
            customer.as_str(),
        )
        .execute(&mut *connection)
        .await?;
        settle::move_up(connection, &[(source, customer)]).await
    }
}
