//! A customer's story in time order: received, delivered again, tried, answered, settled, waiting, each with its cause.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::explain::{explain, is_open, waiting};
use crate::domain::{EventId, EventStatus, ShopCustomerId, SourceName, counted};
use crate::outbox::{CustomerHistory, CustomerState, InspectError, Outbox, RequestMade};

/// A customer and its story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomerStory {
    /// Where it stands.
    #[serde(flatten)]
    pub state: CustomerState,
    /// What happened, oldest first.
    pub story: Vec<StoryStep>,
    /// Whether there are older events, which the story leaves out.
    pub has_older_events: bool,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoryStep {
    /// When.
    pub at: DateTime<Utc>,
    /// The event it happened to, if it was one.
    pub event_id: Option<EventId>,
    /// What kind of thing.
    pub step: Step,
    /// What, and why, in plain words.
    pub text: String,
}

/// What can happen; of what happened at the same time, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// A delivery was stored.
    Received,
    /// It came again.
    Duplicate,
    /// FlexPortal was asked.
    Tried,
    /// An event got its last word.
    Settled,
    /// A newer event spoke for it.
    Superseded,
    /// A person, or the shop, intervened.
    Intervention,
    /// What is still to come.
    Waiting,
}

/// A customer's story; `None` if nothing is stored of it.
///
/// # Errors
/// [`InspectError`].
pub async fn customer_story(
    outbox: &Outbox,
    source: &SourceName,
    customer: &ShopCustomerId,
) -> Result<Option<CustomerStory>, InspectError> {
    let history = outbox.customer_history(source, customer).await?;
    Ok(history.map(|history| CustomerStory {
        story: story(&history),
        has_older_events: history.has_older,
        state: history.state,
    }))
}

/// Tells what happened.
#[must_use]
pub fn story(history: &CustomerHistory) -> Vec<StoryStep> {
    let mut steps = Vec::new();
    let mut tell = |at, event_id, step, text| steps.push(StoryStep { at, event_id, step, text });
    for event in &history.events {
        let id = Some(event.event_id);
        let in_shop = (event.occurred_at != event.received_at)
            .then(|| format!("; it happened in the shop at {}", event.occurred_at.format("%Y-%m-%d %H:%M:%S UTC")));
        let text = format!("`{}` arrived{}", event.topic, in_shop.unwrap_or_default());
        tell(event.received_at, id, Step::Received, text);
        if let Some(at) = event.finished_at {
            let step = if event.status == EventStatus::Superseded { Step::Superseded } else { Step::Settled };
            let has_warnings = event.status != EventStatus::Discarded && !event.warnings.is_empty();
            let warnings = has_warnings.then(|| format!(" (warnings: {})", event.warnings.join("; ")));
            // What the last request met is told by its own step.
            let is_told =
                history.requests.iter().any(|made| made.event_id == event.event_id && made.error == event.error);
            let explained = if event.status == EventStatus::Failed && is_told {
                format!("given up after {}", counted(i64::from(event.attempts), "attempt"))
            } else {
                explain(event, None)
            };
            let text = format!("{}: {explained}{}", event.status, warnings.unwrap_or_default());
            tell(at, id, step, text);
        }
    }
    for duplicate in &history.duplicates {
        let times = if duplicate.deliveries == 1 {
            "once more".to_owned()
        } else {
            format!("{} more times", duplicate.deliveries)
        };
        let text = format!("the shop delivered it {times}; that was answered `duplicate` and changes nothing");
        tell(duplicate.last_at, Some(duplicate.event), Step::Duplicate, text);
    }
    for request in &history.requests {
        tell(request.started_at, Some(request.event_id), Step::Tried, tried(request));
    }
    for intervention in &history.interventions {
        let reason = intervention.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let text = format!("{} by {}{reason}: {}", intervention.action, intervention.done_by, intervention.outcome);
        tell(intervention.at, intervention.event_id, Step::Intervention, text);
    }
    let open = history.events.iter().filter(|event| is_open(event));
    let changes =
        open.clone().filter(|event| matches!(event.status, EventStatus::Pending | EventStatus::InFlight)).count();
    if let Some(place) = &history.place {
        // Nothing that waits is newer than its arrival.
        let newest = open.max_by_key(|event| event.event_id);
        let text = match newest.filter(|event| event.status == EventStatus::Unmatched) {
            Some(event) => explain(event, Some(place)),
            None => format!("{}: {}", counted(i64::try_from(changes).unwrap_or(i64::MAX), "change"), waiting(place)),
        };
        tell(place.now, newest.map(|event| event.event_id), Step::Waiting, text);
    }
    steps.sort_by_key(|step| (step.at, step.event_id, step.step));
    steps
}

fn tried(request: &RequestMade) -> String {
    let what = match request.operation.as_str() {
        "find_by_email" => "FlexPortal was asked for the customer by its e-mail",
        _ => "the change was sent to FlexPortal",
    };
    let answer = match (request.http_status, &request.error) {
        (Some(status), Some(error)) => format!("answered {status}: {error}"),
        (Some(status), None) => format!("answered {status}"),
        (None, Some(error)) => error.clone(),
        (None, None) => "no answer was recorded".to_owned(),
    };
    format!("attempt {}: {what}; {answer} (after {} ms)", request.attempt, request.duration_ms)
}
