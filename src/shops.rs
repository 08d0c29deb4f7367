//! Shops: who may speak ([`Shop::verify`]) and what they said ([`Shop::receive`], [`Shop::read`]).
//!
//! A body stays bytes until its signature holds: [`Verified`] has no public constructor, and only a
//! [`Verified`] can be parsed. Adapters know their shop's headers, topics and payload, nothing of FlexPortal's
//! API and nothing of storage.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::HeaderMap;
use chrono::{DateTime, Utc};

use crate::config::StatusPolicy;
use crate::config::{Identity, ShopKind, Source};
use crate::domain::{
    CustomerEvent, CustomerStatus, DeliveryId, Field, FieldValue, Said, ShopCustomerId, ShopName, SourceName,
};
use crate::notices::NoticeKind;

mod generic;
pub mod headers;
mod html;
pub mod json;
mod shopify;
pub mod sign;
pub mod signature;
mod woocommerce;

use json::Object;
use signature::Keys;

/// Why a delivery is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Signature missing, wrong, or stale; which of them is nobody's business.
    #[error("the signature is missing or wrong")]
    Unauthorized,
    /// The body is not what such a delivery holds.
    #[error("{0}")]
    Malformed(String),
    /// The body is larger than what is stored.
    #[error("the body is larger than {max} bytes (MAX_BODY_BYTES)")]
    TooLarge {
        /// What is stored at most, in bytes.
        max: usize,
    },
    /// The body's type or encoding cannot be read.
    #[error("{0}")]
    UnsupportedMediaType(String),
}

impl Rejection {
    fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }
}

/// A configured shop with its keys ready.
#[derive(Debug, Clone)]
pub struct Shop {
    source: Source,
    keys: Keys,
}

/// A delivery whose signature held.
#[derive(Debug)]
pub struct Verified<'a> {
    headers: &'a HeaderMap,
    body: &'a [u8],
    delivery_id: Option<&'a str>,
}

/// What a delivery turned out to be.
#[derive(Debug)]
pub enum Received {
    /// To be stored.
    Delivery(Box<Delivery>),
    /// Nothing to sync.
    Ignored(Ignored),
}

/// Why a delivery is not stored, though it is well signed.
#[derive(Debug)]
pub struct Ignored {
    /// For whoever sent it; nothing personal.
    pub reason: Cow<'static, str>,
    /// What somebody should know of it.
    pub notice: Option<NoticeKind>,
}

impl Ignored {
    /// For a reason of which nobody needs to know.
    fn because(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: reason.into(), notice: None }
    }
}

/// A delivery as it is stored.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// By which name its shop speaks; none where the shop does not say.
    pub shop: Option<ShopName>,
    /// Tells it from others of its source.
    pub delivery_id: DeliveryId,
    /// The shop's own word for what happened.
    pub topic: String,
    /// Whose change it is; none for a privacy request that names nobody by id.
    pub customer: Option<ShopCustomerId>,
    /// The customer's e-mail, if given.
    pub email: Option<String>,
    /// When the shop says it happened: any time at all, and none where it does not say.
    pub occurred_at: Option<DateTime<Utc>>,
    /// When the shop says that the delivery was triggered: orders changes of the same second.
    pub triggered_at: Option<DateTime<Utc>>,
    /// A change to sync, or a privacy request.
    pub concerns: Concerns,
    /// FlexPortal has to be asked who the customer is, unless a link says it.
    pub is_asked_for: bool,
    /// The body, as JSON that Postgres takes.
    pub payload: String,
    /// What had to be changed in it for that.
    pub warnings: Vec<String>,
}

/// What a delivery is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concerns {
    /// A change of a customer, to be synced.
    Customer,
    /// A request for data or erasure, kept for a person.
    Privacy,
}

/// What a privacy request asks to be erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasure {
    /// One customer: Shopify `customers/redact`.
    Customer,
    /// All of a shop, which has parted with us: Shopify `shop/redact`.
    Shop,
}

impl Erasure {
    /// The topics that ask for one.
    pub const TOPICS: [&'static str; 2] = ["customers/redact", "shop/redact"];

    /// What a topic asks for; other privacy requests are for a person to answer.
    #[must_use]
    pub fn of_topic(topic: &str) -> Option<Self> {
        match topic {
            "customers/redact" => Some(Self::Customer),
            "shop/redact" => Some(Self::Shop),
            _ => None,
        }
    }
}

impl Concerns {
    /// The word as stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Privacy => "privacy",
        }
    }
}

/// What an adapter makes of a body, before it is bound to a delivery.
enum Content<'a> {
    Change(CustomerEvent<'a>),
    Privacy { customer: Option<ShopCustomerId>, email: Option<String>, shop: Option<ShopName> },
    Ignored(Ignored),
}

impl Shop {
    /// Prepares a configured source.
    ///
    /// # Errors
    /// The source's name and what is wrong with its secret.
    pub fn new(source: Source) -> Result<Self, String> {
        let keys =
            Keys::new(source.kind, &source.secrets).map_err(|fault| format!("source `{}`: {fault}", source.name))?;
        Ok(Self { source, keys })
    }

