//! Links, listed.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::{Page, after};
use crate::domain::{FlexportalCustomerId, ShopCustomerId, SourceName};
use crate::outbox::{InspectError, Outbox};

/// Which links; what is `None` does not narrow them down.
#[derive(Debug, Clone, Default)]
pub struct LinkFilter {
    /// Of this shop.
    pub source: Option<SourceName>,
    /// Of this shop's customer.
    pub customer: Option<ShopCustomerId>,
    /// To this customer of FlexPortal.
    pub flexportal_id: Option<FlexportalCustomerId>,
}

/// Which FlexPortal customer a shop's customer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkRow {
    /// The shop.
    pub source: SourceName,
    /// The shop's customer.
    pub shop_customer_id: String,
    /// FlexPortal's customer.
    pub flexportal_customer_id: String,
    /// `event`, `lookup` or `import`.
    pub origin: String,
    /// When FlexPortal last acknowledged a change.
    pub last_synced_at: Option<DateTime<Utc>>,
    /// Shop's time of the newest change that was acknowledged.
    pub last_occurred_at: Option<DateTime<Utc>>,
    /// Since when FlexPortal does not know that customer; null while it does.
    pub missing_since: Option<DateTime<Utc>>,
}

impl Outbox {
    /// Links, by source and shop customer.
    ///
    /// # Errors
    /// [`InspectError`].
    pub async fn links(
        &self,
        filter: &LinkFilter,
        cursor: Option<&str>,
        limit: i64,
    ) -> Result<Page<LinkRow>, InspectError> {
        let (source, customer): (Option<String>, Option<String>) = after(cursor)?.unzip();
        let links = sqlx::query_as!(
            LinkRow,
            r#"
            select
                source as "source!: SourceName",
                shop_customer_id as "shop_customer_id!",
                flexportal_customer_id as "flexportal_customer_id!",
                origin as "origin!",
                last_synced_at,
                last_occurred_at,
                missing_since
            from current_links
            where flexportal_customer_id is not null
              and ($1::text is null or source = $1)
              and ($2::text is null or shop_customer_id = $2)
              and ($3::text is null or flexportal_customer_id = $3)
              and ($4::text is null or (source, shop_customer_id) > ($4, $5::text))
            order by source, shop_customer_id
            limit $6
            "#,
            filter.source.as_ref().map(SourceName::as_str),
            filter.customer.as_ref().map(ShopCustomerId::as_str),
            filter.flexportal_id.as_ref().map(FlexportalCustomerId::as_str),
            source,
            customer,
            limit + 1,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(Page::of(links, limit, |link| (link.source.clone(), link.shop_customer_id.clone())))
    }
}
