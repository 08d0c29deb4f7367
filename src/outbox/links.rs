//! Links: which FlexPortal customer a shop's customer is, and what FlexPortal acknowledged of it.

use chrono::{DateTime, Utc};
use sqlx::types::Json;

use super::{ClaimedCustomer, DoneBy, Outbox, StoreError};
use crate::domain::{Acknowledged, FlexportalCustomerId, ShopCustomerId, SourceName};

/// Where a link comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkOrigin {
    /// The event carried FlexPortal's id.
    Event,
    /// Found by e-mail.
    Lookup,
}

impl LinkOrigin {
    fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Lookup => "lookup",
        }
    }
}

/// What to do with the link.
#[derive(Debug, Clone)]
pub enum LinkChange {
    /// Leave it.
    Keep,
    /// Nobody knows any more which values FlexPortal has; what was said is said.
    Doubt,
    /// FlexPortal does not know this id (any more); a link to another one stays.
    Drop {
        /// The id that led nowhere.
        flexportal_id: FlexportalCustomerId,
    },
    /// Found, but nothing acknowledged yet.
    Found {
        /// FlexPortal's id.
        flexportal_id: FlexportalCustomerId,
        /// How it was found.
        origin: LinkOrigin,
    },
    /// What is known to be acknowledged has changed: more, or, after a request of which nobody knows whether it
    /// was carried out, less.
    Acknowledged {
        /// FlexPortal's id.
        flexportal_id: FlexportalCustomerId,
        /// How it was found; `None` if the link was there.
        origin: Option<LinkOrigin>,
        /// What is acknowledged now.
        acknowledged: Acknowledged,
        /// Shop's time of the newest change in it; `None` if nothing was settled.
        occurred_at: Option<DateTime<Utc>>,
        /// When FlexPortal acknowledged; `None` if nothing was sent.
        synced_at: Option<DateTime<Utc>>,
    },
}

impl LinkChange {
    /// Whether all is written down that is known, and not known, of what was sent: nobody has to doubt more than that.
    pub(super) fn says_what_is_known(&self) -> bool {
        match self {
            Self::Doubt | Self::Drop { .. } | Self::Acknowledged { .. } => true,
            Self::Keep | Self::Found { .. } => false,
        }
    }
}

/// Writes a change, unless the link is not any more what it was when the customer was read: a person's word counts.
pub(super) async fn write(
    connection: &mut sqlx::PgConnection,
    claimed: &ClaimedCustomer,
    change: &LinkChange,
) -> Result<(), StoreError> {
    let (source, customer) = (claimed.source.as_str(), claimed.customer.as_str());
    let linked_to = claimed.linked_to.as_ref().map(FlexportalCustomerId::as_str);
    match change {
        LinkChange::Keep => {}
        LinkChange::Doubt => doubt(connection, source, customer).await?,
        LinkChange::Drop { flexportal_id } => drop(connection, source, customer, flexportal_id).await?,
        LinkChange::Found { flexportal_id, origin } => {
            sqlx::query!(
                r#"
                insert into customer_links (source, shop_customer_id, flexportal_customer_id, origin)
                values ($1, $2, $3, $4)
                on conflict (source, shop_customer_id) do update
                set flexportal_customer_id = excluded.flexportal_customer_id,
                    origin = excluded.origin,
                    acknowledged = (             -- what was said is said; the values are another customer's
                        select coalesce(jsonb_object_agg(field, known - 'hash' - 'acked'), '{}')
                        from jsonb_each(customer_links.acknowledged) as before (field, known)
                    ),
                    last_synced_at = null,
                    last_occurred_at = null
                where customer_links.flexportal_customer_id is not distinct from $5
                  and customer_links.flexportal_customer_id is distinct from excluded.flexportal_customer_id
                "#,
                source,
                customer,
                flexportal_id.as_str(),
                origin.as_str(),
                linked_to,
            )
            .execute(connection)
            .await?;
        }
        LinkChange::Acknowledged { flexportal_id, origin, acknowledged, occurred_at, synced_at } => {
            sqlx::query!(
                r#"
                insert into customer_links as link (
                    source, shop_customer_id, flexportal_customer_id, origin,
                    last_synced_at, last_occurred_at, acknowledged
                )
                values ($1, $2, $3, coalesce($4, 'event'), $5, $6, $7)
                on conflict (source, shop_customer_id) do update
                set flexportal_customer_id = excluded.flexportal_customer_id,
                    origin = coalesce($4, link.origin),
                    last_synced_at = coalesce(excluded.last_synced_at, link.last_synced_at),
                    last_occurred_at = greatest(excluded.last_occurred_at, link.last_occurred_at),
                    acknowledged = excluded.acknowledged
                where link.flexportal_customer_id is not distinct from $8
                "#,
                source,
                customer,
                flexportal_id.as_str(),
                origin.map(LinkOrigin::as_str),
                *synced_at,
                *occurred_at,
                Json(acknowledged) as _,
                linked_to,
            )
            .execute(connection)
            .await?;
        }
    }
    Ok(())
}

