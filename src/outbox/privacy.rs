//! Privacy requests of shops: which are open, and that one has been acted on.

use super::erase::leave_receipt;
use super::{DoneBy, Erased, Outbox, StoreError};
use crate::domain::{EventId, ShopCustomerId, ShopName, SourceName, counted};

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
    /// Which shop asks.
    pub shop: Option<ShopName>,
    /// That is another shop than the source's: what it said is stored under ids of its own.
    pub is_apart: bool,
    /// A person has seen what it would erase, and wants it so.
    pub is_confirmed: bool,
}

/// Which customers of a source a shop's parting concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfShop<'a> {
    /// Those of another shop than the source's.
    Apart(&'a ShopName),
    /// All of the source's own.
    Own,
    /// Of the source's own, those of whom its shop spoke by name.
    Named,
    /// Of the source's own, those of whom nobody knows which shop spoke.
    Unknown,
}

impl OfShop<'_> {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apart(_) => "apart",
            Self::Own => "own",
            Self::Named => "named",
            Self::Unknown => "unknown",
        }
    }
}

/// The word for a request that does not tell what it would erase.
const SHOP_UNCERTAIN: &str = "SHOP_UNCERTAIN";

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
                d.email,
                d.shop as "shop: ShopName",
                coalesce(starts_with(d.delivery_id, d.shop || '#'), false) as "is_apart!",
                exists (
                    select
                    from interventions i
                    where i.event_id = d.id
                      and i.action = 'retry'
                      and i.outcome like 'confirmed%'
                ) as "is_confirmed!"
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

    /// Customers of a shop that something personal is stored of which arrived up to a request, and who were not erased
    /// for it yet; in order, the next few hundred after one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn customers_to_erase(
        &self,
        source: &SourceName,
        whose: OfShop<'_>,
        request: EventId,
        after: Option<&ShopCustomerId>,
    ) -> Result<Vec<ShopCustomerId>, StoreError> {
        let prefix = if let OfShop::Apart(shop) = whose { shop.prefix() } else { String::new() };
        let customers = sqlx::query_scalar!(
            r#"
            -- customers_to_erase
            with erased as (
                -- what they sent since is another matter
                select shop_customer_id
                from interventions
                where event_id = $2
                  and action = 'erase'
                  and shop_customer_id is not null
            )
            (
                select distinct d.shop_customer_id as "customer!: ShopCustomerId"
                from deliveries d
                where d.source = $1
                  and d.id <= $2
                  and d.shop_customer_id > $3
                  and d.payload::text <> '{"erased": true}'
                  and d.shop_customer_id not in (select * from erased)
                  and case $5
                      when 'apart' then starts_with(d.shop_customer_id, $6)
                      else not coalesce(starts_with(d.shop_customer_id, d.shop || '#'), false)
                          and ($5 = 'own' or ($5 = 'named') = exists (
                              select
                              from deliveries named
                              where named.source = d.source
                                and named.shop_customer_id = d.shop_customer_id
                                and named.shop is not null
                          ))
                  end
                order by 1
                limit $4
            )
            union
            -- past their time, deliveries are gone; hashes of what was sent are not
            (
                select l.shop_customer_id
                from customer_links l
                where l.source = $1
                  and l.shop_customer_id > $3
                  and (jsonb_path_exists(l.acknowledged, '$.*.hash') or l.email_hash is not null)
                  and l.shop_customer_id not in (select * from erased)
                  and $5 <> 'apart'
                  and ($5 = 'own' or ($5 = 'named') = exists (
                      select
                      from deliveries named
                      where named.source = l.source
                        and named.shop_customer_id = l.shop_customer_id
                        and named.shop is not null
                  ))
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
            whose.as_str(),
            prefix,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(customers)
    }

    /// How many customers of a source nobody knows the shop of: no webhook of theirs named one. Those that are known by
    /// their link alone are among them, unless all others name their shop.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn customers_of_unknown_shop(&self, source: &SourceName) -> Result<i64, StoreError> {
        let unknown = sqlx::query!(
            r#"
            -- customers_of_unknown_shop
            with stored as (
                select shop_customer_id, bool_and(shop is null) as is_unknown
                from deliveries
                where source = $1
                  and concerns = 'customer'
                group by shop_customer_id
            )
            select
                (select count(*) from stored where is_unknown) as "stored!",
                (
                    select count(distinct shop_customer_id)
                    from customer_links
                    where source = $1
                      and shop_customer_id not in (select shop_customer_id from stored)
                ) as "linked!"
            "#,
            source.as_str(),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(if unknown.stored == 0 { 0 } else { unknown.stored + unknown.linked })
    }

    /// The customers of a request's shop that gave the request's e-mail.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn customers_of_request(
        &self,
        request: &PrivacyRequest,
        email: &str,
    ) -> Result<Vec<ShopCustomerId>, StoreError> {
        let mut customers = self.customers_with_email(&request.source, email).await?;
        if let Some(shop) = &request.shop {
            let prefix = shop.prefix();
            customers.retain(|customer| customer.as_str().starts_with(&prefix) == request.is_apart);
        }
        Ok(customers)
    }

    /// Leaves a request of a shop to a person: it does not tell whose so many customers are.
    ///
    /// # Errors
    /// [`StoreError`]; then it is still open.
    pub async fn leave_to_a_person(&self, request: &PrivacyRequest, unknown: i64) -> Result<(), StoreError> {
        let error = format!(
            "{} asked for the erasure of all its customers: those of whom it spoke by name were erased; of {} of the source \
             `{}` nobody knows whether they are its. failures retry erases these, too; failures discard leaves them",
            request.shop.as_ref().map_or("a shop", ShopName::as_str),
            counted(unknown, "customer"),
            request.source,
        );
        sqlx::query!(
            r#"
            -- leave_to_a_person
            insert into event_states as state (
                event_id, status, last_error_code, last_error, cause, first_failed_at, finished_at, source
            )
            select $1, 'failed', $2, $3, 'whose customers a shop wants erased is not known', moment.now, moment.now, $4
            from (select coalesce($5::timestamptz, clock_timestamp()) as now) moment
            on conflict (event_id) do nothing
            "#,
            request.event.0,
            SHOP_UNCERTAIN,
            error,
            request.source.as_str(),
            self.clock.for_postgres() as _,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
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
            self.clock.for_postgres() as _,
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
                  and coalesce(starts_with(delivery_id, shop || '#'), false) = $5
                  and (shop = $6 or not $5)
              ))
            "#,
            request.event.0,
            request.source.as_str(),
            request.email,
            is_whole_shop,
            request.is_apart,
            request.shop.as_ref().map(ShopName::as_str),
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
            on conflict (event_id) do update            -- one that a person confirmed
            set status = excluded.status,
                warnings = excluded.warnings,
                finished_at = excluded.finished_at,
                last_error_code = null,
                last_error = null,
                cause = null
            where state.finished_at is null
            "#,
            request.event.0,
            outcome,
            self.clock.for_postgres() as _,
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
