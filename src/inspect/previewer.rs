//! Previews for people: of a stored event, or of a body that was not sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{Config, CountryFormat};
use crate::domain::{CustomerEvent, EventId, ShopCustomerId, SourceName, TargetName};
use crate::outbox::{Outbox, StoreError, WaitingEvent};
use crate::shops::{self, Rejection, Shop};
use crate::sync::preview::{Background, Preview, not_stored, preview};
use crate::sync::translate::Wishes;

/// Knows the shops, and what each tenant wants.
#[derive(Debug, Clone)]
pub struct Previewer {
    shops: BTreeMap<SourceName, Arc<Shop>>,
    wishes: BTreeMap<TargetName, Wishes>,
}

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// No change of this id is stored.
    #[error("there is no change of a customer with the id {0}")]
    NoSuchEvent(EventId),
    /// No source of this name is configured here.
    #[error("no source `{0}` is configured")]
    NoSuchSource(SourceName),
    /// The body is not what such a delivery holds.
    #[error("the body cannot be read: {0}")]
    Unreadable(#[from] Rejection),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Previewer {
    /// For the configured shops.
    ///
    /// # Errors
    /// What of the configuration cannot be used.
    pub fn new(config: &Config, shops: &[Arc<Shop>]) -> Result<Self, String> {
        let wishes = config.targets.iter().map(|target| {
            let wishes = Wishes { country_format: target.country_format, send_email: target.send_email };
            (target.name.clone(), wishes)
        });
        Ok(Self { shops: shops::by_name(shops)?, wishes: wishes.collect() })
    }

    /// What would be sent, were a stored event synced now.
    ///
    /// # Errors
    /// [`PreviewError`].
    pub async fn of_event(&self, outbox: &Outbox, event: EventId) -> Result<Preview, PreviewError> {
        let stored = outbox.stored_change(event).await?;
        let (source, customer, change) = stored.ok_or(PreviewError::NoSuchEvent(event))?;
        self.of_change(outbox, &source, &customer, &change).await
    }

    /// What would be sent, were this body delivered now.
    ///
    /// # Errors
    /// [`PreviewError`].
    pub async fn of_body(
        &self,
        outbox: &Outbox,
        source: &SourceName,
        topic: Option<&str>,
        body: &[u8],
    ) -> Result<Preview, PreviewError> {
        let shop = self.shop(source)?;
        let (topic, payload) = shop.sample(topic, body)?;
        let CustomerEvent { customer, occurred_at, .. } = shop.read(&topic, &payload)?;
        let change = not_stored(topic, payload, occurred_at, outbox.now().await?.utc());
        self.of_change(outbox, source, &customer, &change).await
    }

    fn shop(&self, source: &SourceName) -> Result<&Arc<Shop>, PreviewError> {
        self.shops.get(source).ok_or_else(|| PreviewError::NoSuchSource(source.clone()))
    }

    async fn of_change(
        &self,
        outbox: &Outbox,
        source: &SourceName,
        customer: &ShopCustomerId,
        change: &WaitingEvent,
    ) -> Result<Preview, PreviewError> {
        let shop = self.shop(source)?;
        let known = outbox.known(source, customer, &shop.source().target).await?;
        let last_sent = outbox.last_sent(source, customer).await?;
        // A tenant without credentials here is previewed with the defaults.
        let wishes = self.wishes.get(&shop.source().target).copied();
        let wishes = wishes.unwrap_or(Wishes { country_format: CountryFormat::Name, send_email: false });
        let background = Background { known: &known, last_sent: last_sent.as_ref(), wishes };
        Ok(preview(shop, customer, change, background))
    }
}
