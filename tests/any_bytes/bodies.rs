//! Bodies of every shop, rightly signed, from the signature to the PUT: the recorded payloads with values
//! exchanged, repeated, nested and left out, and slips in the bytes of that.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderName};
use chrono::{DateTime, TimeDelta, Utc};
use flexportal_sync::config::{
    CountryFormat, CustomerTypePolicy, Policies, ShopKind, SingleAddress, Source, StatusPolicy,
};
use flexportal_sync::domain::order::time_of_change;
use flexportal_sync::domain::{Acknowledged, CustomerEvent, EventId, FlexportalCustomerId, OrderKey};
use flexportal_sync::shops::{Concerns, Delivery, Received, Rejection, Shop, json, sign};
use flexportal_sync::sync::fold::{ReadEvent, fold};
use flexportal_sync::sync::translate::{Wishes, translate};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{cases, edits};

const SECRET: &str = "a webhook secret";

/// A payload as recorded in `tests/cases`.
#[derive(Debug, Clone)]
struct Recorded {
    kind: ShopKind,
    topic: String,
    body: String,
}

static RECORDED: LazyLock<Vec<Recorded>> = LazyLock::new(|| ShopKind::ALL.into_iter().flat_map(recorded).collect());

fn recorded(kind: ShopKind) -> Vec<Recorded> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(kind.as_str());
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).expect("cases") {
        let path = entry.expect("a file").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let Some(case) = name.strip_suffix(".json").filter(|case| !case.ends_with(".headers")) else { continue };
        let headers = std::fs::read(path.with_file_name(format!("{case}.headers.json"))).expect("headers");
        let headers: Map<String, Value> = serde_json::from_slice(&headers).expect("headers");
        let topic = headers.iter().find(|(name, _)| name.to_ascii_lowercase().ends_with("-topic"));
        let topic = topic.and_then(|(_, topic)| topic.as_str()).unwrap_or_default().to_owned();
        found.push(Recorded { kind, topic, body: std::fs::read_to_string(&path).expect("a body") });
    }
    found.sort_by(|a, b| a.body.cmp(&b.body));
    found
}

/// Values that some reader may stumble over.
const ODD: [&str; 48] = [
    "null",
    "true",
    "false",
    "{}",
    "[]",
    "[{}]",
    "[null]",
    "\"\"",
    "\" \"",
    "\"\\u00a0\\u2003\"",
    "0",
    "-0",
    "1.5",
    "-1e400",
    "1E-400",
    "1e40",
    "1e41",
    "1e99999999999999999999",
    "9007199254740993",
    "\"0\"",
    "\".\"",
    "\"..\"",
    "\"a/b?c#d%00\"",
    "\"\\u0000\"",
    "\"a\\u0000b\"",
    "\"\\ud800\"",
    "\"\\udc00\\ud800\"",
    "\"\\ud83d\\ude80\"",
    "\"\\ud83d\\u0000\"",
    "\"\\\\u0000\"",
    "\"\\uFFFE\\uffff\"",
    "\"\\u202e\\u200b\"",
    "\"DE\"",
    "\"\\ud83c\\udde9\\ud83c\\uddea\"",
    "\"Deutschland, \u{e9}\u{df}\"",
    "\"active\"",
    "\"disabled\"",
    "\"customer\"",
    "\"business\"",
    "\"customer.deleted\"",
    "\"2026-11-23T10:00:00Z\"",
    "\"2026-11-23T10:00:00\"",
    "\"9999-12-31T23:59:60Z\"",
    "\"0000-01-01T00:00:00+23:59\"",
    "\"-9999-01-01T00:00:00\"",
    "\"-262143-01-01T00:00:00\"",
    "\"+262142-12-31T23:59:59\"",
    "{\"id\":1,\"email\":\"a@b.c\"}",
];

/// Any kind of JSON, as text.
fn any_json() -> impl Strategy<Value = String> {
    let quoted = |text: String| Value::String(text).to_string();
    prop_oneof![
        8 => select(ODD.to_vec()).prop_map(str::to_owned),
        2 => "(?s).{0,12}".prop_map(quoted),
        2 => "\"([a-z ]|\\\\u[0-9a-fA-F]{4}|\\\\u[dD][89a-fA-F][0-9a-f]{2}|\\\\[\"\\\\/bfnrt]){0,8}\"",
        2 => "-?[1-9][0-9]{0,20}(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?",
        1 => "[1-9][0-9]{290,310}",
        1 => (select(vec!["x", "\u{e9}", " ", "\u{1f1e9}"]), 200_usize..5_000)
            .prop_map(move |(unit, times)| quoted(unit.repeat(times))),
    ]
}

