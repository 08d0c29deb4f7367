//! Which shop speaks on a source: customer ids are unique in one shop only, and a staging copy signs with the same secret.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{NewEvent, Outbox, StoreError};
use crate::domain::{ShopName, SourceName};
use crate::notices::NoticeKind;
use crate::shops::Concerns;

/// What becomes of what a shop says on a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Standing {
    /// It is the source's shop.
    Ours,
    /// No shop has spoken on this source yet.
    First,
    /// It waits until a person has decided.
    Held,
    /// It is not stored.
    Ignored,
}

/// What to know of a shop that is ignored.
const IGNORED: &str = "another shop than the source's spoke, and was answered `ignored`: give it a source of its own, or, if \
                       it is the same shop under another name, accept it; `flexportal-sync sources list` names it";

impl Outbox {
    /// What becomes of each of these deliveries: taken as they are, taken apart from the source's own and held, or, where
    /// there is none, ignored.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn hear<'a>(
        &self,
        events: &'a [NewEvent],
    ) -> Result<Vec<Option<(Cow<'a, NewEvent>, Standing)>>, StoreError> {
        let standings = self.standings(events).await?;
        let heard = events.iter().map(|event| {
            let standing = event.delivery.shop.as_ref().map_or(Standing::Ours, |shop| {
                let key = (&event.source, shop, event.delivery.concerns == Concerns::Customer);
                standings.get(&key).copied().unwrap_or(Standing::Held)
            });
            match (standing, event.delivery.concerns) {
                (Standing::Ours | Standing::First, _) => Some((Cow::Borrowed(event), Standing::Ours)),
                (Standing::Ignored, Concerns::Customer) => {
                    self.notices.note(NoticeKind::OtherShopIgnored, event.source.as_str(), IGNORED);
                    None
                }
                (Standing::Held, Concerns::Customer) => Some((Cow::Owned(event.apart()), Standing::Held)),
                // A privacy request is neither held nor ignored: it reaches what came from its shop.
                (Standing::Held | Standing::Ignored, Concerns::Privacy) => {
                    Some((Cow::Owned(event.apart()), Standing::Ours))
                }
            }
        });
        Ok(heard.collect())
    }

    /// The standing of each shop that speaks, on its source; of a privacy request without taking note of it.
    async fn standings<'a>(
        &self,
        events: &'a [NewEvent],
    ) -> Result<HashMap<(&'a SourceName, &'a ShopName, bool), Standing>, StoreError> {
        let spoke = |event: &'a NewEvent| {
            Some((&event.source, event.delivery.shop.as_ref()?, event.delivery.concerns == Concerns::Customer))
        };
        let spoke: Vec<_> = events.iter().filter_map(spoke).collect::<BTreeSet<_>>().into_iter().collect();
        if spoke.is_empty() {
            return Ok(HashMap::new());
        }
        let mut connection = self.warm.connection().await?;
        let heard = sqlx::query_scalar!(
            r#"
            -- hear_shops
            select case
                when is_noted then hear_shop(source, shop, coalesce($4::timestamptz, clock_timestamp()))
                else standing_of_shop(source, shop)
            end as "standing!: Standing"
            from unnest($1::text[], $2::text[], $3::boolean[]) with ordinality as spoke (source, shop, is_noted, position)
            order by position
            "#,
            &spoke.iter().map(|(source, ..)| source.as_str()).collect::<Vec<_>>() as _,
            &spoke.iter().map(|(_, shop, _)| shop.as_str()).collect::<Vec<_>>() as _,
            &spoke.iter().map(|(.., is_noted)| *is_noted).collect::<Vec<_>>(),
            self.clock.for_postgres() as _,
        )
        .fetch_all(&mut *connection)
        .await;
        match heard {
            Ok(standings) => {
                connection.keep();
                Ok(spoke.into_iter().zip(standings).collect())
            }
            // Somebody holds the row of a shop that is not known yet: nobody's delivery waits for that. It is held until
            // the next look at what is.
            Err(error) => match StoreError::from(error) {
                error if error.is_of_lock() => Ok(HashMap::new()),
                error => Err(error),
            },
        }
    }
}

impl NewEvent {
    /// The same, apart from the source's own: the ids of another shop may be those of other customers.
    fn apart(&self) -> Self {
        let mut event = self.clone();
        if let Some(shop) = &self.delivery.shop {
            event.delivery.customer = self.delivery.customer.as_ref().map(|customer| shop.customer(customer));
            event.delivery.delivery_id = shop.delivery(&self.delivery.delivery_id);
        }
        event
    }
}
