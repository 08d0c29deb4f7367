//! Links: which FlexPortal customer a shop's customer is, and what FlexPortal acknowledged of it.

use chrono::{DateTime, Utc};

use super::sharing::HashKey;
use super::{ClaimedCustomer, DoneBy, Outbox, StoreError, intervene};
use crate::domain::{Acknowledged, FlexportalCustomerId, PgInstant, ShopCustomerId, SourceName};
use crate::flexportal::Status;

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
    /// FlexPortal does not know this id (any more): the link is kept, and marked. One to another id stays as it is.
    Missing {
        /// The id that led nowhere.
        flexportal_id: FlexportalCustomerId,
    },
    /// Found, but nothing acknowledged yet.
    Found {
        /// FlexPortal's id.
        flexportal_id: FlexportalCustomerId,
        /// How it was found.
        origin: LinkOrigin,
        /// The shop customer's e-mail, if it is known.
        email: Option<String>,
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
        synced_at: Option<PgInstant>,
        /// The shop customer's e-mail, if it is known.
        email: Option<String>,
        /// The status that FlexPortal's answer showed, if it did.
        status_shown: Option<Status>,
    },
}

impl LinkChange {
    /// Whether all is written down that is known, and not known, of what was sent: nobody has to doubt more than that.
    pub(super) fn says_what_is_known(&self) -> bool {
        match self {
            Self::Doubt | Self::Missing { .. } | Self::Acknowledged { .. } => true,
            Self::Keep | Self::Found { .. } => false,
        }
    }
}

/// What is known to be acknowledged; see [`LinkChange::Acknowledged`].
pub(super) struct Known<'a> {
    pub(super) flexportal_id: &'a FlexportalCustomerId,
    pub(super) origin: Option<&'static str>,
    pub(super) acknowledged: &'a Acknowledged,
    pub(super) occurred_at: Option<DateTime<Utc>>,
    pub(super) synced_at: Option<PgInstant>,
    pub(super) email: Option<&'a str>,
    pub(super) status_shown: Option<Status>,
}

impl LinkChange {
    /// What is written together with the results; the other changes are rare, and written by [`write()`].
    pub(super) fn known(&self) -> Option<Known<'_>> {
        let Self::Acknowledged { flexportal_id, origin, acknowledged, occurred_at, synced_at, email, status_shown } =
            self
        else {
            return None;
        };
        Some(Known {
            flexportal_id,
            origin: origin.map(LinkOrigin::as_str),
            acknowledged,
            occurred_at: *occurred_at,
            synced_at: *synced_at,
            email: email.as_deref(),
            status_shown: *status_shown,
        })
    }
}

/// Writes changes but for what is acknowledged, each unless the link is not any more what it was when the customer was
/// read: a person's word counts.
pub(super) async fn write(
    connection: &mut sqlx::PgConnection,
    changes: &[(&ClaimedCustomer, &LinkChange)],
    key: &HashKey,
    now: Option<PgInstant>,
) -> Result<(), StoreError> {
    let (mut doubted, mut missing, mut found) = (vec![], vec![], vec![]);
    for (claimed, change) in changes {
        match change {
            LinkChange::Keep | LinkChange::Acknowledged { .. } => {}
            LinkChange::Doubt => doubted.push(*claimed),
            LinkChange::Missing { flexportal_id } => missing.push((*claimed, flexportal_id)),
            LinkChange::Found { flexportal_id, origin, email } => {
                let hash = email.as_deref().map(|email| key.of_email(email));
                found.push((*claimed, flexportal_id, *origin, hash));
            }
        }
    }
    doubt(connection, &doubted).await?;
    mark_missing(connection, &missing, now).await?;
    find(connection, &found).await
}

/// The keys of links, as columns.
struct Keys<'a> {
    sources: Vec<&'a str>,
    customers: Vec<&'a str>,
    base_urls: Vec<&'a str>,
    tenant_ids: Vec<&'a str>,
}