/// Strips the values of a link.
async fn doubt(connection: &mut sqlx::PgConnection, source: &str, customer: &str) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        update customer_links
        set acknowledged = (
            select coalesce(jsonb_object_agg(field, known - 'hash' - 'acked'), '{}')
            from jsonb_each(
                -- what cannot be read is doubted, too
                case jsonb_typeof(acknowledged) when 'object' then acknowledged else '{}' end
            ) as before (field, known)
            where jsonb_typeof(known) = 'object'
        )
        where source = $1
          and shop_customer_id = $2
        "#,
        source,
        customer,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes the id from a link that leads there; what was said stays.
async fn drop(
    connection: &mut sqlx::PgConnection,
    source: &str,
    customer: &str,
    flexportal_id: &FlexportalCustomerId,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        update customer_links
        set flexportal_customer_id = null,
            acknowledged = (             -- what was said is said; the values are nobody's
                select coalesce(jsonb_object_agg(field, known - 'hash' - 'acked'), '{}')
                from jsonb_each(acknowledged) as before (field, known)
            ),
            last_synced_at = null,
            last_occurred_at = null
        where source = $1
          and shop_customer_id = $2
          and flexportal_customer_id = $3
        "#,
        source,
        customer,
        flexportal_id.as_str(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A link as a person gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLink {
    /// The shop.
    pub source: SourceName,
    /// The shop's customer.
    pub customer: ShopCustomerId,
    /// FlexPortal's customer.
    pub flexportal_id: FlexportalCustomerId,
}

/// What came of an import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinksImported {
    /// Links that are new, or lead to another customer now.
    pub imported: u64,
    /// Customers that waited as unmatched, and are tried at once.
    pub woken: u64,
}

impl Outbox {
    /// Writes links that a person gives, over those that are there; customers that wait because FlexPortal did not know
    /// them are tried at once. Of several for one customer the last counts.
    ///
    /// # Errors
    /// [`StoreError`]; then none was written.
    pub async fn import_links(&self, links: &[NewLink], by: DoneBy) -> Result<LinksImported, StoreError> {
        let column = |text: fn(&NewLink) -> &str| links.iter().map(|link| text(link).to_owned()).collect::<Vec<_>>();
        let row = sqlx::query!(
            r#"
            with given as materialized (
                select distinct on (source, shop_customer_id) source, shop_customer_id, flexportal_customer_id
                from unnest($1::text[], $2::text[], $3::text[]) with ordinality
                    as line (source, shop_customer_id, flexportal_customer_id, position)
                order by source, shop_customer_id, position desc
            ),
            locked as materialized (
                -- the queue's rows first, and in one order, as the worker does it
                select waiting.source
                from waiting_customers waiting
                join given using (source, shop_customer_id)
                order by waiting.source, waiting.shop_customer_id
                for update of waiting
            ),
            imported as (
                insert into customer_links as known (source, shop_customer_id, flexportal_customer_id, origin)
                select source, shop_customer_id, flexportal_customer_id, 'import'
                from given, (select count(*) from locked) as all_locked
                order by source, shop_customer_id
                on conflict (source, shop_customer_id) do update
                set flexportal_customer_id = excluded.flexportal_customer_id,
                    origin = excluded.origin,
                    acknowledged = (             -- what was said is said; the values are another customer's
                        select coalesce(jsonb_object_agg(field, before.known - 'hash' - 'acked'), '{}')
                        from jsonb_each(known.acknowledged) as before (field, known)
                    ),
                    last_synced_at = null,
                    last_occurred_at = null
                where known.flexportal_customer_id is distinct from excluded.flexportal_customer_id
                returning source, shop_customer_id, flexportal_customer_id
            ),
            noted as (
                insert into interventions (at, action, source, shop_customer_id, outcome, done_by)
                select
                    coalesce($4::timestamptz, clock_timestamp()), 'link', source, shop_customer_id,
                    'is ' || flexportal_customer_id || ' at FlexPortal', $5
                from imported
            ),
            woken as (
                update waiting_customers waiting
                set due_at = least(waiting.due_at, coalesce($4::timestamptz, clock_timestamp())),
                    revision = waiting.revision + 1
                from imported
                where waiting.source = imported.source
                  and waiting.shop_customer_id = imported.shop_customer_id
                returning waiting.target
            )
            select
                (select count(*) from imported) as "imported!",
                (select count(*) from woken) as "woken!",
                (select count(pg_notify('flexportal_sync', '')) from (select from woken limit 1) as any_due) as notified
            "#,
            &column(|link| link.source.as_str()),
            &column(|link| link.customer.as_str()),
            &column(|link| link.flexportal_id.as_str()),
            self.clock.for_postgres(),
            by.as_str(),
        )
        .fetch_one(&self.pool)
        .await?;
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(LinksImported { imported: count(row.imported), woken: count(row.woken) })
    }
}
