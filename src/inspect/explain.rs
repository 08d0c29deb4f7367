//! What became of an event, in a sentence.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{EventId, EventStatus, ShopCustomerId, counted};
use crate::outbox::{EventDetail, EventSummary, InspectError, MAX_AHEAD, Outbox, QueuePlace};

/// An event with all that is known of it, and what that means.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedEvent {
    /// All that is known.
    #[serde(flatten)]
    pub detail: EventDetail,
    /// What became of it, in plain words.
    pub explanation: String,
}

/// One event, explained; `None` if there is no such event.
///
/// # Errors
/// [`InspectError`].
pub async fn explained_event(outbox: &Outbox, event: EventId) -> Result<Option<ExplainedEvent>, InspectError> {
    let Some(detail) = outbox.event(event).await? else { return Ok(None) };
    let customer = detail.summary.shop_customer_id.clone().and_then(|id| ShopCustomerId::parse(id).ok());
    let place = match customer.filter(|_| is_open(&detail.summary)) {
        Some(customer) => outbox.place_of(&detail.summary.source, &customer).await?,
        None => None,
    };
    let explanation = explain(&detail.summary, place.as_ref());
    Ok(Some(ExplainedEvent { detail, explanation }))
}

pub(super) fn is_open(event: &EventSummary) -> bool {
    event.finished_at.is_none()
}

/// What became of an event; `place` is its customer's place in the queue.
#[must_use]
pub fn explain(event: &EventSummary, place: Option<&QueuePlace>) -> String {
    match event.status {
        EventStatus::Pending | EventStatus::InFlight => match place {
            Some(place) => {
                let before = event.error.as_deref().map(|error| format!("; the last attempt met: {error}"));
                format!("{}{}", waiting(place), before.unwrap_or_default())
            }
            None if event.topic == "customers/data_request" => {
                "a person has to answer it: flexportal-sync export prints what is held; then close it with failures \
                 discard"
                    .to_owned()
            }
            None => "waits to be acted on".to_owned(),
        },
        EventStatus::Synced => "FlexPortal acknowledged it".to_owned(),
        EventStatus::Superseded => match (event.superseded_by, &event.flexportal_customer_id) {
            (Some(newer), Some(_)) if event.error.is_none() => format!("went out as part of the newer event {newer}"),
            (Some(newer), _) => {
                format!("the newer event {newer} speaks for all of its fields: this one is not sent any more")
            }
            (None, _) => "a newer event speaks for all of its fields: this one is not sent any more".to_owned(),
        },
        EventStatus::Unchanged if event.shop_customer_id.is_none() || event.topic.ends_with("/redact") => {
            format!("acted on: {}", event.warnings.join("; "))
        }
        EventStatus::Unchanged => {
            "not sent: it says nothing that FlexPortal is sent, or FlexPortal had all of it already".to_owned()
        }
        EventStatus::Unmatched => {
            let why = event.error.as_deref().unwrap_or("FlexPortal knows no such customer (yet)");
            match event.next_attempt_at.filter(|_| is_open(event)) {
                Some(at) => format!("{why}; looked for again at {}", at.format("%Y-%m-%d %H:%M:%S UTC")),
                None => format!("{why}; given up after UNMATCHED_MAX_AGE"),
            }
        }
        EventStatus::Failed if event.topic.ends_with("/redact") => {
            event.error.clone().unwrap_or_else(|| "a person has to decide".to_owned())
        }
        EventStatus::Failed => {
            let error = event.error.as_deref().unwrap_or("no reason was recorded");
            format!("given up after {}: {error}", counted(i64::from(event.attempts), "attempt"))
        }
        EventStatus::Discarded if event.error_code.as_deref() == Some("ERASED") => {
            "closed when the customer's data was erased; it is never sent".to_owned()
        }
        EventStatus::Discarded => "closed by a person; it is not sent".to_owned(),
        EventStatus::Held => {
            let shop = event.shop.as_deref().unwrap_or("a shop");
            format!(
                "{shop} spoke, which is not the shop of this source: it waits for flexportal-sync sources accept, or ignore"
            )
        }
    }
}

/// Why a customer in the queue waits.
pub(super) fn waiting(place: &QueuePlace) -> String {
    let until = |at: chrono::DateTime<chrono::Utc>| span((at - place.now).to_std().unwrap_or_default());
    if place.is_claimed {
        return "a worker is at it".to_owned();
    }
    // What ends by a probe is a pause until the probe has got through.
    if let Some((reason, held_until)) =
        place.hold.filter(|(reason, until)| *until > place.now || !reason.ends_by_itself())
    {
        return format!(
            "waits for the target `{}`, which is paused for {} at least: {}",
            place.target,
            until(held_until),
            reason.explanation()
        );
    }
    if let Some(rests_until) = place.rests_until {
        return format!("waits {}: a request that timed out may still arrive at FlexPortal", until(rests_until));
    }
    if place.due_at > place.now {
        return format!("waits for its next attempt, in {}", until(place.due_at));
    }
    let ahead = match place.ahead {
        0 => "waits for its turn: it is the next".to_owned(),
        MAX_AHEAD.. => format!("waits for its turn, behind {MAX_AHEAD} customers or more"),
        ahead => format!("waits for its turn, behind {}", counted(ahead, "customer")),
    };
    let ahead = match place.is_restless_until {
        Some(until_then) => format!(
            "{ahead}; it has just changed, and for {} others go first, so that one request says all that may come",
            until(until_then)
        ),
        None => ahead,
    };
    match place.rate_limit_per_minute.and_then(|limit| u32::try_from(limit).ok()).filter(|limit| *limit > 0) {
        Some(limit) => {
            let seconds = u64::try_from(place.ahead).unwrap_or(0).saturating_mul(60) / u64::from(limit);
            format!(
                "{ahead}; the quota of {limit} requests a minute lets it out in about {}",
                span(Duration::from_secs(seconds))
            )
        }
        None => ahead,
    }
}

/// A time as people say it, in two units at most: `3 min 20 s`.
#[must_use]
pub fn span(time: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let whole = time.as_secs();
    let Some(first) = UNITS.iter().position(|(unit, _)| whole >= *unit) else { return "0 s".to_owned() };
    let (unit, name) = UNITS[first];
    let head = format!("{} {name}", whole / unit);
    match UNITS.get(first + 1) {
        Some((smaller, name)) if whole % unit / smaller > 0 => format!("{head} {} {name}", whole % unit / smaller),
        _ => head,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_two_units_at_most() {
        for (seconds, expected) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (200, "3 min 20 s"), (3_600, "1 h"), (90_061, "1 d 1 h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), expected);
        }
    }
}
