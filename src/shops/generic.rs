//! The generic source: signed as Standard Webhooks 1.0.0 says, with a body of our own (README, "Connect
//! anything else"). An event speaks for the fields it carries; an explicit null withdraws.

use std::borrow::Cow;

use axum::http::HeaderMap;
use chrono::{DateTime, Utc};

use super::json::{Object, Text};
use super::signature::{Keys, TIMESTAMP_TOLERANCE_SECONDS};
use super::{Content, Ignored, Rejection, headers};
use crate::config::Source;
use crate::domain::{Address, CustomerEvent, CustomerStatus, CustomerType, Field, FieldValue, Said};

/// Every signature costs a pass over the body, and nobody has shown yet that they may cause any.
const MAX_SIGNATURES: usize = 8;

pub(super) fn verify<'a>(
    keys: &Keys,
    headers: &'a HeaderMap,
    body: &[u8],
    now: DateTime<Utc>,
) -> Result<Option<&'a str>, Rejection> {
    // Svix sends the same scheme under its own name.
    let family = if headers.contains_key("webhook-signature") { "webhook" } else { "svix" };
    let header = |name: &str| headers::one(headers, &format!("{family}-{name}")).ok_or(Rejection::Unauthorized);
    let (id, timestamp, signatures) = (header("id")?, header("timestamp")?, header("signature")?);
    let sent_at: i64 = timestamp.parse().map_err(|_| Rejection::Unauthorized)?;
    let is_signed = signatures
        .split_ascii_whitespace()
        .filter_map(|signature| signature.strip_prefix("v1,"))
        .take(MAX_SIGNATURES)
        .any(|signature| keys.accept(&[id.as_bytes(), b".", timestamp.as_bytes(), b".", body], signature));
    let is_fresh = now.timestamp().abs_diff(sent_at) <= TIMESTAMP_TOLERANCE_SECONDS.unsigned_abs();
    if is_signed && is_fresh && !id.is_empty() { Ok(Some(id)) } else { Err(Rejection::Unauthorized) }
}

pub(super) fn topic(body: &Object<'_>) -> Result<String, Rejection> {
    body.text("type", &mut Vec::new()).value().map(Cow::into_owned).ok_or_else(|| {
        Rejection::malformed("`type` is missing: send customer.created, customer.updated or customer.deleted")
    })
}

pub(super) fn content<'a>(source: &Source, topic: &str, body: &Object<'a>) -> Result<Content<'a>, Rejection> {
    if !matches!(topic, "customer.created" | "customer.updated" | "customer.deleted") {
        return Ok(Content::Ignored(Ignored::because("type is not synced")));
    }
    let Some(Some(data)) = body.object("data") else {
        return Err(Rejection::malformed("`data` is missing or not an object"));
    };
    let mut event = CustomerEvent::of(data.customer_id("customerId")?);
    let warnings = &mut event.warnings;
    if let Text::Value(timestamp) = body.text("timestamp", warnings) {
        event.occurred_at = super::rfc3339(&timestamp);
        if event.occurred_at.is_none() {
            warnings.push("`timestamp` is not RFC 3339: the time of arrival counts".to_owned());
        }
    }
    event.flexportal_id = data.flexportal_id("flexportalCustomerId", warnings);
    if let (None, Some(key)) = (&event.flexportal_id, &source.flexportal_id_field) {
        event.flexportal_id = data.flexportal_id(key, warnings);
    }
    let texts = [
        (Field::Email, "email"),
        (Field::FirstName, "firstName"),
        (Field::LastName, "lastName"),
        (Field::Company, "company"),
        (Field::Phone, "phone"),
    ];
    for (field, key) in texts {
        super::say_text(&mut event.says, field, data.text(key, warnings));
    }
    let choices = [(Field::CustomerType, "customerType"), (Field::Status, "status")];
    for (field, key) in choices {
        let value = match data.text(key, warnings) {
            Text::Absent => continue,
            Text::Empty => None,
            Text::Value(word) => choice(&word).filter(|(of, _)| *of == field).map(|(_, value)| value).or_else(|| {
                warnings.push(format!("`{key}` has a value that FlexPortal does not know and was left out"));
                None
            }),
        };
        event.says.insert(field, value.map_or(Said::Nothing, Said::Value));
    }
    for (field, key) in [(Field::BillingAddress, "billingAddress"), (Field::ShippingAddress, "shippingAddress")] {
        let said = match data.object(key) {
            Some(given) => match given.and_then(|given| address(&given, warnings)) {
                Some(address) => Said::Value(FieldValue::Address(Box::new(address))),
                None => Said::Nothing,
            },
            None if data.has(key) => {
                warnings.push(format!("`{key}` is not an object and was left out"));
                continue;
            }
            None => continue,
        };
        event.says.insert(field, said);
    }
    if topic == "customer.deleted" {
        super::say_deleted(source, &mut event);
    }
    Ok(Content::Change(event))
}

fn choice(word: &str) -> Option<(Field, FieldValue<'static>)> {
    Some(match word {
        "individual" => (Field::CustomerType, FieldValue::CustomerType(CustomerType::Individual)),
        "business" => (Field::CustomerType, FieldValue::CustomerType(CustomerType::Business)),
        "active" => (Field::Status, FieldValue::Status(CustomerStatus::Active)),
        "inactive" => (Field::Status, FieldValue::Status(CustomerStatus::Inactive)),
        _ => return None,
    })
}

fn address<'a>(given: &Object<'a>, warnings: &mut Vec<String>) -> Option<Address<'a>> {
    let mut part = |key: &str| given.text(key, warnings).value();
    Address {
        contact_name: part("contactName"),
        company: part("company"),
        street_address: part("streetAddress"),
        building_info: part("buildingInfo"),
        locality: part("locality"),
        city: part("city"),
        admin_area: part("adminArea"),
        postal_code: part("postalCode"),
        country: part("country"),
    }
    .unless_blank()
}
