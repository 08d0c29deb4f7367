//! `WooCommerce`: `plugins/woocommerce/includes/class-wc-webhook.php` and the REST API v3 customer.
//!
//! It never retries, so whatever can be stored is. Its delivery id is the webhook's number and the second,
//! hashed: two customers of one second share it, and the body's digest tells them apart.

use axum::http::HeaderMap;
use chrono::NaiveDateTime;

use super::json::{self, Object, Text};
use super::signature::Keys;
use super::{Content, Ignored, Rejection, headers};
use crate::config::{CustomerTypePolicy, Source};
use crate::domain::{Address, CustomerEvent, CustomerType, Field, FieldValue, FlexportalCustomerId, Said};
use crate::notices::NoticeKind;

pub(super) fn is_ping(headers: &HeaderMap, body: &[u8]) -> bool {
    let is_unsigned = !headers.contains_key("x-wc-webhook-signature");
    let is_form = headers::one(headers, "content-type")
        .is_some_and(|given| given.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded"));
    let number = body.strip_prefix(b"webhook_id=").unwrap_or_default();
    is_unsigned && is_form && (1..=20).contains(&number.len()) && number.iter().all(u8::is_ascii_digit)
}

pub(super) fn verify<'a>(keys: &Keys, headers: &'a HeaderMap, body: &[u8]) -> Result<Option<&'a str>, Rejection> {
    let signature = headers::one(headers, "x-wc-webhook-signature").ok_or(Rejection::Unauthorized)?;
    if !keys.accept(&[body], signature) {
        return Err(Rejection::Unauthorized);
    }
    Ok(headers::one(headers, "x-wc-webhook-delivery-id"))
}

pub(super) fn topic(headers: &HeaderMap) -> Result<String, Rejection> {
    headers::required(headers, "x-wc-webhook-topic").map(str::to_ascii_lowercase)
}

pub(super) fn content<'a>(source: &Source, topic: &str, body: &Object<'a>) -> Result<Content<'a>, Rejection> {
    if !matches!(topic, "customer.created" | "customer.updated" | "customer.deleted") {
        return Ok(Content::Ignored(Ignored::because("topic is not synced")));
    }
    if let Some(why) = instead_of_a_customer(body) {
        return Ok(Content::Ignored(why));
    }
    let body = &body.of_html();
    let mut event = CustomerEvent::of(body.customer_id("id")?);
    if event.customer.as_str() == "0" {
        return Err(Rejection::malformed("the customer's `id` is 0: a guest has no account to keep in step"));
    }
    let holds_a_customer = body.has("email") || body.has("billing");
    if holds_a_customer == (topic == "customer.deleted") {
        return Err(Rejection::malformed(format!("the body does not fit the topic `{topic}`")));
    }
    if topic == "customer.deleted" {
        super::say_deleted(source, &mut event);
        return Ok(Content::Change(event));
    }
    let warnings = &mut event.warnings;
    // `profile_update` fires for every WordPress user. A deletion names no role.
    if let Some(role) = body.text("role", warnings).value().filter(|role| !is_customer(source, role)) {
        let reason = format!("not a customer: the role `{}` (see `roles`)", shown_role(&role)).into();
        return Ok(Content::Ignored(Ignored { reason, notice: Some(NoticeKind::RoleIgnored) }));
    }
    // Not modified yet: it is as it was created. Our time of arrival could be later than a real change.
    let changed = body.text("date_modified_gmt", warnings).value().or(body.text("date_created_gmt", warnings).value());
    event.occurred_at = changed.and_then(|text| {
        NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S")
            .ok()
            .map(|utc| utc.and_utc())
            .or_else(|| super::rfc3339(&text))
    });
    if let Some(key) = &source.flexportal_id_field {
        event.flexportal_id = meta(body, key, warnings);
    }

    let billing = body.object("billing").flatten();
    let of_billing = |key: &str, warnings: &mut Vec<String>| {
        billing.as_ref().map_or(Text::Absent, |billing| billing.text(key, warnings))
    };
    for (field, key) in [(Field::FirstName, "first_name"), (Field::LastName, "last_name")] {
        let name = match body.text(key, warnings) {
            Text::Value(name) => Text::Value(name),
            own => match of_billing(key, warnings) {
                Text::Value(name) => Text::Value(name),
                _ => own,
            },
        };
        super::say_text(&mut event.says, field, name);
    }
    super::say_text(&mut event.says, Field::Email, body.text("email", warnings));
    super::say_text(&mut event.says, Field::Phone, of_billing("phone", warnings));
    let company = of_billing("company", warnings);
    if matches!(company, Text::Value(_)) && source.policies.customer_type == CustomerTypePolicy::FromCompany {
        event.says.insert(Field::CustomerType, Said::Value(FieldValue::CustomerType(CustomerType::Business)));
    }
    super::say_text(&mut event.says, Field::Company, company);
    for (field, key) in [(Field::BillingAddress, "billing"), (Field::ShippingAddress, "shipping")] {
        if let Some(given) = body.object(key) {
            let said = match given.and_then(|given| address(&given, warnings)) {
                Some(address) => Said::Value(FieldValue::Address(Box::new(address))),
                None => Said::Nothing,
            };
            event.says.insert(field, said);
        }
    }
    Ok(Content::Change(event))
}