impl<'a> Keys<'a> {
    fn of(claimed: impl Iterator<Item = &'a ClaimedCustomer> + Clone) -> Self {
        Self {
            sources: claimed.clone().map(|claimed| claimed.source.as_str()).collect(),
            customers: claimed.clone().map(|claimed| claimed.customer.as_str()).collect(),
            base_urls: claimed.clone().map(|claimed| claimed.tenant.base_url.as_str()).collect(),
            tenant_ids: claimed.map(|claimed| claimed.tenant.tenant_id.as_str()).collect(),
        }
    }
}

/// Strips the values of links.
async fn doubt(connection: &mut sqlx::PgConnection, claimed: &[&ClaimedCustomer]) -> Result<(), StoreError> {
    if claimed.is_empty() {
        return Ok(());
    }
    let keys = Keys::of(claimed.iter().copied());
    sqlx::query!(
        r#"
        update customer_links link
        set acknowledged = (
            select coalesce(jsonb_object_agg(field, known - 'hash' - 'acked'), '{}')
            from jsonb_each(
                -- what cannot be read is doubted, too
                case jsonb_typeof(acknowledged) when 'object' then acknowledged else '{}' end
            ) as before (field, known)
            where jsonb_typeof(known) = 'object'
        )
        from unnest($1::text[], $2::text[], $3::text[], $4::text[])
            as doubted (source, shop_customer_id, base_url, tenant_id)
        where link.source = doubted.source
          and link.shop_customer_id = doubted.shop_customer_id
          and link.base_url = doubted.base_url
          and link.tenant_id = doubted.tenant_id
        "#,
        &keys.sources as _,
        &keys.customers as _,
        &keys.base_urls as _,
        &keys.tenant_ids as _,
    )
    // Rare, and written by joining: planned each time, by what the tables hold (see LIVE).
    .persistent(false)
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks links whose id leads nowhere; what was said stays.
async fn mark_missing(
    connection: &mut sqlx::PgConnection,
    links: &[(&ClaimedCustomer, &FlexportalCustomerId)],
    now: Option<PgInstant>,
) -> Result<(), StoreError> {
    if links.is_empty() {
        return Ok(());
    }
    let keys = Keys::of(links.iter().map(|(claimed, _)| *claimed));
    let ids: Vec<_> = links.iter().map(|(_, id)| id.as_str()).collect();
    sqlx::query!(
        r#"
        update customer_links link
        set missing_since = coalesce(link.missing_since, moment.now),
            missing_tried_at = moment.now,
            acknowledged = (             -- what was said is said; of the values nobody knows
                select coalesce(jsonb_object_agg(field, known - 'hash' - 'acked'), '{}')
                from jsonb_each(acknowledged) as before (field, known)
            ),
            last_synced_at = null,
            last_occurred_at = null
        from (select coalesce($6::timestamptz, clock_timestamp()) as now) as moment,
            unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
                as missing (source, shop_customer_id, flexportal_customer_id, base_url, tenant_id)
        where link.source = missing.source
          and link.shop_customer_id = missing.shop_customer_id
          and link.base_url = missing.base_url
          and link.tenant_id = missing.tenant_id
          and link.flexportal_customer_id = missing.flexportal_customer_id
        "#,
        &keys.sources as _,
        &keys.customers as _,
        &ids as _,
        &keys.base_urls as _,
        &keys.tenant_ids as _,
        now as _,
    )
    // Rare, and written by joining: planned each time, by what the tables hold (see LIVE).
    .persistent(false)
    .execute(connection)
    .await?;
    Ok(())
}

/// Links customers to whom they were found to be.
async fn find(
    connection: &mut sqlx::PgConnection,
    links: &[(&ClaimedCustomer, &FlexportalCustomerId, LinkOrigin, Option<String>)],
) -> Result<(), StoreError> {
    if links.is_empty() {
        return Ok(());
    }
    let keys = Keys::of(links.iter().map(|(claimed, ..)| *claimed));
    let ids: Vec<_> = links.iter().map(|(_, id, ..)| id.as_str()).collect();
    let origins: Vec<_> = links.iter().map(|(_, _, origin, _)| origin.as_str()).collect();
    let hashes: Vec<_> = links.iter().map(|(.., hash)| hash.as_deref()).collect();
    let linked_to: Vec<_> = links.iter().map(|(claimed, ..)| claimed.linked_to()).collect();
    sqlx::query!(
        r#"
        with found as materialized (
            select *
            from unnest(
                $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[]
            ) as found (
                source, shop_customer_id, flexportal_customer_id, origin, linked_to, base_url, tenant_id, email_hash
            )
        )
        insert into customer_links as link (
            source, shop_customer_id, flexportal_customer_id, origin, base_url, tenant_id, email_hash
        )
        select source, shop_customer_id, flexportal_customer_id, origin, base_url, tenant_id, email_hash
        from found
        order by source, shop_customer_id        -- links in one order, as an import takes them
        on conflict (source, shop_customer_id, base_url, tenant_id) do update
        set flexportal_customer_id = excluded.flexportal_customer_id,
            origin = excluded.origin,
            email_hash = coalesce(excluded.email_hash, link.email_hash),
            status_shown = null,
            status_shown_at = null,
            acknowledged = (             -- what was said is said; the values are another customer's
                select coalesce(jsonb_object_agg(field, known - 'hash' - 'acked'), '{}')
                from jsonb_each(link.acknowledged) as before (field, known)
            ),
            last_synced_at = null,
            last_occurred_at = null,
            missing_since = null,
            missing_tried_at = null
        where (link.flexportal_customer_id is distinct from excluded.flexportal_customer_id or link.missing_since is not null)
          and (link.source, link.shop_customer_id, coalesce(link.flexportal_customer_id, '')) in (
              select source, shop_customer_id, coalesce(linked_to, '') from found
          )
        "#,
        &keys.sources as _,
        &keys.customers as _,
        &ids as _,
        &origins as _,
        &linked_to as _,
        &keys.base_urls as _,
        &keys.tenant_ids as _,
        &hashes as _,
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
    /// Customers whose changes were unmatched, waiting or given up, and are tried at once.
    pub woken: u64,
}

impl Outbox {
    /// Writes links that a person gives, over those that are there; customers whom FlexPortal did not know are tried at
    /// once, also those that were given up as unmatched. Of several for one customer the last counts.
    ///
    /// # Errors
    /// [`StoreError`]; then none was written, or those that were given up were not set back: to do it again is safe.
    pub async fn import_links(&self, links: &[NewLink], by: DoneBy) -> Result<LinksImported, StoreError> {
        let given = Columns::of(links);
        let mut transaction = self.pool.begin().await?;
        let imported = import(&mut transaction, &given, self.clock.for_postgres(), by).await?;
        wait_for_an_answer(&mut transaction, &given, self.clock.for_postgres()).await?;
        transaction.commit().await?;
        // On its own, since it takes rows of the queue, and they come before links.
        let mut transaction = self.pool.begin().await?;
        intervene::done_by(&mut transaction, by).await?;
        set_back_given_up(&mut transaction, &given).await?;
        transaction.commit().await?;
        Ok(imported)
    }

    /// What [`Outbox::import_links`] would come to now; changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rehearse_import(&self, links: &[NewLink]) -> Result<LinksImported, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let now = self.clock.for_postgres();
        let imported = import(&mut transaction, &Columns::of(links), now, DoneBy::Terminal).await?;
        transaction.rollback().await?;
        Ok(imported)
    }
}

/// Links as columns.
struct Columns {
    sources: Vec<String>,
    customers: Vec<String>,
    flexportal_ids: Vec<String>,
}

impl Columns {
    fn of(links: &[NewLink]) -> Self {
        let column = |text: fn(&NewLink) -> &str| links.iter().map(|link| text(link).to_owned()).collect();
        Self {
            sources: column(|link| link.source.as_str()),
            customers: column(|link| link.customer.as_str()),
            flexportal_ids: column(|link| link.flexportal_id.as_str()),
        }
    }
}

async fn import(
    connection: &mut sqlx::PgConnection,
    given: &Columns,
    now: Option<PgInstant>,
    by: DoneBy,
) -> Result<LinksImported, StoreError> {
    let Columns { sources, customers, flexportal_ids } = given;
    let row = sqlx::query!(
        r#"
        with given as materialized (
            select distinct on (source, shop_customer_id)
                source,
                shop_customer_id,
                flexportal_customer_id,
                -- of a source that no process has registered yet: the first one to do so says whose it is
                coalesce(targets.base_url, '') as base_url,
                coalesce(targets.tenant_id, '') as tenant_id
            from unnest($1::text[], $2::text[], $3::text[]) with ordinality
                as line (source, shop_customer_id, flexportal_customer_id, position)
            left join sources on sources.name = line.source
            left join targets on targets.name = sources.target
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
            insert into customer_links as known (
                source, shop_customer_id, flexportal_customer_id, origin, base_url, tenant_id
            )
            select source, shop_customer_id, flexportal_customer_id, 'import', base_url, tenant_id
            from given, (select count(*) from locked) as all_locked
            order by source, shop_customer_id
            on conflict (source, shop_customer_id, base_url, tenant_id) do update
            set flexportal_customer_id = excluded.flexportal_customer_id,
                origin = excluded.origin,
                acknowledged = (             -- what was said is said; the values are another customer's
                    select coalesce(jsonb_object_agg(field, before.known - 'hash' - 'acked'), '{}')
                    from jsonb_each(known.acknowledged) as before (field, known)
                ),
                last_synced_at = null,
                last_occurred_at = null,
                missing_since = null,
                missing_tried_at = null
            where known.flexportal_customer_id is distinct from excluded.flexportal_customer_id
               or known.missing_since is not null
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
            returning waiting.source, waiting.shop_customer_id
        )
        select
            (select count(*) from imported) as "imported!",
            (
                select count(*)
                from given
                where exists (
                    select
                    from deliveries d
                    join event_states s on s.event_id = d.id
                    where d.source = given.source
                      and d.shop_customer_id = given.shop_customer_id
                      and s.status = 'unmatched'
                      and (s.finished_at is not null or (given.source, given.shop_customer_id) in (select * from woken))
                )
            ) as "woken!",
            (select count(pg_notify('flexportal_sync', '')) from (select from woken limit 1) as any_due) as notified
        "#,
        sources,
        customers,
        flexportal_ids,
        now as _,
        by.as_str(),
    )
    .fetch_one(connection)
    .await?;
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(LinksImported { imported: count(row.imported), woken: count(row.woken) })
}

/// Until FlexPortal has answered for a customer that is tried at once, nobody knows that it is unmatched.
async fn wait_for_an_answer(
    connection: &mut sqlx::PgConnection,
    given: &Columns,
    now: Option<PgInstant>,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        -- wait_for_an_answer
        update event_states s
        set status = 'pending'
        from unnest($1::text[], $2::text[]) as given (source, shop_customer_id)
        join waiting_customers waiting using (source, shop_customer_id)
        join deliveries d
            on d.source = waiting.source
            and d.shop_customer_id = waiting.shop_customer_id
            and d.id >= waiting.first_event_id
        where s.event_id = d.id
          and s.status = 'unmatched'
          and s.finished_at is null
          and waiting.due_at <= coalesce($3::timestamptz, clock_timestamp())
        "#,
        &given.sources,
        &given.customers,
        now as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Sets back what was given up as unmatched.
async fn set_back_given_up(connection: &mut sqlx::PgConnection, given: &Columns) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        select retry_sync(given_up.event_id)
        from (
            select s.event_id
            from unnest($1::text[], $2::text[]) as given (source, shop_customer_id)
            join event_states s using (source, shop_customer_id)
            where s.status = 'unmatched'
              and s.finished_at is not null
            order by s.source, s.shop_customer_id, s.event_id       -- the queue's rows in one order
        ) as given_up
        "#,
        &given.sources,
        &given.customers,
    )
    .fetch_all(connection)
    .await?;
    Ok(())
}
