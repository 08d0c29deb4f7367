//! Shopify: `shopify.dev/docs/api/webhooks`, `…/apps/build/webhooks/delivery-structure`.
//!
//! Only the body is signed: topic and ids are not, so a body has to fit its topic. A whole customer speaks for
//! every field it holds, also the empty ones; a field that the subscription's `include_fields` cut away is not
//! spoken for.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::http::HeaderMap;
use chrono::{DateTime, Utc};

use super::json::{Object, Text};
use super::signature::Keys;
use super::{Content, Ignored, Rejection, headers};
use crate::config::{CustomerTypePolicy, SingleAddress, Source, StatusPolicy};
use crate::domain::{
    Address, CustomerEvent, CustomerStatus, CustomerType, Field, FieldValue, Said, ShopCustomerId, ShopName,
};

pub(super) fn verify<'a>(keys: &Keys, headers: &'a HeaderMap, body: &[u8]) -> Result<Option<&'a str>, Rejection> {
    let signature = headers::one(headers, "x-shopify-hmac-sha256").ok_or(Rejection::Unauthorized)?;
    if !keys.accept(&[body], signature) {
        return Err(Rejection::Unauthorized);
    }
    // The webhook id, not the event id: one action's event id is shared by deliveries of several topics.
    Ok(headers::one(headers, "x-shopify-webhook-id"))
}

pub(super) fn topic(headers: &HeaderMap) -> Result<String, Rejection> {
    headers::required(headers, "x-shopify-topic").map(str::to_ascii_lowercase)
}

pub(super) fn triggered_at(headers: &HeaderMap) -> Option<DateTime<Utc>> {
    headers::one(headers, "x-shopify-triggered-at").and_then(super::rfc3339)
}

pub(super) fn content<'a>(source: &Source, topic: &str, body: &Object<'a>) -> Result<Content<'a>, Rejection> {
    let status = match topic {
        "customers/create" | "customers/update" => None,
        "customers/enable" => Some(CustomerStatus::Reinstated),
        "customers/disable" => Some(CustomerStatus::Inactive),
        "customers/delete" => return deleted(source, body),
        "customers/merge" => return merged(body),
        "customers/data_request" | "customers/redact" | "shop/redact" => return privacy(topic, body),
        _ => return Ok(Content::Ignored(Ignored::because("topic is not synced"))),
    };
    let mut event = CustomerEvent::of(body.customer_id("id")?);
    check_whole_customer(topic, body, &mut event.warnings)?;
    event.is_creation = topic == "customers/create";
    event.occurred_at = body.text("updated_at", &mut event.warnings).value().as_deref().and_then(super::rfc3339);
    if let Some(key) = &source.flexportal_id_field {
        event.flexportal_id = body.flexportal_id(key, &mut event.warnings);
        let is_empty = |list: Vec<Object<'_>>| list.is_empty();
        let has_metafields = !matches!(body.object("metafields"), Some(None))
            && body.has("metafields")
            && !body.list("metafields").is_some_and(is_empty);
        if !body.has(key) && has_metafields {
            event.warnings.push(format!("`{key}` is not at the top of the body, and `metafields` are not read"));
        }
    }
    speak(source, body, &mut event.says, &mut event.warnings);
    if let Some(status) = status
        && source.policies.on_disable == StatusPolicy::Inactive
    {
        event.says.insert(Field::Status, Said::Value(FieldValue::Status(status)));
    }
    Ok(Content::Change(event))
}

fn speak<'a>(source: &Source, body: &Object<'a>, says: &mut BTreeMap<Field, Said<'a>>, warnings: &mut Vec<String>) {
    let mut say = |field, text| super::say_text(says, field, text);
    say(Field::FirstName, body.text("first_name", warnings));
    say(Field::LastName, body.text("last_name", warnings));
    say(Field::Email, body.text("email", warnings));

    // A customer without addresses has an empty list and no default; a subscription that cut the default away
    // says nothing of it.
    let default_address = match (body.object("default_address"), body.list("addresses")) {
        (Some(Some(address)), _) => Some(Some(address)),
        (given, None) => given,
        (_, Some(addresses)) if addresses.is_empty() => Some(None),
        (_, Some(addresses)) => the_one_of(addresses, warnings).map(Some),
    };
    let of_address = |key: &str, warnings: &mut Vec<String>| match &default_address {
        None => Text::Absent,
        Some(None) => Text::Empty,
        Some(Some(address)) => address.text(key, warnings),
    };
    let phone = match (body.text("phone", warnings), of_address("phone", warnings)) {
        (Text::Value(phone), _) | (_, Text::Value(phone)) => Text::Value(phone),
        (Text::Absent, Text::Absent) => Text::Absent,
        _ => Text::Empty,
    };
    say(Field::Phone, phone);
    let company = of_address("company", warnings);
    if matches!(company, Text::Value(_)) && source.policies.customer_type == CustomerTypePolicy::FromCompany {
        says.insert(Field::CustomerType, Said::Value(FieldValue::CustomerType(CustomerType::Business)));
    }
    super::say_text(says, Field::Company, company);

    if let Some(given) = default_address {
        let said = match given.and_then(|given| address(&given, warnings)) {
            Some(address) => Said::Value(FieldValue::Address(Box::new(address))),
            None => Said::Nothing,
        };
        let fields: &[Field] = match source.policies.single_address {
            SingleAddress::Both => &[Field::BillingAddress, Field::ShippingAddress],
            SingleAddress::Billing => &[Field::BillingAddress],
            SingleAddress::Shipping => &[Field::ShippingAddress],
        };
        says.extend(fields.iter().map(|field| (*field, said.clone())));
    }
}

