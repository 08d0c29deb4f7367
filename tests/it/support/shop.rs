//! Webhooks as shops send them.

use chrono::{DateTime, Utc};
use flexportal_sync::config::ShopKind;
use flexportal_sync::shops::sign::sign;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

pub const SHOPIFY_SECRET: &str = "hush-shopify-client-secret-7f3a";
pub const WOOCOMMERCE_SECRET: &str = "kJ8#wc-webhook-secret-2026";
pub const GENERIC_SECRET: &str = "whsec_bG3GFucjRbfGEffs7IeuxMt00BNJBbjEnb7MFeG/kOg=";
pub const GENERIC_PREVIOUS_SECRET: &str = "whsec_vVTCK8XrevA+k46ph2Da+Pl8skriRfwlQZBb04qykRs=";

static NEXT_DELIVERY: AtomicU64 = AtomicU64::new(1);

/// A webhook, signed when it is sent.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub kind: ShopKind,
    pub topic: String,
    pub delivery_id: String,
    pub body: Vec<u8>,
    /// The name by which the shop speaks.
    pub shop: Option<String>,
}

/// The shop of every test that has one.
pub const SHOP: &str = "shop.example";

impl Webhook {
    pub fn new(kind: ShopKind, topic: &str, body: impl Into<Vec<u8>>) -> Self {
        let delivery_id = format!("delivery-{}", NEXT_DELIVERY.fetch_add(1, Ordering::Relaxed));
        Self { kind, topic: topic.to_owned(), delivery_id, body: body.into(), shop: Some(SHOP.to_owned()) }
    }

    /// The same of another shop, or of one that does not say which it is.
    pub fn of_shop(mut self, shop: Option<&str>) -> Self {
        self.shop = shop.map(str::to_owned);
        self
    }

    pub fn with_delivery_id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.delivery_id);
        self
    }

    pub fn source(&self) -> &'static str {
        self.kind.as_str()
    }

    /// Its headers, signed at `now`.
    pub fn signed_at(&self, now: DateTime<Utc>) -> HeaderMap {
        let secret = SecretString::from(match self.kind {
            ShopKind::Shopify => SHOPIFY_SECRET,
            ShopKind::WooCommerce => WOOCOMMERCE_SECRET,
            ShopKind::Generic => GENERIC_SECRET,
        });
        let signed =
            sign(self.kind, &secret, &self.topic, &self.delivery_id, &self.body, now).expect("a usable secret");
        let header = |value: &str| HeaderValue::from_str(value).expect("a header");
        let mut headers: HeaderMap =
            signed.into_iter().map(|(name, value)| (HeaderName::from_static(name), header(&value))).collect();
        let name = match self.kind {
            ShopKind::Shopify => "x-shopify-shop-domain",
            ShopKind::WooCommerce => "x-wc-webhook-source",
            ShopKind::Generic => return headers,
        };
        headers.extend(self.shop.iter().map(|shop| (HeaderName::from_static(name), header(shop))));
        headers
    }
}

/// A generic change at `second` seconds after ten o'clock.
pub fn generic(customer: &str, second: u32, fields: &Value) -> Webhook {
    let mut data = json!({"customerId": customer});
    if let (Some(data), Some(fields)) = (data.as_object_mut(), fields.as_object()) {
        data.extend(fields.clone());
    }
    let timestamp = format!("2026-11-23T10:{:02}:{:02}Z", second / 60, second % 60);
    let body = json!({"type": "customer.updated", "timestamp": timestamp, "data": data});
    Webhook::new(ShopKind::Generic, "customer.updated", body.to_string())
}

/// A generic change of a customer that FlexPortal has as `cus_<n>`.
pub fn linked(n: u32, second: u32, fields: &Value) -> Webhook {
    let mut fields = fields.clone();
    fields["flexportalCustomerId"] = json!(format!("cus_{n}"));
    generic(&format!("shop-{n}"), second, &fields)
}

/// A whole Shopify customer, whose e-mail FlexPortal has as `cus_<n>`, changed at `second`.
pub fn shopify(n: u32, second: u32, fields: &Value) -> Webhook {
    shopify_topic("customers/update", n, second, fields)
}

pub fn shopify_topic(topic: &str, n: u32, second: u32, fields: &Value) -> Webhook {
    let mut body = json!({
        "id": 7_120_000_000_u64 + u64::from(n),
        "updated_at": format!("2026-11-23T10:{:02}:{:02}Z", second / 60, second % 60),
        "first_name": "Ada", "last_name": "Lovelace", "email": format!("customer{n}@example.com"), "phone": null,
        "addresses": [],
    });
    if let (Some(body), Some(fields)) = (body.as_object_mut(), fields.as_object()) {
        body.extend(fields.clone());
    }
    Webhook::new(ShopKind::Shopify, topic, body.to_string())
}