/// Plug-ins and wholesale shops give buyers roles of their own: without a list all are customers but those who work there.
const STAFF: [&str; 5] = ["administrator", "editor", "author", "contributor", "shop_manager"];

fn is_customer(source: &Source, role: &str) -> bool {
    if source.roles.is_empty() { !STAFF.contains(&role) } else { source.roles.iter().any(|listed| listed == role) }
}

/// A role as it can stand in a line of text: `WordPress` makes them of lower-case letters, digits, `_` and `-`.
fn shown_role(role: &str) -> &str {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-:. ".contains(c);
    if role.len() <= 64 && role.chars().all(is_plain) { role } else { "…" }
}

/// The body is made when it is delivered: of a customer who is gone by then, or whom the webhook's owner may not see (any
/// more), it is an error of the REST API, `{"code": …, "message": …, "data": {"status": …}}`.
fn instead_of_a_customer(body: &Object<'_>) -> Option<Ignored> {
    if body.has("id") || !body.has("code") {
        return None;
    }
    let status = body.object("data").flatten()?.text("status", &mut Vec::new()).value()?;
    Some(match status.as_ref() {
        "404" | "410" => Ignored::because("the customer is gone"),
        "401" | "403" => Ignored {
            reason: "the webhook's owner may not read customers (any more): give the webhook to an administrator"
                .into(),
            notice: Some(NoticeKind::OwnerWithoutRights),
        },
        _ => Ignored::because("an error of the shop instead of a customer"),
    })
}

/// A body without `meta_data`, but for the entry that holds FlexPortal's id. It is read through once, and nothing of what is
/// left out is kept. `None` for JSON of another kind.
pub(super) fn smaller(source: &Source, body: &[u8], max: usize) -> Result<Option<String>, Rejection> {
    let body = std::str::from_utf8(body).map_err(|_| Rejection::malformed("the body is not UTF-8"))?;
    let body = body.trim_start_matches('\u{feff}');
    json::check(body)?;
    let Ok(object) = Object::parse(body) else { return Ok(None) };
    let key = source.flexportal_id_field.as_deref();
    let smaller = object.without("meta_data", |entry| key.is_some_and(|key| holds(entry, key)), max);
    smaller.map(Some).ok_or(Rejection::TooLarge { max })
}

fn holds(entry: &Object<'_>, key: &str) -> bool {
    entry.text("key", &mut Vec::new()) == Text::Value(key.into())
}

fn address<'a>(given: &Object<'a>, warnings: &mut Vec<String>) -> Option<Address<'a>> {
    let mut part = |key: &str| given.text(key, warnings).value();
    Address {
        contact_name: super::full_name(part("first_name"), part("last_name")),
        company: part("company"),
        street_address: part("address_1"),
        building_info: part("address_2"),
        locality: None,
        city: part("city"),
        admin_area: part("state"),
        postal_code: part("postcode"),
        country: part("country"),
    }
    .unless_blank()
}

/// A value of `meta_data`: a list of `{id, key, value}` where plug-ins keep what they like.
fn meta(body: &Object<'_>, key: &str, warnings: &mut Vec<String>) -> Option<FlexportalCustomerId> {
    let Some(entries) = body.list("meta_data") else {
        if body.has("meta_data") {
            warnings.push(format!("`meta_data` is not a list, and `{key}` was not looked for in it"));
        }
        return None;
    };
    let entry = entries.iter().rev().find(|entry| holds(entry, key))?;
    entry.flexportal_id("value", warnings)
}
