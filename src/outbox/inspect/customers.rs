//! Customers: whether each is in sync.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::{Page, after};
use crate::domain::{ShopCustomerId, SourceName};
use crate::outbox::{InspectError, Outbox, StoreError};

/// Which customers; what is `None` does not narrow them down.
#[derive(Debug, Clone, Default)]
pub struct CustomerFilter {
    /// Of this shop.
    pub source: Option<SourceName>,
    /// With this id.
    pub customer: Option<ShopCustomerId>,
    /// That any delivery gave this e-mail of, letter case apart.
    pub email: Option<String>,
    /// In this state.
    pub state: Option<CustomerSync>,
}

/// Whether a customer is in sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum CustomerSync {
    /// Nothing waits, nothing failed.
    InSync,
    /// A change waits for its turn or its next attempt.
    Waiting,
    /// FlexPortal does not know the customer (yet).
    Unmatched,
    /// A change of it failed.
    Failed,
    /// A person closed its newest change: FlexPortal may not have it.
    Discarded,
    /// Another shop than the source's spoke of it: a person decides whether it is heard.
    Held,
}

impl CustomerSync {
    /// The word as shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InSync => "in_sync",
            Self::Waiting => "waiting",
            Self::Unmatched => "unmatched",
            Self::Failed => "failed",
            Self::Discarded => "discarded",
            Self::Held => "held",
        }
    }
}

/// One customer: a row of `customer_sync_state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomerState {
    /// The shop.
    pub source: SourceName,
    /// The shop's customer.
    pub shop_customer_id: String,
    /// FlexPortal's customer, if known.
    pub flexportal_customer_id: Option<String>,
    /// How it was found: `event`, `lookup` or `import`.
    pub link_origin: Option<String>,
    /// Whether it is in sync.
    pub state: CustomerSync,
    /// When FlexPortal last acknowledged a change.
    pub last_synced_at: Option<DateTime<Utc>>,
    /// Shop's time of the newest change that was acknowledged.
    pub last_occurred_at: Option<DateTime<Utc>>,
    /// When the last delivery arrived.
    pub last_received_at: Option<DateTime<Utc>>,
    /// When waiting work is due.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Deliveries kept.
    pub events: i64,
    /// How many of them failed.
    pub failed_events: i64,
}

/// A shop, and its customer.
type Key = (String, String);

/// Looked at together, where few are in the state that is asked for.
const MAX_CANDIDATES: i64 = 1_000;

impl Outbox {
    /// Customers, by source and id.
    ///
    /// # Errors
    /// [`InspectError`].
    pub async fn customers(
        &self,
        filter: &CustomerFilter,
        cursor: Option<&str>,
        limit: i64,
    ) -> Result<Page<CustomerState>, InspectError> {
        let mut after: Option<Key> = after(cursor)?;
        let wanted = usize::try_from(limit).unwrap_or(0) + 1;
        let mut customers = Vec::new();
        let mut batch = limit + 1;
        loop {
            let keys = self.candidates(filter, after.as_ref(), batch).await?;
            let is_last = i64::try_from(keys.len()).is_ok_and(|found| found < batch);
            customers.extend(self.states_of(&keys, filter.state).await?);
            if is_last || customers.len() >= wanted {
                break;
            }
            after = keys.into_iter().last();
            // Where few of the candidates are in the state that is asked for, more are looked at together.
            batch = (batch * 2).min(MAX_CANDIDATES.max(limit + 1));
        }
        customers.truncate(wanted);
        Ok(Page::of(customers, limit, |row| (row.source.clone(), row.shop_customer_id.clone())))
    }

