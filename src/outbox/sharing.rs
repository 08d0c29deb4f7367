//! Shop customers that lead to the same FlexPortal customer, and merges of shop customers.

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use sqlx::types::Json;

use super::{ClaimedCustomer, Outbox, StoreError};
use crate::domain::{Acknowledged, FlexportalCustomerId, ShopCustomerId, SourceName};
use crate::flexportal::Status;
use crate::shops::DELETION_TOPICS;

/// Another shop customer that leads to the same FlexPortal customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharer {
    /// The shop.
    pub source: SourceName,
    /// The shop's customer.
    pub customer: ShopCustomerId,
    /// Whether its e-mail, as its newest change gave it, is the one that is asked about; `None` if none is known.
    pub has_email: Option<bool>,
    /// Its newest change is its deletion in the shop.
    pub is_deleted: bool,
    /// Because it was deleted in the shop, this service set the FlexPortal customer inactive.
    pub was_deactivated: bool,
    /// The status that FlexPortal's last answer about it showed, and when.
    pub status_shown: Option<(DateTime<Utc>, Status)>,
}

/// So many decide; there are one or two.
const MAX_SHARERS: i64 = 20;

/// What the hash of an e-mail is made with.
#[derive(Clone)]
pub(super) struct HashKey(Vec<u8>);

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey")
    }
}

impl HashKey {
    /// The hash of an e-mail, letter case and white space apart: 128 bits, in hex.
    pub(super) fn of_email(&self, email: &str) -> String {
        // HMAC takes keys of any length.
        let Ok(mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return String::new() };
        let digest = mac.chain_update(email.trim().to_lowercase()).finalize().into_bytes();
        hex::encode(&digest[..16])
    }
}

impl Outbox {
    /// The key of hashes, asked for once.
    pub(super) async fn hash_key(&self) -> Result<&HashKey, StoreError> {
        let asking = async {
            let key = sqlx::query_scalar!("-- hash_key\n select key from hash_key").fetch_one(&self.pool).await?;
            Ok(HashKey(key))
        };
        self.hash_key.get_or_try_init(|| asking).await
    }

