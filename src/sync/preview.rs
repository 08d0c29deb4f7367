//! What would be sent, were a change synced now: the steps of a sync up to the first request, which is not made.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::fold;
use super::translate::{self, Wishes};
use super::{acknowledged_by, is_acknowledged, known_id, missing_to_try, read_all};
use crate::config::Identity;
use crate::domain::{EventId, FlexportalCustomerId, ShopCustomerId};
use crate::outbox::{Known, LinkOrigin, WaitingEvent};
use crate::shops::Shop;

/// What would be sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    /// FlexPortal's customer, if it is known without asking.
    pub flexportal_customer_id: Option<String>,
    /// How it is known.
    pub found_by: FoundBy,
    /// The request; null if none would be made.
    pub request: Option<PreviewedRequest>,
    /// What would happen, in plain words.
    pub outcome: String,
    /// What could not be sent.
    pub warnings: Vec<String>,
    /// Fields of the request that differ from what was last sent.
    pub differences: Vec<Difference>,
    /// When that was; null if nothing was sent yet, or it has been removed.
    pub last_sent_at: Option<DateTime<Utc>>,
}

/// How a FlexPortal customer is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    /// The event carries its id, or the shop's id is FlexPortal's.
    Event,
    /// The link says so.
    Link,
    /// It would be looked up by its e-mail first.
    LookupNeeded,
    /// There is nothing to find it by.
    Unknown,
}

/// A request that would be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PreviewedRequest {
    /// `PUT`.
    pub method: String,
    /// Under FlexPortal's base address.
    pub path: String,
    /// Its body.
    #[schema(value_type = Object)]
    pub body: Value,
}

/// A field that would change, as far as this service knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// FlexPortal's name of the field.
    pub field: String,
    /// What was last sent; null if it was not.
    #[schema(value_type = Option<Object>)]
    pub before: Option<Value>,
    /// What would be sent.
    #[schema(value_type = Option<Object>)]
    pub after: Option<Value>,
}

/// Stands in the path of a customer that would be looked up first.
const TO_BE_FOUND: &str = "{customerId}";

/// What a change is previewed against.
#[derive(Debug, Clone, Copy)]
pub struct Background<'a> {
    /// The customer as it is known.
    pub known: &'a Known,
    /// The last body that FlexPortal acknowledged, and when it was sent.
    pub last_sent: Option<&'a (DateTime<Utc>, Value)>,
    /// What the tenant wants to have.
    pub wishes: Wishes,
}

/// Previews the sync of one change of a customer, together with what waits for it.
#[must_use]
pub fn preview(shop: &Shop, customer: &ShopCustomerId, change: &WaitingEvent, background: Background<'_>) -> Preview {
    let Background { known, last_sent, wishes } = background;
    let mut events = known.waiting.clone();
    if events.iter().all(|event| event.id != change.id) {
        events.push(change.clone());
    }
    let (read, unreadable) = read_all(&events, |event| shop.read(&event.topic, &event.payload));
    let who = known_id(shop, customer, &read, known.link.as_ref(), missing_to_try(known));
    let acknowledged = acknowledged_by(who.as_ref(), known.link.as_ref(), false);
    let folded = fold::fold(&read, &acknowledged);
    let translated = translate::translate(&folded.fields, &acknowledged, wishes);
    let found_by = match &who {
        Some(who) if who.origin == Some(LinkOrigin::Event) => FoundBy::Event,
        Some(_) => FoundBy::Link,
        None if shop.source().identity == Identity::Email && fold::newest_email(&read).is_some() => {
            FoundBy::LookupNeeded
        }
        None => FoundBy::Unknown,
    };
    let why_not = if let Some(unreadable) = unreadable.iter().find(|unreadable| unreadable.is_of(change.id)) {
        Some(format!("the change cannot be read: {}", unreadable.reason()))
    } else if let Some((_, newer)) = folded.superseded.iter().find(|(event, _)| *event == change.id) {
        Some(format!("something newer was said of all its fields, by event {newer}"))
    } else if folded.silent.contains(&change.id) || translated.sent.is_empty() {
        Some("it says nothing that FlexPortal is sent".to_owned())
    } else if found_by == FoundBy::Unknown {
        Some("there is no link and no e-mail to find the customer by, so that it waits as unmatched".to_owned())
    } else if who.is_some() && is_acknowledged(&translated, &acknowledged, known.moment.now()) {
        Some("FlexPortal acknowledged the same values within a day".to_owned())
    } else {
        None
    };
    let id = who.map(|who| who.id);
    let said = read.iter().filter(|read| read.id() == change.id).flat_map(|read| read.event.warnings.clone());
    let goes_out = folded.head == Some(change.id) || folded.contributors.contains(&change.id);
    let of_request = translated.warnings.iter().filter(|_| goes_out).cloned();
    let mut preview = Preview {
        flexportal_customer_id: id.as_ref().map(|id| id.as_str().to_owned()),
        found_by,
        request: None,
        outcome: String::new(),
        warnings: said.chain(of_request).collect(),
        differences: vec![],
        last_sent_at: last_sent.map(|(at, _)| *at),
    };
    let to_be_found = FlexportalCustomerId::parse(TO_BE_FOUND).ok();
    match (why_not, id.or(to_be_found)) {
        (Some(why_not), _) => preview.outcome = format!("no request: {why_not}"),
        (None, None) => {}
        (None, Some(id)) => {
            // Strings and structs of strings always serialise.
            let body = serde_json::to_value(translated.for_customer(&id)).unwrap_or_default();
            preview.differences = differences(last_sent.map(|(_, body)| body), &body);
            preview.outcome = sent(found_by, events.len() - 1);
            let path = format!("/v1/customers/{id}");
            preview.request = Some(PreviewedRequest { method: "PUT".to_owned(), path, body });
        }
    }
    preview
}

fn sent(found_by: FoundBy, others: usize) -> String {
    let sent = match found_by {
        FoundBy::LookupNeeded => {
            "the customer would be looked up by its e-mail; if FlexPortal knows it, this would be sent"
        }
        FoundBy::Event | FoundBy::Link | FoundBy::Unknown => "this would be sent",
    };
    match others {
        0 => sent.to_owned(),
        1 => format!("{sent}, together with what another waiting change says"),
        others => format!("{sent}, together with what {others} other waiting changes say"),
    }
}

/// Field by field, what was last sent against what would be; fields that are not sent stay as they are.
fn differences(before: Option<&Value>, after: &Value) -> Vec<Difference> {
    let Some(after) = after.as_object() else { return vec![] };
    let before = |field: &str| before.and_then(|body| body.get(field)).cloned();
    after
        .iter()
        .filter(|(field, _)| *field != "customerId")
        .filter(|(field, value)| before(field).as_ref() != Some(value))
        .map(|(field, value)| Difference { field: field.clone(), before: before(field), after: Some(value.clone()) })
        .collect()
}

/// A change that was never stored: newer than all that arrived.
#[must_use]
pub fn not_stored(
    topic: String,
    payload: String,
    occurred_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> WaitingEvent {
    WaitingEvent {
        id: EventId(uuid::Uuid::max()),
        topic,
        payload,
        occurred_at: occurred_at.unwrap_or(now),
        triggered_at: None,
        received_at: now,
        is_unmatched: false,
        attempts: 0,
        forgiven_attempts: 0,
        failing: None,
        traceparent: None,
    }
}