    /// Where customers stand: those of them that are in a state, if one is given.
    async fn states_of(&self, keys: &[Key], state: Option<CustomerSync>) -> Result<Vec<CustomerState>, StoreError> {
        let (sources, ids): (Vec<_>, Vec<_>) = keys.iter().cloned().unzip();
        let customers = sqlx::query_as!(
            CustomerState,
            r#"
            select
                c.source as "source!: SourceName",
                c.shop_customer_id as "shop_customer_id!",
                c.flexportal_customer_id,
                c.link_origin,
                c.state as "state!: CustomerSync",
                c.last_synced_at,
                c.last_occurred_at,
                c.last_received_at,
                c.next_attempt_at,
                c.events as "events!",
                c.failed_events as "failed_events!"
            from unnest($1::text[], $2::text[]) with ordinality as named (source, shop_customer_id, position)
            cross join lateral (
                select *
                from customer_sync_state of_one
                where of_one.source = named.source
                  and of_one.shop_customer_id = named.shop_customer_id
                offset 0                         -- one by one: joined, the view would be worked out for everybody first
            ) c
            where $3::text is null
               or c.state = $3
            order by named.position
            "#,
            &sources,
            &ids,
            state.map(CustomerSync::as_str),
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(customers)
    }

    /// The next customers that may match a filter, by source and id: found by what narrows them down most.
    async fn candidates(
        &self,
        filter: &CustomerFilter,
        after: Option<&Key>,
        limit: i64,
    ) -> Result<Vec<Key>, StoreError> {
        let source = filter.source.as_ref().map(SourceName::as_str);
        let after = after.map_or(("", ""), |(source, customer)| (source, customer));
        match (&filter.customer, &filter.email, filter.state) {
            (Some(customer), ..) => self.of_this_id(source, customer, after).await,
            (None, Some(email), _) => self.with_email(source, email, after, limit).await,
            (
                None,
                None,
                Some(
                    state @ (CustomerSync::Failed
                    | CustomerSync::Unmatched
                    | CustomerSync::Discarded
                    | CustomerSync::Held),
                ),
            ) => self.with_events_of(state, source, after, limit).await,
            (None, None, state) => {
                let all = if source.is_none() { self.source_names().await? } else { vec![] };
                let mut sources: Vec<_> = source.into_iter().chain(all.iter().map(SourceName::as_str)).collect();
                sources.sort_unstable();
                let mut keys = Vec::new();
                for source in sources.into_iter().filter(|source| *source >= after.0) {
                    let begin = if source == after.0 { after.1 } else { "" };
                    let room = limit - i64::try_from(keys.len()).unwrap_or(limit);
                    if room <= 0 {
                        break;
                    }
                    let customers = match state {
                        Some(CustomerSync::Waiting) => self.waiting(source, begin, room).await?,
                        _ => self.in_order(source, begin, room, state == Some(CustomerSync::InSync)).await?,
                    };
                    keys.extend(customers.into_iter().map(|customer| (source.to_owned(), customer)));
                }
                Ok(keys)
            }
        }
    }

    /// Few shops have a customer of the same id, or know it by a link alone.
    async fn of_this_id(
        &self,
        source: Option<&str>,
        customer: &ShopCustomerId,
        after: (&str, &str),
    ) -> Result<Vec<Key>, StoreError> {
        let sources = sqlx::query_scalar!(
            r#"
            select s.name as "source!"
            from (select name from sources union select distinct source from customer_links where source = $1) as s
            where ($1::text is null or s.name = $1)
              and (s.name, $2::text) > ($3, $4::text)
            order by s.name
            "#,
            source,
            customer.as_str(),
            after.0,
            after.1,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(sources.into_iter().map(|source| (source, customer.as_str().to_owned())).collect())
    }

    async fn with_email(
        &self,
        source: Option<&str>,
        email: &str,
        after: (&str, &str),
        limit: i64,
    ) -> Result<Vec<Key>, StoreError> {
        let keys = sqlx::query!(
            r#"
            with holders as materialized (       -- by the e-mail: in the order that is asked for, all would be read
                select source, shop_customer_id
                from deliveries
                where email is not null
                  and lower(email) = lower($1)
            )
            select distinct source as "source!", shop_customer_id as "customer!"
            from holders
            where ($2::text is null or source = $2)
              and shop_customer_id is not null
              and (source, shop_customer_id) > ($3, $4::text)
            order by 1, 2
            limit $5
            "#,
            email.trim(),
            source,
            after.0,
            after.1,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(keys.into_iter().map(|row| (row.source, row.customer)).collect())
    }

    /// Those that wait for their turn: neither failed nor unmatched.
    async fn waiting(&self, source: &str, after: &str, limit: i64) -> Result<Vec<String>, StoreError> {
        let customers = sqlx::query_scalar!(
            r#"
            select w.shop_customer_id
            from waiting_customers w
            where w.source = $1
              and w.shop_customer_id > $2
              and not exists (
                  select
                  from deliveries d
                  join event_states s on s.event_id = d.id
                  where d.source = w.source
                    and d.shop_customer_id = w.shop_customer_id
                    and s.status in ('failed', 'unmatched')
              )
            order by w.shop_customer_id
            limit $3
            "#,
            source,
            after,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(customers)
    }

    /// Events of these kinds are few, and have an index of their own.
    async fn with_events_of(
        &self,
        state: CustomerSync,
        source: Option<&str>,
        after: (&str, &str),
        limit: i64,
    ) -> Result<Vec<Key>, StoreError> {
        let keys = sqlx::query!(
            r#"
            select distinct d.source as "source!", d.shop_customer_id as "customer!"
            from event_states s
            join deliveries d on d.id = s.event_id
            where s.status in ('failed', 'unmatched', 'discarded', 'held')      -- as the index has it
              and s.status = $1
              and d.concerns = 'customer'
              and ($2::text is null or d.source = $2)
              and (d.source, d.shop_customer_id) > ($3, $4::text)
              -- closed is a customer if its newest change is
              and (s.status <> 'discarded' or not exists (
                  select
                  from deliveries newer
                  where newer.source = d.source
                    and newer.shop_customer_id = d.shop_customer_id
                    and newer.concerns = 'customer'
                    and newer.id > d.id
              ))
            order by 1, 2
            limit $5
            "#,
            state.as_str(),
            source,
            after.0,
            after.1,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(keys.into_iter().map(|row| (row.source, row.customer)).collect())
    }

    /// From one customer to the next along the index, as far as the page goes; `idle`: passing over those that wait,
    /// who are many after an outage.
    async fn in_order(&self, source: &str, after: &str, limit: i64, idle: bool) -> Result<Vec<String>, StoreError> {
        let customers = sqlx::query_scalar!(
            r#"
            with recursive listed as (
                (
                    select shop_customer_id
                    from deliveries
                    where source = $1
                      and concerns = 'customer'
                      and shop_customer_id > $2
                    order by shop_customer_id
                    limit 1
                )
                union all
                select next.shop_customer_id
                from listed
                cross join lateral (
                    select shop_customer_id
                    from deliveries
                    where source = $1
                      and concerns = 'customer'
                      and shop_customer_id > listed.shop_customer_id
                    order by shop_customer_id
                    limit 1
                ) as next
            )
            select shop_customer_id as "shop_customer_id!"
            from listed
            where not ($4 and exists (
                select
                from waiting_customers w
                where w.source = $1
                  and w.shop_customer_id = listed.shop_customer_id
            ))
            limit $3
            "#,
            source,
            after,
            limit,
            idle,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(customers)
    }
}