    /// Other shop customers, of whatever source, whose link leads to a FlexPortal customer of a claimed customer's tenant;
    /// `email` is what their own is compared with.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sharers(
        &self,
        claimed: &ClaimedCustomer,
        id: &FlexportalCustomerId,
        email: Option<&str>,
    ) -> Result<Vec<Sharer>, StoreError> {
        let hash = match email {
            Some(email) => Some(self.hash_key().await?.of_email(email)),
            None => None,
        };
        let topics = DELETION_TOPICS.map(str::to_owned);
        let rows = sqlx::query!(
            r#"
            -- sharers
            select
                link.source as "source: SourceName",
                link.shop_customer_id as "customer: ShopCustomerId",
                -- what arrived since it was synced counts; after RETENTION the hash is what is left
                coalesce(lower(trim(given.email)) = lower(trim($6)), link.email_hash = $7) as has_email,
                coalesce(newest.topic = any($8), false) as "is_deleted!",
                link.acknowledged as "acknowledged: Json<serde_json::Value>",
                link.status_shown,
                link.status_shown_at
            from customer_links link
            left join lateral (
                select email
                from deliveries
                where deliveries.source = link.source
                  and deliveries.shop_customer_id = link.shop_customer_id
                  and concerns = 'customer'
                  and email is not null
                order by occurred_at desc, id desc
                limit 1
            ) as given on true
            left join lateral (
                select topic
                from deliveries
                where deliveries.source = link.source
                  and deliveries.shop_customer_id = link.shop_customer_id
                  and concerns = 'customer'
                order by occurred_at desc, id desc
                limit 1
            ) as newest on true
            where link.flexportal_customer_id = $1
              and link.missing_since is null
              and link.base_url = $2
              and link.tenant_id = $3
              and (link.source, link.shop_customer_id) <> ($4, $5)
            order by link.source, link.shop_customer_id
            limit $9
            "#,
            id.as_str(),
            claimed.tenant.base_url,
            claimed.tenant.tenant_id,
            claimed.source.as_str(),
            claimed.customer.as_str(),
            email,
            hash,
            &topics[..],
            MAX_SHARERS,
        )
        .fetch_all(&self.pool)
        .await?;
        let sharers = rows.into_iter().map(|row| {
            let acknowledged = serde_json::from_value::<Acknowledged>(row.acknowledged.0).unwrap_or_default();
            let was_deactivated = acknowledged.is_deactivated_by_deletion();
            let status_shown = row.status_shown.as_deref().and_then(Status::of_word);
            Sharer {
                source: row.source,
                customer: row.customer,
                has_email: row.has_email,
                is_deleted: row.is_deleted || was_deactivated,
                was_deactivated,
                status_shown: row.status_shown_at.zip(status_shown),
            }
        });
        Ok(sharers.collect())
    }

    /// Takes note that the shop merged a claimed customer into another one: its link is the other's, unless that has one of
    /// its own, and the other is tried at once.
    ///
    /// To do it again is safe.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of it was done.
    pub async fn merge(&self, claimed: &ClaimedCustomer, kept: &ShopCustomerId) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        // The queue's row first, as everybody takes them.
        sqlx::query!(
            r#"
            -- merge_wake
            update waiting_customers
            set due_at = least(due_at, coalesce($3::timestamptz, clock_timestamp())), revision = revision + 1
            where source = $1
              and shop_customer_id = $2
            "#,
            claimed.source.as_str(),
            kept.as_str(),
            self.clock.for_postgres() as _,
        )
        .persistent(false)
        .execute(&mut *transaction)
        .await?;
        sqlx::query!(
            r#"
            -- merge_links
            with lost as (
                select flexportal_customer_id, origin, acknowledged, status_shown, status_shown_at, missing_since
                from customer_links
                where source = $1
                  and shop_customer_id = $2
                  and base_url = $4
                  and tenant_id = $5
                  and merged_into is null
                for update
            ),
            moved as (
                insert into customer_links as known (
                    source, shop_customer_id, flexportal_customer_id, origin, acknowledged, status_shown, status_shown_at,
                    base_url, tenant_id
                )
                select
                    $1, $3, flexportal_customer_id, origin,
                    -- the other's changes are ordered by themselves; that we set it inactive is not forgotten
                    case
                        when acknowledged -> 'status' -> 'deactivated' = 'true'
                        then jsonb_build_object('status', (acknowledged -> 'status') - 'hash' - 'acked')
                        else '{}'
                    end,
                    status_shown, status_shown_at, $4, $5
                from lost
                where flexportal_customer_id is not null
                  and missing_since is null
                on conflict (source, shop_customer_id, base_url, tenant_id) do update
                set flexportal_customer_id = excluded.flexportal_customer_id,
                    origin = excluded.origin,
                    acknowledged = excluded.acknowledged,
                    status_shown = excluded.status_shown,
                    status_shown_at = excluded.status_shown_at,
                    missing_since = null,
                    missing_tried_at = null
                where known.flexportal_customer_id is null
                   or known.missing_since is not null
                returning 1
            )
            insert into customer_links as known (source, shop_customer_id, origin, merged_into, base_url, tenant_id)
            select $1, $2, 'event', $3, $4, $5
            from (select count(*) from moved) as all_moved       -- before its id is taken away
            on conflict (source, shop_customer_id, base_url, tenant_id) do update
            set flexportal_customer_id = null,
                last_synced_at = null,
                last_occurred_at = null,
                merged_into = excluded.merged_into
            where known.merged_into is null
            "#,
            claimed.source.as_str(),
            claimed.customer.as_str(),
            kept.as_str(),
            claimed.tenant.base_url,
            claimed.tenant.tenant_id,
        )
        .persistent(false)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_is_hashed_by_the_key_letter_case_and_white_space_apart() {
        let [one, other] = [HashKey(vec![1; 32]), HashKey(vec![2; 32])];
        assert_eq!(one.of_email(" Ada@Example.com"), one.of_email("ada@example.com"));
        assert_ne!(one.of_email("ada@example.com"), one.of_email("eva@example.com"));
        assert_ne!(one.of_email("ada@example.com"), other.of_email("ada@example.com"));
        assert_eq!(one.of_email("ada@example.com").len(), 32);
        assert_eq!(format!("{one:?}"), "HashKey");
    }
}