    /// Its configuration.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Whether this is the set-up ping that `WooCommerce` sends unsigned, as a form with one number in it.
    ///
    /// `WooCommerce` `class-wc-webhook.php`, `deliver_ping`: anything but 200 leaves the webhook pending.
    #[must_use]
    pub fn is_unsigned_ping(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        self.source.kind == ShopKind::WooCommerce && woocommerce::is_ping(headers, body)
    }

    /// How many bytes of a body are read, where so many are stored at most: `WooCommerce`'s plug-ins keep megabytes in
    /// `meta_data`, which is not stored then.
    #[must_use]
    pub fn reads_at_most(&self, stored: usize) -> usize {
        match self.source.kind {
            ShopKind::WooCommerce => stored.saturating_mul(8),
            ShopKind::Shopify | ShopKind::Generic => stored,
        }
    }

    /// Checks the signature on the raw bytes, in constant time.
    ///
    /// # Errors
    /// [`Rejection::Unauthorized`] if it is missing, wrong or stale.
    pub fn verify<'a>(
        &self,
        headers: &'a HeaderMap,
        body: &'a [u8],
        now: DateTime<Utc>,
    ) -> Result<Verified<'a>, Rejection> {
        let delivery_id = match self.source.kind {
            ShopKind::Shopify => shopify::verify(&self.keys, headers, body)?,
            ShopKind::WooCommerce => woocommerce::verify(&self.keys, headers, body)?,
            ShopKind::Generic => generic::verify(&self.keys, headers, body, now)?,
        };
        Ok(Verified { headers, body, delivery_id })
    }

    /// Reads a verified delivery, of which `max` bytes are stored at most.
    ///
    /// # Errors
    /// [`Rejection::TooLarge`] if it holds more than that, `WooCommerce`'s `meta_data` apart.
    /// [`Rejection::Malformed`] if it is not JSON, names no customer, or does not fit its topic. `WooCommerce` counts every
    /// refusal towards switching its webhook off: there only what is not JSON is one, the rest is ignored.
    pub fn receive(&self, verified: &Verified<'_>, max: usize) -> Result<Received, Rejection> {
        headers::require_json(verified.headers)?;
        let is_whole = verified.body.len() <= max;
        let json::Mended { text, mut warnings } = match self.source.kind {
            ShopKind::WooCommerce if !is_whole => match woocommerce::smaller(&self.source, verified.body, max)? {
                Some(smaller) => json::mend(smaller.as_bytes())?,
                None => return Ok(Received::Ignored(Ignored::because("the body is not a JSON object"))),
            },
            ShopKind::WooCommerce | ShopKind::Shopify | ShopKind::Generic => json::mend(verified.body)?,
        };
        if text.len() > max && !is_whole {
            return Err(Rejection::TooLarge { max });
        }
        if !is_whole {
            warnings.push("`meta_data` was left out: the body is larger than MAX_BODY_BYTES".to_owned());
        }
        json::check(&text)?;
        match (self.source.kind, self.received(verified, text, warnings)) {
            (ShopKind::WooCommerce, Err(Rejection::Malformed(why))) => Ok(Received::Ignored(Ignored::because(why))),
            (_, received) => received,
        }
    }

    fn received(&self, verified: &Verified<'_>, text: String, warnings: Vec<String>) -> Result<Received, Rejection> {
        let body = Object::parse(&text)?;
        let topic = match self.source.kind {
            ShopKind::Shopify => shopify::topic(verified.headers)?,
            ShopKind::WooCommerce => woocommerce::topic(verified.headers)?,
            ShopKind::Generic => generic::topic(&body)?,
        };
        let triggered_at = self.triggered_at(verified.headers);
        let speaker = self.speaker(verified.headers);
        let (concerns, customer, email, occurred_at, is_asked_for, shop) = match self.content(&topic, &body)? {
            Content::Ignored(ignored) => return Ok(Received::Ignored(ignored)),
            Content::Privacy { customer, email, shop } => {
                // The body is signed, the header is not.
                (Concerns::Privacy, customer, email, None, false, shop.or(speaker))
            }
            Content::Change(event) => {
                let occurred_at = event.occurred_at.or(triggered_at);
                let email = event.email().map(str::to_owned);
                let is_asked_for = self.source.identity == Identity::Email && event.flexportal_id.is_none();
                (Concerns::Customer, Some(event.customer), email, occurred_at, is_asked_for, speaker)
            }
        };
        let delivery_id = self.delivery_id(verified);
        let delivery = Delivery {
            shop,
            delivery_id,
            topic,
            customer,
            email,
            occurred_at,
            triggered_at,
            concerns,
            is_asked_for,
            payload: text,
            warnings,
        };
        Ok(Received::Delivery(Box::new(delivery)))
    }

    /// Reads a stored change again, under today's policies.
    ///
    /// # Errors
    /// [`Rejection::Malformed`] if it cannot be read (any more).
    pub fn read<'a>(&self, topic: &str, payload: &'a str) -> Result<CustomerEvent<'a>, Rejection> {
        match self.content(topic, &Object::parse(payload)?)? {
            Content::Change(event) => Ok(event),
            Content::Privacy { .. } | Content::Ignored(_) => {
                Err(Rejection::malformed(format!("`{topic}` is not a change of a customer")))
            }
        }
    }

    /// Takes a body that was not delivered, as if it had been: the topic it would have, and itself as it would be stored.
    ///
    /// # Errors
    /// [`Rejection::Malformed`] if it is not JSON, or says no topic where it has to.
    pub fn sample(&self, topic: Option<&str>, body: &[u8]) -> Result<(String, String), Rejection> {
        let json::Mended { text, warnings: _ } = json::mend(body)?;
        let topic = match (self.source.kind, topic) {
            (ShopKind::Generic, _) => generic::topic(&Object::parse(&text)?)?,
            (_, Some(topic)) => topic.to_owned(),
            (kind, None) => sign::usual_topic(kind).to_owned(),
        };
        Ok((topic, text))
    }

    fn content<'a>(&self, topic: &str, body: &Object<'a>) -> Result<Content<'a>, Rejection> {
        match self.source.kind {
            ShopKind::Shopify => shopify::content(&self.source, topic, body),
            ShopKind::WooCommerce => woocommerce::content(&self.source, topic, body),
            ShopKind::Generic => generic::content(&self.source, topic, body),
        }
    }

    fn triggered_at(&self, headers: &HeaderMap) -> Option<DateTime<Utc>> {
        match self.source.kind {
            // Before 1970 Postgres' calendar may end, and no webhook was.
            ShopKind::Shopify => shopify::triggered_at(headers).filter(|at| *at >= DateTime::UNIX_EPOCH),
            ShopKind::WooCommerce | ShopKind::Generic => None,
        }
    }

    fn speaker(&self, headers: &HeaderMap) -> Option<ShopName> {
        let name = match self.source.kind {
            ShopKind::Shopify => "x-shopify-shop-domain",
            ShopKind::WooCommerce => "x-wc-webhook-source",
            ShopKind::Generic => return None,
        };
        ShopName::of(&String::from_utf8_lossy(headers.get(name)?.as_bytes()))
    }

    /// The shop's delivery id where it is unique; joined by the body's digest where it is not, and the digest
    /// alone where there is none or one too long to be indexed.
    fn delivery_id(&self, verified: &Verified<'_>) -> DeliveryId {
        let given = verified.delivery_id.and_then(|id| DeliveryId::parse(id).ok());
        let digest = || signature::sha256_hex(verified.body);
        let text = match (given, self.source.kind) {
            (Some(id), ShopKind::Shopify | ShopKind::Generic) => return id,
            (Some(id), ShopKind::WooCommerce) => format!("{id}:{}", digest()),
            (None, _) => format!("sha256:{}", digest()),
        };
        DeliveryId::parse(text).unwrap_or_else(|_| DeliveryId::sha256(&digest()))
    }
}

