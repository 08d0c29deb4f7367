//! Every recorded payload: what is understood of it, and the body of the PUT. A new case is a new file.

use std::collections::BTreeMap;

use flexportal_sync::config::{CountryFormat, Policies, Source};
use flexportal_sync::config::{Identity, ShopKind};
use flexportal_sync::domain::{Acknowledged, EventId, FlexportalCustomerId, OrderKey, SourceName, TargetName};
use flexportal_sync::shops::{Received, Shop};
use flexportal_sync::sync::fold::{ReadEvent, fold};
use flexportal_sync::sync::translate::{Wishes, translate};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::SecretString;
use serde_json::json;

use crate::support::shop::{GENERIC_PREVIOUS_SECRET, GENERIC_SECRET, SHOPIFY_SECRET, WOOCOMMERCE_SECRET};

fn shop(kind: ShopKind) -> Shop {
    let secrets: &[&str] = match kind {
        ShopKind::Shopify => &[SHOPIFY_SECRET],
        ShopKind::WooCommerce => &[WOOCOMMERCE_SECRET],
        ShopKind::Generic => &[GENERIC_SECRET, GENERIC_PREVIOUS_SECRET, "a plain text secret, not base64!"],
    };
    Shop::new(Source {
        shop: vec![],
        roles: vec![],
        name: SourceName::parse(kind.as_str()).expect("a name"),
        kind,
        secrets: secrets.iter().map(|secret| SecretString::from(*secret)).collect(),
        target: TargetName::parse("default").expect("a name"),
        identity: Identity::Email,
        flexportal_id_field: None,
        policies: Policies::default(),
    })
    .expect("a shop")
}

fn understood(shop: &Shop, headers: &HeaderMap, body: &[u8]) -> serde_json::Value {
    let now = "2026-11-23T10:00:00Z".parse().expect("a time");
    let verified = match shop.verify(headers, body, now) {
        Ok(verified) => verified,
        Err(rejection) => return json!({"unverified": rejection.to_string()}),
    };
    let delivery = match shop.receive(&verified, usize::MAX) {
        Ok(Received::Delivery(delivery)) => delivery,
        Ok(Received::Ignored(ignored)) => return json!({"ignored": ignored.reason}),
        Err(rejection) => return json!({"rejected": rejection.to_string()}),
    };
    let mut shown = json!({
        "delivery_id": delivery.delivery_id.as_str(),
        "topic": delivery.topic,
        "customer": delivery.customer,
        "email": delivery.email,
        "occurred_at": delivery.occurred_at,
        "triggered_at": delivery.triggered_at,
        "concerns": delivery.concerns.as_str(),
    });
    if let Ok(event) = shop.read(&delivery.topic, &delivery.payload) {
        let events = [ReadEvent { key: OrderKey::at(now, EventId(uuid::Uuid::nil())), event }];
        let folded = fold(&events, &Acknowledged::default());
        let wishes = Wishes { country_format: CountryFormat::Name, send_email: false };
        let translated = translate(&folded.fields, &Acknowledged::default(), wishes);
        let id = events[0].event.flexportal_id.clone();
        let id = id.unwrap_or_else(|| FlexportalCustomerId::parse("looked-up").expect("an id"));
        shown["put"] = if translated.sent.is_empty() { json!(null) } else { json!(translated.for_customer(&id)) };
        shown["warnings"] = json!(translated.warnings);
    }
    shown
}

#[test]
fn every_recorded_payload_is_understood_as_recorded() {
    for (kind, folder) in
        [(ShopKind::Shopify, "shopify"), (ShopKind::WooCommerce, "woocommerce"), (ShopKind::Generic, "generic")]
    {
        let shop = shop(kind);
        let path = format!("{}/tests/cases/{folder}", env!("CARGO_MANIFEST_DIR"));
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(path).expect("cases") {
            let path = entry.expect("a file").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
            let Some(case) = name.strip_suffix(".json").filter(|case| !case.ends_with(".headers")) else { continue };
            let headers =
                std::fs::read_to_string(path.with_file_name(format!("{case}.headers.json"))).expect("headers");
            let headers: BTreeMap<String, String> = serde_json::from_str(&headers).expect("headers");
            let headers: HeaderMap = headers
                .iter()
                .map(|(name, value)| {
                    (name.parse::<HeaderName>().expect("a name"), HeaderValue::from_str(value).expect("a value"))
                })
                .collect();
            let body = std::fs::read(&path).expect("a body");
            all.insert(case.to_owned(), understood(&shop, &headers, &body));
        }
        assert!(all.len() > 10);
        insta::assert_json_snapshot!(folder, all);
    }
}
