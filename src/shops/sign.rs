//! Signing as a shop does: for `send`, `demo` and the tests.

use chrono::{DateTime, Utc};
use secrecy::SecretString;

use super::signature::Keys;
use crate::config::ShopKind;

/// The headers that a shop sends with a body.
///
/// # Errors
/// What is wrong with the secret.
pub fn sign(
    kind: ShopKind,
    secret: &SecretString,
    topic: &str,
    delivery_id: &str,
    body: &[u8],
    now: DateTime<Utc>,
) -> Result<Vec<(&'static str, String)>, &'static str> {
    let keys = Keys::new(kind, std::slice::from_ref(secret))?;
    let sign = |parts: &[&[u8]]| keys.sign(parts).unwrap_or_default();
    let mut headers = vec![("content-type", "application/json".to_owned())];
    match kind {
        ShopKind::Shopify => headers.extend([
            ("x-shopify-topic", topic.to_owned()),
            ("x-shopify-webhook-id", delivery_id.to_owned()),
            ("x-shopify-triggered-at", now.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)),
            ("x-shopify-hmac-sha256", sign(&[body])),
        ]),
        ShopKind::WooCommerce => headers.extend([
            ("x-wc-webhook-topic", topic.to_owned()),
            ("x-wc-webhook-delivery-id", delivery_id.to_owned()),
            ("x-wc-webhook-signature", sign(&[body])),
        ]),
        ShopKind::Generic => {
            let timestamp = now.timestamp().to_string();
            let signature = sign(&[delivery_id.as_bytes(), b".", timestamp.as_bytes(), b".", body]);
            headers.extend([
                ("webhook-id", delivery_id.to_owned()),
                ("webhook-timestamp", timestamp),
                ("webhook-signature", format!("v1,{signature}")),
            ]);
        }
    }
    Ok(headers)
}

/// The topic that a sample is sent under.
#[must_use]
pub fn usual_topic(kind: ShopKind) -> &'static str {
    match kind {
        ShopKind::Shopify => "customers/update",
        ShopKind::WooCommerce | ShopKind::Generic => "customer.updated",
    }
}