/// The configured shops by name, and with them those that variables define at the intake: who only reads what is stored
/// needs no webhook secrets.
///
/// # Errors
/// The source's name and what is wrong with it.
pub fn by_name(configured: &[Arc<Shop>]) -> Result<BTreeMap<SourceName, Arc<Shop>>, String> {
    let mut all = BTreeMap::new();
    for kind in ShopKind::ALL {
        let shop = Shop::new(Source::of_kind(kind))?;
        all.insert(shop.source().name.clone(), Arc::new(shop));
    }
    all.extend(configured.iter().map(|shop| (shop.source().name.clone(), shop.clone())));
    Ok(all)
}

fn rfc3339(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

fn full_name<'a>(first: Option<Cow<'a, str>>, last: Option<Cow<'a, str>>) -> Option<Cow<'a, str>> {
    match (first, last) {
        (Some(first), Some(last)) => Some(format!("{first} {last}").into()),
        (first, last) => first.or(last),
    }
}

fn say_text<'a>(says: &mut BTreeMap<Field, Said<'a>>, field: Field, text: json::Text<'a>) {
    let said = match text {
        json::Text::Absent => return,
        json::Text::Empty => Said::Nothing,
        json::Text::Value(text) => Said::Value(FieldValue::Text(text)),
    };
    says.insert(field, said);
}

/// The topics by which shops tell that a customer was deleted.
pub const DELETION_TOPICS: [&str; 2] = ["customers/delete", "customer.deleted"];

fn say_deleted(source: &Source, event: &mut CustomerEvent<'_>) {
    event.is_deletion = true;
    match source.policies.on_delete {
        StatusPolicy::Inactive => {
            event.says.insert(Field::Status, Said::Value(FieldValue::Status(CustomerStatus::Inactive)));
        }
        StatusPolicy::Ignore => event.says.clear(),
    }
}
