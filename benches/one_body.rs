//! What one webhook of Shopify costs, from its bytes to the body of the PUT: time and allocations, the whole and step by
//! step.
//!
//! The recorded `customers/update` of a customer that FlexPortal has acknowledged before. A body is read twice: once before
//! it is stored, and once more, under the policies of that day, when it is sent.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chrono::{DateTime, TimeDelta, Utc};
use divan::{AllocProfiler, Bencher};
use flexportal_sync::config::{CountryFormat, ShopKind, Source};
use flexportal_sync::domain::{Acknowledged, Acknowledgement, EventId, FlexportalCustomerId, OrderKey};
use flexportal_sync::shops::{Delivery, Received, Shop, Verified};
use flexportal_sync::sync::fold::{self, ReadEvent};
use flexportal_sync::sync::translate::{self, Translated, Wishes};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const BODY: &[u8] = include_bytes!("../tests/cases/shopify/update-full.json");
const HEADERS: &str = include_str!("../tests/cases/shopify/update-full.headers.json");
/// The one that the recorded payloads are signed with.
const SECRET: &str = "hush-shopify-client-secret-7f3a";
const PUT: &str = concat!(
    r#"{"customerId":"cus_1","firstName":"Ada","lastName":"Lovelace","company":"Lovelace Analytics GmbH","#,
    r#""phone":"+4930901820","#,
    r#""billingAddress":{"contactName":"Ada Lovelace","streetAddress":"Unter den Linden 5","city":"Berlin","#,
    r#""country":"Germany","company":"Lovelace Analytics GmbH","buildingInfo":"Hinterhaus, 2. OG","adminArea":"BE","#,
    r#""postalCode":"10117"},"#,
    r#""shippingAddress":{"contactName":"Ada Lovelace","streetAddress":"Unter den Linden 5","city":"Berlin","#,
    r#""country":"Germany","company":"Lovelace Analytics GmbH","buildingInfo":"Hinterhaus, 2. OG","adminArea":"BE","#,
    r#""postalCode":"10117"}}"#
);

const WISHES: Wishes = Wishes { country_format: CountryFormat::Name, send_email: false };

fn main() {
    let world = World::new();
    assert_eq!(world.whole(), PUT, "else something else is measured");
    divan::Divan::default().sample_size(200).config_with_args().main();
}

/// What is there before the webhook arrives.
struct World {
    shop: Shop,
    headers: HeaderMap,
    received_at: DateTime<Utc>,
    id: FlexportalCustomerId,
    acknowledged: Acknowledged,
}

impl World {
    fn new() -> Self {
        let source = Source { secrets: vec![SECRET.into()], ..Source::of_kind(ShopKind::Shopify) };
        let headers: BTreeMap<String, String> = serde_json::from_str(HEADERS).expect("headers");
        let headers = headers.iter().map(|(name, value)| {
            (name.parse::<HeaderName>().expect("a name"), HeaderValue::from_str(value).expect("a value"))
        });
        let mut world = Self {
            shop: Shop::new(source).expect("a shop"),
            headers: headers.collect(),
            received_at: "2026-11-23T10:00:00Z".parse().expect("a time"),
            id: FlexportalCustomerId::parse("cus_1").expect("an id"),
            acknowledged: Acknowledged::default(),
        };
        world.acknowledged = world.acknowledged_before();
        world
    }

    /// The same values, two days ago: they are sent again.
    fn acknowledged_before(&self) -> Acknowledged {
        let at = self.received_at - TimeDelta::days(2);
        let delivery = self.receive(&self.verify());
        let events = [self.read(&delivery)];
        let folded = fold::fold(&events, &Acknowledged::default());
        let wishes = Wishes { send_email: true, ..WISHES };
        let sent = translate::translate(&folded.fields, &Acknowledged::default(), wishes).sent;
        let acknowledged = |hash| Acknowledgement {
            key: OrderKey::at(at, EventId::first_at(at)),
            hash: Some(hash),
            acked: Some(at),
            deactivated: false,
            deleted: false,
        };
        Acknowledged(sent.into_iter().map(|(field, hash)| (field, acknowledged(hash))).collect())
    }

    fn verify(&self) -> Verified<'_> {
        self.shop.verify(&self.headers, BODY, self.received_at).expect("a good signature")
    }

    fn receive(&self, verified: &Verified<'_>) -> Box<Delivery> {
        match self.shop.receive(verified, usize::MAX).expect("a good body") {
            Received::Delivery(delivery) => delivery,
            Received::Ignored(why) => unreachable!("ignored: {}", why.reason),
        }
    }

    fn read<'a>(&self, delivery: &'a Delivery) -> ReadEvent<'a> {
        let event = self.shop.read(&delivery.topic, &delivery.payload).expect("a change");
        ReadEvent { key: OrderKey::at(event.occurred_at.unwrap_or(self.received_at), EventId(Uuid::max())), event }
    }

    fn write(&self, translated: &Translated<'_>) -> String {
        serde_json::to_string(&translated.for_customer(&self.id)).expect("JSON")
    }

    fn whole(&self) -> String {
        let delivery = self.receive(&self.verify());
        let events = [self.read(&delivery)];
        let folded = fold::fold(&events, &self.acknowledged);
        let translated = translate::translate(&folded.fields, &self.acknowledged, WISHES);
        self.write(&translated)
    }
}

#[divan::bench]
fn whole(bencher: Bencher<'_, '_>) {
    let world = World::new();
    bencher.bench_local(|| world.whole());
}

#[divan::bench]
fn verify(bencher: Bencher<'_, '_>) {
    let world = World::new();
    bencher.bench_local(|| world.verify());
}

#[divan::bench]
fn receive(bencher: Bencher<'_, '_>) {
    let world = World::new();
    let verified = world.verify();
    bencher.bench_local(|| world.receive(&verified));
}

#[divan::bench]
fn read(bencher: Bencher<'_, '_>) {
    let world = World::new();
    let delivery = world.receive(&world.verify());
    bencher.bench_local(|| world.read(&delivery));
}

#[divan::bench]
fn fold(bencher: Bencher<'_, '_>) {
    let world = World::new();
    let delivery = world.receive(&world.verify());
    let events = [world.read(&delivery)];
    bencher.bench_local(|| fold::fold(&events, &world.acknowledged));
}

#[divan::bench]
fn translate(bencher: Bencher<'_, '_>) {
    let world = World::new();
    let delivery = world.receive(&world.verify());
    let events = [world.read(&delivery)];
    let folded = fold::fold(&events, &world.acknowledged);
    bencher.bench_local(|| translate::translate(&folded.fields, &world.acknowledged, WISHES));
}

#[divan::bench]
fn write(bencher: Bencher<'_, '_>) {
    let world = World::new();
    let delivery = world.receive(&world.verify());
    let events = [world.read(&delivery)];
    let folded = fold::fold(&events, &world.acknowledged);
    let translated = translate::translate(&folded.fields, &world.acknowledged, WISHES);
    bencher.bench_local(|| world.write(&translated));
}