/// What is done to a body; `Index` says to which of its values.
#[derive(Debug, Clone)]
enum Damage {
    Exchange(Index, String),
    /// Its key once more, with another value.
    Repeat(Index, String),
    Remove(Index),
    Nest(Index, usize),
}

fn any_damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        6 => (any::<Index>(), any_json()).prop_map(|(at, value)| Damage::Exchange(at, value)),
        2 => (any::<Index>(), any_json()).prop_map(|(at, value)| Damage::Repeat(at, value)),
        2 => any::<Index>().prop_map(Damage::Remove),
        1 => (any::<Index>(), 1_usize..140).prop_map(|(at, depth)| Damage::Nest(at, depth)),
    ]
}

/// Addresses of all values in it (RFC 6901).
fn addresses(value: &Value, here: &str, found: &mut Vec<String>) {
    found.push(here.to_owned());
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                addresses(value, &format!("{here}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(list) => {
            for (number, value) in list.iter().enumerate() {
                addresses(value, &format!("{here}/{number}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The body with the damage done. What `serde_json` cannot hold, odd values and repeated keys, goes in as text.
fn damaged(body: &str, damages: &[Damage]) -> String {
    let mut tree: Value = serde_json::from_str(body).expect("recorded bodies are JSON");
    let mut texts = vec![];
    for (number, damage) in damages.iter().enumerate() {
        let (Damage::Exchange(at, _) | Damage::Repeat(at, _) | Damage::Remove(at) | Damage::Nest(at, _)) = damage;
        let mut all = vec![];
        addresses(&tree, "", &mut all);
        let address = at.get(&all);
        let (parent, key) = address.rsplit_once('/').unwrap_or_default();
        let key = key.replace("~1", "/").replace("~0", "~");
        let hole = Value::String(format!("hole {number}."));
        match damage {
            Damage::Exchange(_, text) => {
                texts.push((hole.to_string(), text.clone()));
                *tree.pointer_mut(address).expect("an address of it") = hole;
            }
            Damage::Repeat(_, text) => {
                if let Some(Value::Object(object)) = tree.pointer_mut(parent) {
                    let again = format!("again {number}.");
                    texts.push((Value::String(again.clone()).to_string(), Value::String(key).to_string()));
                    texts.push((hole.to_string(), text.clone()));
                    object.insert(again, hole);
                }
            }
            Damage::Remove(_) => {
                if let Some(Value::Object(object)) = tree.pointer_mut(parent) {
                    object.remove(&key);
                }
            }
            Damage::Nest(_, depth) => {
                let value = tree.pointer_mut(address).expect("an address of it");
                let nested = format!("{}{value}{}", "[".repeat(*depth), "]".repeat(*depth));
                texts.push((hole.to_string(), nested));
                *value = hole;
            }
        }
    }
    // The last holes first: they may lie in the values of earlier ones.
    texts.iter().rev().fold(tree.to_string(), |body, (hole, text)| body.replace(hole.as_str(), text))
}

/// A delivery that its shop signs.
#[derive(Debug, Clone)]
struct Sent {
    source: Source,
    topic: String,
    body: Vec<u8>,
    /// The recorded body that it was made of.
    original: Recorded,
}

fn any_source(kind: ShopKind) -> impl Strategy<Value = Source> {
    let plain = Source { secrets: vec![SECRET.into()], ..Source::of_kind(kind) };
    let other = Source {
        flexportal_id_field: Some("note".to_owned()),
        policies: Policies {
            customer_type: CustomerTypePolicy::FromCompany,
            on_delete: StatusPolicy::Ignore,
            on_disable: StatusPolicy::Inactive,
            single_address: SingleAddress::Billing,
        },
        ..plain.clone()
    };
    select(vec![plain, other])
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let slips = prop_oneof![3 => Just(vec![]), 1 => edits::of_bytes(3)];
    (select(RECORDED.clone()), vec(any_damage(), 0..5), slips).prop_flat_map(|(original, damages, slips)| {
        let body = edits::bytes_with(damaged(&original.body, &damages).as_bytes(), &slips);
        let topics = RECORDED.iter().filter(|recorded| recorded.kind == original.kind);
        let topics: Vec<_> = topics.map(|recorded| recorded.topic.clone()).collect();
        let topic = prop_oneof![6 => Just(original.topic.clone()), 1 => select(topics), 1 => "[!-~]{0,20}"];
        (any_source(original.kind), topic).prop_map(move |(source, topic)| Sent {
            source,
            topic,
            body: body.clone(),
            original: original.clone(),
        })
    })
}

fn now() -> DateTime<Utc> {
    "2026-11-23T10:00:00Z".parse().expect("a time")
}

/// From the signature to what is stored.
fn received(shop: &Shop, topic: &str, body: &[u8]) -> Result<Received, Rejection> {
    let kind = shop.source().kind;
    let headers: HeaderMap = sign::sign(kind, &SECRET.into(), topic, "delivery-1", body, now())
        .expect("a usable secret")
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a header value")))
        .collect();
    shop.receive(&shop.verify(&headers, body, now()).expect("rightly signed"), usize::MAX)
}

/// Whether Postgres takes it as `jsonb`: no NUL, no lone surrogates, no numbers beyond `numeric`.
fn is_storable(text: &str) -> bool {
    let (mut rest, mut in_string) = (text, false);
    while let Some(at) = rest.find(['"', '\\', '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) {
        let (mark, after) = rest[at..].split_at(1);
        rest = match mark {
            "\"" => {
                in_string = !in_string;
                after
            }
            "\\" => match code_unit(&rest[at..]) {
                None => &after[1..],
                Some(0 | 0xdc00..0xe000) => return false,
                Some(0xd800..0xdc00) if !matches!(code_unit(&after[5..]), Some(0xdc00..0xe000)) => return false,
                Some(0xd800..0xdc00) => &after[11..],
                Some(_) => &after[5..],
            },
            _ if in_string => after,
            _ => {
                let number = rest[at..].split([',', ']', '}', ' ', '\t', '\r', '\n']).next().unwrap_or_default();
                let exponent = number.split(['e', 'E']).nth(1).unwrap_or("0").parse::<i64>();
                if number.len() > 300 || !exponent.is_ok_and(|exponent| exponent.abs() <= 40) {
                    return false;
                }
                &rest[at + number.len()..]
            }
        };
    }
    serde_json::from_str::<&RawValue>(text).is_ok()
}

fn code_unit(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

/// The documented body of `PUT /v1/customers/{customerId}`, closed.
///
/// <https://docs.flexportal.io/api-reference/customers>
fn assert_documented(put: &Value, may_hold_email: bool) {
    let put = put.as_object().expect("an object");
    assert!(is_text(&put["customerId"]));
    for (key, value) in put {
        let is_documented = match key.as_str() {
            "customerId" | "firstName" | "lastName" | "company" | "phone" => is_text(value),
            "email" => may_hold_email && is_text(value),
            "customerType" => value == "individual" || value == "business",
            "status" => value == "active" || value == "inactive",
            "billingAddress" | "shippingAddress" => is_address(value),
            _ => false,
        };
        assert!(is_documented, "{key}: {value}");
    }
}

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty() && text.trim() == text)
}

fn is_address(value: &Value) -> bool {
    const REQUIRED: [&str; 4] = ["contactName", "streetAddress", "city", "country"];
    const OPTIONAL: [&str; 5] = ["company", "buildingInfo", "locality", "adminArea", "postalCode"];
    value.as_object().is_some_and(|address| {
        let is_known = |key: &String| REQUIRED.contains(&key.as_str()) || OPTIONAL.contains(&key.as_str());
        REQUIRED.iter().all(|key| address.contains_key(*key))
            && address.iter().all(|(key, value)| is_known(key) && is_text(value))
    })
}

/// Every PUT that the events can cause.
fn assert_puts_are_documented(events: &[ReadEvent<'_>]) {
    let folded = fold(events, &Acknowledged::default());
    let carried = events.iter().find_map(|event| event.event.flexportal_id.clone());
    let id = carried.unwrap_or_else(|| FlexportalCustomerId::parse("cus_1").expect("an id"));
    for country_format in [CountryFormat::Name, CountryFormat::Iso] {
        for send_email in [false, true] {
            let wishes = Wishes { country_format, send_email };
            let translated = translate(&folded.fields, &Acknowledged::default(), wishes);
            let text = serde_json::to_string(&translated.for_customer(&id)).expect("JSON");
            assert!(is_storable(&text), "attempts are recorded: {text}");
            let put: Value = serde_json::from_str(&text).expect("JSON");
            assert_documented(&put, send_email);
            let fields: BTreeSet<_> = translated.sent.keys().map(|field| field.name()).collect();
            assert_eq!(
                fields,
                put.as_object()
                    .expect("an object")
                    .keys()
                    .map(String::as_str)
                    .filter(|key| *key != "customerId")
                    .collect()
            );
        }
    }
}

fn assert_stored_as_it_can_be_read<'a>(shop: &Shop, delivery: &'a Delivery) -> Option<CustomerEvent<'a>> {
    assert!(is_storable(&delivery.payload), "{}", delivery.payload);
    let again = json::mend(delivery.payload.as_bytes()).expect("JSON");
    assert_eq!((again.text.as_str(), again.warnings.as_slice()), (delivery.payload.as_str(), [].as_slice()));
    let texts = [Some(&delivery.topic), delivery.email.as_ref()];
    assert!(texts.into_iter().flatten().chain(&delivery.warnings).all(|text| !text.contains('\0')));
    // Whatever the shop tells, what is stored of it lies in Postgres' calendar.
    let (at, _) = time_of_change(delivery.occurred_at, now(), None);
    assert!((DateTime::UNIX_EPOCH..=now() + TimeDelta::minutes(5)).contains(&at), "{at}");
    assert!(delivery.triggered_at.is_none_or(|at| at >= DateTime::UNIX_EPOCH), "{:?}", delivery.triggered_at);

    let read = shop.read(&delivery.topic, &delivery.payload);
    if delivery.concerns == Concerns::Privacy {
        assert!(read.is_err());
        return None;
    }
    let event = read.expect("what was received can be read");
    assert_eq!(Some(&event.customer), delivery.customer.as_ref());
    assert_eq!(event.email(), delivery.email.as_deref());
    Some(event)
}

proptest! {
    #![proptest_config(cases(5_000))]

    #[test]
    fn whatever_a_shop_sends_is_refused_or_stored_and_sent_on_as_documented(sent in any_sent()) {
        let shop = Shop::new(sent.source).expect("a usable secret");
        let body = sent.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&sent.body);
        let is_json = std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<&RawValue>(text).is_ok());
        let received_now = received(&shop, &sent.topic, &sent.body);
        prop_assert!(matches!((&received_now, is_json), (Ok(_), true) | (Err(Rejection::Malformed(_)), _)));
        let Ok(Received::Delivery(delivery)) = received_now else { return Ok(()) };
        let Some(event) = assert_stored_as_it_can_be_read(&shop, &delivery) else { return Ok(()) };
        let id = |number| EventId(Uuid::from_u128(number));
        let mut events = vec![ReadEvent { key: OrderKey::at(now(), id(1)), event }];
        assert_puts_are_documented(&events);
        // Beside the change that it was made of, newer and older.
        if let Ok(Received::Delivery(original)) = received(&shop, &sent.original.topic, sent.original.body.as_bytes())
            && let Ok(event) = shop.read(&original.topic, &original.payload)
        {
            events.push(ReadEvent { key: OrderKey::at(now(), id(2)), event });
            assert_puts_are_documented(&events);
            events[1].key.event = id(0);
            assert_puts_are_documented(&events);
        }
    }
}

#[test]
fn recorded_bodies_get_through() {
    let shops = ShopKind::ALL.map(|kind| Shop::new(Source { secrets: vec![SECRET.into()], ..Source::of_kind(kind) }));
    let shops: Vec<_> = shops.into_iter().map(|shop| shop.expect("a usable secret")).collect();
    let taken = RECORDED.iter().filter(|recorded| {
        let shop = shops.iter().find(|shop| shop.source().kind == recorded.kind).expect("there");
        matches!(received(shop, &recorded.topic, recorded.body.as_bytes()), Ok(Received::Delivery(_)))
    });
    assert!(taken.count() > 40, "else the damage is done to what nobody takes");
}