/// The address that is flagged as the default, or the only one.
fn the_one_of<'a>(addresses: Vec<Object<'a>>, warnings: &mut Vec<String>) -> Option<Object<'a>> {
    let is_only = addresses.len() == 1;
    let mut candidates = addresses.into_iter().filter(|address| is_only || address.is_true("default"));
    let found = candidates.next();
    if found.is_none() || candidates.next().is_some() {
        warnings.push("which of several `addresses` is the default is not said: none was taken".to_owned());
        return None;
    }
    found
}

fn address<'a>(given: &Object<'a>, warnings: &mut Vec<String>) -> Option<Address<'a>> {
    let mut part = |key: &str| given.text(key, warnings).value();
    Address {
        contact_name: part("name").or_else(|| super::full_name(part("first_name"), part("last_name"))),
        company: part("company"),
        street_address: part("address1"),
        building_info: part("address2"),
        locality: None,
        city: part("city"),
        admin_area: part("province_code").or_else(|| part("province")),
        postal_code: part("zip"),
        country: part("country_code").or_else(|| part("country")),
    }
    .unless_blank()
}

/// The topic is not signed: somebody who holds a signed body could present it under another one.
fn check_whole_customer(topic: &str, body: &Object<'_>, warnings: &mut Vec<String>) -> Result<(), Rejection> {
    const SAYS_SOMETHING: [&str; 7] =
        ["first_name", "last_name", "email", "phone", "default_address", "addresses", "updated_at"];
    if !SAYS_SOMETHING.iter().any(|key| body.has(key)) {
        return Err(does_not_fit(topic));
    }
    // `state` says little: Shopify's own samples are `disabled` under every topic, and so is every guest. Only an
    // account that is in use cannot have been disabled.
    let state = body.text("state", warnings).value();
    if topic == "customers/disable" && state.is_some_and(|state| state.eq_ignore_ascii_case("enabled")) {
        return Err(does_not_fit(topic));
    }
    Ok(())
}

/// `customers/delete` holds an id and nothing of the customer.
fn deleted<'a>(source: &Source, body: &Object<'a>) -> Result<Content<'a>, Rejection> {
    let mut event = CustomerEvent::of(body.customer_id("id")?);
    if ["first_name", "last_name", "email", "updated_at", "default_address"].iter().any(|key| body.has(key)) {
        return Err(does_not_fit("customers/delete"));
    }
    super::say_deleted(source, &mut event);
    Ok(Content::Change(event))
}

/// `customers/merge` tells two ids in Shopify's global form, and nothing else of either customer. It is a change of the one
/// that is gone.
fn merged<'a>(body: &Object<'a>) -> Result<Content<'a>, Rejection> {
    let id = |key: &str| {
        let given = body.text(key, &mut Vec::new()).value().unwrap_or_default();
        let number = given.strip_prefix("gid://shopify/Customer/").unwrap_or_default();
        let number = if number.bytes().all(|byte| byte.is_ascii_digit()) { number } else { "" };
        ShopCustomerId::parse(number).map_err(|_| Rejection::malformed(format!("`{key}` is no customer of Shopify's")))
    };
    let status = body.text("status", &mut Vec::new()).value();
    if status.is_some_and(|status| !status.eq_ignore_ascii_case("completed")) {
        return Ok(Content::Ignored(Ignored::because("the merge is not completed")));
    }
    let kept = id("admin_graphql_api_customer_kept_id")?;
    let mut event = CustomerEvent::of(id("admin_graphql_api_customer_deleted_id")?);
    if kept == event.customer {
        return Err(does_not_fit("customers/merge"));
    }
    event.merged_into = Some(kept);
    Ok(Content::Change(event))
}

/// `shopify.dev/docs/apps/build/compliance/privacy-law-compliance`.
fn privacy<'a>(topic: &str, body: &Object<'a>) -> Result<Content<'a>, Rejection> {
    if !body.has("shop_domain") && !body.has("shop_id") {
        return Err(does_not_fit(topic));
    }
    // The topic is not signed, and one request must not pass for another that erases more.
    let asks_for_data = body.has("data_request") || body.has("orders_requested");
    let asks_for_erasure = body.has("orders_to_redact");
    if asks_for_data && topic != "customers/data_request" || asks_for_erasure && topic != "customers/redact" {
        return Err(does_not_fit(topic));
    }
    let customer = body.object("customer").flatten();
    if (topic == "shop/redact") != customer.is_none() {
        return Err(does_not_fit(topic));
    }
    let shop = body.text("shop_domain", &mut Vec::new()).value().and_then(|name| ShopName::of(&name));
    let Some(customer) = customer else { return Ok(Content::Privacy { customer: None, email: None, shop }) };
    // The customer may lack an id and have an e-mail only.
    let email = customer.text("email", &mut Vec::new()).value().map(Cow::into_owned);
    Ok(Content::Privacy { customer: customer.customer_id("id").ok(), email, shop })
}

fn does_not_fit(topic: &str) -> Rejection {
    Rejection::malformed(format!("the body does not fit the topic `{topic}`"))
}
