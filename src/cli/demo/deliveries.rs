//! What the demo sends: one delivery of every kind that shops send in real life.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use chrono::TimeDelta;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::cli::send::sample;
use crate::config::ShopKind;
use crate::domain::{Clock, EventId, EventStatus};
use crate::fake_flexportal::{Behaviour, Failure, FakeFlexportal, Refusal};
use crate::shops::sign::{sign, usual_topic};

/// The webhook secret of all three sources.
pub(super) const SECRET: &str = "demo-secret";

/// One delivery and how it should end.
pub(super) struct Delivery {
    /// Its kind, as the table calls it.
    pub(super) what: &'static str,
    /// What is to come of it.
    pub(super) expected: Expected,
    kind: ShopKind,
    id: String,
    secret: &'static str,
    /// The name by which its shop speaks.
    shop: &'static str,
    body: Vec<u8>,
}

/// What is to come of a delivery.
pub(super) enum Expected {
    /// This answer, and nothing more.
    Answer(&'static str),
    /// It is accepted, and ends so.
    Status(EventStatus),
}

/// The shop that speaks.
const SHOP: &str = "demo.myshopify.com";

/// The customers that get special treatment; the others are ordinary.
const REFUSED: u32 = 31;
const RATE_LIMITED: u32 = 32;
const UNAVAILABLE: u32 = 33;
const OUT_OF_ORDER: u32 = 34;

/// Teaches the fake to refuse one customer for good, to be busy once and to be broken once.
pub(super) fn misbehave(fake: &FakeFlexportal) {
    fake.set_behaviour(Behaviour {
        refuse_customers: vec![Refusal {
            customer_id: format!("cus_{REFUSED}"),
            status: 422,
            code: "VALIDATION_ERROR".to_owned(),
            message: "not a phone number".to_owned(),
            path: Some("phone".to_owned()),
        }],
        ..Behaviour::default()
    });
    let busy = Failure::Status { status: 429, code: "RATE_LIMITED".to_owned(), retry_after: Some("1".to_owned()) };
    fake.fail_next_for(&format!("cus_{RATE_LIMITED}"), 1, busy);
    fake.fail_next_for(&format!("cus_{UNAVAILABLE}"), 1, Failure::status(503));
}

/// All deliveries, in the order in which they are sent.
pub(super) fn all() -> anyhow::Result<Vec<Delivery>> {
    use EventStatus::{Failed, Held, Superseded, Synced, Unmatched};
    let mut all = Vec::new();
    let mut add = |what, expected, kind, customer: u32, change: &[(&str, Value)]| -> anyhow::Result<()> {
        let body = customer_body(kind, customer, change)?;
        let id = format!("demo-{}", all.len());
        all.push(Delivery { what, expected, kind, id, secret: SECRET, shop: SHOP, body });
        Ok(())
    };
    for customer in 1..=10 {
        add("Shopify: changed customer", Expected::Status(Synced), ShopKind::Shopify, customer, &[])?;
        add("WooCommerce: changed customer", Expected::Status(Synced), ShopKind::WooCommerce, customer + 10, &[])?;
        add("generic: changed customer", Expected::Status(Synced), ShopKind::Generic, customer + 20, &[])?;
    }
    let now = Clock::System.now();
    let at = |seconds_ago| ("updated_at", json!((now - TimeDelta::seconds(seconds_ago)).to_rfc3339()));
    let shopify = ShopKind::Shopify;
    add("out of order: the newer one", Expected::Status(Synced), shopify, OUT_OF_ORDER, &[at(0)])?;
    add("out of order: the older one", Expected::Status(Superseded), shopify, OUT_OF_ORDER, &[at(5)])?;
    add("unknown in FlexPortal", Expected::Status(Unmatched), shopify, 900, &[])?;
    add("FlexPortal refuses it (422)", Expected::Status(Failed), shopify, REFUSED, &[])?;
    add("FlexPortal is busy once (429)", Expected::Status(Synced), shopify, RATE_LIMITED, &[])?;
    add("FlexPortal is broken once (503)", Expected::Status(Synced), shopify, UNAVAILABLE, &[])?;
    add("badly signed", Expected::Answer("401"), shopify, 35, &[])?;
    add("another shop, by the same secret", Expected::Status(Held), shopify, 1, &[])?;
    if let [.., badly_signed, of_another_shop] = &mut all[..] {
        badly_signed.secret = "not the secret";
        of_another_shop.shop = "staging-copy.myshopify.com";
    }
    // The very first one once more, as shops do.
    let again = customer_body(shopify, 1, &[])?;
    all.push(Delivery {
        what: "the same delivery twice",
        expected: Expected::Answer("duplicate"),
        kind: shopify,
        id: "demo-0".to_owned(),
        secret: SECRET,
        shop: SHOP,
        body: again,
    });
    Ok(all)
}

/// The sample of a shop, made another customer's.
fn customer_body(kind: ShopKind, customer: u32, change: &[(&str, Value)]) -> anyhow::Result<Vec<u8>> {
    let mut body = sample(kind, Clock::System.now())?;
    let email = json!(format!("customer{customer}@example.com"));
    match kind {
        ShopKind::Shopify | ShopKind::WooCommerce => {
            body["id"] = json!(7_000_000_000_u64 + u64::from(customer));
            body["email"] = email;
        }
        ShopKind::Generic => {
            body["data"]["customerId"] = json!(format!("shop-{customer}"));
            body["data"]["email"] = email;
        }
    }
    for (key, value) in change {
        body[*key] = value.clone();
    }
    Ok(serde_json::to_vec(&body)?)
}

/// Posts deliveries as the shops would.
pub(super) struct Sender {
    client: reqwest::Client,
    addr: SocketAddr,
}

impl Sender {
    pub(super) fn new(addr: SocketAddr) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build();
        let client = client.context("no HTTP client")?;
        Ok(Self { client, addr })
    }

    /// The answer's word, or its status where it has none; and the event's id.
    pub(super) async fn send(&self, delivery: &Delivery) -> anyhow::Result<(String, Option<EventId>)> {
        let secret = SecretString::from(delivery.secret);
        let (kind, now) = (delivery.kind, Clock::System.now());
        let headers =
            sign(kind, &secret, usual_topic(kind), &delivery.id, &delivery.body, now).map_err(anyhow::Error::msg)?;
        let url = format!("http://{}/webhooks/{}", self.addr, kind.as_str());
        let mut request = self.client.post(url).body(delivery.body.clone());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if kind == ShopKind::Shopify {
            request = request.header("x-shopify-shop-domain", delivery.shop);
        }
        let answer = request.send().await.context("the service does not answer")?;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or_default();
        let word = match body["status"].as_str() {
            Some(word) => word.to_owned(),
            None => status.as_u16().to_string(),
        };
        Ok((word, serde_json::from_value(body["eventId"].clone()).ok()))
    }
}
