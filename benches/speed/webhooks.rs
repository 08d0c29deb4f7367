//! Signed webhooks, made before the clock starts.

use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use flexportal_sync::config::ShopKind;
use flexportal_sync::domain::Clock;
use flexportal_sync::shops::sign::{sign, usual_topic};
use secrecy::SecretString;
use serde_json::json;

use super::SECRET;

/// A request as it goes over the wire; where the shop does not sign the delivery's id, it is written in when it is sent.
#[derive(Debug)]
pub(crate) struct Webhook {
    head: String,
    id: Option<String>,
    body: String,
}

impl Webhook {
    pub(crate) fn body(&self) -> &str {
        &self.body
    }

    /// The bytes of the `n`-th request of all.
    pub(crate) fn write(&self, n: usize, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(self.head.as_bytes());
        if let Some(header) = &self.id {
            // Writing to memory cannot fail.
            let _ = std::io::Write::write_fmt(into, format_args!("{header}: {}\r\n", scattered(n)));
        }
        into.extend_from_slice(b"\r\n");
        into.extend_from_slice(self.body.as_bytes());
    }
}

/// Bodies of about 1 KB, each of another customer; the same one may be sent any number of times.
pub(crate) fn of_shopify(customers: usize) -> anyhow::Result<Vec<Webhook>> {
    let made = (0..customers).map(|n| {
        let body = json!({
            "id": 7_120_000_000_u64 + n as u64,
            "email": format!("customer{n}@example.com"),
            "created_at": "2026-03-01T08:00:00+01:00",
            "updated_at": "2026-11-23T10:59:58+01:00",
            "first_name": "Adelheid",
            "last_name": format!("Musterfrau {n}"),
            "orders_count": 3,
            "state": "enabled",
            "total_spent": "199.65",
            "last_order_id": 450_789_469,
            "note": null,
            "verified_email": true,
            "multipass_identifier": null,
            "tax_exempt": false,
            "tags": "rental, newsletter",
            "last_order_name": "#1001",
            "currency": "EUR",
            "phone": format!("+49301234{n:06}"),
            "addresses": [],
            "default_address": {
                "id": 207_119_551,
                "customer_id": 7_120_000_000_u64 + n as u64,
                "first_name": "Adelheid",
                "last_name": "Musterfrau",
                "company": "Beispiel GmbH",
                "address1": "Musterstraße 12",
                "address2": "Hinterhaus",
                "city": "Berlin",
                "province": "Berlin",
                "country": "Germany",
                "zip": "10115",
                "phone": "+49 30 123456",
                "name": "Adelheid Musterfrau",
                "province_code": "BE",
                "country_code": "DE",
                "country_name": "Germany",
                "default": true
            },
            "email_marketing_consent": {"state": "subscribed", "opt_in_level": "single_opt_in", "consent_updated_at": null}
        });
        webhook(ShopKind::Shopify, n, body.to_string())
    });
    made.collect()
}

/// Webhooks that [`of_generic`] made so far: neither ids nor values are ever the same.
static MADE: AtomicUsize = AtomicUsize::new(0);

/// Bodies of the given size, each of another customer that FlexPortal's id is given of; each can be sent once, within
/// five minutes. Called again, it makes another change of each of the same customers.
pub(crate) fn of_generic(customers: usize, size: usize) -> anyhow::Result<Vec<Webhook>> {
    let first = MADE.fetch_add(customers, Ordering::Relaxed);
    let made = (0..customers).map(|n| {
        let body = |note: &str| {
            json!({
                "type": "customer.updated",
                "timestamp": "2026-11-23T10:00:00Z",
                "data": {
                    "customerId": format!("shop-{n}"),
                    "flexportalCustomerId": format!("cus_{n}"),
                    "firstName": "Adelheid",
                    "lastName": format!("Musterfrau {n} {first}"),
                    "phone": format!("+49301234{n:06}"),
                    "note": note,
                }
            })
            .to_string()
        };
        let room = size.saturating_sub(body("").len());
        webhook(ShopKind::Generic, first + n, body(&"n".repeat(room)))
    });
    made.collect()
}

fn webhook(kind: ShopKind, n: usize, body: String) -> anyhow::Result<Webhook> {
    let secret = SecretString::from(SECRET);
    let headers = sign(kind, &secret, usual_topic(kind), &scattered(n), body.as_bytes(), Clock::System.now());
    let mut head =
        format!("POST /webhooks/{} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n", kind.as_str(), body.len());
    let mut id = None;
    for (name, value) in headers.map_err(anyhow::Error::msg).context("no signature")? {
        if name == "x-shopify-webhook-id" {
            id = Some(name.to_owned());
        } else {
            // Writing to memory cannot fail.
            let _ = write!(head, "{name}: {value}\r\n");
        }
    }
    Ok(Webhook { head, id, body })
}

/// A delivery's id: another for each number, and without order, as shops give them.
fn scattered(n: usize) -> String {
    // An odd factor maps numbers of 64 bits one to one.
    format!("{:016x}", (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
