//! Privacy requests of shops: which are open, and that one has been acted on.

use super::erase::leave_receipt;
use super::{DoneBy, Erased, Outbox, StoreError};
use crate::domain::{EventId, ShopCustomerId, SourceName};

/// A privacy request that nobody has acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivacyRequest {
    /// The delivery.
    pub event: EventId,
    /// The shop it came from.
    pub source: SourceName,
    /// The shop's word for it.
    pub topic: String,
    /// Whom it is about.
    pub customer: Option<ShopCustomerId>,
    /// The e-mail it gives.
    pub email: Option<String>,
}

/// Requests acted on in one go.
const MAX_REQUESTS: i64 = 100;
/// Customers of a shop that are erased in one go.
const MAX_CUSTOMERS: i64 = 500;

impl Outbox {
    /// Open privacy requests of these topics, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open_requests(&self, topics: &[&str]) -> Result<Vec<PrivacyRequest>, StoreError> {
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let requests = sqlx::query_as!(
            PrivacyRequest,
            r#"
            select
                d.id as "event: EventId",
                d.source as "source: SourceName",
                d.topic,
                d.shop_customer_id as "customer: ShopCustomerId",
                d.email
            from deliveries d
            left join event_states s on s.event_id = d.id
            where d.concerns = 'privacy'
              and d.topic = any($1)
              and s.finished_at is null
            order by d.id
            limit $2
            "#,
            &topics,
            MAX_REQUESTS,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(requests)
    }

    /// Customers of a source that something personal is stored of which arrived up to a request, and who were not erased
    /// for it yet; in order, the next few hundred after one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn customers_to_erase(
        &self,
        source: &SourceName,
        request: EventId,
        after: Option<&ShopCustomerId>,
    ) -> Result<Vec<ShopCustomerId>, StoreError> {
        let customers = sqlx::query_scalar!(
            r#"
            with erased as (
                -- what they sent since is another matter
                select shop_customer_id
                from interventions
                where event_id = $2
                  and action = 'erase'
                  and shop_customer_id is not null
            )
            (
                select distinct shop_customer_id as "customer!: ShopCustomerId"
                from deliveries
                where source = $1
                  and id <= $2
                  and shop_customer_id > $3
                  and payload::text <> '{"erased": true}'
                  and shop_customer_id not in (select * from erased)
                order by 1
                limit $4
            )
            union
            -- past their time, deliveries are gone; hashes of what was sent are not
            (
                select shop_customer_id
                from customer_links
                where source = $1
                  and shop_customer_id > $3
                  and (jsonb_path_exists(acknowledged, '$.*.hash') or email_hash is not null)
                  and shop_customer_id not in (select * from erased)
                order by 1
                limit $4
            )
            order by 1
            limit $4
            "#,
            source.as_str(),
            request.0,
            after.map_or("", ShopCustomerId::as_str),
            MAX_CUSTOMERS,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(customers)
    }

    /// Whether anything is stored of a customer.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_anything_held(&self, source: &SourceName, customer: &ShopCustomerId) -> Result<bool, StoreError> {
        let is_held = sqlx::query_scalar!(
            r#"
            select exists (select from deliveries where source = $1 and shop_customer_id = $2)
                or exists (select from customer_links where source = $1 and shop_customer_id = $2) as "is_held!"
            "#,
            source.as_str(),
            customer.as_str(),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(is_held)
    }

    /// What is known to be acknowledged of a customer, by each tenant: times and hashes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn acknowledged_of(
        &self,
        source: &SourceName,
        customer: &ShopCustomerId,
    ) -> Result<Option<serde_json::Value>, StoreError> {
        let acknowledged = sqlx::query_scalar!(
            r#"
            -- acknowledged_of
            select jsonb_agg(jsonb_build_object('baseUrl', base_url, 'tenantId', tenant_id, 'acknowledged', acknowledged))
            from customer_links
            where source = $1
              and shop_customer_id = $2
            "#,
            source.as_str(),
            customer.as_str(),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(acknowledged)
    }

    /// Takes note that all that is held on a customer was printed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_export(
        &self,
        source: &SourceName,
        customer: &ShopCustomerId,
        by: DoneBy,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            r#"
            insert into interventions (at, action, source, shop_customer_id, outcome, done_by)
            values (coalesce($1::timestamptz, clock_timestamp()), 'export', $2, $3, 'all that is held was printed', $4)
            "#,
            self.clock.for_postgres(),
            source.as_str(),
            customer.as_str(),
            by.as_str(),
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Closes a privacy request that was acted on, and erases what itself holds; its receipt stays, and is returned.
    ///
    /// # Errors
    /// [`StoreError`]; then it is still open.
    pub async fn close_request(&self, request: &PrivacyRequest, is_whole_shop: bool) -> Result<String, StoreError> {
        let mut transaction = self.pool.begin().await?;
        // Those that name nobody by id belong to no customer's erasure: the whole shop's takes all of them, another one
        // those with its e-mail.
        sqlx::query!(
            r#"
            update deliveries
            set payload = '{"erased": true}', email = null
            where concerns = 'privacy'
              and (id = $1 or (
                  source = $2
                  and shop_customer_id is null
                  and id < $1
                  and ($4 or lower(email) = lower($3))
              ))
            "#,
            request.event.0,
            request.source.as_str(),
            request.email,
            is_whole_shop,
        )
        .execute(&mut *transaction)
        .await?;
        // Whoever was erased for it has left a receipt, in this round or, while others were busy, in one before.
        let customers = sqlx::query!(
            r#"
            select count(distinct shop_customer_id) as "count!", min(outcome) as an_outcome
            from interventions
            where event_id = $1
              and action = 'erase'
              and shop_customer_id is not null
            "#,
            request.event.0,
        )
        .fetch_one(&mut *transaction)
        .await?;
        let outcome = match (customers.count, customers.an_outcome) {
            (1, Some(outcome)) => outcome,
            (0 | 1, _) => Erased::default().to_string(),
            (count, _) => format!("{count} customers erased; each has a receipt of its own"),
        };
        let closed = sqlx::query!(
            r#"
            insert into event_states as state (event_id, status, warnings, finished_at)
            values ($1, 'unchanged', array[$2::text], coalesce($3::timestamptz, clock_timestamp()))
            on conflict (event_id) do nothing
            "#,
            request.event.0,
            outcome,
            self.clock.for_postgres(),
        )
        .execute(&mut *transaction)
        .await?;
        if closed.rows_affected() == 0 {
            // Another process was quicker, and has given the receipt.
            return Ok(outcome);
        }
        // The customer's own receipt says it all.
        if customers.count == 0 || request.customer.is_none() {
            let customer = request.customer.as_ref().map(ShopCustomerId::as_str);
            let of = (request.source.as_str(), customer, Some(request.event.0));
            leave_receipt(&mut transaction, of, DoneBy::Shop, &outcome, self.clock.for_postgres()).await?;
        }
        transaction.commit().await?;
        Ok(outcome)
    }
}
